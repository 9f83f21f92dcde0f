"""docs/not-learning.md names metrics that runs log, keys that configurations have, and teachers' panels as they are called."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import training_cases as cases

from agentopd.config import load_config
from agentopd.config.shipped import recipes
from agentopd.config.watched import is_measured, known_metrics
from agentopd.errors import ConfigError
from agentopd.objective.weights import WEIGHTS
from agentopd.teachers import Traits
from agentopd.training.run.whole import train

PAGE = (Path(__file__).parents[2] / "docs" / "not-learning.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"`([^`]+)`", PAGE)
METRICS = sorted({name for name in QUOTED if re.fullmatch(r"(rollout|objective|train|panel|depth)/\S+", name)})
KEYS = sorted(
    {
        text
        for text in QUOTED
        if re.fullmatch(r"(teachers|stages|objective|rollout|train|env|evaluation|template_kwargs)(\.\w+)*(=.+)?", text)
    }
)


def test_the_page_names_many() -> None:
    assert len(METRICS) > 20
    assert len(KEYS) > 20


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What two runs of the page's names log: with a weight and a divergence, and with a reward."""
    run = tmp_path_factory.mktemp("page")
    weighed = cases.tiny("objective.weight.kind=teacher_entropy", eval_every=1)
    train(weighed, run / "weighed")
    return {name for row in cases.metrics(run / "weighed") for name in row}


def other_names() -> Iterator[str]:
    """What a run of a score function can measure, under the same names."""
    scored = cases.tiny(method="grpo").objective
    yield from known_metrics(scored, {"teacher": Traits(distributes=True)})


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_logged(name: str, logged: set[str]) -> None:
    assert name in logged or is_measured(name, list(other_names()))


def test_a_key_that_is_none_would_be_found() -> None:
    for text in ("rollout.max_turnz", "objective.wheree", "stages.techer", "env.kwargz"):
        with pytest.raises(ConfigError, match="unknown key"):
            load_config("quickstart", [f"{text}=[[]]"])
    assert not is_measured("rollout/cutt", list(other_names()))


@pytest.mark.parametrize("text", KEYS)
def test_every_key_is_one(text: str) -> None:
    key, given, value = text.partition("=")
    privileged = ["teachers.teacher={kind: privileged, hint: '{facts}'}", "stages.teacher=null"]
    if text == "teachers.teacher.kind=privileged":  # with a hint, as the page says
        assert load_config("quickstart", privileged).teachers["teacher"].kind == value
    elif given:
        load_config("quickstart", [text])
    elif key == "teachers.teacher.model":
        load_config("quickstart", ["teachers.teacher={kind: local, model: a-folder}"])
    else:
        with pytest.raises(ConfigError) as told:  # known, and not made of this
            load_config("quickstart", [f"{key}=[[]]"])
        assert "unknown key" not in str(told.value)


def test_the_methods_weights_and_pages_are_there() -> None:
    assert {*re.findall(r"`method=([\w-]+)`", PAGE)} <= {*recipes()}
    assert {*re.findall(r"weight\.kind=(\w+)", PAGE), "epistemic", "until_mistake"} <= {*WEIGHTS}
    for page in re.findall(r"docs/([\w-]+\.md)", PAGE):
        assert (Path(__file__).parents[2] / "docs" / page).exists()
