"""What a model takes of a chip: exact where code says it, near where it is estimated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from c_code.networks import NETWORKS, Builder
from certification.build_folders import write_folder
from firmware.built import VIRTUAL, any_compiler
from hypothesis import given, settings
from hypothesis import strategies as st

from sgsc_edge import api
from sgsc_edge.artifacts import sources_hash
from sgsc_edge.boards.description import UNICORN_CPUS, load_board
from sgsc_edge.boards.faults import Faults
from sgsc_edge.boards.link import Link
from sgsc_edge.boards.virtual import VirtualBoard
from sgsc_edge.c_code.write import c_code
from sgsc_edge.errors import ConfigError, ToolchainError
from sgsc_edge.firmware.chip import Chip
from sgsc_edge.firmware.image import build_image
from sgsc_edge.firmware.package import read_package
from sgsc_edge.firmware.toolchain import KINDS, find_toolchain
from sgsc_edge.footprint import Footprint, compiler_for, excesses, footprint, require_fit, verdict
from sgsc_edge.footprint import costs as table
from sgsc_edge.footprint.costs import kernels_of
from sgsc_edge.footprint.linking import link, write_code
from sgsc_edge.footprint.rounds import _ROUNDS

M4 = load_board("virtual-cortex-m4").chip
# Instructions of networks that the table was not fitted to, and bytes of code.
INSTRUCTIONS, CODE = 0.15, 0.35


def estimate(name: str, chip: Chip = M4) -> Footprint:
    return footprint(NETWORKS[name], chip, model=name, board="b", compiler=None)


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_add_up_to_the_code(name: str) -> None:
    code = c_code(NETWORKS[name], name="m", model_hash="0" * 64)
    found = estimate(name)
    assert sum(layer.constant_bytes for layer in found.layers) == code.constant_bytes == found.flash.weights
    assert found.ram.arena == code.arena.size
    assert found.fullest is not None
    assert max(layer.arena_bytes for layer in found.layers) == code.arena.bound == found.fullest.arena_bytes
    for layer in found.layers:
        assert 0 <= layer.arena_bytes - sum(value.bytes for value in layer.values) <= 3 * len(layer.values)
        assert len({value.name for value in layer.values}) == len(layer.values)


def test_values_that_are_alive_are_named() -> None:
    b = Builder(1, 4, 4, 2)
    first = b.conv("x", 3)
    second = b.conv(first, 5)
    third = b.add(second, second)
    graph = b.graph(b.concat(third, first))
    found = footprint(graph, M4, model="m", board="b", compiler=None)
    named = {layer.name: [(value.name, value.bytes) for value in layer.values] for layer in found.layers}
    assert named[first] == [(first, 48)]
    assert named[second] == [(second, 80), (first, 48)]
    assert named[third] == [(third, 80), (first, 48)]  # in the place of its operand


def test_what_a_kernel_needs_for_itself_counts() -> None:
    stored, learned = (
        footprint(NETWORKS["residual"], M4, model="m", board="b", compiler=None, learned=learned)
        for learned in (False, True)
    )
    assert learned.layers[0].arena_bytes == stored.layers[0].arena_bytes + 28  # a filter of 27 weights


@pytest.mark.parametrize(
    ("name", "board"),
    [
        *((name, "virtual-cortex-m4") for name in NETWORKS if name != "residual"),
        *(("residual", board) for board in VIRTUAL if board != "virtual-cortex-m4"),
    ],
)
def test_estimates_are_near_what_is_counted(name: str, board: str) -> None:
    chip = load_board(board).chip
    compiler = find_toolchain(chip, any_compiler())
    code = write_code(NETWORKS[name], "m")
    image = link(code, chip, compiler)
    device = VirtualBoard(image, chip, counted="sgsc_m_invoke")
    host = Link(device, code.output_bytes, timeout_s=60, attempts=1, faults=Faults(image, chip))
    host.run(np.random.default_rng(0).bytes(code.input_bytes))
    costs = table.costs_of(chip, compiler.kind)
    assert costs is not None
    each = map(costs.instructions_of, code.calls, kernels_of(code.calls))
    assert sum(count or 0 for count in each) == pytest.approx(device.instructions, rel=INSTRUCTIONS)
    assert costs.code_bytes(code.calls) == pytest.approx(image.sizes.code, rel=CODE)
    assert host.stack().total <= costs.parts[table.STACK]


def test_an_estimate_is_near_the_linked_image(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = find_toolchain(M4, any_compiler())
    monkeypatch.setattr("sgsc_edge.footprint.measure.KINDS", (compiler.kind,))
    linked = footprint(NETWORKS["residual"], M4, model="residual", board="b", compiler=compiler)
    estimated = estimate("residual")
    assert (linked.how, estimated.how) == ("linked", "estimated")
    assert estimated.flash.total == pytest.approx(linked.flash.total, rel=0.1)
    assert estimated.ram.total == pytest.approx(linked.ram.total, abs=16)
    assert estimated.layers == linked.layers


@pytest.mark.parametrize("name", ["virtual-cortex-m4", "qemu-mps2-an386-uart"])
def test_a_build_takes_what_flash_would_write(name: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "build")
    board = load_board(name)
    found = api.fit(folder, name, toolchain=any_compiler())
    api.package(folder, out=tmp_path / "package")
    compiler = find_toolchain(board.chip, any_compiler())
    image = build_image(read_package(tmp_path / "package"), board.chip, compiler, board.link)
    sizes = image.sizes
    assert found.flash.total == sizes.flash
    assert (found.flash.code, found.flash.weights) == (sizes.code, sizes.weights)
    assert found.ram.total == sizes.ram + sizes.stack
    assert found.compiler == compiler.version


# --- the table ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("core", sorted({*UNICORN_CPUS, *(core for core, _ in table.all_costs())}))
def test_the_table_has_every_kernel(core: str, kind: str) -> None:
    costs = table.all_costs()[core, kind]
    kernels = {name for name, _ in costs.code}
    assert kernels >= {*_ROUNDS, "fill", "limit", "quantize", "dequantize"}
    assert set(costs.instructions) == (set(costs.code) if core in UNICORN_CPUS else set())
    assert (table.STACK in costs.parts) == (core in UNICORN_CPUS)


def test_a_core_without_its_fpu_computes_as_one_that_has_none() -> None:
    hard, soft = (table.costs_of(M4.model_copy(update={"fpu": fpu}), "gcc") for fpu in (True, False))
    m3 = table.costs_of(load_board("virtual-cortex-m3").chip, "gcc")
    assert hard is not None
    assert soft is not None
    assert m3 is not None
    for kernel in hard.code:
        other = m3 if kernel[0] in ("quantize", "dequantize") else hard
        assert soft.instructions[kernel] == other.instructions[kernel]


def test_a_core_that_is_not_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "all_costs", dict)
    with pytest.raises(ToolchainError, match=r"no compiler for cortex-m4 here") as caught:
        estimate("residual")
    assert "sgsc-edge[device]" in str(caught.value)
    compiler = find_toolchain(M4, any_compiler())
    found = footprint(NETWORKS["residual"], M4, model="m", board="b", compiler=compiler)
    assert (found.instructions, found.stack) == (None, None)
    assert not excesses(found)


def test_without_a_compiler_sizes_are_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise ToolchainError("there is none")

    monkeypatch.setattr("sgsc_edge.footprint.linking.find_toolchain", none)
    assert compiler_for(M4) is None
    with pytest.raises(ToolchainError, match="there is none"):
        compiler_for(M4, "zig")


def test_an_image_that_cannot_be_read_is_not_linked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert compiler_for(M4) is None
    with pytest.raises(ToolchainError, match="pyelftools is not installed"):
        compiler_for(M4, any_compiler())


def test_other_c_code_is_another_hash(tmp_path: Path) -> None:
    for name, text in (("a.c", "1"), ("a.py", "1"), ("b.h", "2")):
        (tmp_path / name).write_text(text)
    before = [sources_hash(tmp_path, patterns) for patterns in (("*.py",), ("*.c", "*.h"))]
    (tmp_path / "b.h").write_text("3")
    after = [sources_hash(tmp_path, patterns) for patterns in (("*.py",), ("*.c", "*.h"))]
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)


# --- limits ---------------------------------------------------------------------------------------


def on(found: Footprint, **sizes: int) -> Footprint:
    """The same on a chip of other sizes."""
    chip = found.chip
    memory = {
        name: getattr(chip, name).model_copy(update={"size": sizes[name]})
        for name in ("flash", "ram")
        if name in sizes
    }
    others = {name: size for name, size in sizes.items() if name not in memory}
    return replace(found, chip=chip.model_copy(update=memory | others))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(over=st.integers(-3000, 3000), limit=st.sampled_from(["flash", "ram"]))
def test_a_limit_is_broken_from_its_first_byte_on(over: int, limit: str) -> None:
    found = estimate("residual")
    taken = found.flash.total if limit == "flash" else found.ram.total
    tight = on(found, **{limit: taken - over})
    broken = excesses(tight)
    assert bool(broken) == (over > 0)
    assert verdict(tight).startswith("does not fit b: " if broken else "fits b: ")
    if broken:
        (excess,) = broken
        assert excess.bytes == over
        assert f"{over:,} more than the {taken - over:,} there are" in excess.message


def test_what_breaks_a_limit_is_named() -> None:
    found = estimate("residual")
    flash, ram = excesses(on(found, flash=found.flash.total - 100, ram=found.ram.total - 100))
    by_weights = sorted(found.layers, key=lambda layer: -layer.constant_bytes)
    assert flash.layers == tuple(layer.name for layer in by_weights[:3])
    assert f"'{by_weights[0].name}' {by_weights[0].constant_bytes:,}" in flash.message
    assert "100 bytes smaller (compress.budget" in flash.remedy
    assert found.fullest is not None
    assert ram.layers == (found.fullest.name,)
    assert all(f"{value.name} {value.bytes:,}" in ram.message for value in found.fullest.values)


def test_what_no_layer_can_mend_is_said_so() -> None:
    found = estimate("residual")
    flash, ram = excesses(on(found, flash=1024, ram=1024))
    assert "what is no weight is too large alone" in flash.remedy
    assert (ram.layers, "make the input or chip.stack smaller" in ram.remedy) == ((), True)


def test_a_small_stack_is_a_limit_too() -> None:
    found = estimate("residual")
    assert found.stack is not None
    assert not excesses(on(found, stack=found.stack))
    (excess,) = excesses(on(found, stack=found.stack - 8))
    assert (excess.limit, excess.bytes) == ("stack", 8)
    with pytest.raises(ConfigError, match="8 more than the") as caught:
        require_fit(on(found, stack=found.stack - 8))
    assert caught.value.where == "board 'b'"
    assert f"chip.stack in the board file to {found.stack}" in str(caught.value)


# --- sources --------------------------------------------------------------------------------------


def test_a_target_is_for_projects(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "build")
    with pytest.raises(ConfigError, match="a target is for projects"):
        api.fit(folder / "model.tflite", "virtual-cortex-m4", target="tflite-int8")
