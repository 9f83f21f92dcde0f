"""Runs that are killed from outside, again and again, at moments that nobody chose."""

import random
import signal
import time
from pathlib import Path

import killed_runs
import pytest
import training_cases as cases

from agentopd import records
from agentopd.config import load_config
from agentopd.training.run.whole import train

KILLS = 5
"""In each of four histories, which may be lived through side by side."""
RAW = cases.raw(steps=6, eval_every=2, save_every=1, lora={"r": 2, "lora_alpha": 4})


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_invariant_10_twenty_kills_at_random_moments_lose_nothing_and_count_nothing_twice(
    tmp_path: Path, seed: int
) -> None:
    begin, whole = time.monotonic(), tmp_path / "whole" / "run"
    train(load_config(RAW), whole)
    longest, draw = time.monotonic() - begin, random.Random(seed)
    kills, finished = 0, 0
    while kills < KILLS or not finished:
        run = tmp_path / str(finished) / "run"  # keys hold the name of the folder
        seconds = draw.uniform(0.0, longest) if kills < KILLS else 120.0
        code = killed_runs.killed_after(RAW, run, seconds)
        kills += code == -signal.SIGKILL
        if code == 0:
            _assert_whole(run, whole)
            finished += 1
        else:
            assert code == -signal.SIGKILL


def _assert_whole(run: Path, expected: Path) -> None:
    assert cases.same_weights(cases.saved(run), cases.saved(expected))
    assert cases.metrics(run) == cases.metrics(expected)
    assert cases.panels(run) == cases.panels(expected)
    assert cases.kept(run) == cases.kept(expected)
    keys = [record.trajectory.key for record in records.open(run)]
    assert len(set(keys)) == len(keys) == 6 * 2
