"""The formats of others: what their own programs read."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import sharing_cases as cases
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from agentopd import records
from agentopd.errors import RecordError
from agentopd.models import NewModel, new_model
from agentopd.sharing import Wanted, Wish, export, files, push, take_in
from agentopd.sharing.formats import sharegpt_row
from agentopd.sharing.reading import read_any
from agentopd.sharing.talk import talk_of
from agentopd.types import Trajectory

SMALL = NewModel(hidden_size=16, layers=1, heads=2, intermediate_size=24, max_positions=1024, vocab_size=420)
WON = cases.CASES["system and calls"]
LOST = {**WON, "messages": [*WON["messages"][:2], cases.acting("Who knows?")]}


def episodes() -> list[Trajectory]:
    """Two of one task, a success and a failure, and one of another."""
    won = cases.trajectory(WON, 0, success=True)
    return [
        won,
        cases.trajectory(LOST, 1, success=False),
        cases.trajectory(cases.CASES["parallel calls"], 2, success=True),
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.keep(tmp_path_factory.mktemp("run"), *episodes())


def loaded(run: Path, name: str, folder: Path, **wish: Any) -> datasets.Dataset:
    export(records.open(run), folder / name, Wish(name, **wish))
    return datasets.load_from_disk(str(folder / name))


def test_sharegpt_as_llama_factory_reads_it() -> None:
    row = sharegpt_row(talk_of(episodes()[0]))
    assert row["system"] == "Be brief."
    assert row["conversations"] == [
        {"from": "human", "value": "Cost?"},
        {
            "from": "gpt",
            "value": 'I look.\n<tool_call>\n{"name": "price", "arguments": {"item": "pear"}}\n</tool_call>',
        },
        {"from": "observation", "value": "17"},
        {"from": "gpt", "value": "17"},
    ]
    assert json.loads(row["tools"]) == [tool["function"] for tool in cases.TOOLS]


@pytest.mark.parametrize("name", cases.CASES)
def test_sharegpt_alternates(name: str) -> None:
    said = [one["from"] for one in sharegpt_row(talk_of(cases.trajectory(cases.CASES[name])))["conversations"]]
    assert len(said) % 2 == 0
    assert set(said[::2]) <= {"human", "observation"}
    assert set(said[1::2]) <= {"gpt", "function_call"}


def test_sharegpt_calls_come_back_as_calls() -> None:
    row = {
        "messages": [
            cases.said("Go."),
            cases.acting("", cases.call("a", "price", item="<b>"), cases.call("b", "stock"), reasoning_content="Hm."),
            cases.answer("1", "a"),
            cases.answer("2", "b"),
            cases.acting("So."),
        ]
    }
    made = cases.trajectory(row)
    shared = sharegpt_row(talk_of(made))
    call, heard = shared["conversations"][1:3]
    assert call["from"] == "function_call"
    assert call["value"].startswith("<think>\nHm.\n</think>\n\n[{")
    assert heard == {"from": "observation", "value": "1\n2"}
    again = cases.trajectory(shared)
    assert [turn.calls for turn in again.turns] == [turn.calls for turn in made.turns]
    assert [turn.text for turn in again.turns] == [turn.text for turn in made.turns]


def rows_of(trainer: Any) -> list[dict[str, Any]]:
    """What the trainer made of its data set."""
    return list(trainer.train_dataset)


def test_trl_prepares_turns_as_the_tokens_of_their_episodes(run: Path, tmp_path: Path) -> None:
    data, tokenizer = loaded(run, "sft", tmp_path), cases.chat().tokenizer
    args = SFTConfig(output_dir=str(tmp_path / "out"), report_to=[], use_cpu=True, max_length=None)
    trainer = SFTTrainer(new_model(SMALL, tokenizer, 0), args, train_dataset=data, processing_class=tokenizer)
    prepared = [(row["input_ids"], row["labels"]) for row in rows_of(trainer)]
    good = [(one, turn) for one in (episodes()[0], episodes()[2]) for turn in one.turns]
    assert len(prepared) == len(good) == 4
    for (ids, labels), (one, turn) in zip(prepared, good, strict=True):
        assert ids == one.segments[turn.segment].tokens_T[: turn.stop].tolist()
        assert labels == [-100] * turn.start + ids[turn.start :]


def test_trl_prepares_whole_conversations(run: Path, tmp_path: Path) -> None:
    data, tokenizer = loaded(run, "trl", tmp_path), cases.chat().tokenizer
    args = SFTConfig(
        output_dir=str(tmp_path / "out"), report_to=[], use_cpu=True, max_length=None, assistant_only_loss=True
    )
    trainer = SFTTrainer(new_model(SMALL, tokenizer, 0), args, train_dataset=data, processing_class=tokenizer)
    for row, one in zip(rows_of(trainer), episodes(), strict=True):
        [segment] = one.segments
        assert row["input_ids"] == segment.tokens_T.tolist()
        assert row["labels"] == np.where(segment.turn_T >= 0, segment.tokens_T, -100).tolist()


def test_trl_prepares_pairs(run: Path, tmp_path: Path) -> None:
    data, tokenizer = loaded(run, "preference", tmp_path), cases.chat().tokenizer
    args = DPOConfig(output_dir=str(tmp_path / "out"), report_to=[], use_cpu=True, max_length=None)
    model, reference = (new_model(SMALL, tokenizer, 0) for _ in range(2))
    trainer = DPOTrainer(model, reference, args=args, train_dataset=data, processing_class=tokenizer)
    [row], (won, lost, _) = rows_of(trainer), episodes()
    start = won.turns[0].start
    assert row["prompt_ids"] == won.segments[0].tokens_T[:start].tolist()
    assert row["chosen_ids"] == won.segments[0].tokens_T[start:].tolist()
    assert row["rejected_ids"] == lost.segments[0].tokens_T[start:].tolist()


@pytest.mark.parametrize("name", ["openai", "sharegpt", "trl"])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ""])
def test_every_form_of_a_file_is_read_back(name: str, suffix: str, run: Path, tmp_path: Path) -> None:
    place = tmp_path / f"out{suffix}"
    export(records.open(run), place, Wish(name, metadata=True))
    told = take_in(str(place), tmp_path / "again", Wanted(cases.chat(), name))
    assert told.episodes == 3
    for one, two in zip(records.open(run), records.open(tmp_path / "again"), strict=True):
        assert [turn.calls for turn in two.trajectory.turns] == [turn.calls for turn in one.trajectory.turns]
        assert two.trajectory.tools == one.trajectory.tools
        assert two.trajectory.outcome == one.trajectory.outcome
        if name != "sharegpt":  # which joins answers
            assert two.trajectory.segments == one.trajectory.segments
    assert "".join(sorted(file.name for file in tmp_path.iterdir())) == f"againout{suffix}"


def test_a_folder_of_parquet_files_is_loaded_by_datasets(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    export(records.open(run), folder / "part.parquet", Wish("trl"))
    data = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    call = data[0]["messages"][2]["tool_calls"][0]["function"]
    assert call == {"name": "price", "arguments": {"item": "pear"}}
    assert take_in(str(folder), tmp_path / "again", Wanted(cases.chat())).episodes == 3


def test_push_gives_the_hub_the_data_set(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub itself is not reached: what would be sent is written to the disk instead."""
    sent: list[Any] = []

    def push_to_hub(self: datasets.Dataset, repo_id: str, private: bool) -> None:
        sent.append((repo_id, private))
        self.save_to_disk(str(tmp_path / "sent"))

    monkeypatch.setattr(datasets.Dataset, "push_to_hub", push_to_hub)
    assert push(records.open(run), "me/first", Wish("trl")).rows == 3
    assert sent == [("me/first", True)]
    assert datasets.load_from_disk(str(tmp_path / "sent")).to_list() == loaded(run, "trl", tmp_path).to_list()


