"""TOML that people write: read with line numbers, validated with every problem found at once.

``read_toml`` keeps the line of each key; ``validate`` runs a pydantic model over the tables and turns its
findings into one ``ConfigError`` whose ``problems`` each name file, line, key and, for an unknown key, the
nearest known one. Project files, targets and policies all pass through here.

Keys are tuples: ``("compress", "epochs")``; an element of an array of tables has its index in the path.
"""

from __future__ import annotations

import re
import tomllib
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core.core_schema import CoreSchema, no_info_after_validator_function

from sgsc_edge.errors import ConfigError
from sgsc_edge.hints import nearest

Key = tuple[str | int, ...]
ModelT = TypeVar("ModelT", bound=BaseModel)
NamedT = TypeVar("NamedT", bound="NamedTable")

MAX_TOML_BYTES = 2**20
UNITS = {"B": 1, "kB": 1000, "MB": 1000**2, "KiB": 1024, "MiB": 1024**2}


@dataclass(frozen=True)
class Form:
    """Metadata of a key's type: how people write the value, where the annotation does not say it."""

    text: str


@dataclass(frozen=True)
class Spelling(Form):
    """Metadata of a text's type: ``text`` says how people write it, ``pattern`` is what all of it matches."""

    pattern: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            words = self.text.replace("`", '"')
            raise ValueError(f"must be {words}, not {_shown(value)}")
        return value


@dataclass(frozen=True)
class Unit:
    """Metadata of a key's type: the unit of the value."""

    text: str


Name = Annotated[
    str, Spelling("lower-case letters, digits and `-`, a letter or digit first", r"[a-z0-9][a-z0-9-]*")
]


class Table(BaseModel):
    """Base of the tables of a file: immutable, unknown keys refused, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class NamedTable(Table):
    """A whole file ``<name>.toml`` about one thing."""

    name: Name = Field(description="The file is called `<name>.toml`.")
    description: Annotated[str, Field(min_length=1)] = Field(
        description="What it is, in a line; lists of the command line show it."
    )


@dataclass(frozen=True)
class TomlFile:
    """A parsed TOML file: ``label`` is its name in messages, ``lines`` maps keys to 1-based lines."""

    label: str
    tables: Mapping[str, Any]
    lines: Mapping[Key, int]

    def locate(self, key: Key) -> str:
        """``file:line`` of ``key``, or of the nearest table around it that the file does have."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.lines:
                return f"{self.label}:{self.lines[key[:length]]}"
        return self.label

    def below(self, prefix: Key) -> TomlFile:
        """The table at ``prefix`` as a file of its own, with the lines it has in this one."""
        table: Any = self.tables
        for part in prefix:
            table = table[part]
        size = len(prefix)
        below = {key: line for key, line in self.lines.items() if key[:size] == prefix and key != prefix}
        lines = {key[size:]: line for key, line in below.items()}
        return TomlFile(self.label, table, lines)


@dataclass(frozen=True)
class Problem:
    """One finding: where it is (``file:line`` or an option), the key, and what is wrong."""

    where: str
    key: Key
    message: str

    def __str__(self) -> str:
        parts = (self.where, dotted(self.key), self.message)
        return ": ".join(part for part in parts if part)


def raise_problems(problems: Iterable[Problem], *, where: str, remedy: str) -> None:
    """Raise one ``ConfigError`` that lists all ``problems``, each once; return if there are none."""
    found = tuple(str(problem) for problem in dict.fromkeys(problems))
    if found:
        count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
        raise ConfigError(count, where=where, remedy=remedy, problems=found)


# --- reading --------------------------------------------------------------------------------------


