"""Images: sizes by section, the same bytes every time, C that both compilers take, what does not fit."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from firmware.built import EVERY_COMPILER, PACKAGES, image, package
from hypothesis import given
from hypothesis import strategies as st

from sgsc_edge.boards.description import load_board
from sgsc_edge.errors import FileFormatError, ImageError, ToolchainError
from sgsc_edge.firmware.chip import Chip, Memory, Uart
from sgsc_edge.firmware.image import (
    BOARD_SOURCES,
    board_sources,
    build_image,
    check_fit,
    model_defines,
    read_image,
    uart_defines,
)
from sgsc_edge.firmware.package import read_package
from sgsc_edge.firmware.toolchain import KINDS, Kind, Toolchain, find_toolchain

M4 = load_board("virtual-cortex-m4").chip


@pytest.mark.parametrize("kind", EVERY_COMPILER)
def test_sizes_are_those_of_the_parts(kind: Kind) -> None:
    built = image("dense", "virtual-cortex-m4", kind)
    sizes = built.sizes
    assert sizes.weights == 10 * 16 + 10 * 4 + 10 * 4
    assert sizes.constants == 32  # the hash
    assert (sizes.arena, sizes.data) == (64, 4)
    assert sizes.ram >= 64 + 4 + 16 + 10
    assert 100 < sizes.code < 1000
    assert 1000 < sizes.board < 4000
    parts = sizes.board + sizes.code + sizes.constants + sizes.weights + sizes.data
    assert parts <= sizes.flash < parts + 6 * 8  # gaps of alignment
    assert sizes.stack == M4.stack
    assert all(0 <= part.address < part.address + len(part.data) <= sizes.flash for part in built.segments)


@pytest.mark.parametrize("kind", EVERY_COMPILER)
def test_two_builds_give_the_same_bytes(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "another place"
    shutil.copytree(PACKAGES / "dense", copy)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    again = build_image(read_package(copy), M4, find_toolchain(M4, kind))
    assert again.elf == image("dense", "virtual-cortex-m4", kind).elf


@pytest.mark.parametrize(
    ("kind", "board"),
    [
        pytest.param(kind, board, marks=pytest.mark.needs(load_board(board).chip.architecture.gcc))
        if kind == "gcc"
        else (kind, board)
        for kind in KINDS
        for board in ("virtual-cortex-m0plus", "virtual-cortex-m33", "qemu-riscv32", "linux-aarch64")
    ],
)
def test_our_c_has_no_warnings(kind: Kind, board: str, tmp_path: Path) -> None:
    shutil.copytree(BOARD_SOURCES, tmp_path / "board")
    shutil.copytree(PACKAGES / "dense", tmp_path / "package")
    chip = load_board(board).chip
    compiler = find_toolchain(chip, kind)
    # All in one: each file is its own world, so nothing of one hides a warning of another.
    strict = ("-Werror", "-Wconversion", "-Wno-unknown-warning-option", "-isystem", "board/include")
    options = (*strict, "-Ipackage", "-Iboard", *model_defines(package("dense")))
    uarts = [Uart(driver=name, base=0x4000, clock=10**8) for name in ("cmsdk-uart", "ns16550")]
    sources = {(source, uart) for uart in (None, *uarts) for source in board_sources(chip, uart)}
    for source, uart in sources:
        if uart is None or (source.startswith("links/") and not chip.architecture.hosted):
            compiler.compile(f"board/{source}", "out.o", chip, (*options, *uart_defines(uart)), tmp_path)


def test_an_image_that_does_not_fit_is_refused_with_its_parts() -> None:
    sizes = image("dense", "virtual-cortex-m4").sizes
    flash = -(-sizes.flash // 1024) * 1024
    ram = -(-(sizes.ram + sizes.stack) // 1024) * 1024
    fits = _chip(flash, ram)
    check_fit(sizes, fits)
    with pytest.raises(
        ImageError, match=rf"takes {sizes.flash} bytes of flash .*weights 240.* has {flash - 1024}"
    ):
        check_fit(sizes, _chip(flash - 1024, ram))
    needed = sizes.ram + sizes.stack
    with pytest.raises(ImageError, match=rf"takes {needed} bytes of RAM \(arena 64.* has {ram - 1024}"):
        check_fit(sizes, _chip(flash, ram - 1024))
    assert ImageError.exit_code == 4


def _chip(flash: int, ram: int) -> Chip:
    return Chip(
        cpu="cortex-m4",
        flash=Memory(origin=0, size=flash),
        ram=Memory(origin=0x20000000, size=ram),
        stack=512,
    )


@pytest.mark.parametrize("kind", EVERY_COMPILER)
def test_code_that_does_not_compile_or_link_is_shown(kind: Kind, tmp_path: Path) -> None:
    shutil.copytree(PACKAGES / "dense", tmp_path / "package")
    model = tmp_path / "package" / "model.c"
    text = model.read_text(encoding="utf-8")
    compiler = find_toolchain(M4, kind)
    model.write_text(text.replace("calls++;", "calls++"), encoding="utf-8")
    with pytest.raises(ToolchainError, match=r"package/model\.c:\d+"):
        build_image(read_package(tmp_path / "package"), M4, compiler)
    model.write_text(text.replace("calls++;", "extern void other(void); other();"), encoding="utf-8")
    with pytest.raises(ToolchainError, match=r"undefined .*other"):
        build_image(read_package(tmp_path / "package"), M4, compiler)


def test_what_the_firmware_lacks_comes_from_the_compilers_library(tmp_path: Path) -> None:
    """Linking is tried without it first: zig takes a while to build it. (A stand-in for zig.)"""
    (tmp_path / "zig.py").write_text(
        "import sys\n"
        "open('calls', 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        "if '-nostdlib' in sys.argv: sys.exit('ld.lld: error: undefined symbol: __aeabi_fmul')\n",
        encoding="utf-8",
    )
    compiler = Toolchain("zig", (sys.executable, "zig.py"), "zig 0")
    compiler.link(["a.o"], "chip.ld", "board_reset", "out.elf", M4, tmp_path)
    calls = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    assert ["-nostdlib" in call for call in calls] == [True, False]


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ToolchainError) as raised:
        find_toolchain(M4)
    assert "pip install 'sgsc-edge[device]'" in str(raised.value)
    assert raised.value.exit_code == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Dense"}, "name: must be"),
        ({"name": 'x" -o /etc/passwd'}, "name: must be"),
        ({"hash": "12"}, "hash: must be"),
        ({"input_bytes": 0}, "input_bytes: must be"),
        ({"output_bytes": "10"}, "output_bytes: must be"),
        ({"arena_bytes": None}, "arena_bytes: must be"),
        ({"files": "model.c"}, "files: must be"),
        ({"files": ["../dense/model.c"]}, r"files\[0\]: '../dense/model.c' is not a path inside the folder"),
        ({"files": ["/etc/model.c"]}, "is not a path inside the folder"),
        ({"files": ["sgsc_dense.h", "weights.c"]}, r"has no model\.c"),
    ],
)
def test_a_package_file_that_says_nonsense_is_refused(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    shutil.copytree(PACKAGES / "dense", tmp_path / "package")
    path = tmp_path / "package" / "package.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change), encoding="utf-8")
    with pytest.raises(FileFormatError, match=message):
        read_package(tmp_path / "package")


def test_a_folder_that_is_no_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="cannot be read"):
        read_package(tmp_path)
    (tmp_path / "package.json").write_text("[", encoding="utf-8")
    with pytest.raises(FileFormatError, match="is not JSON"):
        read_package(tmp_path)
    shutil.copyfile(PACKAGES / "dense" / "package.json", tmp_path / "package.json")
    with pytest.raises(FileFormatError, match=r"package.json: lists model\.c, sgsc_dense\.h.*: not there"):
        read_package(tmp_path)


def test_c_files_that_are_not_the_packages_are_not_compiled(tmp_path: Path) -> None:
    folder = shutil.copytree(PACKAGES / "dense", tmp_path / "package")
    (folder / "main.c").write_text("#error a file of the project that the package lies in")
    copied = read_package(folder)
    assert [path.name for path in copied.sources] == ["model.c", "weights.c"]
    assert build_image(copied, M4, find_toolchain(M4)).elf == image("dense", "virtual-cortex-m4").elf


@given(st.data())
def test_a_file_that_is_no_image_is_refused(data: st.DataObject) -> None:
    elf = image("dense", "virtual-cortex-m4").elf
    cut = elf[: data.draw(st.integers(0, len(elf) - 1))]
    with pytest.raises(FileFormatError):
        read_image(cut)


def test_functions_are_found_by_address() -> None:
    built = image("dense", "virtual-cortex-m4")
    entry = built.address_of("sgsc_dense_invoke")
    assert built.function_at(entry) == built.function_at(entry + 2) == "sgsc_dense_invoke"
    assert built.function_at(M4.flash.end - 2) is None
    assert len(built.sha256) == 64
    assert package("dense").sources[0].name == "model.c"
    assert replace(built, elf=b"").sha256 != built.sha256