def test_import_from_the_hub_streams_the_split(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above: ``load_dataset`` gets the name and the split, and a folder's rows stand for the hub's."""
    data = loaded(run, "trl", tmp_path)

    def load_dataset(name: str, split: str, streaming: bool) -> Any:
        assert (name, split, streaming) == ("me/first", "test", True)
        return data.to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert take_in("hf:me/first@test", tmp_path / "again", Wanted(cases.chat())).episodes == 3


def test_a_hub_that_refuses_is_one_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def push_to_hub(self: datasets.Dataset, repo_id: str, private: bool) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets.Dataset, "push_to_hub", push_to_hub)
    with pytest.raises(RecordError, match=r"^hf:me/first: ConnectionError: no route to host; log in by hf auth login"):
        push(records.open(run), "me/first", Wish("trl"))


def test_many_rows_are_never_in_memory_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "AT_ONCE", 2)
    cases.keep(tmp_path / "run", *(cases.trajectory(cases.CASES["plain"], index) for index in range(5)))
    assert export(records.open(tmp_path / "run"), tmp_path / "out.parquet", Wish("trl")).rows == 5
    assert len(datasets.Dataset.from_parquet(str(tmp_path / "out.parquet"), cache_dir=str(tmp_path / "cache"))) == 5


def test_calls_that_share_an_id_are_answered_in_their_order() -> None:
    calls = cases.call("a", "price", item="pear"), cases.call("a", "stock", item="kiwi")
    said = [
        cases.said("?"),
        cases.acting("", *calls),
        cases.answer("17", "a"),
        cases.answer("2", "a"),
        cases.acting("So."),
    ]
    read = read_any({"messages": said})
    assert [(one["name"], one["content"]) for one in read.messages if one["role"] == "tool"] == [
        ("price", "17"),
        ("stock", "2"),
    ]
