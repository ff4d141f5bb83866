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
    gradient: of a language model, the layer whose output is looked at for saliency; None for the features.
    is_text: whether the model reads tokens and gives logits for each next one.
    """

    grad_cam: str | None
    features: str
    softmax: str | None
    gradient: str | None = None
    is_text: bool = False


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


def find_text_taps(model: nn.Module, sample: Tensor, layer: str | None, where: str) -> Taps:
    """Find the taps of a language model in evaluation mode.

    Parameters
    ----------
    sample: tokens int64 [T].
    layer: one whose output float32 [n, T, d] saliency is taken of; None for what the last Linear reads, which
        is the last LayerNorm's output in the usual network.
    where: the setting ``layer`` comes from, for messages.

    Raises
    ------
    ConfigError: ``layer`` is unknown, or does not give values for every token.
    ModelError: no Linear runs on every token.
    """
    modules = dict(model.named_modules())
    ran, result = _trace(model, modules, sample, (nn.Module,))
    by_token = [name for name, out in ran.items() if name and out.ndim == 3 and out.shape[1] == len(sample)]
    linear = [name for name in by_token if isinstance(modules[name], nn.Linear)]
    if not linear:
        raise ModelError(
            "no nn.Linear runs on the values of every token",
            where="model.factory",
            remedy="end the network in an nn.Linear that gives the logits of the next tokens",
        )
    if layer is not None and layer not in by_token:
        reason = f"the layer '{layer}' gives no values [n, T, d] for every token"
        if layer not in modules:
            reason = f"the model has no layer '{layer}'{nearest(layer, by_token)}"
        raise ConfigError(reason, where=where, remedy=f"name a layer that does: {_listed(by_token)}")
    softmax = [name for name in by_token if isinstance(modules[name], nn.Softmax) and ran[name] is result]
    return Taps(None, linear[-1], softmax[-1] if softmax else None, layer, is_text=True)


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


def _trace(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    sample: Tensor,
    kinds: tuple[type[nn.Module], ...] = (*_WEIGHTED, nn.Softmax),
) -> tuple[dict[str, Any], Any]:
    """Outputs of layers of some kinds by name, in order of their last calls, and the model's own output."""
    ran: dict[str, Any] = {}
    handles = []

    def listen(name: str) -> None:
        def note(_: nn.Module, __: object, output: object) -> None:
            ran.pop(name, None)
            if isinstance(output, Tensor) and output.ndim and len(output) == 2:
                ran[name] = output

        handles.append(modules[name].register_forward_hook(note))

    for name, module in modules.items():
        if isinstance(module, kinds):
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
