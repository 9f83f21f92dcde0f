"""Calls as ReAct text (Yao et al. 2023): a thought, an action, its input; the environment answers with an observation.

    Thought: I look it up.
    Action: look_up
    Action Input: {"item": "pear"}

Also read is the short form of the paper, ``Action: look_up[pear]``, whose text is the one argument that the tool must have. What a turn says
to nobody's tool is ``Final Answer: ...`` (or ``Action: Finish[...]``). Behind that nothing is a call, nor behind an ``Observation:``
that the model made up. Without tools all is text.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentopd.chat.arguments import LONGEST_NAME, UNREADABLE, Tools, block_of, parameters, value_of
from agentopd.chat.form import Format
from agentopd.tooling.action import CLOSE, OPEN, ParsedAction, brief, from_numpy, malformed
from agentopd.types import ToolCall

FORM = "Action: NAME and, on the next line, Action Input: {...}"
TEACHES = """You can call these tools, each described by a JSON schema:
{schemas}
Write in this form, and end your turn behind the input:
Thought: what you think
Action: the name of one tool
Action Input: its arguments, as a JSON object
To call several, repeat the last two lines. You are answered with Observation: and what a tool gave. Where no tool is to be called, write
Thought: what you think
Final Answer: what you say"""
ANSWER = "Observation: {content}"

_LABEL = re.compile(
    r"^[ \t]{0,8}(?:\*\*)?(Thought|Action Input|Action|Observation|Final Answer)(?: \d{1,4})?(?:\*\*)?:(?:\*\*)?[ \t]?",
    re.MULTILINE,
)
_SHORT = re.compile(rf"([^\[\]\n]{{1,{LONGEST_NAME}}})\[(.*)\]", re.DOTALL)
_NAME = re.compile(rf"[^\s\[\](){{}}]{{1,{LONGEST_NAME}}}")
_FENCE = "```"
_DECODER = json.JSONDecoder(strict=False)
MADE_UP = "an Observation is what you are answered with: end your turn behind the Action Input"


def read(text: str, tools: Tools) -> str:
    """Its calls as canonical blocks; each that is malformed as a block that says so. A text that holds canonical blocks stays as it is."""
    if (tools is not None and not tools) or OPEN in text or CLOSE in text:
        return text
    labels = list(_LABEL.finditer(text))
    return _Reader(text, tools).read(labels) if labels else text


def write(said: ParsedAction, tools: Tools) -> str:
    """An action in this format."""
    if not said.calls:
        return f"Final Answer: {said.content}" if tools and said.content else said.content
    lead = [f"Thought: {said.content}"] if said.content else []
    return "\n".join([*lead, *map(_action, said.calls)])


def _action(call: ToolCall) -> str:
    given = json.dumps(dict(call.arguments), ensure_ascii=False, allow_nan=False, default=from_numpy)
    given = given.replace("<", "\\u003c")
    return f"Action: {call.name}\nAction Input: {given}"


@dataclass(slots=True)
class _Reader:
    text: str
    tools: Tools
    content: list[str] = field(default_factory=list)
    blocks: list[str] = field(default_factory=list)
    name: str | None = None
    """Of the action whose input is yet to come."""
    final: str | None = None

    def read(self, labels: list[re.Match[str]]) -> str:
        self._say(self.text[: labels[0].start()])
        stops = [*(label.start() for label in labels[1:]), len(self.text)]
        for label, stop in zip(labels, stops, strict=True):
            body = self.text[label.end() : stop].strip()
            if label[1] == "Observation" and (self.blocks or self.name is not None):
                self._without_input()
                self.blocks.append(malformed(MADE_UP))
                break
            if label[1] == "Final Answer":
                self.final = self.text[label.end() :].strip()
                break
            self._section(label[1], body)
            if self.final is not None:
                break
        self._without_input()
        return self._canonical()

    def _section(self, label: str, body: str) -> None:
        if label == "Action Input":
            self._input(body)
            return
        self._without_input()
        if label == "Action":
            self._action(body)
        else:
            self._say(body)

    def _canonical(self) -> str:
        if self.final is not None and not self.blocks:
            return self.final
        if self.final is not None:
            self.blocks.append(malformed("a turn holds either an Action or a Final Answer"))
        return "\n".join([*self.content, *self.blocks])

    def _say(self, text: str) -> None:
        if text.strip():
            self.content.append(text.strip())

    def _bad(self, reason: str) -> None:
        self.blocks.append(malformed(reason))

    def _action(self, body: str) -> None:
        short = _SHORT.fullmatch(body)
        name = (short[1] if short else body.partition("\n")[0]).strip().strip("`\"'")
        if short and name.lower() == "finish" and parameters(name, self.tools) is None and self.tools:
            self.final = short[2].strip()
        elif not _NAME.fullmatch(name):
            self._bad(f"{brief(name, 40)!r} is not the name of a tool" if name else "an Action names no tool")
        elif short:
            self._call(name, short[2].strip(), short=True)
        elif "\n" in body:
            self._bad(f"text stands between the Action {brief(name, 40)} and its input")
        else:
            self.name = name

    def _input(self, body: str) -> None:
        name, self.name = self.name, None
        if name is None:
            self._bad("an Action Input stands behind no Action")
        else:
            self._call(name, body)

    def _without_input(self) -> None:
        """The action that was named last has no input: right of a tool that must be given nothing, and of one that is not known."""
        name, self.name = self.name, None
        if name is None:
            return
        known = parameters(name, self.tools)
        if known is not None and known.required:
            self._bad(f"the Action {brief(name, 40)} has no Action Input")
        else:
            self._call(name, "")

    def _call(self, name: str, given: str, short: bool = False) -> None:
        arguments, rest = self._arguments(name, given, short)
        if isinstance(arguments, str):
            self._bad(arguments)
            return
        block = block_of([ToolCall(name, arguments)])
        self.blocks.append(block or malformed(f"no JSON can hold the arguments of {brief(name, 40)}"))
        self._say(rest)

    def _arguments(self, name: str, given: str, short: bool) -> tuple[Mapping[str, Any] | str, str]:
        """The arguments in an input, or what is wrong with it; and the text behind them. In brackets braces may be text."""
        given = _unfenced(given)
        if not given:
            return {}, ""
        known = parameters(name, self.tools)
        sole = known.sole if known else None
        if given.startswith("{"):
            try:
                value, end = _DECODER.raw_decode(given)
                if not short or sole is None or value.keys() <= {sole}:
                    return value, given[end:]
            except UNREADABLE as error:
                if not short or sole is None:
                    return (
                        f"the input of {brief(name, 40)} is no JSON ({getattr(error, 'msg', 'nested too deeply')})",
                        "",
                    )
        if known is None and self.tools:
            return {}, ""  # the environment says which tools there are
        if known is None or sole is None:
            return f"the input of {brief(name, 40)} is no JSON object", ""
        return {sole: value_of(_unquoted(given), known.schemas.get(sole))}, ""


def _unfenced(text: str) -> str:
    """The text in a fence of code."""
    if len(text) < 2 * len(_FENCE) or not (text.startswith(_FENCE) and text.endswith(_FENCE)):
        return text
    return text[len(_FENCE) : -len(_FENCE)].removeprefix("json").strip()


def _unquoted(text: str) -> str:
    """The text in quotes that JSON takes off."""
    try:
        value = json.loads(text)
    except UNREADABLE:
        return text
    return value if isinstance(value, str) else text


REACT = Format(read, FORM, write=write, teaches=TEACHES, answer=ANSWER, answers_users=True)
