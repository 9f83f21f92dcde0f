"""Which recorded episodes teachers are asked about together."""

from agentopd.training.annotating.asking import groups
from agentopd.types import Key, Outcome, Task, Trajectory


def test_episodes_of_one_task_are_always_asked_about_together() -> None:
    def of(task: int) -> Trajectory:
        return Trajectory(Key("run", 0, 0), Task("e", task), ("student",), (), (), Outcome(0.0, False, "terminated"))

    order = [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 7, 9]
    made = groups([of(task) for task in order])
    assert sorted(i for some in made for i in some) == list(range(len(order)))
    assert [{order[i] for i in some} for some in made] == [{0, 1, 2, 3, 4, 5, 6}, {7, 8, 9}]
