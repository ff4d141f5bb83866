"""Does it fit? Each limit of a board that a model breaks, with the layers that break it and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sgsc_edge.errors import ConfigError
from sgsc_edge.footprint.measure import Footprint

_SHOWN = 3
_LARGER = "take a larger board"


@dataclass(frozen=True)
class Excess:
    """A limit that is broken.

    Parameters
    ----------
    limit: of what.
    bytes: by how much.
    layers: those to blame, the first one most; none where it is no layer's doing.
    message: all of that in a sentence.
    remedy: what to do.
    """

    limit: Literal["flash", "RAM", "stack"]
    bytes: int
    layers: tuple[str, ...]
    message: str
    remedy: str


def excesses(found: Footprint) -> tuple[Excess, ...]:
    """Every limit of the board that is broken."""
    return tuple(excess for check in (_flash, _ram, _stack) if (excess := check(found)) is not None)


def verdict(found: Footprint) -> str:
    """One line: it fits, and how much it takes, or it does not, and why."""
    broken = excesses(found)
    if broken:
        return f"does not fit {found.board}: {'; '.join(excess.message for excess in broken)}"
    flash, ram = found.chip.flash.size, found.chip.ram.size
    return (
        f"fits {found.board}: {_share(found.flash.total, flash)} of its flash, "
        f"{_share(found.ram.total, ram)} of its RAM"
    )


def require_fit(found: Footprint) -> None:
    """``ConfigError`` where a limit is broken: the model and the board are input, and one has to change."""
    broken = excesses(found)
    if broken:
        raise ConfigError(
            f"the model does not fit: {'; '.join(excess.message for excess in broken)}",
            where=f"board '{found.board}'",
            remedy="; ".join(dict.fromkeys(excess.remedy for excess in broken)),
        )


def _flash(found: Footprint) -> Excess | None:
    flash, limit = found.flash, found.chip.flash.size
    over = flash.total - limit
    if over <= 0:
        return None
    weighted = [layer for layer in found.layers if layer.constant_bytes]
    largest = sorted(weighted, key=lambda layer: -layer.constant_bytes)[:_SHOWN]
    shown = [f"'{layer.name}' {layer.constant_bytes:,}" for layer in largest]
    most = f"; weights {flash.weights:,}, most of them in {', '.join(shown)}" if shown else ""
    smaller = (
        f"make the weights {over:,} bytes smaller (compress.budget, a target with 4-bit weights, fewer "
        f"channels), or {_LARGER}"
    )
    return Excess(
        "flash",
        over,
        tuple(layer.name for layer in largest),
        f"{_taken(found, flash.total)} of flash, {over:,} more than the {limit:,} there are{most}",
        smaller if over < flash.weights else f"{_LARGER}: what is no weight is too large alone",
    )


def _ram(found: Footprint) -> Excess | None:
    ram, limit = found.ram, found.chip.ram.size
    over = ram.total - limit
    if over <= 0:
        return None
    parts = f"arena {ram.arena:,}, input {ram.input:,}, output {ram.output:,}, stack {ram.stack:,}"
    message = f"{_taken(found, ram.total)} of RAM ({parts}), {over:,} more than the {limit:,} there are"
    fullest = found.fullest
    if fullest is None or over >= ram.arena:
        remedy = f"what is no layer's is too large alone: make the input or chip.stack smaller, or {_LARGER}"
        return Excess("RAM", over, (), message, remedy)
    values = ", ".join(f"{value.name} {value.bytes:,}" for value in fullest.values[:_SHOWN])
    return Excess(
        "RAM",
        over,
        (fullest.name,),
        f"{message}; the arena is fullest at '{fullest.name}' ({fullest.op}): {values}",
        "make the values around that layer smaller (fewer channels, or a stride or pool in front of it), or "
        f"{_LARGER}",
    )


def _stack(found: Footprint) -> Excess | None:
    set_aside = found.chip.stack
    over = (found.stack or 0) - set_aside
    if over <= 0:
        return None
    return Excess(
        "stack",
        over,
        (),
        f"{found.stack:,} bytes (estimated) of stack, {over:,} more than the {set_aside:,} set aside",
        f"set chip.stack in the board file to {found.stack} at least",
    )


def _taken(found: Footprint, count: int) -> str:
    return f"{count:,} bytes{' (estimated)' if found.compiler is None else ''}"


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} bytes ({part / whole:.0%})"
