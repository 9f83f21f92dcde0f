"""Rollout ahead of learning: what a step learns from, which weights wrote it, and what is left behind."""

import json
import re
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_cases as cases
from processes_cases import together
from transformers import TrainerCallback

from agentopd import records
from agentopd.errors import ConfigError, PolicyError
from agentopd.objective.columns import Episodes
from agentopd.training.checks.preflight import check_acting
from agentopd.training.loop.folder import RunFolder
from agentopd.training.loop.ranks import joined
from agentopd.training.loop.trainer import AgentOPDTrainer
from agentopd.training.run.whole import train
from agentopd.types import STUDENT, Record

THREADS = ("agentopd-stream", "agentopd-attendant")


def ahead(staleness: int, *overrides: str, method: str | dict[str, Any] = "agentopd", **settings: Any) -> Any:
    mode = f"rollout.mode={{kind: async, max_staleness: {staleness}}}"
    return cases.tiny(mode, *overrides, method=method, **settings)


def trained(config: Any, output: Path, **options: Any) -> AgentOPDTrainer:
    run = cases.trainer(config, output, folder=RunFolder(output), **options)
    run.train()
    return run


def tokens(run: Path) -> list[list[list[int]]]:
    return [[s.tokens_T.tolist() for s in record.trajectory.segments] for record in records.open(run)]


def staleness(kept: Sequence[Record]) -> list[int]:
    return [
        record.trajectory.key.step - turn.policy_version
        for record in kept
        for turn in record.trajectory.turns
        if turn.actor == STUDENT
    ]


