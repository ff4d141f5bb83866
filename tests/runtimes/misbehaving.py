"""Run functions that go wrong; worker processes import this file by its name."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np


def crash(artifact: bytes, inputs: np.ndarray) -> np.ndarray:
    sys.stderr.write("about to fall over\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGSEGV)
    return inputs


def crash_on_marked_sample(artifact: bytes, inputs: np.ndarray) -> np.ndarray:
    if (inputs[:, 0] == 99).any():
        os.kill(os.getpid(), signal.SIGABRT)
    return np.zeros((len(inputs), 3), np.int8)


def vanish(artifact: bytes, inputs: np.ndarray) -> np.ndarray:
    os._exit(0)


def hang(artifact: bytes, inputs: np.ndarray) -> np.ndarray:
    Path(os.environ["PID_FILE"]).write_text(str(os.getpid()))
    time.sleep(600)
    return inputs


def raises(artifact: bytes, inputs: np.ndarray) -> np.ndarray:
    raise RuntimeError("no kernel\nfor this op")


def missing_import(artifact: bytes, inputs: np.ndarray) -> np.ndarray:
    import a_package_that_nobody_has  # noqa: F401

    return inputs


def wrong_dtype(artifact: bytes, inputs: np.ndarray) -> np.ndarray:
    return inputs.astype(np.float32)


def too_few(artifact: bytes, inputs: np.ndarray) -> np.ndarray:
    return inputs[:-1]


def echo(artifact: bytes, inputs: np.ndarray) -> np.ndarray:
    return inputs + np.int8(len(artifact))


def process_id(artifact: bytes, inputs: np.ndarray) -> np.ndarray:
    digits = np.array(divmod(os.getpid() % 10000, 100), np.int8)
    return np.tile(digits, (len(inputs), 1))
