"""What the parts of a term state of who drew its tokens: true by enumeration, and held against how they are drawn."""

import re

import pytest
import torch
from torch import Tensor

from agentopd.config import load_config
from agentopd.errors import ConfigError
from agentopd.objective.estimators import Taken, k2, k3, policy_gradient

# The statements themselves, in float64 over a vocabulary of five.

torch.manual_seed(0)
THETA, LOGQ = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64).log_softmax(0)
LOGP = THETA.log_softmax(0)


def expected_gradient(part: str, mu: Tensor, weight: Tensor, reward: Tensor = LOGQ - LOGP) -> Tensor:
    """E_mu[weight grad phi], every token enumerated."""
    theta = THETA.clone().requires_grad_()
    logp = theta.log_softmax(0)
    phi = {"k2": lambda: k2(Taken(logp, LOGQ)), "k3": lambda: k3(Taken(logp, LOGQ))}.get(
        part, lambda: policy_gradient(logp, reward, LOGP)
    )()
    return torch.autograd.grad((mu * weight * phi).sum(), theta)[0]


def exact_gradient(part: str) -> Tensor:
    theta = THETA.clone().requires_grad_()
    logp = theta.log_softmax(0)
    q = LOGQ.exp()
    value = {"k3": -(q * logp).sum(), "reward": -(logp.exp() * (LOGQ - LOGP)).sum()}.get(
        part, (logp.exp() * (logp - LOGQ)).sum()
    )
    return torch.autograd.grad(value, theta)[0]


@pytest.mark.parametrize("part", ["score_function", "reward", "k2", "k3"])
def test_a_gradient_is_what_it_should_be_where_the_student_drew_or_a_ratio_mends_it(part: str) -> None:
    p, q = LOGP.exp(), LOGQ.exp()
    one, exact = torch.ones_like(p), exact_gradient(part)
    mixed = 0.8 * p + 0.2 * q
    torch.testing.assert_close(expected_gradient(part, p, one), exact)
    for mu in (mixed, q):
        assert not torch.allclose(expected_gradient(part, mu, one), exact, atol=1e-3)
        torch.testing.assert_close(expected_gradient(part, mu, p / mu), exact)
    cut = torch.where(p == p.min(), 0.0, p)
    cut = cut / cut.sum()
    ratio = torch.where(cut > 0, p / cut, 0.0)
    assert not torch.allclose(expected_gradient(part, cut, ratio), exact, atol=1e-3)


def test_recomputed_log_probabilities_do_not_say_who_drew() -> None:
    """Under a mixture the value of the reward is right with them, the gradient is not."""
    p, mixed = LOGP.exp(), 0.5 * LOGP.exp() + 0.5 * LOGQ.exp()
    one, exact = torch.ones_like(p), exact_gradient("score_function")
    assert not torch.allclose(expected_gradient("score_function", mixed, one), exact, atol=1e-3)
    behaviour = LOGQ - mixed.log()
    assert not torch.allclose(expected_gradient("score_function", mixed, p / mixed, behaviour), exact, atol=1e-3)


def test_a_log_ratio_to_a_student_of_the_past_has_another_optimum() -> None:
    """Of a frozen source: where student and teacher are one, the gradient with log p is 0, that with log p_0 is not."""
    past = torch.randn(5, generator=torch.Generator().manual_seed(3), dtype=torch.float64).log_softmax(0)
    p, exact = LOGP.exp(), exact_gradient("score_function")
    ratio = p / past.exp()
    torch.testing.assert_close(expected_gradient("score_function", past.exp(), ratio, LOGQ - LOGP), exact)
    assert not torch.allclose(expected_gradient("score_function", past.exp(), ratio, LOGQ - past), exact, atol=1e-3)
    now, then = (expected_gradient("score_function", past.exp(), ratio, LOGP - of) for of in (LOGP, past))
    assert not now.any()
    assert then.abs().max() > 1e-3


# How tokens are drawn, and which terms take them.

