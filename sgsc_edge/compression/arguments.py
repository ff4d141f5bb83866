"""What a ``Compressor`` is given: checked, in one form, and in errors named as its caller knows it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sgsc_edge.compression.calibration import Batches, inputs_of
from sgsc_edge.compression.goal import Controls
from sgsc_edge.compression.layers import QuantizedModel
from sgsc_edge.compression.snapshot import SNAPSHOT, Snapshot
from sgsc_edge.compression.task import Loss, OwnLoss, Task
from sgsc_edge.compression.widths.legal import Device
from sgsc_edge.errors import ConfigError, DataError, FileFormatError, ModelError, SgscError
from sgsc_edge.hints import nearest
from sgsc_edge.project import Budget, parse_budget
from sgsc_edge.project.model import check_weights
from sgsc_edge.project.schema import IGNORED
from sgsc_edge.project.user_code import kind_of
from sgsc_edge.targets import Target, load_target

_NAMES = {
    "compress.budget": "budget",
    "compress.learning_rate": "the optimizer's learning rate",
    "model.factory": "Compressor",
    "model.input.shape": "sample (one input, without a batch dimension)",
    "--target": "target",
    SNAPSHOT: "start",
}
"""Keys and options that errors name, and what stands for them where there is no project."""

_LABELLED = "let data yield (inputs, labels), or give importance=(inputs, labels)"

_FINGERPRINTS = ("target", "start")
"""Arguments that a state holds by what tells them apart."""

DEEPEST = 16
"""Most bits of a range of depths."""


@contextmanager
def named_arguments(*, of_project: bool = False) -> Iterator[None]:
    """Let errors name a compressor's arguments, where these do not follow from a project file."""
    try:
        yield
    except SgscError as error:
        if not of_project:
            _rename(error)
        raise


def _rename(error: SgscError) -> None:
    error.where = None if error.where is None else _NAMES.get(error.where, error.where)
    remedy = error.remedy or ""
    if error.where is None and isinstance(error, ModelError):
        error.where = "sample" if "model.input.shape" in remedy else "model"
    for key, name in _NAMES.items():
        remedy = remedy.replace(key, name)
    error.remedy = remedy or None


def check_arguments(
    model: nn.Module,
    sample: torch.Tensor,
    steps: int,
    controller: Controls,
    depths: tuple[float, float],
    start: Snapshot | None,
) -> None:
    """Refuse what would only fail later, with other words, or not at all.

    Raises
    ------
    ConfigError: an argument of the wrong kind, or out of its range.
    ModelError: weights that are not finite float32.
    """
    if not isinstance(steps, Integral) or steps < 1:
        raise ConfigError(f"training takes at least one step, and a whole number, not {steps}", where="steps")
    if not isinstance(sample, torch.Tensor):
        raise ConfigError(
            f"is {kind_of(sample)}, not a tensor",
            where="sample",
            remedy="give one input without a batch dimension, such as loader.dataset[0][0]",
        )
    _check_on_cpu(model, sample)
    if not (controller is None or isinstance(controller, bool) or controller == "random"):
        raise ConfigError(
            f"unknown controller {controller!r}{nearest(str(controller), ('random',))}",
            where="controller",
            remedy="choose True, False, 'random' or None",
        )
    shallowest, deepest = depths
    if not 1 <= shallowest <= deepest <= DEEPEST:
        raise ConfigError(
            f"({shallowest:g}, {deepest:g}) is no range of bit depths",
            where="depths",
            remedy=f"give (shallowest, deepest), in 1..{DEEPEST}",
        )
    if start is not None and not isinstance(start, Snapshot):
        raise ConfigError(
            f"is {kind_of(start)}, not a snapshot",
            where="start",
            remedy="give the other compressor's snapshot, which it has once its depths have settled",
        )
    check_weights(model, "model")


def _check_on_cpu(model: nn.Module, sample: torch.Tensor) -> None:
    tensors = (*model.parameters(), *model.buffers())
    for where, device in (("sample", sample.device), *(("model", tensor.device) for tensor in tensors)):
        if device.type != "cpu":
            raise ConfigError(
                f"is on the device {device}, and compression trains on the CPU",
                where=where,
                remedy="give the model, sample and data on the CPU: model.cpu(), sample.cpu()",
            )


def limit_of(budget: int | str | Budget | None, model: nn.Module) -> int | None:
    """A budget in bytes.

    Raises
    ------
    ConfigError: it is none.
    """
    if budget is None:
        return None
    if isinstance(budget, Integral):
        return int(budget)
    try:
        parsed = parse_budget(budget)
    except ValueError as error:
        raise ConfigError(str(error), where="budget") from error
    return parsed.limit(4 * sum(parameter.numel() for parameter in model.parameters()))


def device_of(target: str | Path | Target | Device) -> Device:
    """How a target stores weights.

    Raises
    ------
    ConfigError: an unknown name, or a file that describes no target.
    """
    if isinstance(target, Device):
        return target
    return Device.of(target if isinstance(target, Target) else load_target(target))


def fingerprint(device: Device) -> str:
    """Tells two devices apart."""
    return hashlib.sha256(repr(device).encode()).hexdigest()[:16]


