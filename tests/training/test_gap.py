"""What is said of a teacher before training, by hand."""

from collections.abc import Sequence

from agentopd.evaluation import Panel, Played, paired_difference
from agentopd.training.show.gap import doubt_line, gap_lines


def _panel(*families: tuple[str, Sequence[int]]) -> Panel:
    """Tasks of each family, in order, with the success of each."""
    told = [(family, success) for family, successes in families for success in successes]
    return Panel(
        tuple(Played(str(i), "a/A-v0", bool(s), 0.0, 1, ((),), "terminated", family=f) for i, (f, s) in enumerate(told))
    )


def test_a_teacher_with_a_lead_is_told_in_one_line() -> None:
    student, teacher = [0] * 8 + [1] * 2, [0] * 5 + [1] * 5
    lines = list(gap_lines("t", _panel(("", teacher)), _panel(("", student))))
    assert lines == [f"t minus student: {paired_difference(student, teacher).text()}"]
    assert "+30.0 points [" in lines[0]


def test_a_lead_is_told_by_family_where_there_are_several() -> None:
    """In all 4 of 10, which is enough; 4 of 4 in one family and 0 of 6 in the other."""
    teacher = _panel(("gcd", [1] * 4), ("sum", [1] * 3 + [0] * 3))
    student = _panel(("gcd", [0] * 4), ("sum", [1] * 3 + [0] * 3))
    lines = list(gap_lines("t", teacher, student))
    assert [line.partition(" points")[0] for line in lines] == [
        "t minus student: +40.0",
        "t minus student, gcd: +100.0",
        "t minus student, sum: +0.0",
    ]


def test_a_lead_below_ten_points_is_warned_of_with_the_families_that_lack_it() -> None:
    """One of 12 in all; one of 6 in the first family, which is enough there."""
    student = _panel(("gcd", [0] * 6), ("sum", [0] * 6))
    *_, said = gap_lines("t", _panel(("gcd", [1] + [0] * 5), ("sum", [0] * 6)), student)
    assert said.startswith("t is less than 10 points better than the student already is, so it can hardly teach it;")
    assert said.endswith("give teachers.t a better model (families: sum)")


def test_ten_points_are_enough() -> None:
    assert len(list(gap_lines("t", _panel(("", [1] + [0] * 9)), _panel(("", [0] * 10))))) == 1


def test_no_lead_at_all_is_said_as_such() -> None:
    for teacher in ([0] * 10, [1] + [0] * 9):
        lines = list(gap_lines("t", _panel(("", teacher)), _panel(("", [0] * 9 + [1]))))
        assert lines[1].startswith("t is no better than the student already is")
        assert "families" not in lines[1]


def test_a_good_teacher_whose_student_is_close_is_not_blamed() -> None:
    for teacher, student in ((20, 19), (19, 19), (18, 19)):
        panels = (_panel(("", [1] * n + [0] * (20 - n))) for n in (teacher, student))
        said = list(gap_lines("t", *panels))[1]
        assert said.startswith(f"the student is already close to t, which succeeds on {5 * teacher}.0%")
    said = list(gap_lines("t", _panel(("", [1] * 18 + [0] * 2)), _panel(("", [1] * 20))))[1]
    assert "no better" in said


def test_a_teacher_that_does_much_worse_when_sampled_is_told_of_its_doubts() -> None:
    """The sampled panel has the first ten tasks: nine of them right by the most probable actions, and seven."""
    chosen = _panel(("", [1] * 9 + [0] * 11))
    said = doubt_line("t", chosen, _panel(("", [1] * 7 + [0] * 3)))
    assert said is not None
    assert said.startswith("t sampled as in training, minus t as evaluated: -20.0 points [")
    assert doubt_line("t", chosen, _panel(("", [1] * 8 + [0] * 2))) is None
