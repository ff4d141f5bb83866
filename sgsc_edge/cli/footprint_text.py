"""What a model takes of a board, as the text that ``inspect --board`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgsc_edge.inspection.text import table

if TYPE_CHECKING:
    from sgsc_edge.footprint import Footprint


def footprint_text(found: Footprint) -> str:
    """Layers, flash, RAM, instructions, and the verdict."""
    chip = found.chip
    head = (
        f"{found.model} on {found.board}: {chip.cpu} with {chip.flash.size:,} bytes of flash and "
        f"{chip.ram.size:,} of RAM"
    )
    return "\n\n".join(
        (head, _layers(found), _flash(found), _ram(found), _instructions(found), _verdict(found))
    )


def _layers(found: Footprint) -> str:
    rows = [
        (
            layer.name,
            layer.op,
            *map(_number, (layer.macs, layer.constant_bytes, layer.arena_bytes)),
            _about(layer.instructions),
        )
        for layer in found.layers
    ]
    weights = sum(layer.constant_bytes for layer in found.layers)
    totals = (sum(layer.macs for layer in found.layers), weights, found.ram.arena)
    rows.append(("all", "", *map(_number, totals), _about(found.instructions)))
    return table(("layer", "op", "MACs", "weights", "arena", "instructions"), rows)


def _flash(found: Footprint) -> str:
    flash, limit = found.flash, found.chip.flash.size
    gaps = "; gaps of alignment come on top" if found.compiler is None else ""
    rows = [
        ("code", f"{flash.code:,}", found.how),
        ("weights, biases, tables", f"{flash.weights:,}", f"exact{gaps}"),
        ("other constants", f"{flash.constants:,}", f"{found.how}; parameters, self-test"),
        ("start-up and link", f"{flash.board:,}", found.how),
        ("all", f"{flash.total:,}", f"of {limit:,} ({flash.total / limit:.0%})"),
    ]
    return table(("flash", "bytes", ""), rows)


def _ram(found: Footprint) -> str:
    ram, limit = found.ram, found.chip.ram.size
    used = "" if found.stack is None else f"; at most {found.stack:,} used (estimated)"
    fullest = "" if found.fullest is None else f"; fullest at {found.fullest.name}"
    rows = [
        ("arena", f"{ram.arena:,}", f"exact{fullest}"),
        ("input", f"{ram.input:,}", "exact"),
        ("output", f"{ram.output:,}", "exact"),
        ("start-up and link", f"{ram.board:,}", found.how),
        ("stack", f"{ram.stack:,}", f"set aside by the board file{used}"),
        ("all", f"{ram.total:,}", f"of {limit:,} ({ram.total / limit:.0%})"),
    ]
    return table(("RAM", "bytes", ""), rows)


def _instructions(found: Footprint) -> str:
    compiled = "no compiler here" if found.compiler is None else f"compiled by {found.compiler}"
    if found.instructions is None:
        return f"instructions: not estimated for {found.chip.cpu}; {compiled}"
    return f"instructions: about {_about(found.instructions)} an inference (estimated); {compiled}"


def _verdict(found: Footprint) -> str:
    from sgsc_edge.footprint import excesses, verdict

    return "\n".join((verdict(found), *(f"  -> {excess.remedy}" for excess in excesses(found))))


def _number(value: int) -> str:
    return f"{value:,}" if value else ""


def _about(value: int | None) -> str:
    """An estimate, in the digits that it is good for."""
    return f"{int(float(f'{value:.2e}')):,}" if value else ""
