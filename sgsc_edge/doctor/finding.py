"""One thing that was looked for, and what was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "missing", "wrong"]
Stops = Literal["", "build", "verify"]


@dataclass(frozen=True)
class Finding:
    """A row of a diagnosis.

    Parameters
    ----------
    part: what kind of thing it is, as a heading.
    state: there and usable; not there; or there and of no use (too old, broken).
    detail: the version, or what is wrong.
    use: what it is for.
    mend: the command or the sentence that mends it; empty where nothing is to be done.
    stops: what cannot run without it: ``build``; ``verify``, and then no build either; or neither.
    """

    part: str
    name: str
    state: State
    detail: str = ""
    use: str = ""
    mend: str = ""
    stops: Stops = ""
