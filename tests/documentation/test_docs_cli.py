"""The pages name the command line as it is: every command and option, and none that there is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import click
import pytest
from documentation.pages import PAGES, ROOT, read

from sgsc_edge import command_reference
from sgsc_edge.cli.main import COMMANDS, PROGRAM, cli

_GENERAL = {"--help", "--version"}


@cache
def options(command: str) -> frozenset[str]:
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    return frozenset(
        name for option in found.params if isinstance(option, click.Option) for name in option.opts
    )


def uses(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each command that a text shows, with the options behind it."""
    for match in re.finditer(rf"(?:^|\$ |- |run: |/bin/){PROGRAM} ([a-z][a-z-]*)([^\n`|;&]*)", text, re.M):
        yield match[1], re.findall(r"(?<![\w-])--?[a-z][a-z-]*", re.sub(r"\s#.*|'[^']*'", "", match[2]))


def test_the_page_of_commands_is_what_the_command_line_says() -> None:
    page = ROOT / "docs" / "commands.md"
    assert page.read_text(encoding="utf-8") == command_reference.reference(), "run: make docs"


def test_the_page_of_commands_has_every_command_option_and_exit_code() -> None:
    page = read(ROOT / "docs" / "commands.md")
    text = page.path.read_text(encoding="utf-8")
    for command in COMMANDS:
        section = text.split(f"## `{command}`\n")[1].split("\n## ")[0]
        general = text.split("## Options of every command")[1]
        missing = [name for name in options(command) if name not in section + general]
        assert not missing, command
    codes = re.findall(r"^\| (\d+) \|", text.split("## Exit codes")[1], re.MULTILINE)
    assert codes == ["0", "1", "2", "3", "4", "5", "130"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_and_options_that_a_page_shows_exist(path: object) -> None:
    wrong = []
    for text in read(path).code:  # type: ignore[arg-type]
        for command, given in uses(text):
            if command not in COMMANDS:
                wrong.append(f"{PROGRAM} {command}")
            else:
                wrong += [f"{PROGRAM} {command} {name}" for name in {*given} - options(command) - _GENERAL]
    assert not wrong


def test_the_search_finds_commands_and_their_options() -> None:
    shown = "$ .venv/bin/sgsc-edge build . -t x --out o  # --not this\nsgsc-edge verify o --policy p.toml"
    assert list(uses(shown)) == [("build", ["-t", "--out"]), ("verify", ["--policy"])]


def test_every_command_is_shown_outside_its_own_page() -> None:
    pages = [read(path) for path in PAGES if path.name != "commands.md"]
    shown = {command for page in pages for text in page.code for command, _ in uses(text)}
    assert shown >= set(COMMANDS), "no page shows how to use it"
