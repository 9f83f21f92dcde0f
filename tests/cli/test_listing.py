"""``agentopd methods``: what each recipe has in its parts, as tables, as JSON and as a file that is read back the same."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from agentopd.__main__ import main
from agentopd.cli import listing
from agentopd.cli.listing import COLUMNS, JOIN, Method
from agentopd.config.shipped import is_experimental, load_recipe, recipes
from agentopd.objective.term import TERM_PARTS

AXES = ("signal", "access", "granularity")


@pytest.fixture(scope="module")
def methods() -> list[Method]:
    return Method.shipped()


def _shown(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["methods", *argv]) == 0
    return capsys.readouterr().out


def test_piped_every_method_has_every_column(capsys: pytest.CaptureFixture[str]) -> None:
    listed, cells = (part.splitlines() for part in _shown(capsys).split("\n\n"))
    head, *lines = [line.split("\t") for line in listed]
    assert tuple(head) == COLUMNS
    assert [fields[0] for fields in lines] == recipes()
    assert {len(fields) for fields in lines} == {len(COLUMNS)}
    assert all(all(fields) for fields in lines)
    for fields in lines:
        told = dict(zip(head, fields, strict=True))
        recipe = load_recipe(told["method"])
        assert told["title"] == recipe["title"]
        assert told["paper"] == recipe.get("paper", "-")
        assert [told[axis] for axis in AXES] == [", ".join(recipe["axes"][axis]) for axis in AXES]
        assert (told["standing"] == f"needs {recipe.get('needs')}") == ("needs" in recipe)
        assert (told["standing"] == "experimental") == is_experimental(told["method"])
        assert (told["teachers"] == "-") == ("teachers" not in recipe)
        assert {told[part].count(JOIN) + 1 for part in ("terms", *TERM_PARTS)} == {len(recipe.get("terms", [1]))}
    head, *lines = [line.split("\t") for line in cells]
    assert head == [*AXES, "methods"]
    assert len(lines) == 3 * 3 * 4
    found = {(*cell[:3],): cell[3] for cell in lines}
    assert "gkd" in found["logits", "white-box", "token"].split(", ")
    assert found["logits", "teacher-free", "token"] == "-"


def test_all_that_is_not_experimental_runs(methods: list[Method]) -> None:
    """That each does is shown by ``test_every_recipe_moves_the_student``, two steps of each that needs nothing."""
    standing = Counter("experimental" if is_experimental(one.name) else one.standing for one in methods)
    assert standing.keys() == {"runs", "experimental"}
    assert standing["runs"] > 40


def test_what_a_recipe_leaves_out_is_said(methods: list[Method]) -> None:
    told = {one.name: dict(zip(COLUMNS, listing.fields(one), strict=True)) for one in methods}
    default = told["agentopd"]
    assert [default[part] for part in ("target", "support", "divergence", "estimator", "weight")] == [
        "distribution", "full", "forward_kl", "analytic", "-",
    ]  # fmt: skip
    assert told["kdrl"]["terms"] == "reward + teacher"
    assert told["kdrl"]["target"] == "reward + distribution"
    assert told["kdrl"]["divergence"] == "- + reverse_kl"
    assert told["kdrl"]["weight"] == "- + -"
    assert told["kdrl"]["coefficient"] == "1.0 + linear start=0.005 end=0.001"
    assert told["sod"]["coupling"] == "advantage_sum weighted=distillation"
    assert told["opid"]["teachers"] == "shown: {kind: self, every: 1, hint: '{facts}'}"


@pytest.mark.parametrize("width", [150, 80, 60])
def test_a_terminal_gets_what_fits_its_width(
    width: int, methods: list[Method], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    shown = re.sub(r"\x1b\[[0-9;]*m", "", _shown(capsys))
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    cells = [cell for row in (*listing.rows(methods), *listing.grid(methods)) for cell in row]
    assert Counter(filter(str.isalnum, "".join(cells))) <= Counter(filter(str.isalnum, shown))
    assert "reopold *" in shown
    if width == 150:
        assert re.search(r"kdrl +KDRL: .* reward: -, reward, score_function", shown)
        assert "teacher: reverse_kl, distribution, k2" in shown
        assert re.search(r"self-play +│ - +│ - +│ - +│ - ", shown)


@pytest.mark.parametrize("name", recipes())
def test_what_is_printed_is_the_same_method(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed, recipe = _shown(capsys, name), load_recipe(name)
    assert all(f"# {line}\n" in printed for line in recipe.get("formula", "").splitlines())
    path = tmp_path / "mine.yaml"
    path.write_text(printed)
    mine, shipped = Method.load(str(path)), Method.load(name)
    assert mine.teachers == shipped.teachers
    assert mine.needs == shipped.needs
    names = shipped.objective.names  # the one term of a method needs no name
    named = tuple(
        term.model_copy(update={"name": one}) for term, one in zip(shipped.objective.terms, names, strict=True)
    )
    assert mine.objective == shipped.objective.model_copy(update={"terms": named})
    assert json.loads(_shown(capsys, name, "--json")) == yaml.safe_load(printed)
    for term in yaml.safe_load(printed)["terms"]:
        assert {"kind"} <= term["target"].keys() & term["support"].keys() & term["divergence"].keys()


def test_one_method_says_whose_word_it_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert "# It reads what these teachers of the configuration say: teacher.\n" in _shown(capsys, "sod")
    assert "# It reads" not in _shown(capsys, "opid")


def test_every_method_as_json(methods: list[Method], capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(_shown(capsys, "--json"))
    assert [one["method"] for one in told] == recipes()
    assert told[0]["terms"][0]["divergence"]["kind"] == "alpha_beta"


def test_a_wrong_file_is_said_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("divergence: forward_lk")
    assert main(["methods", str(path)]) == 2
    assert "mine.yaml: terms.0.divergence: no divergence is called 'forward_lk'" in capsys.readouterr().err


def test_who_reads_may_stop_reading() -> None:
    command = f"{sys.executable} -m agentopd methods | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("method\tstanding\t")
    assert done.stderr == ""


def test_a_method_that_needs_something_is_marked(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**load_recipe("grpo"), "needs": "a dog"}))
    [(name, *_)] = listing.rows([Method.load(str(path))])
    assert name.endswith(" !")
