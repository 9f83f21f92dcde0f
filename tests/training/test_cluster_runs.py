"""A run whose parts are on a cluster of two nodes is the run of a single process, also where a node is killed in the middle of it."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_cases as cases
from cluster_cases import nodes
from processes_cases import together

from agentopd.cluster import close, pool
from agentopd.cluster.acting import ActorPolicy
from agentopd.errors import PolicyError, TeacherError
from agentopd.training.loop.folder import RunFolder
from agentopd.training.loop.trainer import AgentOPDTrainer
from agentopd.types import Record, Trajectory

pytestmark = pytest.mark.ray
ROLLOUT = "cluster.rollout={actors: 2, cpus: 0.25}"
ENVIRONMENTS = "cluster.environments={actors: 2, cpus: 0}"
ALL = (ROLLOUT, "cluster.teachers.teacher={cpus: 0.25}", ENVIRONMENTS)
STEPS, TASKS = 3, 4


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with nodes(2) as made:
        yield made


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> AgentOPDTrainer:
    return run(tmp_path_factory.mktemp("alone"))


def run(output: Path, *overrides: str, watch: Any = None, **train: Any) -> AgentOPDTrainer:
    config = cases.tiny(*overrides, steps=STEPS, tasks_per_step=TASKS, **train)
    options = {} if watch is None else {"watch": watch}
    trainer = cases.trainer(config, output, folder=RunFolder(output), **options)
    trainer.train()
    return trainer


def same(one: AgentOPDTrainer, other: AgentOPDTrainer) -> None:
    """The same episodes, the same words of teachers, and the same that was learned from them."""
    same_records(kept(one), kept(other))
    losses = ([row["loss"] for row in trainer.state.log_history if "loss" in row] for trainer in (one, other))
    assert next(losses) == pytest.approx(next(losses), abs=1e-5)
    weights = cases.weights(other.student)
    for name, value in cases.weights(one.student).items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=1e-5)


def kept(trainer: AgentOPDTrainer) -> list[Record]:
    assert trainer.folder is not None
    return cases.kept(trainer.folder.path)


def same_records(a: list[Record], b: list[Record]) -> None:
    wanted = [(step, index, 0) for step in range(STEPS) for index in range(TASKS)]
    for records in (a, b):  # none twice, none missing
        assert [(key.step, key.index, key.attempt) for key in (one.trajectory.key for one in records)] == wanted
    for record, its in zip(a, b, strict=True):
        same_record(record, its)


def same_record(one: Record, other: Record) -> None:
    a, b = one.trajectory, other.trajectory
    assert [turn.text for turn in a.turns] == [turn.text for turn in b.turns]
    assert [turn.policy_version for turn in a.turns] == [turn.policy_version for turn in b.turns]
    assert a.outcome == b.outcome
    assert a.versions == b.versions
    for segment, its in zip(a.segments, b.segments, strict=True):
        np.testing.assert_array_equal(segment.tokens_T, its.tokens_T)
        np.testing.assert_allclose(segment.logprob_T, its.logprob_T, atol=1e-5)
    for said, its_said in zip(one.annotations, other.annotations, strict=True):
        assert said.teacher == its_said.teacher
        np.testing.assert_allclose(said.taken_logprob_N, its_said.taken_logprob_N, atol=1e-5)
        np.testing.assert_allclose(said.entropy_N, its_said.entropy_N, atol=1e-5)


def there(key: str) -> pool.ActorPool:
    return pool._pools[key][1]


def test_actors_play_and_speak_as_the_process_does(cluster: Any, alone: AgentOPDTrainer, tmp_path: Path) -> None:
    placed = run(tmp_path / "placed", *ALL)
    same(alone, placed)
    assert isinstance(placed.river.policies["student"], ActorPolicy)
    assert set(placed.river.policies) == {"student"}  # a teacher that is elsewhere does not act
    panel, its = alone.play_panel(4), placed.play_panel(4)
    assert panel == its


def test_of_an_adapter_only_its_weights_are_sent_again(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentopd.cluster import shipping

    sent: list[tuple[int, int]] = []

    def packed(value: Any, key: str = "cluster") -> Any:
        made = shipping.Packed(*_parts(original(value, key)))
        sent.append((len(made.arrays), sum(array.nbytes for array in made.arrays)))
        return made

    original = shipping.packed
    monkeypatch.setattr(shipping, "packed", packed)
    placed = run(tmp_path / "placed", ROLLOUT, lora={"r": 2})
    trained = [one for one in placed.student.parameters() if one.requires_grad]
    whole, *updates = sent
    assert updates == [(len(trained), sum(one.nbytes for one in trained))] * (STEPS - 1)
    assert whole[1] > 5 * updates[0][1]
    same(run(tmp_path / "alone", lora={"r": 2}), placed)


def _parts(made: Any) -> tuple[Any, Any]:
    return made.data, made.arrays


def test_the_stream_plays_by_actors(cluster: Any, alone: AgentOPDTrainer, tmp_path: Path) -> None:
    placed = run(tmp_path / "placed", *ALL, "rollout.mode={kind: async, max_staleness: 0}")
    same(alone, placed)


def killing(kill: Callable[[], None], step: int) -> Callable[[str, int], AbstractContextManager[Any]]:
    """A display that kills when the first episode of a step is over, while others are played."""
    killed = threading.Event()

    @contextmanager
    def watch(title: str, episodes: int) -> Iterator[Callable[[Trajectory], None]]:
        def seen(trajectory: Trajectory) -> None:
            if trajectory.key.step == step and not killed.is_set():
                killed.set()
                kill()

        yield seen

    return watch


def test_an_actor_that_dies_is_replaced(
    cluster: Any, alone: AgentOPDTrainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def kill() -> None:
        import ray

        ray.kill(there("cluster.rollout").actor(0))

    placed = run(tmp_path / "placed", "cluster.rollout={cpus: 0.25}", watch=killing(kill, 1))
    assert "cluster.rollout: an actor died" in caplog.text
    same(alone, placed)


def _one_of_two(address: str, output: Path) -> None:
    os.environ["RAY_ADDRESS"] = address
    try:
        few = (
            "cluster.rollout={cpus: 0.25}",
            "cluster.teachers.teacher={cpus: 0.25}",
            "cluster.environments={cpus: 0}",
        )
        run(output, *few, sharded=True)
    finally:
        close()
        del os.environ["RAY_ADDRESS"]


def test_each_process_of_a_sharded_run_has_actors_of_its_own(
    cluster: Any, alone: AgentOPDTrainer, tmp_path: Path
) -> None:
    close()  # they take what the processes ask for
    assert together(_one_of_two, cluster.address, tmp_path) == [None, None]
    same_records(kept(alone), cases.kept(tmp_path))


def test_where_no_actor_can_be_had_patience_ends(cluster: Any, tmp_path: Path) -> None:
    asked = r"each asks for \{'CPU': 1.0, 'fast': 1.0\}, and the nodes of the cluster have in all: \{.*'fast': 0.0\}"
    where = "={resources: {fast: 1}}"
    with pytest.raises(
        PolicyError, match=rf"^cluster\.rollout: there has been no actor for cluster\.patience=2 s .*{asked}"
    ):
        run(tmp_path / "one", f"cluster.rollout{where}", "cluster.patience=2")
    with pytest.raises(TeacherError, match=r"^cluster\.teachers\.teacher: there has been no actor for .*'fast': 1"):
        run(tmp_path / "two", f"cluster.teachers.teacher{where}", "cluster.patience=2")


def test_a_node_is_killed_in_the_middle_of_a_run(
    cluster: Any, alone: AgentOPDTrainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It stands last: the cluster has one node less then."""
    close()

    def kill() -> None:
        assert there("cluster.rollout").there == [0, 1]
        cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)

    placed = run(tmp_path / "placed", *ALL, watch=killing(kill, 1))
    assert "cluster.rollout: an actor died" in caplog.text
    same(alone, placed)
