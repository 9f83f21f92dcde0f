from dataclasses import replace

import numpy as np
import pytest
from teacher_cases import episode

from agentopd.teachers.views import own_view, problem, select
from agentopd.types import View


def test_own_view_covers_every_action_token_of_its_segment() -> None:
    trajectory = episode("..00.1", "...22")
    first, second = own_view(trajectory, 0), own_view(trajectory, 1)
    assert first.position_A.tolist() == first.index_A.tolist() == [2, 3, 5]
    assert second.index_A.tolist() == [3, 4]
    assert second.segment_A.tolist() == [1, 1]
    assert second.tokens_T is trajectory.segments[1].tokens_T


def test_select_keeps_the_map_and_cuts_the_tail() -> None:
    view = own_view(episode("..00.1.22."), 0)
    kept = select(view, np.array([True, False, True, False, False]))
    assert kept.index_A.tolist() == [2, 5]
    assert kept.tokens_T.tolist() == view.tokens_T[:6].tolist()
    assert len(select(view, np.zeros(5, np.bool_)).tokens_T) == 0


@pytest.mark.parametrize("position", [0, 10])
def test_an_action_token_without_a_row_is_a_problem(position: int) -> None:
    trajectory = episode("..0")
    view = View(trajectory.segments[0].tokens_T, *(np.array([x], np.int32) for x in (position, 0, 2)))
    assert f"position {position}, which no row" in str(problem(view, trajectory))


def test_invariant_1_a_view_never_reencodes_an_action() -> None:
    trajectory = episode("..00")
    view = own_view(trajectory, 0)
    assert problem(view, trajectory) is None
    tokens = view.tokens_T.copy()
    tokens[3] += 1
    assert "never re-encode" in str(problem(replace(view, tokens_T=tokens), trajectory))
