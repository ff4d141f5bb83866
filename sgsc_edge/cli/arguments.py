"""The kinds of values that options take: each knows its names, for the shell's completion and for hints.

Names are looked up when they are asked for, so that nothing is imported for a command that asks for none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import click
from click.shell_completion import CompletionItem

from sgsc_edge.hints import closest


class OneOf(click.Choice[str]):
    """One of a few names; a message about another one has the nearest."""

    def get_invalid_choice_message(self, value: object, ctx: click.Context | None) -> str:
        """What click says, and the nearest name."""
        match = closest(str(value), self.choices)
        hint = f" Did you mean '{match}'?" if match else ""
        return f"{super().get_invalid_choice_message(value, ctx)}{hint}"


class NameOrFile(click.types.StringParamType):
    """A shipped name, or the path of a ``.toml`` file; checked by the command, which reads the file."""

    def __init__(self, kind: str, names: Callable[[], Iterable[str]], *, told: bool = False) -> None:
        self.name = kind
        self._names = names
        self._told = told

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str | None:
        """Whoever leaves out a name that is ``told`` reads which there are, where these can be listed."""
        if not self._told:
            return None
        try:
            return f"{self.name.capitalize()}s: {', '.join(self._names())}."
        except ImportError:  # the option is missing whatever else is
            return None

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The names, and files where none fits."""
        return _items(self._names(), incomplete) or [CompletionItem(incomplete, type="file")]


class Setting(click.types.StringParamType):
    """A ``key=value``; in the environment several are separated by semicolons."""

    name = "key=value"
    envvar_list_splitter: ClassVar[str] = ";"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The keys of ``sgsc.toml``."""
        from sgsc_edge.project.schema import setting_names

        return _items((f"{name}=" for name in setting_names()), incomplete)


class Budgets(click.types.StringParamType):
    """A size, a ratio, or several between commas; the settings check them."""

    name = "size[,size...]"


class Floor(click.ParamType[float]):
    """A number; the settings check which."""

    name = "number"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; what is none is told with an example."""
        try:
            return float(str(value))
        except ValueError:
            hint = ""
            if (share := _share(str(value))) is not None:
                hint = f" Did you mean {share:g}?"
            self.fail(
                f"{value!r} is not a number such as 0.97, a share for an accuracy, or 0.35, nats for a loss."
                f"{hint}",
                param,
                ctx,
            )


def _share(text: str) -> float | None:
    """A percentage as a share.

    >>> _share("97%"), _share("97")
    (0.97, None)
    """
    try:
        return float(text.strip().removesuffix("%")) / 100 if text.strip().endswith("%") else None
    except ValueError:
        return None


class BuildFolder(click.Path):
    """A folder that a build wrote, or another path."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Build folders up to three levels below what is typed, and files where there is none."""
        start = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
        found = (path for depth in ("*", "*/*", "*/*/*") for path in start.glob(f"{depth}/manifest.json"))
        return _items((str(path.parent) for path in found), incomplete) or super().shell_complete(
            ctx, param, incomplete
        )


class Layer(click.types.StringParamType):
    """A layer of the build whose folder is named before it."""

    name = "layer"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The layers of the build's plan; none where that cannot be read."""
        from sgsc_edge.artifacts import read_json
        from sgsc_edge.errors import FileFormatError

        try:
            plan: Any = read_json(Path(ctx.params["folder"]) / "plan.json")
            return _items((row["name"] for row in plan["layers"]), incomplete)
        except (FileFormatError, LookupError, TypeError):
            return []


def _items(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


def target(*, told: bool = False) -> NameOrFile:
    """A target."""

    def names() -> Iterable[str]:
        from sgsc_edge.targets import target_names

        return target_names()

    return NameOrFile("target", names, told=told)


def board() -> NameOrFile:
    """A board."""

    def names() -> Iterable[str]:
        from sgsc_edge.boards.description import board_names

        return board_names()

    return NameOrFile("board", names)


BUDGETS = Budgets()
FLOOR = Floor()
BUILD = BuildFolder(path_type=Path)
LAYER = Layer()
