"""The signals of a step beside other annotations than those that they were written with."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentopd.types import Annotation, Record


def merged(kept: Sequence[Annotation], said: Mapping[str, Annotation]) -> tuple[Annotation, ...]:
    """``kept`` with what is ``said`` now: in place of what the same teacher said before, else behind the others."""
    names = {one.teacher for one in kept}
    new = (one for name, one in said.items() if name not in names)
    return (*(said.get(one.teacher, one) for one in kept), *new)


def renumbered(
    columns: Mapping[str, NDArray[Any]], pairs: Iterable[tuple[Record, Record]]
) -> Mapping[str, NDArray[Any]]:
    """Signals of records, for the same episodes with other annotations.

    Signals count the segments of a trajectory, and then those of its annotations. Rows of corrected actions that are still there get
    their number of now; rows of those that were replaced are left out. All others stay as they are.

    Args:
        columns: By name, an entry a token.
        pairs: Each record as it was, and as it is.
    """
    segment_A = columns["segment"].copy()
    kept_A = np.ones(len(segment_A), np.bool_)
    for was, now in pairs:
        place = _places(was, now)
        if (place == np.arange(len(place))).all():
            continue
        mine_A = np.flatnonzero(columns["trajectory"] == str(was.trajectory.key))
        segment_A[mine_A] = place[segment_A[mine_A]]
        kept_A[mine_A] = segment_A[mine_A] >= 0
    if kept_A.all() and (segment_A == columns["segment"]).all():
        return columns
    return {name: (segment_A if name == "segment" else column)[kept_A] for name, column in columns.items()}


def _places(was: Record, now: Record) -> NDArray[np.int32]:
    """For each segment of ``was`` its number in ``now``; -1 for those that are gone."""
    own = len(was.trajectory.segments)
    starts, count = {}, own
    for one in now.annotations:
        starts[one.teacher], count = count, count + len(one.segments)
    still = {one.teacher: one for one in now.annotations}
    places = list(range(own))
    for one in was.annotations:
        same = bool(one.segments) and still.get(one.teacher) == one
        first = starts[one.teacher] if same else 0
        places += [first + i if same else -1 for i in range(len(one.segments))]
    return np.array(places, np.int32)
