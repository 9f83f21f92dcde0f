"""Turns to imitate, and pairs of better and worse."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sharing_cases as cases

from agentopd import records
from agentopd.errors import RecordError
from agentopd.filters import Filter
from agentopd.sharing import Exported, Wanted, Wish, export, take_in
from agentopd.teachers.corrections import corrections
from agentopd.tooling import call
from agentopd.training.checks.looking import look
from agentopd.types import EXPERT, STUDENT, Failure, Record, Trajectory

WON = cases.CASES["system and calls"]


def rows(folder: Path, name: str, **wish: Any) -> tuple[list[dict[str, Any]], Exported]:
    file = folder / f"{name}.jsonl"
    file.unlink(missing_ok=True)
    told = export(records.open(folder), file, Wish(name, **wish))
    return [json.loads(line) for line in file.read_text().splitlines()], told


def test_a_turn_stands_behind_all_that_came_before(tmp_path: Path) -> None:
    won = cases.trajectory(WON, success=True)
    cases.keep(tmp_path, won, cases.trajectory(WON, 1, success=False))
    (first, second), told = rows(tmp_path, "sft")
    assert [one["role"] for one in first["prompt"]] == ["system", "user"]
    assert first["completion"] == [second["prompt"][2]]
    assert first["completion"][0]["tool_calls"][0]["function"] == {"name": "price", "arguments": {"item": "pear"}}
    assert second["completion"] == [{"role": "assistant", "content": "17"}]
    assert json.loads(first["tools"]) == cases.TOOLS
    assert (told.rows, told.episodes) == (2, 2)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_each_turn_is_read_as_an_episode_of_its_own(suffix: str, tmp_path: Path) -> None:
    told: dict[str, Any] = {"rewards": [0.5, 2.0], "reward": 2.5, "advice": ["look", None], "key": "first/3/1/0"}
    won = cases.trajectory(WON, success=True, env="mine/Shop-v0", seed=7, **told)
    cases.keep(tmp_path / "run", won)
    file = tmp_path / f"turns{suffix}"
    export(records.open(tmp_path / "run"), file, Wish("sft", metadata=True, privileged=True))
    take_in(str(file), tmp_path / "again", Wanted(cases.chat()))
    again = [record.trajectory for record in records.open(tmp_path / "again")]
    assert [[(turn.reward, turn.advice) for turn in one.turns] for one in again] == [[(0.5, "look")], [(2.0, None)]]
    assert [len(one.opening) for one in again] == [2, 4]
    assert [(one.outcome, one.task) for one in again] == [(won.outcome, won.task)] * 2
    assert [entry.played for entry in look(str(tmp_path / "again")).entries] == [one.key for one in again]


def test_the_metadata_of_a_turn_says_which_it_is(tmp_path: Path) -> None:
    won = cases.trajectory(WON, success=True, rewards=[0.5, 2.0])
    cases.keep(tmp_path, replace(won, turns=(replace(won.turns[0], errors=("bad_arguments",)), won.turns[1])))
    [row], _ = rows(tmp_path, "sft", metadata=True)
    assert (row["metadata"]["turn"], row["metadata"]["rewards"]) == (1, [2.0])
    assert "advice" not in row["metadata"]


def test_a_bad_turn_is_no_example(tmp_path: Path) -> None:
    won = cases.trajectory(WON, success=True)
    bad = replace(won.turns[0], errors=("bad_arguments",))
    cases.keep(tmp_path, replace(won, turns=(bad, won.turns[1])))
    [row], _ = rows(tmp_path, "sft")
    assert row["completion"][0]["content"] == "17"


def test_nothing_is_learned_from_what_has_no_weight(tmp_path: Path) -> None:
    cases.keep(tmp_path, cases.trajectory(cases.CASES["what is not learned"], success=True))
    [row], _ = rows(tmp_path, "sft")
    assert row["completion"][0]["content"] == "One."


def other(*messages: dict[str, Any]) -> dict[str, Any]:
    return {**WON, "messages": [*WON["messages"][:2], *messages]}


def test_a_success_and_a_failure_part_at_a_turn(tmp_path: Path) -> None:
    look = WON["messages"][2]
    cases.keep(
        tmp_path,
        cases.trajectory(
            other(look, cases.answer("17", "a"), cases.acting("20"), cases.said("Wrong.")), 0, success=False
        ),
        cases.trajectory(WON, 1, success=True),
        cases.trajectory(other(cases.acting("No.")), 2, success=False),  # one success has one partner
        cases.trajectory(cases.CASES["plain"], 3, success=True),  # another task
    )
    [row], told = rows(tmp_path, "preference", metadata=True)
    assert [one["role"] for one in row["prompt"]] == ["system", "user", "assistant", "tool"]
    assert row["chosen"] == [{"role": "assistant", "content": "17"}]
    assert row["rejected"] == [{"role": "assistant", "content": "20"}]
    assert row["metadata"]["key"] == "made/0/1/0"
    assert told.unpaired == 0


def test_what_the_environment_parts_is_no_pair(tmp_path: Path) -> None:
    look = WON["messages"][2]
    cases.keep(
        tmp_path,
        cases.trajectory(other(look, cases.answer("18", "a"), cases.acting("17")), 0, success=False),
        cases.trajectory(WON, 1, success=True),
        corrected(cases.trajectory(cases.CASES["plain"], 2), "Better."),
    )
    made, told = rows(tmp_path, "preference")
    assert [row["chosen"][0]["content"] for row in made] == ["Better."]
    assert told.unpaired == 1
    with pytest.raises(RecordError, match="nothing to export"):
        rows(tmp_path, "preference", pairs="episodes")


def corrected(trajectory: Trajectory, *better: str | None, teacher: str = "judge", actor: str = STUDENT) -> Record:
    """What a teacher says instead of turns that ``actor`` took."""
    played = replace(trajectory, turns=tuple(replace(turn, actor=actor) for turn in trajectory.turns))
    return Record(played, (corrections(teacher, cases.chat(), played, better),))


def test_a_correction_is_better_than_the_turn(tmp_path: Path) -> None:
    better = call("stock", item="pear")
    one = corrected(cases.trajectory(WON), better, "17")  # the second says what the student said
    two = corrected(cases.trajectory(WON, 1), None, "19", teacher="expert")
    cases.keep(tmp_path, one, two)
    (first, second), _ = rows(tmp_path, "preference", pairs="corrections")
    assert first["chosen"][0]["tool_calls"][0]["function"] == {"name": "stock", "arguments": {"item": "pear"}}
    assert first["rejected"][0]["content"] == "I look."
    assert len(first["prompt"]) == 2
    assert (second["chosen"][0]["content"], second["rejected"][0]["content"]) == ("19", "17")
    [row], _ = rows(tmp_path, "preference", pairs="corrections", teacher="expert")
    assert row == second


def test_a_skipped_turn_is_no_pair(tmp_path: Path) -> None:
    record = corrected(cases.trajectory(WON), "Better.", "Best.")
    [said] = record.annotations
    cases.keep(tmp_path, replace(record, annotations=(replace(said, skip_S=np.array([True, False])),)))
    [row], _ = rows(tmp_path, "preference")
    assert row["chosen"][0]["content"] == "Best."


def test_a_pair_teaches_neither_to_think_nor_not_to(tmp_path: Path) -> None:
    """A correction has no thinking: if the turn kept its own, a trainer would learn not to think."""
    row = {"messages": [cases.said("Cost?"), cases.acting("18", reasoning_content="Easy.")]}
    keeps = corrected(cases.trajectory(row), "17")
    same = corrected(cases.trajectory(row, 1), "18")
    thinks = corrected(cases.trajectory(row, 2), "<think>\nHard.\n</think>\n\n16")
    cases.keep(tmp_path, keeps, same, thinks)
    made, _ = rows(tmp_path, "preference", pairs="corrections")
    assert [(one["chosen"], one["rejected"]) for one in made] == [
        ([cases.acting(better)], [cases.acting("18")]) for better in ("17", "16")
    ]


@pytest.mark.parametrize("opens", ["", "<think>\n"])
def test_a_thought_that_never_ended_is_thinking_and_calls_nothing(opens: str, tmp_path: Path) -> None:
    draft = f"I could {call('price', item='pear')}, or not"
    made = cases.trajectory({"messages": [cases.said("Cost?"), cases.acting("18")]}, thinks=True)
    cut = replace(made, turns=(replace(made.turns[0], text=opens + draft, action="", thinking=9),))
    cases.keep(tmp_path / "run", corrected(cut, "17"))
    [row], _ = rows(tmp_path / "run", "openai")
    assert row["messages"][1] == cases.acting("", reasoning_content=draft)
    [pair], _ = rows(tmp_path / "run", "preference", pairs="corrections")
    assert pair["rejected"] == [cases.acting("")]
    take_in(str(tmp_path / "run" / "openai.jsonl"), tmp_path / "back", Wanted(cases.chat(True)))
    [back] = records.open(tmp_path / "back")
    assert (back.trajectory.turns[0].action, back.trajectory.turns[0].calls) == ("", ())
    assert rows(tmp_path / "back", "openai")[0] == [row]


def test_a_thought_that_the_prompt_opened_is_thinking_whatever_it_says_of_calls(tmp_path: Path) -> None:
    thought, made = "Do I write <tool_call> now? Yes.", call("price", item="pear")
    trajectory = cases.trajectory({"messages": [cases.said("Cost?"), cases.acting("18")]}, thinks=True)
    turn = replace(trajectory.turns[0], text=f"{thought}\n</think>\n\n{made}", action=made, thinking=9)
    cases.keep(tmp_path / "run", replace(trajectory, turns=(turn,)))
    [row], _ = rows(tmp_path / "run", "openai")
    told = row["messages"][1]
    assert (told["reasoning_content"], told["content"], len(told["tool_calls"])) == (thought, "", 1)
    take_in(str(tmp_path / "run" / "openai.jsonl"), tmp_path / "back", Wanted(cases.chat(True)))
    [back] = records.open(tmp_path / "back")
    assert back.trajectory.turns[0].action == made
    [acted], [segment] = back.trajectory.turns, back.trajectory.segments
    thought_T = segment.tokens_T[acted.start : acted.start + acted.thinking].tolist()
    assert cases.chat(True).tokenizer.decode(thought_T) == f"<think>\n{thought}\n</think>"
    assert rows(tmp_path / "back", "openai")[0] == [row]


def test_only_what_the_student_did_is_corrected(tmp_path: Path) -> None:
    untrained = cases.CASES["what is not learned"]
    cases.keep(
        tmp_path,
        corrected(cases.trajectory(WON), "Better.", "Best.", actor=EXPERT),
        corrected(cases.trajectory(untrained, 1), "Better.", "Best."),  # the second of its turns has weight 0
    )
    [row], _ = rows(tmp_path, "preference", pairs="corrections")
    assert (row["rejected"], row["chosen"]) == ([cases.acting("One.")], [cases.acting("Better.")])


@pytest.mark.parametrize("imported", [False, True])
def test_an_infrastructure_failure_is_no_worse_way_to_go_on(imported: bool, tmp_path: Path) -> None:
    lost = cases.trajectory(other(cases.acting("No.")), 1, success=False)
    failed = replace(
        lost,
        outcome=replace(lost.outcome, stop="failed"),
        failure=None if imported else Failure("env", "crash", "it is gone"),
    )
    cases.keep(tmp_path / "failed", cases.trajectory(WON, success=True), failed)
    with pytest.raises(RecordError, match="nothing to export"):
        rows(tmp_path / "failed", "preference", keep=Filter(failed=None))
    cases.keep(tmp_path / "lost", cases.trajectory(WON, success=True), lost)
    assert len(rows(tmp_path / "lost", "preference", keep=Filter(failed=None))[0]) == 1
