"""Files that cannot be read: one error with the place, or counted and left out."""

import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import datasets
import pytest
import sharing_cases as cases

from agentopd import records
from agentopd.errors import RecordError
from agentopd.sharing import Wanted, Wish, export, take_in

GOOD = cases.CASES["plain"]


def marked(**facts: Any) -> dict[str, Any]:
    """A row with metadata of ours."""
    return {**GOOD, "metadata": {"agentopd": 1, **facts}}


BAD: list[tuple[Any, str]] = [
    ("{", "it is not JSON"),
    ("[1]", "it is list, and must be an object"),
    ({"text": "Hi"}, "it has the columns text, and neither messages nor prompt and completion"),
    ({"messages": "Hi"}, "messages is str, and must be a list"),
    ({"messages": ["Hi"]}, "a message is str, and must be an object"),
    ({"messages": [{"role": "robot", "content": ""}]}, "a message has the role 'robot'; it is one of system"),
    ({"messages": [cases.said([{"type": "image_url"}]), cases.acting("")]}, "only parts of the type text"),
    ({"messages": [cases.said(3), cases.acting("")]}, "a content is int, and must be text"),
    ({"messages": [cases.said("Hi")]}, "it has no message of the assistant that is to be learned from"),
    ({"messages": [cases.acting("Hi")]}, "it begins with a message of the assistant"),
    ({"messages": [cases.said("Hi"), cases.acting("", {"name": 3})]}, "a call is {'name': 3}"),
    ({"messages": [cases.said(""), cases.acting("", {"function": {"name": "a", "arguments": "{"}})]}, "the arguments of a: '{' is not JSON"),
    ({"messages": [cases.said(""), cases.acting("", {"function": {"name": "a", "arguments": "[]"}})]}, r"the arguments of a are \[\]"),
    ({"messages": [cases.said(""), cases.acting("x"), cases.answer("", "z")]}, "an answer has tool_call_id 'z', and no call before it"),
    ({"messages": [cases.said(""), cases.acting("x", weight=2)]}, "weight 2; it is 0 or 1"),
    ({"messages": [cases.said(""), cases.acting("x", reasoning_content="a </think> b")]}, "its thinking holds </think>"),
    ({**GOOD, "tools": [{"name": 1}]}, "which is no schema of a function with a name"),
    ({**GOOD, "tools": "["}, "tools: '\\[' is not JSON"),
    (marked(success="yes"), "metadata.success is 'yes', and it must be bool"),
    (marked(stop="bored"), "metadata.stop='bored'; it is one of terminated"),
    (marked(rewards=[1.0, 2.0]), "metadata.rewards has 2 entries for 1 turns"),
    (marked(key="here"), "'here' is no key"),
    (marked(seed=-1), "metadata.seed is -1, and it must be 0 or more and below"),
    (marked(seed=2**64), "metadata.seed is 18446744073709551616, and it must be"),
    (marked(tags=[1]), r"metadata.tags\[0\] is 1, and it must be str"),
    (marked(advice=[5]), r"metadata.advice\[0\] is 5, and it must be str"),
    (marked(rewards=[None]), r"metadata.rewards\[0\] is None, and it must be float"),
    ({**GOOD, "metadata": '{"agentopd": 2}'}, "metadata.agentopd is 2, and 1 is the version that can be read"),
    (marked(turn="first"), "metadata.turn is 'first', and it must be int"),
    (marked(reward=10**400), "metadata.reward is 1000000000"),
    ({**GOOD, "functions": 5}, "functions is int, and must be a list"),
    ({"chosen": [], "rejected": []}, "it is a pair of answers"),
    ({"conversations": [{"from": "alien", "value": ""}]}, "a message is from 'alien'; it is one of system, human"),
    ({"conversations": [{"value": ""}]}, "each is an object with from and value"),
    ({"conversations": [{"from": "human", "value": ""}, {"from": "function_call", "value": "x"}]}, "a function_call: 'x' is not JSON"),
]  # fmt: skip


def lines(file: Path, *rows: Any) -> str:
    text = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(text) + "\n")
    return str(file)


@pytest.mark.parametrize(("row", "said"), BAD)
def test_a_bad_line_is_one_error_with_its_place(row: Any, said: str, tmp_path: Path) -> None:
    file = lines(tmp_path / "chats.jsonl", GOOD, row, GOOD)
    with pytest.raises(
        RecordError, match=rf"^{file}, line 2: .*{said}.*\(skip_bad=True, or --skip-bad, leaves such rows out\)$"
    ):
        take_in(file, tmp_path / "run", Wanted(cases.chat()))
    assert not (tmp_path / "run" / "records").exists()
    told = take_in(file, tmp_path / "run", Wanted(cases.chat(), skip_bad=True))
    assert (told.episodes, told.skipped) == (2, 1)
    assert said.replace("\\", "") in told.reasons[0]


FOREIGN: list[Any] = [
    "of the web", "{", "[1]", [1], 5, {"key": 12}, {"seed": "a"}, {"tags": "x"}, '{"success": "yes"}', {"success": True, "seed": 7}, {}, "", None,
]  # fmt: skip


def test_metadata_of_others_is_theirs(tmp_path: Path) -> None:
    """A column of that name says nothing of an episode unless we wrote it."""
    file = lines(tmp_path / "chats.jsonl", GOOD, *({**GOOD, "metadata": one} for one in FOREIGN))
    assert take_in(file, tmp_path / "run", Wanted(cases.chat())).episodes == len(FOREIGN) + 1
    plain, *others = (record.trajectory for record in records.open(tmp_path / "run"))
    assert [replace(one, key=plain.key) for one in others] == [plain] * len(FOREIGN)


