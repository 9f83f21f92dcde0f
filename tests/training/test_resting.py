"""When what turns alone take of a card is given back, told by an engine of one's own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import training_cases as cases
from transformers import PreTrainedModel

from agentopd.errors import ConfigError
from agentopd.rollout.engines import TransformersEngine
from agentopd.rollout.policy import Policy, Rollout
from agentopd.training.loop.arguments import arguments

SEEN: list[str] = []


class Resting(TransformersEngine):
    """Says when it rests, and when a turn is asked for."""

    @property
    def rest(self) -> Callable[[], None]:
        """Until the next turn."""
        return lambda: SEEN.append("rest")

    def policy(self, model: PreTrainedModel, ends: Any, settings: Rollout) -> Policy:
        """One that says when it acts."""
        policy: Any = super().policy(model, ends, settings)
        act = policy.act

        def acting(requests: Any) -> Any:
            SEEN.append("turn")
            return act(requests)

        policy.act = acting
        return policy  # type: ignore[no-any-return]


def test_an_engine_rests_while_teachers_read_and_the_student_learns_and_behind_each_panel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = cases.trainer(cases.tiny("rollout.engine=test_resting:Resting", steps=2), tmp_path)
    teacher = trainer.river.teachers["teacher"]
    read = type(teacher).annotate

    def annotating(self: Any, trajectories: Any) -> Any:
        SEEN.append("read")
        return read(self, trajectories)

    monkeypatch.setattr(type(teacher), "annotate", annotating)
    SEEN.clear()
    trainer.train()
    trainer.play_panel(2)
    trainer.play_panel(2, actor="teacher")
    told = [one for i, one in enumerate(SEEN) if i == 0 or SEEN[i - 1] != one]
    assert told == ["turn", "rest", "read", "turn", "rest", "read", "turn", "rest"]


def test_actors_of_a_cluster_give_nothing_back(tmp_path: Path) -> None:
    config = cases.tiny("rollout.engine={kind: vllm, sleep: true}", "cluster={rollout: {actors: 1}}")
    with pytest.raises(ConfigError, match=r"^rollout\.engine\.sleep=true: .*cluster\.rollout; leave it out"):
        arguments(config, tmp_path)
