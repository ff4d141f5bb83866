"""Build folders of the certification tests serve here too."""

import sys
from pathlib import Path

for name in ("certification", "runtimes"):
    sys.path.insert(0, str(Path(__file__).parents[1] / name))
