"""What may be placed on a cluster is known before anything begins."""

import re
import sys

import pytest
import training_cases as cases

from agentopd.config import Config
from agentopd.errors import ConfigError
from agentopd.training.loop.arguments import arguments
from agentopd.training.loop.checkpoints import binding
from agentopd.training.loop.ranks import Ranks


def refused(overrides: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        cases.tiny(*overrides)


def test_nothing_is_placed_by_itself() -> None:
    assert cases.tiny().cluster.places == {}
    placed = cases.tiny("cluster.rollout.actors=2", "cluster.teachers.teacher.gpus=1").cluster
    assert {key: one.asked for key, one in placed.places.items()} == {
        "cluster.rollout": {"CPU": 1.0, "GPU": 0.0},
        "cluster.teachers.teacher": {"CPU": 1.0, "GPU": 1.0},
    }


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("cluster.rollout.actors=0", r"cluster\.rollout\.actors"),
        ("cluster.rollout.cpus=-1", r"cluster\.rollout\.cpus"),
        ("cluster.rollout.resources={fast: 0}", r"cluster\.rollout\.resources"),
        ("cluster.patience=0", r"cluster\.patience"),
        ("cluster.address=auto", r"address"),
        ("cluster.teachers.teachr.actors=1", r"no teacher is called 'teachr' \(did you mean 'teacher'\?\)"),
        ("cluster.teachers.expert.actors=1", r"cluster\.teachers\.expert: .* kind expert .* no language model of its own"),
    ],
)  # fmt: skip
def test_what_cannot_be_placed_is_refused(override: str, told: str) -> None:
    refused([override], told)


def test_a_teacher_that_acts_stays_with_the_run() -> None:
    acts = "objective.sampler.actors={student: 0.5, teacher: 0.5}"
    cases.tiny(acts)
    refused(
        [acts, "cluster.teachers.teacher.actors=1"], r"cluster\.teachers\.teacher: .* it acts in objective\.sources\."
    )


def test_a_teacher_that_is_the_student_stays_with_the_run() -> None:
    own = "teachers.teacher={kind: self}"
    refused([own, "cluster.teachers.teacher.actors=1"], r"kind self .* no language model of its own")


def test_two_models_that_write_a_token_together_are_in_one_process() -> None:
    mixed = "objective.sampler.acting={kind: tokens, by: teacher, alpha: 0.2}"
    cases.tiny(mixed)
    refused([mixed, "cluster.rollout.actors=1"], r"acting\.kind=tokens: .*leave out cluster\.rollout")


def test_a_run_goes_on_in_another_place() -> None:
    def bound(config: Config) -> object:
        return binding(config.model_dump(mode="json"), config)

    assert bound(cases.tiny()) == bound(cases.tiny("cluster.rollout.actors=3"))
    assert bound(cases.tiny()) != bound(cases.tiny("seed=1"))


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    arguments(cases.tiny(), None)
    told = re.escape('cluster.rollout: Ray is not installed; pip install "agentopd[ray]", or leave cluster out')
    with pytest.raises(ConfigError, match=f"^{told}$"):
        arguments(cases.tiny("cluster.rollout.actors=2"), None)


def test_several_processes_join_a_cluster_that_was_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("agentopd.training.loop.arguments.joined", lambda: Ranks(0, 2))
    told = r"^cluster\.environments: 2 processes would each begin a Ray of their own; .* set RAY_ADDRESS=auto$"
    with pytest.raises(ConfigError, match=told):
        arguments(cases.tiny("cluster.environments.actors=2"), None)
