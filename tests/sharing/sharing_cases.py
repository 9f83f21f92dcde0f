"""Conversations of every kind, and chats that write them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import trl
from tokenizers import AddedToken

from agentopd.chat import Chat
from agentopd.chat.tokenizer import build_tokenizer
from agentopd.records import RecordWriter
from agentopd.sharing import Wanted
from agentopd.sharing.reading import read_any
from agentopd.sharing.taking import trajectory_of
from agentopd.types import Key, Record, Trajectory

TEXTS = [
    "assistant user system tool price stock item pear kiwi So be it. What does a pear cost?\n\nthink",
    '{"item": "pear"}',
]
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"The {name} of an item.",
            "parameters": {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]},
        },
    }
    for name in ("price", "stock")
]
QWEN = (Path(trl.__file__).parent / "chat_templates" / "qwen3_training.jinja").read_text()


@cache
def chat(thinks: bool = False) -> Chat:
    """A chat with our own template, which knows no thinking, or with that of Qwen 3 as TRL ships it."""
    tokenizer = build_tokenizer(TEXTS, 420)
    if thinks:
        tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in ("<think>", "</think>")])
        tokenizer.chat_template = QWEN
    return Chat(tokenizer)


def call(number: str, name: str, **arguments: Any) -> dict[str, Any]:
    """A call in the form of OpenAI."""
    return {
        "id": number,
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)},
    }


def acting(content: str | None, *calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **({"tool_calls": list(calls)} if calls else {}), **more}


def answer(content: str, number: str | None = None, name: str | None = None) -> dict[str, Any]:
    told = {"tool_call_id": number, "name": name}
    return {"role": "tool", "content": content, **{key: value for key, value in told.items() if value}}


def said(content: Any, role: str = "user", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


CASES: dict[str, dict[str, Any]] = {
    "plain": {"messages": [said("What?"), acting("So.")]},
    "system and calls": {
        "messages": [
            said("Be brief.", "system"), said("Cost?"), acting("I look.", call("a", "price", item="pear")), answer("17", "a"),
            acting("17"),
        ],
        "tools": TOOLS,
    },
    "parallel calls": {
        "messages": [
            said("Both?"),
            acting("", call("x", "price", item="pear"), call("y", "stock", item="pear"), call("z", "price", item="kiwi")),
            answer("3", "z"), answer("17", "x"), answer("2", "y"), said("Well?"), acting("17 and 3"),
        ],
        "tools": TOOLS,
    },
    "errors of tools": {
        "messages": [
            said("Cost?"), acting("", call("a", "prize", item="pear")), answer("unknown tool: prize", "a"),
            acting("<tool_call>\n{not json}\n</tool_call>"), said("malformed call: invalid JSON"), acting("I give up."),
            said("It is over."),
        ],
        "tools": TOOLS,
    },
    "thinking": {
        "messages": [
            said("Cost?"), acting("", call("a", "price", item="pear"), reasoning_content="A pear,\nthen."), answer("17", "a"),
            acting("17", reasoning_content="Easy."), said("Sure?"), acting("<think>\nYes.\n</think>\n\nSure."),
        ],
        "tools": TOOLS,
    },
    "nothing said": {"messages": [said(""), acting(""), said(""), acting(None, call("a", "price")), answer("", "a"), acting("")]},
    "unicode": {
        "messages": [said("Was kostet die Birne? 🍐"), acting("Ünïcödé \u202e", call("a", "price", item="梨 \u0000 <b>")), answer("ß", "a"), acting("¥17")]
    },
    "answers without a call": {
        "messages": [
            said("Cost?"), acting("", call("a", "price", item="pear")), answer("17"), answer("18", name="stock"), answer("19"), acting("17"),
        ]
    },
    "turns without answers": {"messages": [said("Go."), acting("One."), acting("Two."), acting("", call("a", "price"))]},
    "what is not learned": {
        "messages": [said("Hi"), acting("Hello.", weight=0), said("Go."), acting("One."), said("On."), acting("Two.", weight=0)]
    },
    "marks in what is said": {"messages": [said("<|im_end|><think>"), acting("a </think> b </think> c"), said("ok"), acting("<think></think>x</think>y")]},
    "numbers": {"messages": [said("Add."), acting("", call("a", "price", item=1.5, n=2, deep={"x": [None, True]})), answer("3", "a"), acting("3")]},
    "older forms": {
        "messages": [
            said("Be brief.", "developer"), said([{"type": "text", "text": "Co"}, {"type": "text", "text": "st?"}]),
            {"role": "assistant", "content": None, "function_call": {"name": "price", "arguments": '{"item": "pear"}'}},
            {"role": "function", "name": "price", "content": "17"}, acting("17"),
        ],
        "functions": [tool["function"] for tool in TOOLS],
    },
}  # fmt: skip


def trajectory(row: dict[str, Any], index: int = 0, thinks: bool = False, **facts: Any) -> Trajectory:
    """The episode of a row."""
    given = row | ({"metadata": {"agentopd": 1} | facts} if facts else {})
    return trajectory_of(read_any(given), Key("made", 0, index), Wanted(chat(thinks)))


def keep(folder: Path, *episodes: Trajectory | Record) -> Path:
    """Writes episodes as records of one step."""
    records = [one if isinstance(one, Record) else Record(one) for one in episodes]
    RecordWriter(folder).write(0, records)
    return folder


def write_lines(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file
