"""`agentopd compare`, on folders of runs whose panels are made up."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from comparing_cases import finished

from agentopd.__main__ import main
from agentopd.comparing import compare
from agentopd.comparing.page import curve
from agentopd.comparing.runs import arms_of
from agentopd.comparing.telling import sentences
from agentopd.config.shipped import load_yaml
from agentopd.errors import ConfigError
from agentopd.evaluation import paired_difference
from agentopd.run_files import CONFIG, PANELS, SWEEP
from benchmarks.comparing import outcomes

JSD = "objective.divergence.kind=jsd"
REVERSE = "objective.divergence.kind=reverse_kl"


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two arms of three seeds on 60 tasks, the second far better."""
    base, arm = outcomes(np.random.default_rng(0), 3, 60, shared=0.5, gained=3.0)
    return [
        finished(tmp_path / name / f"seed-{seed}", success_S_T[seed], seed, overrides)
        for name, success_S_T, overrides in (("kl", base, []), ("jsd", arm, [JSD]))
        for seed in range(3)
    ]


def test_runs_that_differ_in_the_seed_alone_are_an_arm(runs: list[Path]) -> None:
    arms, notes = arms_of([runs[4], *runs[:4], runs[5]])
    assert [(arm.name, [*arm.runs]) for arm in arms] == [("jsd", [0, 1, 2]), ("kl", [0, 1, 2])]
    assert notes == []


def test_seeds_of_a_version_that_had_fewer_settings_are_of_the_same_arm(runs: list[Path]) -> None:
    file = runs[1] / CONFIG
    plain = load_yaml(file)
    del plain["rollout"]["max_failures"], plain["train"]["profile"]
    file.write_text(json.dumps(plain))
    arms, _ = arms_of(runs)
    assert [(arm.name, [*arm.runs]) for arm in arms] == [("kl", [0, 1, 2]), ("jsd", [0, 1, 2])]


def test_a_difference_is_found_and_told(runs: list[Path]) -> None:
    found = compare(runs)
    [pair] = found.pairs
    assert (pair.arm, pair.baseline, pair.seeds, pair.verdict) == ("jsd", "kl", (0, 1, 2), "better")
    rates = [one.value for one in found.arms]
    assert pair.difference.value == pytest.approx(rates[1] - rates[0])
    assert pair.difference.low > 0
    assert pair.settings == ("objective.terms.0.divergence",)
    assert found.arms[0].by_seed.keys() == {0, 1, 2}
    assert found.arms[0].costs == {"episodes": 8.0, "student_tokens": 200.0, "teacher_tokens": 160.0, "seconds": 2.0}
    assert compare(runs, baseline="jsd").pairs[0].difference.value == -pair.difference.value


def test_one_seed_speaks_of_these_runs_alone(tmp_path: Path) -> None:
    was, now = np.arange(40) < 10, np.arange(40) < 18
    folders = [finished(tmp_path / "was", was), finished(tmp_path / "now", now, 0, [JSD])]
    found = compare(folders)
    assert found.pairs[0].difference == paired_difference(was, now)
    assert found.pairs[0].p == pytest.approx(2 * 0.5**8)  # eight tasks gained, none lost
    assert any("with one seed in common only tasks can be resampled" in note for note in found.notes)
    assert found.pairs[0].detectable is None


def test_holm_counts_the_comparisons(tmp_path: Path) -> None:
    arms = outcomes(np.random.default_rng(1), 3, 50, arms=3)
    for name, success_S_T, overrides in zip("abc", arms, ([], [JSD], [REVERSE]), strict=True):
        for seed in range(3):
            finished(tmp_path / name / f"seed-{seed}", success_S_T[seed], seed, overrides)
    paths = sorted(tmp_path.glob("*/seed-*"))
    against_first, every = compare(paths).pairs, compare(paths, every_pair=True).pairs
    assert [(pair.arm, pair.baseline) for pair in against_first] == [("b", "a"), ("c", "a")]
    assert [(pair.arm, pair.baseline) for pair in every] == [("b", "a"), ("c", "a"), ("c", "b")]
    smallest = min(every, key=lambda pair: pair.p)
    assert smallest.adjusted == pytest.approx(min(1.0, 3 * smallest.p))
    assert [pair.p for pair in every[:2]] == [pair.p for pair in against_first]


