"""What several processes share of a step: who plays, who is asked, whose error ends all, and what a whole run leaves."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_cases as cases
from processes_cases import files, together

import agentopd.training.loop.together as sharing
from agentopd.errors import ConfigError, EnvError, TeacherError, TrainingError
from agentopd.objective import Batch
from agentopd.objective.loss import LossOutput
from agentopd.rollout import Assignment, collect
from agentopd.teachers import Stateless, Teacher, rowless
from agentopd.training.loop.arguments import arguments
from agentopd.training.loop.folder import RunFolder
from agentopd.training.loop.ranks import Ranks, joined
from agentopd.training.loop.together import collected, ways_of
from agentopd.training.loop.trainer import AgentOPDTrainer
from agentopd.training.run.whole import train
from agentopd.types import Annotation, Failure, Trajectory


@dataclass(frozen=True, eq=False, kw_only=True)
class Asked(Stateless):
    """Rewards every turn by its number, and notes what it was asked."""

    asked: list[str] = field(default_factory=list)

    def annotate(self, trajectories: Sequence[Trajectory]) -> list[Annotation]:
        self.asked.extend(str(one.key.index) for one in trajectories)
        return [rowless(self.name, one, reward_S=np.arange(len(one.turns), dtype=np.float32)) for one in trajectories]


class Elsewhere(Asked):
    """Asks a server as soon as an episode is over."""

    def begin(self, trajectory: Trajectory) -> None:
        self.asked.append(f"begun {trajectory.key.index}")


class Learning(Asked):
    """Learns from all that it was asked."""

    def after_step(self, student: Any) -> None:
        self.asked.append("a step")


@dataclass(frozen=True, eq=False, kw_only=True)
class Combined(Asked):
    members: dict[str, Teacher]

    def combine(self, trajectories: Sequence[Trajectory], said: Any) -> list[Annotation]:
        return self.annotate(trajectories)


def test_who_asks_a_teacher() -> None:
    here, elsewhere, learning = Asked(name="here"), Elsewhere(name="elsewhere"), Learning(name="learning")
    assert ways_of({"here": here, "elsewhere": elsewhere, "learning": learning}) == {
        "here": "shared",
        "elsewhere": "first",
        "learning": "each",
    }
    both = Combined(name="both", members={"here": here})
    assert ways_of({"both": both, "here": here}) == {"both": "shared", "here": "shared"}
    mixed = Combined(name="both", members={"here": here, "learning": learning})
    assert ways_of({"both": mixed, "here": here, "learning": learning}) == dict.fromkeys(
        ("both", "here", "learning"), "each"
    )


def test_failures_are_judged_over_the_shares_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what a process plays may fail where that is a quarter of all."""
    [whole] = [
        one.trajectory for one in cases.trainer(cases.tiny(tasks_per_step=1), Path("none")).river.draw(0).records
    ]
    failed = replace(whole, failure=Failure("env", "crash", "it crashed"))
    monkeypatch.setattr(sharing, "collect", lambda share, *rest: share)

    def judged(*played: Trajectory, allowed: float) -> list[Any]:
        monkeypatch.setattr(Ranks, "spread", lambda self, items, key, work: list(played))
        settings = cases.tiny(f"rollout.max_failures={allowed}").rollout
        none: list[Assignment] = []
        return collected(Ranks(0, 2), none, {}, None, settings)  # type: ignore[arg-type]

    assert len(judged(failed, failed, whole, whole, allowed=0.5)) == 4
    with pytest.raises(EnvError, match=r"2 of 4 episodes failed, .*max_failures=0.4 allows; 2 of them: .* it crashed"):
        judged(failed, failed, whole, whole, allowed=0.4)


def _shared_step(output: Path) -> dict[str, Any]:
    """One step's episodes, played and asked about."""
    played = list[int]()

    def counted(share: Sequence[Assignment], *rest: Any) -> list[Trajectory]:
        played.extend(one.key.index for one in share)
        return collect(share, *rest)

    trainer = cases.trainer(cases.tiny("objective.sampler.per_task=2", tasks_per_step=3), output)
    teachers: dict[str, Asked] = {one.name: one for one in (Asked(name="a"), Elsewhere(name="b"), Learning(name="c"))}
    trainer.river._annotators = {**teachers}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sharing, "collect", counted)
        drawn = trainer.river.draw(1)  # of the first, what is unused is looked at by configuration
    return {
        "played": played,
        "tokens": [one.trajectory.segments[0].tokens_T.tolist() for one in drawn.records],
        "said": [[(said.teacher, said.reward_S.tolist()) for said in one.annotations] for one in drawn.records],
        "asked": {name: teacher.asked for name, teacher in teachers.items()},
        "metrics": {name: value for name, value in drawn.metrics.items() if "seconds" not in name},
    }


def _losses(output: Path) -> list[float]:
    """Of a method that reads the student's present statistics, over packed micro-batches."""
    config = cases.tiny(method="iw-opd", layout="packed", max_tokens=700, tasks_per_step=3)
    assert config.objective.needs_live
    trainer = cases.trainer(config, output)
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def _fails(output: Path) -> Exception:
    """The loss of the second process is not a number."""

    class Failing(AgentOPDTrainer):
        def _loss(self, model: Any, batch: Batch | None, step: int, seen: Any) -> torch.Tensor:
            loss = super()._loss(model, batch, step, seen)
            if self.ranks.rank == 1:
                assert batch is not None
                self._require_trainable(LossOutput(loss * torch.nan, {}).loss, step, batch)
            return loss

    config = cases.tiny(tasks_per_step=2, max_tokens=300)
    trainer = Failing(cases.model(0), arguments(config, output), cases.tokenizer(), teacher_model=cases.model(1))
    with pytest.raises(TrainingError) as caught:
        trainer.train()
    return caught.value


