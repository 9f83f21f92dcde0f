"""What a method asks of its teachers is found wanting when a configuration is read."""

import pytest

from agentopd.config import load_config
from agentopd.errors import ConfigError
from agentopd.teachers import Teacher, TeacherContext

JUDGE = "teachers.judge={kind: reward}"
OWN = "teachers.own={kind: 'test_asked:unmarked'}"


def unmarked(context: TeacherContext) -> Teacher:
    """A kind of one's own, of which nothing is known."""
    raise AssertionError("no teacher is made when a configuration is read")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "objective.target.name=expert",
            r"^objective\.target\.name=expert: teachers\.expert\.kind=expert gives no distribution over tokens; name a "
            r"teacher that is a model.* or learn from its corrections: where: \{source: corrected\}",
        ),
        (
            "objective.target={name: judge}",
            r"^objective\.target\.name=judge: .* or set target: \{kind: reward, name: judge\}$",
        ),
        (
            "objective.target={kind: extrapolate, reference: judge}",
            r"^objective\.target\.reference=judge: teachers\.judge\.kind=reward gives no distribution",
        ),
        (
            "objective.target={kind: extrapolate}",
            r"^objective\.target\.reference=reference: no teacher is called that; ",
        ),
        ("objective.weight={kind: sod, of: expert}", r"^objective\.weight\.of=expert: .* gives no distribution"),
        ("objective.weight=[uniform, {kind: sod, of: techer}]", r"^objective\.weight\.1\.of=techer: .*mean 'teacher'"),
        (
            "objective.target={kind: reward, name: teacher}",
            r"^objective\.target\.name=teacher: teachers\.teacher\.kind=local gives no rewards; name outcome, or a teacher",
        ),
        ("objective.target={kind: reward, name: expert}", r"^objective\.target\.name=expert: .* gives no rewards"),
        (
            "objective.coupling={kind: advantage_sum, baseline: batch_mean, reward_name: teacher}",
            r"^objective\.coupling\.reward_name=teacher: .* gives no rewards",
        ),
    ],
)
def test_a_teacher_that_cannot_give_it_is_named(override: str, said: str) -> None:
    scored = ["method=grpo"] if "reward," in override else []
    coupled = ["method=thinking-machines"] if "coupling" in override else []
    with pytest.raises(ConfigError, match=said):
        load_config("quickstart", [*scored, *coupled, JUDGE, override])


def test_what_a_kind_of_ones_own_gives_is_for_the_run_to_find() -> None:
    load_config(
        "quickstart", [OWN, "objective.target.name=own", "objective.weight={kind: gate, statistic: x, threshold: 0.5}"]
    )
    load_config("quickstart", ["method=grpo", OWN, "objective.target={kind: reward, name: own}"])
    load_config("quickstart", [OWN, "objective.weight=[{kind: epistemic, of: own}, {kind: top_k_coverage, of: own}]"])
    load_config("quickstart", ["method=grpo", JUDGE, "objective.target={kind: reward, name: judge}"])


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (
            "{kind: gate, statistic: disagrement, threshold: 1.0}",
            r"^objective\.weight\.kind=gate: 'disagrement' is no statistic that teachers\.teacher\.kind=local tells \(did you "
            r"mean 'disagreement'\?\); there are: teacher_entropy, .*coverage$",
        ),
        ("{kind: top_share, statistic: best_surprisal}", "'best_surprisal' is no statistic that"),
        ("{kind: teacher_confidence, token: best}", "kind=teacher_confidence: 'best_surprisal' is no statistic that"),
        ("{kind: soft_or, second: doubt}", "kind=soft_or: 'doubt' is no statistic that"),
        ("aleatoric", "'aleatoric' is told by an ensemble, .*of kind 'local'; add teachers"),
        ("{kind: decay, statistic: log_ratio}", r"statistic=log_ratio: it may be below 0, .*use gate or top_share"),
    ],
)
def test_a_statistic_that_nobody_tells(weight: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config("quickstart", [f"objective.weight={weight}"])


@pytest.mark.parametrize("method", ["sft", "grpo"])
@pytest.mark.parametrize(
    ("weight", "remedy"),
    [("disagreement", r", or objective\.weight\.of: <teacher>$"), ("until_mistake", r"kind: distribution\}$")],
)
def test_a_weight_that_reads_a_teacher_needs_one(method: str, weight: str, remedy: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^objective\.weight\.kind={weight}: it reads '\w+' of a teacher, and the term's .*{remedy}"
    ):
        load_config("quickstart", [f"method={method}", f"objective.weight={weight}"])
    if weight == "disagreement" and method == "grpo":
        load_config("quickstart", ["method=grpo", "objective.weight={kind: disagreement, of: teacher}"])
