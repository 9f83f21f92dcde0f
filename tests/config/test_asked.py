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


SERVED = "teachers.teacher={kind: served, url: 'http://here', top_k: 64}"
STUDENTS = "teachers.teacher={kind: served, url: 'http://here', top_k: 8, ids: student}"
UNION = "teachers.teacher={kind: served, url: 'http://here', top_k: 8, ids: union}"
TOP = "objective.support={kind: top_k, k: 8, of: %s}"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            [SERVED],
            r"^objective\.support\.kind=full: it is all of the vocabulary, and teachers\.teacher\.kind=served gives its 64 likeliest tokens "
            r"\(ids=teacher, top_k=64\); set objective\.support: \{kind: top_k, k: 64\}, or teachers\.teacher\.top_k: -1 for all of",
        ),
        ([STUDENTS], r"set objective\.support: \{kind: top_k, k: 8, of: student\}, or .*top_k: -1 with ids: teacher"),
        (
            [SERVED, TOP % "student"],
            r"^objective\.support\.of=student: .* gives its 64 likeliest tokens .*; set teachers\.teacher\.ids: student, or "
            r"objective\.support\.of: teacher$",
        ),
        ([UNION, TOP % "student"], r"^objective\.support\.of=student: .* a union of its own and the student's 8"),
        (
            [SERVED, "objective.support={kind: top_k, k: 65}"],
            r"^objective\.support\.k=65: .*; set it to at most 64, or teachers\.teacher\.top_k: 65$",
        ),
        (
            [UNION, "objective.support={kind: top_k, k: 7, of: union}"],
            r"^objective\.support\.k=7: .*; set it to 8, since a union is of exactly as many, or teachers\.teacher\.top_k: 7$",
        ),
        (
            [SERVED, TOP % "teacher", "objective.target={kind: sharpened}"],
            r"^objective\.target\.kind=sharpened: it is made of full distributions, .*; set objective\.target\.kind: distribution, or",
        ),
        (
            [SERVED, TOP % "teacher", "objective.temperature=2.0"],
            r"^objective\.temperature: .*; set objective\.temperature: 1, or",
        ),
        (
            [SERVED, "method=thinking-machines", "objective.estimator={kind: score_function, baseline: value}"],
            r"^objective\.estimator\.baseline=value: .*; set objective\.estimator\.baseline: batch_mean, or",
        ),
        (
            [SERVED, "teachers.teacher.top_k=0", TOP % "teacher"],
            r"^objective\.support\.kind=top_k: teachers\.teacher\.top_k=0 tells only the token taken; set teachers\.teacher\.top_k: 64",
        ),
    ],
)
def test_terms_that_read_more_than_a_few_ids(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config("quickstart", overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        [SERVED, TOP % "teacher"],
        [STUDENTS, TOP % "student"],
        [STUDENTS, "objective.support={kind: top_k, k: 5, of: student}"],
        [UNION, TOP % "union"],
        [SERVED, "teachers.teacher.top_k=-1"],
        [SERVED, "teachers.teacher.top_k=0", "method=thinking-machines"],
        [OWN, "objective.target.name=own"],
    ],
)
def test_what_a_few_ids_are_enough_for(overrides: list[str]) -> None:
    load_config("quickstart", overrides)
