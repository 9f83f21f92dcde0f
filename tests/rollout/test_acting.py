"""Episodes in which several act: real models in a real environment, and every log-probability computed again by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rollout_ladder import CLIMB, PLAIN, assignments, chat, say
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from agentopd import records
from agentopd.acting import Acting, Prefix, Speculative, Takeover, Tokens, Turns
from agentopd.chat import Hint
from agentopd.errors import ConfigError
from agentopd.rollout import Policy, Request, Rollout, ScriptedPolicy, TransformersPolicy, collect, rollout_metrics
from agentopd.rollout.sampling import uniforms
from agentopd.tooling import call
from agentopd.types import CONTEXT, Record, Trajectory

SETTINGS = Rollout(max_turns=4, max_new_tokens=16, max_length=1500, time_limit=5.0, temperature=0.8)
HINT = Hint("Psst, it has {height} rungs.")
K = 150
KINDS: dict[str, Acting] = {
    "prefix of the expert": Prefix(turns=1.5),
    "prefix of a teacher": Prefix(by="teacher", turns=2.0),
    "all but the last": Prefix(counted_from="end"),
    "turns": Turns(probability=0.5),
    "takeover": Takeover(),
    "takeover to the end": Takeover(mistake="error", then="teacher"),
    "tokens": Tokens(alpha=0.3),
    "speculative": Speculative(k=K),
}


@cache
def model(seed: int, vocabulary: int = 600) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        config = LlamaConfig(
            vocab_size=vocabulary, num_attention_heads=4, max_position_embeddings=2048, initializer_range=0.2, **sizes
        )
        llama: PreTrainedModel = LlamaForCausalLM(config).eval()  # type: ignore[no-untyped-call]
    return llama


def models(settings: Rollout = SETTINGS) -> dict[str, Policy]:
    return {
        name: TransformersPolicy(model(seed), chat().ends_of_turn, settings)
        for name, seed in (("student", 0), ("teacher", 1))
    }


def given(acting: Acting, count: int = 1, **kwargs: Any) -> list[Any]:
    return [replace(one, acting=acting) for one in assignments(count, **kwargs)]


def play(
    acting: Acting, order: Sequence[int] = range(4), settings: Rollout = SETTINGS, **options: Any
) -> list[Trajectory]:
    made = given(acting, 6)
    return collect([made[i] for i in order], models(settings), chat(), settings, **options)


@cache
def played(kind: str) -> list[Trajectory]:
    return play(KINDS[kind], hints={"teacher": HINT})


def logprobs(name: str, trajectory: Trajectory) -> torch.Tensor:
    """Of the next token at every position of the one segment, as ``name`` reads it, computed in one forward; [T, V]."""
    [segment] = trajectory.segments
    tokens, prompt = segment.tokens_T.tolist(), trajectory.turns[0].start
    shown = tokens[:prompt]
    if name == "teacher":
        shown = chat().prompt(HINT.shown(list(trajectory.opening), trajectory.privileged), trajectory.tools)
    with torch.no_grad():
        ids = torch.tensor([shown + tokens[prompt:]])
        logits_T_V = model(["student", "teacher"].index(name))(ids, use_cache=False).logits[0].double()
    # row t predicts token t of the segment, so that the row before the first action is the last of the prompt
    kept_T_V = logits_T_V[len(shown) - 1 : -1] / SETTINGS.temperature
    return torch.cat([torch.zeros(prompt, kept_T_V.shape[1], dtype=torch.double), kept_T_V.log_softmax(-1)])


@pytest.mark.parametrize("kind", KINDS)
def test_every_logprob_is_that_of_what_the_token_was_drawn_from(kind: str) -> None:
    who: set[str] = set()
    for trajectory in played(kind):
        [segment] = trajectory.segments
        logp_T_V, logq_T_V = (logprobs(name, trajectory) for name in ("student", "teacher"))
        mixed_T_V = torch.log(0.7 * logp_T_V.exp() + 0.3 * logq_T_V.exp())
        for turn in trajectory.turns:
            for t in range(turn.start, turn.stop):
                actor, token = trajectory.actors[segment.actor_T[t]], segment.tokens_T[t]
                who.add(actor)
                by = {"expert": torch.zeros_like(logp_T_V), "teacher": logq_T_V, "student": logp_T_V}[actor]
                expected = (mixed_T_V if kind == "tokens" else by)[t, token]
                assert segment.logprob_T[t] == pytest.approx(float(expected), abs=1e-4)
                assert actor == turn.actor or kind == "speculative"
        acted_T = segment.turn_T != CONTEXT
        assert (segment.logprob_T[~acted_T] == 0).all()
        assert (segment.actor_T[~acted_T] == CONTEXT).all()
        assert (segment.trainable_T == acted_T).all()
    others = {"takeover to the end": {"teacher"}, "tokens": set()}.get(kind, set(KINDS[kind].others))
    assert others <= who <= {"student"} | others


@pytest.mark.parametrize("kind", KINDS)
def test_invariant_6_who_acts_does_not_depend_on_the_batch(kind: str) -> None:
    alone = SETTINGS.model_copy(update={"concurrency": 1})
    order = [3, 0, 2]
    for i, trajectory in zip(order, play(KINDS[kind], order, alone, hints={"teacher": HINT}), strict=True):
        expected = played(kind)[i]
        assert trajectory.actors == expected.actors
        assert [(t.actor, t.text) for t in trajectory.turns] == [(t.actor, t.text) for t in expected.turns]
        for one, other in zip(trajectory.segments, expected.segments, strict=True):
            np.testing.assert_array_equal(one.tokens_T, other.tokens_T)
            np.testing.assert_array_equal(one.actor_T, other.actor_T)
            np.testing.assert_allclose(one.logprob_T, other.logprob_T, atol=1e-4)


def test_what_several_acted_is_read_back_equal(tmp_path: Path) -> None:
    written = [Record(replace(t, key=replace(t.key, step=s))) for s, k in enumerate(KINDS) for t in played(k)]
    for step in range(len(KINDS)):
        records.RecordWriter(tmp_path).write(step, [r for r in written if r.trajectory.key.step == step])
    assert list(records.open(tmp_path)) == written


def actors(trajectory: Trajectory) -> list[str]:
    return [turn.actor for turn in trajectory.turns]


def test_a_prefix_is_acted_by_another_and_then_the_student_goes_on() -> None:
    for trajectory in played("prefix of the expert"):
        assert actors(trajectory) == ["expert", "student", "student", "student"]
        assert trajectory.actors == ("student", "expert")
        assert trajectory.turns[0].action == CLIMB
    for trajectory in played("prefix of a teacher"):
        assert actors(trajectory) == ["teacher", "teacher", "student", "student"]


def test_a_prefix_counted_from_the_end_is_as_long_as_the_experts_own_episode_less_that() -> None:
    for trajectory in played("all but the last"):
        height = trajectory.privileged["height"]
        assert actors(trajectory)[:height] == ["expert"] * (height - 1) + ["student"]
    [whole] = play(Prefix(counted_from="end", turns=9.0), [0])
    assert set(actors(whole)) == {"student"}


def test_the_experts_own_episode_ends_at_the_turn_limit() -> None:
    settings = SETTINGS.model_copy(update={"max_turns": 2})
    made = given(Prefix(counted_from="end"), 6)
    for trajectory in collect(made, models(), chat(), settings):
        assert actors(trajectory) == ["expert", "student"]


def test_turns_are_drawn_by_probability() -> None:
    def share(probability: float) -> float:
        made = given(Turns(probability=probability), 100, env=PLAIN)
        scripted = {name: ScriptedPolicy(lambda _: say("Hm.")) for name in ("student", "teacher")}
        acted = [actor for one in collect(made, scripted, chat(), SETTINGS) for actor in actors(one)]
        return acted.count("teacher") / len(acted)

    assert (share(0.0), share(1.0)) == (0.0, 1.0)
    assert share(0.3) == pytest.approx(0.3, abs=0.1)
    assert len({tuple(actors(trajectory)) for trajectory in played("turns")}) > 1


def test_the_share_of_each_actor_is_measured() -> None:
    shares = {
        name: share for name, share in rollout_metrics(played("speculative")).items() if name.startswith("acted/")
    }
    wrote = np.concatenate([t.segments[0].actor_T for t in played("speculative")])
    assert shares == {
        "acted/student": (wrote == 0).sum() / (wrote >= 0).sum(),
        "acted/teacher": (wrote == 1).sum() / (wrote >= 0).sum(),
    }
    assert not any(name.startswith("acted/") for name in rollout_metrics(played("tokens")))


# Takeover.


def by_turn(*texts: str) -> ScriptedPolicy:
    """Says the n-th text in the n-th turn, whatever happened before."""

    def act(request: Request) -> Sequence[int]:
        turns = str(chat().tokenizer.decode(list(request.tokens))).count("You stand on step")
        return say(texts[turns])

    return ScriptedPolicy(act)


def taken_over(acting: Acting, policies: Mapping[str, Policy], **kwargs: Any) -> Trajectory:
    made = next(one for one in given(acting, 6, **kwargs) if tall(one.task.seed))
    [trajectory] = collect([made], policies, chat(), Rollout(max_turns=8, max_new_tokens=100, time_limit=5.0))
    return trajectory


def tall(seed: int) -> bool:
    """Whether the ladder of this task has four steps."""
    [trajectory] = collect([assignments(6, "expert")[seed]], {}, chat(), SETTINGS)
    return bool(trajectory.privileged["height"] == 4)


def test_the_first_bad_turn_is_acted_by_the_expert_in_an_environment_brought_back() -> None:
    student = by_turn(CLIMB, call("jump"), CLIMB, call("climb", steps=2))
    trajectory = taken_over(Takeover(by="expert", mistake="error"), {"student": student})
    assert trajectory.failure is None
    assert actors(trajectory) == ["student", "expert", "student", "student"]
    assert [turn.action for turn in trajectory.turns] == [CLIMB, CLIMB, CLIMB, call("climb", steps=2)]
    assert [turn.observations[0]["content"] for turn in trajectory.turns] == [
        f"You stand on step {n}." for n in (1, 2, 3, 5)
    ]
    assert trajectory.outcome.success
    [segment] = trajectory.segments
    assert "jump" not in str(chat().tokenizer.decode(segment.tokens_T[trajectory.turns[0].start :].tolist()))
    for turn in trajectory.turns:
        assert (segment.turn_T[turn.start : turn.stop] == turn.index).all()
        assert {trajectory.actors[i] for i in segment.actor_T[turn.start : turn.stop]} == {turn.actor}
    assert all(turn.drift == "clean" for turn in trajectory.turns[:-1])


def test_a_disagreement_is_a_mistake_and_a_thought_is_none() -> None:
    student = by_turn(f"I climb. {CLIMB}", call("climb", steps=2), CLIMB, CLIMB, CLIMB)
    for mistake in ("either", "disagreement"):
        trajectory = taken_over(Takeover(by="expert", mistake=mistake), {"student": student})
        assert actors(trajectory) == ["student", "expert", "student", "student"]
    assert set(actors(taken_over(Takeover(by="expert", mistake="error"), {"student": student}))) == {"student"}


def test_a_teacher_acts_to_the_end_and_its_own_mistakes_stand() -> None:
    student, teacher = by_turn(CLIMB, "Hm."), by_turn(CLIMB, "Ah.", CLIMB, CLIMB, CLIMB)
    acting = Takeover(mistake="error", then="teacher")
    trajectory = taken_over(acting, {"student": student, "teacher": teacher})
    assert actors(trajectory) == ["student"] + ["teacher"] * 7
    assert trajectory.actors == ("student", "teacher")
    assert trajectory.turns[1].text == "Ah."


def test_a_bad_turn_that_ends_the_episode_is_taken_over_too() -> None:
    student = by_turn(*[CLIMB] * 3, call("climb", steps=7))
    trajectory = taken_over(Takeover(by="expert"), {"student": student})
    assert actors(trajectory) == ["student"] * 3 + ["expert"]
    assert trajectory.turns[-1].action == CLIMB
    assert trajectory.outcome.success


def test_an_environment_that_does_not_repeat_itself_fails_the_episode() -> None:
    student = by_turn(CLIMB, "Hm.")
    trajectory = taken_over(Takeover(by="expert", mistake="error"), {"student": student}, trouble="forgets")
    assert trajectory.failure is not None
    assert "does not repeat itself: after 1 actions something else came back" in trajectory.failure.message
    assert actors(trajectory) == ["student"]


# Token by token.


def texts(acting: Acting, name: str = "student", settings: Rollout = SETTINGS) -> list[list[str]]:
    made = [replace(one, actor=name) for one in given(acting, 2)]
    return [[t.text for t in one.turns] for one in collect(made, models(settings), chat(), settings)]


@pytest.mark.parametrize("settings", [SETTINGS, SETTINGS.model_copy(update={"top_k": 20, "top_p": 0.9})])
def test_at_their_ends_mixtures_are_one_model_alone(settings: Rollout) -> None:
    alone = texts(Acting(), settings=settings)
    assert texts(Tokens(alpha=0.0), settings=settings) == alone
    assert texts(Tokens(alpha=1.0), settings=settings) == texts(Acting(), "teacher", settings)
    assert texts(Speculative(k=600), settings=settings) == alone
    assert texts(Tokens(alpha=0.5), settings=settings) != alone


def test_a_token_is_replaced_exactly_where_the_teacher_ranks_it_too_low() -> None:
    kept = replaced = 0
    for trajectory in played("speculative"):
        [segment] = trajectory.segments
        logp_T_V, logq_T_V = (logprobs(name, trajectory) for name in ("student", "teacher"))
        assert set(actors(trajectory)) == {"student"}
        for turn in trajectory.turns:
            seed = np.random.SeedSequence([100 + trajectory.task.seed, turn.index]).generate_state(1, np.uint64)[0]
            uniform_N = uniforms(int(seed), turn.stop - turn.start)
            for t in range(turn.start, turn.stop):
                cdf_V = logp_T_V[t].exp().cumsum(0)
                proposed = int(torch.searchsorted(cdf_V, torch.tensor(uniform_N[t - turn.start]), right=True))
                accepted = int((logq_T_V[t] > logq_T_V[t, proposed]).sum()) < K
                assert trajectory.actors[segment.actor_T[t]] == ("student" if accepted else "teacher")
                if accepted:
                    assert segment.tokens_T[t] == proposed
                kept, replaced = kept + accepted, replaced + (not accepted)
    assert min(kept, replaced) > 20


def test_padded_vocabularies_of_unequal_size_go_together() -> None:
    for size in (590, 640):
        policies = models() | {"teacher": TransformersPolicy(model(1, size), chat().ends_of_turn, SETTINGS)}
        for acting in (Tokens(alpha=0.5), Speculative(k=3)):
            [trajectory] = collect(given(acting), policies, chat(), SETTINGS)
            assert trajectory.segments[0].tokens_T.max() < min(size, 600)


def test_the_caches_of_both_are_kept_between_turns_and_released() -> None:
    policies = models()
    for acting in (Tokens(), Turns(), Takeover()):
        trajectories = collect(given(acting, 3), policies, chat(), SETTINGS)
        assert all(policy._entries == {} for policy in policies.values())  # type: ignore[attr-defined]
        if acting.mixing:
            late = [turn for trajectory in trajectories for turn in trajectory.turns[1:]]
            assert all(turn.prefilled < turn.start / 2 for turn in late)


def test_those_that_are_no_models_here_write_no_token_together() -> None:
    policies = models() | {"teacher": ScriptedPolicy()}
    with pytest.raises(ConfigError, match=r"'teacher' is ScriptedPolicy; name a teacher that is a model here"):
        collect(given(Tokens()), policies, chat(), SETTINGS)
    with pytest.raises(ConfigError, match="no policy acts as 'tutor'"):
        collect(given(Turns(by="tutor")), policies, chat(), SETTINGS)


# Hints, limits and one's own kind.


def test_invariant_8_a_hint_is_read_by_the_teacher_alone() -> None:
    read: list[tuple[str, str]] = []

    def noting(name: str) -> ScriptedPolicy:
        def act(request: Request) -> Sequence[int]:
            read.append((name, str(chat().tokenizer.decode(list(request.tokens)))))
            return say("Hm.")

        return ScriptedPolicy(act)

    policies = {name: noting(name) for name in ("student", "teacher")}
    for trajectory in collect(given(Turns(), 6), policies, chat(), SETTINGS, hints={"teacher": HINT}):
        text = str(chat().tokenizer.decode(trajectory.segments[0].tokens_T.tolist()))
        assert "Psst" not in text
    assert {name for name, _ in read} == {"student", "teacher"}
    assert all(("Psst" in text) == (name == "teacher") for name, text in read)


def test_an_episode_stops_at_its_tokens() -> None:
    capped = SETTINGS.model_copy(update={"max_episode_tokens": 25})
    for trajectory in play(Acting(), settings=capped):
        written = [turn.stop - turn.start for turn in trajectory.turns]
        assert sum(written) == 25
        assert trajectory.outcome.stop == "token_limit"
        assert trajectory.turns[-1].finish == "length"
    assert rollout_metrics([trajectory])["truncated"] == 1.0
    [expert] = collect(assignments(actor="expert"), {}, chat(), capped.model_copy(update={"max_episode_tokens": 1}))
    assert [turn.action for turn in expert.turns] == [CLIMB]


class Meddling(Acting):
    """Lets somebody act whom it does not name."""

    def who(self, moment: Any) -> str | None:
        return "teacher"


def test_a_kind_of_ones_own_names_who_may_act() -> None:
    with pytest.raises(ConfigError, match=r"sources\.fresh\.acting: at turn 0 who\(\) gives 'teacher', and those who"):
        collect(given(Meddling()), models(), chat(), SETTINGS)


def test_an_environment_without_the_expert_that_is_needed_fails() -> None:
    for acting in (Prefix(), Prefix(by="teacher", counted_from="end"), Takeover(mistake="disagreement")):
        [trajectory] = collect(given(acting, env=PLAIN), models(), chat(), SETTINGS)
        assert trajectory.failure is not None
        assert "has no expert" in trajectory.failure.message
    [trajectory] = collect(given(Takeover(), env=PLAIN), models(), chat(), SETTINGS)
    assert trajectory.failure is None
