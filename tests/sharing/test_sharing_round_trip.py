"""Export and import of whole conversations: nothing is lost, and tokens say what the messages say."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sharing_cases as cases
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd import records
from agentopd.sharing import Wanted, Wish, export, take_in
from agentopd.sharing.formats import openai_row
from agentopd.sharing.talk import talk_of
from agentopd.types import CONTEXT, IMPORTED


def exported(folder: Path, file: Path, **wish: Any) -> list[dict[str, Any]]:
    export(records.open(folder), file, Wish(**({"format": "openai"} | wish)))
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("thinks", [False, True])
def test_export_import_export_is_the_identity(thinks: bool, tmp_path: Path) -> None:
    first = cases.write_lines(tmp_path / "given.jsonl", list(cases.CASES.values()))
    wanted = Wanted(cases.chat(thinks))
    take_in(str(first), tmp_path / "one", wanted)
    rows = exported(tmp_path / "one", tmp_path / "one.jsonl", metadata=True, privileged=True)
    take_in(str(tmp_path / "one.jsonl"), tmp_path / "two", wanted)
    assert exported(tmp_path / "two", tmp_path / "two.jsonl", metadata=True, privileged=True) == rows
    for one, two in zip(records.open(tmp_path / "one"), records.open(tmp_path / "two"), strict=True):
        assert two.trajectory.segments == one.trajectory.segments
        assert two.trajectory.turns == one.trajectory.turns
        assert two.trajectory.task == one.trajectory.task


def test_what_is_exported_is_what_was_given(tmp_path: Path) -> None:
    names = ["plain", "system and calls", "thinking", "unicode", "numbers", "what is not learned"]
    cases.write_lines(tmp_path / "given.jsonl", [cases.CASES[name] for name in names])
    take_in(str(tmp_path / "given.jsonl"), tmp_path / "run", Wanted(cases.chat(True)))
    for name, row in zip(names, exported(tmp_path / "run", tmp_path / "out.jsonl"), strict=True):
        assert [_bare(one) for one in row["messages"]] == [_bare(one) for one in cases.CASES[name]["messages"]], name
        assert row.get("tools") == cases.CASES[name].get("tools")


def _bare(message: dict[str, Any]) -> dict[str, Any]:
    """Without ids, which are given anew, and names of answers, which are added; with thinking apart, as export has it."""
    bare = {name: value for name, value in message.items() if name not in ("tool_call_id", "name")}
    if message["content"] == "<think>\nYes.\n</think>\n\nSure.":
        bare |= {"content": "Sure.", "reasoning_content": "Yes."}
    if "tool_calls" in message:
        bare["tool_calls"] = [call["function"] for call in message["tool_calls"]]
    return bare


def test_ids_join_calls_and_answers(tmp_path: Path) -> None:
    cases.keep(tmp_path, cases.trajectory(cases.CASES["parallel calls"]))
    [row] = exported(tmp_path, tmp_path / "out.jsonl")
    _, turn, *answers, _, _ = row["messages"]
    names = {call["id"]: json.loads(call["function"]["arguments"])["item"] for call in turn["tool_calls"]}
    told = [(one["content"], one["name"], names[one["tool_call_id"]]) for one in answers]
    assert sorted(told) == [("17", "price", "pear"), ("2", "stock", "pear"), ("3", "price", "kiwi")]


def test_an_answer_without_a_call_keeps_its_place(tmp_path: Path) -> None:
    row = openai_row(talk_of(cases.trajectory(cases.CASES["answers without a call"])))
    answers = [one for one in row["messages"] if one["role"] == "tool"]
    assert [one.get("name") for one in answers] == ["price", "stock", None]
    assert ["tool_call_id" in one for one in answers] == [True, False, False]


@pytest.mark.parametrize("name", cases.CASES)
@pytest.mark.parametrize("thinks", [False, True])
def test_the_tokens_say_what_the_messages_say(name: str, thinks: bool) -> None:
    made, chat = cases.trajectory(cases.CASES[name], thinks=thinks), cases.chat(thinks)
    for turn in made.turns:
        tokens = made.segments[turn.segment].tokens_T[turn.start : turn.stop].tolist()
        read = chat.read(tokens, made.tools)
        assert read.calls == turn.calls
        assert read.stopped
        if turn.calls:
            assert turn.action.partition("<tool_call>")[0].strip() in read.content
    first = made.segments[0].tokens_T[: made.turns[0].start].tolist()
    assert first == chat.prompt(made.opening, made.tools)


def test_imported_tokens_are_marked() -> None:
    made = cases.trajectory(cases.CASES["what is not learned"])
    assert made.actors == (IMPORTED,)
    assert IMPORTED in made.versions
    assert len(made.opening) == 3
    for segment in made.segments:
        acted = segment.turn_T != CONTEXT
        assert segment.source == IMPORTED
        assert np.isnan(segment.logprob_T[acted]).all()
        assert (segment.logprob_T[~acted] == 0).all()
        assert (segment.trainable_T == (segment.turn_T == 0)).all()  # the second turn has weight 0


def test_thinking_stands_in_the_tokens_where_the_template_knows_it() -> None:
    row = {"messages": [cases.said("Cost?"), cases.acting("17", reasoning_content="Easy.")]}
    for thinks in (True, False):
        made = cases.trajectory(row, thinks=thinks)
        [turn], [segment] = made.turns, made.segments
        text = cases.chat(thinks).tokenizer.decode(segment.tokens_T[turn.start : turn.stop])
        assert "<think>\nEasy.\n</think>" in text
        assert turn.action == "17"


def test_facts_come_back(tmp_path: Path) -> None:
    facts: dict[str, Any] = {
        "env": "agentopd/Checkout-v0",
        "seed": 7,
        "split": "train",
        "tags": ["a"],
        "family": "buy",
        "success": True,
        "reward": 2.5,
    }
    more: dict[str, Any] = {
        "rewards": [0.5, 2.0],
        "stop": "turn_limit",
        "kwargs": {"items": 2},
        "options": {"row": 1},
        "advice": [None, "wait"],
    }
    made = cases.trajectory(
        cases.CASES["system and calls"], **facts, **more, privileged={"total": 17}, key="first/3/1/0"
    )
    cases.keep(tmp_path, made)
    [row] = exported(tmp_path, tmp_path / "out.jsonl", metadata=True, privileged=True)
    again = cases.trajectory(row)
    assert again == replace(made, key=again.key)
    assert [turn.reward for turn in again.turns] == [0.5, 2.0]
    assert again.outcome.total_reward == 2.5
    assert str(again.origin) == "first/3/1/0"


def test_what_the_student_was_never_shown_is_not_exported(tmp_path: Path) -> None:
    secret = "SECRET-17"
    facts: dict[str, Any] = {
        "options": {"answer": secret},
        "kwargs": {"answer": secret},
        "privileged": {"answer": secret},
        "advice": [secret, secret],
    }
    cases.keep(tmp_path / "run", cases.trajectory(cases.CASES["system and calls"], success=True, **facts))
    for name in ("openai", "sharegpt", "trl", "sft"):
        for metadata in (False, True):
            file = tmp_path / f"{name}-{metadata}.jsonl"
            export(records.open(tmp_path / "run"), file, Wish(name, metadata=metadata))
            assert secret not in file.read_text()
    export(records.open(tmp_path / "run"), tmp_path / "all.jsonl", Wish("openai", metadata=True, privileged=True))
    assert secret in (tmp_path / "all.jsonl").read_text()


MARKS = st.sampled_from(
    ["<think>", "</think>", "<tool_call>", "</tool_call>", "\n", " ", "{", "<|end|>", "<|im_end|>", "ä"]
)
TEXT = st.lists(MARKS | st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=5).map("".join)
CALLS = st.lists(
    st.builds(lambda name, text: cases.call("", name, item=text), st.sampled_from(["price", "stock"]), TEXT), max_size=3
)
TURNS = st.builds(
    lambda content, calls, reasons: cases.acting(
        content, *calls, **({"reasoning_content": reasons} if "</think>" not in reasons else {})
    ),
    TEXT,
    CALLS,
    TEXT,
)
HEARD = st.builds(cases.said, TEXT) | st.builds(
    lambda content, name: cases.answer(content, name=name), TEXT, st.sampled_from(["price", "stock", "x"])
)


@settings(max_examples=25)
@given(st.lists(st.tuples(TURNS, st.lists(HEARD, max_size=3)), min_size=1, max_size=4))
def test_any_conversation_comes_back(turns: list[tuple[dict[str, Any], list[dict[str, Any]]]]) -> None:
    messages = [cases.said("Go."), *(message for turn, heard in turns for message in (turn, *heard))]
    for message in messages:
        for number, one in enumerate(message.get("tool_calls", ())):
            one["id"] = f"{id(message)}-{number}"
    once = openai_row(talk_of(cases.trajectory({"messages": messages})))
    assert openai_row(talk_of(cases.trajectory(once))) == once
