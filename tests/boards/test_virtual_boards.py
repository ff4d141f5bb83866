"""Virtual boards: equal integers on every core, exact counts, and traps that name function and address."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from c_code.networks import NETWORKS
from firmware.built import EVERY_COMPILER, PACKAGES, VIRTUAL, dense, faults, image, package, samples
from hypothesis import given, settings
from hypothesis import strategies as st
from unicorn import UC_HOOK_CODE, Uc, arm_const

from sgsc_edge.boards.description import load_board
from sgsc_edge.boards.link import ERROR, Decoder, Frame, Link, encode
from sgsc_edge.boards.run import BoardRun, check_written, run_image, run_package
from sgsc_edge.boards.virtual import VirtualBoard
from sgsc_edge.errors import BoardError, DataError, LinkError, TrapError
from sgsc_edge.firmware.toolchain import Kind
from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import DType, Graph, Node, Quantization, Tensor
from sgsc_edge.graph.write_tflite import write_tflite
from sgsc_edge.packaging import package_c_code, read_source

# The ways of the package `traps`, by its first input.
WAYS = [
    *("good", "far_load", "far_store", "flash_store", "large_frame", "hang", "run_data", "run_nothing"),
    *("undefined", "unaligned_load", "unaligned_pair", "supervisor", "shell", "timer", "wide_frame"),
    "remember",
]
RECURSION = -1


def started(name: str, board: str) -> tuple[VirtualBoard, Link]:
    built = image(name, board)
    device = VirtualBoard(built, load_board(board).chip)
    link = Link(device, package(name).output_bytes, timeout_s=5.0, attempts=1, faults=faults(name, board))
    return device, link


def ask(way: int, *numbers: int) -> bytes:
    return struct.pack("8b", way, *numbers, *[0] * (7 - len(numbers)))


@pytest.mark.parametrize("kind", EVERY_COMPILER)
@pytest.mark.parametrize("name", VIRTUAL)
def test_every_core_computes_the_same_integers(name: str, kind: Kind) -> None:
    inputs = samples(20)
    run = run_image(image("dense", name, kind), package("dense"), load_board(name), inputs, toolchain="any")
    np.testing.assert_array_equal(run.outputs, dense(inputs))
    assert run.selftest == 0
    assert run.instructions is not None
    assert 160 < run.instructions < 5000  # at least one a multiplication
    assert 0 < run.stack.inference < run.stack.total < 1024


def test_instructions_are_those_that_a_hook_on_each_of_them_sees() -> None:
    """The same inference once more, counted one instruction at a time."""
    name, data = "virtual-cortex-m4", samples(1)
    built = image("dense", name)
    board = load_board(name)
    run = run_image(built, package("dense"), board, data, toolchain="any")
    device, link = started("dense", name)
    entry = built.address_of("sgsc_dense_invoke")
    count, back = 0, 0

    def on_instruction(machine: Uc, address: int, _size: int, _: object) -> None:
        nonlocal count, back
        if address == entry:
            back = machine.reg_read(arm_const.UC_ARM_REG_LR) & ~1
        elif address == back:
            back = 0
        count += back != 0

    device._uc.hook_add(UC_HOOK_CODE, on_instruction)
    link.run(data[0].tobytes())
    assert run.instructions == count > 160


def test_a_package_runs_from_its_folder(tmp_path: Path) -> None:
    inputs = samples(3)
    run = run_package(PACKAGES / "dense", load_board("virtual-cortex-m3"), inputs)
    assert isinstance(run, BoardRun)
    np.testing.assert_array_equal(run.outputs, dense(inputs))
    assert run.image_sha256 == image("dense", "virtual-cortex-m3").sha256


# --- traps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("board", ["virtual-cortex-m0plus", "virtual-cortex-m4", "virtual-cortex-m33"])
@pytest.mark.parametrize(
    ("way", "kind", "address"),
    [
        ("far_load", "read outside memory", 0xA0000000),
        ("far_store", "write outside memory", 0xA0000010),
        ("run_nothing", "jump outside memory", 0x90000000),
        ("undefined", "undefined instruction", None),
        ("supervisor", "supervisor call", None),
        ("shell", "semihosting call 0x12", None),
        ("timer", "write of a system register that the virtual board lacks (0xe000e010)", None),
    ],
)
def test_a_trap_names_what_where_and_which_function(
    board: str, way: str, kind: str, address: int | None
) -> None:
    _, link = started("traps", board)
    assert link.run(ask(0, 1, 2, 3)) == bytes([6] * 4)  # it works before
    with pytest.raises(TrapError) as raised:
        link.run(ask(WAYS.index(way)))
    trap = raised.value
    assert (trap.kind, trap.function, trap.address) == (kind, way, address)
    built = image("traps", board)
    assert trap.pc is not None
    assert trap.pc == address or built.function_at(trap.pc) == way
    assert way in str(trap)
    assert trap.exit_code == 4


@pytest.mark.parametrize("board", ["virtual-cortex-m0plus", "virtual-cortex-m4", "virtual-cortex-m33"])
def test_traps_whose_address_the_image_decides(board: str) -> None:
    chip = load_board(board).chip
    for way, kind, memory in (
        ("flash_store", "write to flash", chip.flash),
        ("run_data", "jump into data", chip.ram),
    ):
        with pytest.raises(TrapError, match=f"{kind} at address .* in {way}") as raised:
            started("traps", board)[1].run(ask(WAYS.index(way)))
        assert raised.value.address is not None
        assert memory.origin <= raised.value.address < memory.end


@pytest.mark.parametrize("board", ["virtual-cortex-m0plus", "virtual-cortex-m4", "virtual-cortex-m33"])
@pytest.mark.parametrize(
    ("way", "function"), [(RECURSION, "deep"), (WAYS.index("large_frame"), "large_frame")]
)
def test_a_stack_that_overflows_is_trapped(board: str, way: int, function: str) -> None:
    with pytest.raises(TrapError) as raised:
        started("traps", board)[1].run(ask(way))
    assert (raised.value.kind, raised.value.function) == ("stack overflow", function)


def test_a_hang_is_ended_and_named() -> None:
    name = "virtual-cortex-m4"
    device = VirtualBoard(image("traps", name), load_board(name).chip)
    link = Link(device, 4, timeout_s=0.3, attempts=1, faults=faults("traps", name))
    with pytest.raises(TrapError, match=r"no answer to RUN within 0\.3 s: it hangs") as raised:
        link.run(ask(WAYS.index("hang")))
    assert raised.value.function == "hang"


def test_what_the_emulator_does_not_trap_is_as_documented() -> None:
    """docs/boards.md says so: a real Cortex-M0+ would fault here."""
    for way in ("unaligned_load", "unaligned_pair"):
        assert started("traps", "virtual-cortex-m0plus")[1].run(ask(WAYS.index(way))) == bytes(4)


def test_the_high_water_mark_is_what_the_model_used() -> None:
    _, link = started("traps", "virtual-cortex-m4")
    link.run(ask(0))
    before = link.stack()
    link.run(ask(WAYS.index("wide_frame")))
    after = link.stack()
    assert before.inference < 100
    assert 1000 <= after.inference < 1100
    assert after.total >= after.inference
    link.run(ask(0))
    assert link.stack() == after


# --- what was written ---------------------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_board_reads_back_what_lies_in_its_flash(checked: Link, data: st.DataObject) -> None:
    (part, *_) = image("dense", "virtual-cortex-m0plus").segments
    start = data.draw(st.integers(0, len(part.data)))
    stop = data.draw(st.integers(start, len(part.data)))
    assert checked.check(start, stop - start) == zlib.crc32(part.data[start:stop])


@pytest.fixture(scope="module")
def checked() -> Link:
    return started("dense", "virtual-cortex-m0plus")[1]


def test_all_that_was_written_is_compared() -> None:
    built = image("dense", "virtual-cortex-m4")
    _, link = started("dense", "virtual-cortex-m4")
    assert check_written(link, built, load_board("virtual-cortex-m4")) == sum(
        len(part.data) for part in built.segments
    )
    whole = built.sizes.flash
    assert isinstance(link.check(0, whole), int)
    for offset, size in ((0, whole + 1), (whole + 1, 0), (2**32 - 1, 2), (1, 2**32 - 1)):
        with pytest.raises(LinkError, match="refused CHECK: its image is smaller"):
            link.check(offset, size)


def test_flash_that_differs_is_named() -> None:
    built = image("dense", "virtual-cortex-m4")
    device, link = started("dense", "virtual-cortex-m4")
    first, last = built.segments[0], built.segments[-1]
    assert last.data
    device._uc.mem_write(last.address + len(last.data) - 1, b"\x55")  # of the variables' first values
    with pytest.raises(BoardError, match=f"in 1 of 1 blocks of 256 bytes, .* {last.address:#010x}"):
        check_written(link, built, load_board("virtual-cortex-m4"))
    device._uc.mem_write(first.address + 300, b"\x55\xaa")
    with pytest.raises(BoardError, match=r"in 1 of \d+ blocks .* 0x00000100") as raised:
        check_written(link, built, load_board("virtual-cortex-m4"))
    assert raised.value.exit_code == 4


# --- what is refused ------------------------------------------------------------------------------


def test_a_model_that_remembers_is_found_out() -> None:
    name = "virtual-cortex-m4"
    inputs = np.frombuffer(ask(0) + ask(WAYS.index("remember")), np.int8).reshape(2, 8)
    with pytest.raises(BoardError, match="answered differently from reset and after others"):
        run_image(image("traps", name), package("traps"), load_board(name), inputs, toolchain="any")


def test_firmware_of_another_model_is_refused() -> None:
    name = "virtual-cortex-m4"
    other = replace(package("dense"), hash="ab" * 32)
    with pytest.raises(BoardError, match=re.escape("holds the model 1234567800000000 (16 bytes in, 10 out)")):
        run_image(image("dense", name), other, load_board(name), samples(1), toolchain="any")


def test_no_samples_and_samples_of_another_shape_are_refused() -> None:
    board = load_board("virtual-cortex-m4")
    for wrong in (samples(0), samples(1, 17), samples(1).astype(np.int16), samples(1)[0]):
        with pytest.raises(DataError):
            run_package(PACKAGES / "dense", board, wrong)


def test_the_firmware_refuses_what_it_does_not_know() -> None:
    device, _ = started("dense", "virtual-cortex-m4")
    link = Link(device, 10, timeout_s=5.0, attempts=1, faults=faults("dense", "virtual-cortex-m4"))
    with pytest.raises(LinkError, match="the payload has the wrong length"):
        link.run(bytes(15))
    device.write(encode(Frame(9, 1, b"")), 5.0)
    answer = b"".join(iter(lambda: device.read(5.0), b""))
    assert list(Decoder(10).feed(answer)) == [Frame(ERROR, 1, b"\x01\0\0\0")]
    assert link.run(bytes(16)) == dense(np.zeros((1, 16), np.int8)).tobytes()
    link.bye()
    with pytest.raises(LinkError, match="the firmware ended with exit code 0"):
        link.hello()


def test_values_of_several_types_lie_as_the_package_says(tmp_path: Path) -> None:
    """Three int8 in front of five float32: there are gaps in the structs on both ways."""
    tensors = {
        "x": Tensor("x", (1, 3), DType.INT8, Quantization.per_tensor(0.05, 0)),
        "f": Tensor("f", (1, 5), DType.FLOAT32),
        "q": Tensor("q", (1, 5), DType.INT8, Quantization.per_tensor(0.04, 5)),
        "r": Tensor("r", (1, 3), DType.INT8, Quantization.per_tensor(0.05, 1)),
        "d": Tensor("d", (1, 3), DType.FLOAT32),
    }
    nodes = (
        Node(ir.Quantize(), ("f",), ("q",)),
        Node(ir.Relu(), ("x",), ("r",)),
        Node(ir.Dequantize(), ("x",), ("d",)),
    )
    graph = Graph("gaps", tensors, nodes, ("x", "f"), ("q", "d", "r"))
    model = tmp_path / "gaps.tflite"
    model.write_bytes(write_tflite(graph))
    source = read_source(model)
    described = package_c_code(source, tmp_path / "c").description
    assert [(m["member"], m["offset"], m["bytes"]) for m in described["inputs"]] == [
        ("x", 0, 3),
        ("f", 4, 20),
    ]
    rows = np.zeros((8, described["input_bytes"]), np.int8)
    for member in described["inputs"]:
        data = source.inputs[member["tensor"]].reshape(8, -1).view(np.int8)
        rows[:, member["offset"] : member["offset"] + member["bytes"]] = data
    run = run_package(tmp_path / "c", load_board("virtual-cortex-m4"), rows)
    assert run.selftest == 0
    assert run.sizes.arena == 0
    for member in described["outputs"]:
        made = run.outputs[:, member["offset"] : member["offset"] + member["bytes"]]
        values = np.ascontiguousarray(made).view(member["type"])
        np.testing.assert_array_equal(values, source.outputs[member["tensor"]].reshape(8, -1))


def test_the_arena_of_an_image_is_the_models(tmp_path: Path) -> None:
    """Neither a self-test's output nor anything else of the package lies beside it."""
    model = tmp_path / "m.tflite"
    model.write_bytes(write_tflite(NETWORKS["mixed"]))
    source = read_source(model)
    described = package_c_code(source, tmp_path / "c").description
    rows = np.concatenate([values.reshape(len(values), -1) for values in source.inputs.values()], axis=1)
    run = run_package(tmp_path / "c", load_board("virtual-cortex-m4"), rows[:1])
    assert (run.selftest, described["selftest_samples"]) == (0, 8)
    assert run.sizes.arena == described["arena_bytes"]
