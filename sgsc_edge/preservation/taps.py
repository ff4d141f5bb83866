"""Where a float model is listened to: the layer of Grad-CAM, the penultimate features, the logits.

One forward pass over two copies of a sample finds which layers run, in which order and whether they keep the
batch dimension; forward hooks then read their inputs. So ``nn.Sequential`` and functional heads are
treated alike.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sgsc_edge.errors import ConfigError, ModelError
from sgsc_edge.hints import nearest

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_WEIGHTED = (*CONVOLUTIONS, nn.Linear)
_SHOWN = 6


@dataclass(frozen=True)
class Taps:
    """Names of modules, as ``named_modules`` has them (the model itself is called ``""``).

    Parameters
    ----------
    grad_cam: the convolution of Grad-CAM; None where the model has none.
    features: the layer whose input holds the penultimate features: the Linear that runs last, or where
        there is none the convolution that does.
    softmax: the Softmax that ends the model, whose input holds the logits; None where it ends in logits.
    """

    grad_cam: str | None
    features: str
    softmax: str | None


def find_taps(model: nn.Module, sample: Tensor, layer: str | None, where: str) -> Taps:
    """Find the taps of a model in evaluation mode.

    Parameters
    ----------
    sample: float32 input without its batch dimension.
    layer: the convolution for Grad-CAM; None for the one that runs last.
    where: the setting ``layer`` comes from, for messages.

    Raises
    ------
    ConfigError: ``layer`` is unknown, is no convolution, or does not run once for a batch.
    ModelError: no convolution or Linear runs.
    """
    modules = dict(model.named_modules())
    ran, result = _trace(model, modules, sample)
    convolutions = [name for name in ran if isinstance(modules[name], CONVOLUTIONS)]
    if layer is not None:
        _check_layer(modules, convolutions, layer, where)
    linear = [name for name in ran if isinstance(modules[name], nn.Linear)]
    if not (linear or convolutions):
        raise ModelError(
            "no nn.Conv1d, nn.Conv2d, nn.Conv3d or nn.Linear runs on whole batches",
            where="model.factory",
            remedy="build the network from these layers: they are what compression works on",
        )
    last = layer if layer is not None else convolutions[-1] if convolutions else None
    softmax = [
        name for name, output in ran.items() if isinstance(modules[name], nn.Softmax) and output is result
    ]
    return Taps(last, (linear or convolutions)[-1], softmax[-1] if softmax else None)


@contextlib.contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Within the block, the yielded list holds the first input of ``module``'s latest call."""
    latest: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Any]) -> None:
        latest[:] = [next(iter((*args, *kwargs.values())))]

    handle = module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield latest
    finally:
        handle.remove()


def _trace(model: nn.Module, modules: Mapping[str, nn.Module], sample: Tensor) -> tuple[dict[str, Any], Any]:
    """Outputs of the layers by name, in order of their last calls, and the model's own output."""
    ran: dict[str, Any] = {}
    handles = []

    def listen(name: str) -> None:
        def note(_: nn.Module, __: object, output: object) -> None:
            ran.pop(name, None)
            if isinstance(output, Tensor) and output.ndim and len(output) == 2:
                ran[name] = output

        handles.append(modules[name].register_forward_hook(note))

    for name, module in modules.items():
        if isinstance(module, (*_WEIGHTED, nn.Softmax)):
            listen(name)
    try:
        with torch.no_grad():
            result = model(torch.stack([sample, sample]))
    finally:
        for handle in handles:
            handle.remove()
    return ran, result


def _check_layer(modules: Mapping[str, nn.Module], convolutions: list[str], layer: str, where: str) -> None:
    if layer in convolutions:
        return
    if not convolutions:
        raise ConfigError(
            "no convolution runs on whole batches in the model's forward pass",
            where=where,
            remedy="leave this key out: gradient times activation of the last features takes its place",
        )
    if layer not in modules:
        reason = f"the model has no layer '{layer}'{nearest(layer, convolutions) or nearest(layer, modules)}"
    elif not isinstance(modules[layer], CONVOLUTIONS):
        reason = f"the layer '{layer}' is no convolution but {type(modules[layer]).__name__}"
    else:
        reason = f"the layer '{layer}' does not run on whole batches in the model's forward pass"
    raise ConfigError(reason, where=where, remedy=f"name a convolution that runs: {_listed(convolutions)}")


def _listed(names: list[str]) -> str:
    """The last few names: where Grad-CAM is most telling."""
    return ", ".join(names[-_SHOWN:]) if len(names) <= _SHOWN else f"..., {', '.join(names[-_SHOWN:])}"
