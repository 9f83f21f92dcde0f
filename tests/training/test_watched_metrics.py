"""Whatever a step measures, a schedule may watch."""

from pathlib import Path
from typing import Any

import pytest
import training_cases as cases

from agentopd.config.watched import is_measured, known_metrics
from agentopd.teachers import traits_of

TWO: dict[str, Any] = {
    "terms": [{"name": "kl", "weight": "disagreement"}, {"name": "reward", "target": "reward", "estimator": "score_function"}],
    "sampler": {"per_task": 2, "acting": {"kind": "turns"}},
}  # fmt: skip


@pytest.mark.parametrize("method", ["agentopd", "sft", TWO])
def test_every_metric_of_a_step_is_known_before_it(method: str | dict[str, Any], tmp_path: Path) -> None:
    config = cases.tiny(method=method, steps=1)
    trainer = cases.trainer(config, tmp_path)
    trainer.train()
    known = list(known_metrics(config.objective, {name: traits_of(choice) for name, choice in config.teachers.items()}))
    assert "train/rows" in trainer.step_metrics
    assert [name for name in trainer.step_metrics if not is_measured(name, known)] == []
