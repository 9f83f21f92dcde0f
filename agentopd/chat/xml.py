"""Calls as XML: ``<invoke name="look_up"><parameter name="item">pear</parameter></invoke>``.

Text stands as it is, all else as JSON; the tool's schema says which of the two an argument is. What would be read as something else
(text with ``</parameter>`` in it, text that the schema does not call text and that is JSON) stands in CDATA, which is always text.
Marks around several calls (``<function_calls>``, ``<minimax:tool_call>``) are left out.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from agentopd.chat.arguments import LONGEST_NAME, Tools, block_of, properties, value_of
from agentopd.chat.form import Format
from agentopd.tooling.action import CLOSE, OPEN, ParsedAction, brief, from_numpy, malformed
from agentopd.types import ToolCall

FORM = '<invoke name="NAME"><parameter name="ARGUMENT">VALUE</parameter></invoke>'
TEACHES = """You can call these tools, each described by a JSON schema:
{schemas}
To call one, write
<invoke name="...">
<parameter name="...">...</parameter>
</invoke>
with one parameter an argument: text as it is, anything else as JSON. To call several, write one behind the other."""

_NAME = rf'name\s?=\s?"([^"<>\n]{{1,{LONGEST_NAME}}})"\s?'
_AROUND = re.compile(r"</?(?:[A-Za-z][\w-]{0,32}:tool_calls?|(?:[A-Za-z][\w-]{0,32}:)?function_calls|tool_calls)>")
_TAG = re.compile(r"<invoke(?=[\s>])[^<>]{0,300}>?|</invoke>|<parameter(?=[\s>])[^<>]{0,300}>?|</parameter>")
_INVOKE = re.compile(rf"<invoke\s{_NAME}>")
_PARAMETER = re.compile(rf"<parameter\s{_NAME}>")
_END = "</parameter>"
_CDATA, _CDATA_END = "<![CDATA[", "]]>"
_SPACE = re.compile(r"\s*")


def read(text: str, tools: Tools) -> str:
    """Its calls as canonical blocks; each that is malformed as a block that says so."""
    return _Reader(text, tools).read() if _TAG.search(text) else text


def write(said: ParsedAction, tools: Tools) -> str:
    """An action in this format; names with quotes in them garble it."""
    return "\n".join([*([said.content] if said.content else []), *(_invoke(call, tools) for call in said.calls)])


def _invoke(call: ToolCall, tools: Tools) -> str:
    schemas = properties(call.name, tools)
    given = "".join(
        f'<parameter name="{name}">{_written(value, schemas.get(name))}{_END}\n'
        for name, value in call.arguments.items()
    )
    return f'<invoke name="{call.name}">\n{given}</invoke>'


def _written(value: Any, schema: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=from_numpy).replace("<", "\\u003c")
    plain = (
        not _TAG.search(value) and not value.lstrip().startswith(_CDATA) and value_of(_trimmed(value), schema) == value
    )
    return value if plain else _CDATA + value.replace(_CDATA_END, f"]]{_CDATA_END}{_CDATA}>") + _CDATA_END


def _trimmed(text: str) -> str:
    """Without the newlines that some put around a value."""
    return text.removeprefix("\n").removesuffix("\n")


@dataclass(slots=True)
class _Reader:
    text: str
    tools: Tools
    position: int = 0
    pieces: list[str] = field(default_factory=list)
    """Content and blocks, in order."""
    wrapped: bool = False
    """Whether the calls before stand in a Hermes mark, which is to be closed."""

    def read(self) -> str:
        while tag := _TAG.search(self.text, self.position):
            self._content(tag.start(), tag[0].startswith("<invoke"))
            self.position = tag.end()
            opened = _INVOKE.fullmatch(tag[0])
            if opened:
                self.pieces.append(self._call(opened[1]))
            elif tag[0].startswith("<invoke"):
                self._bad('an invoke is to be opened as <invoke name="NAME">')
                self._skip()
            else:
                self._bad(f"{_shown(tag[0])} stands outside of an invoke")
        self._content(len(self.text), False)
        return "\n".join(self.pieces)

    def _content(self, stop: int, opens: bool) -> None:
        """Takes what stands up to ``stop``, without the marks around calls; one ``opens`` there or not."""
        piece = _AROUND.sub("", self.text[self.position : stop]).rstrip()
        piece = piece.lstrip() if self.pieces else piece
        if self.wrapped and piece.startswith(CLOSE):
            piece, self.wrapped = piece.removeprefix(CLOSE).strip(), False
        if opens and piece.endswith(OPEN):
            piece, self.wrapped = piece.removesuffix(OPEN).rstrip(), True
        if piece:
            self.pieces.append(piece)

    def _bad(self, reason: str) -> None:
        self.pieces.append(malformed(reason))

    def _skip(self) -> None:
        """Reads on behind what would end the call, or where another begins."""
        while tag := _TAG.search(self.text, self.position):
            if tag[0].startswith("<invoke"):
                return
            self.position = tag.end()
            if tag[0] == "</invoke>":
                return
        self.position = len(self.text)

    def _call(self, name: str) -> str:
        """The block of the call that was opened right before the position."""
        arguments: dict[str, Any] = {}
        schemas = properties(name, self.tools)
        while True:
            tag = _TAG.search(self.text, self.position)
            between = self.text[self.position : tag.start() if tag else len(self.text)].strip()
            if tag is None or tag[0].startswith("<invoke"):
                self.position = tag.start() if tag else len(self.text)
                return malformed(f"the invoke of {brief(name, 40)} is not closed")
            self.position = tag.end()
            if between:
                problem = f"the invoke of {brief(name, 40)} holds text outside of its parameters ({brief(between, 40)})"
            elif tag[0] == "</invoke>":
                return _block(ToolCall(name, arguments))
            else:
                problem = self._parameter(tag[0], arguments, schemas)
            if problem:
                if tag[0] != "</invoke>":
                    self._skip()
                return malformed(problem)

    def _parameter(self, tag: str, arguments: dict[str, Any], schemas: Any) -> str:
        """Adds the argument whose parameter was opened right before the position; what is wrong with it, if anything is."""
        opened = _PARAMETER.fullmatch(tag)
        if opened is None:
            return f"{_shown(tag)} opens no parameter"
        name, shown = opened[1], brief(opened[1], 40)
        if name in arguments:
            return f"the parameter {shown} is given twice"
        start = _SPACE.match(self.text, self.position)
        if start and self.text.startswith(_CDATA, start.end()):
            self.position = start.end()
            text = self._cdata()
            if text is None:
                return f"the CDATA of the parameter {shown} is not closed"
            arguments[name] = text
            return ""
        end = _TAG.search(self.text, self.position)
        if end is None or end[0] != _END:
            return f"the parameter {shown} is not closed"
        arguments[name] = value_of(_trimmed(self.text[self.position : end.start()]), schemas.get(name))
        self.position = end.end()
        return ""

    def _cdata(self) -> str | None:
        """The text of the sections that begin at the position; ``None`` where none ends, or text follows."""
        parts = []
        while self.text.startswith(_CDATA, self.position):
            end = self.text.find(_CDATA_END, self.position)
            if end < 0:
                self.position = len(self.text)
                return None
            parts.append(self.text[self.position + len(_CDATA) : end])
            self.position = end + len(_CDATA_END)
        space = _SPACE.match(self.text, self.position)
        self.position = space.end() if space else self.position
        if not self.text.startswith(_END, self.position):
            return None
        self.position += len(_END)
        return "".join(parts)


def _block(call: ToolCall) -> str:
    """The canonical block; one that says what is wrong where no JSON can hold the arguments."""
    return block_of([call]) or malformed(f"no JSON can hold the arguments of {brief(call.name, 40)}")


def _shown(tag: str) -> str:
    return brief(tag, 40)


XML = Format(read, FORM, write=write, teaches=TEACHES)
