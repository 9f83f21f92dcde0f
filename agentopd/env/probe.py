"""An environment under test: each call is timed, what it raises is told in one sentence, what it gives is checked for its form."""

import json
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from threading import Thread
from typing import Any, NoReturn, Self, TypeAlias, TypeVar

import gymnasium
import numpy as np

from agentopd.env.text import expert_action, system_prompt
from agentopd.errors import ConfigError, EnvError, describe, place_of
from agentopd.tooling import CRASH, settle
from agentopd.tooling.action import brief
from agentopd.tooling.answer import well_formed

Env: TypeAlias = gymnasium.Env[str, str]
Found: TypeAlias = dict[str, Any]
"""What ``reset`` or ``step`` gave, by name, with the system message that stood then."""
STATISTICS = "episode"
"""What Gymnasium's ``RecordEpisodeStatistics`` adds to ``info``: it holds wall time, and is not checked."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class _Running:
    what: str
    limit: float
    deadline: float


class Bench:
    """Makes the environments of one check, and knows which call runs."""

    def __init__(self, id: str, make: Callable[[], Env], time_limit: float):
        self.id, self._make, self.time_limit = id, make, time_limit
        self._running: _Running | None = None

    def fail(self, rule: str, found: str) -> NoReturn:
        """Ends the check."""
        raise EnvError(f"{self.id}: {rule}; {found}")

    def new(self) -> "Probe":
        """A fresh instance, to be closed by ``with``. A ``ConfigError`` (unknown id, wrong arguments) passes."""
        return Probe(self, self.call("making it", self._make, passes=ConfigError))

    def call(self, what: str, work: Callable[[], T], passes: type[Exception] | tuple[()] = (), times: int = 1) -> T:
        """Runs a call of the environment, within ``times`` time limits. What it raises, other than ``passes``, ends the check."""
        limit = times * self.time_limit
        self._running = _Running(what, limit, time.monotonic() + limit)
        try:
            return work()
        except passes:
            raise
        except (Exception, SystemExit) as error:
            found = f"it raised {brief(describe(error), 300)}{place_of(error)}"
            raise EnvError(f"{self.id}: {what} must not raise; {found}") from error
        finally:
            self._running = None

    def within_time(self, check: Callable[[], T]) -> T:
        """Runs a whole check in a thread of its own, which is left behind when a call takes too long."""
        future: Future[T] = Future()
        Thread(target=settle, args=(future, check), daemon=True).start()
        while True:
            running = self._running
            left = running.deadline - time.monotonic() if running else self.time_limit
            if wait([future], timeout=max(left, 0.0)).done:
                return future.result()
            if running and running is self._running:
                self.fail(
                    f"{running.what} must end within {running.limit:g} s", "it hangs, or needs a longer time_limit"
                )


class Probe:
    """One environment on the bench."""

    def __init__(self, bench: Bench, env: Env):
        self.bench, self.env = bench, env
        self.seed = self.turn = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Closes the environment. What that raises matters where nothing else was wrong."""
        with nullcontext() if kind is None else suppress(Exception):
            self.bench.call("close()", self.env.close)

    @property
    def where(self) -> str:
        """Which episode, and which of its turns."""
        return f"seed {self.seed}, turn {self.turn}"

    def reset(self, seed: int) -> Found:
        """Starts an episode; one user message must come back."""
        self.seed, self.turn = seed, 0
        result: Any = self.bench.call(f"reset(seed={seed})", lambda: self.env.reset(seed=seed))
        if not isinstance(result, tuple) or len(result) != 2:
            self.bench.fail("reset must return (observation, info)", f"it returned {brief(repr(result), 80)}")
        found = {"observation": result[0], "info": result[1], "system message": self._prompt()}
        self._check_form(found, ("user",))
        if len(found["info"]["messages"]) != 1:
            self.bench.fail("info of reset must hold one user message", f"it holds {found['info']['messages']}")
        return found

    def step(self, action: str) -> Found:
        """Takes an action."""
        self.turn += 1
        result: Any = self.bench.call(f"step({brief(action, 60)!r}) ({self.where})", lambda: self.env.step(action))
        if not isinstance(result, tuple) or len(result) != 5:
            self.bench.fail(
                "step must return (observation, reward, terminated, truncated, info)", f"it returned {result!r}"
            )
        found: Found = dict(zip(("observation", "reward", "terminated", "truncated", "info"), result, strict=True))
        found["system message"] = self._prompt()
        if isinstance(found["info"], dict):
            found["info"].pop(STATISTICS, None)
        self._check_numbers(found)
        self._check_form(found, ("user", "tool"))
        if CRASH in found["info"]["errors"]:
            rule = "a tool must not crash, whatever it is called with (what a model may learn from is a ToolError)"
            told = brief(found["observation"], 300)
            self.bench.fail(rule, f"{self.where}: {brief(action, 150)!r} was answered {told!r}")
        return found

    def expert(self) -> str:
        """The expert's action."""
        return self.bench.call(f"expert() (seed {self.seed}, turn {self.turn + 1})", lambda: expert_action(self.env))

    def _prompt(self) -> str:
        return self.bench.call("reading the instructions", lambda: system_prompt(self.env))

    def _check_numbers(self, found: Found) -> None:
        reward = found["reward"]
        if not isinstance(reward, int | float | np.number) or not math.isfinite(reward):
            self.bench.fail("a reward must be a finite number", f"{self.where} gave {reward!r}")
        for name in ("terminated", "truncated"):
            if not isinstance(found[name], bool | np.bool_):
                self.bench.fail(f"{name} must be true or false", f"{self.where} gave {found[name]!r}")

    def _check_form(self, found: Found, roles: tuple[str, ...]) -> None:
        observation, info, fail = found["observation"], found["info"], self.bench.fail
        if not isinstance(observation, str):
            fail("an observation must be text", f"{self.where} gave {observation!r}")
        if well_formed(observation) != observation:
            fail("an observation must not hold half surrogates", f"{self.where} gave {observation!r}")
        if not isinstance(info, dict):
            fail("info must be a dict", f"{self.where} gave {info!r}")
        for key, value in info.items():
            if not _is_plain({key: value}):
                rule = f"info[{key!r}] must be plain data that survives JSON (no arrays, tuples, NumPy numbers or nan)"
                fail(rule, f"{self.where} gave {brief(repr(value), 80)}")
        messages, errors = info.get("messages"), info.get("errors")
        if not isinstance(messages, list) or not all(_is_message(message, roles) for message in messages):
            rule = f"info['messages'] must be messages of roles {roles}, tool messages with a name"
            fail(rule, f"{self.where} gave {messages!r}")
        if "\n".join(message["content"] for message in messages) != observation:
            fail(
                "info['messages'] must say what the observation says",
                f"{self.where} gave {messages!r} and {observation!r}",
            )
        if not isinstance(errors, list) or not all(isinstance(kind, str) for kind in errors):
            fail("info['errors'] must be a list of kinds", f"{self.where} gave {errors!r}")
        if not isinstance(family := info.get("family", ""), str):
            fail("info['family'] must be text", f"{self.where} gave {family!r}")


def _is_plain(info: Mapping[str, Any]) -> bool:
    try:
        return bool(json.loads(json.dumps(info, allow_nan=False)) == info)
    except (TypeError, ValueError):
        return False


def _is_message(message: Any, roles: tuple[str, ...]) -> bool:
    return (
        isinstance(message, dict)
        and message.get("role") in roles
        and isinstance(message.get("content"), str)
        and (message["role"] != "tool" or isinstance(message.get("name"), str))
    )
