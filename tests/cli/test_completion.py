"""Completion in real shells: commands, options, targets, boards, formats, settings, build folders."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

CLI = [sys.executable, "-m", "sgsc_edge.cli.main"]
# What is typed, and what a press of Tab makes of it; each has one completion only.
LINES = {
    "sgsc-edge pres": "sgsc-edge preserve",
    "sgsc-edge build --meth": "sgsc-edge build --method",
    "sgsc-edge build --target tflm": "sgsc-edge build --target tflm-int4",
    "sgsc-edge build --target tflm-int4 --set compress.ep": "compress.epochs=",
    "sgsc-edge flash build/a --board qemu-ris": "qemu-riscv32",
    "sgsc-edge package build/a --format c-co": "c-code",
    "sgsc-edge verify bu": "sgsc-edge verify build/tflite-int8",
    "sgsc-edge explain build/tflite-int8 fea": "sgsc-edge explain build/tflite-int8 features.0",
    "sgsc-edge report bu": "sgsc-edge report build/tflite-int8",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home with ``sgsc-edge`` on the path, and a build folder in it."""
    program = tmp_path / "bin" / "sgsc-edge"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sgsc_edge.cli.main "$@"\n')
    program.chmod(0o755)
    (tmp_path / "build" / "tflite-int8").mkdir(parents=True)
    (tmp_path / "build" / "tflite-int8" / "manifest.json").write_text("{}")
    (tmp_path / "build" / "tflite-int8" / "plan.json").write_text(
        '{"layers": [{"name": "features.0"}, {"name": "head"}]}'
    )
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PYTHONPATH", "LANG") if name in os.environ}
    path = f"{home / 'bin'}:/usr/bin:/bin"
    return {**kept, "PATH": path, "HOME": str(home), "TERM": "dumb", "PS1": "> "}


class Terminal:
    """An interactive shell at a terminal of its own."""

    def __init__(self, command: list[str], home: Path) -> None:
        self._master, follower = pty.openpty()
        self._process = subprocess.Popen(
            command,
            cwd=home,
            env=environment(home),
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
        )
        os.close(follower)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def until(self, text: str, limit_s: float = 60.0) -> str:
        """What is shown until ``text`` is; fails where it does not come."""
        shown, end = "", time.monotonic() + limit_s
        while text not in shown:
            assert time.monotonic() < end, f"no {text!r} in {shown!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                shown += os.read(self._master, 4096).decode(errors="replace")
        return shown

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)


@pytest.fixture
def terminal(home: Path, request: pytest.FixtureRequest) -> Iterator[Terminal]:
    opened = Terminal(request.param, home)
    yield opened
    opened.close()


def press_tab(terminal: Terminal, *lines: str) -> None:
    for typed in lines or LINES:
        completed = LINES[typed]
        terminal.type(f"{typed}\t")
        missing = completed.removeprefix(typed)
        terminal.until(missing)
        terminal.type("\x15")  # Ctrl-U takes the line away
        terminal.type("echo next''line\n")
        terminal.until("nextline")


@pytest.mark.needs("bash")
@pytest.mark.parametrize("terminal", [["bash", "--norc", "--noprofile", "-i"]], indirect=True)
def test_bash(terminal: Terminal) -> None:
    terminal.type('eval "$(sgsc-edge completion bash)" && echo rea""dy\n')
    terminal.until("ready")
    press_tab(terminal)


@pytest.mark.needs("zsh")
@pytest.mark.parametrize("terminal", [["zsh", "-f", "-i"]], indirect=True)
def test_zsh(terminal: Terminal) -> None:
    terminal.type(
        'autoload -U compinit && compinit -D && eval "$(sgsc-edge completion zsh)" && echo rea""dy\n'
    )
    terminal.until("ready")
    press_tab(terminal, "sgsc-edge pres", "sgsc-edge build --target tflm", "sgsc-edge verify bu")


@pytest.mark.needs("fish")
def test_fish(home: Path) -> None:
    script = subprocess.run([*CLI, "completion", "fish"], capture_output=True, text=True, check=True).stdout
    (home / "sgsc-edge.fish").write_text(script)
    asked = "".join(f"complete --do-complete '{typed}'\n" for typed in LINES)
    done = subprocess.run(
        ["fish", "--no-config"],
        input=f"source sgsc-edge.fish\n{asked}",
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    offered = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert offered == [completed.split()[-1] for completed in LINES.values()]


def test_the_script_as_json() -> None:
    done = subprocess.run([*CLI, "completion", "zsh", "--json"], capture_output=True, text=True, check=True)
    document = json.loads(done.stdout)
    assert document["shell"] == "zsh"
    assert document["script"].startswith("#compdef sgsc-edge")


def test_another_shell_is_told_the_nearest() -> None:
    done = subprocess.run([*CLI, "completion", "fsh"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Did you mean 'fish'?" in done.stderr
