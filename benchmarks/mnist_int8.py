"""MNIST: test accuracy of the paper's CNN in float and as the int8 build, on TFLM and LiteRT.

Builds examples/mnist where that has not been done (its float checkpoint must be there: `make mnist`), then
lets every model decide the 10,000 test samples; TFLM's reference kernels take about a minute a core::

    python -m benchmarks.mnist_int8
"""

from __future__ import annotations

from benchmarks.record import ROOT, Row, build, finish
from benchmarks.test_set import device_errors, float_errors

LIMIT_POINTS = 0.1
RUNTIMES = ("tflm", "litert", "litert-reference")


def main() -> int:
    """Measure float and int8 accuracy."""
    project = ROOT / "examples/mnist"
    folder = build(project, project / "build")
    errors, samples = float_errors(project)
    device = {name: device_errors(project, folder, name) for name in RUNTIMES}
    return finish(
        "mnist_int8", rows(samples, errors, device), {"samples": samples, "float": errors, **device}
    )


def rows(samples: int, errors: int, device: dict[str, int]) -> list[Row]:
    """Accuracy of the float model and of each runtime; TFLM's has the limit."""
    result = [Row(f"MNIST: float test accuracy ({samples:,} samples)", f"{1 - errors / samples:.2%}")]
    for name, wrong in device.items():
        gated = name == "tflm"
        result.append(
            Row(
                f"MNIST: int8 test accuracy, {name}",
                f"{1 - wrong / samples:.2%}",
                f"≥ float − {LIMIT_POINTS} points" if gated else "",
                wrong - errors <= LIMIT_POINTS / 100 * samples if gated else None,
            )
        )
    return result


if __name__ == "__main__":
    raise SystemExit(main())
