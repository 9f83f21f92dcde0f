"""The pages on sweeps and comparisons say what the verbs take, and what was measured."""

import argparse
import io
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from rich.console import Console

from agentopd.cli import compare as comparing_verb
from agentopd.cli import sweep as sweeping_verb
from agentopd.sweeps import running, showing, whole
from agentopd.sweeps.arms import grid, listed
from agentopd.sweeps.budget import read
from agentopd.sweeps.plan import planned
from agentopd.sweeps.running import Job
from benchmarks.comparing import EFFECTS, RESULTS
from benchmarks.measured import kept

DOCS = Path(__file__).parents[2] / "docs"
SWEEPS, COMPARING = ((DOCS / name).read_text(encoding="utf-8") for name in ("sweeps.md", "comparing.md"))
EFFECT_OF = {"chance alone": "chance alone", "seeds": "seeds differ", "tasks": "tasks differ"} | {
    "seeds, tasks and pairs": "all differ"
}


def commands(verb: Any, text: str) -> list[argparse.Namespace]:
    """Those of a page or a docstring, as the verb reads them."""
    parser = argparse.ArgumentParser()
    verb.configure(parser)
    name = verb.__name__.rpartition(".")[2]
    lines = re.findall(rf"^ *agentopd {name} (.*?)(?: +#.*)?$", text, re.MULTILINE)
    return [parser.parse_intermixed_args(shlex.split(line)) for line in lines]


def test_every_sweep_of_the_page_and_of_the_help_may_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "arms.yaml"
    file.write_text(re.findall(r"```yaml\n(.*?)```", SWEEPS, re.DOTALL)[0])
    found = commands(sweeping_verb, SWEEPS) + commands(sweeping_verb, sweeping_verb.__doc__ or "")
    assert len(found) == 7
    for one in found:
        arms, fixed = grid(one.overrides) if one.arms is None else (listed(file), one.overrides)
        budget = None if one.budget is None else read(one.budget)
        assert planned(one.config, fixed, arms, one.seeds, budget, one.also).arms
    budgets = re.findall(r"`--budget (\w+=[\w.]+)`", SWEEPS)
    assert [read(text).unit for text in budgets] == ["episodes", "tokens", "seconds"]
    assert len(commands(comparing_verb, COMPARING) + commands(comparing_verb, comparing_verb.__doc__ or "")) == 8


def test_the_search_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(running, "CHILD", (sys.executable, str(Path(__file__).with_name("stand_in.py"))))
    monkeypatch.setattr(running, "LOOK", 0.01)
    monkeypatch.setattr(whole, "check", lambda config, folder: None)
    monkeypatch.chdir(tmp_path)
    [snippet] = re.findall(r"```python\n(.*?)```", SWEEPS, re.DOTALL)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    exec(compile(snippet.replace("n_trials=20", "n_trials=2"), "sweeps.md", "exec"), {})
    assert capsys.readouterr().out.startswith("{'rate': 0.00")
    assert len(yaml.safe_load((tmp_path / "runs/search/sweep.json").read_text())["arms"]) == 2


def test_the_rates_of_the_page_are_those_that_were_measured() -> None:
    results = kept(RESULTS)
    rows = re.findall(r"^\| ([a-z, ]+) \| (\d), (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", COMPARING, re.MULTILINE)
    assert len(rows) == 8
    for name, seeds, tasks, *told in rows:
        one = results[f"{EFFECT_OF[name]}/{seeds}/{tasks}"]
        rates = [100 * one[way] / one["comparisons"] for way in ("shipped", "pigeonhole", "over_seeds")]
        assert told == [f"{rate:.1f}" for rate in rates]
    nulls = [one for key, one in results.items() if key.partition("/")[0] in EFFECTS]
    assert sum(one["shipped"] for one in nulls) <= 0.05 * sum(one["comparisons"] for one in nulls)
    powers = [100 * one["shipped"] / one["comparisons"] for one in results.values() if "effect" in one]
    assert f"{min(powers):.0f} to {max(powers):.0f} of 100 were found" in COMPARING


def test_a_terminal_has_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(force_terminal=True, width=80, record=True, file=io.StringIO())
    monkeypatch.setattr(showing, "console", console)
    jobs = [Job(tmp_path, "fast", 0, "running"), Job(tmp_path, "fast", 1), Job(tmp_path, "slow", 0, "failed")]
    with showing.shown(jobs, {"fast": 9, "slow": 9}) as show:
        show()
    told = console.export_text()
    assert re.search(r"arm +│ seed 0 +│ seed 1|arm +┃ seed 0 +┃ seed 1", told)
    assert re.search(r"fast +│ 0/9 +│ waiting", told)
    assert re.search(r"slow +│ failed +│", told)
