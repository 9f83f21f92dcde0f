"""Turns that join others while these are being written."""

from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
import pytest
from test_engine import END, SETTINGS, Conversation, assert_same, gemma, llama, plain_loop
from transformers import PreTrainedModel

from agentopd.errors import PolicyError
from agentopd.rollout.engine import TransformersPolicy
from agentopd.rollout.flows import Continuous, Elsewhere, Flow, Whole, flow_of
from agentopd.rollout.policy import Generation, Request, Rollout


def drive(model: PreTrainedModel, settings: Rollout, flow: Flow, turns: int = 5) -> list[int]:
    """Eight conversations, each asking for its next turn some steps after the last has ended; returns what each turn read anew."""
    talking = {e: Conversation(e, first=5 + 9 * e) for e in range(8)}
    asked: dict[int, Request] = {}
    later = [(e, e // 3) for e in talking]  # who asks next, after how many steps
    read, random = [], np.random.default_rng(0)
    while later or flow.busy:
        now = [episode for episode, steps in later if steps <= 0]
        later = [(episode, steps - 1) for episode, steps in later if steps > 0]
        asked |= {episode: talking[episode].request() for episode in now}
        flow.add([asked[episode] for episode in now])
        for written in flow.step():
            one = talking[written.episode]
            assert_same([written.generation], [plain_loop(model, asked.pop(written.episode), settings)], 1e-9)
            one.take(written.generation)
            read.append(written.generation.prefilled)
            assert written.seconds > 0.0
            if one.turn < turns:
                later.append((written.episode, int(random.integers(0, 4))))
            else:
                flow.release(written.episode)
    assert all(one.turn == turns for one in talking.values())
    return read


@pytest.mark.parametrize("settings", SETTINGS, ids=["greedy", "sampled", "nucleus"])
def test_turns_that_join_equal_a_loop_without_cache(settings: Rollout) -> None:
    model = llama()
    policy = TransformersPolicy(model, END, settings)
    read = drive(model, settings, flow_of("student", policy))
    firsts = sum(5 + 9 * e for e in range(8))
    assert sum(read) < firsts + 8 * 4 * (12 + 1)  # later turns read what is new, the last token written among it
    assert policy._entries == {}, "an episode that is over left its cache behind"


def test_a_model_whose_layers_keep_no_columns_writes_those_that_wait_after_the_others() -> None:
    model, settings = gemma(), Rollout()
    drive(model, settings, flow_of("student", TransformersPolicy(model, END, settings)), turns=2)


def test_turns_join_between_two_tokens() -> None:
    model, settings = llama(), Rollout(temperature=0.0)
    flow = Continuous("student", TransformersPolicy(model, END, settings))
    requests = [Request(e, [5, 6, 7 + e], e, max_new_tokens=20) for e in range(4)]
    flow.add(requests[:2])
    flow.step()
    flow.add(requests[2:])
    written = [one for _ in range(22) for one in flow.step()]
    expected = {r.episode: plain_loop(model, r, settings) for r in requests}
    assert {one.episode: one.generation.tokens for one in written} == {e: g.tokens for e, g in expected.items()}
    assert len(expected[3].tokens) == 20, "the case shows nothing: the late turn ends before the others"


class Later:
    """Answers when it is told to."""

    version = 0

    def __init__(self) -> None:
        self.futures: dict[int, Future[Generation]] = {}
        self.released: list[int] = []

    def submit(self, request: Request) -> "Future[Generation]":
        self.futures[request.episode] = Future()
        return self.futures[request.episode]

    def settle(self) -> None: ...

    def act(self, requests: Sequence[Request]) -> list[Generation]:
        raise AssertionError("turns are submitted one by one")

    def release(self, episodes: Sequence[int]) -> None:
        self.released += episodes

    def update(self, model: PreTrainedModel, version: int) -> None: ...


def test_turns_that_are_written_elsewhere_end_in_any_order() -> None:
    policy = Later()
    flow = flow_of("student", policy)
    assert isinstance(flow, Elsewhere)
    flow.add([Request(0, [1], 0, 4), Request(1, [1], 0, 4)])
    assert flow.step() == []
    policy.futures[1].set_result(Generation([9], [0.0], 1))
    assert [one.episode for one in flow.step()] == [1]
    assert flow.busy
    policy.futures[0].set_exception(PolicyError("gone"))
    with pytest.raises(PolicyError, match="gone"):
        flow.step()
    flow.release(1)
    assert policy.released == [1]


class Echo:
    """Writes what it read last."""

    version = 0

    def act(self, requests: Sequence[Request]) -> list[Generation]:
        return [Generation([request.tokens[-1]], [0.0], 1) for request in requests]

    def release(self, episodes: Sequence[int]) -> None: ...

    def update(self, model: PreTrainedModel, version: int) -> None: ...


def test_any_policy_is_asked_for_whole_turns() -> None:
    flow = flow_of("student", Echo())
    assert isinstance(flow, Whole)
    flow.add([Request(e, [e + 4], 0, 4) for e in range(3)])
    written = flow.step()
    assert [(one.episode, one.generation.tokens) for one in written] == [(0, [4]), (1, [5]), (2, [6])]
    assert sum(one.seconds for one in written) == pytest.approx(flow.seconds)
    assert not flow.busy


def test_an_impossible_request_is_refused_when_it_is_added() -> None:
    with pytest.raises(PolicyError, match="both must be positive"):
        flow_of("student", Echo()).add([Request(0, [], 0, 4)])
