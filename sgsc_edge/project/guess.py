"""What can be found out about a user's own network and data, so that nobody has to write it down.

What cannot be found out is an ``InputError`` that names the option which answers it.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from sgsc_edge.errors import ConfigError, DataError, InputError, ModelError
from sgsc_edge.hints import nearest
from sgsc_edge.project.datasets import make_dataset, sample_shape
from sgsc_edge.project.model import fitting_state, make_model
from sgsc_edge.project.schema import CHECKPOINTS
from sgsc_edge.project.user_code import import_module, user_code

FROM, DATA, INPUT, CHECKPOINT = "--from", "--data", "--input", "--checkpoint"
NO_CHECKPOINT = "none"
_SEED = 0
_DATA_FILE = "data.py"
_TRAIN, _TEST = "train", "test"


@dataclass(frozen=True)
class Answers:
    """What the user says: ``source`` is ``FILE.py:NAME`` or ``FILE.py``; the rest may be left to be found.

    ``data``: ``FILE.py:TRAIN,TEST``. ``shape``: of one sample, no batch dimension. ``checkpoint``: a file, or
    ``none``.
    """

    source: str
    data: str | None = None
    shape: tuple[int, ...] | None = None
    checkpoint: str | None = None


@dataclass(frozen=True)
class Found:
    """A network and its data, as ``sgsc.toml`` names them.

    Parameters
    ----------
    root: the project's folder.
    factory, train, test: ``module:function``; ``test`` is None where there is none.
    shape: of one sample.
    parameters: of the network.
    checkpoint: relative to ``root``; None without one.
    samples: of the training data.
    names: of the classes, where the data have them.
    """

    root: Path
    factory: str
    train: str
    test: str | None
    shape: tuple[int, ...]
    parameters: int
    checkpoint: str | None
    samples: int
    names: tuple[str, ...] | None


def find(answers: Answers, folder: Path | None) -> Found:
    """Look at the user's network and data.

    Parameters
    ----------
    folder: the project's folder; None for the one that holds the network's file.

    Raises
    ------
    InputError: something is missing, ambiguous or wrong; ``where`` is the option that answers it.
    """
    file, name = _locate(answers.source, folder, FROM)
    root = (file.parent if folder is None else folder).resolve()
    factory = _factory(root, file, name)
    model = make_model(root, factory, _SEED, FROM)
    train, test = _data(answers.data, root, file, model)
    dataset = make_dataset(root, train, _SEED, DATA)
    shape = sample_shape(dataset, DATA, root)
    _check_shape(answers.shape, shape, train, factory, model)
    return Found(
        root=root,
        factory=factory,
        train=train,
        test=test,
        shape=shape,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        checkpoint=_checkpoint(answers.checkpoint, root, model, factory),
        samples=len(dataset),
        names=_names(dataset),
    )


# --- the network ----------------------------------------------------------------------------------


def _factory(root: Path, file: Path, name: str) -> str:
    """``module:name`` of what makes the network without being told anything."""
    module_name = _module_name(file, root, FROM)
    with user_code(root, _SEED):
        module = import_module(root, module_name, where=FROM, error=ModelError)
    if not name:
        name = _only_network(module, file)
    value = getattr(module, name, None)
    if value is None:
        hint = nearest(name, (key for key in vars(module) if not key.startswith("_")))
        raise ModelError(
            f"{file.name} has no '{name}'{hint}", where=FROM, remedy=_name_one(file, _networks(module))
        )
    asks = _required(value)
    if asks or isinstance(value, nn.Module):
        what = f"needs {', '.join(asks)}" if asks else "is a network, not what makes one"
        given = f"{name}({', '.join(f'{each}=...' for each in asks)})" if asks else name
        raise ModelError(
            f"'{name}' {what}",
            where=FROM,
            remedy=f"add to {file.name} a function that needs nothing, def build(): return {given}, and "
            f"name it: {FROM} {file.name}:build",
        )
    return f"{module_name}:{name}"


def _only_network(module: ModuleType, file: Path) -> str:
    names = _networks(module)
    if len(names) != 1:
        others = [
            name
            for name in _own_functions(module)
            if inspect.isfunction(vars(module)[name]) and not _required(vars(module)[name])
        ]
        none = "has no class of a network"
        if others:
            none += f", and of its functions ({', '.join(others)}) none is seen to return one"
        several = f"has several networks: {', '.join(names)}" if names else none
        raise ModelError(f"{file.name} {several}", where=FROM, remedy=_name_one(file, names))
    return names[0]


def _networks(module: ModuleType) -> list[str]:
    """What makes networks in a module: its classes and functions that need no arguments, else its classes."""
    own = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and _home(value) == module.__name__
    ]
    makers = [name for name in _own_functions(module) if _returns_network(module, getattr(module, name))]
    ready = [name for name in own if not _required(getattr(module, name))]
    return [*ready, *makers] or own


def _returns_network(module: ModuleType, function: Any) -> bool:
    """Whether a function without required arguments is seen to return a network: it is read and not run.

    Its annotation says so, or it returns at once what a class of networks makes.
    """
    if not inspect.isfunction(function) or _required(function):
        return False
    with contextlib.suppress(Exception):  # an annotation is any code
        stated = inspect.signature(function, eval_str=True).return_annotation
        if isinstance(stated, type) and issubclass(stated, nn.Module):
            return True
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError):  # made elsewhere, or a lambda within a line
        return False
    returned = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)]
    return bool(returned) and all(_makes_network(module, value) for value in returned)


def _makes_network(module: ModuleType, value: ast.expr | None) -> bool:
    """Whether an expression makes a network: ``Net(4)``, ``nn.Sequential()``, ``Net().eval()``."""
    if not isinstance(value, ast.Call):
        return False
    if isinstance(value.func, ast.Attribute) and _makes_network(module, value.func.value):
        return True
    made: object = module
    for part in ast.unparse(value.func).split("."):
        made = getattr(made, part, None)
    return isinstance(made, type) and issubclass(made, nn.Module)


def _name_one(file: Path, names: Sequence[str]) -> str:
    return f"name the class or function that makes yours: {FROM} {file.name}:{names[0] if names else 'NAME'}"


def _first_layer(model: nn.Module) -> tuple[str, str, nn.Module] | None:
    """Name of the first layer with weights, what one sample for it looks like, and the layer itself."""
    for name, layer in model.named_modules():
        if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
            sizes = "length" if isinstance(layer, nn.Conv1d) else "height, width"
            return name, f"[{layer.in_channels}, {sizes}]", layer
        if isinstance(layer, nn.Linear):
            return name, f"{layer.in_features} values", layer
    return None


def _takes(layer: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether a first layer may be given a sample; a Linear may also read a flattened one, or rows."""
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        return len(shape) == len(layer.kernel_size) + 1 and shape[0] == layer.in_channels
    return not isinstance(layer, nn.Linear) or layer.in_features in (prod(shape), *shape[-1:])


