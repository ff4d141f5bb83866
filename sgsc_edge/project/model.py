"""The user's float model: made by the factory, checkpoint loaded without pickle, all of it checked."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sgsc_edge.errors import ModelError
from sgsc_edge.project.load import Project
from sgsc_edge.project.user_code import call, failed, user_code

_SAVE_AGAIN = "save it again with safetensors.torch.save_file(model.state_dict(), ...)"
_SHOWN = 8  # names listed before "and n more"


def load_model(project: Project) -> nn.Module:
    """The float model in evaluation mode.

    Raises ``ModelError`` for a factory that raises or returns no module, a checkpoint that does not fit,
    weights that are not finite float32, and an output that is not one tensor of logits [n, K].
    """
    where = project.where("model", "factory")
    settings = project.config
    model = call(
        project.root, settings.model.factory, seed=settings.compress.seed, where=where, error=ModelError
    )
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"'{settings.model.factory}' returned {_kind(model)}, not a torch.nn.Module",
            where=where,
            remedy="return the model itself",
        )
    if settings.model.checkpoint is not None:
        _load_checkpoint(model, project, settings.model.checkpoint)
    _check_weights(model, where)
    model.eval()
    classes = output_size(project, model)
    names = settings.data.classes
    if names is not None and len(names) != classes:
        raise ModelError(
            f"the model has {classes} outputs, data.classes has {len(names)} names",
            where=project.where("data", "classes"),
            remedy="name every class once",
        )
    return model


def output_size(project: Project, model: nn.Module) -> int:
    """K of the logits float32 [2, K] that ``model`` gives for two all-zero samples [2, C, H, W]."""
    where = project.where("model", "factory")
    shape = project.config.model.input.shape
    training = model.training
    model.eval()
    try:
        with user_code(project.root, project.config.compress.seed), torch.inference_mode():
            logits = model(torch.zeros(2, *shape))
    except Exception as failure:
        raise failed(
            f"the model, given an input of shape {[2, *shape]},", failure, project.root, where, ModelError
        ) from failure
    finally:
        model.train(training)
    remedy = "return one float32 tensor of logits [batch, classes]"
    if not isinstance(logits, Tensor):
        raise ModelError(f"the model returned {_kind(logits)}, not a tensor", where=where, remedy=remedy)
    if logits.ndim != 2 or logits.shape[0] != 2 or logits.shape[1] < 2 or logits.dtype != torch.float32:
        given = f"{str(logits.dtype).removeprefix('torch.')} {list(logits.shape)}"
        raise ModelError(f"the model returned {given} for a batch of 2", where=where, remedy=remedy)
    if not logits.isfinite().all():
        raise ModelError(
            "the model returned NaN or infinity for an all-zero input", where=where, remedy="train it again"
        )
    return int(logits.shape[1])


def _load_checkpoint(model: nn.Module, project: Project, name: str) -> None:
    where = project.where("model", "checkpoint")
    path = project.root / name
    if not path.is_file():
        raise ModelError(
            f"checkpoint '{name}' does not exist",
            where=where,
            remedy="train the float model first, or correct the path",
        )
    state = _read_state(path, where)
    expected = model.state_dict()
    problems = [
        *_listed("missing", expected.keys() - state.keys()),
        *_listed("unexpected", state.keys() - expected.keys()),
        *_listed("of another shape", _other_shapes(expected, state)),
    ]
    if problems:
        raise ModelError(
            f"checkpoint '{name}' does not fit the model: {'; '.join(problems)}",
            where=where,
            remedy="use the checkpoint of this model, saved from model.state_dict()",
        )
    model.load_state_dict(dict(state))


def _read_state(path: Path, where: str) -> Mapping[str, Tensor]:
    """A state dict; pickled code is never run (safetensors, or ``weights_only``)."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: object = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as failure:
        raise ModelError(
            f"checkpoint '{path.name}' cannot be read: it is damaged, or holds other objects than tensors; "
            "pickled, these could run code, and are not loaded",
            where=where,
            remedy=_SAVE_AGAIN,
        ) from failure
    except Exception as failure:  # whatever a damaged file makes the readers raise
        reason = (str(failure).strip() or type(failure).__name__).splitlines()[0]
        raise ModelError(
            f"checkpoint '{path.name}' cannot be read: {reason}",
            where=where,
            remedy=_SAVE_AGAIN,
        ) from failure
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(
            f"checkpoint '{path.name}' is no state dict of named tensors",
            where=where,
            remedy="save model.state_dict() alone, without optimizer or other entries",
        )
    return state


def _check_weights(model: nn.Module, where: str) -> None:
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    if other := _listed(
        "not float32", (name for name, tensor in floating.items() if tensor.dtype != torch.float32)
    ):
        raise ModelError(f"weights are {other[0]}", where=where, remedy="call .float() in the factory")
    if bad := _listed(
        "NaN or infinite", (name for name, tensor in floating.items() if not tensor.isfinite().all())
    ):
        raise ModelError(f"weights are {bad[0]}", where=where, remedy="train the model again")


def _other_shapes(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    return [
        f"{name} {list(state[name].shape)} instead of {list(expected[name].shape)}"
        for name in expected.keys() & state.keys()
        if expected[name].shape != state[name].shape
    ]


def _listed(what: str, names: Iterable[str]) -> list[str]:
    """``["what: a, b and 3 more"]``, or nothing when there are no names."""
    ordered = sorted(names)
    if not ordered:
        return []
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return [f"{what}: {', '.join(ordered[:_SHOWN])}{more}"]


def _kind(value: object) -> str:
    name = type(value).__name__
    return "nothing (None)" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
