"""Small environments and helpers for the tests of collection."""

import time
from functools import cache
from typing import Any

import gymnasium

from agentopd.chat import Chat
from agentopd.env import TextEnv, TextSpace
from agentopd.models import build_tokenizer
from agentopd.rollout import Assignment, Policy, Rollout, ScriptedPolicy, collect
from agentopd.tooling import call, tool
from agentopd.types import Key, Task, Trajectory

LADDER, PLAIN = "tests/Ladder-v0", "tests/Plain-v0"
CLIMB = call("climb", steps=1)


class Ladder(TextEnv):
    """Climb to the top, one step at a time."""

    instructions = "Climb the ladder."
    climbed = 0
    """On all ladders ever, by those that forget which one they stand on."""

    def __init__(self, trouble: str = "", wordy: bool = False, kind: Any = "") -> None:
        super().__init__()
        self.trouble, self.wordy, self.family = trouble, wordy, kind

    def start(self) -> str:
        if self.trouble == "reset":
            raise RuntimeError("no ladder")
        self.height, self.at = int(self.np_random.integers(2, 5)), 0
        return f"The ladder has {self.height} steps."

    @tool
    def climb(self, steps: int) -> str:
        """Climbs.

        Args:
            steps: How many.
        """
        time.sleep({"hang": 1.0, "slow": 0.1}.get(self.trouble, 0.0))
        self.at += steps
        if self.trouble == "forgets":
            Ladder.climbed += 1
            return f"You stand on step {Ladder.climbed}."
        if self.at >= self.height:
            self.finish(reward=1.0)
        return f"You stand on step {self.at}."

    @tool(time_limit=0.05)
    def rest(self) -> str:
        """Rests for too long."""
        time.sleep(0.3)
        return "Rested."

    @tool
    def jump(self) -> str:
        """Jumps; it never works."""
        raise ValueError("too high")

    def respond(self, text: str) -> str:
        if self.trouble == "step":
            raise KeyError("step")
        if self.trouble == "flood":
            return "a " * 1_000_000
        return super().respond(text)

    def expert(self) -> str:
        """A small step; once off the ground, a wordy one jumps over the top."""
        return call("climb", steps=10**40) if self.wordy and self.at else CLIMB

    def privileged(self) -> dict[str, Any]:
        return {"height": self.height}


class Plain(gymnasium.Env[str, str]):
    """A text environment that knows nothing of messages or tools."""

    observation_space = TextSpace()
    action_space = TextSpace()

    def __init__(self, reward: float = 0.5, family: Any = "") -> None:
        self.reward, self.family = reward, family

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return "Say something.", {"family": self.family}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return f"You said {len(action)} letters.", self.reward, False, self.count == 2, {}


for _id, _class in ((LADDER, Ladder), (PLAIN, Plain)):
    if _id not in gymnasium.registry:
        gymnasium.register(_id, entry_point=f"{__name__}:{_class.__name__}")


@cache
def chat() -> Chat:
    words = ["Climb the ladder. Use a tool. You stand on step", CLIMB, '{"name": "climb", "arguments": {"steps": 1}}']
    return Chat(build_tokenizer(words, vocab_size=600))


def say(text: str) -> list[int]:
    tokens: list[int] = chat().tokenizer.encode(text, add_special_tokens=False)
    return [*tokens, chat().end_of_turn]


def student(*texts: str) -> dict[str, Policy]:
    return {"student": ScriptedPolicy([say(text) for text in texts])}


def assignments(count: int = 1, actor: str = "student", env: str = LADDER, **kwargs: Any) -> list[Assignment]:
    return [
        Assignment(Task(env, seed=i, kwargs=kwargs), Key("run", 0, i), actor, seed=100 + i, source="fresh")
        for i in range(count)
    ]


def play(*texts: str, settings: Rollout | None = None, advice: bool = False, **kwargs: Any) -> Trajectory:
    settings = settings or Rollout(max_turns=len(texts), time_limit=5.0, max_length=4000, max_new_tokens=100)
    [trajectory] = collect(assignments(**kwargs), student(*texts), chat(), settings, advice)
    return trajectory


ROOMY = Rollout(max_turns=8, time_limit=5.0, max_length=4000, max_new_tokens=100)
