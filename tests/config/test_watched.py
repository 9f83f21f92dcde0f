"""A metric that a schedule watches is one that a run measures, or it is refused when the configuration is read."""

import pytest

from agentopd.config import load_config
from agentopd.errors import ConfigError


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("train/los/divergence", r"did you mean 'train/loss/divergence'\?\); there are: train/loss/divergence, "),
        ("train/loss/divergance", r"did you mean 'train/loss/divergence'\?"),
        ("train/loss/nll", r"; there are: train/loss/divergence, "),
        ("''", r"and no step of this method measures that; there are: train/loss/divergence, "),
        ("objective/nosuch", r"; there are: objective/loss/rows, objective/loss/empty, "),
        ("objective/loss/advantage", r"; there are: objective/loss/rows, "),
        ("rollout/sucess", r"did you mean 'rollout/success'\?"),
        (
            "depth/loss/divergence",
            r"\(did you mean 'depth/loss/divergence'\?\); .* each with its turn behind it, such as /1",
        ),
        ("depth/loss/weight/1", r"there are: depth/tokens, "),
        ("train/teacher_entropy/techer", r"did you mean 'train/teacher_entropy/teacher'\?"),
        ("eval_success", r"; there are: "),
    ],
)
def test_a_metric_that_no_run_measures_is_refused(metric: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^objective: a schedule has metric=.*{said}"):
        load_config("quickstart", [f"objective.coefficient={{kind: retire, metric: {metric}}}"])


def test_the_loss_sees_the_entropy_of_teachers_whose_whole_distribution_it_reads() -> None:
    watching = "objective.coefficient={kind: retire, metric: train/teacher_entropy/teacher}"
    load_config("quickstart", ["method=vopd", watching])
    with pytest.raises(ConfigError, match=r"no step of this method measures that"):
        load_config("quickstart", ["method=thinking-machines", watching])


@pytest.mark.parametrize(
    "metric",
    ["loss", "train/loss/divergence", "objective/loss/rows", "rollout/success", "rollout/errors/of_my_own", "depth/loss/divergence/3",
     "depth/errors/9+", "train/teacher_entropy/teacher", "depth/disagreement/teacher/1", "train/idle_steps"],
)  # fmt: skip
def test_a_metric_that_one_does_is_not(metric: str) -> None:
    for schedule in ("retire", "taid"):
        load_config("quickstart", [f"objective.coefficient={{kind: {schedule}, metric: {metric}}}"])
