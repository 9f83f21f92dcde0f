import pytest

from agentopd.errors import PolicyError
from agentopd.rollout.policy import Generation, Request
from agentopd.rollout.scripted import ScriptedPolicy


def request(episode: int, script: tuple[int, ...] | None = None) -> Request:
    return Request(episode, [1, 2, 3], seed=0, max_new_tokens=2, script=script)


def test_a_script_is_played_whole() -> None:
    assert ScriptedPolicy().act([request(0, (5, 6, 7))]) == [Generation([5, 6, 7], [0.0] * 3, 0)]


def test_listed_turns_are_played_in_order_for_each_episode_and_cut() -> None:
    policy = ScriptedPolicy([[5], [6, 7, 8]])
    assert [g.tokens for g in policy.act([request(0), request(1)])] == [[5], [5]]
    assert [g.tokens for g in policy.act([request(1)])] == [[6, 7]]
    policy.release([1])
    assert [g.tokens for g in policy.act([request(1)])] == [[5]]


def test_a_callable_sees_the_request() -> None:
    assert ScriptedPolicy(lambda r: [len(r.tokens)]).act([request(0)])[0].tokens == [3]


def test_nothing_left_to_play_is_an_error() -> None:
    with pytest.raises(PolicyError, match="turn 0 of episode 4"):
        ScriptedPolicy().act([request(4)])
