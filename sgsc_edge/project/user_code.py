"""Runs the user's functions: imported from the project's folder, seeded, errors naming the user's line.

While user code runs, and only then, the project's folder is first on ``sys.path``. Its modules stay in
``sys.modules`` (pickling and tracing look them up there) until another project, or an edited one, takes
their place.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import random
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np

from sgsc_edge.artifacts import sha256_file
from sgsc_edge.errors import InputError, SgscError
from sgsc_edge.hints import nearest

_PACKAGE = Path(__file__).resolve().parents[1]

# Modules imported from projects: name -> (project folder, SHA-256 of the module's file).
_loaded: dict[str, tuple[Path, str]] = {}


@contextlib.contextmanager
def user_code(root: Path, seed: int) -> Iterator[None]:
    """Let modules of ``root`` be imported, and seed every global generator; both are undone afterwards."""
    _forget_stale(root)
    before = set(sys.modules)
    path = str(root)
    sys.path.insert(0, path)
    try:
        with _seeded(seed):
            yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(path)
        for name in set(sys.modules) - before:
            file = _file_of(name)
            if file is not None and _is_users(file, root):
                _loaded[name] = (root, sha256_file(file))


def call(root: Path, spec: str, *arguments: object, seed: int, where: str, error: type[InputError]) -> object:
    """Call ``module:function`` of the project.

    Whatever goes wrong, import included, is raised as ``error`` with the last line of the user's that ran.
    """
    module_name, _, name = spec.partition(":")
    with user_code(root, seed):
        module = import_module(root, module_name, where=where, error=error)
        function = getattr(module, name, None)
        if not callable(function):
            known = [
                key for key, value in vars(module).items() if callable(value) and not key.startswith("_")
            ]
            message = f"'{module_name}' has no function '{name}'{nearest(name, known)}"
            raise error(message, where=where, remedy=f"define '{name}' in {module_name}.py")
        _check_arguments(function, spec, arguments, where, error)
        try:
            return function(*arguments)
        except SgscError:
            raise  # says what, where and what to do by itself
        except (Exception, SystemExit) as failure:
            raise failed(f"'{spec}'", failure, root, where, error) from failure


def import_module(root: Path, name: str, *, where: str, error: type[InputError]) -> ModuleType:
    """Import a module of the project, within ``user_code``; raises as :func:`call` does."""
    _check_name_is_free(root, name, where, error)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as failure:
        if failure.name == name or name.startswith(f"{failure.name}."):
            hint = nearest(name, [path.stem for path in root.glob("*.py")])
            message = f"there is no module '{name}' in {root}{hint}"
            raise error(
                message, where=where, remedy="name a Python file beside the project file"
            ) from failure
        raise failed(f"importing '{name}'", failure, root, where, error) from failure
    except (Exception, SystemExit) as failure:
        raise failed(f"importing '{name}'", failure, root, where, error) from failure


def kind_of(value: object) -> str:
    """What a value is, for messages: ``nothing (None)``, ``a list``, ``an int``."""
    name = type(value).__name__
    return "nothing (None)" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _check_arguments(
    function: Callable[..., object],
    spec: str,
    arguments: tuple[object, ...],
    where: str,
    error: type[InputError],
) -> None:
    """Refuse a callable that cannot be called with ``arguments``."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # built in: it says so itself
        return
    try:
        signature.bind(*arguments)
    except TypeError as failure:
        wanted = "one argument, the batch" if arguments else "no arguments"
        raise error(
            f"'{spec}' is called with {wanted}, and cannot be: {failure}",
            where=where,
            remedy="name a function that can, such as: def build(): return Net(classes=10)"
            if not arguments
            else "name a function of one argument",
        ) from None


def failed(
    what: str,
    failure: BaseException,
    root: Path,
    where: str,
    error: type[InputError],
    remedy: str = "correct that line and try again",
) -> InputError:
    """The error for user code that raised: what raised, the exception, and the user's own last line in it.

    ``remedy``: where the exception itself names none.
    """
    lines = "".join(traceback.format_exception_only(failure)).strip().splitlines()
    reason = lines[-1] if isinstance(failure, SyntaxError) else lines[0]
    frames = [
        frame
        for frame in traceback.extract_tb(failure.__traceback__)
        if _is_users(Path(frame.filename), root)
    ]
    line = ""
    if isinstance(failure, SyntaxError) and failure.filename:
        line = f" ({Path(failure.filename).name}:{failure.lineno})"
    elif frames:
        file = Path(frames[-1].filename).resolve().relative_to(root)
        line = f" ({file}:{frames[-1].lineno}, in {frames[-1].name})"
    if isinstance(failure, ModuleNotFoundError):
        remedy = "install it where sgsc-edge is installed, or correct the import"
    return error(f"{what} raised {reason}{line}", where=where, remedy=remedy)


def _is_users(file: Path, root: Path) -> bool:
    """Whether a source file is the project's own: not of an environment inside its folder, nor ours."""
    file = file.resolve()
    installed = not {"site-packages", "dist-packages"}.isdisjoint(file.parts)
    return file.is_relative_to(root) and not installed and not file.is_relative_to(_PACKAGE)


def _check_name_is_free(root: Path, name: str, where: str, error: type[InputError]) -> None:
    """Refuse a module name that another package of this process already has."""
    file = _file_of(name.partition(".")[0])
    if file is not None and not file.is_relative_to(root):
        raise error(
            f"the module name '{name}' is taken by {file}",
            where=where,
            remedy="rename your file, say my_model.py",
        )


def _forget_stale(root: Path) -> None:
    """Drop the modules of other projects, and all of this one's when a file of it has changed."""
    changed = any(
        owner == root and (file := _file_of(name)) is not None and _digest(file) != digest
        for name, (owner, digest) in _loaded.items()
    )
    for name, (owner, _) in list(_loaded.items()):
        if changed or owner != root:
            sys.modules.pop(name, None)
            del _loaded[name]
    importlib.invalidate_caches()


def _file_of(name: str) -> Path | None:
    file = getattr(sys.modules.get(name), "__file__", None)
    return Path(file).resolve() if file else None


def _digest(file: Path) -> str | None:
    return sha256_file(file) if file.is_file() else None


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global generators and restore their states."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - user code may use the legacy one
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