DRAWS = {
    "own": [],
    "cut": ["rollout.top_p=0.9"],
    "greedy": ["rollout.temperature=0"],
    "stale": ["objective.sampler={kind: frozen, episodes: 8}"],
    "mixed": ["objective.sampler={acting: tokens}"],
    "kept": ["objective.sampler={acting: speculative}"],
    "mended": ["objective.sampler={acting: takeover}"],
    "teacher's": ["objective.sampler={actors: {student: 0.5, teacher: 0.5}}", "objective.where={}"],
    "expert's": ["objective.sampler={actors: {student: 0.5, expert: 0.5}}", "objective.where={}"],
    "corrected": ["objective.where={source: corrected}"],
}
RATIO = ["stale", "mixed", "teacher's"]
SCORE = "objective.estimator={kind: score_function"
REWARD = f"objective.target={{kind: reward, name: outcome}} {SCORE}"
IMPORTANCE = "objective.weight=importance"
RIGHT = {
    "": [*DRAWS],
    "objective.target=taken": [*DRAWS],
    "objective.estimator=k2": ["own"],
    "objective.estimator=k3": ["own"],
    f"objective.estimator=k3 {IMPORTANCE}": ["own", *RATIO],
    f"{SCORE}}}": ["own"],
    f"{SCORE}, baseline: value}}": ["own"],
    f"{SCORE}, logprobs: recomputed}}": ["own"],
    f"{SCORE}, logprobs: recomputed}} {IMPORTANCE}": ["own", *RATIO],
    f"{SCORE}, importance: clipped}}": ["own"],
    f"{SCORE}, importance: ratio, logprobs: recomputed}}": ["own"],
    f"{SCORE}, importance: ratio, logprobs: recomputed}} {IMPORTANCE}": ["own", *RATIO],
    f"{REWARD}}}": ["own"],
    f"{REWARD}}} {IMPORTANCE}": ["own", *RATIO],
    f"{REWARD}, importance: clipped}}": ["own", *RATIO],
    f"{REWARD}, importance: clipped, logprobs: recomputed}}": ["own"],
    f"{REWARD}}} objective.weight={{kind: shape, actor: expert}}": ["own", "expert's"],
    IMPORTANCE: ["own", *RATIO],
    "objective.weight=sod": ["own", "stale", "kept", "mended"],
    "objective.weight={kind: decay, statistic: drift}": ["own", "stale", "kept", "mended"],
    "objective.weight={kind: sod, logprobs: recomputed}": [*DRAWS],
    "objective.weight=[tip, teacher_entropy, student_entropy]": [*DRAWS],
}


def overrides(term: str, draw: str) -> list[str]:
    return ["objective.divergence=null", *re.split(r" (?=objective\.)", term)[bool(not term) :], *DRAWS[draw]]


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("term", RIGHT)
def test_a_term_takes_the_tokens_of_which_its_statements_are_true(term: str, draw: str) -> None:
    given = overrides(term, draw)
    if draw in RIGHT[term]:
        load_config("quickstart", given)
        return
    with pytest.raises(ConfigError) as caught:
        load_config("quickstart", given)
    said = str(caught.value)
    assert said.startswith("objective")
    assert "; " in said
    if draw == "corrected" and "estimator" in term:
        assert "corrected actions" in said


APPLIED = {
    "set rollout.top_p: 1, rollout.top_k: 0 and a rollout.temperature above 0": [
        "rollout.top_p=1", "rollout.top_k=0", "rollout.temperature=1"
    ],
    "set objective.estimator.kind: analytic": ["objective.estimator.kind=analytic"],
    "set objective.where.actor, such as [student]": ["objective.where={actor: [student]}"],
    "add {kind: importance} to objective.weight": [IMPORTANCE],
    "add {kind: shape, actor: expert} to objective.weight (LUFFY)": ["objective.weight={kind: shape, actor: expert}"],
    "objective.estimator.logprobs: recomputed": ["objective.estimator.logprobs=recomputed"],
    "set objective.estimator.logprobs: recomputed": ["objective.estimator.logprobs=recomputed"],
    "objective.estimator.importance: none": ["objective.estimator.importance=none"],
    "set objective.estimator.importance: none": ["objective.estimator.importance=none"],
    "choose another acting.kind": ["objective.sampler={acting: whole}"],
    "leave it out": ["objective.weight=[]"],
}  # fmt: skip


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("term", [one for one in RIGHT if "objective.weight" not in one or one == IMPORTANCE])
def test_every_remedy_that_is_named_is_right(term: str, draw: str) -> None:
    """Of a term without other weights; whatever is said of corrections is said by the term alone."""
    if draw in RIGHT[term] or draw == "corrected":
        return
    given = overrides(term, draw)
    with pytest.raises(ConfigError) as caught:
        load_config("quickstart", given)
    for remedy in str(caught.value).partition("; ")[2].split(", or "):
        parts = re.split(", with |, and ", remedy)
        load_config("quickstart", [*given, *(override for part in parts for override in APPLIED[part])])


