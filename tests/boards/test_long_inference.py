"""An inference that takes long on a virtual board: nothing disturbs it from outside, and Ctrl-C ends it."""

from __future__ import annotations

import _thread
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from c_code.networks import Builder

from sgsc_edge.boards.description import load_board
from sgsc_edge.boards.link import RUN, SELFTEST
from sgsc_edge.boards.run import run_package
from sgsc_edge.boards.virtual import VirtualBoard
from sgsc_edge.graph import reference
from sgsc_edge.graph.write_tflite import write_tflite
from sgsc_edge.packaging import package_c_code, read_source

pytest.importorskip("unicorn")

BOARD = "virtual-cortex-m4"


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second's work: 13 million products."""
    network = Builder(1, 24, 24, 24)
    folder = tmp_path_factory.mktemp("long")
    (folder / "long.tflite").write_bytes(write_tflite(network.graph(network.conv("x", 24, 6))))
    return package_c_code(read_source(folder / "long.tflite"), folder / "package").folder


def test_long_inferences_give_the_executors_integers(packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-test, and counting, are given the time that they take: by how long an inference took."""
    limits: list[tuple[int, float]] = []
    write = VirtualBoard.write

    def recorded(board: VirtualBoard, data: bytes, timeout_s: float) -> None:
        limits.append((data[2], timeout_s))
        write(board, data, timeout_s)

    monkeypatch.setattr(VirtualBoard, "write", recorded)
    graph = read_source(packaged.parent / "long.tflite").graph
    inputs = np.random.default_rng(0).integers(-128, 128, (2, 24, 24, 24), np.int8)
    made = run_package(packaged, load_board(BOARD), inputs.reshape(2, -1), timeout_s=10.0)
    assert made.instructions is not None
    assert made.instructions > 40_000_000
    np.testing.assert_array_equal(made.outputs.reshape(2, -1), reference.run(graph, inputs).reshape(2, -1))
    (tested,) = (limit for kind, limit in limits if kind == SELFTEST)
    took = (tested - 10.0) / 16
    assert took > 0.01
    assert [limit for kind, limit in limits if kind == RUN] == [10.0] * 3 + [
        pytest.approx(max(10.0, 50 * took))
    ]


def test_ctrl_c_ends_it_at_once(packaged: Path) -> None:
    inputs = np.zeros((500, 24 * 24 * 24), np.int8)  # minutes
    run_package(packaged, load_board(BOARD), inputs[:1])  # what is compiled once, is
    started = time.monotonic()
    threading.Timer(3.0, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        run_package(packaged, load_board(BOARD), inputs)
    assert time.monotonic() - started < 60
