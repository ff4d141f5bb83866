"""The nearest known name, for messages about one that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_CUTOFF = 0.6


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like ``name``, upper and lower case alike; None where none is like it.

    >>> closest("biuld", ["build", "verify"]), closest("KB", ["B", "kB"]), closest("x", ["build"])
    ('build', 'kB', None)
    """
    folded = {other.casefold(): other for other in known}
    match = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=_CUTOFF)
    return folded[match[0]] if match else None


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the closest known name, else an empty string.

    >>> nearest("epoch", ["epochs", "seed"])
    "; did you mean 'epochs'?"
    """
    match = closest(name, known)
    return f"; did you mean '{match}'?" if match is not None else ""
