"""``sgsc-edge targets``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from sgsc_edge.cli.output import Command, Result, command_options, table

if TYPE_CHECKING:
    from sgsc_edge.targets import Target


@click.command("targets", cls=Command)
@command_options
def command() -> Result:
    """List the targets that models can be built for: runtimes, op versions, weights, tolerances, limits."""
    from sgsc_edge.api import available_targets

    targets = available_targets()
    parts = (_targets, _weights, _versions, _tolerances, _limits)
    tables = [table(rows) for rows in (part(targets) for part in parts) if len(rows) > 1]
    return Result({"targets": [target.model_dump(mode="json") for target in targets]}, "\n\n".join(tables))


def _targets(targets: Sequence[Target]) -> list[tuple[str, ...]]:
    head = ("target", "what it is", "required runtimes", "optional", "alignment")
    rows = (
        (
            target.name,
            target.description,
            ", ".join(target.runtimes.required),
            ", ".join(target.runtimes.optional),
            _bytes(target.alignment) if target.is_lowered else "",
        )
        for target in targets
    )
    return [head, *rows]


def _weights(targets: Sequence[Target]) -> list[tuple[str, ...]]:
    head = ("target", "weights of", "bits", "scales", "axis", "in RAM")
    rows = (
        (
            target.name,
            row.op,
            f"1 to {row.bits}, learned" if target.packs else str(row.bits),
            row.granularity,
            "" if row.axis is None else str(row.axis),
            "unpacked" if row.unpacked else "",
        )
        for target in targets
        for row in target.weights
    )
    return [head, *rows]


def _versions(targets: Sequence[Target]) -> list[tuple[str, ...]]:
    """One row an op, one column a target."""
    ops = dict.fromkeys(op for target in targets for op in target.versions)
    lowered = [target for target in targets if target.is_lowered]
    rows = ((op, *(str(target.versions.get(op, "no")) for target in lowered)) for op in ops)
    return [("op, up to version", *(target.name for target in lowered)), *rows]


def _tolerances(targets: Sequence[Target]) -> list[tuple[str, ...]]:
    """Rows that several targets have are shown once."""
    shared: dict[tuple[str, ...], list[str]] = {}
    for target in targets:
        for row in target.tolerances:
            steps = f"{row.steps} step{'s' if row.steps > 1 else ''}"
            key = (row.runtime, steps, ", ".join(row.ops) or "the model's outputs", row.reason)
            shared.setdefault(key, []).append(target.name)
    rows = ((", ".join(names), *key) for key, names in shared.items())
    return [("targets", "runtime", "may differ by", "in", "because"), *rows]


def _limits(targets: Sequence[Target]) -> list[tuple[str, ...]]:
    rows = (
        (target.name, _bytes(target.limits.flash), _bytes(target.limits.arena))
        for target in targets
        if target.limits.flash or target.limits.arena
    )
    return [("target", "flash", "arena"), *rows]


def _bytes(size: int | None) -> str:
    return "" if size is None else f"{size:,} bytes"
