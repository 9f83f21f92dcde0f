"""The viewer's page as a file: what its data holds, that nothing in it can act, and what is said where something is missing."""

import base64
import gzip
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from view_cases import HUGE, SCRIPT, TEMPLATE, TURNED, hostile, record, toy, write_run

import agentopd
from agentopd.__main__ import main
from agentopd.errors import ConfigError, RecordError
from agentopd.filters import Filter
from agentopd.viewer import bundle, view, write_view
from agentopd.viewer.columns import CONTEXTUAL
from agentopd.viewer.sources import opened

DOCS = Path(__file__).parents[2] / "docs" / "viewer.md"
BLOCK = re.compile(r'<script type="application/octet-stream" id="([\w-]+)">([A-Za-z0-9+/=]*)</script>')


def data(page: Path) -> dict[str, Any]:
    """The blocks of a page, by their ids."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return {name: json.loads(gzip.decompress(base64.b64decode(packed))) for name, packed in found}


def trajectories(page: Path) -> list[dict[str, Any]]:
    blocks = data(page)
    columns = blocks["index"]["columns"]
    return [blocks[f"block-{block}"][place] for block, place in zip(columns["block"], columns["place"], strict=True)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy(tmp_path_factory.mktemp("runs") / "first")


def test_the_list_has_a_value_of_each_column_for_each_trajectory(run: Path) -> None:
    page = write_view(opened([run]))
    assert page == run / "view.html"
    index = data(page)["index"]
    columns = index["columns"]
    assert {len(column) for column in columns.values()} == {16}
    assert columns["key"][:2] == ["toy/0/0/0", "toy/0/1/0"]
    assert columns["outcome"][:8] == ["no success", "success", "success", "no success", "success", "success", "failed", "no success"]  # fmt: skip
    assert columns["reward"][:2] == [0, 1]
    assert columns["errors"][0] == 1
    assert columns["error"][6] == "timeout"
    assert columns["version"][:8] == [7] * 7 + [None]
    assert columns["title"][2] == "What do 2 pears cost in step 0?"
    assert index["measures"]["kl"]["label"] == "divergence"
    assert index["measures"]["uncertainty"]["about"].startswith("teacher_entropy/teacher: ")
    assert columns["kl"][0] == pytest.approx(1.0)
    assert columns["kl"][7] is None


def test_a_trajectory_has_every_token_with_its_numbers(run: Path) -> None:
    key = "toy/1/1/0"
    one = next(one for one in trajectories(write_view(opened([run]))) if one["key"] == key)
    held = agentopd.records.open(run)
    tokens = held.tokens(key)
    drawn = [i for i, flag in enumerate(one["tokens"]["flag"]) if flag != CONTEXTUAL]
    assert np.array(one["tokens"]["id"])[drawn].tolist() == tokens["token"].tolist()
    for name in ("behaviour_logprob", "teacher_logprob/elder", "loss/divergence", "current_logprob"):
        shown = np.array(one["signals"][name], float)
        assert shown[drawn] == pytest.approx(tokens[name], rel=1e-3), name
        assert np.isnan(shown[[i for i in range(len(shown)) if i not in drawn]]).all()
    ratio = np.array(one["signals"]["log_ratio/elder"], float)[drawn]
    assert ratio == pytest.approx(tokens["teacher_logprob/elder"] - tokens["current_logprob"], abs=1e-3)
    turn = one["turns"][1]
    assert "".join(one["tokens"]["text"][slice(*turn["tokens"])]) == turn["text"] == "add them"
    assert list(one["tokens"]["flag"][slice(*turn["tokens"])]) == [CONTEXTUAL] + [0] * 7


def test_the_likeliest_tokens_stand_in_order_with_the_mass_of_the_rest(run: Path) -> None:
    one = trajectories(write_view(opened([run])))[1]
    student, teacher, elder = one["tops"]
    assert [top["title"] for top in one["tops"]] == ["student", "teacher", "elder"]
    assert np.exp(teacher["logprobs"][:4]) == pytest.approx([0.5, 0.3, 0.1, 0.05], rel=1e-3)
    assert np.exp(elder["logprobs"][:4]) == pytest.approx([0.6, 0.2, 0.1, 0.05], rel=1e-3)
    assert teacher["ids"][1] == one["tokens"]["id"][teacher["rows"][0]]
    assert np.exp(teacher["tails"][0]) == pytest.approx(0.05, rel=1e-3)
    assert np.exp(student["tails"][0]) == pytest.approx(0.2, rel=1e-3)
    taken = chr(one["tokens"]["text"][teacher["rows"][0]].encode()[0])
    assert one["vocabulary"][str(teacher["ids"][1])] == taken


def test_signals_are_described_with_a_scale(run: Path) -> None:
    signals = {one["name"]: one for one in data(write_view(opened([run])))["index"]["signals"]}
    assert next(iter(signals)) == "loss/divergence"
    assert signals["loss/divergence"]["kind"] == "positive"
    assert signals["loss/divergence"]["scale"] == pytest.approx(1.9, abs=0.1)
    assert signals["log_ratio/teacher"]["kind"] == "negative"
    assert signals["teacher_entropy/elder"]["label"] == "entropy · elder"


def test_records_are_chosen(run: Path, tmp_path: Path) -> None:
    page = write_view(opened([run], Filter(success=False, failed=None)), tmp_path / "some.html")
    assert set(data(page)["index"]["columns"]["outcome"]) == {"no success"}
    one = trajectories(write_view(opened([run], teachers=["elder"]), tmp_path / "one.html"))[0]
    assert set(one["turns"][0]["teachers"]) == {"elder"}
    assert not [name for name in one["signals"] if name.endswith("/teacher")]
    with pytest.raises(ConfigError, match=r"--teacher nobody: it annotated nothing in .*elder, teacher"):
        opened([run], teachers=["nobody"])


def test_two_runs_stand_in_one_list(run: Path, tmp_path: Path) -> None:
    other = toy(tmp_path / "first")
    index = data(write_view(opened([run, other]), tmp_path / "both.html"))["index"]
    assert len(set(index["sources"])) == 2
    assert [index["columns"]["from"].count(name) for name in index["sources"]] == [16, 16]


def test_hostile_text_is_nowhere_in_the_page(tmp_path: Path) -> None:
    page = write_view(opened([hostile(tmp_path / f"run{SCRIPT[:8]}")]))
    text = page.read_text(encoding="utf-8")
    for bad in (SCRIPT, "window.harmed", TURNED, TEMPLATE, HUGE[:100], "<script>window"):
        assert bad not in text
    assert text.isascii() or "\u202e" not in text
    one = trajectories(page)[0]
    assert [turn["text"] for turn in one["turns"]] == [SCRIPT, TURNED, TEMPLATE]
    assert one["turns"][0]["observations"][0]["content"] == HUGE
    assert trajectories(page)[1]["failure"]["message"] == f"{SCRIPT} \ud800"


def test_the_policy_of_the_page_lets_nothing_out_and_names_its_own_program(run: Path) -> None:
    text = write_view(opened([run])).read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    said = policy[1].replace("&#x27;", "'")
    assert "default-src 'none'" in said
    assert "connect-src 'none'" in said
    for tag in ("script", "style"):
        inside = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert inside is not None
        digest = base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in said
    assert not re.search(r"https?://", text.partition("<script type")[0])


def test_the_program_puts_nothing_into_the_page_as_markup() -> None:
    for bad in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "srcdoc"):
        assert bad not in bundle.program()
    assert "import " not in re.sub(r"//.*", "", bundle.program())


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    bare = write_run(tmp_path / "bare", [[record()]], signals=False, tokenizer=False)
    page = write_view(opened([bare]))
    assert data(page)["index"]["notes"] == [
        "No tokenizer lies in the run folder, so tokens are shown as numbers.",
        "No signals were recorded, so tokens have only what sampling and annotations tell.",
    ]
    assert trajectories(page)[0]["tokens"]["text"] is None
    shutil.copytree(tmp_path / "bare" / "records", tmp_path / "alone" / "records")
    with pytest.raises(ConfigError, match=r"no tokenizer\.json in it"):
        opened([tmp_path / "alone"], tokenizer=tmp_path)


def test_a_page_too_large_for_a_browser_is_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "LIMIT", 1000)
    with pytest.raises(
        RecordError, match="more than a browser opens in one file: add --serve, or choose some by --where"
    ):
        write_view(opened([run]), tmp_path / "large.html")
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_the_page(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "failures.html"
    assert main(["view", str(run), "--where", "success=false", "turns.least=1", "--output", str(output)]) == 0
    assert capsys.readouterr().out.strip() == str(output)
    assert set(data(output)["index"]["columns"]["outcome"]) == {"no success"}


def test_the_commands_of_the_page_of_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        toy(tmp_path / "runs" / name, run=name)
    blocks = re.findall(r"```bash\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    commands = [line.partition("#")[0].split() for block in blocks for line in block.splitlines()]
    for command in (one for one in commands if "--serve" not in one):
        assert command[:2] == ["agentopd", "view"]
        assert main(command[1:]) == 0, command
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.html")}
    assert written == {"runs/first/view.html", "failures.html", "both.html"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["--where", "sucess=false"],
            "--where sucess=false failed=null: sucess: unknown key (did you mean 'success'?)",
        ),
        (["--where", "turns.least=9", "--port", "1"], "--port: there is a port only with --serve"),
        (["--serve", "--output", "x.html"], "--output: with --serve nothing is written"),
        (["--output", "/nowhere/x.html"], "/nowhere/x.html is in no folder that exists; choose a file"),
        (["--output", "."], "--output: . is a folder; choose a file"),
        (["--teacher", "nobody"], "--teacher nobody: it annotated nothing"),
    ],
)
def test_the_command_says_what_is_wrong(
    run: Path, given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["view", str(run), *given]) == 2
    assert said in capsys.readouterr().err
