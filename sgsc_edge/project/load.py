"""Read a project: ``sgsc.toml`` (or ``[tool.sgsc-edge]``), overrides of one target, and the command line.

Four layers, each over the one before: the file, its ``[targets.<name>.*]`` tables, ``--set key=value``,
``--set targets.<name>.key=value``. Every problem of every layer is reported at once, where it was written.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from sgsc_edge.artifacts import content_key, sha256_file
from sgsc_edge.config_text import (
    Key,
    Problem,
    TomlFile,
    dotted,
    findings,
    parse_key,
    raise_problems,
    read_toml,
)
from sgsc_edge.errors import ConfigError
from sgsc_edge.hints import nearest
from sgsc_edge.project.budgets import Budget
from sgsc_edge.project.schema import GOALS, Config, not_yet, setting_names

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sgsc_edge.project.datasets import CheckedDataset

FILE_NAME = "sgsc.toml"
_SET = "--set"
_IGNORED_FOLDERS = frozenset({"__pycache__", "build", "dist", "node_modules", "site-packages"})

Part = Literal["train", "test", "pool", "holdout", "must_keep"]

_IDLE = {
    "mixed": "every channel stays, at the target's smallest widths",
    "qat8": "every channel stays, in 8 bits",
    "ptq": "every channel stays, in 8 bits",
    "own": "what your own loop has saved ships as it is (weights without a method are held to a budget)",
}
"""The methods that look for no size, and what they do instead."""


@dataclass(frozen=True)
class Option:
    """A setting that an option of its own gives, and not ``--set``: messages name the option.

    ``name``: of the option; ``setting``: ``"section.key=value"``.
    """

    name: str
    setting: str


@dataclass(frozen=True)
class _Settings(TomlFile):
    """The settings of the command line; ``options``: which option gave each."""

    options: Mapping[Key, str]

    def locate(self, key: Key) -> str:
        """The options that gave ``key``, or what lies below it."""
        given = {option: None for own, option in self.options.items() if own[: len(key)] == key[: len(own)]}
        return ", ".join(given) or self.label

    def has_own(self, key: Key) -> bool:
        """Whether an option of its own gave ``key``, which then goes without saying."""
        return self.options.get(key, self.label) != self.label


@dataclass(frozen=True)
class _Layer:
    """One layer of settings: where its tables were written, and under which key."""

    tables: Mapping[str, Any]
    source: TomlFile
    prefix: Key

    def holds(self, key: Key) -> bool:
        value: Any = self.tables
        for part in key:
            if not isinstance(value, Mapping):
                return value is not self.tables  # an index into a list, or a table that is none
            if part not in value:
                return False
            value = value[part]
        return True


@dataclass(frozen=True)
class Project:
    """A validated project.

    ``root`` is the folder of the project file; user code and relative paths start there. ``target`` is set on
    the projects that ``for_target`` returns.
    """

    root: Path
    config: Config
    file: TomlFile
    settings: TomlFile
    target: str | None = None

    def for_target(self, name: str) -> Project:
        """The project with the overrides of target ``name`` in force (itself where it has none)."""
        config = Config.model_validate(_merged(_layers(self.file, self.settings, name)))
        return replace(self, config=config, target=name)

    def under(self, budget: Budget) -> Project:
        """The project with one budget."""
        compress = self.config.compress.model_copy(update={"budget": (budget,)})
        return replace(self, config=self.config.model_copy(update={"compress": compress}))

    def where(self, *key: str) -> str:
        """``file:line: key`` of a setting, for messages."""
        where, shown = _written(_layers(self.file, self.settings, self.target), key)
        return ": ".join(part for part in (where, dotted(shown)) if part)

    def config_hash(self, *sections: str) -> str:
        """SHA-256 of the settings in force: of the named sections, or of all."""
        settings = self.config.model_dump(mode="json", by_alias=True)
        return content_key({name: settings[name] for name in sections or settings})

    @property
    def saw_pool(self) -> bool:
        """Whether float training saw the pool; unless stated, yes where it is cut from the training data."""
        stated = self.config.model.saw_pool
        return stated if stated is not None else self.config.data.pool is None

    @property
    def gate_reference(self) -> Literal["float", "control"]:
        """What the compression gate compares with; unless stated, a control where ``saw_pool``."""
        return self.config.gate.reference or ("control" if self.saw_pool else "float")

    def has_dataset(self, part: Part) -> bool:
        """Whether the user named a data set for ``part``."""
        return self.dataset_spec(part) is not None

    def dataset_spec(self, part: Part) -> str | None:
        """The ``module:function`` that makes the data set of ``part``; None where the user names none."""
        section = self.config.preservation if part == "must_keep" else self.config.data
        spec = getattr(section, part)
        return spec if isinstance(spec, str) else None  # must_keep may be a number

    def source_files(self) -> dict[str, str]:
        """SHA-256 of the user's files by path relative to ``root``: Python files, checkpoint and weights."""
        paths = _python_files(self.root)
        if self.config.model.checkpoint is not None:
            paths.append(self.root / self.config.model.checkpoint)
        if self.config.compress.weights is not None:
            paths.append(self.root / self.config.compress.weights)
        return {_relative(path, self.root): sha256_file(path) for path in sorted(paths) if path.is_file()}

    def source_hash(self) -> str:
        """SHA-256 over ``source_files``: changes whenever the user's code or checkpoint does."""
        return content_key(self.source_files())

    def load_model(self) -> nn.Module:
        """The user's float model in evaluation mode, checkpoint loaded, checked; raises ``ModelError``."""
        from sgsc_edge.project.model import load_model

        return load_model(self)

    def output_size(self, model: nn.Module) -> int:
        """Number of classes K of a model's logits [n, K] (of a language model [n, T, K]).

        Raises ``ModelError`` where they are not that.
        """
        from sgsc_edge.project.model import output_size

        return output_size(self, model)

    def vocabulary(self, model: nn.Module) -> int | None:
        """How many tokens a language model's embedding has; None where none reads the tokens."""
        from sgsc_edge.project.model import vocabulary

        return vocabulary(self, model)

    def load_dataset(
        self, part: Part, num_classes: int | None = None, tokens: int | None = None
    ) -> CheckedDataset:
        """The user's data set of ``part``; each sample is checked when it is read; raises ``DataError``.

        ``num_classes`` bounds the labels; without it the number of ``data.classes`` does, where given.
        ``tokens`` bounds the inputs of a language model.
        """
        from sgsc_edge.project.datasets import load_dataset

        return load_dataset(self, part, num_classes, tokens)

    def augment(self) -> Callable[[Tensor, int], Tensor] | None:
        """The user's ``data.augment``: (inputs float32 [n, ...], seed) -> inputs of the same shape, checked.

        None where the user names none; the function raises ``DataError``.
        """
        from sgsc_edge.project.datasets import load_augment

        return load_augment(self)