def _runs(model: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether a network computes something of two samples."""
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(2, *shape))
    except Exception:  # what it raises is the user's; the caller says what is likely wrong
        return False
    return True


def _check_shape(
    stated: tuple[int, ...] | None, shape: tuple[int, ...], train: str, factory: str, model: nn.Module
) -> None:
    """Refuse samples of another shape than the user states, or that the first layer does not take.

    Layers are listed as they are defined, which may not be how they run: the network is asked first.
    """
    if stated is not None and stated != shape:
        raise ConfigError(
            f"{list(stated)} is not what '{train}' gives: its samples are {list(shape)}",
            where=INPUT,
            remedy=f"correct the data set, or leave {INPUT} out",
        )
    first = _first_layer(model)
    if first is not None and not _takes(first[2], shape) and not _runs(model, shape):
        name, takes, layer = first
        raise DataError(
            f"the samples of '{train}' are {list(shape)}; the first layer of '{factory}', "
            f"{type(layer).__name__} '{name}', takes {takes}",
            where=DATA,
            remedy="return samples of that shape, channels first and without a batch dimension",
        )


# --- the data -------------------------------------------------------------------------------------


def _data(given: str | None, root: Path, model_file: Path, model: nn.Module) -> tuple[str, str | None]:
    """``module:function`` of the training data, and of the test data where there are some."""
    file = model_file.with_name(_DATA_FILE)
    if given is None and not file.is_file():
        first = _first_layer(model)
        sample = "float32 tensor" if first is None else f"float32 {first[1]}"
        raise DataError(
            f"there is no {_DATA_FILE} beside {model_file.name}, and no data set is named",
            where=DATA,
            remedy=f"write {_DATA_FILE} with functions {_TRAIN}() and {_TEST}() that each return a torch "
            f"Dataset of (input: {sample}, label: int), or name yours: {DATA} FILE.py:TRAIN,TEST",
        )
    names: list[str] = []
    if given is not None:
        file, text = _locate(given, root, DATA)
        names = [name.strip() for name in text.split(",") if name.strip()]
    if len(names) > 2:
        raise ConfigError(f"names {len(names)} data sets", where=DATA, remedy="name two: training, test")
    module_name = _module_name(file, root, DATA)
    with user_code(root, _SEED):
        module = import_module(root, module_name, where=DATA, error=DataError)
    names = names or [_TRAIN, *([_TEST] if callable(getattr(module, _TEST, None)) else [])]
    own = list(_own_functions(module))
    for name in names:
        _check_data_function(module, file, name, own)
    specs = [f"{module_name}:{name}" for name in names]
    return specs[0], specs[1] if len(specs) > 1 else None


def _check_data_function(module: ModuleType, file: Path, name: str, own: list[str]) -> None:
    value = getattr(module, name, None)
    if not callable(value):
        listed = f"; it has {', '.join(own)}" if own else ""
        raise DataError(
            f"{file.name} has no function '{name}'{nearest(name, own) or listed}",
            where=DATA,
            remedy=f"name those that return the data sets: {DATA} {file.name}:TRAIN,TEST",
        )
    if asks := _required(value):
        raise DataError(
            f"'{name}' needs {', '.join(asks)}",
            where=DATA,
            remedy=f"add to {file.name} a function that needs nothing and returns the data set, and name it",
        )


def _own_functions(module: ModuleType) -> Iterator[str]:
    for name, value in vars(module).items():
        if callable(value) and not name.startswith("_") and _home(value) == module.__name__:
            yield name


def _home(value: object) -> str | None:
    """The module that defines a function or class."""
    return getattr(value, "__module__", None)


def _names(dataset: Any) -> tuple[str, ...] | None:
    """Names of the classes, as torchvision's data sets have them in ``classes``."""
    names = getattr(dataset, "classes", None)
    if not isinstance(names, (list, tuple)) or not all(_is_text(name) for name in names):
        return None
    return tuple(names) if len(set(names)) == len(names) >= 2 else None


def _is_text(value: object) -> bool:
    """Whether a value can be written to a file: text, and in UTF-8, which lone surrogates are not."""
    try:
        return isinstance(value, str) and bool(value.encode() or True)
    except UnicodeEncodeError:
        return False


# --- the checkpoint -------------------------------------------------------------------------------


def _checkpoint(given: str | None, root: Path, model: nn.Module, factory: str) -> str | None:
    """The one checkpoint that fits the network; None where there is none, or where the user wants none."""
    if given == NO_CHECKPOINT:
        return None
    if given is not None:
        file = next((base / given for base in (Path(), root) if (base / given).is_file()), None)
        if file is None:
            hint = nearest(Path(given).name, (path.name for path in _checkpoints(root)))
            raise ModelError(f"there is no file {given}{hint}", where=CHECKPOINT, remedy="correct the path")
        file = file.resolve()
        path = (file.relative_to(root) if file.is_relative_to(root) else file).as_posix()
        if not _is_text(path):
            raise ModelError("the name of this file is not UTF-8", where=CHECKPOINT, remedy="rename it")
        fitting_state(model, file, CHECKPOINT)
        return path
    refused: list[InputError] = []
    fitting = []
    for file in _checkpoints(root):
        try:
            fitting_state(model, file, CHECKPOINT)
            fitting.append(file.name)
        except ModelError as error:
            refused.append(error)
    if len(fitting) > 1:
        raise ModelError(
            f"several checkpoints fit '{factory}': {', '.join(fitting)}",
            where=CHECKPOINT,
            remedy=f"name one: {CHECKPOINT} {fitting[0]}",
        )
    if refused and not fitting:
        first = refused[0]
        raise ModelError(
            first.message,
            where=CHECKPOINT,
            remedy=f"{first.remedy}; or name another one; {CHECKPOINT} {NO_CHECKPOINT} where the factory "
            "loads its weights by itself",
        )
    return fitting[0] if fitting else None


def _checkpoints(root: Path) -> list[Path]:
    """Those of a folder, without names that ``sgsc.toml`` cannot hold."""
    files = (path for path in root.iterdir() if path.suffix in CHECKPOINTS and path.is_file())
    return sorted(path for path in files if _is_text(path.name))


# --- names ----------------------------------------------------------------------------------------


def _locate(spec: str, folder: Path | None, option: str) -> tuple[Path, str]:
    """The file of ``FILE.py:NAME`` or ``module:NAME``, and the name, empty where none is given."""
    text, _, name = spec.partition(":")
    path = Path(text if text.endswith(".py") else f"{text.replace('.', '/')}.py")
    bases = [Path()] if folder is None else [Path(), folder]
    for base in bases:
        if (base / path).is_file():
            return (base / path).resolve(), name
    near = (file.name for base in bases for file in (base / path.parent).glob("*.py"))
    raise ConfigError(
        f"there is no file {path}{nearest(path.name, near)}",
        where=option,
        remedy=f"give {option} FILE.py:NAME",
    )


def _module_name(file: Path, root: Path, option: str) -> str:
    """What a file of the project is called in an import."""
    if not file.is_relative_to(root):
        raise ConfigError(
            f"{file} lies outside of the project's folder {root}",
            where=option,
            remedy="give a folder that holds the network and the data: sgsc-edge init FOLDER ...",
        )
    parts = file.relative_to(root).with_suffix("").parts
    if not all(part.isidentifier() for part in parts):
        raise ConfigError(
            f"'{'/'.join(parts)}.py' cannot be imported: a name in it is no Python identifier",
            where=option,
            remedy="rename it, say my_model.py",
        )
    return ".".join(parts)


def _required(value: object) -> list[str]:
    """The arguments that a call must have; none where that is not known."""
    if not callable(value) or isinstance(value, nn.Module):
        return []
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.default is each.empty and each.kind not in optional]
