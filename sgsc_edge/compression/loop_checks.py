"""What a training loop around a ``Compressor`` can get wrong, said as early as it shows.

What makes the result wrong for sure is an error. What a loop may mean to do (leave the penalty out, go on
after the promised end, stop before it) is a warning, once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import nn

from sgsc_edge.compression.pressing import REMOVALS
from sgsc_edge.errors import ConfigError
from sgsc_edge.project.user_code import kind_of

log = logging.getLogger("sgsc_edge")

_PATIENCE = 10
"""Steps after which a penalty that no loss had in it is missed."""

_STEP = "Compressor.step"


class LoopChecks:
    """Watches one training loop.

    Parameters
    ----------
    steps, learning_steps: of training, and of the phase in which depths are learned (0: there is none).
    """

    def __init__(self, steps: int, learning_steps: int) -> None:
        self.steps, self.learning_steps = steps, learning_steps
        self._seen = False
        self._without = 0
        self._diverged = False
        if 0 < learning_steps < REMOVALS:
            log.warning(
                "compress: depths are learned in %d of %d steps, and channels leave up to %d times: "
                "train for more steps",
                learning_steps,
                steps,
                REMOVALS,
            )

    def has_term(self, term: torch.Tensor) -> None:
        """Notice whether the size term of a loss enters a gradient."""
        if term.requires_grad:
            term.register_hook(self._notice)  # type: ignore[no-untyped-call]
        elif torch.is_grad_enabled():
            self._seen = True  # the pressure rests: there is no gradient to see

    def _notice(self, gradient: torch.Tensor) -> None:
        self._seen = True

    def is_finite(self, loss: torch.Tensor, done: int) -> bool:
        """Whether a loss is a number; what is none must not enter a running mean."""
        value = float(loss.detach())
        if not math.isfinite(value) and not self._diverged:
            self._diverged = True
            log.warning("compress: the loss of step %d is %s: lower the learning rate", done + 1, value)
        return math.isfinite(value)

    def stepped(self, done: int, *, learning: bool) -> None:
        """After so many steps, the last of them while depths were learned or not."""
        if learning:
            self._without = 0 if self._seen else self._without + 1
            if self._without == min(_PATIENCE, self.learning_steps):
                log.warning(
                    "compress: Compressor.penalty has had no gradient for %d steps, so nothing presses on "
                    "the size: train with (loss + compressor.penalty(loss)).backward()",
                    self._without,
                )
            self._seen = False
        if done == self.steps + 1:
            log.warning(
                "compress: step %d of %d: schedules have ended, and nothing looks at the watch set any more; "
                "let Compressor's steps be the number of optimizer steps",
                done,
                self.steps,
            )

    def saved(self, done: int) -> None:
        """When the result is written after so many steps."""
        if done < self.steps:
            log.warning(
                "compress: saved after %d of %d steps: the schedules are made for all of them",
                done,
                self.steps,
            )


def check_place(model: nn.Module, *, same_tensors: bool) -> None:
    """Refuse a model that was moved or converted: its channels could not leave, and depths would stand still.

    Parameters
    ----------
    same_tensors: whether its depths and ranges are the tensors that are trained. Other than parameters, they
        are replaced where a module is converted, also where it is converted back.

    Raises
    ------
    ConfigError: it was.
    """
    reason = None if same_tensors else "its depths and ranges are no longer the tensors that are trained"
    for name, parameter in model.named_parameters():
        if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
            dtype = str(parameter.dtype).removeprefix("torch.")
            reason = f"'{name}' is {dtype} on the device {parameter.device}"
            break
    if reason is not None:
        raise ConfigError(
            f"compressor.model was moved or converted: {reason}; training is on the CPU, in float32",
            where=_STEP,
            remedy="make the compressor anew and leave out .to(...), .cuda(), .half() and the like; "
            "torch.autocast gives mixed precision",
        )


def check_optimizers(optimizers: Sequence[torch.optim.Optimizer], model: nn.Module) -> None:
    """Refuse optimizers that do not train the model, or whose moments cannot follow its channels.

    Raises
    ------
    ConfigError: there is none, one is no optimizer, holds none of the model's parameters, or is LBFGS.
    """
    if not optimizers:
        raise ConfigError(
            "was given no optimizer",
            where=_STEP,
            remedy="call compressor.step(optimizer), with all that train the model: it cuts the moments of "
            "channels that leave",
        )
    own = {id(parameter) for parameter in model.parameters()}
    for optimizer in optimizers:
        groups = getattr(optimizer, "param_groups", None)
        if groups is None:
            raise ConfigError(
                f"takes optimizers, not {kind_of(optimizer)}",
                where=_STEP,
                remedy="compressor.step(optimizer)",
            )
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ConfigError(
                "LBFGS keeps one vector for all parameters: channels cannot leave it",
                where=_STEP,
                remedy="train with another optimizer, such as torch.optim.AdamW",
            )
        if not any(id(parameter) in own for group in groups for parameter in group["params"]):
            raise ConfigError(
                f"the {type(optimizer).__name__} holds no parameter of compressor.model",
                where=_STEP,
                remedy="make it of compressor.model.parameters(); leave out optimizers of other models",
            )
