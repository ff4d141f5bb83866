"""What grows how: a compression of ResNet-18 beside one of the MNIST CNN, for the same small number of steps.

Both are trained from scratch for a fixed number of steps on some MNIST images, ResNet-18's enlarged to 32x32,
and compressed to the same share of their float bytes by the same recipe. Accuracies say that training and
compression work at that size, and no more: the schedule is far too short for either network. Each network has
a process of its own; its memory is the largest resident set, of compression that less the one before it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks.networks import network
from benchmarks.paper import resnet18
from benchmarks.paper.measure import Bytes, judge_compressed, judge_float
from benchmarks.record import ROOT, Row, Table, finish
from sgsc_edge.compression.compress import Compression, Guard, float_bytes
from sgsc_edge.compression.goal import Goal
from sgsc_edge.compression.guide import GuideSamples
from sgsc_edge.compression.loop import Recipe, steps_per_epoch
from sgsc_edge.compression.settling import Settling
from sgsc_edge.compression.shrink import shrink
from sgsc_edge.compression.widths.legal import Device
from sgsc_edge.project import load_project
from sgsc_edge.targets import load_target

NAME = "scale"

NETWORKS = {"MNIST CNN": 28, "ResNet-18": 32}
"""Networks and the side of their images."""

TRAINED, WATCHED, TESTED = 1536, 256, 1000
BATCH, FLOAT_EPOCHS, EPOCHS, RATE = 64, 3, 4, 1e-3
PARTS = {"train": TRAINED, "watch": WATCHED, "test": TESTED}
SHARE = 0.02
"""Budget, of the float parameters' bytes."""


@dataclass(frozen=True)
class Cost:
    """What one network took.

    Parameters
    ----------
    float_step: seconds of a step of float training, median.
    learning_step, settling_step: seconds of a step of compression, in an epoch in which depths are learned
        and in the last one; with all that an epoch holds beside its steps.
    planning: seconds of the choice of channels and widths.
    compression: seconds, all of it.
    float_memory, memory: bytes, of the process after float training, and of what compression added.
    """

    parameters: int
    float_bytes: int
    budget: int
    learned: int
    float_step: float
    learning_step: float
    settling_step: float
    planning: float
    compression: float
    float_memory: int
    memory: int
    float_test: float
    test: float


def main() -> int:
    """Measure both networks and compare."""
    costs = {name: _in_a_process(name) for name in NETWORKS}
    small, large = costs.values()
    rows = [
        Row(
            "schedule",
            f"{TRAINED:,d} images, batches of {BATCH}: {FLOAT_EPOCHS} epochs float, {EPOCHS} of compression "
            f"to {SHARE:.0%} of the float bytes; {torch.get_num_threads()} threads",
        ),
        Row(
            "ResNet-18: stored bytes within the budget",
            f"{large.learned:,d}",
            f"≤ {large.budget:,d}",
            large.learned <= large.budget,
        ),
    ]
    detail = {name: vars(cost) for name, cost in costs.items()}
    return finish(f"paper.{NAME}", rows, detail, tables=[table(small, large)])


def table(small: Cost, large: Cost) -> Table:
    """Every figure of both networks, and the factor between them."""
    times = (
        ("seconds of a float step", "float_step"),
        ("seconds of a step while depths are learned", "learning_step"),
        ("seconds of a step at the chosen widths", "settling_step"),
        ("seconds of choosing channels and widths", "planning"),
        ("seconds of compression", "compression"),
    )
    counts = (
        ("parameters", "parameters"),
        ("float bytes", "float_bytes"),
        ("bytes, learned widths", "learned"),
    )
    memory = (
        ("MB of the process after float training", "float_memory"),
        ("MB that compression adds", "memory"),
    )
    accuracies = (("test accuracy, float", "float_test"), ("test accuracy, compressed", "test"))
    lines: list[tuple[str, ...]] = []
    for group, form, unit in ((counts, ",.0f", 1.0), (times, ".3f", 1.0), (memory, ",.0f", 1e6)):
        for text, field in group:
            a, b = getattr(small, field) / unit, getattr(large, field) / unit
            lines.append((text, f"{a:{form}}", f"{b:{form}}", f"{b / a:.1f}" if a else ""))
    for text, field in accuracies:
        lines.append((text, f"{getattr(small, field):.1%}", f"{getattr(large, field):.1%}", ""))
    return Table("What grows how", ("", *NETWORKS, "factor"), tuple(lines))