def first_labelled(data: Batches, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels of the first ``count`` samples, or of all that there are.

    Raises
    ------
    DataError: they have no labels, or :func:`inputs_of` refuses a batch.
    """
    inputs, labels, seen = [], [], 0
    for batch in data:
        inputs.append(inputs_of(batch))
        if isinstance(batch, torch.Tensor) or len(batch) < 2:
            raise DataError(
                "channels' importance is measured on labelled samples, and data has no labels",
                where="importance",
                remedy=_LABELLED,
            )
        if not isinstance(batch[1], torch.Tensor):
            raise DataError(
                f"channels' importance is measured on labels, and those of data are {kind_of(batch[1])}",
                where="importance",
                remedy=f"{_LABELLED}, as tensors",
            )
        labels.append(batch[1].cpu())
        seen += len(batch[0])
        if seen >= count:
            break
    return torch.cat(inputs)[:count], torch.cat(labels)[:count]


def measured_by(
    own: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None,
    model: QuantizedModel,
    batch: tuple[torch.Tensor, torch.Tensor],
) -> Loss:
    """The loss that says how much channels matter: the user's ``own``, or cross-entropy.

    Parameters
    ----------
    batch: (inputs, labels) that it is measured on; the first two samples are tried.

    Raises
    ------
    ConfigError: ``own`` gives no finite scalar with a gradient, or labels are no classes of the outputs.
    """
    inputs, labels = (part[:2] for part in batch)
    with model.evaluating() as module, torch.enable_grad():
        outputs = module(inputs)
        if own is not None:
            _check_loss(own(outputs, labels))
            return OwnLoss(own)
    _check_classes(outputs, labels, batch[1])
    return Task(model.ends_with_softmax)


def _check_loss(value: Any) -> None:
    given = kind_of(value)
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        number = value.item()
        if value.requires_grad and math.isfinite(number):
            return
        given = f"{number:g}" if value.requires_grad else "a value without a gradient"
    elif isinstance(value, torch.Tensor):
        given = f"a tensor of shape {list(value.shape)}"
    raise ConfigError(
        f"returned {given}, not one finite number that depends on the outputs",
        where="loss",
        remedy="let it return a batch's mean loss, such as torch.nn.functional.mse_loss(outputs, labels)",
    )


def _check_classes(outputs: torch.Tensor, labels: torch.Tensor, every: torch.Tensor) -> None:
    """Refuse labels that cross-entropy cannot be measured with."""
    classes, known = outputs.shape[-1], every[every != IGNORED]
    dtype = str(every.dtype).removeprefix("torch.")
    if dtype not in ("int64", "uint8"):
        what = f"labels are {dtype}"
    elif outputs.numel() != classes * labels.numel():
        what = f"outputs are {list(outputs.shape)} for labels {list(labels.shape)}"
    elif not len(known):
        what = f"all labels are {IGNORED}"
    elif int(known.max()) >= classes or int(known.min()) < 0:
        what = f"labels go from {int(known.min())} to {int(known.max())}"
    else:
        return
    raise ConfigError(
        f"{what}; how much channels matter is measured by cross-entropy, which takes a class (int64) below "
        f"{classes} for each output",
        where="importance",
        remedy="give the loss that your model is trained with: loss=lambda outputs, labels: ...",
    )


def watched(watch: Callable[[nn.Module], float], module: nn.Module) -> float:
    """The watch metric of a module in evaluation mode.

    Raises
    ------
    ConfigError: ``watch`` returns no finite number.
    """
    value: Any = watch(module)
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if not math.isfinite(number):
        shown = str(value) if isinstance(value, float) else kind_of(value)
        if isinstance(value, torch.Tensor):
            shown = str(value.item()) if value.numel() == 1 else f"a tensor of shape {list(value.shape)}"
        raise ConfigError(
            f"returned {shown}, not one finite number",
            where="watch",
            remedy="let it return a metric of the model that it is given, higher is better; where training "
            "has diverged, lower compress.learning_rate",
        )
    return number


def check_state(state: Mapping[str, Any], version: int, arguments: Mapping[str, Any]) -> None:
    """Refuse what another compressor has saved.

    Parameters
    ----------
    version, arguments: that a state must have, as saved under these keys.

    Raises
    ------
    FileFormatError: no state of a compressor, or one of another version or with other arguments.
    """
    if not isinstance(state, Mapping) or "version" not in state:
        raise not_ours(
            "this is no state of a compressor",
            remedy="give what Compressor.state_dict returned: weights alone are not enough to go on with",
        )
    if state["version"] != version:
        raise not_ours(
            f"the state is of version {state['version']}, not {version}",
            remedy="go on with the release that wrote it, or start training again",
        )
    saved = state.get("arguments", {})
    others = ", ".join(
        _difference(name, saved.get(name), value)
        for name, value in arguments.items()
        if saved.get(name) != value
    )
    if others:
        raise not_ours(f"it was saved with other arguments: {others}")


def _difference(name: str, saved: Any, here: Any) -> str:
    """How an argument differs; what is saved as a fingerprint is not shown.

    >>> _difference("steps", 50, 80), _difference("target", "5ca1", "0b57"), _difference("start", "5c", None)
    ('steps 50 (here 80)', 'another target', 'start given (here None)')
    """
    if name not in _FINGERPRINTS:
        return f"{name} {saved} (here {here})"
    if saved is not None and here is not None:
        return f"another {name}"
    return f"{name} {'None' if saved is None else 'given'} (here {'None' if here is None else 'given'})"


def not_ours(
    message: str, remedy: str = "make the compressor with the arguments that it was saved with"
) -> FileFormatError:
    """The error that a state cannot be gone on with."""
    return FileFormatError(message, where="Compressor.load_state_dict", remedy=remedy)
