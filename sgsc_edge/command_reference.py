"""Every command, argument and option, as Markdown: ``python -m sgsc_edge.command_reference``.

What the command line itself says is what ``docs/commands.md`` shows (``make docs`` writes it).
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator

import click

from sgsc_edge import errors
from sgsc_edge.cli.main import COMMANDS, PROGRAM, cli
from sgsc_edge.cli.output import SHARED, VARIABLE

_SHARED = frozenset({*SHARED, "--help"})
_OPTIONS = "[OPTIONS]"
_INTRODUCTION = f"""\
<!-- Written by `make docs` from the command line itself. Change the help texts there. -->

# Commands

`{PROGRAM} COMMAND --help` shows the same. FOLDER is the folder of one target, such as `build/tflite-int8`.
"""
_ALL = """\
## Options of every command

| option | what it does |
|---|---|
| `--json` | prints one JSON document on standard output; logs and errors go to standard error |
| `-q`, `--quiet` | logs warnings and errors only |
| `-v`, `--verbose` | logs details, and tracebacks of bugs |
| `-h`, `--help` | shows the command's help; `--version` of `{program}` itself shows the version |

Options can also be set in the environment. Those of a command are `{prefix}_<COMMAND>_<OPTION>`, for that
command alone: `{prefix}_BUILD_TARGET=tflite-int8`, `{prefix}_FLASH_DRY_RUN=1`. The three of every command are
`{prefix}_JSON`, `{prefix}_QUIET` and `{prefix}_VERBOSE`. Several values are separated by spaces, those of
`--set` by semicolons. What the command line says goes first.

## Exit codes

| code | meaning |
|---|---|
| 0 | done; of a certificate: PASSED |
| 1 | a gate failed: FAILED; or no size kept the floor of `build --floor` |
{codes}
| 3 | something required was not measured: NOT_MEASURED |
{later}
"""


def reference() -> str:
    """The page as Markdown."""
    codes = {kind.exit_code: _first_line(kind) for kind in _kinds()}
    rows = {code: f"| {code} | {text} |" for code, text in codes.items()}
    shared = _ALL.format(
        program=PROGRAM,
        prefix=VARIABLE,
        codes=rows[2],
        later="\n".join(rows[code] for code in sorted(rows) if code > 3),
    )
    return "\n".join([_INTRODUCTION, *(line for name in COMMANDS for line in _command(name)), shared])


def _kinds() -> list[type[errors.SgscError]]:
    """The errors that have an exit code of their own."""
    return [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.SgscError) and "exit_code" in vars(kind) and kind is not errors.SgscError
    ]


def _first_line(kind: type[errors.SgscError]) -> str:
    text = (kind.__doc__ or "").splitlines()[0].rstrip(".")
    return text[0].lower() + text[1:]


def _command(name: str) -> Iterator[str]:
    context = click.Context(cli, info_name=PROGRAM)
    command = cli.get_command(context, name)
    assert command is not None
    context = click.Context(command, info_name=name, parent=context)
    arguments = [piece for piece in command.collect_usage_pieces(context) if piece != _OPTIONS]
    yield from (f"## `{name}`", "", f"    {' '.join([PROGRAM, name, *arguments, _OPTIONS])}", "")
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        yield from _text(paragraph)
    records = [
        record
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option) and not _SHARED.intersection(parameter.opts)
        if (record := parameter.get_help_record(context)) is not None
    ]
    if records:
        yield from ("| option | what it does |", "|---|---|")
        yield from (f"| `{_cell(option)}` | {_escaped(_cell(text))} |" for option, text in records)
        yield ""


def _text(paragraph: str) -> tuple[str, str]:
    """A paragraph of a help text, and an empty line; behind click's ``\\b`` lines stay apart."""
    if paragraph.startswith("\b\n"):
        return textwrap.indent(paragraph.removeprefix("\b\n"), "    "), ""
    return _escaped(paragraph), ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _escaped(text: str) -> str:
    """Text in which ``<name>`` is no tag."""
    return text.replace("<", "&lt;")


if __name__ == "__main__":
    sys.stdout.write(reference())
