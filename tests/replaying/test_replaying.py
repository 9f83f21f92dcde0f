"""Recorded episodes, played again: the same, or the first thing that differs is named."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import replay_cases as cases
from replay_envs import CHANGING, MOOD, UPGRADED

import agentopd
from agentopd.__main__ import main
from agentopd.filters import Filter
from agentopd.records import RecordWriter
from agentopd.replaying import Replay, Verdict, replay
from agentopd.tooling import call
from agentopd.types import IMPORTED, Failure, Key, Message, Record, Trajectory

COUNTS = [call("count", steps=steps) for steps in (1, 2, 3)]
WRONG = [*COUNTS, "Hm.", call("count", far=1), "<tool_call>\n{\n</tool_call>", call("run"), ""]


def records(trajectories: Sequence[Trajectory]) -> list[Record]:
    return [Record(trajectory) for trajectory in trajectories]


def one(trajectory: Trajectory, **options: Any) -> Verdict:
    [verdict] = replay(records([trajectory]), **options).verdicts
    return verdict


@pytest.fixture(scope="module")
def episode() -> Trajectory:
    """Of three turns and a last one that ends it, all with the expert's advice."""
    [made] = cases.played(CHANGING, [call("count", steps=3)], expert=0.0, max_turns=3)
    return made


@pytest.fixture(scope="module")
def ended() -> Trajectory:
    [made] = cases.played(CHANGING, [call("count", steps=4)], expert=None)
    assert made.outcome.stop == "terminated"
    return made


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_every_episode_is_what_it_was(isolation: Any) -> None:
    made = cases.played(CHANGING, WRONG, seeds=range(12)) + cases.played(
        CHANGING, [*WRONG, call("count", steps=4)], seeds=range(12, 20)
    )
    assert {one.outcome.stop for one in made} == {"truncated", "terminated"}
    assert len({error for one in made for turn in one.turns for error in turn.errors}) >= 4
    found = replay(records(made), isolation=isolation, concurrency=3)
    assert found.same
    assert [(one.key, one.turns, one.told) for one in found.verdicts] == [(one.key, len(one.turns), "") for one in made]
    assert found.counts() == {CHANGING: {"same": 20}}
    assert found.notes == ()


def test_an_episode_that_the_rollout_ended_is_compared_up_to_there(episode: Trajectory) -> None:
    assert episode.outcome.stop == "turn_limit"
    assert (one(episode).status, one(episode).turns) == ("same", 3)
    [short] = cases.played(CHANGING, COUNTS, expert=None, max_length=4_001)
    assert (short.outcome.stop, short.turns) == ("overflow", ())
    assert (one(short).status, one(short).turns) == ("same", 0)


def _turn(trajectory: Trajectory, place: int, **changes: Any) -> Trajectory:
    turns = list(trajectory.turns)
    turns[place] = replace(turns[place], **changes)
    return replace(trajectory, turns=tuple(turns))


def _observed(trajectory: Trajectory, text: str) -> Trajectory:
    message: Message = {**trajectory.turns[1].observations[0], "content": text}
    return _turn(trajectory, 1, observations=(message,))


