"""Numbers and names as a report writes them."""

from __future__ import annotations

from sgsc_edge.inspection.text import printable

_NAMES = {"float": "float", "control": "control", "compressed": "compressed"}
_NAME_WIDTH = 48


def model_name(name: str) -> str:
    """What a model or runtime is called on the page.

    >>> model_name("compressed"), model_name("tflm")
    ('compressed', 'tflm')
    """
    return _NAMES.get(name, name)


def clean(text: str) -> str:
    """A name from elsewhere without control characters, shortened in its middle where it is long."""
    return printable(text, _NAME_WIDTH)


def metric(name: str, value: float | None) -> str:
    """A metric's value with its unit.

    >>> metric("accuracy", 0.979), metric("loss", 0.08554), metric("loss", None)
    ('97.90 %', '0.0855', '–')
    """
    if value is None:
        return "–"
    return percent(value) if name == "accuracy" else f"{value:.4f}"


def change(name: str, value: float) -> str:
    """How much a metric changes: shares in points.

    >>> change("accuracy", 0.02), change("loss", 0.02)
    ('2.00 points', '0.0200')
    """
    return f"{100 * value:.2f} points" if name == "accuracy" else f"{value:.4f}"


def percent(share: float, digits: int = 2) -> str:
    """A share of 1.

    >>> percent(0.5)
    '50.00 %'
    """
    return f"{100 * share:.{digits}f} %"


def count(number: int, one: str, many: str = "") -> str:
    """A number with its noun.

    >>> count(1, "sample"), count(1200, "sample"), count(2, "class", "classes")
    ('1 sample', '1,200 samples', '2 classes')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def compact(value: float) -> str:
    """A number for an axis or a table of history: four digits at most that matter.

    >>> compact(18068), compact(0.0314783), compact(0.5), compact(-0.0), compact(6_920_000), compact(1e-5)
    ('18,068', '0.03148', '0.5', '0', '6.92M', '0.00001')
    """
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.4g}M"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-6:
        return f"{value:.3g}"
    text = f"{value:.{max(0, 3 - _exponent(value))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _exponent(value: float) -> int:
    return int(f"{value:e}".split("e")[1])


def joined(names: list[str] | tuple[str, ...]) -> str:
    """An enumeration.

    >>> joined(["a"]), joined(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
