"""A good environment, and others that each break one rule or look as if they did."""

import json
import time
from typing import Any

import numpy as np

from agentopd.env import TextEnv
from agentopd.env.exchange import Step
from agentopd.errors import ToolError
from agentopd.tooling import call, tool


class Good(TextEnv):
    """Name the capital that `look` tells."""

    def start(self) -> str:
        self.capital = ("Paris", "Oslo", "Rome")[self.np_random.integers(3)]
        return "Which?"

    @tool
    def look(self) -> str:
        """Look at the map."""
        return self.capital

    @tool
    def name(self, capital: str) -> None:
        """Name it."""
        self.finish(reward=float(capital == self.capital))

    def expert(self) -> str:
        return call("name", capital=self.capital)

    def privileged(self) -> dict[str, Any]:
        return {"capital": self.capital}


class Telling(Good):
    def start(self) -> str:
        super().start()
        return f"Is it {self.capital}?"


class Whispering(Good):
    def respond(self, text: str) -> str:
        return f"Not a call. {self.capital}."


class Raising(Good):
    def respond(self, text: str) -> str:
        return str(int(text))


class Unseeded(Good):
    def start(self) -> str:
        self.capital = ("Paris", "Oslo", "Rome")[np.random.default_rng().integers(3)]
        return "Which?"


class Arrays(Good):
    def step(self, action: str) -> Step:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, info | {"map": np.zeros(2)}


class Encoded(Good):
    def privileged(self) -> dict[str, Any]:
        return {"where": {"capital": self.capital.encode()}}


class Reused(Good):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        self.log: list[str] = []
        return observation, info

    def step(self, action: str) -> Step:
        observation, reward, terminated, truncated, info = super().step(action)
        self.log += info["errors"]
        return observation, reward, terminated, truncated, info | {"log": self.log}


class Foolish(Good):
    def expert(self) -> str:
        return call("name", capital="Bonn")


class Mumbling(Good):
    def expert(self) -> str:
        return "<tool_call>name</tool_call>"


class Endless(Good):
    def expert(self) -> str:
        return call("look")


class Silent(Good):
    def step(self, action: str) -> Step:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, info | {"messages": []}


class Undying(Good):
    def step(self, action: str) -> Step:
        if self._over:
            return "", 0.0, True, False, {}
        return super().step(action)


class Blind(Good):
    def step(self, action: str) -> Step:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, info | {"errors": []}


class Deaf(Good):
    """Passes everything of ours, but not Gymnasium's."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        return super().reset(seed=123 if seed == 456 else seed, options=options)


class Numbered(Good):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        return observation, info | {"family": 3}


class Rich(Good):
    """Rewards what is no number."""

    reward: Any = "high"

    def step(self, action: str) -> Step:
        observation, _, terminated, truncated, info = super().step(action)
        return observation, self.reward, terminated, truncated, info


class Infinite(Rich):
    reward = float("nan")


class Generous(Good):
    @tool
    def look(self) -> str:
        """Look."""
        self.add_reward("high")  # type: ignore[arg-type]
        return self.capital


class Shared(Good):
    atlas: dict[str, str] = {}

    def start(self) -> str:
        first = super().start()
        self.atlas["open"] = self.capital
        return first

    @tool
    def look(self) -> str:
        """Look."""
        return self.atlas["open"]


class Remembering(Good):
    looks: list[str] = []

    @tool
    def look(self) -> str:
        """Look."""
        self.looks.append(self.capital)
        return str(len(self.looks))


class Noting(TextEnv):
    """The tool that ends it stands before the one that remembers."""

    notes: list[str] = []

    def start(self) -> str:
        return "Ready?"

    @tool
    def leave(self) -> None:
        """Leave."""
        self.finish(reward=1.0)

    @tool
    def write(self, text: str) -> str:
        """Write a note."""
        self.notes.append(text)
        return str(len(self.notes))

    def expert(self) -> str:
        return call("leave")


class Collecting(Good):
    def start(self) -> str:
        self.seen = [*getattr(self, "seen", []), super().start()]
        return " ".join(self.seen)


class Restless(Good):
    """Changes the system message in the middle of an episode."""

    @tool
    def look(self) -> str:
        """Look."""
        self.instructions = f"It is {self.capital}."
        return self.capital


class Wordless(Good):
    instructions = None  # type: ignore[assignment]


class Dithering(Good):
    """Its expert draws from the environment's own generator."""

    def expert(self) -> str:
        return call("name" if self.np_random.random() < 0.9 else "look", capital=self.capital)


class Dumb(Good):
    def expert(self) -> str:
        return None  # type: ignore[return-value]


class Clumsy(Good):
    def expert(self) -> str:
        return call("nam", capital=self.capital)


class Binary(Good):
    @tool
    def look(self) -> Any:
        """Look."""
        return self.capital.encode()


class Halved(Good):
    def step(self, action: str) -> Step:
        _, reward, terminated, truncated, info = super().step(action)
        return "\ud800", reward, terminated, truncated, info


class Failing(Good):
    def start(self) -> str:
        return str(self.options["level"])


class Misread(Good):
    def start(self) -> str:
        return str(json.loads("Bonn"))


class Unmade(Good):
    def __init__(self) -> None:
        self.maps = dict[str, int]()["europe"]


class Hanging(Good):
    """Waits where it is told to."""

    where = ""

    def start(self) -> str:
        return self._wait("start") or super().start()

    @tool
    def look(self) -> str:
        """Look."""
        return self._wait("look") or self.capital

    def expert(self) -> str:
        return self._wait("expert") or super().expert()

    def _wait(self, where: str) -> str:
        time.sleep(3.0 if where == self.where else 0.0)
        return ""


class Greedy(Good):
    """Its tool changes the arguments it was given, and its default; that harms nobody."""

    @tool
    def mark(self, places: list[str] = []) -> str:  # noqa: B006
        """Mark places."""
        places.append("here")
        return str(len(places))


class Crashing(Good):
    """Its expert never meets the defect of its tool."""

    @tool
    def zoom(self, place: str) -> int:
        """Zoom in."""
        return {"Oslo": 59}[place]


class Refusing(Good):
    @tool
    def zoom(self, place: str) -> int:
        """Zoom in."""
        raise ToolError("no such place")
