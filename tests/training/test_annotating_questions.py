"""What `agentopd annotate --teacher` makes of what it is given, before anybody is asked."""

import re
from pathlib import Path

import pytest
import training_cases as cases

from agentopd.errors import ConfigError
from agentopd.training.annotating.question import with_teachers


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
