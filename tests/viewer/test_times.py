"""Where the time of a run went, from its metrics."""

import re
from typing import Any

import pytest

from agentopd.viewer.times import times


@pytest.mark.parametrize("plays", [0, 2])
def test_steps_that_play_nothing_take_time_too(plays: int) -> None:
    rows: list[dict[str, Any]] = [
        {"step": step, "seconds": 100.0 + 2 * step, "train/loss": 1.0, "seconds/rollout": 0.5} for step in range(1, 21)
    ]
    for row in rows[::2] if plays else ():
        row |= {"rollout/seconds/policy": 0.5, "rollout/seconds/env": 0.25}
    told = re.sub("<[^>]*>", "", times(rows, {}))
    assert "training, 19 steps after the first38.0 s2.0 s a step" in told
    assert "rollouts9.5 s25%" in told
    assert ("the acting model, within rollouts4.5 s" in told) == bool(plays)
