"""Every key of the files that people write, as Markdown: ``python -m sgsc_edge.config_reference``.

The pydantic models are the one source: what they validate, and the description of each key, is what
``docs/config.md`` shows (``make docs`` writes it). A table of a file becomes a section, a key a row.
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MultipleOf
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sgsc_edge.boards.description import Board
from sgsc_edge.certification.policy import Policy
from sgsc_edge.config_text import Form, Key, Unit, inner_model
from sgsc_edge.project.schema import NOT_YET, Config, NotYet
from sgsc_edge.targets import Target


@dataclass(frozen=True)
class File:
    """A kind of file: its heading, what it is, and the model of its contents.

    ``partial``: every key may be left out. ``not_yet``: keys that this version does not execute in full.
    """

    title: str
    text: str
    model: type[BaseModel]
    partial: bool = False
    not_yet: tuple[NotYet, ...] = ()


FILES = (
    File(
        "Project file",
        "`sgsc.toml` beside your code, or the same tables under `[tool.sgsc-edge]` in `pyproject.toml`: see "
        "[getting-started.md](getting-started.md). `--set section.key=value` overrides any key for one "
        "command, `[targets.<name>.<section>]` for one target.",
        Config,
        not_yet=NOT_YET,
    ),
    File(
        "Policy file",
        "What `sgsc-edge verify --policy FILE` judges by, whatever the build's own file says: see "
        "[trust.md](trust.md). Each key that it gives replaces the recorded one; all may be left out.",
        Policy,
        partial=True,
    ),
    File(
        "Target file",
        "`<name>.toml`, given by its path to `--target`: see [targets.md](targets.md).",
        Target,
    ),
    File("Board file", "`<name>.toml`, given by its path to `--board`: see [boards.md](boards.md).", Board),
)
INTRODUCTION = """\
<!-- Written by `make docs` from the models that validate these files. Change the descriptions there. -->

# Files and their keys

Every key that sgsc-edge reads. Unknown keys are refused with file, line and the nearest known name. Text is
written in quotes; sizes take a unit, and 1 kB is 1000 bytes.
"""


def reference() -> str:
    """The page as Markdown."""
    contents = [f"- [{file.title}](#{file.title.lower().replace(' ', '-')})" for file in FILES]
    return "\n".join([INTRODUCTION, *contents, *(line for file in FILES for line in _file(file))]) + "\n"


def _file(file: File) -> Iterator[str]:
    yield from ("", f"## {file.title}", "", file.text)
    for key, text, model in _tables(file.model, (), ""):
        yield from ("", f"### `{_heading(key)}`", "") if key else ("",)
        yield from (text, "") if text else ()
        yield "| key | value | unit | default | meaning |"
        yield "|---|---|---|---|---|"
        for name, info in _fields(model):
            if inner_model(info.annotation) is None:
                yield _row(file, (*key, name), info)


def _tables(model: type[BaseModel], key: Key, text: str) -> Iterator[tuple[Key, str, type[BaseModel]]]:
    """``model`` and every table inside it that has keys with values: key, description, model."""
    if any(inner_model(info.annotation) is None for info in model.model_fields.values()):
        yield key, text, model
    for name, info in _fields(model):
        if (inner := inner_model(info.annotation)) is not None:
            part: Key = (name, 0) if typing.get_origin(info.annotation) is tuple else (name,)
            optional = "" if info.is_required() else " May be left out."
            yield from _tables(inner, (*key, *part), f"{info.description}{optional}")


def _heading(key: Key) -> str:
    """How a table is opened: ``[gate]``, or ``[[weights]]`` where there may be several."""
    name = ".".join(part for part in key if isinstance(part, str))
    return f"[[{name}]]" if isinstance(key[-1], int) else f"[{name}]"


def _row(file: File, key: Key, info: FieldInfo) -> str:
    later = [f"{row.message[0].upper()}{row.message[1:]}." for row in file.not_yet if row.key == key]
    default = "as recorded" if file.partial else _default(info)
    cells = (f"`{key[-1]}`", _value(info), _unit(info), default, " ".join([f"{info.description}", *later]))
    return f"| {' | '.join(cells)} |"


def _fields(model: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    return [(info.alias or name, info) for name, info in model.model_fields.items()]


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "**required**"
    value = info.default
    if value is None or isinstance(value, dict):
        return ""
    return f"`{_toml(value)}`"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else f"{value}"


def _unit(info: FieldInfo) -> str:
    _, metadata = _split(info.annotation, info.metadata)
    return next((one.text for one in metadata if isinstance(one, Unit)), "")


def _value(info: FieldInfo) -> str:
    return _describe(*_split(info.annotation, info.metadata))


def _split(annotation: Any, metadata: Sequence[object]) -> tuple[Any, list[object]]:
    """The type without None and ``Annotated``, and all that is said about it."""
    found = list(metadata)
    while True:
        if typing.get_origin(annotation) is Annotated:
            annotation, *more = typing.get_args(annotation)
            for one in more:
                found += one.metadata if isinstance(one, FieldInfo) else [one]
        elif typing.get_origin(annotation) in (typing.Union, types.UnionType):
            arms = [arm for arm in typing.get_args(annotation) if arm is not type(None)]
            if len(arms) > 1:
                return annotation, found
            annotation = arms[0]
        else:
            return annotation, found


def _describe(annotation: Any, metadata: Sequence[object]) -> str:
    form = next((one.text for one in metadata if isinstance(one, Form)), None)
    return ", ".join([form if form is not None else _type(annotation), *_bounds(metadata)])


def _type(annotation: Any) -> str:
    if typing.get_origin(annotation) is Literal:
        return ", ".join(f"`{_toml(value)}`" for value in typing.get_args(annotation))
    return {bool: "`true`, `false`", int: "integer", float: "number", str: "text"}[annotation]


def _bounds(metadata: Sequence[object]) -> Iterator[str]:
    for one in metadata:
        match one:
            case Gt(gt=bound):
                yield f"> {bound}"
            case Ge(ge=bound):
                yield f"≥ {bound}"
            case Lt(lt=bound):
                yield f"< {'2^32' if bound == 2**32 else bound}"
            case Le(le=bound):
                yield f"≤ {bound}"
            case MultipleOf(multiple_of=step):
                yield f"a multiple of {step}"
            case MaxLen(max_length=length):
                yield f"at most {length} characters"


if __name__ == "__main__":
    sys.stdout.write(reference())
