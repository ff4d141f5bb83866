"""Judges a compressed model: two gates, one certificate, recomputed from the build folder alone.

``certify`` (pure) turns recorded samples and runtime outputs into a certificate; ``verify_folder`` and
``certify_folder`` do the reading, running and writing around it.
"""

from sgsc_edge.certification.certificate import Certificate, read_certificate
from sgsc_edge.certification.certify import RuntimeRun, certify
from sgsc_edge.certification.informational import measure_test
from sgsc_edge.certification.policy import GatePolicy, Policy, RuntimePolicy, read_policy
from sgsc_edge.certification.records import CertificationContext, TestSummary, Verdict
from sgsc_edge.certification.samples import SampleSet
from sgsc_edge.certification.verify import certify_folder, check_runtime_names, verify_folder

__all__ = [
    "Certificate",
    "CertificationContext",
    "GatePolicy",
    "Policy",
    "RuntimePolicy",
    "RuntimeRun",
    "SampleSet",
    "TestSummary",
    "Verdict",
    "certify",
    "certify_folder",
    "check_runtime_names",
    "measure_test",
    "read_certificate",
    "read_policy",
    "verify_folder",
]
