"""Whole runs in each format of calls, with a thinking budget and without: what is recorded is what was sampled."""

import signal
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import interface_cases as whole
import killed_runs
import pytest
import thinking_cases
import training_cases as cases

from agentopd import records
from agentopd.__main__ import main
from agentopd.config import Config, dump, load_config
from agentopd.errors import ConfigError
from agentopd.training.run.whole import check, train


@pytest.mark.parametrize("call_format", [None, "react", "xml"])
def test_a_run_in_a_format_records_what_was_sampled(call_format: str | None, tmp_path: Path) -> None:
    cold = {"cold_start": {"episodes": 2, "steps": 1}, **whole.raw()["stages"]}
    config = load_config(whole.raw(call_format=call_format, stages=cold))
    run = tmp_path / "run"
    with whole.watched() as sampled:
        train(config, run)
    assert whole.require_token_true(config, run, sampled) == 0
    for record in records.open(run):
        first = record.trajectory.turns[0]
        assert [call.name for call in first.calls] == ["look", "look"] == [one.name for one in first.outcomes]
        assert ("Action Input:" in first.text, "<invoke" in first.text) == (
            call_format == "react",
            call_format == "xml",
        )
    _require_a_loss_of_turns(run)


def _require_a_loss_of_turns(run: Path) -> None:
    """The student's tokens alone are learned from, each turn of an episode as much as any other, each episode as well."""
    coefs, turns = whole.learned(run), whole.chosen(run)
    assert coefs.keys() == turns.keys()
    by_turn = defaultdict[tuple[str, int], float](float)
    for place, coef in coefs.items():
        by_turn[place[0], turns[place]] += coef
    for key in {key for key, _ in by_turn}:
        of_turns = [coef for (one, _), coef in by_turn.items() if one == key]
        assert of_turns == pytest.approx([0.5 / len(of_turns)] * len(of_turns))  # two episodes a step


@cache
def thinking(call_format: str, past: str, template: str) -> dict[str, Any]:
    """A run whose models think, for four tokens at most."""
    student, teacher = (str(thinking_cases.folder(template, seed)) for seed in (0, 1))
    return whole.raw(
        student={"model": student},
        teachers={"teacher": {"kind": "local", "model": teacher}, "expert": {"kind": "expert"}},
        template_kwargs={"opened": "<think>\n"},
        call_format=call_format,
        past_thinking=past,
        rollout=whole.raw()["rollout"] | {"thinking_budget": 4},
    )


@pytest.mark.parametrize(
    ("call_format", "past", "template"), [("xml", "dropped", "keeps"), ("hermes", "template", "forgets")]
)
def test_nobody_learns_from_what_closed_a_thought(call_format: str, past: str, template: str, tmp_path: Path) -> None:
    config, run = load_config(thinking(call_format, past, template)), tmp_path / "run"
    with whole.watched() as sampled:
        train(config, run)
    _require_thoughts(config, run, sampled, forks=True)


def _require_thoughts(config: Config, run: Path, sampled: whole.Sampled, forks: bool) -> None:
    assert whole.require_token_true(config, run, sampled) > 0
    _require_a_loss_of_turns(run)
    for record in records.open(run):
        first, *others = record.trajectory.turns
        assert first.text.startswith("\n</think>\n\n")  # the expert closes what the prompt opened
        assert len(first.calls) == 2
        assert (len(record.trajectory.segments) > 1) == forks
        assert all(turn.thinking <= 4 + 3 for turn in others)  # what closes it has up to three tokens


def test_a_run_that_thinks_is_killed_resumed_and_annotated(tmp_path: Path) -> None:
    raw, run, other = thinking("react", "kept", "keeps"), tmp_path / "run", tmp_path / "other"
    assert killed_runs.killed(raw, run, killed_runs.after_the_records, 1) == -signal.SIGKILL
    train(load_config(raw), run, resume=True)
    with whole.watched() as sampled:
        train(load_config(raw), other)
    _require_thoughts(load_config(raw), other, sampled, forks=False)
    assert cases.same_weights(cases.saved(run), cases.saved(other))
    assert cases.metrics(run) == cases.metrics(other)
    assert [r.trajectory.segments for r in cases.kept(run)] == [r.trajectory.segments for r in cases.kept(other)]
    told = [
        "annotate",
        str(run),
        "--output",
        str(tmp_path / "told"),
        "--cache",
        str(tmp_path / "c"),
        "--teacher",
        "teacher",
    ]
    assert main(told) == 0
    for before, after in zip(records.open(run), records.open(tmp_path / "told"), strict=True):
        assert after.trajectory == before.trajectory
        chose = sum(int((one.turn_T >= 0).sum()) for one in before.trajectory.segments)
        assert len(after.annotations[-1].index_N) == chose
    assert main([*told[:2], "--output", str(tmp_path / "no"), *told[4:], "call_format=xml"]) == 2


def thinks(budget: int) -> dict[str, Any]:
    return {"rollout": whole.raw()["rollout"] | {"thinking_budget": budget}}


def taught(call_format: str) -> dict[str, Any]:
    model = str(thinking_cases.folder("keeps", 1))
    return {
        "teachers": {"teacher": {"kind": "cross_tokenizer", "model": model, "call_format": call_format}},
        "method": "gold",
    }


MISTAKES = [
    ({"call_format": "raect"}, r"^call_format: 'raect' is no call format; there are: hermes"),
    ({"call_format": 3}, r"^call_format: Input should be a valid string"),
    ({"past_thinking": "keep"}, r"^past_thinking: Input should be 'template', 'kept' or 'dropped' \(got 'keep'\)"),
    (thinks(-1), r"^rollout\.thinking_budget: Input should be greater than or equal to 0"),
    (thinks(90), r"^rollout: thinking_budget=90 leaves no room .* max_new_tokens=90"),
    (thinks(4), r"^rollout\.thinking_budget: the chat template of .* knows no thinking"),
    ({"past_thinking": "dropped"}, r"^past_thinking='dropped': the chat template of .* knows no thinking"),
    (taught("raect"), r"^teachers\.teacher: teacher 'cross_tokenizer': call_format: 'raect' is no call format; there are: hermes"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "message"), MISTAKES)
def test_a_wrong_format_or_budget_is_told_once_and_first(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        check(load_config(whole.raw(**given)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_template_that_forgets_cannot_keep(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^past_thinking='kept': the chat template of .* forgets what was thought"):
        check(load_config(thinking("react", "kept", "forgets")), tmp_path / "run")


def test_a_run_goes_on_in_its_own_format_only(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(dump(load_config(whole.raw(call_format="react"))))
    with pytest.raises(ConfigError, match=r"was made with call_format='react', and this configuration has 'xml'"):
        check(load_config(whole.raw(call_format="xml")), run, resume=True)
