"""What commands share: options, the two forms of output, logging, and how errors are shown.

With ``--json`` standard output carries exactly one JSON document, whatever user code or native libraries
print meanwhile: their file descriptor 1 is turned to standard error until the document is due.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click

from sgsc_edge.errors import ConfigError, InternalError, NotMeasuredError, SgscError

CONTEXT = {"help_option_names": ["-h", "--help"]}
VARIABLE = "SGSC_EDGE"
SHARED = ("--json", "--quiet", "--verbose")
"""Options of every command."""
# From the worst: our bug, device, input, not measured, gate, done.
_SEVERITY = (5, 4, 2, 3, 1, 0)
_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})


class Command(click.Command):
    """A command whose options can also be set in the environment, each in a variable of its own.

    That is ``SGSC_EDGE_<COMMAND>_<OPTION>``: what is set for one command says nothing to another, which may
    mean something else by the same option. Those that all commands share are ``SGSC_EDGE_<OPTION>``.
    """

    def __init__(self, name: str, **attributes: Any) -> None:
        super().__init__(name, context_settings=CONTEXT, **attributes)
        for option in self.params:
            if isinstance(option, click.Option):
                option.envvar = _variable(name, option)


def _variable(command: str, option: click.Option) -> str:
    """The variable in the environment that sets an option, after the longest of its names."""
    name = max(option.opts, key=len)
    words = name.removeprefix("--") if name in SHARED else f"{command}_{name.removeprefix('--')}"
    return f"{VARIABLE}_{words}".replace("-", "_").upper()


@dataclass(frozen=True)
class Result:
    """What a command found: a JSON document, the same as text, and the exit code."""

    document: Any
    text: str
    exit_code: int = 0


@dataclass
class Output:
    """How to print; set from the parsed options, guessed from the raw ones until these are known."""

    as_json: bool
    verbose: bool

    @staticmethod
    def guess(arguments: Sequence[str]) -> Output:
        """From raw arguments and environment: errors of parsing itself are shown in the right form, too."""
        options = set(arguments[: arguments.index("--")] if "--" in arguments else arguments)
        as_json = "--json" in options or os.environ.get(f"{VARIABLE}_JSON", "").lower() in _TRUE
        return Output(as_json, not options.isdisjoint({"-v", "-vv", "--verbose"}))


def command_options(function: Callable[..., Result]) -> Callable[..., Result]:
    """Give a command ``--json``, ``--quiet`` and ``-v``, its logging, and a protected standard output."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
    @click.option("--quiet", "-q", is_flag=True, help="Log warnings and errors only.")
    @click.option("--verbose", "-v", is_flag=True, help="Log details; show tracebacks of bugs.")
    @click.pass_obj
    @functools.wraps(function)
    def run(output: Output, /, *, as_json: bool, quiet: bool, verbose: bool, **options: Any) -> Result:
        output.as_json, output.verbose = as_json, verbose
        _log_to_stderr(quiet=quiet, verbose=verbose)
        with _protected_stdout() if as_json else contextlib.nullcontext():
            return function(**options)

    return run


def print_result(result: Result, output: Output) -> bool:
    """Print a result in the chosen form; False when standard output did not take it."""
    return _print(_json(result.document) if output.as_json else result.text)


def print_error(error: Exception, output: Output) -> int:
    """Show an error on standard error (and as the JSON document where asked for); returns its exit code."""
    known = error if isinstance(error, SgscError) else _missing_package(error) or _bug(error)
    with contextlib.suppress(OSError):
        if output.verbose:
            traceback.print_exception(error)
        print(f"error: {known}", file=sys.stderr)  # noqa: T201 - the one place that talks to the user
    if output.as_json:
        _print(_json({"error": error_document(known)}))
    return known.exit_code


def error_document(error: SgscError) -> dict[str, Any]:
    """An error as JSON values."""
    return {
        "kind": type(error).__name__,
        "message": error.message,
        "where": error.where,
        "remedy": error.remedy,
        "problems": list(error.problems) if isinstance(error, ConfigError) else [],
        "exit_code": error.exit_code,
    }


def worst(codes: Iterable[int]) -> int:
    """Of several targets the worst outcome is the command's.

    >>> worst([0, 1, 3])
    3
    """
    return min(codes, key=_SEVERITY.index)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text in aligned columns, headings first.

    >>> print(table([("name", "bits"), ("conv", "8")]))
    name  bits
    conv  8
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _json(document: object) -> str:
    return json.dumps(document, indent=2, sort_keys=True, allow_nan=False)


def _missing_package(error: Exception) -> NotMeasuredError | None:
    """A package that is not ours and cannot be imported; None for any other error."""
    from sgsc_edge.doctor.packages import raised_by

    if not isinstance(error, ImportError):
        return None
    package = error.name.partition(".")[0] if error.name else raised_by(error)
    if package is None or package == __package__.partition(".")[0]:
        return None
    return NotMeasuredError(
        f"the Python package '{package}' is not installed, or broken: {error}",
        remedy="see what is missing and the command that gets it: sgsc-edge doctor",
    )


def _bug(error: Exception) -> InternalError:
    return InternalError(
        f"this is a bug in sgsc-edge: {type(error).__name__}: {error}",
        remedy="please report it with the traceback that -v shows",
    )


def _log_to_stderr(*, quiet: bool, verbose: bool) -> None:
    logger = logging.getLogger("sgsc_edge")
    logger.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [handler]


@contextlib.contextmanager
def _protected_stdout() -> Iterator[None]:
    """Send whatever the process writes to file descriptor 1 to standard error."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)


def _print(text: str) -> bool:
    """Write to standard output; a reader that left early is no error, a full disk is."""
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
    except OSError as error:
        _drop_stdout()
        print(f"error: standard output: {error.strerror}", file=sys.stderr)  # noqa: T201
        return False
    return True


def _drop_stdout() -> None:
    """Keep the interpreter from failing once more when it flushes standard output at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
