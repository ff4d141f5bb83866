"""Writes docs/results.md from the result files: `python -m benchmarks.report`.

Every benchmark has its section; one without a result file says so and names its command.
"""

from __future__ import annotations

from benchmarks.record import HEADER, RESULTS, ROOT, read_rows, read_shown
from sgsc_edge.artifacts import write_bytes

SECTIONS = {
    "exactness": ("Exactness", "Real kernels against the NumPy integer executor, on whole certify sets."),
    "digits_seeds": ("Digits, float against int8", "Five seeds, each trained and built anew."),
    "digits_budget": (
        "Digits under a budget",
        "Learned depths; every channel that stays is stored in 8 bits.",
    ),
    "digits_frontier": (
        "Digits at several sizes",
        "One compression downwards beside a build for each budget; and a floor in place of a budget.",
    ),
    "networks_budget": (
        "Other networks under a budget",
        "Depthwise-separable and residual, on the digits, with the recipe of the digits example untouched.",
    ),
    "mnist_int8": ("MNIST, float against int8", "The paper's CNN on the 10,000 test samples."),
    "mnist_budget": (
        "MNIST under a budget",
        "The paper's CNN at 20 kB beside the same without guide and controller, plain 8 bits, and "
        "calibration alone; by seed, each with a float model of its own. 16 epochs with `data.augment`; "
        "`must_keep` are the 50 training samples that float decides most closely, and are trained on.",
    ),
    "mnist_narrow": (
        "MNIST with 4-bit weights",
        "The paper's CNN for TFLite Micro with mixed 4-bit and 8-bit weights, beside 8 bits alone.",
    ),
    "learned_widths": (
        "Learned widths in C code",
        "Weights of 1 to 8 bits a channel, packed, beside 8 bits and mixed widths under the same budgets.",
    ),
    "mnist_learned": (
        "MNIST at learned widths",
        "The paper's CNN from 20 kB to 1 kB of constants in C, by the default recipe (8 epochs, no "
        "augmentation); the paper stores 214,730 bytes for 99.5 %.",
    ),
    "mnist_build_time": (
        "The time of a build",
        "From the paper's CNN in float to its certificate and report, on a machine that does nothing else.",
    ),
    "names_learned": (
        "Names at learned widths",
        "The names language model at a fifth and a tenth of its float bytes; the paper stores 60.8 %. The "
        "bytes at learned widths of commit c4e1776 leave out its LayerNorms, 1,176 bytes.",
    ),
    "paper.mnist": (
        "What the preservation set and the controller buy",
        "The method of arXiv 2505.00350 beside baselines and variations, from the same float models by short "
        "schedules; figures are mean ± standard deviation over seeds. Flips are certify decisions that "
        "float has right, actions how often the controller gave bits back, λ the weight of the preservation "
        "loss at the end. Certify samples are those of our own set, which no gradient has seen; rows with "
        "another set may have watched some, and show none. Each way of choosing a set changes its guide and "
        "its watch part; random sets cover the classes as ours do, and *choice of the guide alone* leaves "
        "the watch part no say. Depths that start at 16 bits fall at the rate that is made for 8. "
        "Of twenty differences one may lie outside its interval by chance.",
    ),
    "paper.names": (
        "The same on the names language model",
        "Losses in nats a character; a decision is a next character.",
    ),
    "paper.rare": (
        "A rare class",
        "One digit has 1 % of its training samples: does compression forget it first?",
    ),
    "paper.scale": ("ResNet-18", "The same recipe on a network of 11 million parameters."),
    "mixed_plan": ("Mixed widths", "Bytes of each example with all of its channels, and which builds pass."),
    "device.sizes": (
        "On the device: size",
        "The paper's CNN in plain int8 as firmware: the file that onnx2tf made of it.",
    ),
    "device.identity": (
        "On the device: the same integers",
        "Whole certify and must-keep sets on every board, against TFLite Micro.",
    ),
    "device.foreign": (
        "On the device: models of another converter",
        "200 random inputs each, against TFLite Micro.",
    ),
    "device.fresh": (
        "On the device: the first time",
        "A wheel in an empty environment, with no compiler and no emulator on the path.",
    ),
    "newcomer": (
        "A newcomer's way",
        "From a clone, and from a wheel in an empty environment, each command as it is typed; the output is "
        "kept for reading.",
    ),
    "scaling": ("Growth", "What planning and lowering take as networks grow."),
    "step_time": ("Training step", "What quantization and learning add to a step of the MNIST CNN."),
    "preserve_time": ("Preservation set", "Grad-CAM, uncertainty and clusters of the 60,000 MNIST samples."),
    "lowering_time": ("Lowering time", "Whole processes, runs of both converters alternating."),
    "report_time": ("Report", "Until the load event has ended, a fresh Chromium each time."),
    "cli_time": ("Command line", "Whole processes, warm file cache."),
    "device.instructions": (
        "Estimates for microcontrollers",
        "What `inspect --board` estimates of networks that its table was not fitted to, beside counts of the "
        "virtual boards and linked images.",
    ),
    "hostile": (
        "Damaged files",
        "Files of a digits build, damaged, with all hashes made to fit: what each command made of them.",
    ),
    "faults": (
        "Faults",
        "Put into a digits build, with all hashes made to fit. Nothing tells a folder whose certificate was "
        "issued anew from an honest one, but for thresholds of one's own (`verify --policy`) or a signature.",
    ),
    "resume_kill": (
        "Killed builds",
        "Digits under a budget with a control; killed once, each build at its own moment, and started again.",
    ),
    "reproducible": ("Reproducibility", "Two builds from scratch, by SHA-256."),
}

INTRODUCTION = """\
# Results

Measured figures and the commands that measure them. `python -m benchmarks.report` writes this page from
`benchmarks/results/`; it is not edited by hand.
"""


def main() -> None:
    """Write the page."""
    parts = [INTRODUCTION, *(section(name, *texts) for name, texts in SECTIONS.items())]
    path = ROOT / "docs" / "results.md"
    write_bytes(path, "\n".join(parts).encode())
    print(f"wrote {path.relative_to(ROOT)}")


def section(name: str, title: str, text: str) -> str:
    """One benchmark: its rows, what they hold for, and its command."""
    head = f"## {title}\n\n{text} Command: `python -m {command(name)}`.\n"
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        return f"{head}\nNot measured yet.\n"
    rows, environment = read_rows(path)
    table = "\n".join([HEADER, *(row.markdown() for row in rows)])
    shown = "".join(f"{one.markdown()}\n\n" for one in read_shown(path))
    return f"{head}\n{table}\n\n{shown}{conditions(environment)}\n"


def command(name: str) -> str:
    """The module that measures a benchmark, and its options.

    >>> command("cli_time"), command("paper.rare")
    ('benchmarks.cli_time', 'benchmarks.paper --model rare')
    """
    package, _, model = name.partition(".")
    return f"benchmarks.paper --model {model}" if package == "paper" else f"benchmarks.{name}"


def conditions(environment: dict[str, object]) -> str:
    """One line: machine, Python, packages, commit."""
    packages = environment["packages"]
    if not isinstance(packages, dict):
        raise SystemExit("a result file without package versions")
    versions = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    return (
        f"{environment['cores']} cores ({environment['cpu']}), {environment['system']}, "
        f"Python {environment['python']}, {versions}; commit {environment['commit']}, {environment['date']}."
    )


if __name__ == "__main__":
    main()
