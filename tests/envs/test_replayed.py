"""What shipped environments answered, they answer again: episodes of experts and of wild actions, by turns."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import replay_cases
from test_all_environments import CASES, NEEDS, cases, wild

from agentopd.env import has_expert, make
from agentopd.replaying import replay
from agentopd.types import Record

EACH = 2
MANY = 1_000


def _wild(id: str, kwargs: Mapping[str, Any], count: int = 40) -> list[str]:
    """Actions as models may write them, of an environment that is played by them."""
    env, rng, texts = make(id, **kwargs), np.random.default_rng(0), list[str]()
    over = True
    while len(texts) < count:
        if over:
            env.reset(seed=len(texts))
        texts.append(wild(env, rng))
        _, _, terminated, truncated, _ = env.step(texts[-1])
        over = bool(terminated or truncated)
    env.close()
    return [
        text for text in texts if text == text.encode(errors="replace").decode()
    ]  # no tokenizer writes half surrogates


def _replayed(id: str, kwargs: Mapping[str, Any], seeds: Sequence[int], turns: int) -> int:
    """Plays the episodes twice; returns how many recorded turns there were."""
    if id in NEEDS:
        pytest.importorskip(NEEDS[id], reason=f"{id} needs it")
    env = make(id, **kwargs)
    expert = 0.5 if has_expert(env) else None
    env.close()
    played = replay_cases.played(id, _wild(id, kwargs), kwargs, seeds, expert, max_turns=turns)
    assert [one.failure for one in played] == [None] * len(played)
    found = replay([Record(one) for one in played])
    assert found.same, [verdict.told for verdict in found.verdicts if verdict.told]
    assert [verdict.turns for verdict in found.verdicts] == [len(one.turns) for one in played]
    return sum(len(one.turns) for one in played)


@cases
def test_an_episode_is_what_it_was(id: str, kwargs: dict[str, Any]) -> None:
    assert _replayed(id, kwargs, range(EACH), turns=5) >= EACH


@pytest.mark.slow
@cases
def test_a_thousand_episodes_are_what_they_were(id: str, kwargs: dict[str, Any]) -> None:
    each = -(-MANY // len(CASES))
    assert _replayed(id, kwargs, range(each), turns=6) >= each