def load_project(
    path: Path | str = ".",
    overrides: Sequence[str | Option] = (),
    *,
    known_targets: Collection[str] | None = None,
) -> Project:
    """Load and validate a project.

    Parameters
    ----------
    path: the project's folder, or its ``sgsc.toml`` or ``pyproject.toml``.
    overrides: ``"section.key=value"`` settings; the value is TOML, or else taken as text. An ``Option`` is
        named by messages in place of ``--set``.
    known_targets: names that ``[targets.<name>]`` may have; None accepts any.

    Raises ``ConfigError`` with every problem, each at its file and line, or at its option.
    """
    return make_project(*_find(Path(path)), overrides, known_targets=known_targets)


def make_project(
    file: TomlFile,
    root: Path,
    overrides: Sequence[str | Option] = (),
    *,
    known_targets: Collection[str] | None = None,
) -> Project:
    """A project of a parsed file for the folder ``root``, as :func:`load_project` makes it."""
    settings = _parse_settings(overrides)
    names = sorted({*_targets(file), *_targets(settings)})
    problems = _target_problems(file, known_targets) + _target_problems(settings, known_targets)
    problems += _idle_goals(settings)
    for name in (None, *names):
        problems += _problems(_layers(file, settings, name))
    typed = all(problem.where.startswith("--") for problem in problems)
    raise_problems(
        problems,
        where="command line" if typed else file.label,
        remedy=f"correct {'these options' if typed else 'these settings'}",
    )
    return Project(root, Config.model_validate(_merged(_layers(file, settings, None))), file, settings)


# --- finding the files ----------------------------------------------------------------------------


def _find(path: Path) -> tuple[TomlFile, Path]:
    candidates = [path / FILE_NAME, path / "pyproject.toml"] if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.name == "pyproject.toml" and candidate.is_file():
            file = read_toml(candidate)
            if isinstance(tool := file.tables.get("tool"), dict) and isinstance(tool.get("sgsc-edge"), dict):
                return file.below(("tool", "sgsc-edge")), candidate.parent.resolve()
        elif candidate.is_file():
            return read_toml(candidate), candidate.parent.resolve()
    if path.is_dir():
        missing = f"no {FILE_NAME} here, nor a pyproject.toml with [tool.sgsc-edge]"
    elif path.is_file():
        missing = "has no [tool.sgsc-edge] table"
    else:
        missing = "does not exist"
    raise ConfigError(
        missing,
        where=str(path),
        remedy=f"give the folder that holds your {FILE_NAME}; sgsc-edge init makes a project",
    )