def test_a_ratio_is_not_taken_twice() -> None:
    clipped = ["method=thinking-machines", "objective.estimator.importance=clipped", IMPORTANCE]
    with pytest.raises(
        ConfigError,
        match=r"^objective\.estimator\.importance=clipped: .* the ratio would be squared; set .*: none, or .*recomputed",
    ):
        load_config("quickstart", clipped)
    with pytest.raises(
        ConfigError, match=r"^objective\.weight: it has \{kind: importance\} twice, so the ratio would be"
    ):
        load_config("quickstart", ["objective.weight=[importance, {kind: importance, rule: masked}]"])
    load_config("quickstart", [*clipped, "objective.estimator.logprobs=recomputed"])  # the two multiply to p / mu


def test_which_of_several_weights_is_wrong_is_said() -> None:
    with pytest.raises(ConfigError, match=r"^objective\.weight\.1\.kind=sod: it takes the student's p from what"):
        load_config("quickstart", ["rollout.top_p=0.9", "objective.weight=[uniform, sod]"])


@pytest.mark.parametrize("sampler", ["{per_task: 2, acting: tokens}", "{per_task: 2, kind: frozen, episodes: 8}"])
def test_an_importance_weight_on_the_distilled_part_alone_mends_nothing_of_the_rewards(sampler: str) -> None:
    given = [
        "objective.divergence=null",
        f"{SCORE}, logprobs: recomputed}}",
        f"objective.sampler={sampler}",
        "objective.coupling={kind: advantage_sum, weighted: distillation}",
    ]
    both = "objective.coupling.weighted=both"
    with pytest.raises(ConfigError, match=r"; set objective\.coupling\.weighted: both$"):
        load_config("quickstart", [*given, IMPORTANCE])
    load_config("quickstart", [*given, IMPORTANCE, both])
    with pytest.raises(
        ConfigError, match=r"; add \{kind: importance\} to .*, with objective\.coupling\.weighted: both"
    ):
        load_config("quickstart", given)


def test_an_estimator_of_ones_own_may_leave_out_which_log_probabilities_its_ratio_takes() -> None:
    own = ["objective.divergence=null", "objective.estimator={kind: 'test_drawn:ratioed'}"]
    load_config("quickstart", own)
    with pytest.raises(
        ConfigError,
        match=r"^objective\.estimator: .*; give 'test_drawn:ratioed' a setting logprobs and set it to recomputed$",
    ):
        load_config("quickstart", [*own, *DRAWS["mixed"]])


def test_pairs_state_nothing_of_who_drew_but_with_log_probabilities_as_they_were_played() -> None:
    load_config("quickstart", ["method=spin", "rollout.top_p=0.9"])
    with pytest.raises(
        ConfigError, match=r"^objective\.estimator: its reward .* set objective\.estimator\.logprobs: recomputed"
    ):
        load_config("quickstart", ["method=spin", "objective.estimator.logprobs=behaviour"])


def test_null_gives_back_what_follows_from_other_parts() -> None:
    own = "objective.estimator={kind: 'test_drawn:mine'}"
    with pytest.raises(ConfigError, match="leave both out, or set them to null"):
        load_config("quickstart", [own, "objective.divergence.kind=jsd"])
    (term,) = load_config("quickstart", [own, "objective.divergence=null", "objective.support=null"]).objective.terms
    assert (term.divergence.kind, term.support.kind) == ("reverse_kl", "sampled")


def mine(scored: object) -> None:
    """An estimator of one's own."""


def ratioed(scored: object, *, importance: str = "clipped") -> None:
    """Another, with a ratio."""


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
