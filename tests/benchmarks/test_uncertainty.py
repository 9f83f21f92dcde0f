"""What the benchmarks of uncertainty make of episodes and of stored results."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentopd.chat import Chat
from agentopd.chat.tokenizer import build_tokenizer
from agentopd.rollout import EnvConfig, Rollout, TaskStream, assign, collect
from agentopd.teachers import rowless
from agentopd.types import EXPERT, Trajectory
from benchmarks import errands, uncertainty, weights
from benchmarks.measured import add, kept


@pytest.fixture(scope="module")
def played() -> list[Trajectory]:
    """Episodes of the expert where tools fail."""
    chat = Chat(build_tokenizer(["Go to each place, ask at its counter."], 300))
    stream = TaskStream([EnvConfig(id=errands.ID, kwargs={"failure_rate": 0.3})], 0, "train")
    assignments = assign(stream, range(12), "fresh", {EXPERT: 1.0}, 1, "test", 0, 0)
    return collect(assignments, {}, chat, Rollout(max_new_tokens=200, max_length=4000, max_turns=40))


def test_kinds_of_turns_are_those_of_the_episode(played: list[Trajectory]) -> None:
    for trajectory in played:
        found = uncertainty.kinds(trajectory)
        after_failure = [False, *(bool(turn.errors) for turn in trajectory.turns[:-1])]
        assert [kind == "failure" for kind in found] == after_failure
        assert found[0] == "choice"
        assert found.count("choice") == 2
        assert found.count("plain") == 5


def test_a_turn_is_told_by_its_own_tokens(played: list[Trajectory]) -> None:
    trajectory = played[0]
    [segment] = trajectory.segments
    index_N = np.flatnonzero(segment.turn_T >= 0).astype(np.int32)
    turn_N = segment.turn_T[index_N].astype(np.float32)
    nothing = rowless("teacher", trajectory)
    said = type(nothing)(
        **{field: getattr(nothing, field) for field in ("teacher", "block", "reward_S", "skip_S", "corrected_S", "segments")},
        segment_N=np.zeros_like(index_N),
        index_N=index_N,
        taken_logprob_N=turn_N,
        entropy_N=turn_N,
        statistics={"aleatoric": turn_N * 2, "epistemic": np.arange(len(index_N), dtype=np.float32)},
    )  # fmt: skip
    for s, turn in enumerate(uncertainty.told(trajectory, said)):
        assert turn["entropy/mean"] == turn["entropy/largest"] == 1e5 * s
        assert turn["aleatoric/mean"] == 2e5 * s
        assert turn["epistemic/mean"] == 1e5 * np.flatnonzero(turn_N == s).mean()
        assert turn["epistemic/largest"] == 1e5 * np.flatnonzero(turn_N == s).max()


def test_table_of_areas_counts_the_seeds_that_came_out_as_wanted() -> None:
    kinds = ["choice", "failure", "plain", "plain", "mistake"] * 8
    right = {"choice": (1.0, 0.1), "failure": (0.2, 0.9), "plain": (0.1, 0.2), "mistake": (9.0, 9.0)}
    columns = {
        f"{name}/{reading}": [right[kind][i % 2] for kind in kinds]
        for reading in uncertainty.READINGS
        for i, name in enumerate(uncertainty.STATISTICS)
    }
    good: dict[str, Any] = {
        "kinds": "".join(kind[0] for kind in kinds),
        "turns": {"episode": [i // 5 for i in range(40)], **columns},
    }
    bad = {"kinds": good["kinds"], "turns": {"episode": good["turns"]["episode"], **dict.fromkeys(columns, [0] * 40)}}
    told = uncertainty.table({"11": bad, "2": good})
    assert "| mean | choice | aleatoric | 1.00 [1.00, 1.00] | 0.50 [0.50, 0.50] | 0.75 [0.75, 0.75] |" in told
    assert told.count("| 1 of 2 |") == 4
    assert "16 choice, 16 failure, 32 plain, 16 mistake (left out)" in told


def test_table_of_weights_pairs_what_all_arms_have() -> None:
    def result(successes: int, **more: list[int]) -> dict[str, Any]:
        return {"success": {"after": [1] * successes + [0] * (10 - successes), **more}}

    start = {"before": [0] * 10, "member": [1] * 10}
    results = {f"uniform/{seed}": result(2 + seed, **start) for seed in (1, 2, 3)}
    results |= {f"epistemic/{seed}": result(3 + 2 * seed) for seed in (1, 2)}
    told = weights.table(results)
    assert told.startswith("Seeds 1, 2. Before: 0.0% [0.0, 16.1]; a member where tools fail: 100.0% [83.9, 100.0].")
    assert "| epistemic | 60.0% [38.7, 78.1] | +25.0 [-38.5, +88.5] | 0.126 |" in told
    assert told.endswith("| +20 +30 |")


def test_results_of_several_processes_stand_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    add(path, "a", 1)
    add(path, "b", {"c": [2]})
    assert kept(path) == json.loads(path.read_text()) == {"a": 1, "b": {"c": [2]}}
    assert [found.name for found in path.parent.iterdir()] == ["results.json"]
