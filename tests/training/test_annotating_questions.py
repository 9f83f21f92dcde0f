"""What `agentopd annotate --teacher` makes of what it is given, before anybody is asked."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_cases as cases

from agentopd.errors import ConfigError
from agentopd.records import RecordWriter
from agentopd.training.annotating.question import question, require_told, with_teachers
from agentopd.training.annotating.whole import annotate
from agentopd.types import Key, Outcome, Record, Segment, Task, Trajectory


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_two_teachers_of_one_name_are_refused(tmp_path: Path) -> None:
    one = written(tmp_path, "one.yaml", "kind: reward")
    other = written(tmp_path, "other.yaml", "{kind: reward, scale: 3}")
    several = written(tmp_path, "several.yaml", "teachers: {judge: {kind: reward}, expert: {kind: expert}}")
    for given in (
        [one, other],
        ["teacher", one],
        [one, "teacher"],
        ["teachers.judge={kind: reward, scale: 2}", several],
        ["teacher.kind=reward", other],
    ):
        name = "judge" if several in given else "teacher"
        with pytest.raises(ConfigError) as caught:
            with_teachers(cases.tiny(), given)
        assert f"--teacher {given[1]}: there is a teacher {name!r} already" in str(caught.value)
    assert list(with_teachers(cases.tiny(), [one, one]).teachers) == ["teacher"]
    made = with_teachers(cases.tiny(), ["teacher", several, "teachers.judge.scale=2"])
    assert made.teachers["judge"].settings["scale"] == 2.0


def test_members_may_be_named_beside_what_reads_them() -> None:
    panel = "teachers.panel={kind: ensemble, members: [teacher, elder]}"
    config = cases.tiny("teachers.elder={kind: self}", panel, "objective.target.name=panel")
    assert set(with_teachers(config, ["elder", "panel", "teacher"]).teachers) == {"elder", "panel", "teacher"}


def test_a_setting_may_be_longer_than_a_files_name() -> None:
    rubric = "Be kind. " * 600
    made = with_teachers(
        cases.tiny(), [f"teachers.judge={{kind: openai, url: 'http://127.0.0.1:9', ask: score, rubric: '{rubric}'}}"]
    )
    assert made.teachers["judge"].settings["rubric"] == rubric
    with pytest.raises(ConfigError, match="there is no such file"):
        with_teachers(cases.tiny(), [rubric])


@pytest.mark.parametrize("nothing", ["teachers=null", "teachers=judge", "teachers=[]"])
def test_what_is_no_mapping_of_teachers_is_refused(nothing: str, tmp_path: Path) -> None:
    for given in ([nothing], [nothing, written(tmp_path, "one.yaml", "kind: reward")]):
        with pytest.raises(ConfigError, match=rf"^--teacher {re.escape(nothing)}: give teachers by name"):
            with_teachers(cases.tiny(), given)


def episode(index: int, **facts: Any) -> Trajectory:
    """One in which nobody acted."""
    nothing_T = np.zeros(1, np.int32)
    context = Segment(nothing_T, nothing_T - 1, nothing_T - 1, nothing_T > 0, np.zeros(1, np.float32), "fresh")
    task, end = Task("agentopd/Checkout-v0", index), Outcome(0.0, False, "overflow")
    return Trajectory(Key("run", 0, index), task, ("student",), (context,), (), end, privileged=facts)


def test_a_hint_that_no_episode_can_show_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    """One that some can show is shown there, and the others are skipped."""
    played = [episode(0, steps="2 and 3"), episode(1)]
    RecordWriter(tmp_path / "records").write(0, [Record(one, ()) for one in played])
    config = written(tmp_path, "config.yaml", json.dumps(cases.raw()))
    for named in ("{no_such_fact}", "{facts} {no_such_fact}"):
        asked = question(tmp_path / "records", [f"teachers.coach={{kind: self, hint: 'Know: {named}'}}"], config)
        told = rf"^teachers\.coach\.hint='Know: {named}': the environment tells .*; so it is in each of the 2 episodes here$"
        with pytest.raises(ConfigError, match=told):
            annotate(asked, tmp_path / "out")
    for known in ("{facts}", "{facts} {next_observation}", "{episode_feedback}"):
        require_told(question(tmp_path / "records", [f"teachers.coach={{kind: self, hint: '{known}'}}"], config), [0])
