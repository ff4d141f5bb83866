"""Passes: functions from network to network, or from device graph to device graph, in a fixed order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from sgsc_edge.errors import InputError, InternalError

T = TypeVar("T")


def run_passes(subject: T, passes: Sequence[Callable[[T], T]], check: Callable[[T], None] | None = None) -> T:
    """Apply passes in order; ``check`` runs after each of them.

    Raises
    ------
    InputError: a pass found the user's network unsupported.
    InternalError: a pass broke an invariant; names it and the passes already run.
    """
    done: list[str] = []
    for step in passes:
        try:
            subject = step(subject)
            if check is not None:
                check(subject)
        except InputError:
            raise
        except Exception as error:
            raise InternalError(
                f"pass '{step.__name__}' failed: {error}",
                where=f"passes already run: {', '.join(done) or 'none'}",
                remedy="report this with the ONNX file; it is a bug of sgsc-edge",
            ) from error
        done.append(step.__name__)
    return subject
