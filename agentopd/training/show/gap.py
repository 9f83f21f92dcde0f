"""How much better a teacher acts than the student does before training, and whether that is enough to learn from."""

from collections.abc import Iterator

from agentopd.evaluation import Panel, paired_difference

ENOUGH = 0.1
"""The difference of success from which on a teacher has something to show."""

HIGH = 0.9
"""The success from which on it is no fault of a teacher that a student is close."""


def gap_lines(name: str, teacher: Panel, student: Panel) -> Iterator[str]:
    """What to say of a teacher: the paired difference of success, its parts by family where there are several, and a warning where the
    whole is below :data:`ENOUGH`.

    Args:
        name: The teacher's.
        teacher: Its panel.
        student: The student's panel of the same tasks, before training.
    """
    whole, parts = teacher.change_from(student), teacher.changes_from(student)
    yield f"{name} minus student: {whole.text()}"
    if len(parts) > 1:
        yield from (f"{name} minus student, {family}: {part.text()}" for family, part in parts.items())
    if whole.value < ENOUGH:
        low = [family for family, part in parts.items() if part.value < ENOUGH] if len(parts) > 1 else []
        yield _warning(name, teacher.success.value, whole.value) + (f" (families: {', '.join(low)})" if low else "")


DOUBT = 0.2
"""The loss of success by sampling from which on a teacher's distribution is much worse than its most probable actions."""


def doubt_line(name: str, chosen: Panel, sampled: Panel) -> str | None:
    """A warning where a teacher whose actions are drawn as in training does much worse: its distribution is what a student learns.

    Args:
        name: The teacher's.
        chosen: Its panel.
        sampled: Its panel on the first of these tasks, sampled as in training.
    """
    lost = paired_difference(chosen.success_B[: len(sampled.success_B)], sampled.success_B)
    if lost.value > -DOUBT:
        return None
    return (
        f"{name} sampled as in training, minus {name} as evaluated: {lost.text()}; its distribution is what a student learns, so it "
        "teaches its doubts too: train it longer (stages), show it more, or lower rollout.temperature, at which both are compared"
    )


def _warning(name: str, success: float, gap: float) -> str:
    if success >= HIGH and gap > -ENOUGH:
        return (
            f"the student is already close to {name}, which succeeds on {100 * success:.1f}%, so little is left to learn "
            "from it; choose harder tasks (env.kwargs), or train fewer steps"
        )
    degree = "no better" if gap <= 0 else f"less than {100 * ENOUGH:.0f} points better"
    return (
        f"{name} is {degree} than the student already is, so it can hardly teach it; train it longer (stages.teacher), or "
        f"give teachers.{name} a better model"
    )
