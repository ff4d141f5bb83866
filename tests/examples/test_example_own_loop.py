"""Both loops of examples/own_loop run as a user runs them, for fewer epochs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
from example_modules import EXAMPLES, load_example


@pytest.mark.parametrize("name", ["plain.py", "with_lightning.py"])
def test_an_own_loop_saves_a_model_within_its_budget(tmp_path: Path, name: str) -> None:
    for folder in ("digits", "own_loop"):
        shutil.copytree(EXAMPLES / folder, tmp_path / folder, ignore=shutil.ignore_patterns("build", "*.st"))
    model = load_example("digits", "model").model.build()
    safetensors.torch.save_file(model.state_dict(), tmp_path / "digits/float.safetensors")
    script = tmp_path / "own_loop" / name
    shortened, count = re.subn(
        r"^EPOCHS, BATCH(.*) = 20, 32", r"EPOCHS, BATCH\1 = 2, 64", script.read_text(), flags=re.M
    )
    assert count == 1
    script.write_text(shortened)
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    with safetensors.safe_open(tmp_path / "digits/own.safetensors", "pt") as file:
        assert '"bytes"' in file.metadata()["sgsc.plan"]
