"""A teacher whose head is filled up further than the student's, as that of Qwen2.5-7B beside that of Qwen2.5-0.5B."""

from pathlib import Path

import pytest
import training_cases as cases
from model_cases import widened


def test_a_wider_teacher_teaches_what_it_says_of_the_students_ids(tmp_path: Path) -> None:
    told = []
    for n, teacher in enumerate([cases.model(1), widened(cases.model(1), 40)]):
        trainer = cases.trainer(cases.tiny(steps=1), tmp_path / str(n), teacher_model=teacher)
        trainer.train()
        told.append({name: value for name, value in trainer.step_metrics.items() if "second" not in name})
    assert told[1] == pytest.approx(told[0], rel=1e-5, nan_ok=True)