def test_without_staleness_a_run_is_the_one_in_turns_up_to_rounding(tmp_path: Path) -> None:
    usual = trained(cases.tiny(steps=3), tmp_path / "turns")
    stream = trained(ahead(0, steps=3), tmp_path / "stream")
    assert tokens(tmp_path / "stream") == tokens(tmp_path / "turns")
    assert set(staleness([*records.open(tmp_path / "stream")])) == {0}
    for name, value in cases.weights(usual.student).items():
        torch.testing.assert_close(value, cases.weights(stream.student)[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("bound", [1, 3])
def test_turns_are_written_by_weights_of_at_most_so_many_steps_before(bound: int, tmp_path: Path) -> None:
    run = trained(ahead(bound, steps=6), tmp_path)
    kept = [*records.open(tmp_path)]
    old = staleness(kept)
    assert 0 < max(old) <= bound
    assert min(old) >= 0
    assert Episodes.of(kept).staleness_B.max() == max(old)
    keys = [record.trajectory.key for record in kept]
    assert [key.step for key in keys] == [step for step in range(6) for _ in range(2)]
    assert len(set(keys)) == len(keys)
    tasks = [record.trajectory.task for record in kept]
    assert tasks == [r.trajectory.task for r in records.open(_in_turns(tmp_path))]
    assert {a.teacher for record in kept for a in record.annotations} == {"teacher"}
    told = run.step_metrics
    assert told["rollout/staleness_max"] == max(staleness([one for one in kept if one.trajectory.key.step == 5]))
    assert {"stream/waiting", "stream/restarted"} <= told.keys()
    assert min(told[f"seconds/{part}"] for part in ("generate", "env", "idle", "step")) >= 0.0
    assert not [thread for thread in threading.enumerate() if thread.name in THREADS]


@pytest.mark.parametrize("mode", ["sync", "{kind: async, max_staleness: 1}"])
def test_training_that_begins_anew_counts_versions_anew(mode: str, tmp_path: Path) -> None:
    run = cases.trainer(cases.tiny(f"rollout.mode={mode}", steps=3), tmp_path)
    run.train()
    run.train()
    assert 0 <= run.step_metrics["rollout/staleness"] <= run.step_metrics["rollout/staleness_max"] <= (mode != "sync")


def test_training_begins_with_the_weights_of_its_beginning(tmp_path: Path) -> None:
    other = cases.model(7).state_dict()
    for name, config in {"turns": cases.tiny(steps=1), "stream": ahead(0, steps=1)}.items():
        run = cases.trainer(config, tmp_path / name, folder=RunFolder(tmp_path / name))
        run.student.load_state_dict(other)
        run.train()
    assert tokens(tmp_path / "stream") == tokens(tmp_path / "turns")


class Weights(TrainerCallback):
    """The student's weights by version."""

    def __init__(self, student: torch.nn.Module) -> None:
        self.by_version = [cases.weights(student)]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.by_version.append(cases.weights(kwargs["model"]))


def test_a_turn_was_written_by_the_weights_of_its_version(tmp_path: Path) -> None:
    run = cases.trainer(ahead(2, steps=5), tmp_path, folder=RunFolder(tmp_path))
    weights = Weights(run.student)
    run.add_callback(weights)
    run.train()
    seen = set()
    for record in records.open(tmp_path):
        for turn in record.trajectory.turns:
            segment = record.trajectory.segments[turn.segment]
            run.student.load_state_dict(weights.by_version[turn.policy_version])
            with torch.no_grad():
                logits_T_V = run.student(torch.from_numpy(segment.tokens_T[None]).long()).logits[0]
            logprob_T_V = logits_T_V[turn.start - 1 : turn.stop - 1].log_softmax(-1)
            own_T = logprob_T_V.gather(1, torch.from_numpy(segment.tokens_T[turn.start : turn.stop]).long()[:, None])
            np.testing.assert_allclose(segment.logprob_T[turn.start : turn.stop], own_T[:, 0], rtol=0, atol=1e-4)
            seen.add(turn.policy_version)
    assert len(seen) > 2


def _in_turns(folder: Path) -> Path:
    trained(cases.tiny(steps=6), folder / "turns")
    return folder / "turns"


def test_what_a_teacher_says_at_once_is_what_it_says_of_the_whole_step(tmp_path: Path) -> None:
    trained(ahead(1, "records.block=sparse", steps=2), tmp_path / "stream")
    trained(cases.tiny("records.block=sparse", steps=2), tmp_path / "turns")
    first = zip(list(records.open(tmp_path / "stream"))[:2], list(records.open(tmp_path / "turns"))[:2], strict=True)
    for one, other in first:  # of step 0, whose weights are those of the beginning
        for mine, theirs in zip(one.annotations, other.annotations, strict=True):
            np.testing.assert_allclose(mine.taken_logprob_N, theirs.taken_logprob_N, rtol=0, atol=1e-5)
            assert np.array_equal(mine.index_N, theirs.index_N)


MIXED = {
    "sources": {
        "own": {"kind": "fresh", "share": {"kind": "linear", "start": 1.0, "end": 0.4}},
        "shown": {"kind": "frozen", "share": {"kind": "linear", "start": 0.0, "end": 0.6}, "actors": {"expert": 1.0}, "episodes": 4},
    },
    "divergence": "forward_kl",
}  # fmt: skip


def test_sources_whose_shares_move_draw_what_they_would_draw_in_turns(tmp_path: Path) -> None:
    config: dict[str, Any] = {"method": MIXED, "steps": 4, "tasks_per_step": 4}
    trained(cases.tiny(**config), tmp_path / "turns")
    trained(ahead(2, **config), tmp_path / "stream")
    drawn = [
        [(r.trajectory.task, r.trajectory.segments[0].source) for r in records.open(tmp_path / name)]
        for name in ("turns", "stream")
    ]
    assert drawn[0] == drawn[1]


def test_a_run_that_plays_ahead_can_be_killed_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ahead(2, "train.save_every=2", "train.eval_every=2", steps=4)
    step = AgentOPDTrainer.training_step

    def killed(self: AgentOPDTrainer, model: Any, inputs: Any, *rest: Any) -> torch.Tensor:
        if inputs.step == 3:
            raise KeyboardInterrupt
        return step(self, model, inputs, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(AgentOPDTrainer, "training_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "run")
    assert not [thread for thread in threading.enumerate() if thread.name in THREADS]
    result = train(config, tmp_path / "run", resume=True)
    assert set(result.panels) == {"student_before", "student_after", "teacher"}
    kept = [record.trajectory.key for record in records.open(tmp_path / "run")]
    assert [(key.step, key.index) for key in kept] == [(step, index) for step in range(4) for index in range(2)]


def _two(output: Path) -> tuple[dict[str, torch.Tensor], list[str], dict[str, float]]:
    same = cases.trainer(ahead(0, steps=3, tasks_per_step=4), output / "0", folder=RunFolder(output / "0"))
    same.train()
    late = cases.trainer(ahead(2, steps=4, tasks_per_step=4), output / "2", folder=RunFolder(output / "2"))
    late.train()
    left = [thread.name for thread in threading.enumerate() if thread.name in THREADS]
    return cases.weights(same.student), left, late.step_metrics


def test_two_processes_play_their_shares_ahead(tmp_path: Path) -> None:
    usual = trained(cases.tiny(steps=3, tasks_per_step=4), tmp_path / "alone")
    first, second = together(_two, tmp_path / "two")
    assert first[2] == second[2], "a schedule that reads a clock would part them"
    for weights, threads, _ in (first, second):
        assert not threads
        for name, value in cases.weights(usual.student).items():
            torch.testing.assert_close(value, weights[name], rtol=0, atol=1e-5)
    assert tokens(tmp_path / "two" / "0") == tokens(tmp_path / "alone")
    kept = [*records.open(tmp_path / "two" / "2")]
    assert [r.trajectory.key.step for r in kept] == [step for step in range(4) for _ in range(4)]
    assert 0 < max(staleness(kept)) <= 2


def _breaks_in_one(output: Path) -> str:
    """The second process cannot write turns any more when weights have changed for the first time."""
    run = cases.trainer(ahead(2, steps=6, tasks_per_step=4), output)
    policy: Any = run.river.policies[STUDENT]
    take, learned = policy.take, run.river.learned
    broken, failed = threading.Event(), threading.Event()

    def breaks(*given: Any) -> None:
        if broken.is_set():
            failed.set()
            raise ValueError("out of memory")
        take(*given)

    def then(*given: Any) -> None:
        learned(*given)
        broken.set()
        failed.wait(1.0)

    if run.ranks.rank == 1:
        policy.take = breaks
        run.river.learned = then  # type: ignore[method-assign, assignment]
    with pytest.raises(PolicyError) as caught:
        run.train()
    return str(caught.value)


def test_a_stream_that_fails_in_one_process_ends_all_with_its_error(tmp_path: Path) -> None:
    cases.tokenizer()
    first, second = together(_breaks_in_one, tmp_path)
    assert first == second == "the policy of 'student' failed: ValueError: out of memory"


def _starts_in_one(output: Path, python: str) -> str:
    """The first process acts by its student; the second one's server does not start."""
    engine = [f"rollout.engine={{kind: vllm, python: {python}}}"] if joined().rank == 1 else []
    run = cases.trainer(ahead(1, *engine, tasks_per_step=4), output)
    with pytest.raises(PolicyError) as caught:
        run.train()
    return str(caught.value)


def test_an_engine_that_does_not_start_in_one_process_ends_all_with_its_error(tmp_path: Path) -> None:
    cases.tokenizer()
    (tmp_path / "python").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "python").chmod(0o755)
    first, second = together(_starts_in_one, tmp_path / "run", str(tmp_path / "python"))
    assert first == second
    told = re.fullmatch(
        r"the student's vLLM server did not start and has ended with status 3; all that it said stands in (.+)/vllm.log",
        first,
    )
    assert told is not None
    shutil.rmtree(told[1])


def test_an_adapter_is_trained_while_its_copy_plays_over_the_same_base(tmp_path: Path) -> None:
    run = trained(ahead(1, "train.lora={r: 2}", steps=2), tmp_path)
    copy = run.river.follower
    assert copy is not None
    own = {id(one) for one in run.student.parameters()}
    apart = [name for name, one in copy.model.named_parameters() if id(one) not in own]
    assert apart
    assert all("lora" in name for name in apart)
    for mine, theirs in zip(copy.model.parameters(), run.student.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_what_fails_in_the_stream_ends_the_run_with_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = cases.trainer(ahead(1, steps=4), tmp_path, folder=RunFolder(tmp_path))
    act, calls = run.river.policies[STUDENT].take, []  # type: ignore[attr-defined]

    def breaks(*given: Any) -> None:
        calls.append(1)
        if len(calls) > 40:
            raise ValueError("out of memory")
        act(*given)

    monkeypatch.setattr(run.river.policies[STUDENT], "take", breaks)
    with pytest.raises(PolicyError, match="the policy of 'student' failed: ValueError: out of memory"):
        run.train()
    assert not [thread for thread in threading.enumerate() if thread.name in THREADS]


def test_a_teacher_that_has_the_students_weights_cannot_act_meanwhile() -> None:
    own = "teachers.old={kind: self}"
    check_acting(cases.tiny(own, "objective.sampler.actors={student: 0.5, old: 0.5}"))
    with pytest.raises(ConfigError, match=r"'old' is to act, and has the student's weights.* rollout.mode: sync"):
        check_acting(ahead(1, own, "objective.sampler.actors={student: 0.5, old: 0.5}"))


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("{kind: async, max_staleness: -1}", "greater than or equal to 0"),
        ("asynchronous", "no mode is called 'asynchronous'"),
        ("{kind: async, on_update: stop}", "'continue' or 'restart'"),
    ],
)
def test_modes_that_do_not_exist_are_refused(mode: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cases.tiny(f"rollout.mode={mode}")


def test_a_trace_shows_both_at_work(tmp_path: Path) -> None:
    trained(ahead(1, "train.profile=true", steps=3), tmp_path)
    events = json.loads((tmp_path / "profile-1.json").read_text())
    names = {one["args"]["name"]: one["tid"] for one in events if one["ph"] == "M"}
    by_thread = {
        tid: {one["name"] for one in events if one["ph"] == "X" and one["tid"] == tid} for tid in names.values()
    }
    assert by_thread[names["agentopd-stream"]] == {"generate student"}
    assert by_thread[names["agentopd-attendant"]] == {"teacher teacher"}
    assert {"forward", "backward", "optimizer", "weights", "records"} <= by_thread[names["MainThread"]]
    assert any(one["ph"] == "b" and one["name"] == "environment" for one in events)
