"""Time of a training step of the MNIST CNN: float, quantized, and with everything that compression adds.

All kinds of steps take turns in one process, on random images of MNIST's shape (time does not depend on what
they show); every figure is a ratio to the float step of the same round. What happens now and then (checks of
the watch set, removals of channels) is timed alone and spread over the learning phase that the default recipe
has on MNIST::

    python -m benchmarks.step_time [--rounds 40]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from benchmarks.networks import network
from benchmarks.record import ROOT, Row, finish
from sgsc_edge.compression.compress import Compression
from sgsc_edge.compression.compressor import Compressor
from sgsc_edge.compression.goal import Goal
from sgsc_edge.compression.guide import GuideSamples
from sgsc_edge.compression.loop import Recipe
from sgsc_edge.compression.objective import Objective
from sgsc_edge.compression.pressing import CHECKS, REMOVALS
from sgsc_edge.project.schema import CompressSection

TRAINED, GUIDE, WATCH = 48_000, 3_000, 1_500
"""Samples of MNIST that are trained on (they repeat), and of the preservation set's parts."""

FAKE_QUANTIZATION_LIMIT, WHOLE_LIMIT, HALF_LIMIT = 1.3, 2.0, 0.7
HALF = "half of the channels gone"
BUDGET = 20_000

Step = Callable[[int], object]


def main() -> int:
    """Time every kind of step and list what each part adds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    compression = setting()
    ratios = timed(steps(compression), rounds)
    float_step = ratios.pop("float")
    spread = occasional(compression)
    return finish(
        "step_time",
        rows(float_step, ratios, {name: seconds / float_step for name, seconds in spread.items()}),
        {"rounds": rounds, "threads": torch.get_num_threads()},
    )


def setting() -> Compression:
    """The compression of the MNIST CNN under a budget, on random images."""
    torch.manual_seed(0)
    recipe = CompressSection()
    samples = Images(GUIDE)
    epochs = recipe.epochs * TRAINED // GUIDE  # as many steps as with all samples
    return Compression(
        model=network(ROOT / "examples/mnist/model.py"),
        sample=samples[0][0],
        train=samples,
        watch=(samples.inputs[:WATCH], samples.labels[:WATCH]),
        recipe=Recipe(epochs, recipe.batch_size, recipe.learning_rate, recipe.seed),
        method="sgsc",
        guide=GuideSamples(tuple(range(0, GUIDE, 4))),
        goal=Goal(budget=BUDGET),
    )


class Images(Dataset[Any]):
    """Random images of MNIST's shape with random labels."""

    def __init__(self, count: int) -> None:
        self.inputs = torch.rand(count, 1, 28, 28)
        self.labels = torch.randint(0, 10, (count,))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.inputs[index], int(self.labels[index])


