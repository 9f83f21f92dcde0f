"""Mcp: tasks that are done with the tools of MCP servers; a verifier says what an answer is worth."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from agentopd.env import TextEnv
from agentopd.envs.answers import exactly, nearly
from agentopd.errors import ConfigError, EnvError, ToolError, describe
from agentopd.settings.kinds import load
from agentopd.tooling import Tool, ToolSet, brief, call, tool
from agentopd.tooling.answer import plain_data
from agentopd.tools.mcp import Mcp as Server


@dataclass(frozen=True, slots=True)
class Called:
    """One call that reached a server."""

    name: str
    arguments: Mapping[str, Any]
    answer: str
    """What came back, or what was wrong."""
    error: str | None = None
    """The kind of what was wrong, such as ``tool_error``."""


@dataclass(frozen=True, slots=True)
class Episode:
    """What a verifier is given."""

    task: Mapping[str, Any]
    """The options that the task was made from: ``question``, ``answer`` and whatever else stands there."""
    answer: str
    """What was answered."""
    calls: tuple[Called, ...]
    ask: Callable[..., str]
    """Calls a tool, ``ask("read", note="a")``, to look at what the episode left behind. It raises what a tool raises."""


class Mcp(TextEnv):
    """Asks a question, to be answered with the tools of one or more MCP servers. ``answer`` ends the episode.

    A task is what ``reset`` is given as options: ``question``; ``answer``, one or a list of those that are right; and, where an expert
    shall be able to do it, ``calls``: a list of ``{name, arguments}`` that lead to the answer. Other keys are the verifier's.

    The reward is what the verifier gives: a number, or true or false, success being more than 0; or a pair of reward and success. It
    is 1 for the right answer without a verifier: texts in any case, numbers by their value.

    An expert makes the calls of the task that were not made yet, in order, and answers. What servers answer has to follow from the
    calls alone, or experts and replays will go wrong.

    Args:
        servers: By name, the settings of ``agentopd.tools.mcp.Server``.
        verifier: The import path ``package.module:function`` of a function of an :class:`Episode`.
        tasks: The import path of a function of a NumPy generator that draws a task, where ``reset`` is given none.
        instructions: The system message.
    """

    def __init__(
        self,
        servers: Mapping[str, Any],
        verifier: str | None = None,
        tasks: str | None = None,
        instructions: str = "Answer the question with the tools. Then give the answer.",
    ):
        if not servers:
            raise ConfigError(f"servers={servers!r}: give at least one, by name, such as {{notes: {{url: ...}}}}")
        for name, given in servers.items():
            if not isinstance(given, Mapping):
                raise ConfigError(f"servers.{name}={given!r}: give its settings, such as {{url: ...}}")
        self.instructions = instructions
        self._verify: Callable[..., Any] = _is_right if verifier is None else _loaded("verifier", verifier)
        self._draw = None if tasks is None else _loaded("tasks", tasks)
        self._servers = [Server(f"servers.{name}", **given) for name, given in servers.items()]

    @cached_property
    def tools(self) -> ToolSet:
        """The servers' tools, and ``answer``; the servers are started for them."""
        found: dict[str, str] = {"answer": "this environment"}
        tools: list[Tool] = []
        for server in self._servers:
            for each in server.tools:
                if each.name in found:
                    raise ConfigError(
                        f"{server.name}: its tool {each.name!r} is called like one of {found[each.name]}; give {server.name}.prefix, or name "
                        f"those to take in {server.name}.tools"
                    )
                found[each.name] = server.name
                tools.append(replace(each, function=self._noted(each)))
        self._called: list[Called] = []
        return ToolSet([*tools, *ToolSet.of(self)])

    def start(self) -> str:
        """Takes the task from the options, or draws one."""
        self._task = self._given()
        for server in self._servers:
            server.begin()
        _ = self.tools
        self._called = []
        return str(self._task["question"])

    @tool
    def answer(self, answer: str) -> str:
        """Give the answer.

        Args:
            answer: The answer alone.
        """
        called = tuple(self._called)
        episode = Episode(self._task, answer, called, self._ask)
        try:
            worth = self._verify(episode)
        except EnvError:
            raise
        except Exception as error:
            raise EnvError(f"the verifier raised {brief(describe(error), 300)}") from error
        reward, success = worth if isinstance(worth, tuple) and len(worth) == 2 else (worth, None)
        self.finish(reward=reward, success=success)
        return "Answered."

    def expert(self) -> str:
        """The first of the task's calls that was not made, or else the answer."""
        for key in ("calls", "answer"):
            if self._task.get(key) is None:
                raise EnvError(
                    f"the task {brief(self._task['question'], 80)!r} has no {key}: an expert makes its calls and gives its answer"
                )
        made = [(each.name, each.arguments) for each in self._called if each.error is None]
        for step in self._task["calls"]:
            if (step["name"], step["arguments"]) not in made:
                return call(step["name"], **step["arguments"])
            made.remove((step["name"], step["arguments"]))  # the same call may be there twice
        return call("answer", answer=_first(self._task["answer"]))

    def privileged(self) -> dict[str, Any]:
        """The answer, and the steps that lead to it, each as the call to write, one a line, where the task has them."""
        facts = {"answer": _first(self._task["answer"])} if self._task.get("answer") is not None else {}
        if self._task.get("calls") is not None and facts:
            steps = [*self._task["calls"], {"name": "answer", "arguments": {"answer": facts["answer"]}}]
            facts["steps"] = "\n".join(json.dumps(step) for step in steps)
        return facts

    def close(self) -> None:
        """Ends the servers that are this episode's own."""
        for server in self._servers:
            server.close()
        super().close()

    def _given(self) -> dict[str, Any]:
        task: Any = self.options
        if "question" not in task and self._draw is not None:
            task = plain_data(self._draw(self.np_random))
        if not isinstance(task, Mapping) or not isinstance(task.get("question"), str):
            raise EnvError(
                "the task has no question: give rows by env.data, one by the options of reset (env.options), or kwargs.tasks, which draws "
                f"them; got {brief(repr(task), 200)}"
            )
        known = task.get("answer")
        known = known if isinstance(known, list) else [known]
        if self._verify is _is_right and not (known and all(isinstance(one, str | int | float) for one in known)):
            told = "has no answer" if known == [None] else f"has the answer {brief(repr(task['answer']), 80)}"
            raise EnvError(
                f"the task {brief(task['question'], 80)!r} {told}; give a text, a number, a list of such, or a verifier"
            )
        calls = task.get("calls")
        if not isinstance(calls, list | None):
            raise EnvError(f"calls: {brief(repr(calls), 120)} is no list of {{name: ..., arguments: {{...}}}}")
        for step in calls or ():
            form = isinstance(step, Mapping) and step.keys() == {"name", "arguments"}
            if not form or not isinstance(step["name"], str) or not isinstance(step["arguments"], Mapping):
                raise EnvError(
                    f"calls: {brief(repr(step), 120)} is none; the form is {{name: ..., arguments: {{...}}}}"
                )
        return dict(task)

    def _ask(self, name: str, /, **arguments: Any) -> str:
        for each in self.tools:
            if each.name == name and name != "answer":
                return each(**arguments)
        raise EnvError(f"the verifier asks for a tool {name!r}, and there is none")

    def _noted(self, given: Tool) -> Callable[..., str]:
        """The function of a server's tool, which notes its calls."""

        def noted(**arguments: Any) -> str:
            try:
                text = str(given.function(**arguments))
            except ToolError as error:
                self._called.append(Called(given.name, arguments, str(error), error.kind))
                raise
            self._called.append(Called(given.name, arguments, text))
            return text

        return noted


def _loaded(key: str, path: str) -> Callable[..., Any]:
    try:
        return load(path)
    except ValueError as error:
        rows = "; rows of a file are given by env.data: {file: ...}" if key == "tasks" else ""
        raise ConfigError(f"{key}: {error}{rows}") from error


def _is_right(episode: Episode) -> bool:
    right = episode.task["answer"]
    known = right if isinstance(right, list) else [right]
    return exactly(episode.answer, known) or nearly(episode.answer, known)


def _first(answer: Any) -> str:
    return str(answer[0] if isinstance(answer, list) else answer)
