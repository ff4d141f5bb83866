"""What is installed, what is missing, what for, and how to mend it.

It must run where nothing else does. So every part is examined by itself, heavy packages are looked up and not
imported, and what cannot be examined is a finding, too.
"""

from sgsc_edge.doctor.diagnosis import Diagnosis, diagnose
from sgsc_edge.doctor.finding import Finding, State

__all__ = ["Diagnosis", "Finding", "State", "diagnose"]
