"""The law of self-distillation, on folders whose panels are made up."""

import json
from pathlib import Path

import numpy as np
import pytest

from agentopd.__main__ import main
from agentopd.config import dump, load_config
from agentopd.errors import ConfigError
from agentopd.evaluation import Panel, Played
from agentopd.run_files import AFTER_PANEL, BEFORE_PANEL, CONFIG, LAW, PANELS
from agentopd.scaling.gains import Gain, gain_law, gains_of, lines

ENV = "agentopd/Checkout-v0"


def line(slope: float, noise: float, seed: int = 0, count: int = 12) -> list[Gain]:
    random = np.random.default_rng(seed)
    gap = random.uniform(-0.1, 0.5, count)
    gain = -0.01 + slope * gap + noise * random.standard_normal(count)
    return [Gain(str(n), float(a), float(b), 3) for n, (a, b) in enumerate(zip(gap, gain, strict=True))]


def test_a_line_is_found_whatever_one_point_says() -> None:
    points = line(0.8, 0.01)
    found = gain_law([*points, Gain("wild", 0.2, -0.6, 3)])
    assert (found.intercept, found.slope) == pytest.approx((-0.01, 0.8), abs=0.04)
    exact = gain_law(line(0.5, 0.0))
    assert (exact.intercept, exact.slope, exact.correlation) == pytest.approx((-0.01, 0.5, 1.0), abs=1e-6)
    assert exact.heldout["self_distillation"] == pytest.approx(0.0, abs=1e-6)
    assert exact.heldout["constant"] > 0.05


def test_no_relation_is_told() -> None:
    told = lines(gain_law(line(0.0, 0.05, seed=3)))
    assert told[2].endswith("these runs do not tell it from 0")


def test_slopes_lie_in_their_intervals() -> None:
    intervals = [gain_law(line(0.7, 0.05, seed)).interval(1) for seed in range(8)]
    assert sum(one.low <= 0.7 <= one.high for one in intervals) >= 6
    assert all(one.low > 0 for one in intervals)


def test_few_points_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="needs 5 points with different gaps between student and teacher; there are 4 in 4 points"
    ):
        gain_law(line(0.7, 0.05, count=4))


def written(folder: Path, teacher: dict[str, str], before: float, ahead: float, after: float) -> Path:
    folder.mkdir(parents=True)
    raw = {"env": ENV, "student": {"model": "student"}, "teacher": teacher, "train": {"steps": 4, "tasks_per_step": 2}}
    (folder / CONFIG).write_text(dump(load_config(raw, [])), encoding="utf-8")

    def panel(share: float) -> dict[str, object]:
        played = [Played(f"task-{n}", ENV, n < round(100 * share), 0.0, 1, ((),), "finished") for n in range(100)]
        return Panel(tuple(played)).to_dict()

    panels = {BEFORE_PANEL: panel(before), "teacher": panel(ahead), AFTER_PANEL: panel(after)}
    (folder / PANELS).write_text(json.dumps(panels), encoding="utf-8")
    return folder


def test_the_command_reads_panels_before_and_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gaps = (0.1, 0.2, 0.3, 0.4, 0.6)
    paths = [
        written(
            tmp_path / f"hint-{n}", {"kind": "privileged", "hint": f"{n}: {{steps}}"}, 0.2, 0.2 + gap, 0.2 + gap / 2
        )
        for n, gap in enumerate(gaps)
    ]
    points, _ = gains_of(paths)
    assert [one.gap for one in points] == pytest.approx(gaps)
    assert [one.gain for one in points] == pytest.approx([gap / 2 for gap in gaps])
    assert main(["scaling", *map(str, paths), "--law", "self_distillation", "--output", str(tmp_path)]) == 0
    assert "\nslope: 0.50 [0.50, 0.50]\n" in capsys.readouterr().out
    assert json.loads((tmp_path / LAW).read_text())["parameters"]["slope"]["value"] == pytest.approx(0.5)
    assert (tmp_path / "law.html").read_text().count("<svg") == 1
    assert main(["plan", str(paths[0] / CONFIG), "--law", str(tmp_path / LAW)]) == 2
    assert "its law is self_distillation, and a plan takes one of saturating" in capsys.readouterr().err
    assert main(["scaling", *map(str, paths), "--law", "self_distillation", "--budget", "flops=1"]) == 2
    assert "leave --of and --budget out" in capsys.readouterr().err
    other = written(tmp_path / "other", {"kind": "local", "model": "large"}, 0.2, 0.5, 0.4)
    with pytest.raises(ConfigError, match=r"is of a teacher that is the student itself .* this run has 0 of them"):
        gains_of([other])
