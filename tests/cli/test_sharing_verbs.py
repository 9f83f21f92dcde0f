"""``export``, ``import`` and ``stats``, run as a person runs them."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from agentopd import cli, records
from agentopd.__main__ import main
from agentopd.chat import Chat
from agentopd.chat.tokenizer import build_tokenizer
from agentopd.sharing.formats import FORMATS
from agentopd.sharing.reading import READERS

PAGE = (Path(__file__).parents[2] / "docs" / "records.md").read_text(encoding="utf-8")
CALL = {"id": "a", "type": "function", "function": {"name": "price", "arguments": '{"item": "pear"}'}}
CHAT = {
    "messages": [
        {"role": "user", "content": "Cost?"}, {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "a", "name": "price", "content": "17"}, {"role": "assistant", "content": "17"},
    ]
}  # fmt: skip


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder with a tokenizer, a file of chats, and what was imported of it as ``runs/chats``."""
    monkeypatch.chdir(tmp_path)
    build_tokenizer(["price item pear cost"], 420).save_pretrained(tmp_path / "model")
    (tmp_path / "chats.jsonl").write_text((json.dumps(CHAT) + "\n") * 2 + "{\n")
    argv = ["import", "chats.jsonl", "--model", "model", "--success", "--skip-bad", "--output", "runs/chats"]
    told = ran(capsys, *argv)
    assert {name: told[name] for name in ("output", "episodes", "turns", "skipped")} == {
        "output": "runs/chats", "episodes": 2, "turns": 4, "skipped": 1,
    }  # fmt: skip
    return tmp_path


def ran(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main(argv) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def failed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that a mistake leaves on stderr."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    [line] = captured.err.splitlines()
    assert captured.out == ""
    return line


def test_what_was_imported_is_exported_again(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ran(capsys, "export", "runs/chats", "--format", "openai")
    assert told == {"output": "chats-openai.jsonl", "rows": 2, "episodes": 2, "again": 0, "unpaired": 0}
    rows = [json.loads(line) for line in Path("chats-openai.jsonl").read_text().splitlines()]
    assert [message["content"] for message in rows[0]["messages"]] == ["Cost?", "", "17", "17"]
    assert rows[0] == rows[1]
    told = ran(
        capsys, "export", "runs/chats", "--format", "sft", "--where", "turns.least=2", "--output", "sft", "success=true"
    )
    assert told["rows"] == 4
    assert (workplace / "sft" / "dataset_info.json").exists()


def test_stats_are_tables_or_json(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ran(capsys, "stats", "runs/chats", "--json", "--by", "env")
    assert told["all"]["episodes"] == told["groups"]["imported"]["episodes"] == 2
    assert told["all"]["calls_per_turn"] == 0.5
    assert main(["stats", "runs/chats"]) == 0
    shown = capsys.readouterr().out
    assert "success\t100.0% [34.2, 100.0]" in shown
    assert "not told:\n- agreement of tool calls: " in shown


def test_import_with_the_chat_of_a_configuration(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["chats.jsonl", "--skip-bad", "--output", "runs/other", "--env", "mine/Chat-v0"]
    config = ["--config", "quickstart", "student={model: model}"]
    assert ran(capsys, "import", *given, *config)["episodes"] == 2
    one, two = (next(iter(records.open(f"runs/{name}"))).trajectory for name in ("chats", "other"))
    assert one.segments == two.segments
    assert two.task.env_id == "mine/Chat-v0"
    assert (
        Chat(build_tokenizer(["price item pear cost"], 420)).prompt(one.opening)
        == one.segments[0].tokens_T[: one.turns[0].start].tolist()
    )


def test_mistakes_are_one_line(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = ["export", "runs/chats", "--format", "openai"]
    take = ["import", "chats.jsonl", "--output", "runs/new"]
    for argv, said in (
        (
            [*export, "--where", "sucess=true"],
            "ConfigError: --where sucess=true: sucess: unknown key (did you mean 'success'?)",
        ),
        (
            [*export, "--where", "reward.least=2", "reward.most=1"],
            "--where reward.least=2 reward.most=1: reward: least 2 is above most 1",
        ),
        ([*export, "--where", "success=false"], "RecordError: nothing to export"),
        ([*export, "--output", "chats.jsonl"], "chats.jsonl exists already"),
        ([*export, "--push", "me/x", "--output", "y"], "--push me/x: it goes to the hub, and --output says a file"),
        ([*export, "--public"], "--public: it concerns the hub"),
        (["export", "nowhere", "--format", "openai"], "nowhere does not exist"),
        ([*take, "--model", "model"], "chats.jsonl, line 3: it is not JSON"),
        (
            [*take, "--model", "model", "rollout.top_p=1"],
            "rollout.top_p=1: settings change a configuration; give --config instead",
        ),
        ([*take, "--model", "nowhere/at/all"], "nowhere/at/all"),
        (["stats", "runs/chats", "--where", "env=other"], "none of its 2 records is meant"),
        (
            ["stats", "runs/chats", "--teacher", "judge"],
            "teacher='judge' annotated none of these records; those who did: nobody",
        ),
    ):
        assert said in failed(capsys, *argv), argv
    assert not (workplace / "runs" / "new" / "records").exists()


def test_the_formats_are_those_of_the_page_and_of_the_verbs() -> None:
    part = PAGE.partition("## Export and import")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([a-z]+)` \|", part, re.MULTILINE)[: len(FORMATS)] == list(FORMATS)
    for verb, formats in (("export", FORMATS), ("import", READERS)):
        with pytest.raises(SystemExit):
            main([verb, "--format", "csv"])
        assert formats.keys() <= set(re.findall(r"\w+", options(verb)))


def options(verb: str) -> str:
    import argparse

    parser = argparse.ArgumentParser()
    cli.VERBS[verb].configure(parser)
    return parser.format_help()


def test_the_commands_of_the_page_are_understood() -> None:
    import argparse

    commands = re.findall(r"^agentopd (export|import|stats) (.*?)(?: +#.*)?$", PAGE, re.MULTILINE)
    assert {verb for verb, _ in commands} == {"export", "import", "stats"}
    for verb, rest in commands:
        parser = argparse.ArgumentParser()
        cli.VERBS[verb].configure(parser)
        parser.parse_args(shlex.split(rest))
