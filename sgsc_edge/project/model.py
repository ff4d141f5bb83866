"""The user's float model: made by the factory, checkpoint loaded without pickle, all of it checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from torch import Tensor, nn

from sgsc_edge.errors import ModelError
from sgsc_edge.hints import nearest
from sgsc_edge.project.load import Project
from sgsc_edge.project.schema import CHECKPOINTS
from sgsc_edge.project.user_code import call, failed, kind_of, user_code

_SHOWN = 8  # names listed before "and n more"
_SAVE = "save it again with safetensors.torch.save_file(model.state_dict(), ...)"


def load_model(project: Project) -> nn.Module:
    """The float model in evaluation mode.

    Raises ``ModelError`` for a factory that raises or returns no module, a checkpoint that does not fit,
    weights that are not finite float32, and an output that is not one tensor of logits [n, K].
    """
    where = project.where("model", "factory")
    settings = project.config
    model = make_model(project.root, settings.model.factory, settings.compress.seed, where)
    if settings.model.checkpoint is not None:
        _load_checkpoint(model, project, settings.model.checkpoint)
    check_weights(model, where)
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


def make_model(root: Path, factory: str, seed: int, where: str) -> nn.Module:
    """What the user's factory returns; ``ModelError`` where it raises or returns no module."""
    made = call(root, factory, seed=seed, where=where, error=ModelError)
    if not isinstance(made, nn.Module):
        raise ModelError(
            f"'{factory}' returned {kind_of(made)}, not a torch.nn.Module",
            where=where,
            remedy="return the model itself",
        )
    return made


def output_size(project: Project, model: nn.Module) -> int:
    """K of the logits float32 [2, K] that ``model`` gives for two all-zero samples [2, C, H, W].

    Of a language model of [2, T, K], for two sequences of token 0.
    """
    where = project.where("model", "factory")
    logits = _run_on_zeros(project, model)
    remedy = "return one float32 tensor of logits [batch, classes], with 2 classes at least (yes or no: 2)"
    expected: tuple[int, ...] = (2,)
    if project.config.model.is_text:
        expected = (2, *project.config.model.input.shape)
        remedy = "return one float32 tensor of logits [batch, T, tokens], for each token the one that follows"
    if not isinstance(logits, Tensor):
        raise ModelError(f"the model returned {kind_of(logits)}, not a tensor", where=where, remedy=remedy)
    if logits.shape[:-1] != expected or logits.shape[-1] < 2 or logits.dtype != torch.float32:
        given = f"{str(logits.dtype).removeprefix('torch.')} {list(logits.shape)}"
        raise ModelError(f"the model returned {given} for a batch of 2", where=where, remedy=remedy)
    if not logits.isfinite().all():
        raise ModelError(
            "the model returned NaN or infinity for an all-zero input", where=where, remedy="train it again"
        )
    return int(logits.shape[-1])


def vocabulary(project: Project, model: nn.Module) -> int | None:
    """How many tokens the embedding has that a language model looks its input up in.

    The smallest one where several read it; None where none does.
    """
    if not project.config.model.is_text:
        return None
    shape = (2, *project.config.model.input.shape)
    sizes: list[int] = []

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Embedding) and args and tuple(args[0].shape) == shape:
            sizes.append(module.num_embeddings)

    handles = [
        one.register_forward_pre_hook(note) for one in model.modules() if isinstance(one, nn.Embedding)
    ]
    try:
        _run_on_zeros(project, model)
    finally:
        for handle in handles:
            handle.remove()
    return min(sizes, default=None)


def _run_on_zeros(project: Project, model: nn.Module) -> object:
    """What the model returns for two samples of zeros; ``ModelError`` where it raises."""
    where = project.where("model", "factory")
    sample = project.config.model.input
    training = model.training
    model.eval()
    try:
        with user_code(project.root, project.config.compress.seed), torch.inference_mode():
            given = torch.zeros(2, *sample.shape, dtype=getattr(torch, sample.dtype))
            return cast("object", model(given))
    except Exception as failure:
        what = f"the model, given two samples of model.input.shape, {[2, *sample.shape]},"
        remedy = "set model.input.shape to the shape of one sample, channels first, or correct the model"
        raise failed(what, failure, project.root, where, ModelError, remedy) from failure
    finally:
        model.train(training)


def _load_checkpoint(model: nn.Module, project: Project, name: str) -> None:
    where = project.where("model", "checkpoint")
    path = project.root / name
    if not path.is_file():
        there = [file.name for file in path.parent.glob("*") if file.suffix in CHECKPOINTS]
        raise ModelError(
            f"checkpoint '{name}' does not exist{nearest(path.name, there)}",
            where=where,
            remedy="train the float model first, or correct the path",
        )
    model.load_state_dict(dict(fitting_state(model, path, where)))


def fitting_state(model: nn.Module, path: Path, where: str) -> Mapping[str, Tensor]:
    """The state dict in a checkpoint; ``ModelError`` where it cannot be read or is not one of ``model``."""
    state = _read_state(path, where)
    expected = model.state_dict()
    problems = [
        *_listed("missing", expected.keys() - state.keys()),
        *_listed("unexpected", state.keys() - expected.keys()),
        *_listed("of another shape", _other_shapes(expected, state)),
    ]
    if problems:
        raise ModelError(
            f"checkpoint '{path.name}' does not fit the model: {'; '.join(problems)}",
            where=where,
            remedy="use the checkpoint of this model, saved from model.state_dict()",
        )
    return state


def _read_state(path: Path, where: str) -> Mapping[str, Tensor]:
    """A state dict; pickled code is never run (safetensors, or ``weights_only``)."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: object = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as failure:
        raise ModelError(
            f"checkpoint '{path.name}' cannot be read: it is damaged, or holds other objects than tensors; "
            "pickled, these could run code, and are not loaded",
            where=where,
            remedy=_SAVE,
        ) from failure
    except Exception as failure:  # whatever a damaged file makes the readers raise
        reason = (str(failure).strip() or type(failure).__name__).splitlines()[0]
        raise ModelError(
            f"checkpoint '{path.name}' cannot be read: {reason}",
            where=where,
            remedy=_SAVE,
        ) from failure
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        holds = (
            _listed("it holds", map(str, state))
            if isinstance(state, Mapping)
            else [f"it is {kind_of(state)}"]
        )
        raise ModelError(
            f"checkpoint '{path.name}' is no state dict of named tensors; {''.join(holds) or 'it is empty'}",
            where=where,
            remedy="save model.state_dict() alone, without optimizer or other entries",
        )
    return state


def check_weights(model: nn.Module, where: str) -> None:
    """Refuse a model whose parameters and buffers are not finite float32; ``ModelError`` names them."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    if other := _listed(
        "not float32", (name for name, tensor in floating.items() if tensor.dtype != torch.float32)
    ):
        raise ModelError(f"weights are {other[0]}", where=where, remedy="convert the model with .float()")
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
