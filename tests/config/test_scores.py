"""A reward log q - log p, and an importance ratio, need the distribution that the student's own tokens were sampled from."""

import pytest

from agentopd.config import load_config
from agentopd.errors import ConfigError

FROZEN = "objective.sampler={kind: frozen, actors: {expert: 1.0}, episodes: 8}"
RECOMPUTED = "objective.estimator.logprobs=recomputed"


@pytest.mark.parametrize("sampling", ["rollout.temperature=0", "rollout.top_p=0.9", "rollout.top_k=5"])
@pytest.mark.parametrize(
    ("importance", "message"),
    [
        (
            "none",
            r"objective\.estimator: its reward log q - log p takes p from the rollout, which has top_p=.* recomputed",
        ),
        ("clipped", "objective: an importance ratio needs the whole distribution that was sampled from"),
    ],
)
def test_truncated_sampling_gives_no_such_reward(sampling: str, importance: str, message: str) -> None:
    given = ["method=thinking-machines", f"objective.estimator.importance={importance}"]
    load_config("quickstart", [*given, "rollout.temperature=0.7"])
    with pytest.raises(ConfigError, match=message):
        load_config("quickstart", [*given, sampling])


def test_what_is_recomputed_or_read_from_the_environment_is_exact() -> None:
    load_config(
        "quickstart",
        ["method=thinking-machines", "objective.estimator.importance=none", "rollout.top_p=0.9", RECOMPUTED],
    )
    load_config("quickstart", ["method=grpo", "objective.estimator.importance=none", "rollout.top_p=0.9"])
    load_config("quickstart", ["method=gkd", "rollout.temperature=0"])


def test_nobody_sampled_the_actions_of_an_expert() -> None:
    given = ["method=thinking-machines", FROZEN]
    load_config("quickstart", given)  # its term selects the student's turns alone
    with pytest.raises(
        ConfigError, match=r"no p for actions of the expert.* set objective\.where\.actor, such as \[student\]"
    ):
        load_config("quickstart", [*given, "objective.where={}"])
    with pytest.raises(ConfigError, match="no p for actions of the expert"):
        load_config("quickstart", [*given, "objective.where={actor: expert}"])
    load_config("quickstart", [*given, "objective.where={}", RECOMPUTED])


def test_the_actions_of_a_teacher_were_sampled_from_its_own_distribution() -> None:
    mixed = ["method=thinking-machines", "objective.sampler={actors: {student: 0.5, teacher: 0.5}}"]
    load_config("quickstart", mixed)
    with pytest.raises(ConfigError, match=r"no p for actions of teacher, whose own p is kept; set objective\.where"):
        load_config("quickstart", [*mixed, "objective.where={}"])
    load_config("quickstart", [*mixed, "objective.where={}", RECOMPUTED])


@pytest.mark.parametrize(
    "weight",
    [
        "{kind: sod}",
        "{kind: t_dur}",
        "{kind: gate, statistic: surprisal, threshold: 1.0}",
        "{kind: importance}",
        "{kind: soft_or, first: teacher_entropy}",
    ],
)
def test_a_weight_by_the_students_own_p_needs_it_whole(weight: str) -> None:
    given = f"objective.weight={weight}"
    load_config("quickstart", [given, "rollout.temperature=0.7"])
    for sampling in ("rollout.temperature=0", "rollout.top_p=0.9", "rollout.top_k=5"):
        with pytest.raises(
            ConfigError, match=r"^objective\.weight\.kind=\w+: it takes the student's p from the rollout"
        ):
            load_config("quickstart", [given, sampling])
    if "importance" not in weight:
        recomputed = given.replace("}", ", logprobs: recomputed}")
        load_config("quickstart", [recomputed, "rollout.top_p=0.9"])
        with pytest.raises(ConfigError, match=r"the log-probabilities kept of actions of expert are not"):
            load_config("quickstart", [given, FROZEN, "objective.where={}"])
        load_config("quickstart", [recomputed, FROZEN, "objective.where={}"])


def test_a_weight_that_reads_no_p_of_the_students_takes_any_sampling() -> None:
    weights = "[teacher_entropy, tip, {kind: gate, statistic: teacher_entropy, threshold: 1.0}]"
    load_config("quickstart", [f"objective.weight={weights}", "rollout.top_p=0.9"])


def test_null_gives_back_what_follows_from_other_parts() -> None:
    own = "objective.estimator={kind: 'test_scores:mine'}"
    with pytest.raises(ConfigError, match="leave both out, or set them to null"):
        load_config("quickstart", [own, "objective.divergence.kind=jsd"])
    (term,) = load_config("quickstart", [own, "objective.divergence=null", "objective.support=null"]).objective.terms
    assert (term.divergence.kind, term.support.kind) == ("reverse_kl", "sampled")


def mine(scored: object) -> None:
    """An estimator of one's own."""


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        (
            "{kind: reward, where: {actor: [studnet]}}",
            r"teachers\.judge\.where\.actor: there is no 'studnet' \(did you mean 'student'",
        ),
        ("{kind: reward, where: {env: [nowhere]}}", r"teachers\.judge\.where\.env: there is no 'nowhere'"),
        (
            "{kind: reward, scale: {kind: linear, start: 0.0, end: 1.0}}",
            r"teachers\.judge\.scale: a teacher takes no schedule",
        ),
    ],
)
def test_what_is_wrong_with_a_teacher_is_known_when_a_configuration_is_read(teacher: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config("quickstart", [f"teachers.judge={teacher}"])