def _in_a_process(name: str) -> Cost:
    """Measured by a process that has read nothing but its images: what it takes is the network's."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "images.npz"
        parts = {part: images(part, count, NETWORKS[name]) for part, count in PARTS.items()}
        arrays = {
            f"{part}_{i}": tensor.numpy()
            for part, data in parts.items()
            for i, tensor in enumerate(data.tensors)
        }
        np.savez(path, **arrays)  # type: ignore[arg-type]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.paper.scale", name, path],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return Cost(**json.loads(done.stdout))


def measure(name: str, train: TensorDataset, watch: TensorDataset, test: TensorDataset) -> Cost:
    """Train and compress one network in this process."""
    torch.manual_seed(0)
    model = resnet18.build() if name == "ResNet-18" else network(ROOT / "examples/mnist/model.py")
    float_step = train_float(model, train)
    float_memory = _memory()
    budget = int(SHARE * float_bytes(model))
    clock = Clock()
    logging.getLogger("sgsc_edge").addHandler(clock)
    logging.getLogger("sgsc_edge").setLevel(logging.INFO)
    compression = Compression(
        model=model,
        sample=train[0][0],
        train=train,
        watch=(watch.tensors[0], watch.tensors[1]),
        recipe=Recipe(EPOCHS, BATCH, RATE, 0),
        method="sgsc",
        guide=GuideSamples(tuple(range(0, len(train), 10))),
        goal=Goal(budget=budget),
        guard=Guard("accuracy", 0.01),
        device=Device.of(load_target("c-learned")),
    )
    clock.start()
    with tempfile.TemporaryDirectory() as folder, timed(Settling, "settle") as planning:
        compressed = compression.run(Path(folder), NAME)
    memory = _memory() - float_memory
    shrunk = shrink(compressed, train[0][0]).model
    steps = steps_per_epoch(len(train), BATCH, compression.goal.guide_share)
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        float_bytes=float_bytes(model),
        budget=budget,
        learned=Bytes.of(shrunk).learned,
        float_step=float_step,
        learning_step=clock.between("epoch 1/", "epoch 2/") / steps,
        settling_step=clock.between(f"epoch {EPOCHS - 1}/", f"epoch {EPOCHS}/") / steps,
        planning=sum(planning),
        compression=clock.total(),
        float_memory=float_memory,
        memory=memory,
        float_test=judge_float(model, *test.tensors).metric("accuracy"),
        test=judge_compressed(shrunk, *test.tensors).metric("accuracy"),
    )


def images(part: str, count: int, side: int) -> TensorDataset:
    """Evenly spaced MNIST images float32 [count, 1, side, side]; those of "watch" are not in "train"."""
    project = load_project(ROOT / "examples/mnist")
    dataset = project.load_dataset("test" if part == "test" else "train")
    positions = np.linspace(0, len(dataset) - 2, count, dtype=int) // 2 * 2 + (part == "watch")
    samples = [dataset[int(position)] for position in positions]
    stacked = torch.stack([torch.as_tensor(inputs) for inputs, _ in samples])
    if side != stacked.shape[-1]:
        stacked = F.interpolate(stacked, size=(side, side), mode="bilinear", align_corners=False)
    return TensorDataset(stacked, torch.tensor([int(label) for _, label in samples]))


def train_float(model: nn.Module, data: TensorDataset) -> float:
    """Train with Adam under a one-cycle schedule; the median seconds of a step."""
    steps = FLOAT_EPOCHS * math.ceil(len(data) / BATCH)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    times = []
    model.train()
    for _ in range(FLOAT_EPOCHS):
        for batch in torch.split(torch.randperm(len(data)), BATCH):
            started = time.perf_counter()
            inputs, labels = data.tensors[0][batch], data.tensors[1][batch]
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(inputs), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            times.append(time.perf_counter() - started)
    model.eval()
    return statistics.median(times)


class Clock(logging.Handler):
    """When each line was logged, in seconds since :meth:`start`."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[tuple[float, str]] = []
        self.started = 0.0

    def start(self) -> None:
        """Begin to count."""
        self.started = time.perf_counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Note a line."""
        self.lines.append((time.perf_counter() - self.started, record.getMessage()))

    def total(self) -> float:
        """Until the last line."""
        return self.lines[-1][0]

    def between(self, first: str, second: str) -> float:
        """From the line that holds one text to the one that holds the other."""
        return self._at(second) - self._at(first)

    def _at(self, text: str) -> float:
        found = [when for when, line in self.lines if text in line]
        if not found:
            raise SystemExit(f"compression logged no line with {text!r}")
        return found[0]


@contextlib.contextmanager
def timed(owner: type, name: str) -> Iterator[list[float]]:
    """While it lasts, every call of a method adds its seconds to the list."""
    method, seconds = getattr(owner, name), list[float]()

    def called(*arguments: object) -> object:
        started = time.perf_counter()
        result = method(*arguments)
        seconds.append(time.perf_counter() - started)
        return result

    setattr(owner, name, called)
    try:
        yield seconds
    finally:
        setattr(owner, name, method)


def _memory() -> int:
    """The largest resident set of this process so far, bytes.

    ``getrusage`` would count that of the process which started it, too.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        raise SystemExit("memory is read from /proc, which this system does not have")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _child(name: str, path: str) -> None:
    with np.load(path) as arrays:
        parts = [
            TensorDataset(*(torch.from_numpy(arrays[f"{part}_{i}"]) for i in range(2))) for part in PARTS
        ]
    print(json.dumps(vars(measure(name, *parts))))


if __name__ == "__main__":
    _child(*sys.argv[1:])
