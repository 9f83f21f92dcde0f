"""The teachers that need no model: step rewards and the environment's expert."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from teacher_cases import OPENING, ByteChat, context, episode

from agentopd.chat import Chat
from agentopd.chat.tokenizer import build_tokenizer
from agentopd.errors import TeacherError
from agentopd.objective.rows import Rows
from agentopd.rollout import Assignment, Rollout, ScriptedPolicy, collect
from agentopd.teachers import annotate, corrections
from agentopd.teachers.expert import expert
from agentopd.teachers.rewards import reward
from agentopd.tooling import call
from agentopd.types import CONTEXT, Key, Message, Sampled, Task
from agentopd.where import Where

TOOL = {"type": "function", "function": {"name": "lookup", "parameters": {"type": "object", "properties": {}}}}


def test_reward_repeats_the_step_rewards() -> None:
    teacher = reward(context("judge"), scale=2.0)
    said = teacher.annotate([episode("..0.1.2", rewards=(0.5, 0.0, -1.0))])[0]
    assert said.reward_S.tolist() == [1.0, 0.0, -2.0]
    assert not said.skip_S.any()
    assert isinstance(said.block, Sampled)
    assert len(said.taken_logprob_N) == 0
    assert not teacher.corrects


@pytest.mark.parametrize(
    ("where", "rewarded"),
    [
        (Where(every=2), [0, 2]),
        (Where(actor=("mentor",)), [1]),
        (Where(source=("fresh",)), [0, 1]),
        (Where(tool=("add",)), [2]),
        (Where(success=True), []),
    ],
)
def test_reward_gives_nothing_to_other_turns(where: Where, rewarded: list[int]) -> None:
    trajectory = episode(
        "..0.1",
        "..2",
        rewards=(1.0, 1.0, 1.0),
        actors=("student", "mentor"),
        acted={1: 1},
        sources=("fresh", "replay"),
        tools={2: "add"},
    )
    said = reward(context(), where=where).annotate([trajectory])[0]
    assert np.flatnonzero(~np.isnan(said.reward_S)).tolist() == rewarded
    assert np.flatnonzero(~said.skip_S).tolist() == rewarded


def test_a_failed_episode_is_neither_rewarded_nor_corrected() -> None:
    failed = episode("..0", rewards=(1.0,), advice={0: "go"}, failed=True)
    for kind in (reward, expert):
        said = kind(context()).annotate([failed])[0]
        assert np.isnan(said.reward_S).all()
        assert said.skip_S.all()
        assert said.segments == ()


def test_a_correction_stands_after_exactly_what_the_student_saw() -> None:
    trajectory = episode("...00..11.", "....22", advice={1: "go on", 2: "stop"})
    teacher = expert(context("mentor"))
    said = teacher.annotate([trajectory])[0]
    assert teacher.corrects
    assert teacher.needs_expert
    assert said.corrected_S == (None, "go on", "stop")
    assert said.skip_S.tolist() == [True, False, False]
    written = ByteChat().write([], "go on", [])
    first, second = said.segments
    assert first.tokens_T.tolist() == trajectory.segments[0].tokens_T[:7].tolist() + written
    assert first.turn_T.tolist() == [CONTEXT] * 7 + [1] * len(written)
    assert first.actor_T.tolist() == [CONTEXT] * 7 + [0] * len(written)
    assert first.trainable_T.tolist() == [False] * 7 + [True] * len(written)
    assert not first.logprob_T.any()
    assert first.source == second.source == "corrected"
    assert second.tokens_T[:4].tolist() == trajectory.segments[1].tokens_T[:4].tolist()


def test_advice_that_the_student_followed_is_still_given() -> None:
    said = expert(context()).annotate([episode("..0", advice={0: "action 0"})])[0]
    assert said.corrected_S == ("action 0",)
    assert len(said.segments) == 1


def test_an_environment_without_expert_is_an_error_that_names_it() -> None:
    with pytest.raises(TeacherError, match=r"'mentor'.*test/Env-v0.*`expert` method"):
        expert(context("mentor")).annotate([episode("..0"), episode("..0", advice={0: "go"}, failed=True)])
    assert expert(context(), where=Where(min_turn=1)).annotate([episode("..0")])[0].skip_S.all()
    assert len(expert(context()).annotate([episode("..0"), episode("..0", advice={0: "go"})])) == 2


def test_rows_see_corrections_as_tokens_of_the_teacher() -> None:
    trajectory = episode("..00.1", advice={0: "go"})
    rows = Rows.of(annotate({"mentor": expert(context("mentor"))}, [trajectory]))
    corrected = rows.source_A == "corrected"
    assert corrected.tolist() == [False] * 3 + [True] * 3
    assert set(rows.actor_A[corrected]) == {"mentor"}
    assert set(rows.turn_A[corrected]) == {0}
    assert rows.token_A[corrected].tolist() == ByteChat().write([], "go", [])
    assert not rows.teachers["mentor"].covered_A.any()
    assert not rows.teachers["mentor"].rewarded_A.any()


class Noting(ByteChat):
    """Keeps what it was asked to write, and after what."""

    def __init__(self) -> None:
        self.asked: list[tuple[Sequence[Message], str, Sequence[Mapping[str, Any]]]] = []

    def write(self, messages: Sequence[Message], canonical: str, tools: Sequence[Mapping[str, Any]]) -> list[int]:
        self.asked.append((messages, canonical, tools))
        return super().write(messages, canonical, tools)


def test_a_correction_is_written_after_the_conversation_that_led_there() -> None:
    noting = Noting()
    ours = replace(context(), chat=cast(Chat, noting))
    trajectory = replace(episode("...00..1.22", advice={0: "go", 2: "stop"}), tools=(TOOL,))
    said: Message = {"role": "tool", "content": "no"}
    turns = tuple(replace(turn, observations=(said,)) for turn in trajectory.turns)
    expert(ours).annotate([replace(trajectory, turns=turns)])
    two, one = ({"role": "assistant", "content": text} for text in ("2 tokens", "1 tokens"))
    assert noting.asked == [
        (list(OPENING), "go", (TOOL,)),
        ([*OPENING, two, said, one, said], "stop", (TOOL,)),
    ]


def test_a_trajectory_without_its_opening_is_not_corrected() -> None:
    bare = replace(episode("..0", advice={0: "go"}), opening=())
    with pytest.raises(TeacherError, match=r"'mentor', trajectory test/0/0/0: it has no opening"):
        expert(context("mentor")).annotate([bare])


COUNTING = (
    "{%- for message in messages -%}{{- '<|' ~ message.role ~ '|>' -}}"
    "{%- if message.tool_calls -%}{{- raise_exception('no calls here') -}}{%- endif -%}"
    "{%- if message.role == 'assistant' -%}{{- loop.index ~ ': ' -}}{%- endif -%}"
    "{{- message.content ~ '<|end|>' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
"""A template in which an action depends on how many messages came before it, and which knows no calls."""


def test_a_correction_is_tokens_as_the_template_writes_them_there() -> None:
    tokenizer = build_tokenizer(["the price of pears"], vocab_size=400)
    tokenizer.chat_template = COUNTING
    chat = Chat(tokenizer)
    texts = [call("price", item="pears") * 2, "Well."]
    policy = ScriptedPolicy([[*tokenizer.encode(text, add_special_tokens=False), chat.end_of_turn] for text in texts])
    assigned = Assignment(Task("agentopd/Checkout-v0", 0), Key("run", 0, 0), "student", seed=0, source="fresh")
    settings = Rollout(max_turns=2, max_new_tokens=200, max_length=8000)
    [trajectory] = collect([assigned], {"student": policy}, chat, settings, advice=True)
    (said,) = expert(replace(context(), chat=chat)).annotate([trajectory])
    for turn, segment, number in zip(trajectory.turns, said.segments, ("3: ", "6: "), strict=True):
        seen = trajectory.segments[turn.segment].tokens_T[: turn.start].tolist()
        assert segment.tokens_T[: len(seen)].tolist() == seen
        written = segment.tokens_T[len(seen) :].tolist()
        assert turn.advice is not None
        assert chat.read(written).text == number + turn.advice
        assert written[-1] == chat.end_of_turn


def test_a_reward_too_large_for_float32_is_told() -> None:
    with pytest.raises(
        TeacherError, match=r"teacher 'judge', .*: the reward of turn 1 is infinite, or too large for float32"
    ):
        annotate({"judge": reward(context("judge"), scale=10.0)}, [episode("..0.1", rewards=(1.0, 1e38))])


@pytest.mark.parametrize("texts", [["go"], ["go", 3], []])
def test_corrections_are_one_text_a_turn(texts: list[Any]) -> None:
    trajectory = episode("..0.1", advice={0: "go"})
    with pytest.raises(TeacherError, match=rf"corrected_S has {len(texts)} entries for 2 turns; give each turn a text"):
        corrections("judge", cast(Chat, ByteChat()), trajectory, texts)
