"""A worker that crashes, hangs, raises or lies becomes a row; none outlives the call."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import misbehaving
import numpy as np
import pytest

from sgsc_edge.errors import ConfigError, FileFormatError, InternalError
from sgsc_edge.runtimes import MODEL_TFLITE, RunResult, RuntimeSpec, Status, execute, run_runtime, specs

INPUTS = np.arange(80, dtype=np.int8).reshape(40, 2)


@pytest.fixture(autouse=True)
def _workers_find_this_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def spec(run, **changes) -> RuntimeSpec:
    return RuntimeSpec("probe", "a probe", MODEL_TFLITE, ("numpy",), run, **changes)


def test_outputs_come_back_in_order() -> None:
    result = execute(spec(misbehaving.echo), b"abc", INPUTS, timeout_s=60)
    assert result.status is Status.OK
    assert result.version == np.__version__
    assert np.array_equal(result.outputs, INPUTS + np.int8(3))


def test_slow_runtimes_share_the_samples_over_two_processes() -> None:
    inputs = np.arange(101 * 2).astype(np.int8).reshape(101, 2)
    echoed = execute(spec(misbehaving.echo, slow=True), b"abc", inputs, timeout_s=60, workers=2)
    assert np.array_equal(echoed.outputs, inputs + np.int8(3))
    pids = execute(spec(misbehaving.process_id, slow=True), b"", inputs, timeout_s=60, workers=2).outputs
    assert len(np.unique(pids[:51], axis=0)) == len(np.unique(pids[51:], axis=0)) == 1
    assert not np.array_equal(pids[50], pids[51])
    quick = execute(spec(misbehaving.process_id), b"", inputs, timeout_s=60, workers=2).outputs
    assert len(np.unique(quick, axis=0)) == 1


@pytest.mark.parametrize(
    ("run", "status", "words"),
    [
        (misbehaving.crash, Status.CRASHED, ("SIGSEGV", "about to fall over")),
        (misbehaving.vanish, Status.CRASHED, ("status 0", "no result")),
        (misbehaving.raises, Status.FAILED, ("RuntimeError: no kernel for this op",)),
        (misbehaving.missing_import, Status.FAILED, ("ModuleNotFoundError", "a_package_that_nobody_has")),
        (misbehaving.wrong_dtype, Status.FAILED, ("outputs are float32[40, 2]", "int8")),
        (misbehaving.too_few, Status.FAILED, ("outputs are int8[39, 2]",)),
    ],
)
def test_what_goes_wrong_is_a_row(run, status: Status, words: tuple[str, ...]) -> None:
    result = execute(spec(run), b"", INPUTS, timeout_s=60)
    assert result.status is status
    assert result.outputs is None
    assert all(word in result.reason for word in words), result.reason


def test_one_crashed_worker_of_two_spoils_the_run() -> None:
    inputs = np.zeros((100, 2), np.int8)
    inputs[99, 0] = 99
    result = execute(
        spec(misbehaving.crash_on_marked_sample, slow=True), b"", inputs, timeout_s=60, workers=2
    )
    assert result.status is Status.CRASHED
    assert "SIGABRT" in result.reason


def test_a_hang_is_killed_at_its_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid_file = tmp_path / "pid"
    monkeypatch.setenv("PID_FILE", str(pid_file))
    begun = time.monotonic()
    result = execute(spec(misbehaving.hang), b"", INPUTS, timeout_s=5)
    assert result.status is Status.TIMEOUT
    assert "5 s" in result.reason
    assert 5 <= time.monotonic() - begun < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_an_interrupt_leaves_no_worker_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid_file = tmp_path / "pid"
    monkeypatch.setenv("PID_FILE", str(pid_file))

    def interrupt_once_it_runs() -> None:
        while not (pid_file.exists() and pid_file.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), 2)

    thread = threading.Thread(target=interrupt_once_it_runs, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        execute(spec(misbehaving.hang), b"", INPUTS, timeout_s=60)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_killed_parent_takes_its_workers_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid_file = tmp_path / "pid"
    monkeypatch.setenv("PID_FILE", str(pid_file))
    script = (
        "import misbehaving, numpy as np\n"
        "from sgsc_edge.runtimes import MODEL_TFLITE, RuntimeSpec, execute\n"
        "spec = RuntimeSpec('probe', '', MODEL_TFLITE, ('numpy',), misbehaving.hang)\n"
        "execute(spec, b'', np.zeros((4, 2), np.int8), timeout_s=60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    worker = Path("/proc") / pid_file.read_text()
    while worker.exists() and "State:\tZ" not in (worker / "status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_missing_package_is_not_run_and_says_what_to_install() -> None:
    absent = RuntimeSpec("probe", "", MODEL_TFLITE, ("a-package-that-nobody-has",), misbehaving.echo)
    result = execute(absent, b"", INPUTS, timeout_s=60)
    assert (result.status, result.version) == (Status.NOT_RUN, None)
    assert "pip install a-package-that-nobody-has" in result.reason


def test_no_samples_is_not_run() -> None:
    result = execute(spec(misbehaving.echo), b"", INPUTS[:0], timeout_s=60)
    assert (result.status, result.reason) == (Status.NOT_RUN, "no samples")


def test_another_python_may_hold_a_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SGSC_EDGE_PYTHON_PROBE", str(tmp_path / "no-such-python"))
    assert execute(spec(misbehaving.echo), b"", INPUTS, timeout_s=60).status is Status.NOT_RUN
    # A launcher that leaves a trace and becomes this Python: the variable is what decides.
    trace, launcher = tmp_path / "trace", tmp_path / "python"
    launcher.write_text(f'#!/bin/sh\necho used >> "{trace}"\nexec "{sys.executable}" "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("SGSC_EDGE_PYTHON_PROBE", str(launcher))
    result = execute(spec(misbehaving.echo), b"abc", INPUTS, timeout_s=60)
    assert np.array_equal(result.outputs, INPUTS + np.int8(3))
    assert result.version == np.__version__
    assert trace.read_text().split() == ["used", "used"]  # once for the version, once to run


def test_the_stand_in_runs_where_no_wheel_exists_and_is_labelled() -> None:
    import tiny_model

    elsewhere = RuntimeSpec(
        "probe",
        "",
        MODEL_TFLITE,
        ("a-package-that-nobody-has",),
        misbehaving.echo,
        platforms=(("nowhere", "none"),),
        stand_in="numpy",
    )
    inputs = tiny_model.samples(5)
    result = execute(elsewhere, tiny_model.tflite_bytes(), inputs, timeout_s=60)
    expected = execute(specs()["numpy"], tiny_model.tflite_bytes(), inputs, timeout_s=60)
    assert result.stand_in == "numpy"
    assert np.array_equal(result.outputs, expected.outputs)
    here = RuntimeSpec(
        "probe", "", MODEL_TFLITE, ("a-package-that-nobody-has",), misbehaving.echo, stand_in="numpy"
    )
    assert execute(here, tiny_model.tflite_bytes(), inputs, timeout_s=60).status is Status.NOT_RUN


def test_unknown_names_and_missing_files_are_the_users_input(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown runtime 'tflmm'"):
        run_runtime("tflmm", tmp_path / "model.tflite", INPUTS, timeout_s=1)
    with pytest.raises(FileFormatError, match="cannot be read"):
        run_runtime("tflm", tmp_path / "model.tflite", INPUTS, timeout_s=1)


def test_a_result_has_outputs_only_when_it_is_ok() -> None:
    with pytest.raises(InternalError):
        RunResult(Status.OK)
    with pytest.raises(InternalError):
        RunResult(Status.FAILED, outputs=INPUTS)
