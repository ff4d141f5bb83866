"""The firmware as a program for Linux: the same integers, and signals reported like a chip's faults."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from firmware.built import dense, faults, image, needs, package, provoked, samples

from sgsc_edge.boards import linux
from sgsc_edge.boards.available import examine
from sgsc_edge.boards.description import load_board
from sgsc_edge.boards.link import Link
from sgsc_edge.boards.linux import LinuxBoard
from sgsc_edge.boards.run import run_image
from sgsc_edge.errors import BoardError, TrapError
from sgsc_edge.firmware.toolchain import KINDS, Kind

NAME = "linux-aarch64"
EVERY_COMPILER = [pytest.param(kind, marks=needs(NAME, kind)) for kind in KINDS]


@pytest.mark.parametrize("kind", EVERY_COMPILER)
def test_it_computes_the_same_integers(kind: Kind) -> None:
    inputs = samples(20)
    built = image("dense", NAME, kind)
    run = run_image(built, package("dense"), load_board(NAME), inputs, toolchain="any")
    np.testing.assert_array_equal(run.outputs, dense(inputs))
    assert (run.selftest, run.instructions) == (0, None)
    assert 0 < run.stack.inference < run.stack.total < 1024
    assert run.sizes.arena == 64
    assert 240 <= run.sizes.weights < 240 + 3 * 16  # gcc aligns arrays to 16
    assert run.verified == run.sizes.flash - run.sizes.data  # variables change where they lie


@pytest.mark.parametrize("kind", EVERY_COMPILER)
@pytest.mark.parametrize(
    ("way", "trap", "function"),
    [
        (-1, "stack overflow", "deep"),
        (1, "access outside memory", "far_load"),
        (3, "write to flash", "flash_store"),
        (6, "jump into data", "run_data"),
        (7, "jump outside memory", "run_nothing"),
        (8, "undefined instruction", "undefined"),
    ],
)
def test_a_signal_is_reported_with_what_and_where(kind: Kind, way: int, trap: str, function: str) -> None:
    raised = provoked(NAME, way, kind=kind)
    assert isinstance(raised, TrapError)
    assert (raised.kind, raised.function) == (trap, function)
    assert raised.pc is not None


@pytest.mark.parametrize("kind", EVERY_COMPILER)
def test_a_hang_is_ended_and_named(kind: Kind) -> None:
    hang = provoked(NAME, 5, kind=kind, timeout_s=0.5)
    assert isinstance(hang, TrapError)
    assert "no answer to RUN within 0.5 s: it hangs" in str(hang)
    assert hang.function == "hang"


@pytest.mark.needs("qemu-aarch64")
def test_a_program_that_was_ended_from_outside_says_by_which_signal() -> None:
    device = LinuxBoard(image("dense", NAME), NAME)
    try:
        link = Link(device, 10, timeout_s=60.0, attempts=1, faults=faults("dense", NAME))
        link.hello()
        device._process.send_signal(signal.SIGKILL)
        with pytest.raises(TrapError, match="ended by SIGKILL"):
            link.hello()
    finally:
        device.close()


def test_without_qemu_user_the_error_and_the_list_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built = image("dense", NAME)
    monkeypatch.setattr(linux.platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BoardError, match="apt install qemu-user") as raised:
        LinuxBoard(built, NAME)
    assert raised.value.exit_code == 4
    assert "apt install qemu-user" in examine(load_board(NAME)).missing


def test_a_machine_of_that_kind_runs_it_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux.platform, "machine", lambda: "aarch64")
    monkeypatch.setenv("PATH", "")
    assert linux._runner() == ()
    assert linux.missing() is None
