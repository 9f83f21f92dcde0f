"""`agentopd scaling`, on folders of runs whose panels are made up, and `agentopd plan` with its law."""

import argparse
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished_cases import leave_run
from scaling_cases import BUDGETS, law, places, simulated
from transformers import LlamaConfig, LlamaForCausalLM

from agentopd import cli
from agentopd.__main__ import main
from agentopd.config import dump, load_config
from agentopd.errors import ConfigError
from agentopd.evaluation import Played
from agentopd.records import RecordWriter
from agentopd.run_files import CONFIG, LAW, METRICS
from agentopd.scaling import gains, scaling
from agentopd.scaling.cost import Cost, cost_of, read, split
from agentopd.scaling.kept import read as read_law
from agentopd.scaling.laws import LAWS
from agentopd.scaling.runs import MEASURES, Measured, measured
from agentopd.scaling.telling import sentences
from agentopd.types import Key, Outcome, Record, Segment, Task, Trajectory, Turn

WIDTHS = (8, 16, 32, 64, 128)
ENV = "agentopd/Checkout-v0"


def saved(folder: Path, width: int) -> Path:
    made = LlamaConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=64,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(made).save_pretrained(folder)  # type: ignore[no-untyped-call]
    return folder


def episode() -> Record:
    turn_T = np.array([-1, -1, 0, 0], np.int32)
    segment = Segment(np.arange(4, dtype=np.int32), turn_T, np.minimum(turn_T, 0), turn_T >= 0, np.zeros(4, np.float32))
    turns = (Turn(0, "student", 0, 2, 4, "", ""),)
    task, outcome = Task(ENV, 0, {}), Outcome(1.0, True, "terminated")
    return Record(Trajectory(Key("run", 0, 0), task, ("student",), (segment,), turns, outcome), ())


