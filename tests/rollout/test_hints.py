"""Actors that are shown a hint: it is in what they read, and in nothing that is kept."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from rollout_ladder import CLIMB, ROOMY, assignments, chat, say

from agentopd.chat import Hint
from agentopd.errors import ConfigError
from agentopd.rollout import Request, Rollout, ScriptedPolicy, check_first_prompts, collect
from agentopd.rollout.preflight import Reader
from agentopd.types import Trajectory

HINT = Hint("Psst, it has {height} rungs.")


def played(
    settings: Rollout = ROOMY, hint: Hint | None = HINT, action: str = CLIMB
) -> tuple[Trajectory, list[Request]]:
    asked: list[Request] = []

    def act(request: Request) -> Sequence[int]:
        asked.append(request)
        return say(action)

    hints = {"student": hint} if hint else {}
    [trajectory] = collect(assignments(1), {"student": ScriptedPolicy(act)}, chat(), settings, hints=hints)
    return trajectory, asked


def text(tokens: Sequence[int]) -> str:
    return str(chat().tokenizer.decode(list(tokens)))


def test_an_actor_reads_its_hint_at_every_turn_and_the_trajectory_holds_none() -> None:
    trajectory, asked = played()
    assert len(asked) == len(trajectory.turns) > 1
    assert all(text(request.tokens).count("Psst") == 1 for request in asked)
    plain, _ = played(hint=None)
    assert trajectory.opening == plain.opening
    for segment, expected in zip(trajectory.segments, plain.segments, strict=True):
        assert "Psst" not in text(segment.tokens_T.tolist())
        np.testing.assert_array_equal(segment.tokens_T, expected.tokens_T)
        np.testing.assert_array_equal(segment.turn_T, expected.turn_T)


def test_what_a_hinted_actor_reads_goes_on_where_it_stopped() -> None:
    trajectory, asked = played()
    hinted = chat().prompt(HINT.shown(trajectory.opening, trajectory.privileged), trajectory.tools)
    [segment] = trajectory.segments
    first = trajectory.turns[0].start
    for turn, request in zip(trajectory.turns, asked, strict=True):
        assert list(request.tokens) == [*hinted, *segment.tokens_T[first : turn.start].tolist()]


def test_a_hinted_actor_that_drops_its_oldest_turns_keeps_its_hint() -> None:
    length = len(played()[1][0].tokens) + 100
    settings = ROOMY.model_copy(update={"on_overflow": "drop_oldest", "max_length": length, "max_new_tokens": 30})
    trajectory, asked = played(settings, action="Let me think.")
    assert len(trajectory.segments) > 1
    assert all("Psst" in text(request.tokens) and len(request.tokens) + 30 <= length for request in asked)
    assert all("Psst" not in text(segment.tokens_T.tolist()) for segment in trajectory.segments)


def test_a_hint_is_shown_in_its_environments_alone() -> None:
    elsewhere = Hint("{answer}", envs=("tests/Plain-v0",))
    trajectory, asked = played(hint=elsewhere)
    assert trajectory.failure is None
    assert [request.tokens for request in asked] == [request.tokens for request in played(hint=None)[1]]


def test_room_is_counted_with_the_hint() -> None:
    tight = ROOMY.model_copy(update={"max_length": len(played(hint=None)[1][0].tokens) + ROOMY.max_new_tokens})
    assert played(tight)[0].outcome.stop == "overflow"
    task = assignments(1)[0].task
    check_first_prompts([task], chat(), tight)
    with pytest.raises(ConfigError, match=r"first prompt with the hint of teachers\.mentor has \d+"):
        check_first_prompts([task], chat(), tight, {"mentor": HINT})


def test_where_no_length_serves_what_can_be_done_is_said() -> None:
    task, prompt = assignments(1)[0].task, len(played(hint=None)[1][0].tokens)
    needed, hinted = prompt + ROOMY.max_new_tokens, len(played()[1][0].tokens)
    tight = ROOMY.model_copy(update={"max_length": needed - 1})
    with pytest.raises(ConfigError, match=rf"set rollout\.max_length to {needed} or more, and {needed} or less"):
        check_first_prompts([task], chat(), tight, readers=[Reader("student", needed)])
    with pytest.raises(ConfigError, match=rf"no other value, serves .*let the environment say less.*with {needed} pos"):
        check_first_prompts([task], chat(), tight, readers=[Reader("student", needed - 1)])
    mentor = Reader("teachers.mentor", needed, "the teacher", "mentor", HINT)
    with pytest.raises(ConfigError, match=r"no other value, serves .*teachers\.mentor\.hint adds .*shorten the hint"):
        check_first_prompts([task], chat(), tight, {"mentor": HINT}, [mentor])
    enough = hinted + ROOMY.max_new_tokens + hinted - prompt
    fits = ROOMY.model_copy(update={"max_length": hinted + ROOMY.max_new_tokens})
    check_first_prompts([task], chat(), fits, {"mentor": HINT}, [replace(mentor, longest=enough)])


def test_a_hint_that_the_environment_cannot_fill_is_told_before_a_run() -> None:
    with pytest.raises(
        ConfigError, match=r"teachers\.mentor, tests/Ladder-v0: hint='\{answer\}': the environment tells height"
    ):
        check_first_prompts([assignments(1)[0].task], chat(), ROOMY, {"mentor": Hint("{answer}")})


def test_an_episode_that_does_not_tell_what_the_hint_names_fails_alone() -> None:
    trajectory, asked = played(hint=Hint("{answer}"))
    assert not asked
    assert trajectory.failure is not None
    assert (trajectory.failure.boundary, trajectory.failure.kind) == ("env", "untold")
    assert trajectory.failure.message.startswith("tests/Ladder-v0: hint='{answer}': the environment tells height")
    np.testing.assert_array_equal(trajectory.segments[0].tokens_T, played(hint=None)[1][0].tokens)
