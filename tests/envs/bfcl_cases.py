"""Episodes of BFCL that several tests start or replay."""

from typing import Any

import gymnasium

from agentopd.env import expert_action, make
from agentopd.envs.bfcl_rows import Row, official, rows_of
from agentopd.tooling import parse_action

ID = "agentopd/Bfcl-v0"


def started(id: str, **kwargs: Any) -> gymnasium.Env[str, str]:
    env = make(ID, **kwargs)
    env.reset(seed=0, options={"id": id})
    return env


def with_kinds(*kinds: str, category: str = "base") -> Row:
    """The first row that these simulators concern."""
    return next(row for row in rows_of(category).values() if set(row.classes) >= set(kinds))


def told(info: dict[str, Any]) -> list[str]:
    return [message["content"] for message in info["messages"] if message["role"] == "tool"]


def officially(row: Row) -> list[list[str]]:
    """What BFCL's own harness answers to the ground truth as it is written, turn by turn."""
    multi_turn_utils = official("eval_checker.multi_turn_eval.multi_turn_utils")
    before = set(vars(multi_turn_utils))
    try:
        run = multi_turn_utils.execute_multi_turn_func_call
        start, long = row.entry["initial_config"], "long_context" in row.id
        return [run(list(turn), start, row.classes, "test", row.id, long_context=long)[0] for turn in row.truth]
    finally:
        for name in set(vars(multi_turn_utils)) - before:
            delattr(multi_turn_utils, name)


def replay(row: Row, parallel: bool = True) -> None:
    """Plays the ground truth, as read from the data, through ``reset`` and ``step``; every answer is BFCL's own."""
    env = make(ID, categories=[row.category], parallel=parallel)
    question, info = env.reset(seed=0, options={"id": row.id})
    assert info["family"] == row.category
    for turn, answers in enumerate(officially(row)):
        expected = row.entry["question"][turn]
        assert question == expected[0]["content"] if expected else question.endswith("What about now?")
        heard: list[str] = []
        while parse_action(action := expert_action(env)).calls:
            _, reward, over, _, info = env.step(action)
            assert (reward, over, info["errors"]) == (0.0, False, [])
            heard += told(info)
        assert heard == answers
        question, reward, over, _, info = env.step(action)
        assert info["privileged"]["on_track"]
    assert (reward, over, info["success"], question) == (1.0, True, True, "Right.")
