"""The teachers that need no model: step rewards and the environment's expert."""

from dataclasses import replace

import numpy as np
import pytest
from teacher_cases import ByteChat, context, episode

from agentopd.chat import Chat
from agentopd.errors import TeacherError
from agentopd.objective.rows import Rows
from agentopd.teachers import annotate
from agentopd.teachers.expert import expert
from agentopd.teachers.rewards import reward
from agentopd.tokenizer import build_tokenizer
from agentopd.tooling import call
from agentopd.types import CONTEXT, Message, Sampled
from agentopd.where import Where


def test_reward_repeats_the_step_rewards() -> None:
    teacher = reward(context("judge"), scale=2.0)
    said = teacher.annotate([episode("..0.1.2", rewards=(0.5, 0.0, -1.0))])[0]
    assert said.reward_S.tolist() == [1.0, 0.0, -2.0]
    assert not said.skip_S.any()
    assert isinstance(said.block, Sampled)
    assert len(said.taken_N) == 0
    assert not teacher.advice


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
    assert teacher.advice
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


def test_a_correction_is_what_the_whole_conversation_would_have_written() -> None:
    advice = call("lookup", item="pear")
    chat = Chat(build_tokenizer([advice, "the price of a pear"], vocab_size=400))
    tool = {"type": "function", "function": {"name": "lookup", "parameters": {"type": "object", "properties": {}}}}
    first: list[Message] = [{"role": "system", "content": "Shop."}, {"role": "user", "content": "the price of a pear"}]
    second: list[Message] = [{"role": "assistant", "content": "no"}, {"role": "tool", "content": "call a tool"}]
    for messages in (first, first + second):
        seen = chat.prompt(messages, [tool])
        trajectory = episode("." * len(seen) + "0", advice={0: advice}, tokens=[*seen, chat.end_of_turn])
        ours = replace(context(), chat=chat)
        (segment,) = expert(ours).annotate([trajectory])[0].segments
        assert segment.tokens_T.tolist() == seen + chat.write(messages, advice, [tool])
        assert chat.read(segment.tokens_T[len(seen) :].tolist()).canonical == advice
