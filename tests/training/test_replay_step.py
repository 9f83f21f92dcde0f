"""`agentopd replay RUN --step N`: a step computed again from its records is what the run measured, or the number that is not is named."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_cases as cases
from serving_cases import serving

import agentopd
from agentopd import records
from agentopd.__main__ import main
from agentopd.config import load_config
from agentopd.errors import ConfigError, RecordError
from agentopd.records import RecordWriter
from agentopd.training.replaying.step import StepReplay, replay_step
from agentopd.training.run.whole import train
from agentopd.types import Record, Sparse

PAYING = "env.id=training_envs:tests/Paying-v0"
KINDS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "forward KL of a teacher in this process": ({}, ()),
    "kept sparse": ({}, ("records.block=sparse", "records.k=8")),
    "played ahead": ({}, ("rollout.mode=async",)),
    "an adapter": ({"lora": {"r": 2, "lora_alpha": 8}}, ()),
    "score function with importance": ({"method": "thinking-machines"}, ()),
    "reward": ({"method": "grpo", "tasks_per_step": 4}, (PAYING,)),
    "a moving average of the student": (
        {},
        ("teachers.teacher={kind: self, average: 0.5, hint: 'It costs {answer}.'}",),
    ),
}


def made(folder: Path, *overrides: str, method: str = "agentopd", **train_: Any) -> Path:
    """A run that kept the checkpoint before its last step, of three unless it is said otherwise."""
    train(cases.tiny(*overrides, method=method, **({"steps": 3, "save_every": 1} | train_)), folder)
    return folder


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("first") / "run")


@pytest.fixture
def run(first: Path, tmp_path: Path) -> Path:
    return shutil.copytree(first, tmp_path / "run")


def differing(found: StepReplay) -> dict[str, float]:
    return {row.metric: row.difference for row in found.rows if not row.same}


SELDOM = {"kept sparse", "reward"}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in SELDOM else kind for kind in KINDS]
)
def test_a_step_is_what_it_was(kind: str, tmp_path: Path) -> None:
    options, overrides = KINDS[kind]
    run = made(tmp_path / "run", *overrides, **({"steps": 2} | options))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for step in (0, 1):
        found = replay_step(run, step)
        assert found.same, differing(found)
        named = {row.metric for row in found.rows}
        assert {"train/loss", "train/grad_norm", "train/learning_rate", "rollout/turns"} <= named
        assert any(name.startswith("signals: ") and name.endswith("/coef") for name in named)
        [loss] = [row for row in found.rows if row.metric == "train/loss"]
        [norm] = [row for row in found.rows if row.metric == "train/grad_norm"]
        assert norm.recorded > 0.0
        assert max(loss.difference, norm.difference) <= 1e-6
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def _rewritten(run: Path, step: int, change: Callable[[Record], Record]) -> None:
    """The records of a step, changed by somebody."""
    file = run / "records" / f"step-{step:06d}.parquet"
    kept = [change(record) for record in records.open(run).step(step)]
    file.unlink()
    RecordWriter(run).write(step, kept)


def _another_token(record: Record) -> Record:
    [first, *rest] = record.trajectory.segments
    tokens_T = first.tokens_T.copy()
    place = record.trajectory.turns[0].start + 1
    tokens_T[place] = (tokens_T[place] + 1) % 300
    return replace(record, trajectory=replace(record.trajectory, segments=(replace(first, tokens_T=tokens_T), *rest)))


def _said_otherwise(record: Record) -> Record:
    [said] = record.annotations
    return replace(record, annotations=(replace(said, taken_logprob_N=said.taken_logprob_N * np.float32(1.0001)),))


def _skipped(record: Record) -> Record:
    [said] = record.annotations
    return replace(record, annotations=(replace(said, skip_S=~said.skip_S),))


def _rewarded(record: Record) -> Record:
    [said] = record.annotations
    return replace(record, annotations=(replace(said, reward_S=np.ones_like(said.reward_S)),))


def _line(run: Path, name: str) -> None:
    file = run / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    [row] = [row for row in rows if row["step"] == 3 and name in row]
    row[name] *= 1.00001
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _signal(run: Path, name: str) -> None:
    columns = dict(records.open(run).signals(2))
    columns[name] = columns[name].copy()
    columns[name][np.flatnonzero(np.isfinite(columns[name]))[0]] += 0.01
    (run / "records" / "step-000002.signals.parquet").unlink()
    RecordWriter(run).write_signals(2, columns)


TAMPERED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a token": (lambda run: _rewritten(run, 2, _another_token), "train/loss"),
    "what the teacher said": (lambda run: _rewritten(run, 2, _said_otherwise), "teacher teacher: log-probabilities"),
    "what it skipped": (lambda run: _rewritten(run, 2, _skipped), "teacher teacher: skipped turns"),
    "what it rewarded": (lambda run: _rewritten(run, 2, _rewarded), "teacher teacher: rewards"),
    "the loss": (lambda run: _line(run, "train/loss"), "train/loss"),
    "the gradient norm": (lambda run: _line(run, "train/grad_norm"), "train/grad_norm"),
    "another metric": (lambda run: _line(run, "train/student_entropy"), "train/student_entropy"),
    "a coefficient": (lambda run: _signal(run, "loss/coef"), "signals: loss/coef"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_was_tampered_with_is_named(what: str, run: Path) -> None:
    tamper, named = TAMPERED[what]
    tamper(run)
    found = differing(replay_step(run, 2))
    assert found[named] > 1e-6
    assert what == "a token" or found.keys() == {named}


def test_what_is_not_there_is_null_in_json(run: Path) -> None:
    file = run / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row.pop("train/student_entropy", None)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = replay_step(run, 2)
    assert differing(found).keys() == {"train/student_entropy"}
    told = json.loads(json.dumps(found.plain(), allow_nan=False))
    [row] = [row for row in told["rows"] if not row["same"]]
    assert (row["metric"], row["recorded"], row["difference"]) == ("train/student_entropy", None, None)
    assert row["recomputed"] > 0.0


def test_the_verb_plays_the_step_and_learns_from_it_again(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(run), "--step", "2"]) == 0
    out = capfd.readouterr().out
    assert "agentopd/Checkout-v0\t2\t2\t0\t0" in out.splitlines()
    for name in ("train/loss", "train/grad_norm", "signals: loss/coef", "signals: loss/weight"):
        assert any(line.startswith(f"{name}\t") and line.endswith("\tsame") for line in out.splitlines()), name
    assert main(["replay", str(run / "records"), "--step", "0-1", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["notes"] == [
        "no checkpoint was made before step 1, so only its episodes were played again; steps that can be learned from again: 0, 2"
    ]
    assert [(step["step"], step["same"], step["notes"]) for step in told["steps"]] == [(0, True, [])]
    _line(run, "train/loss")
    assert main(["replay", str(run), "--step", "2"]) == 1
    [line] = [line for line in capfd.readouterr().out.splitlines() if line.endswith("DIFFERS")]
    assert line.startswith("train/loss\t")
    assert "\t1.0e-05\t" in line


def test_a_step_that_cannot_be_computed_again_is_told_with_those_that_can(run: Path) -> None:
    can = "those that can be computed again: 0, 2"
    with pytest.raises(
        ConfigError, match=rf"^step 1: .*checkpoints has no checkpoint-1, which .*; {can} \(train\.save_every"
    ):
        replay_step(run, 1)
    with pytest.raises(RecordError, match=r"^step 3 has no records in .*; those that have some: 0 to 2"):
        agentopd.replay_step(run, 3)
    with pytest.raises(ConfigError, match=r"^/.*records is no run"):
        replay_step(run / "records", 2)
    _rewritten(run, 2, lambda record: replace(record, annotations=()))
    with pytest.raises(
        RecordError, match=r"^record run/2/0/0 has nothing that teacher 'teacher' said, whom the run's method reads"
    ):
        replay_step(run, 2)
    metrics = run / "metrics.jsonl"
    metrics.write_text("".join(line for line in metrics.read_text().splitlines(True) if '"step": 3' not in line))
    with pytest.raises(
        ConfigError,
        match=r"^step 2: .*metrics\.jsonl has no line of it.* interrupted in that step resume it.* again: 0$",
    ):
        replay_step(run, 2)
    metrics.unlink()
    with pytest.raises(ConfigError, match=r"^step 2: .*metrics\.jsonl has no line of it.* again: none$"):
        replay_step(run, 2)


def test_a_run_without_signals_says_that_they_are_not_compared(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "records.signals=false", steps=1, save_every=0)
    found = replay_step(run, 0)
    assert found.same
    assert found.notes == (
        "the run kept no signals (records.signals), so coefficients and weights are not compared token by token",
    )


@pytest.mark.parametrize(
    "noise", ["train.lora={r: 2, lora_alpha: 8, lora_dropout: 0.1}", "train.arguments={neftune_noise_alpha: 5.0}"]
)
def test_what_is_drawn_in_training_cannot_be_computed_again(noise: str, tmp_path: Path) -> None:
    run = made(tmp_path / "run", noise, steps=1, save_every=0)
    with pytest.raises(ConfigError, match=r"^the student is trained with dropout or noise \(.*(dropout|neftune).*\)"):
        replay_step(run, 0)


def test_a_resumed_run_is_what_it_was(run: Path) -> None:
    panels = json.loads((run / "panels.json").read_text())
    (run / "panels.json").write_text(
        json.dumps({name: panel for name, panel in panels.items() if name != "student_after"})
    )
    shutil.rmtree(run / "checkpoints" / "checkpoint-3")
    train(load_config(run / "config.yaml"), run, resume=True)
    assert replay_step(run, 2).same


def test_a_server_that_is_gone_is_not_missed_for_records_hold_what_it_said(tmp_path: Path) -> None:
    with serving(cases.model(1), longest=1024) as server:
        run = made(
            tmp_path / "run",
            f"teachers.teacher={{kind: served, url: '{server.url}', top_k: -1, patience: 0.1}}",
            steps=1,
            save_every=0,
        )
    found = replay_step(run, 0)
    assert found.same, differing(found)
    assert "train/loss" in {row.metric for row in found.rows}
    _rewritten(run, 0, _less_likely)
    assert "train/loss" in differing(replay_step(run, 0))


def _less_likely(record: Record) -> Record:
    [said] = record.annotations
    assert isinstance(said.block, Sparse)
    logprob_N_K = said.block.logprob_N_K.copy()
    logprob_N_K[0] -= np.float32(0.1)
    return replace(record, annotations=(replace(said, block=replace(said.block, logprob_N_K=logprob_N_K)),))
