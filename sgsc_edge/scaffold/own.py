"""``sgsc.toml`` for a network of the user's own: what can be found out is filled in, and tried."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sgsc_edge.config_text import parse_toml
from sgsc_edge.errors import ConfigError, InputError
from sgsc_edge.project import FILE_NAME, Project, make_project
from sgsc_edge.scaffold.example import project_name
from sgsc_edge.scaffold.prove import prove
from sgsc_edge.scaffold.write import Scaffolded, build_command, check_folder, superseded, write_files

if TYPE_CHECKING:  # it brings torch
    from sgsc_edge.project.guess import Answers, Found

log = logging.getLogger("sgsc_edge")

# Of the preservation set a quarter judges; so many samples decide in steps of half a percent.
_JUDGES = 200
_FRACTIONS = (0.1, 0.4)  # the pool, a fifth of the training data, holds half of the preservation set
# About so many samples, whatever their number, let quantized training settle.
_TRAINED_SAMPLES = 120_000
_EPOCHS = (2, 20)
_SMALL = 10_000  # training samples, below which batches are smaller
# The options that answer for settings, the first that fits; and what errors about settings say instead.
_OPTIONS = (
    ("model.checkpoint", "--checkpoint"),
    ("model.input", "--data"),
    ("model", "--from"),
    ("", "--data"),
)
_LINE = re.compile(rf"^{re.escape(FILE_NAME)}:\d+: ")
_SETTING = re.compile(rf"(?:{_LINE.pattern})?((?:project|model|data|preservation|compress|gate)\.\S+)")
_SAID = (
    (
        "set model.input.shape to the shape of one sample, channels first,",
        "return samples that the model takes",
    ),
    ("model.input.shape", "the first sample's shape"),
    ("model.input says", "the first one is"),
    (" or model.input", ""),
    (", raise preservation.pool_fraction, or name data.pool", ""),
    (", or lower preservation.pool_fraction", ""),
)


def new_config(answers: Answers, folder: Path | None, target: str, *, force: bool) -> Scaffolded:
    """Write ``sgsc.toml`` beside a user's network.

    The settings are tried before they are written, so that a failure leaves nothing behind.
    """
    from sgsc_edge.project.guess import find

    if folder is not None:
        check_folder(folder, [FILE_NAME], force=force)
    log.info("looking at the network and its data ...")
    with _as_options():
        found = find(answers, folder)
    shown = _relative(found.root) if folder is None else folder
    check_folder(found.root, [FILE_NAME], force=force)
    with _as_options():
        untold = _project(found, None)
        model = untold.load_model()
        classes = untold.output_size(model)
        names = found.names if found.names is not None and len(found.names) == classes else None
        log.info("checking that it builds ...")
        proof = prove(_project(found, names), target)
    files = write_files(shown, {FILE_NAME: config_text(found, names).encode()})
    findings = (
        ("network", f"{found.factory}, {found.parameters:,} parameters, {classes} classes"),
        ("input", f"float32 {list(found.shape)}, as {found.train} gives it"),
        ("data", f"{found.train}, {found.samples:,} samples; test: {found.test or 'none'}"),
        ("checkpoint", found.checkpoint or "none"),
        ("checked", proof.text),
    )
    return Scaffolded(
        shown,
        files,
        findings,
        (*_notes(found), *proof.notes, *superseded(found.root)),
        (build_command(shown, target),),
    )


@contextlib.contextmanager
def _as_options() -> Iterator[None]:
    """Errors about settings become errors about what the user gave: the settings are written nowhere yet."""
    try:
        yield
    except InputError as error:
        problems = error.problems if isinstance(error, ConfigError) else ()
        setting = next(filter(None, map(_SETTING.match, (error.where or "", *problems))), None)
        if setting is not None:
            error.where = next(option for start, option in _OPTIONS if setting[1].startswith(start))
        for told, instead in _SAID:
            error.message = error.message.replace(told, instead)
            error.remedy = error.remedy and error.remedy.replace(told, instead)
        if isinstance(error, ConfigError) and problems:
            error.problems = tuple(_LINE.sub("", problem) for problem in problems)
        raise


def _project(found: Found, names: tuple[str, ...] | None) -> Project:
    return make_project(parse_toml(config_text(found, names), FILE_NAME), found.root)


def _relative(folder: Path) -> Path:
    """A folder as seen from the current one, where it lies in it."""
    here = Path.cwd().resolve()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def _notes(found: Found) -> tuple[str, ...]:
    notes = []
    if found.checkpoint is None:
        notes.append(
            f"No checkpoint: {found.factory} is compressed as it comes. Where that is not trained, train it, "
            "save its state_dict as float.safetensors, and set model.checkpoint in sgsc.toml."
        )
    notes.append(
        "What may be lost ([gate]) is yours to decide: read these lines of sgsc.toml. Where your training "
        "leaves the pool out (sgsc_edge.pool_split), say so: model.saw_pool = false."
    )
    return tuple(notes)


@dataclass(frozen=True)
class _Sizes:
    """Settings that follow from the number of training samples."""

    fraction: float
    max_drop: float
    max_lowering_flips: float
    epochs: int
    batch_size: int

    @staticmethod
    def of(samples: int) -> _Sizes:
        """For ``samples`` training samples: few judge in coarse steps, and are trained on more often."""
        low, high = _FRACTIONS
        fraction = min(max(round(4 * _JUDGES / samples, 2), low), high)
        fine = fraction * samples / 4 >= 5 * _JUDGES
        epochs = min(max(_TRAINED_SAMPLES // samples, _EPOCHS[0]), _EPOCHS[1])
        return _Sizes(
            fraction=fraction,
            max_drop=0.01 if fine else 0.02,
            max_lowering_flips=0.005 if fine else 0.01,
            epochs=epochs,
            batch_size=64 if samples < _SMALL else 128,
        )


def config_text(found: Found, names: tuple[str, ...] | None) -> str:
    """The text of ``sgsc.toml``, with every line that a user is likely to change."""
    sizes = _Sizes.of(found.samples)

    def optional(key: str, value: object, example: str) -> str:
        return f"{key} = {_toml(value)}" if value is not None else f"# {key} = {example}"

    return f"""\
