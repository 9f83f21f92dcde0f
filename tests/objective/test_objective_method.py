"""A method as settings: what follows from what, and what is refused."""

from typing import Any

import pytest
from objective_cases import method
from pydantic import ValidationError

from agentopd.config import load_config
from agentopd.errors import ConfigError
from agentopd.objective import Objective

SCORED = {"estimator": "score_function"}


def test_the_defaults_are_a_full_forward_kl() -> None:
    (term,) = method().terms
    assert (term.divergence.kind, term.support.kind, term.estimator.kind) == ("forward_kl", "full", "analytic")
    assert term.where.actor == ("student",)


@pytest.mark.parametrize(
    ("given", "divergence"), [(SCORED, "reverse_kl"), ({"target": {"kind": "taken"}}, "forward_kl")]
)
def test_support_and_divergence_follow_from_the_estimator_and_the_target(
    given: dict[str, Any], divergence: str
) -> None:
    (term,) = method(**given).terms
    assert (term.support.kind, term.divergence.kind) == ("sampled", divergence)


@pytest.mark.parametrize(
    "given",
    [
        {},
        SCORED,
        {"target": {"kind": "taken"}, "where": {"source": "corrected"}},
        {
            "target": {"kind": "reward"},
            "sampler": {"per_task": 4},
            "estimator": {"kind": "score_function", "baseline": "group_mean"},
        },
        {"terms": [{"name": "a", "weight": "teacher_entropy"}, {"name": "b", "support": {"kind": "top_k", "k": 2}}]},
        {"divergence": {"kind": "jsd", "beta": {"kind": "linear", "start": 0.1, "end": 0.9}}},
    ],
)
def test_a_method_written_out_in_full_reads_back_equal(given: dict[str, Any]) -> None:
    plain = method(**given).model_dump(mode="json")
    assert Objective.model_validate(plain).model_dump(mode="json") == plain


