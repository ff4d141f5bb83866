"""``--format c-array``: the ``.tflite`` as an array, and what TensorFlow Lite Micro needs to run it.

The arena is measured with the interpreter of the tflite-micro package: the smallest multiple of 16 bytes with
which it sets the model up. That is on a 64-bit machine, with reference kernels and an allocator that keeps
records. On a 32-bit device pointers take half as much; optimized kernels (CMSIS-NN, ESP-NN) take scratch
memory that the reference kernels do not. ``_with_margin`` is for these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from sgsc_edge.c_code.interface import Interface
from sgsc_edge.errors import ConfigError, NotMeasuredError
from sgsc_edge.graph.read_tflite import decode_model, operator_name
from sgsc_edge.graph.tflite_ops import OP_ROWS
from sgsc_edge.packaging.c_array_text import ALIGNMENT, Texts
from sgsc_edge.packaging.folder import Packaged, describe, write_package
from sgsc_edge.packaging.on_tflm import OnTflm, measure
from sgsc_edge.packaging.source import Source

FORMAT = "c-array"
CLASSES = "sgsc.classes"
"""Metadata entry with the names of the classes: a JSON list."""

_METHODS: Mapping[str, str] = {
    **{row.name: row.op.__name__ for row in OP_ROWS},
    "PRELU": "Prelu",
    "SPLIT": "Split",
    "UNPACK": "Unpack",
}
"""What follows ``Add`` in MicroMutableOpResolver, by TFLite's name of the op."""


def package_c_array(
    source: Source, out: Path, *, name: str | None = None, arena: int | None = None
) -> Packaged:
    """Write a model as an array for TFLite Micro into ``out``, in place of an earlier package that it holds.

    Parameters
    ----------
    name: in C names; None for the source's own.
    arena: bytes of the arena; None for what TFLite Micro takes here, and a margin.

    Raises
    ------
    UnsupportedError: a type of input or output that has none in C.
    ModelError: TFLite Micro does not take the model.
    NotMeasuredError: TFLite Micro is not here, and ``arena`` is not given.
    ConfigError: the name is too long, or ``arena`` is no number of bytes.
    OutputError: a file cannot be written, or ``out`` holds files and no package.
    """
    interface = Interface.of(source.graph, name or source.name, source.model_hash)
    if arena is not None and arena < 1:
        raise ConfigError(f"an arena of {arena} bytes", where="--arena", remedy="give a number of bytes")
    found = measure(source)
    if arena is not None:
        size = arena
    elif found.arena is not None:
        size = _with_margin(found.arena)
    else:
        raise NotMeasuredError(
            f"the arena cannot be measured: {found.reason}",
            where=source.name,
            remedy="package where tflite-micro works (Linux on x86-64), or give the size with --arena "
            "BYTES: the example prints how much of it is used",
        )
    texts = Texts(source, interface, _ops(source), _classes(source), size, _origin(found, arena))
    warning = _warning(found, size)
    description = {
        **describe(FORMAT, source, interface),
        "model_bytes": len(source.data),
        "ops": list(texts.ops),
        "classes": list(texts.classes),
        "arena_bytes": size,
        "arena_from": "measured" if arena is None else "given",
        "arena_measured": found.arena,
        "arena_warning": warning,
        "tflite_micro": found.version,
        "expected_from": found.expected_from,
    }
    lines = _summary(texts, found)
    if warning is not None:
        lines += (f"warning: {warning}",)
    return write_package(out, texts.files(), description, lines)


def _with_margin(measured: int) -> int:
    """An eighth more, at least 1 KiB, in whole multiples of 16 bytes."""
    wanted = measured + max(1024, measured // 8)
    return -(-wanted // ALIGNMENT) * ALIGNMENT


def _ops(source: Source) -> tuple[str, ...]:
    """What the resolver has to add, in the order of first use; fused activations come with their op."""
    where = f"{source.name}.tflite"
    model = decode_model(source.data, where=where)
    operators = model["subgraphs"][0]["operators"] or []
    return tuple(dict.fromkeys(_METHODS[operator_name(model, operator, where)[1]] for operator in operators))


def _classes(source: Source) -> tuple[str, ...]:
    """Names of the classes, where the file says them and has an output value for each."""
    stated = source.graph.metadata.get(CLASSES)
    if stated is None:
        return ()
    try:
        names = json.loads(stated)
    except (ValueError, RecursionError):
        return ()
    outputs = source.graph[source.graph.outputs[0]].elements
    fits = isinstance(names, list) and len(names) == outputs and all(isinstance(n, str) for n in names)
    return tuple(names) if fits else ()


def _origin(found: OnTflm, given: int | None) -> str:
    """Where the arena's size comes from."""
    if found.arena is None:
        return "given, not measured"
    took = f"TFLite Micro {found.version} took {found.arena:,} on a 64-bit machine with reference kernels"
    if given is None:
        return f"{took}, the rest is margin"
    return f"given, too small there: {took}" if given < found.arena else f"given; {took}"


def _warning(found: OnTflm, size: int) -> str | None:
    """About an arena with which TFLite Micro does not set the model up on this machine."""
    if found.arena is None or size >= found.arena:
        return None
    return (
        f"an arena of {size:,} bytes is less than the {found.arena:,} that TFLite Micro takes here; a 32-bit "
        "device takes less, but does not start where it is not enough: run the example there"
    )


def _summary(texts: Texts, found: OnTflm) -> tuple[str, ...]:
    """For people."""
    expected = f"TFLite Micro {found.version}"
    if found.arena is None:
        expected = f"the integer executor, which stands in for TFLite Micro ({found.reason})"
    count = texts.source.samples
    checked = f"check with example/main.cc: {count} samples with the outputs of {expected}"
    return (
        f"model {len(texts.source.data):,} bytes, arena {texts.arena:,} bytes ({texts.origin})",
        f"ops: {', '.join(texts.ops)}",
        checked if count else "no samples: those of more than 64 KiB are not held",
    )