def steps(compression: Compression) -> dict[str, Step]:
    """The kinds of steps, each with more in it than the one before; all on the same batch."""
    size = compression.recipe.batch_size
    batch = (*compression.watch, torch.arange(GUIDE))
    inputs, labels, indices = (part[:size] for part in batch)

    def of(compressor: Compressor, objective: Objective) -> Step:
        model = compressor.model.train()
        optimizer = torch.optim.Adam(model.parameters(), compression.recipe.learning_rate)

        def step(number: int) -> None:
            optimizer.zero_grad(set_to_none=True)
            loss = objective(model, inputs, labels, indices)
            (loss + compressor.penalty(loss)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            compressor.step(optimizer)

        return step

    def plain(weights: bool, activations: bool) -> Step:
        compressor, objective = replace(compression, method="qat8").compressor()
        quantized = compressor._working.model
        for _, layer in quantized.layers():
            layer.enabled = weights
        for quantizer in quantized.activation_quantizers():
            quantizer.enabled = activations
            quantizer.observing = activations
        return of(compressor, objective)

    without_size = replace(compression, goal=replace(compression.goal, budget=None), method="mixed")
    augmented = replace(compression, augment=lambda images, seed: images)
    halved = compression.compressor()
    halve(halved[0])
    return {
        "float": float_step(compression.model, inputs, labels, compression.recipe.learning_rate),
        "weights rounded": plain(weights=True, activations=False),
        "weights and activations rounded": plain(weights=True, activations=True),
        "and guide, teacher": of(*without_size.compressor()),
        "and learned depths, the size term": of(*compression.compressor()),
        "and a teacher that runs along (data.augment)": of(*augmented.compressor()),
        HALF: of(*halved),
    }


def halve(compressor: Compressor) -> None:
    """Let every second channel die, but for the outputs."""

    def die() -> None:
        *hidden, _ = compressor._layers.values()
        for layer in hidden:
            layer.set_mask(torch.arange(len(layer.mask)) % 2 == 0)

    compressor._decide(die)


def float_step(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, rate: float) -> Step:
    """The step that ordinary training of the user's own model takes."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.Adam(model.parameters(), rate)

    def step(number: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(inputs), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def timed(kinds: dict[str, Step], rounds: int) -> dict[str, float]:
    """Seconds of the kind "float", and each other kind's ratio to it: medians over the rounds."""
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(rounds + 1):
        for name, step in kinds.items():
            started = time.perf_counter()
            step(number)
            times[name].append(time.perf_counter() - started)
    float_times = times.pop("float")[1:]  # the first round warms up
    result = {"float": statistics.median(float_times)}
    for name, own in times.items():
        result[name] = statistics.median(a / b for a, b in zip(own[1:], float_times, strict=True))
    return result


def occasional(compression: Compression) -> dict[str, float]:
    """Seconds a step of what happens now and then, spread over the learning phase."""
    compressor, _ = compression.compressor()
    guarding = compressor._guarding
    learning_steps = compressor.learning_share * compressor.steps
    once = {"sensitivities": guarding.sensitivity, "norms": guarding.refresh, "watch": guarding.watch}
    seconds = {}
    for name, function in once.items():
        started = time.perf_counter()
        function()
        seconds[name] = time.perf_counter() - started
    return {
        f"{CHECKS} checks of the watch set": CHECKS * (seconds["norms"] + seconds["watch"]) / learning_steps,
        f"{REMOVALS} measurements of sensitivity": REMOVALS * seconds["sensitivities"] / learning_steps,
    }


def rows(seconds: float, ratios: dict[str, float], spread: dict[str, float]) -> list[Row]:
    """The two limits, then every part."""
    half = ratios.pop(HALF)
    names = list(ratios)
    whole = ratios[names[-1]] + sum(spread.values())
    quantized = ratios["weights and activations rounded"]
    result = [
        Row(
            "MNIST CNN: step with fake quantization alone, over the float step",
            f"{quantized:.2f}",
            f"≤ {FAKE_QUANTIZATION_LIMIT:g}",
            quantized <= FAKE_QUANTIZATION_LIMIT,
        ),
        Row(
            "MNIST CNN: whole step, over the float step",
            f"{whole:.2f}",
            f"≤ {WHOLE_LIMIT:g}",
            whole <= WHOLE_LIMIT,
        ),
        Row(
            "MNIST CNN: step with half of the channels gone (cached teacher), over the float step",
            f"{half:.2f}",
            f"< {HALF_LIMIT:g}",
            half < HALF_LIMIT,
        ),
        Row("float step, batch of 128", f"{1000 * seconds:.0f} ms = 1"),
    ]
    before = 1.0
    for name in names:
        result.append(Row(f"step: {name}", f"{ratios[name]:.2f} ({ratios[name] - before:+.2f})"))
        before = ratios[name]
    return [*result, *(Row(f"step: {name}, spread", f"(+{part:.3f})") for name, part in spread.items())]


if __name__ == "__main__":
    raise SystemExit(main())
