"""Episodes to be played again: real ones, in which an expert and a script act by turns."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from agentopd.acting import WHOLE, Acting, Turns
from agentopd.chat import Chat
from agentopd.models import build_tokenizer
from agentopd.rollout import Assignment, Request, Rollout, ScriptedPolicy, collect
from agentopd.types import EXPERT, STUDENT, Key, Task, Trajectory

LIMITS: dict[str, Any] = {"max_turns": 10, "max_new_tokens": 4_000, "max_length": 200_000, "max_failures": 1.0}


@cache
def chat() -> Chat:
    return Chat(
        build_tokenizer(["Use a tool.", '<tool_call>\n{"name": "say", "arguments": {"text": "1"}}\n</tool_call>'], 400)
    )


def say(text: str) -> list[int]:
    """The tokens of a turn that writes ``text``."""
    tokens: list[int] = chat().tokenizer.encode(text, add_special_tokens=False)
    return [*tokens, chat().end_of_turn]


def played(
    env_id: str,
    texts: Sequence[str] = (),
    kwargs: Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (0,),
    expert: float | None = 0.5,
    **limits: Any,
) -> list[Trajectory]:
    """An episode a seed: each turn by the expert with the probability ``expert``, else one of ``texts``; by ``texts`` alone with ``None``."""
    acting: Acting = WHOLE if expert is None else Turns(by=EXPERT, probability=expert)
    tokens = [say(text) for text in texts]

    def play(request: Request) -> Sequence[int]:
        return tokens[request.seed % len(tokens)]

    assignments = [
        Assignment(Task(env_id, seed, kwargs or {}), Key("played", seed % 3, seed), STUDENT, seed, "fresh", acting)
        for seed in seeds
    ]
    return collect(assignments, {STUDENT: ScriptedPolicy(play)}, chat(), Rollout(**(LIMITS | limits)))
