"""Cross-compilers: the one on the system, else the one that pip installs.

Both are called in a folder of fixed relative names, without debug information, so that the same sources give
the same bytes wherever and whenever they are built. Nothing of a C library is used: our own sources stand in
for the functions that compilers call unasked; what is left (floating point in software) comes from the
compiler's own run-time library.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sgsc_edge.errors import ToolchainError
from sgsc_edge.firmware.chip import CPUS, Architecture, Chip

Kind = Literal["gcc", "zig"]
KINDS: tuple[Kind, ...] = ("gcc", "zig")
_ZIG = (sys.executable, "-m", "ziglang")
INSTALL = "pip install 'sgsc-edge[device]'"

# zig's first use of its run-time library builds it, which takes a minute on a slow machine.
_TIMEOUT_S = 600
_MESSAGE_LINES = 12
_LACKS_LIBRARY = "undefined symbol: __"
_COMPILE = (
    "-std=c99",
    "-O2",
    "-g0",
    "-ffreestanding",
    "-ffunction-sections",
    "-fdata-sections",
    "-fno-common",
    "-fno-stack-protector",
    "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
    "-fomit-frame-pointer",
    "-Wall",
    "-Wextra",
)
_LINK = ("-Wl,--gc-sections", "-Wl,--build-id=none")


@dataclass(frozen=True)
class Toolchain:
    """A cross-compiler: how to call it, and what it calls itself."""

    kind: Kind
    command: tuple[str, ...]
    version: str

    def compile(self, source: str, output: str, chip: Chip, options: Sequence[str], folder: Path) -> None:
        """Compile ``source`` to the object file ``output``; both are relative to ``folder``."""
        line = [*self.command, *cpu_options(self.kind, chip), *_COMPILE, *self._compile_options(), *options]
        self._run([*line, "-c", source, "-o", output], folder)

    def link(
        self, objects: Sequence[str], script: str, entry: str, output: str, chip: Chip, folder: Path
    ) -> None:
        """Link ``objects`` by a linker script to an ELF file; all names are relative to ``folder``."""
        line = [*self.command, *cpu_options(self.kind, chip), *_LINK, f"-Wl,-T,{script}", f"-Wl,-e,{entry}"]
        files = [*objects, "-o", output]
        if self.kind == "gcc":
            self._run([*line, "-nostdlib", "-Wl,--no-warn-rwx-segments", *files, "-lgcc"], folder)
            return
        try:
            self._run([*line, "-nostdlib", *files], folder)
        except ToolchainError as error:
            if _LACKS_LIBRARY not in error.output:
                raise
            self._run([*line, *files], folder)  # with the run-time library

    def _compile_options(self) -> tuple[str, ...]:
        return ("-fno-sanitize=all",) if self.kind == "zig" else ()  # zig's default checks trap

    def _run(self, line: Sequence[str], folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="sgsc-edge-") as scratch:
            try:
                done = subprocess.run(
                    line,
                    cwd=folder,
                    env=_environment(Path(scratch)),
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=_TIMEOUT_S,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise ToolchainError(f"did not end within {_TIMEOUT_S} s", where=self.version) from None
            except OSError as error:
                raise ToolchainError(f"cannot be run: {error.strerror}", where=line[0]) from error
        if done.returncode != 0:
            output = done.stderr.decode("utf-8", "replace")
            lines = output.strip().splitlines()
            message = "\n".join(["refused the firmware:", *lines[:_MESSAGE_LINES]])
            raise ToolchainError(message, where=self.version, output=output)


def find_toolchain(chip: Chip, kind: Kind | None = None) -> Toolchain:
    """A cross-compiler for ``chip``: of ``kind``, else the system's, else the pip-installed one.

    Raises ``ToolchainError`` with what to install where there is none.
    """
    wanted = KINDS if kind is None else (kind,)
    finders = {"gcc": _find_gcc, "zig": _find_zig}
    found = next(filter(None, (finders[name](chip) for name in wanted)), None)
    if found is None:
        names = {"gcc": chip.architecture.gcc, "zig": "ziglang"}
        raise ToolchainError(
            f"no cross-compiler for a {chip.cpu} ({' or '.join(names[name] for name in wanted)})",
            remedy=INSTALL if kind == "zig" else f"{INSTALL}, or: apt install {chip.architecture.package}",
        )
    return found


def cpu_options(kind: Kind, chip: Chip) -> tuple[str, ...]:
    """How a compiler is told what core it compiles for."""
    options = CPUS[chip.cpu].gcc if kind == "gcc" else CPUS[chip.cpu].zig
    return options.fpu if chip.fpu and options.fpu is not None else options.plain


def gcc_version(architecture: Architecture) -> str | None:
    """What the system's gcc for an architecture calls itself; None without one."""
    path = shutil.which(architecture.gcc)
    version = _output(path, "-dumpfullversion") if path is not None else ""
    return f"{architecture.gcc} {version}" if version else None


def zig_version() -> str | None:
    """What the pip-installed zig calls itself; None without one."""
    if importlib.util.find_spec("ziglang") is None:
        return None
    version = _output(*_ZIG, "version")
    return f"zig {version}" if version else None


def _find_gcc(chip: Chip) -> Toolchain | None:
    """The system's gcc, where it has a run-time library for the core (a C library is not asked for)."""
    version = gcc_version(chip.architecture)
    if version is None:
        return None
    path = shutil.which(chip.architecture.gcc) or chip.architecture.gcc
    library = _output(path, *cpu_options("gcc", chip), "-print-libgcc-file-name")
    return Toolchain("gcc", (path,), version) if library and Path(library).is_file() else None


def _find_zig(chip: Chip) -> Toolchain | None:
    version = zig_version()
    return None if version is None else Toolchain("zig", (*_ZIG, "cc"), version)


@functools.cache
def _output(*line: str) -> str:
    """What a command prints; empty where it fails. Asked once a process: a compiler does not change."""
    try:
        done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else ""


def _environment(scratch: Path) -> dict[str, str]:
    """The environment without what would change the output; zig's caches are our own."""
    changing = (
        "CPATH",
        "C_INCLUDE_PATH",
        "LIBRARY_PATH",
        "GCC_EXEC_PREFIX",
        "COMPILER_PATH",
        "SOURCE_DATE_EPOCH",
    )
    kept = {name: value for name, value in os.environ.items() if name not in changing}
    return {
        **kept,
        "LC_ALL": "C",
        "ZIG_LOCAL_CACHE_DIR": str(scratch / "local"),
        "ZIG_GLOBAL_CACHE_DIR": str(_cache_folder(scratch)),
    }


def _cache_folder(scratch: Path) -> Path:
    """Where zig keeps the run-time library that it built: in the user's cache, or nowhere for long."""
    base = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(base) if base else Path.home() / ".cache") / "sgsc-edge" / "zig"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return scratch / "global"
    return folder if os.access(folder, os.W_OK) else scratch / "global"
