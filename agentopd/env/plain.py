"""Plain text instead of calls, for games: an action is what stands in it, and the prompt tells of no tools."""

from typing import Any

import gymnasium
from gymnasium.utils import RecordConstructorArgs

from agentopd.env.exchange import Step
from agentopd.env.text import has_expert, system_prompt, tools_of
from agentopd.errors import ConfigError, EnvError
from agentopd.tooling import ToolSet, brief, call, parse_action
from agentopd.tooling.action import OPEN
from agentopd.tooling.answer import well_formed

REFUSED = ("bad_arguments", "invalid_action")
"""Errors of the environment's own call that mean: there is no such action."""
LONGEST = 40
"""Of a name that is no action, as it is told."""


class PlainText(gymnasium.Wrapper[str, str, str, str], RecordConstructorArgs):
    """Shows an environment whose only tool takes one text as one that is played in plain text: ``up`` instead of a call.

    White space around an action means nothing, and where the actions have names, neither do capitals. What is no action is told so
    (``invalid_action``), a call of a tool too (``unknown_tool``). All else is the environment's, which counts each as a step.

    Args:
        env: For instance a :class:`~agentopd.env.wrappers.TextFace`, limits and all.

    Raises:
        ConfigError: ``env`` has no tool, several, or one that takes something else.
    """

    def __init__(self, env: gymnasium.Env[str, str]):
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        tools = tools_of(env)
        properties = dict(tools[0].parameters["properties"]) if len(tools) == 1 else {}
        if len(properties) != 1 or next(iter(properties.values())).get("type") != "string":
            told = f"its tools are: {', '.join(tools.names) or 'none'}"
            raise ConfigError(f"{env}: plain text needs a single tool that takes one text, and {told}; leave plain out")
        (self._argument, schema), self._tool = properties.popitem(), tools.names[0]
        self._names: tuple[str, ...] = tuple(schema.get("enum", ()))
        self._known = {name.casefold(): name for name in self._names}
        self.tools = ToolSet()
        if has_expert(env):
            self.expert = self._advise

    @property
    def instructions(self) -> str:
        """Those of the environment, and how to act."""
        what = f"one of: {', '.join(self._names)}" if self._names else f"the {self._argument}"
        return "\n".join(filter(None, (system_prompt(self.env), f"Answer with nothing but {what}.")))

    def step(self, action: str) -> Step:
        """Takes the action that the text names."""
        text = well_formed(action).strip()
        parsed = parse_action(text)
        if parsed.calls or parsed.problems:
            observation, reward, terminated, truncated, info = self.env.step(OPEN)  # a step that changes nothing
            told = parsed.problems[0] if parsed.problems else "there are no tools"
            kinds = ["malformed_call"] * len(parsed.problems) + ["unknown_tool"] * len(parsed.calls)
            said = f"malformed call: {told}" if parsed.problems else f"{self._refusal('a call')} ({told})"
            return self._told(said, float(reward), terminated, truncated, info | {"errors": kinds})
        name = self._known.get(text.casefold(), text)
        observation, reward, terminated, truncated, info = self.env.step(call(self._tool, **{self._argument: name}))
        errors = info.get("errors", [])
        if self._names and any(kind in REFUSED for kind in errors):
            observation = self._refusal(repr(brief(text, LONGEST)))
        kinds = ["invalid_action" if kind in REFUSED else kind for kind in errors]
        return self._told(observation, float(reward), terminated, truncated, info | {"errors": kinds})

    def _told(self, said: str, reward: float, terminated: bool, truncated: bool, info: dict[str, Any]) -> Step:
        messages = [{"role": "user", "content": said}]
        return said, reward, terminated, truncated, info | {"messages": messages}

    def _refusal(self, what: str) -> str:
        return f"{what} is no action; " + (
            f"actions: {', '.join(self._names)}" if self._names else f"write the {self._argument}"
        )

    def _advise(self) -> str:
        advice = self.env.get_wrapper_attr("expert")()
        calls = parse_action(advice).calls
        if len(calls) != 1 or not isinstance(text := calls[0].arguments.get(self._argument), str):
            raise EnvError(
                f"{self.env}: expert() must write one call of {self._tool} for plain text, not {brief(advice, 100)!r}"
            )
        return text