def test_metadata_of_others_in_parquet_may_be_what_json_has_not(tmp_path: Path) -> None:
    rows = [{**GOOD, "metadata": {"key": b"12", "day": date(2020, 1, 1)}}]
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "chats.parquet"))
    assert take_in(str(tmp_path / "chats.parquet"), tmp_path / "run", Wanted(cases.chat())).episodes == 1


def test_only_bad_lines_are_an_error_even_if_skipped(tmp_path: Path) -> None:
    file = lines(tmp_path / "chats.jsonl", *(row for row, _ in BAD))
    with pytest.raises(
        RecordError, match=rf"no conversation that can be read; {len(BAD)} rows are bad, the first: .*line 1"
    ):
        take_in(file, tmp_path / "run", Wanted(cases.chat(), skip_bad=True))


def test_sources_that_are_none(tmp_path: Path) -> None:
    wanted = Wanted(cases.chat())
    (tmp_path / "empty").mkdir()
    (tmp_path / "one.json").write_text('{"messages": []}')
    (tmp_path / "latin.jsonl").write_bytes(b'{"messages": "\xe9"}\n')
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    for source, said in (
        ("nowhere.jsonl", "nowhere.jsonl does not exist; give a file, a folder or hf:REPOSITORY"),
        ("empty", "holds no .jsonl, .json or .parquet file"),
        ("one.json", "a .json file is one list of objects"),
        ("latin.jsonl", "it is not UTF-8"),
        ("torn.parquet", "it is damaged, or no Parquet file"),
    ):
        with pytest.raises(RecordError, match=said):
            take_in(str(tmp_path / source), tmp_path / "run", wanted)


def test_a_bad_line_behind_many_good_ones_leaves_nothing_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentopd.sharing.taking.A_STEP", 2)
    file = lines(tmp_path / "chats.jsonl", *[GOOD] * 5, "{")
    with pytest.raises(RecordError, match="line 6: it is not JSON"):
        take_in(file, tmp_path / "runs" / "chats", Wanted(cases.chat()))
    assert [one.name for one in tmp_path.iterdir()] == ["chats.jsonl"]
    lines(tmp_path / "chats.jsonl", *[GOOD] * 6)
    assert take_in(file, tmp_path / "runs" / "chats", Wanted(cases.chat())).episodes == 6
    assert [one.name for one in (tmp_path / "runs" / "chats").iterdir()] == ["records"]


def test_what_windows_puts_before_and_behind_lines_is_no_text(tmp_path: Path) -> None:
    line = json.dumps(GOOD).encode()
    (tmp_path / "chats.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n" + line)
    (tmp_path / "chats.json").write_bytes(b"\xef\xbb\xbf[" + line + b"]")
    for name, count in (("chats.jsonl", 2), ("chats.json", 1)):
        told = take_in(str(tmp_path / name), tmp_path / f"run-{count}", Wanted(cases.chat()))
        assert (told.episodes, told.skipped) == (count, 0)


def test_half_surrogates_in_facts_are_replaced(tmp_path: Path) -> None:
    file = lines(tmp_path / "chats.jsonl", marked(split="\ud800", tags=["\udc00"], family="a\0"))
    take_in(file, tmp_path / "run", Wanted(cases.chat()))
    [made] = records.open(tmp_path / "run")
    assert (made.trajectory.task.split, made.trajectory.task.tags, made.trajectory.family) == (
        "\ufffd",
        ("\ufffd",),
        "a\0",
    )


def test_nothing_is_written_over(tmp_path: Path) -> None:
    file = lines(tmp_path / "chats.jsonl", GOOD)
    take_in(file, tmp_path / "run", Wanted(cases.chat()))
    with pytest.raises(RecordError, match="has records already"):
        take_in(file, tmp_path / "run", Wanted(cases.chat()))
    with pytest.raises(RecordError, match="exists already"):
        export(records.open(tmp_path / "run"), file, Wish("openai"))
    assert json.loads(Path(file).read_text()) == GOOD


def test_nothing_to_export_leaves_nothing(tmp_path: Path) -> None:
    cases.keep(tmp_path / "run", cases.trajectory(GOOD, success=False))
    for place in ("out.jsonl", "out.parquet", "out"):
        with pytest.raises(RecordError, match="nothing to export"):
            export(records.open(tmp_path / "run"), tmp_path / place, Wish("sft"))
    assert [one.name for one in tmp_path.iterdir()] == ["run"]


def test_wishes_that_do_not_fit_together() -> None:
    with pytest.raises(RecordError, match=r"format='csv': there are openai, sharegpt"):
        Wish("csv")
    with pytest.raises(RecordError, match="privileged=true adds to the metadata"):
        Wish("openai", privileged=True)
    with pytest.raises(RecordError, match=r"format='csv': there are auto, openai"):
        Wanted(cases.chat(), "csv")


def test_a_step_for_every_few_hundred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentopd.sharing.taking.A_STEP", 2)
    file = lines(tmp_path / "chats.jsonl", *[GOOD] * 5)
    take_in(file, tmp_path / "run", Wanted(cases.chat()))
    made = records.open(tmp_path / "run")
    assert made.steps == (0, 1, 2)
    assert [str(one.trajectory.key) for one in made] == [
        "run/0/0/0",
        "run/0/1/0",
        "run/1/0/0",
        "run/1/1/0",
        "run/2/0/0",
    ]