def test_a_full_divergence_as_a_policy_gradient_reward_is_refused() -> None:
    with pytest.raises(ValidationError, match="support 'full' under a score function is a reward that does not depend"):
        method(**SCORED, support="full")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"support": "sampled"}, "carries no teacher signal"),
        ({"target": {"kind": "reward"}}, "target 'reward' has no distribution"),
        ({"target": {"kind": "taken"}, **SCORED}, "target 'taken' is supervised"),
        ({**SCORED, "divergence": "jsd"}, "the divergence is reverse_kl on support sampled, got 'jsd'"),
        ({"target": {"kind": "taken"}, "divergence": "reverse_kl"}, "the divergence is forward_kl on support sampled"),
        (
            {"target": {"kind": "taken"}, "divergence": {"kind": "forward_kl", "clip": 1.0}},
            r"divergence\.clip bounds each vocabulary entry, and the support sampled has one",
        ),
        ({**SCORED, "divergence": {"kind": "reverse_kl", "clip": 1.0}}, r"divergence\.clip bounds"),
        ({"divergence": {"kind": "alpha_beta", "alpha": -1.0}}, r"alpha \+ beta is -0\.5; make it at least 0"),
        (
            {"divergence": {"kind": "alpha_beta", "alpha": {"kind": "linear", "start": 1.0, "end": -1.0}}},
            r"alpha \+ beta is -0\.5",
        ),
        ({"divergence": {"kind": "power", "alpha": -1.1}}, "greater than or equal to -1"),
        ({"divergence": {"kind": "forward_kl", "clip": 0.0}}, "clip: Input should be greater than 0"),
        ({"divergence": {"kind": "f", "generator": "hellinger"}}, "no generator is called 'hellinger'"),
        ({**SCORED, "where": {"source": ["fresh", "corrected"]}}, "nobody sampled the corrected actions"),
        ({"estimator": {"kind": "score_function", "baseline": "group_mean"}}, "with undiscounted returns"),
        (
            {
                "target": {"kind": "reward"},
                "estimator": {"kind": "score_function", "baseline": "group_mean", "gamma": 0.9},
            },
            "with undiscounted returns",
        ),
        (
            {"target": {"kind": "reward"}, "estimator": {"kind": "score_function", "baseline": "group_normalised"}},
            "every source has per_task: 1",
        ),
        ({**SCORED, "coupling": "advantage_sum"}, "every source has per_task: 1"),
        ({"coupling": {"kind": "advantage_sum", "baseline": "none"}}, "no term here has one"),
        (
            {"coupling": {"kind": "advantage_sum", "reinforcement": -0.5}},
            "reinforcement: Input should be greater than or equal to 0",
        ),
        ({"terms": []}, "at least one term"),
        ({"terms": [{"name": "a"}, {"name": "a"}]}, "two terms share a name"),
        ({"terms": [{"name": "term1"}, {}]}, "two terms share a name among term1, term1"),
        ({"terms": [{"name": "a/b"}]}, "String should match pattern"),
        (
            {"terms": [{"name": "near"}, {}], "weight": "uniform"},
            r"weight at the root belongs to a method of one term, and this one has 2; set objective\.terms\.0\.weight \(of near\) or "
            r"objective\.terms\.1\.weight \(of term1\)",
        ),
        (
            {"terms": [], "target": "taken"},
            "target at the root belongs .* has 0; set the parts of a term in objective.terms",
        ),
        ({"sampler": {}, "sources": {}}, "either sampler"),
        ({"where": {"min_turn": 3, "max_turn": 2}}, "no turn is selected"),
        ({"weight": "teacher_entrpy"}, "did you mean 'teacher_entropy'"),
    ],
)
def test_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        method(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target": "reward", "divergence": "jsd", "support": "full"}, "target 'reward' has no distribution"),
        ({"target": "taken", **SCORED, "divergence": "jsd"}, "target 'taken' is supervised"),
        (
            {"target": {"kind": "geometric", "name": "teacher"}, "estimator": "k2", "divergence": "jsd"},
            "with a teacher's own",
        ),
        ({"target": f"{__name__}:nameless", **SCORED, "divergence": "jsd"}, "names no distribution"),
        ({**SCORED, "support": "full", "divergence": "jsd"}, "a reward that does not depend on the action"),
    ],
)
def test_the_first_cause_is_said_first(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        method(**given)


def nameless(logp: Any, *, scale: float = 1.0) -> Any:
    """A target that names no teacher."""
    return logp


def test_what_a_recipe_draws_from_gives_way_to_the_other_form() -> None:
    several = ["objective.sources={one: {per_task: 2}, other: {}}", "objective.where={source: one}"]
    with pytest.raises(ConfigError, match=r"not both; set the one .* to null, such as objective\.sampler: null"):
        load_config("quickstart", several)
    assert list(load_config("quickstart", [*several, "objective.sampler=null"]).objective.sources) == ["one", "other"]
    single = ["method=distillm", "objective.sampler={per_task: 2}", "objective.sources=null"]
    assert list(load_config("quickstart", single).objective.sources) == ["fresh"]


def test_a_weight_of_null_is_none() -> None:
    assert method(weight=None).terms[0].weight == ()
    assert method(terms=[{"weight": None}, {"weight": "uniform"}]).terms[0].weight == ()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"estimator": {"kind": "score_function", "baseline": "value"}, "sampler": {"per_task": 2}, "coupling": "advantage_sum"},
            "mean of the log-ratio alone, and coupling 'advantage_sum' adds to it",
        ),
        (
            {"sampler": {"per_task": 2, "divided": True, "actors": {"student": 7.0, "expert": 1.0}}},
            "of per_task=2 episodes none is left for 'expert'",
        ),
        (
            {"sampler": {"kind": "frozen", "max_turns": {"kind": "stairs", "start": 1, "end": 5, "every": 2}}},
            "max_turns: the episodes of a frozen source are played once",
        ),
        (
            {"sampler": {"kind": "frozen", "acting": {"kind": "turns", "probability": {"kind": "linear", "start": 1.0, "end": 0.0}}}},
            "acting.probability: the episodes of a frozen source",
        ),
    ],
)  # fmt: skip
def test_what_would_quietly_do_something_else_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        method(**given)