def test_it_says_how_many_seeds_would_tell_arms_apart(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    for seed in range(3):
        for name, share, overrides in (("a", 0.5, []), ("b", 0.55, [JSD])):
            success = random.random(200) < share + 0.06 * random.standard_normal()
            finished(tmp_path / name / f"seed-{seed}", success, seed, overrides)
    found = compare(sorted(tmp_path.glob("*/seed-*")))
    [pair] = found.pairs
    assert pair.verdict == "not told apart"
    assert pair.needed is not None
    assert pair.needed > 3
    [line] = [one for one in sentences(found) if "cannot be told apart" in one]
    assert f"{pair.needed} seeds, {pair.needed - 3} more, find a true difference" in line


def test_equal_arms_have_an_interval_all_the_same(tmp_path: Path) -> None:
    for seed in range(3):
        for name, overrides in (("a", []), ("b", [JSD])):
            finished(tmp_path / name / f"seed-{seed}", np.ones(30, bool), seed, overrides)
    found = compare(sorted(tmp_path.glob("*/seed-*")))
    assert found.pairs[0].p == 1.0
    assert found.pairs[0].difference.high == pytest.approx(1 - 0.05 ** (1 / 30))
    assert found.arms[0].interval.low == pytest.approx(0.05 ** (1 / 30))
    assert any("their success is equal" in line for line in sentences(found))


def test_several_settings_and_left_out_seeds_are_named(tmp_path: Path) -> None:
    base, arm = outcomes(np.random.default_rng(0), 3, 20)
    for seed in range(3):
        finished(tmp_path / "a" / f"seed-{seed}", base[seed], seed)
    for seed in range(2):
        finished(tmp_path / "b" / f"seed-{seed}", arm[seed], seed, [JSD, "train.learning_rate=0.1"])
    notes = compare(sorted(tmp_path.glob("*/seed-*"))).notes
    assert "b and a differ in 2 settings (objective.terms.0.divergence, train.learning_rate), so" in notes[0]
    assert notes[1] == "b and a: seeds 2 are left out, which one alone has"


def test_a_panel_of_few_tasks_is_told_of(tmp_path: Path) -> None:
    def told(tasks: int) -> bool:
        base, arm = outcomes(np.random.default_rng(0), 2, tasks)
        folders = [
            finished(tmp_path / str(tasks) / name / f"seed-{seed}", success_S_T[seed], seed, overrides)
            for name, success_S_T, overrides in (("kl", base, []), ("jsd", arm, [JSD]))
            for seed in range(2)
        ]
        assert not any("few to resample" in note for note in compare([folders[0], folders[2]]).notes)
        return any(note.startswith(f"{tasks} tasks are few to resample") for note in compare(folders).notes)

    assert [told(19), told(20)] == [True, False]


def test_a_band_by_hand(runs: list[Path]) -> None:
    arm = arms_of(runs[:3])[0][0]
    [series] = curve(arm, "#000011")
    assert series.x == [2.0, 4.0, 6.0, 8.0]
    last = [run.panel.success.value for run in arm.runs.values()]
    mean, half = np.mean(last), 4.302653 * np.std(last, ddof=1) / math.sqrt(3)
    assert series.y[-1] == pytest.approx(mean)
    assert (series.low[-1], series.high[-1]) == pytest.approx((max(mean - half, 0), min(mean + half, 1)), abs=1e-5)
    assert series.y[0] == pytest.approx(mean / 4)


def test_the_command_prints_markdown_and_writes_two_files(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = {"format": 1, "arms": {"kl": {}, "jsd": {}}, "seeds": [0, 1, 2, 3]}
    (tmp_path / SWEEP).write_text(json.dumps(plan))
    assert main(["compare", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "| arm | seeds | success | by seed | episodes | student tokens | teacher tokens | seconds |\n"
    )
    assert "\n| jsd | kl | 3 | +" in out
    assert f"- {tmp_path / 'kl' / 'seed-3'} is left out: it has not finished" in out
    kept = json.loads((tmp_path / "compare.json").read_text())
    assert kept["arms"].keys() == {"kl", "jsd"}
    assert kept["comparisons"][0]["verdict"] == "better"
    assert kept["arms"]["jsd"]["settings"]["objective.terms.0.divergence"]["kind"] == "jsd"
    assert kept["arms"]["jsd"]["runs"][0]["curve"][-1]["episodes"] == 8.0
    page = (tmp_path / "compare.html").read_text()
    assert page.count("<svg") == 2
    assert "Settings" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_arms_of_two_sweeps_that_are_called_alike_are_told_apart(tmp_path: Path) -> None:
    for name, overrides in (("first", []), ("second", [JSD])):
        for seed in range(2):
            finished(tmp_path / name / "arm" / f"seed-{seed}", np.arange(20) % 2 == seed, seed, overrides)
        (tmp_path / name / SWEEP).write_text(json.dumps({"format": 1, "arms": {"arm": {}}, "seeds": [0, 1]}))
    found = compare([tmp_path / "first", tmp_path / "second"])
    assert [one.arm.name for one in found.arms] == [str(tmp_path / name / "arm") for name in ("first", "second")]


def test_what_cannot_be_compared_is_refused(runs: list[Path], tmp_path: Path) -> None:
    other = finished(tmp_path / "other", np.ones(50, bool), 0, [REVERSE, "evaluation.tasks=50"])
    with pytest.raises(ConfigError, match=r"played different panels.*evaluation.tasks=200 and 50"):
        compare([*runs, other])
    sampled = finished(tmp_path / "sampled", np.ones(60, bool), 0, ["evaluation.temperature=1"])
    with pytest.raises(ConfigError, match=r"played different panels.*: evaluation.temperature=0.0 and 1.0; play both"):
        compare([*runs, sampled])
    with pytest.raises(ConfigError, match="there is one arm, kl, with 3 finished runs"):
        compare(runs[:3])
    with pytest.raises(ConfigError, match=r"jsd has the seeds 1, 2 and kl 0: .* none in common"):
        compare([runs[0], runs[4], runs[5]])
    with pytest.raises(ConfigError, match=r"no arm is called so \(did you mean 'jsd'\?\)"):
        compare(runs, baseline="jds")
    with pytest.raises(ConfigError, match="is no folder of a run or a sweep"):
        compare([*runs, tmp_path / "nothing"])
    with pytest.raises(ConfigError, match=r"same configuration and seed \(0\), so they would count twice"):
        compare([*runs, finished(tmp_path / "again", np.ones(60, bool))])
    (runs[0] / PANELS).unlink()
    with pytest.raises(ConfigError, match="none of the runs has finished"):
        compare(runs[:1])
    short = [
        finished(tmp_path / name, [True], 0, [f"train.learning_rate={rate}"]) for name, rate in (("x", 1), ("y", 2))
    ]
    with pytest.raises(ConfigError, match=r"evaluation\.tasks=1: one task tells no arms apart"):
        compare(short)
