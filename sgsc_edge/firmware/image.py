"""Firmware images: a package and the board's own sources, compiled and linked for one chip.

An image is an ELF file whose flash part a board can be given as it is. The same package, chip and compiler
give the same bytes. What the image takes of flash and RAM is read from the sections of the ELF.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from sgsc_edge.artifacts import scratch_errors
from sgsc_edge.c_names import header_name
from sgsc_edge.errors import FileFormatError, ImageError
from sgsc_edge.firmware.chip import Chip, Uart
from sgsc_edge.firmware.linker_script import (
    BOARD_OBJECT,
    DATA_SECTION,
    FLASH_SECTIONS,
    LIBRARY_OBJECT,
    PACKAGE_OBJECT,
    RESET,
    STACK_SECTION,
    ZERO_SECTIONS,
    linker_script,
)
from sgsc_edge.firmware.package import Package
from sgsc_edge.firmware.toolchain import Toolchain

BOARD_SOURCES = Path(__file__).parent / "board"
_LIBRARY = "arithmetic.c"


@dataclass(frozen=True)
class Sizes:
    """Bytes of an image.

    ``flash`` is all that is written to flash; ``board`` (vectors, start-up, link), ``code`` (the model's),
    ``constants``, ``weights`` and ``data`` (initial values of variables) are its parts, with gaps of
    alignment beside them. ``ram`` is what variables take, of which ``arena`` are the package's; ``stack`` is
    what is set aside for the stack, apart from ``ram``.
    """

    flash: int
    board: int
    code: int
    constants: int
    weights: int
    data: int
    ram: int
    arena: int
    stack: int


@dataclass(frozen=True)
class Segment:
    """Bytes that lie at ``address`` of the flash; ``in_place``: and are read there, not copied to RAM."""

    address: int
    data: bytes
    in_place: bool


@dataclass(frozen=True)
class Symbol:
    """A C function: its first address (without the Thumb bit), its bytes and its name."""

    address: int
    size: int
    name: str


@dataclass(frozen=True)
class Image:
    """An ELF file, read. ``functions`` is sorted by address; ``segments`` lie in flash."""

    elf: bytes
    sizes: Sizes
    segments: tuple[Segment, ...]
    functions: tuple[Symbol, ...]

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the ELF file, in hex."""
        return hashlib.sha256(self.elf).hexdigest()

    @cached_property
    def _addresses(self) -> Mapping[str, int]:
        return {symbol.name: symbol.address for symbol in self.functions}

    def address_of(self, function: str) -> int:
        """The first address of a C function; ``KeyError`` where the image has none of that name."""
        return self._addresses[function]

    def function_at(self, address: int) -> str | None:
        """The C function whose code ``address`` lies in."""
        holders = (item for item in self.functions if item.address <= address < item.address + item.size)
        return next((item.name for item in holders), None)


def build_image(package: Package, chip: Chip, toolchain: Toolchain, uart: Uart | None = None) -> Image:
    """Compile and link ``package`` with the board's own sources for ``chip``.

    The link goes through ``uart``; without one as the chip's architecture has it, by semihosting for example.

    Raises ``ToolchainError`` (the compiler refused), ``ImageError`` (too large for flash or RAM) and
    ``OutputError`` (no room for temporary files).
    """
    image = link_image(package, chip, toolchain, uart)
    check_fit(image.sizes, chip)
    return image


def link_image(package: Package, chip: Chip, toolchain: Toolchain, uart: Uart | None = None) -> Image:
    """``build_image``, whatever the size: an image that is larger than the chip can be looked at, too."""
    with (
        scratch_errors(),
        tempfile.TemporaryDirectory(prefix="sgsc-edge-") as name,
    ):
        folder = Path(name)
        objects = _compile(package, chip, toolchain, uart, folder)
        (folder / "chip.ld").write_text(linker_script(chip), encoding="utf-8")
        toolchain.link(objects, "chip.ld", RESET, "firmware.elf", chip, folder)
        return read_image((folder / "firmware.elf").read_bytes())


def _compile(
    package: Package, chip: Chip, toolchain: Toolchain, uart: Uart | None, folder: Path
) -> list[str]:
    """Copy the sources into ``folder`` and compile them; returns the object files, relative to it."""
    shutil.copytree(BOARD_SOURCES, folder / "board")
    (folder / "package").mkdir()
    for path in (*package.sources, *package.headers):
        shutil.copyfile(path, folder / "package" / path.name)
    options = ("-isystem", "board/include", "-Ipackage")
    defines = ("-Iboard", *model_defines(package), *uart_defines(uart))
    board = [
        (f"board/{source}", f"{LIBRARY_OBJECT if source == _LIBRARY else BOARD_OBJECT}{Path(source).stem}.o")
        for source in board_sources(chip, uart)
    ]
    model = [(f"package/{path.name}", f"{PACKAGE_OBJECT}{path.stem}.o") for path in package.sources]
    for source, output in board:
        size_first = () if output.startswith(LIBRARY_OBJECT) else ("-Os",)
        toolchain.compile(source, output, chip, (*options, *defines, *size_first), folder)
    for source, output in model:
        toolchain.compile(source, output, chip, options, folder)
    return [output for _, output in (*board, *model)]


def model_defines(package: Package) -> tuple[str, ...]:
    """What the C files are told of the model."""
    return (
        f"-DSGSC_MODEL={package.name}",
        f'-DSGSC_HEADER="{header_name(package.name)}"',
        f"-DSGSC_ARENA_BYTES={package.arena_bytes}u",
    )


def uart_defines(uart: Uart | None) -> tuple[str, ...]:
    """What the C files are told of the link's device."""
    if uart is None:
        return ()
    numbers = {"BASE": f"{uart.base:#010x}", "CLOCK": uart.clock, "BAUD": uart.baud}
    return tuple(f"-DSGSC_UART_{name}={value}u" for name, value in numbers.items())


def board_sources(chip: Chip, uart: Uart | None = None) -> list[str]:
    """Our own C files for ``chip`` and its link, relative to ``BOARD_SOURCES``."""
    own = sorted(BOARD_SOURCES.glob("*.c"))
    core = sorted((BOARD_SOURCES / chip.architecture.name).glob("*.c"))
    link = BOARD_SOURCES / "links" / f"{chip.architecture.link if uart is None else uart.source}.c"
    return [path.relative_to(BOARD_SOURCES).as_posix() for path in (*own, *core, link)]


def read_image(elf: bytes) -> Image:
    """Read an ELF file that was linked by our script; ``FileFormatError`` where it is not one."""
    try:
        file = ELFFile(io.BytesIO(elf))
        sections = {section.name: section for section in file.iter_sections()}
        table = sections[".symtab"]
        assert isinstance(table, SymbolTableSection)
        functions = sorted(
            (
                Symbol(symbol["st_value"] & ~1, symbol["st_size"], symbol.name)
                for symbol in table.iter_symbols()
                if symbol["st_info"]["type"] == "STT_FUNC"
            ),
            key=lambda symbol: (symbol.address, symbol.name),
        )
        segments = tuple(
            Segment(segment["p_paddr"], segment.data(), segment["p_paddr"] == segment["p_vaddr"])
            for segment in file.iter_segments("PT_LOAD")
            if segment["p_filesz"] > 0
        )
        length = {name: int(section["sh_size"]) for name, section in sections.items()}
        return Image(elf, _sizes(length, segments), segments, tuple(functions))
    except (ELFError, KeyError, AssertionError) as error:
        raise FileFormatError("is no firmware image", remedy="build it again") from error


def _sizes(length: Mapping[str, int], segments: tuple[Segment, ...]) -> Sizes:
    first = min(segment.address for segment in segments)
    last = max(segment.address + len(segment.data) for segment in segments)
    vectors, board, code, constants, weights = (length.get(name, 0) for name in FLASH_SECTIONS)
    data = length.get(DATA_SECTION, 0)
    arena, other = (length.get(name, 0) for name in ZERO_SECTIONS)
    return Sizes(
        flash=last - first,
        board=vectors + board,
        code=code,
        constants=constants,
        weights=weights,
        data=data,
        ram=data + arena + other,
        arena=arena,
        stack=length.get(STACK_SECTION, 0),
    )


def check_fit(sizes: Sizes, chip: Chip) -> None:
    """``ImageError`` where an image is larger than the chip's flash or RAM."""
    if sizes.flash > chip.flash.size:
        parts = f"code {sizes.code}, constants {sizes.constants}, weights {sizes.weights}"
        raise ImageError(
            f"the firmware takes {sizes.flash} bytes of flash ({parts}); the board has {chip.flash.size}",
            remedy="give the build a smaller budget, or take a larger board",
        )
    if sizes.ram + sizes.stack > chip.ram.size:
        parts = f"arena {sizes.arena}, other variables {sizes.ram - sizes.arena}, stack {sizes.stack}"
        raise ImageError(
            f"the firmware takes {sizes.ram + sizes.stack} bytes of RAM ({parts}); "
            f"the board has {chip.ram.size}",
            remedy="make the largest layers' outputs smaller, or take a larger board",
        )