TAMPERED: dict[str, tuple[Callable[[Trajectory], Trajectory], str]] = {
    "an action": (
        lambda t: _turn(t, 1, action=call("count", steps=2)),
        "turn 1, observations.0.content: recorded 'Now it is",
    ),
    "a reward": (lambda t: _turn(t, 2, reward=0.75), "turn 2, reward: recorded 0.75, now 0.5"),
    "an observation": (
        lambda t: _observed(t, "Now."),
        "turn 1, observations.0.content: recorded 'Now.', now 'Now it is",
    ),
    "a flag": (lambda t: _turn(t, 2, terminated=True), "turn 2, terminated: recorded True, now False"),
    "another flag": (lambda t: _turn(t, 0, truncated=True), "turn 0, truncated: recorded True, now False"),
    "an error": (lambda t: _turn(t, 0, errors=("no_call",)), "turn 0, errors.0: recorded 'no_call', now nothing"),
    "an outcome of a call": (
        lambda t: _turn(t, 0, outcomes=(replace(t.turns[0].outcomes[0], outcome="tool_error"),)),
        "turn 0, outcomes.0.1: recorded 'tool_error', now 'ok'",
    ),
    "the advice": (lambda t: _turn(t, 2, advice="Hm."), "turn 2, advice: recorded 'Hm.', now '<tool_call>"),
    "the opening": (lambda t: replace(t, opening=t.opening[1:]), "opening.0.role: recorded 'user', now 'system'"),
    "the tools": (lambda t: replace(t, tools=()), "tools.0: recorded nothing, now {"),
    "the family": (lambda t: replace(t, family="adding"), "family: recorded 'adding', now 'counting'"),
    "privileged facts": (
        lambda t: replace(t, privileged={"start": [85, {"mood": True}]}),
        "privileged.start.1.mood: recorded True, now False",
    ),
    "the seed": (lambda t: replace(t, task=replace(t.task, seed=4)), "opening.1.content: recorded 'It is "),
    "the total": (
        lambda t: replace(t, outcome=replace(t.outcome, total_reward=2.0)),
        "outcome.total_reward: recorded 2.0, now 1.5",
    ),
    "success": (
        lambda t: replace(t, outcome=replace(t.outcome, success=True)),
        "outcome.success: recorded True, now False",
    ),
    "the end": (
        lambda t: replace(t, outcome=replace(t.outcome, stop="terminated")),
        "outcome.stop: recorded 'terminated', now 'not over'",
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_was_tampered_with_is_named(what: str, episode: Trajectory) -> None:
    tamper, told = TAMPERED[what]
    verdict = one(tamper(episode))
    assert verdict.status == "differs"
    assert verdict.told.startswith(told), verdict.told
    assert len(verdict.told) < 300


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize(
    ("now", "status", "told"),
    [
        ("opening", "differs", "opening.1.content: recorded 'It is"),
        ("privileged", "differs", "privileged.start.1.mood: recorded False, now True"),
        ("reward", "differs", "turn 0, reward: recorded 0.5, now 0.25"),
        ("observation", "differs", "turn 0, observations.0.content: recorded 'Now it is"),
        ("advice", "differs", "turn 0, advice: recorded "),
        (
            "start raises",
            "unplayable",
            "after 0 turns that were the same its environment raised RuntimeError: broken since",
        ),
        (
            "step raises",
            "unplayable",
            "after 0 turns that were the same its environment raised RuntimeError: broken since",
        ),
    ],
)
def test_an_environment_that_changed_is_named(
    now: str, status: str, told: str, isolation: Any, episode: Trajectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentopd.isolation.fleet import close_workers

    monkeypatch.setenv(MOOD, now)
    close_workers()  # those that there are were forked before
    verdict = one(episode, isolation=isolation)
    close_workers()
    assert verdict.status == status
    assert verdict.told.startswith(told), verdict.told


def test_another_success_is_named(ended: Trajectory, monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(ended).status == "same"
    monkeypatch.setenv(MOOD, "success")
    assert one(ended).told == "outcome.success: recorded True, now False"


@pytest.mark.parametrize(("isolation", "now"), [("thread", "step hangs"), ("process", "start dies")])
def test_what_hangs_or_dies_is_a_verdict(
    isolation: Any, now: str, episode: Trajectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentopd.isolation.fleet import close_workers

    monkeypatch.setenv(MOOD, now)
    close_workers()
    verdict = one(episode, isolation=isolation, time_limit=20.0 if isolation == "process" else 0.2)
    close_workers()
    assert verdict.status == "unplayable"
    assert "giving its actions again" in verdict.note


def test_a_failed_episode_is_played_up_to_where_it_got(episode: Trajectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MOOD, "step raises")
    [failed] = cases.played(CHANGING, COUNTS, seeds=[5], expert=None)
    assert failed.failure is not None
    reached = len(failed.turns) - 1
    for now in ("", "step raises"):
        monkeypatch.setenv(MOOD, now)
        verdict = one(failed)
        assert (verdict.status, verdict.turns) == ("same", reached)
        assert (
            verdict.note
            == f"it failed at turn {reached} (env raised: {failed.failure.message}), and was compared up to there"
        )
    monkeypatch.setenv(MOOD, "")
    never = replace(failed, turns=(), opening=(), tools=())
    assert one(never).told.startswith("it failed at its start (env raised")
    late = replace(
        episode, failure=Failure("policy", "raised", "no\nmore"), outcome=replace(episode.outcome, stop="failed")
    )
    assert one(late).told == "it failed at turn 3 (policy raised: no...), and was compared up to there"


def _of(env_id: str, **task: Any) -> Trajectory:
    [made] = cases.played(CHANGING, COUNTS, expert=None, max_turns=1)
    return replace(made, task=replace(made.task, env_id=env_id, **task))


def test_an_upgraded_environment_is_named_with_what_it_was_played_with() -> None:
    told = one(_of("tests/Upgraded-v0")).note
    assert told.startswith(
        f"environment 'tests/Upgraded-v0' was upgraded: only {UPGRADED} is registered now, which may answer otherwise; install the version "
        "of its package that has tests/Upgraded-v0 (it was played with agentopd "
    )
    assert one(_of("tests/Nowhere-v0")).note.startswith("no environment is registered as 'tests/Nowhere-v0'")
    assert "cannot be imported" in one(_of("nowhere:tests/Nowhere-v0")).note
    assert "far" in one(_of(CHANGING, kwargs={"far": 1})).note


def test_a_missing_extra_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import sys

    for module in [name for name in sys.modules if name.startswith("agentopd.envs.search")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "bm25s", None)
    importlib.invalidate_caches()
    verdict = one(_of("agentopd/Search-v0"))
    assert verdict.status == "unplayable"
    assert (
        "environment 'agentopd/Search-v0' needs another package: bm25s is not installed; run pip install"
        in verdict.note
    )


def test_another_version_of_a_package_is_told_and_blamed_only_where_something_differs(episode: Trajectory) -> None:
    old = replace(episode, versions={**episode.versions, "gymnasium": "0.1", "torch": "1.0"})
    found = replay(records([old, old, episode]))
    assert found.same
    [note] = found.notes
    assert note.startswith("2 episodes were played with gymnasium 0.1; this is ")
    told = one(_turn(old, 1, reward=9.0)).told
    assert told.startswith("turn 1, reward: recorded 9.0, now 0.5; it was played with gymnasium 0.1, and this is ")
    assert "pip install gymnasium==0.1 tells whether" in told
    assert "torch" not in told


def test_text_from_elsewhere_has_nothing_to_play() -> None:
    for env_id in ("", IMPORTED):
        verdict = one(_of(env_id))
        assert (verdict.status, verdict.turns) == ("unplayable", 0)
        assert "without an environment" in verdict.note


@pytest.fixture
def folder(tmp_path: Path, episode: Trajectory) -> Path:
    """Records of two steps, three episodes each; of the second step one was tampered with."""
    writer = RecordWriter(tmp_path / "kept")
    for step in range(2):
        made = [replace(episode, key=Key("kept", step, i)) for i in range(3)]
        if step == 1:
            made[1] = _turn(made[1], 2, reward=0.125)
        writer.write(step, records(made))
    return tmp_path / "kept"


def test_the_verb(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(folder)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[1] == f"kept/1/1/0\t{CHANGING}\tdiffers\tturn 2, reward: recorded 0.125, now 0.5"
    assert out[-1] == f"{CHANGING}\t6\t5\t1\t0"
    assert main(["replay", str(folder), "--step", "0", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {name: told[name] for name in ("episodes", "same", "differs", "unplayable", "steps")} == {
        "episodes": 3, "same": 3, "differs": 0, "unplayable": 0, "steps": [],
    }  # fmt: skip
    assert "is no run folder (no config.yaml)" in told["notes"][0]
    assert (
        main(["replay", str(folder), "--step", "1", "--where", "turns.least=3", "--isolation", "process", "--json"])
        == 1
    )
    told = json.loads(capsys.readouterr().out)
    assert [one["difference"] for one in told["verdicts"]] == [
        None,
        {"turn": 2, "field": "reward", "recorded": "0.125", "now": "0.5"},
        None,
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--step", "2-1"], "--step 2-1: give a step"),
        (["--step", "7"], "they mean none of the 6 episodes"),
        (["--where", "sucess=true"], "sucess=true: sucess: unknown key (did you mean 'success'?)"),
        (["--where", "success"], "'success' is not an override"),
    ],
)
def test_what_the_verb_refuses(
    given: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(folder), *given]) == 2
    assert message in capsys.readouterr().err


def test_it_is_public_and_reads_any_records(folder: Path) -> None:
    seen: list[Verdict] = []
    found: Replay = agentopd.replay(folder, steps=range(1, 2), where=Filter(turns={"least": 3}), on_done=seen.append)
    assert [str(one.key) for one in found.verdicts] == ["kept/1/0/0", "kept/1/1/0", "kept/1/2/0"]
    assert tuple(seen) == found.verdicts
    assert not found.same
    assert agentopd.replay(agentopd.records.open(folder), steps=range(1)).same
    assert agentopd.replay([]).same