def read_toml(path: Path, label: str | None = None) -> TomlFile:
    """Read a TOML file of at most 1 MiB; ``ConfigError`` with the line when it is not valid TOML."""
    label = label or str(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TOML_BYTES + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot be read: {reason}", where=label, remedy="check the path") from error
    if len(data) > MAX_TOML_BYTES:
        raise ConfigError(f"is larger than {MAX_TOML_BYTES} bytes", where=label)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not UTF-8: {error.reason} at byte {error.start}", where=label) from error
    return parse_toml(text, label)


def parse_toml(text: str, label: str) -> TomlFile:
    """Parse TOML text; ``label`` names it in messages."""
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also of int(): thousands of digits
        message, line = _syntax_error(str(error))
        where = f"{label}:{line}" if line else label
        raise ConfigError(
            f"is not valid TOML: {message}", where=where, remedy="correct this line; text is in quotes"
        ) from error
    return TomlFile(label, tables, _key_lines(text))


def _syntax_error(message: str) -> tuple[str, str | None]:
    match = re.fullmatch(r"(.*) \(at line (\d+), column \d+\)", message)
    return (match[1], match[2]) if match else (message, None)


# One element of a dotted key; and what a value is made of, so that its end is found without parsing it twice.
_KEY_PART = r"(?:[A-Za-z0-9_-]+|\"(?:\\.|[^\"\\\n])*\"|'[^'\n]*')"
_KEY = re.compile(rf"{_KEY_PART}(?:[ \t]*\.[ \t]*{_KEY_PART})*")
_HEADER = re.compile(r"\[\[?[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_VALUE_TOKEN = re.compile(
    r"\"\"\"(?:\\.|[^\\])*?\"{3,5}|'''.*?'{3,5}|\"(?:\\.|[^\"\\\n])*\"|'[^'\n]*'|#[^\n]*|[\[{]|[\]}]|\n|[^\"'#\[\]{}\n]+",
    re.DOTALL,
)


def _key_lines(text: str) -> dict[Key, int]:
    """The line of each table header and ``key = value``, for text that is known to be valid TOML.

    Keys of inline tables are not listed: they lie on the line of the key that holds them.
    """
    lines: dict[Key, int] = {}
    counts: dict[Key, int] = {}
    table: Key = ()
    line, counted = 1, 0
    position = _skip(_BLANK, text, 0)
    while position < len(text):
        line, counted = line + text.count("\n", counted, position), position
        header = _HEADER.match(text, position)
        start = header.end() if header else position
        match = _KEY.match(text, start)
        if match is None:  # tomllib accepted what this scanner does not know: better no line than a wrong one
            return lines
        names = _indexed(parse_key(match[0]), counts)
        if header and header[0].startswith("[["):
            counts[names] = counts.get(names, -1) + 1
            lines.setdefault(names, line)
            names = (*names, counts[names])
        key = names if header else (*table, *parse_key(match[0]))
        table = names if header else table
        for length in range(1, len(key) + 1):
            lines.setdefault(key[:length], line)
        if header:
            lines[key] = line
        position = _skip(_BLANK, text, _end_of_value(text, match.end()))
    return lines


def _indexed(key: Key, counts: Mapping[Key, int]) -> Key:
    """Insert the current index behind each array of tables that a header passes through."""
    result: Key = ()
    for position, name in enumerate(key):
        result = (*result, name)
        if result in counts and position < len(key) - 1:
            result = (*result, counts[result])
    return result


def _end_of_value(text: str, position: int) -> int:
    depth = 0
    while match := _VALUE_TOKEN.match(text, position):
        position = match.end()
        if match[0] == "\n" and depth <= 0:
            break
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
    return position


def _skip(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def parse_key(text: str) -> tuple[str, ...]:
    """The parts of a dotted TOML key; ``ValueError`` when it is not one.

    >>> parse_key('targets."my.target".compress')
    ('targets', 'my.target', 'compress')
    """
    if not _KEY.fullmatch(text.strip()):
        raise ValueError(f"{text!r} is not a dotted key")
    node: Any = tomllib.loads(f"{text.strip()} = 0")
    parts: list[str] = []
    while isinstance(node, dict):
        ((name, node),) = node.items()
        parts.append(name)
    return tuple(parts)


def dotted(key: Key) -> str:
    """A key as people write it.

    >>> dotted(("weights", 1, "bits"))
    'weights[1].bits'
    """
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


# --- validating -----------------------------------------------------------------------------------


# What TOML calls the shapes that pydantic names in Python's words.
_SHAPES = {
    "model_type": "a table",
    "dict_type": "a table",
    "tuple_type": "a list",
    "list_type": "a list",
    "bool_type": "true or false",
    "string_type": "a string",
}


def validate(model: type[ModelT], file: TomlFile, *, remedy: str) -> ModelT:
    """``model`` made of the file's tables; every finding in one ``ConfigError``."""
    try:
        return model.model_validate(file.tables)
    except ValidationError as error:
        problems = [Problem(file.locate(key), key, text) for key, text in findings(model, error)]
        raise_problems(problems, where=file.label, remedy=remedy)
        raise  # unreachable: a ValidationError has at least one finding


def named_file(model: type[NamedT], name_or_path: str | Path, folder: Path, *, kind: str) -> NamedT:
    """One of the shipped files of a kind by name, or one of the user's own by path to its ``.toml``.

    Parameters
    ----------
    folder: where the shipped ones lie.
    kind: what the files describe, as the option that takes it is called: ``target``.

    Raises
    ------
    ConfigError: unknown name (with the nearest), every problem of the file at once, or a name in the file
        that is not the file's.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        names = sorted(found.stem for found in folder.glob("*.toml"))
        if str(name_or_path) not in names:
            raise ConfigError(
                f"unknown {kind} '{name_or_path}'{nearest(str(name_or_path), names)}",
                where=f"--{kind}",
                remedy=f"choose one of {', '.join(names)}, or give the path of a {kind}'s .toml file",
            )
        path = folder / f"{name_or_path}.toml"
    found = validate(model, read_toml(path), remedy=f"correct the {kind} file")
    if found.name != path.stem:
        raise ConfigError(
            f"holds the {kind} '{found.name}'", where=str(path), remedy=f"name the file {found.name}.toml"
        )
    return found


def findings(model: type[BaseModel], error: ValidationError) -> list[tuple[Key, str]]:
    """Each finding of pydantic as the key it is about and a message for the user."""
    details = error.errors(include_url=False)
    return [(_file_key(detail["loc"]), _message(model, detail)) for detail in details]


def _message(model: type[BaseModel], detail: Any) -> str:
    kind, key = detail["type"], detail["loc"]
    if kind == "extra_forbidden":
        return f"unknown key{_hint(model, key)}"
    if kind == "missing":
        return f"is required{_meaning(model, key)}"
    message: str = _SHAPES.get(kind, detail["msg"])
    message = message.removeprefix("Value error, ").removeprefix("Input should be ")
    if kind == "value_error":
        return message
    if kind == "too_short" and detail["ctx"]["actual_length"]:
        return f"must hold at least {detail['ctx']['min_length']}, not {detail['ctx']['actual_length']}"
    if kind in ("too_short", "string_too_short") and not detail["input"]:
        return "must not be empty"
    if kind == "string_too_long":
        return f"must have at most {detail['ctx']['max_length']} characters, not {len(detail['input'])}"
    hint = nearest(str(detail["input"]), _allowed(detail)) if kind == "literal_error" else ""
    return f"must be {message}, not {_shown(detail['input'])}{hint}"


def _shown(value: object) -> str:
    """What was given, shortened."""
    given = repr(value)
    return given if len(given) <= 60 else f"{given[:57]}..."


def _allowed(detail: Any) -> list[str]:
    """The values that a ``Literal`` allows; pydantic tells them as text, each in quotes."""
    return re.findall(r"'([^']*)'", detail["ctx"]["expected"])


def _hint(model: type[BaseModel], key: Key) -> str:
    """The nearest sibling of an unknown key, else the section where a key of that name does belong."""
    name = str(key[-1])
    siblings = _fields(_model_at(model, key[:-1]))
    if hint := nearest(name, siblings):
        return hint
    tables = {section: _fields(_model_at(model, (section,))) for section in _fields(model)}
    for section, known in tables.items():
        if name in known and section != key[0]:
            return f"; it belongs in [{section}]"
    return f" (known: {', '.join(siblings)})" if siblings else ""


def _meaning(model: type[BaseModel], key: Key) -> str:
    """What a key says, in its description's first sentence."""
    around = _model_at(model, key[:-1])
    known = around.model_fields.values() if around else ()
    texts = (info.description for name, info in zip(_fields(around), known, strict=True) if name == key[-1])
    text = next((text for text in texts if text), "")
    return f": {text[0].lower()}{text[1:].split('. ')[0].rstrip('.')}" if text else ""


def _fields(model: type[BaseModel] | None) -> list[str]:
    return [info.alias or name for name, info in model.model_fields.items()] if model else []


def _model_at(model: type[BaseModel], key: Key) -> type[BaseModel] | None:
    """The model that describes the table at ``key``."""
    current: type[BaseModel] | None = model
    for part in key:
        if current is None:
            return None
        fields = {info.alias or name: info.annotation for name, info in current.model_fields.items()}
        # Below a mapping or a list, a name or an index stays with the element's model.
        current = inner_model(fields[part]) if part in fields else current
    return current


def inner_model(annotation: Any) -> type[BaseModel] | None:
    """The model of the table, or of each of several tables, that an annotation describes; None for values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(inner_model, typing.get_args(annotation))), None)


def leaf_keys(model: type[BaseModel]) -> Iterator[Key]:
    """The key of every value that tables of ``model`` may hold, tables inside them included."""
    for name, info in model.model_fields.items():
        key, inner = info.alias or name, inner_model(info.annotation)
        yield from ([(key,)] if inner is None else ((key, *rest) for rest in leaf_keys(inner)))


def _file_key(key: Key) -> Key:
    """A pydantic location without the parts that are no keys of the file (``dict`` key markers)."""
    return tuple(part for part in key if part != "[key]")


# --- values ---------------------------------------------------------------------------------------


def parse_size(text: str) -> int:
    """Bytes of a size with its unit: B, kB (1000), MB, KiB (1024), MiB; ``ValueError`` otherwise.

    >>> parse_size("6 kB"), parse_size("1.5kB"), parse_size("2 KiB")
    (6000, 1500, 2048)
    """
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)[ ]?([A-Za-z]+)", text.strip())
    if match is None or match[2] not in UNITS:
        unit = match[2] if match else ""
        units = f"units: {', '.join(UNITS)}"
        raise ValueError(f'{text!r} is not a size such as "6 kB" ({units}){_meant(unit)}')
    size = Decimal(match[1]) * UNITS[match[2]]
    if size < 1 or size != int(size):
        raise ValueError(f"{text!r} is not a whole number of bytes, at least 1")
    return int(size)


def _meant(unit: str) -> str:
    """A guess at a unit that is none: in two letters, none of them right, most likely the most usual one.

    >>> _meant("KB"), _meant("zB"), _meant("k")
    ("; did you mean 'kB'?", "; did you mean 'kB'?", "; did you mean 'kB'?")
    """
    longer = [known for known in UNITS if len(known) > 1]
    return nearest(unit, longer) or (nearest("kB", longer) if len(unit) == len("kB") else "")