[project]
name = {_toml(project_name(found.root))}

[model]
factory = {_toml(found.factory)}   # a class or function without arguments that returns the network
{optional("checkpoint", found.checkpoint, '"float.safetensors"   # its state_dict')}
input = {{ shape = {_toml(found.shape)}, dtype = "float32" }}   # one sample, no batch dimension
task = "classification"
# saw_pool = false   # where training leaves the pool out: rest, pool = sgsc_edge.pool_split(train_dataset)

[data]
train = {_toml(found.train)}
{optional("test", found.test, '"data:test"   # measured only')}
{optional("classes", names, '["cat", "dog"]   # names, in the order of the labels')}
# pool = "data:validation"   # samples that training has not seen; without it a part of train is set apart

[preservation]
fraction = {sizes.fraction:g}   # of the training data: half guides, a quarter each watches and judges

[gate]   # what may be lost; a build that loses more fails with exit code 1
metric = "accuracy"
max_drop = {sizes.max_drop:g}   # compressed against float, on the samples that judge
max_lowering_flips = {sizes.max_lowering_flips:g}   # share of decisions that a device runtime may change

[compress]
epochs = {sizes.epochs}
batch_size = {sizes.batch_size}
learning_rate = 1e-3
seed = 0
# budget = "0.1x"   # of the float size, or "6 kB": learns how many bits each channel gets
"""


def _toml(value: object) -> str:
    """A text, or a list of texts or numbers, as TOML, which writes these as JSON does, DEL apart."""
    text = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")