def _python_files(root: Path) -> list[Path]:
    found: list[Path] = []
    folders = [root]
    while folders:
        for entry in sorted(folders.pop().iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                environment = (entry / "pyvenv.cfg").exists()
                if not (entry.name.startswith(".") or entry.name in _IGNORED_FOLDERS or environment):
                    folders.append(entry)
            elif entry.suffix == ".py":
                found.append(entry)
    return found


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


# --- layers ---------------------------------------------------------------------------------------


def _parse_settings(overrides: Sequence[str | Option]) -> _Settings:
    """The settings of the command line as one tree of tables."""
    tables: dict[str, Any] = {}
    options: dict[Key, str] = {}
    problems = []
    for given in overrides:
        option, text = (given.name, given.setting) if isinstance(given, Option) else (_SET, given)
        name, equals, value = text.partition("=")
        try:
            if not equals:
                raise ValueError("no '='")
            key = parse_key(name)
        except ValueError:
            problems.append(Problem(_SET, (), f'{text!r} is not of the form "section.key=value"'))
            continue
        table = tables
        for part in key[:-1]:
            if not isinstance(table.get(part), dict):
                table[part] = {}
            table = table[part]
        table[key[-1]] = _parse_value(value)
        options[key] = option
    raise_problems(problems, where="command line", remedy="for example: --set compress.epochs=2")
    return _Settings(_SET, tables, {}, options)


def _idle_goals(settings: TomlFile) -> list[Problem]:
    """A budget or a floor that the method beside it on the command line makes nothing of.

    Below a file's method, or above it, one of the two may be meant for other builds: that is a warning.
    """
    given = settings.tables.get("compress")
    if not isinstance(given, Mapping):
        return []
    method = given.get("method", "own" if "weights" in given else None)
    # Weights that another loop has saved are held to a budget; a method that is named besides is a mistake.
    goals = [goal for goal in ("budget", "floor") if goal in given and (goal == "floor" or "method" in given)]
    if not goals or method not in _IDLE:
        return []
    keys: list[Key] = [("compress", name) for name in ("method", "weights", *goals) if name in given]
    where = ", ".join(dict.fromkeys(settings.locate(key) for key in keys))
    return [Problem(where, (), f"method '{method}' takes no {goals[0]}: {_IDLE[method]}; leave one out")]


def _parse_value(text: str) -> object:
    """A TOML value, or the text itself, so that shells need no second pair of quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text.strip()


def _targets(file: TomlFile) -> Mapping[str, Any]:
    tables = file.tables.get("targets")
    return tables if isinstance(tables, Mapping) else {}


def _target_problems(file: TomlFile, known: Collection[str] | None) -> list[Problem]:
    problems = []
    for name, tables in _targets(file).items():
        key: Key = ("targets", name)
        if known is not None and name not in known:
            problems.append(Problem(file.locate(key), key, f"unknown target{nearest(name, known)}"))
        if not isinstance(tables, Mapping):
            problems.append(Problem(file.locate(key), key, "must be a table of sections"))
        elif "targets" in tables:
            problems.append(Problem(file.locate((*key, "targets")), (*key, "targets"), "unknown key"))
    return problems


def _layers(file: TomlFile, settings: TomlFile, target: str | None) -> list[_Layer]:
    layers = []
    for source in (file, settings):
        general = {name: table for name, table in source.tables.items() if name != "targets"}
        if not isinstance(source.tables.get("targets", {}), Mapping):
            general["targets"] = source.tables["targets"]  # for validation to refuse
        layers.append(_Layer(general, source, ()))
        own = _targets(source).get(target) if target is not None else None
        if isinstance(own, Mapping):
            own = {name: table for name, table in own.items() if name != "targets"}
            layers.append(_Layer(own, source, ("targets", str(target))))
    return layers


def _merged(layers: Sequence[_Layer]) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    for layer in layers:
        tables = _merge(_without_goals(tables, layer.tables), layer.tables)
    return tables


def _without_goals(below: Mapping[str, Any], above: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tables below, without the goals that a goal of the tables above them takes the place of."""
    old, new = below.get("compress"), above.get("compress")
    if not (isinstance(old, Mapping) and isinstance(new, Mapping) and any(goal in new for goal in GOALS)):
        return below
    return {**below, "compress": {name: value for name, value in old.items() if name not in GOALS}}


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[name] = _merge(old, value)
        else:
            merged[name] = value
    return merged


def _problems(layers: Sequence[_Layer]) -> list[Problem]:
    tables = _merged(layers)
    found = not_yet(tables)
    try:
        Config.model_validate(tables)
    except ValidationError as error:
        found = findings(Config, error) + found
    return [_problem(layers, key, message) for key, message in found]


def _problem(layers: Sequence[_Layer], key: Key, message: str) -> Problem:
    """What is wrong between sections is located by the setting that the message begins with."""
    named = message.partition(" ")[0].rstrip(":")
    if key or named not in setting_names():
        return Problem(*_written(layers, key), message)
    where, _ = _written(layers, parse_key(named))
    return Problem(where, (), message)


def _written(layers: Sequence[_Layer], key: Key) -> tuple[str, Key]:
    """Where the value in force of ``key`` was written, and under which key.

    That is ``file:line`` or ``--set``, or an option that stands for the key: then no key is told.
    """
    for layer in reversed(layers):
        if layer.holds(key):
            own = layer.prefix + key
            named = isinstance(layer.source, _Settings) and layer.source.has_own(own)
            return layer.source.locate(own), () if named else own
    return layers[0].source.locate(key), key