class Silent(Elsewhere):
    """Whose server is gone."""

    def annotate(self, trajectories: Sequence[Trajectory]) -> list[Annotation]:
        raise TeacherError("nobody answers")


def _silent(output: Path) -> str:
    """A step whose episodes are over when a teacher fails."""
    config = cases.tiny(tasks_per_step=3, max_tokens=300)
    trainer = cases.trainer(config, output, folder=RunFolder(output))
    trainer.river._annotators = {"silent": Silent(name="silent")}
    with pytest.raises(TeacherError) as caught:
        trainer.recorder.draw(trainer.river, 1)
    return str(caught.value)


def _apart(output: Path) -> Exception:
    """Each process draws a student of its own."""
    with pytest.raises(ConfigError) as caught:
        cases.trainer(cases.tiny(), output, model=cases.model(joined().rank))
    return caught.value


def _in_two(folder: Path) -> dict[str, Any]:
    error, apart = _fails(folder / "failing"), _apart(folder / "apart")
    config = cases.tiny("train.sharded=true", eval_every=1)
    return {
        "step": _shared_step(folder / "step"),
        "apart": str(apart),
        "silent": _silent(folder / "silent"),
        "losses": _losses(folder / "live"),
        "error": (str(error), getattr(error, "is_told", None)),
        "success": train(config, folder / "two").panels["student_after"].success.value,
        "again": train(config, folder / "two", resume=True).metrics,
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two")
    cases.tokenizer()
    first, second = together(_in_two, folder)
    return folder, first, second


def test_a_step_is_shared_by_tasks_and_all_get_all(two: Any, tmp_path: Path) -> None:
    _, first, second = two
    alone = _shared_step(tmp_path)
    for one in (first["step"], second["step"]):
        assert one["tokens"] == alone["tokens"]
        assert one["said"] == alone["said"]
        assert one["metrics"] == alone["metrics"] | {"rollout/prefilled": one["metrics"]["rollout/prefilled"]}
    assert alone["played"] == [0, 1, 2, 3, 4, 5]
    assert [first["step"]["played"], second["step"]["played"]] == [[0, 1, 4, 5], [2, 3]]
    assert first["step"]["asked"]["a"] == ["0", "1", "4", "5"]
    assert second["step"]["asked"]["a"] == ["2", "3"]
    every = ["0", "1", "2", "3", "4", "5"]
    assert sorted(first["step"]["asked"]["b"]) == [*every, *(f"begun {i}" for i in (0, 1, 4, 5))]
    assert second["step"]["asked"]["b"] == []  # a server is asked once
    assert first["step"]["asked"]["c"] == second["step"]["asked"]["c"] == every


def test_a_pass_for_the_students_statistics_is_shared(two: Any, tmp_path: Path) -> None:
    _, first, second = two
    alone = _losses(tmp_path)
    assert max(map(abs, alone)) > 1e-3
    assert first["losses"] == second["losses"] == pytest.approx(alone, abs=1e-5)


def test_what_ends_one_process_ends_all_with_the_same_words(two: Any) -> None:
    _, first, second = two
    assert "the loss is nan at step 0" in first["error"][0]
    assert first["error"][0] == second["error"][0]
    assert [first["error"][1], second["error"][1]] == [False, True]  # and is told once


def test_what_all_had_played_is_kept_when_a_step_fails(two: Any) -> None:
    _, first, second = two
    assert first["silent"].startswith("nobody answers; the 3 episodes that were played in step 1 are kept, ")
    assert second["silent"] == "nobody answers"


def test_students_that_differ_are_refused(two: Any) -> None:
    _, first, second = two
    assert first["apart"] == second["apart"]
    assert first["apart"].startswith("model: 2 processes were given students whose weights differ (first in ")


def test_a_whole_run_of_two_processes_leaves_what_that_of_one_leaves(two: Any, tmp_path: Path) -> None:
    folder, first, second = two
    train(cases.tiny(eval_every=1), tmp_path / "two")
    assert files(folder / "two") == files(tmp_path / "two")
    assert first["success"] == second["success"]
    assert first["again"] == second["again"]  # of a finished run
    assert cases.panels(folder / "two") == cases.panels(tmp_path / "two")
    rows = zip(cases.metrics(folder / "two"), cases.metrics(tmp_path / "two"), strict=True)
    for row, expected in rows:
        row["rollout/prefilled"] = expected.get("rollout/prefilled")
        assert row == pytest.approx(expected | {"rollout/prefilled": row["rollout/prefilled"]}, abs=1e-5, nan_ok=True)
    both = [[one.trajectory.key for one in cases.kept(run / "two")] for run in (folder, tmp_path)]
    assert both[0] == both[1]
    assert (folder / "two" / "weights.json").read_text() == (tmp_path / "two" / "weights.json").read_text()
