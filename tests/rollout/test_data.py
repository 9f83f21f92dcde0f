"""Rows that become tasks: each in one split, every one once an epoch, and what is wrong with one told by its line."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd.config import load_config
from agentopd.env.splits import SEEDS_PER_SPLIT, SPLITS
from agentopd.envs import ENVS
from agentopd.errors import ConfigError
from agentopd.rollout.assignments import assign
from agentopd.rollout.data import Data, opened
from agentopd.rollout.rows import rows_of_data_set, rows_of_file
from agentopd.rollout.tasks import EnvConfig, TaskStream, pinned

COLUMNS = {"question": "q", "answer": "a"}


def rows_of(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [{"q": f"What is {i}?", "a": str(i), "id": i} for i in range(first, first + count)]


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def env_of(file: str, **more: Any) -> EnvConfig:
    return EnvConfig(id="me/Asked-v0", data=Data(file=file, **({"columns": COLUMNS} | more)))


def asked(env: EnvConfig, split: str, seed: int = 0) -> list[str]:
    count = opened(env.data).count(split) if env.data else 0
    stream = TaskStream([env], seed, split)
    return [str((stream[i].options or {})["question"]) for i in range(count)]


def test_every_row_is_in_one_split_and_played_once_an_epoch(tmp_path: Path) -> None:
    env = env_of(written(tmp_path / "rows.jsonl", rows_of(400)), test=0.2, validation=0.1, stages=0.3)
    found = {split: asked(env, split) for split in SPLITS}
    assert sorted(question for split in SPLITS for question in found[split]) == sorted(row["q"] for row in rows_of(400))
    assert {split: len(found[split]) / 400 for split in SPLITS} == pytest.approx(
        {"train": 0.4, "validation": 0.1, "evaluation": 0.2, "stages": 0.3}, abs=0.06
    )
    stream, count = TaskStream([env], 0, "train"), len(found["train"])
    second = [(stream[i].options or {})["question"] for i in range(count, 2 * count)]
    assert sorted(second) == sorted(found["train"])
    assert second != found["train"]
    assert asked(env, "train", seed=1) != found["train"]
    assert set(stream[0].options or {}) == {"question", "answer"}


def test_a_stream_is_a_pure_function_of_its_index_also_in_a_mixture(tmp_path: Path) -> None:
    envs = [env_of(written(tmp_path / "rows.jsonl", rows_of(50))), EnvConfig(id="b/B-v0", weight=2.0)]
    stream, again = TaskStream(envs, 3, "train"), TaskStream(envs, 3, "train")
    backwards = {i: stream[i] for i in reversed(range(200))}
    tasks = [again[i] for i in range(200)]
    assert tasks == [backwards[i] for i in range(200)]
    plain = TaskStream([EnvConfig(id="a/A-v0"), envs[1]], 3, "train")
    assert [task.seed for task in tasks] == [plain[i].seed for i in range(200)]  # data changes what is asked alone
    drawn = [str((task.options or {})["question"]) for task in tasks if task.env_id == "me/Asked-v0"]
    count = opened(envs[0].data).count("train") if envs[0].data else 0
    assert len(drawn) > count
    assert len(set(drawn[:count])) == count


def test_a_group_repeats_a_row(tmp_path: Path) -> None:
    stream = TaskStream([env_of(written(tmp_path / "rows.jsonl", rows_of(50)))], 0, "train")
    made = assign(stream, range(5), "fresh", {"student": 1.0}, 4, "r", 0, 0)
    assert [len({one.task.id for one in made[i : i + 4]}) for i in range(0, 20, 4)] == [1] * 5
    assert len({one.task.id for one in made}) == 5


def test_rows_that_come_and_go_move_no_other_to_another_split(tmp_path: Path) -> None:
    few = env_of(written(tmp_path / "few.jsonl", rows_of(200)))
    many = env_of(written(tmp_path / "many.jsonl", [*reversed(rows_of(300, first=100))]))
    both = {row["q"] for row in rows_of(100, first=100)}
    for split in SPLITS:
        assert both & set(asked(few, split)) == both & set(asked(many, split))


def test_held_out_files_and_columns_of_their_own_names(tmp_path: Path) -> None:
    file, test = written(tmp_path / "a.jsonl", rows_of(100)), written(tmp_path / "b.jsonl", rows_of(20, first=500))
    env = EnvConfig(id="me/Asked-v0", options={"level": 2}, data=Data(file=file, test=test, validation=0))
    tasks = [TaskStream([env], 0, "evaluation")[i].options for i in range(20)]
    assert sorted((options or {})["id"] for options in tasks) == list(range(500, 520))
    assert all(set(options or {}) == {"q", "a", "id", "level"} for options in tasks)
    assert opened(env.data).count("train") == 100 if env.data else False
    with pytest.raises(ConfigError, match=r"^env\.data\.validation=0\.0: these hold out no row; raise it"):
        TaskStream([env], 0, "validation")


def test_duplicates_are_refused_or_one_side_has_them(tmp_path: Path) -> None:
    twice = [*rows_of(60), {"q": "What is 3?", "a": "3", "id": 99}]
    file = written(tmp_path / "a.jsonl", twice)
    with pytest.raises(
        ConfigError, match=r"a\.jsonl:61 tells an environment the same as .*a\.jsonl:4 \(1 such rows in all\)"
    ):
        opened(Data(file=file, columns=COLUMNS))
    assert opened(Data(file=file)).count("train") > 0  # their ids tell them apart
    dropped = opened(Data(file=file, columns=COLUMNS, duplicates="drop", test=0, validation=0))
    assert dropped.count("train") == 60
    test = written(tmp_path / "b.jsonl", rows_of(5))
    with pytest.raises(ConfigError, match=r"a\.jsonl:1 tells an environment the same as .*b\.jsonl:1 \(5 such"):
        opened(Data(file=written(tmp_path / "a.jsonl", rows_of(60)), test=test, columns=COLUMNS))
    env = env_of(file, test=test, duplicates="drop")
    assert sorted(asked(env, "evaluation")) == sorted(row["q"] for row in rows_of(5))
    assert not set(asked(env, "evaluation")) & set(asked(env, "train") + asked(env, "validation"))


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ('{"q": "x", "a": "y"}\n\n{"q": "z"\n', {}, r"rows\.jsonl:3: not valid JSON: .* at column \d+"),
    ('{"q": "x", "a": "y"}\n["z"]\n', {}, r"rows\.jsonl:2: \['z'\] is no JSON object"),
    ('{"q": "x", "a": "y"}\n{"q": "z", "A": "y"}\n', {}, r"rows\.jsonl:2: there is no column 'a'.*there are: q, A"),
    ('{"q": "x", "a": "y"}\n{"q": "z", "a": null}\n', {}, r"rows\.jsonl:2: a has no value"),
    (
        '{"q": "x", "a": "y"}\n{"q": "z", "a": 7}\n',
        {},
        r"rows\.jsonl:2: answer is a number, and text at .*rows\.jsonl:1",
    ),
    ('{"q": "x", "a": NaN}\n', {}, r"rows\.jsonl:1: not valid JSON: .*NaN is no number"),
    ('{"q": "x", "a": 1e999}\n', {}, r"rows\.jsonl:1: answer is inf, which is no text"),
    ("\n\n", {}, r"rows\.jsonl has no rows"),
    ('{"q": "x", "a": "y"}\n', {"test": "none.jsonl"}, r"there is no file none\.jsonl in /"),
]


@pytest.mark.parametrize(("text", "more", "match"), WRONG)
def test_what_is_wrong_is_told_by_file_and_line(tmp_path: Path, text: str, more: dict[str, Any], match: str) -> None:
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"^env\.data: .*{match}"):
        TaskStream([env_of(str(tmp_path / "rows.jsonl"), **more)], 0, "train")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ({}, "env.data: give either file .* or dataset"),
        ({"file": "a.jsonl", "dataset": "b"}, "env.data: give either file"),
        ({"file": "a.jsonl", "test": 0.6, "validation": 0.5}, "hold out .* no row is left"),
        ({"file": "a.jsonl", "split": "test"}, "split are of a dataset"),
        ({"fle": "a.jsonl"}, "env.data.fle: unknown key .did you mean 'file'"),
        ({"file": "a.jsonl", "columns": {"level": "x"}}, "options.level is given, and by data.columns too"),
    ],
)
def test_wrong_settings_are_told(data: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        load_config("quickstart", [f"env={json.dumps({'id': 'x', 'options': {'level': 1}, 'data': data})}"])


def test_an_option_is_given_once(tmp_path: Path) -> None:
    data = Data(file=written(tmp_path / "rows.jsonl", rows_of(40)))
    assert TaskStream([EnvConfig(id="x", options={"level": 1}, data=data)], 0, "train")[0].options
    envs = [EnvConfig(id="x"), EnvConfig(id="x", options={"q": "mine"}, data=data)]
    with pytest.raises(
        ConfigError, match=r"^envs\.1\.options\.q is given, and by a column of the rows too; leave it out"
    ):
        TaskStream(envs, 0, "train")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("q,a,a\nx,1,2\n", r"two columns are called 'a'; its first line is to name each"),
        (",q,a\n0,x,1\n", r"column 1 has no name; its first line is to name each"),
        ("q,a\n\n", r"rows\.csv has no rows$"),
        ("q,a\nx,1,\ny,2,\n", r"its first row has 3 values, and its first line names 2 columns"),
        ("", r"rows\.csv has no rows$"),
    ],
)
def test_the_first_line_of_a_csv_file_names_each_column_once(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "rows.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=match):
        opened(Data(file=str(tmp_path / "rows.csv")))


@pytest.mark.parametrize(("rows", "line"), [("x,1\ny,\n", 2), ("x,1\nz,2\ny\n", 3), (",1\ny,2\n", 1)])
def test_an_empty_value_of_a_csv_file_is_none(tmp_path: Path, rows: str, line: int) -> None:
    (tmp_path / "rows.csv").write_text("q,a\n" + rows, encoding="utf-8")
    column = "q" if line == 1 else "a"
    with pytest.raises(ConfigError, match=rf"rows\.csv, row {line}: {column} has no value"):
        opened(Data(file=str(tmp_path / "rows.csv"), columns=COLUMNS))


def test_no_row_stands_twice_in_a_panel(tmp_path: Path) -> None:
    env = env_of(written(tmp_path / "rows.jsonl", rows_of(100)))
    stream, held = TaskStream([env], 0, "evaluation"), len(asked(env, "evaluation"))
    stream.require_once(held, "evaluation.tasks")
    with pytest.raises(
        ConfigError, match=rf"^env\.data\.test=0\.1: these hold out {held} rows, and evaluation\.tasks=200"
    ):
        stream.require_once(200, "evaluation.tasks")


def test_rows_that_changed_are_refused(tmp_path: Path) -> None:
    env = env_of(written(tmp_path / "rows.jsonl", rows_of(100)))
    (kept,) = pinned([env])
    assert kept.data is not None
    assert kept.data.fingerprint
    assert pinned([kept]) == (kept,)
    stream = TaskStream([kept], 0, "train")
    written(tmp_path / "rows.jsonl", [row | {"a": f"{row['a']}0"} for row in rows_of(100)])
    with pytest.raises(ConfigError, match=r"^env\.data: the rows of .*rows\.jsonl are others .*fingerprint"):
        pinned([kept])
    with pytest.raises(ConfigError, match=r"rows\.jsonl:\d+"):
        _ = stream[0]


def test_tables_of_other_kinds_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"q": f"What, is {i:03}?", "a": f"{i:03}"} for i in range(40)]
    table = datasets.Dataset.from_list(rows)
    table.to_parquet(str(tmp_path / "rows.parquet"))
    table.to_csv(str(tmp_path / "rows.csv"))
    datasets.DatasetDict({"train": table}).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "folder").mkdir()
    written(tmp_path / "folder" / "train.jsonl", rows)
    data = [
        Data(file=written(tmp_path / "rows.jsonl", rows), columns=COLUMNS),
        *(Data(file=str(tmp_path / name), columns=COLUMNS) for name in ("rows.parquet", "rows.csv")),
        *(Data(dataset=str(tmp_path / name), columns=COLUMNS) for name in ("saved", "folder")),
    ]
    assert len({opened(one).fingerprint for one in data}) == 1
    assert len({json.dumps(opened(one).options("train", 3)) for one in data}) == 1
    with pytest.raises(ConfigError, match=r"has no split 'tset'.*it has: train"):
        opened(Data(dataset=str(tmp_path / "saved"), test="tset"))
    with pytest.raises(ConfigError, match="row 1: there is no column 'x'"):
        opened(Data(file=str(tmp_path / "rows.parquet"), columns={"question": "x"}))
    datasets.Dataset.from_dict({"q": [b"x"], "a": ["y"]}).to_parquet(str(tmp_path / "bytes.parquet"))
    with pytest.raises(ConfigError, match=r"row 1: question is b'x', which is no text"):
        opened(Data(file=str(tmp_path / "bytes.parquet"), columns=COLUMNS))
    (tmp_path / "rows.parquet").write_bytes(b"no table")
    with pytest.raises(ConfigError, match=r"rows\.parquet cannot be read"):
        opened(Data(file=str(tmp_path / "rows.parquet")))


def test_a_saved_data_set_is_taken_by_its_split_or_a_part_of_it(tmp_path: Path) -> None:
    import datasets

    table = datasets.Dataset.from_list(rows_of(20))
    table.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": table, "test": table.select(range(3))}).save_to_disk(str(tmp_path / "two"))
    first = {name: rows_of_data_set(str(tmp_path / name), None, "train[:25%]") for name in ("one", "two")}
    assert [[row["id"] for row in rows] for rows in first.values()] == [[0, 1, 2, 3, 4]] * 2
    both = rows_of_data_set(str(tmp_path / "two"), None, "test+train[18:]")
    assert [row["id"] for row in both] == [0, 1, 2, 18, 19]
    with pytest.raises(ConfigError, match=r"one has no split 'test'; it has: train$"):
        rows_of_data_set(str(tmp_path / "one"), None, "test")


def test_a_mapping_in_a_row_has_the_keys_that_the_row_gives_it(tmp_path: Path) -> None:
    import datasets

    calls = [{"name": "find", "arguments": {"shelf": 3}}, {"name": "count", "arguments": {"item": "nut"}}]
    datasets.Dataset.from_list([{"q": "x", "calls": [one]} for one in calls]).to_parquet(str(tmp_path / "rows.parquet"))
    rows = rows_of_file(str(tmp_path / "rows.parquet"))
    assert [row["calls"] for row in rows] == [rows[i]["calls"] for i in range(2)] == [[one] for one in calls]


def test_a_file_that_grows_is_read_anew_and_one_that_stays_is_read_once(tmp_path: Path) -> None:
    file = written(tmp_path / "rows.jsonl", rows_of(30))
    first = opened(Data(file=file))
    assert opened(Data(file=file)) is first
    written(tmp_path / "rows.jsonl", rows_of(31))
    os.utime(file, ns=(1, 1))
    assert opened(Data(file=file)) is not first


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), panel=st.integers(0, 2**32 - 1), first=st.integers(0, 10**6))
def test_no_task_of_training_is_one_of_a_panel_in_any_environment(seed: int, panel: int, first: int) -> None:
    envs = [*(EnvConfig(id=id) for id in ENVS), *load_config("configs/envs/questions.yaml").envs]
    seeds: dict[str, set[int]] = {}
    questions: dict[str, set[str]] = {}
    for split in SPLITS:
        stream = TaskStream(envs, panel if split in {"validation", "evaluation"} else seed, split)
        tasks = [stream[i] for i in range(first % 1000, first % 1000 + 40)]
        assert all(task.seed // SEEDS_PER_SPLIT == SPLITS[split] for task in tasks)
        seeds[split] = {task.seed for task in tasks}
        questions[split] = {task.options["question"] for task in tasks if task.options}
    assert not any(seeds[a] & seeds[b] for a in SPLITS for b in SPLITS if a != b)
    assert not any(questions[a] & questions[b] for a in ("train", "stages") for b in ("validation", "evaluation"))
    assert not questions["validation"] & questions["evaluation"]
    assert Counter(SPLITS.values()) == Counter(range(4))