def written(
    folder: Path, student: Path, steps: int, failed: float, seed: int, tasks: int = 200, divergence: float = 0.1
) -> None:
    """A folder as a run leaves it, as far as a law reads it: two episodes a step, longer seconds for larger students."""
    raw: dict[str, Any] = {
        "env": ENV,
        "student": {"model": str(student)},
        "teacher": {"kind": "local", "model": str(student.parent / "64")},
        "rollout": {"max_new_tokens": 8, "max_length": 48, "max_turns": 4},
        "train": {"steps": steps, "tasks_per_step": 2},
    }
    config = load_config(raw, [f"seed={seed}"])
    lost = round(failed * tasks)
    played = [Played(f"task-{n}", ENV, n >= lost, float(n >= lost), 1, ((),), "finished") for n in range(tasks)]
    width = float(student.name)
    row = {"spent/episodes": 2.0, "spent/student_tokens": 4.0, "spent/teacher_tokens": 4.0, "seconds/step": width / 8}
    rows = [{"step": n + 1, "train/loss/divergence": divergence * (steps - n), **row} for n in range(steps)]
    leave_run(folder, config, played, rows)
    if seed == 0:
        RecordWriter(folder / "records").write(0, [episode()])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five sizes, four budgets and two seeds of the known law."""
    home = tmp_path_factory.mktemp("runs")
    x = places()
    points = simulated(0, x, law(x), seeds=2)
    paths = []
    for width in WIDTHS:
        saved(home / "models" / str(width), width)
    for place, point in enumerate(points):
        width, steps = WIDTHS[place // len(BUDGETS)], (4, 8, 16, 32)[place % len(BUDGETS)]
        for seed, failed in enumerate(point.y_S):
            paths.append(home / f"{width}-{steps}" / f"seed-{seed}")
            written(paths[-1], home / "models" / str(width), steps, failed, seed)
    return paths


@pytest.fixture(scope="module")
def found(runs: list[Path]) -> list[Measured]:
    measures, notes = measured(runs)
    assert notes == []
    return measures


def test_points_are_what_runs_say(runs: list[Path], found: list[Measured]) -> None:
    assert len(found) == 20
    point = found[-1].point
    head, attention, mlp, norms = 64 * 128, 4 * 128 * 128, 3 * 128 * 256, 3 * 128
    assert point.x == {"parameters": head + attention + mlp + norms, "episodes": 64, "teacher_tokens": 128}
    assert (point.name, point.tasks, len(point.y_S)) == ("128-32", 200, 2)
    kept = measured(runs[-2:], "divergence")[0][0].point
    assert kept.y_S == pytest.approx((0.1 * (1 + 2 + 3 + 4) / 4,) * 2)  # the last four of 32 steps
    assert kept.tasks is None


def test_a_run_that_left_a_student_is_of_its_size(runs: list[Path], found: list[Measured], tmp_path: Path) -> None:
    written(tmp_path / "run", runs[0].parents[1] / "models" / "8", 4, 0.5, 0)
    saved(tmp_path / "run" / "student", 16)
    assert measured([tmp_path / "run"])[0][0].point.x["parameters"] == found[4].point.x["parameters"]


def test_the_command_prints_and_writes_and_a_plan_reads(
    runs: list[Path], found: list[Measured], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scaling", *map(str, runs), "--output", str(tmp_path), "--budget", "flops=1e9"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("law: y = E + A (N/")
    assert "\nfit: 20 points, 40 runs; residuals are " in out
    assert "\nsplit: " in out
    assert "| a_N | " in out
    kept = json.loads((tmp_path / LAW).read_text())
    assert len(kept["points"]) == 20
    assert kept["split"]["cost"]["unit"] == "flops"
    assert [one["law"] for one in kept["held_out"]["laws"]] == ["saturating", "power", "constant"]
    page = (tmp_path / "law.html").read_text()
    assert page.count("<svg") == 5
    assert ">50</text>" in page
    assert "mathdefault" not in page
    assert "http" not in page.replace("http://www.w3.org", "")

    fitted = scaling([one.point for one in found]).fitted
    planned = [str(runs[-1] / CONFIG), "--hardware", "H100", "--law", str(tmp_path / LAW)]
    assert main(["plan", *planned]) == 0
    first, *rest = capsys.readouterr().out.partition("law: ")[2].splitlines()
    place = found[-1].point.x
    assert first.startswith(f"success {100 * (1 - fitted.value(place)):.1f}% [")
    assert first.endswith(f"expected at {place['parameters']:,.0f} parameters, 64 episodes")
    assert not any("extrapolated" in line for line in rest)
    assert main(["plan", *planned, "train.steps=320", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["law"]
    assert told["value"] == pytest.approx(fitted.value({**place, "episodes": 640.0}), rel=1e-4)
    assert told["interval"] == pytest.approx(fitted.interval({**place, "episodes": 640.0}), rel=1e-4)
    assert told["notes"] == ["episodes are 10 times the most of the law's points: extrapolated"]


def test_a_law_of_other_environments_says_nothing(
    runs: list[Path], found: list[Measured], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scaling", *map(str, runs[::2]), "--output", str(tmp_path), "--law", "power"]) == 0
    planned = [str(runs[0] / CONFIG), "env=agentopd/Calculator-v0", "train.steps=2", "train.budget.tokens=100"]
    assert main(["plan", *planned, "--hardware", "H100", "--law", str(tmp_path / LAW), "--json"]) == 0
    told = json.loads(capsys.readouterr().out[-1000:].partition('"law": ')[2].rstrip()[:-1])
    assert told["measure"] == "error"
    assert told["notes"][0] == "episodes are 0.5 times the least of the law's points: extrapolated"
    assert "train.budget may end the run before train.steps" in told["notes"][1]
    assert told["notes"][2].endswith("this run of agentopd/Calculator-v0: it says nothing of these")


def test_a_file_without_a_law_is_refused(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("{", "{}", '{"format": 2}', "[]"):
        (tmp_path / LAW).write_text(text)
        with pytest.raises(ConfigError, match=r"no law can be read from it: .* give the law\.json"):
            read_law(tmp_path / LAW)
    assert main(["plan", str(runs[0] / CONFIG), "--law", str(tmp_path / "none.json")]) == 2
    assert "no law can be read from it" in capsys.readouterr().err


def test_costs_follow_from_what_runs_took_or_from_counted_operations(found: list[Measured]) -> None:
    seconds = cost_of(found, "seconds")
    sizes = np.array([one.point.x["parameters"] for one in found[::4]])
    took = np.array(WIDTHS) / 16
    slope, _ = np.polyfit(np.log(sizes), np.log(took), 1)
    assert seconds.exponent == pytest.approx(slope)
    flops = cost_of(found, "flops")
    assert 0.3 < flops.exponent < 1.0  # the teacher's part is the same for all
    assert flops.of_episode(sizes[-1]) > 2 * sizes[-1] * 4


def test_the_best_split_is_that_of_the_closed_form(found: list[Measured]) -> None:
    fitted, cost = scaling([one.point for one in found]).fitted, Cost("flops", 1e5, 3e5, 1.1)
    best = split(fitted, found, cost, 1e8)
    _, a, alpha, b, beta = np.exp(fitted.theta_P)
    size, count = (fitted.reference[name] for name in ("parameters", "episodes"))
    # d/dN of A (N/N0)^-alpha + B (C / (k (N/r)^g) / D0)^-beta is 0
    held = (
        cost.exponent
        * beta
        * b
        * (1e8 / cost.scale / count) ** -beta
        * (size / cost.reference) ** (cost.exponent * beta)
    )
    exact = size * (alpha * a / held) ** (1 / (alpha + cost.exponent * beta))
    assert best.parameters == pytest.approx(exact, rel=0.02)
    assert cost.of_episode(np.array(best.parameters)) * best.episodes == pytest.approx(1e8)
    assert best.interval.low <= best.parameters <= best.interval.high
    assert not best.at_end
    assert best.determined
    law, most = scaling([one.point for one in found]), 100 * max(one.point.x["parameters"] for one in found)
    assert " or " not in [*sentences(law, "error", best)][-1]
    beyond = replace(best, interval=best.interval._replace(high=most))
    assert f", {most:.3g} or more] and " in [*sentences(law, "error", beyond)][-1]
    flat = [Measured(one.arm, replace(one.point, y_S=(0.3, 0.4))) for one in found]
    unknown = scaling([one.point for one in flat])
    nowhere = split(unknown.fitted, flat, cost, 1e8)
    assert [*sentences(unknown, "error", nowhere)][-1].startswith("split: these runs do not determine the size")


def test_what_cannot_be_fitted_is_refused(runs: list[Path], found: list[Measured], tmp_path: Path) -> None:
    for text in ("flops", "flops=0", "tokens=5", "seconds=many"):
        with pytest.raises(ConfigError, match=r"expected flops=N or seconds=N"):
            read(text)
    one_size = found[:4]
    with pytest.raises(ConfigError, match="all runs are of one size, so there is nothing to split"):
        cost_of(one_size, "seconds")
    with pytest.raises(ConfigError, match="the law has no term in parameters, so there is nothing to split"):
        split(scaling([one.point for one in one_size]).fitted, one_size, Cost("flops", 1.0, 1.0, 1.0), 1.0)
    written(tmp_path / "none", runs[0].parents[1] / "models" / "8", 4, 0.5, 0)
    (tmp_path / "none" / METRICS).write_text('{"step": 1, "spent/episodes": 2.0}\n')
    with pytest.raises(ConfigError, match="a law of the divergence is of one, and the metrics of this run have none"):
        measured([tmp_path / "none"], "divergence")


def test_runs_that_differ_in_more_are_said_to(runs: list[Path], tmp_path: Path) -> None:
    written(tmp_path / "other", runs[0].parents[1] / "models" / "8", 4, 0.5, 0)
    file = tmp_path / "other" / CONFIG
    file.write_text(dump(load_config(file, ["train.learning_rate=0.5"])))
    _, notes = measured([runs[0], runs[2], tmp_path / "other"])
    assert notes[0].startswith(
        "the runs differ also in train.learning_rate: what these do is taken for what size and budget do"
    )


def test_the_verb_offers_what_there_is() -> None:
    parser = argparse.ArgumentParser()
    cli.scaling.configure(parser)
    choices = {one.dest: [*one.choices] for one in parser._actions if one.choices}
    assert choices == {"of": [*MEASURES], "law": [*LAWS, gains.LAW]}


PAGE = (Path(__file__).parents[2] / "docs" / "scaling-laws.md").read_text(encoding="utf-8")


def test_the_commands_of_the_page_are_understood() -> None:
    for verb, count in ((cli.scaling, 4), (cli.plan, 1), (cli.sweep, 1)):
        parser = argparse.ArgumentParser()
        verb.configure(parser)
        name = verb.__name__.rpartition(".")[2]
        commands = re.findall(rf"^agentopd {name} (.*?)(?: +#.*)?$", PAGE, re.MULTILINE)
        assert len(commands) == count
        for command in commands:
            given = [text for text in shlex.split(command) if "=" not in text or text.startswith(("-", "flops"))]
            assert parser.parse_args(given)
