"""``search.json``: how a build looked for the smallest model above a floor.

Every try with its bytes and its watch metric. A build under a budget has none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sgsc_edge.artifacts import read_json
from sgsc_edge.errors import FileFormatError

SEARCH = "search.json"
SEARCH_SCHEMA = "sgsc-edge-search/1"
_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, serialize_by_alias=True)
_Bytes = Annotated[int, Field(gt=0, le=1 << 50)]


class SearchTrial(BaseModel):
    """One try: its budget, the one whose learned model it went on from, and the watch metric.

    ``error`` is the metric's standard error; ``thorough`` tries train as long as what ships. ``bytes``: of
    the layers that were left, as stored; None in records from before it was noted.
    """

    model_config = _STRICT

    budget: _Bytes
    above: _Bytes | None
    thorough: bool
    watch: float
    error: Annotated[float, Field(ge=0)]
    chosen: bool
    bytes: _Bytes | None = None


class Search(BaseModel):
    """The whole search. ``whole``: bytes of the network with every channel in 8 bits."""

    model_config = _STRICT

    schema_: Annotated[Literal["sgsc-edge-search/1"], Field(alias="schema")]
    metric: str
    floor: float
    samples: Annotated[int, Field(gt=0)]
    whole: _Bytes
    trials: Annotated[tuple[SearchTrial, ...], Field(strict=False, min_length=1, max_length=1000)]
    reached: bool

    @property
    def chosen(self) -> SearchTrial:
        """The try that became the build."""
        return next(trial for trial in self.trials if trial.chosen)


def read_search(path: Path) -> Search:
    """Read ``search.json``; ``FileFormatError`` where it is none."""
    try:
        found = Search.model_validate(read_json(path))
    except ValidationError as error:
        raise FileFormatError(
            f"is no record of a search: {error.errors()[0]['msg']}", where=str(path), remedy="build again"
        ) from error
    if sum(trial.chosen for trial in found.trials) != 1:
        raise FileFormatError("does not say which try was chosen", where=str(path), remedy="build again")
    return found
