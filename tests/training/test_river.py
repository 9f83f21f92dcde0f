"""What one step draws: from which sources, and how many tasks of each."""

from collections import Counter
from pathlib import Path

import training_cases as cases

EXPERTS = "method={sources: {a: {actors: {expert: 1}}, b: {actors: {expert: 1}}}, where: {}, target: {kind: taken}}"


def test_sources_share_exactly_the_tasks_of_a_step_and_every_step_alike(tmp_path: Path) -> None:
    river = cases.trainer(cases.tiny(EXPERTS, tasks_per_step=5), tmp_path).river
    for step in range(2):
        records = river.draw(step).records
        assert Counter(record.trajectory.segments[0].source for record in records) == {"a": 3, "b": 2}
        assert [record.trajectory.key.index for record in records] == list(range(5))
