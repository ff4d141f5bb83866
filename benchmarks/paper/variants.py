"""The rows: every way to compress that is compared, and at which sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from benchmarks.paper.subjects import Subject
from sgsc_edge.compression.goal import GUIDE_SHARE
from sgsc_edge.compression.loop import guide_samples

How = Literal["float", "longer", "ptq", "uniform", "pruned", "sgsc", "balanced"]
"""``longer`` trains the float model for as many steps as the others; ``ptq`` calibrates; ``uniform`` trains
all weights at 4 bits; ``pruned`` removes the channels with the smallest norms until the budget is met in 8
bits, and trains; ``sgsc`` is what sgsc-edge does; ``balanced`` the same, the rare class repeated."""

UNCOMPRESSED = ("float", "longer")


@dataclass(frozen=True)
class Variant:
    """One way to compress.

    Parameters
    ----------
    name: on the command line.
    group: what is varied; rows of a group follow each other.
    text: in the table.
    how: see :data:`How`.
    settings: beside the subject's.
    guided: whether batches hold guide samples.
    everywhere: whether it is run at each of the subject's budgets, rather than at one.
    of_rare: whether it is about a class with few samples.
    """

    name: str
    group: str
    text: str
    how: How = "sgsc"
    settings: tuple[str, ...] = ()
    guided: bool = True
    everywhere: bool = False
    of_rare: bool = False

    @property
    def acts(self) -> bool:
        """Whether it has a controller that gives bits back while depths are learned."""
        return not _CONTROLLERS.isdisjoint(self.settings)

    @property
    def weighs(self) -> bool:
        """Whether it has a preservation loss, with a weight λ."""
        return self.how == "sgsc" and self.guided

    @property
    def guarded(self) -> bool:
        """Whether a preservation set took part in its training."""
        return self.acts or self.weighs

    @property
    def chooses(self) -> bool:
        """Whether its preservation set, and so its watch part, is another one than ours."""
        return any(
            setting.startswith("preservation.") and not setting.startswith("preservation.must_keep")
            for setting in self.settings
        )


_NO_GUIDE = "compress.lambda=0"
_NO_CONTROLLER = "compress.controller=false"
_CONTROLLER, _BY_CHANCE = "compress.controller=true", 'compress.controller="random"'
_CONTROLLERS = frozenset({_CONTROLLER, _BY_CHANCE})
_AT_RANDOM = "preservation.method=random"


_ALL_STAY = ("compress.method=mixed", _NO_GUIDE, _NO_CONTROLLER)
"""Training at given widths without a guard: the same loss, channels stay as they are."""


def _only(criterion: str) -> tuple[str, ...]:
    """All of the preservation set by one criterion."""
    criteria = ("saliency", "uncertainty", "diversity")
    return tuple(f"preservation.shares.{name}={int(name == criterion)}" for name in criteria)


OURS = Variant("ours", "ours", "ours: λ and size as constraints", everywhere=True)

VARIANTS = (
    Variant("float", "baselines", "float", "float", guided=False),
    Variant("longer", "baselines", "float, trained as long as the rows below", "longer", _ALL_STAY, False),
    Variant("ptq8", "baselines", "uniform int8, calibrated only", "ptq", ("compress.method=ptq",), False),
    Variant("int4", "baselines", "uniform int4, trained", "uniform", _ALL_STAY, False),
    Variant(
        "pruned",
        "baselines",
        "channels pruned by magnitude, then int8",
        "pruned",
        _ALL_STAY,
        guided=False,
        everywhere=True,
    ),
    Variant(
        "unsafe",
        "baselines",
        "ours without preservation loss and controller",
        settings=(_NO_GUIDE, _NO_CONTROLLER),
        guided=False,
        everywhere=True,
    ),
    Variant(
        "balanced",
        "baselines",
        "the unsafe run, samples of the rare class drawn 16 times as often",
        "balanced",
        (_NO_GUIDE, _NO_CONTROLLER),
        guided=False,
        everywhere=True,
        of_rare=True,
    ),
    OURS,
    Variant(
        "kept",
        "ours",
        "ours, and the rare class named as must_keep",
        settings=("preservation.must_keep=data:rare",),
        everywhere=True,
        of_rare=True,
    ),
    Variant(
        "lambda0",
        "λ",
        "no preservation loss, controller by sensitivity",
        settings=(_NO_GUIDE, _CONTROLLER),
        guided=False,
    ),
    *(
        Variant(f"lambda{weight}", "λ", f"λ = {weight}", settings=(f"compress.lambda={weight}",))
        for weight in ("0.1", "0.5", "1.0")
    ),
    Variant("lambda4", "λ", "λ = 4", settings=("compress.lambda=4",)),
    *(
        Variant(f"alpha{weight}", "α", f"α = {weight}", settings=(f"compress.alpha={weight}",))
        for weight in ("1", "10", "100")
    ),
    *(
        Variant(f"bits{most}", "bits", f"up to {most} bits", settings=(f"compress.bits=[2, {most}]",))
        for most in (2, 4, 16)
    ),
    *(
        Variant(
            f"fraction{share}",
            "size of the set",
            f"{share} % of the training data",
            settings=(f"preservation.fraction={share / 100}",),
        )
        for share in (1, 5, 20)
    ),
    Variant("controller-on", "controller", "by sensitivity", settings=(_CONTROLLER,)),
    Variant("controller-random", "controller", "at random", settings=(_BY_CHANCE,)),
    Variant("set-random", "choice of the set", "at random, classes covered", settings=(_AT_RANDOM,)),
    Variant("set-saliency", "choice of the set", "saliency alone", settings=_only("saliency")),
    Variant("set-uncertainty", "choice of the set", "uncertainty alone", settings=_only("uncertainty")),
    Variant("set-diversity", "choice of the set", "clusters alone", settings=_only("diversity")),
    Variant(
        "plain",
        "choice of the guide alone",
        "λ = 1, no controller: all three criteria",
        settings=("compress.lambda=1", _NO_CONTROLLER),
    ),
    Variant(
        "plain-random",
        "choice of the guide alone",
        "λ = 1, no controller: at random, classes covered",
        settings=("compress.lambda=1", _NO_CONTROLLER, _AT_RANDOM),
    ),
)

SAME_AS_OURS = {
    "bits": "up to 8 bits (ours)",
    "size of the set": "10 % of the training data (ours)",
    "controller": "none (ours)",
    "choice of the set": "all three criteria (ours)",
}
"""Groups in which the row of ours stands too, under this text."""

SETS = {
    "chosen": OURS.name,
    "random": "set-random",
    "saliency": "set-saliency",
    "uncertainty": "set-uncertainty",
    "clusters": "set-diversity",
}
"""The ways to choose a set that are compared as predictors, and the variant that chooses so."""


@dataclass(frozen=True)
class Case:
    """A variant of a subject at one size; the budget is None where the method has a size of its own."""

    subject: Subject
    variant: Variant
    budget: int | None

    @property
    def name(self) -> str:
        """Of the row's files."""
        return self.variant.name if self.budget is None else f"{self.variant.name}@{self.budget}"

    def settings(self, seed: int) -> list[str]:
        """The project's settings, ``section.key=value``, the later over the earlier."""
        subject, batch = self.subject, self.subject.batch_size
        if not self.variant.guided:  # as many steps, each without the guide samples
            batch -= guide_samples(batch, GUIDE_SHARE)
        presses = self.budget is not None and self.variant.how in ("sgsc", "balanced")
        return [
            f"compress.seed={seed}",
            f"compress.epochs={subject.epochs}",
            f"compress.batch_size={batch}",
            "compress.learning_rate=1e-3",
            *subject.settings,
            *((f"compress.budget={self.budget} B",) if presses else ()),
            *self.variant.settings,
        ]


def cases(subject: Subject) -> Iterator[Case]:
    """All rows of a subject, in the table's order."""
    for variant in VARIANTS:
        if variant.name not in (subject.variants or (variant.name,)):
            continue
        if variant.of_rare and subject.rare is None:
            continue
        if variant.how in (*UNCOMPRESSED, "ptq", "uniform"):
            yield Case(subject, variant, None)
        else:
            budgets = subject.budgets if variant.everywhere else (subject.ablated,)
            yield from (Case(subject, variant, budget) for budget in budgets)
