"""A term that could never find a row is refused when a configuration is read."""

import pytest

from agentopd.config import load_config
from agentopd.errors import ConfigError

EXPERT = "objective.sampler={actors: {expert: 1.0}}"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            [EXPERT],
            r"^objective\.where\.actor=\['student'\]: none of them acts in fresh, .*; there act: expert; select one",
        ),
        (["objective.where={actor: expert}"], r"^objective\.where\.actor=\['expert'\]: .*; there act: student; "),
        (
            ["objective.where={source: corrected, actor: student}"],
            r"^objective\.where\.actor=\['student'\]: .* any source",
        ),
        (["objective.where={min_turn: 8}"], r"^objective\.where\.min_turn=8: .* an episode has at most 8; lower it"),
        (["objective.where={tag: hard}"], r"^objective\.where\.tag: there is no 'hard'; there are: none$"),
        (
            ["objective.weight={kind: shape, actor: expret}"],
            r"^objective\.weight\.kind=shape: actor: nobody is .*'expert'\?",
        ),
        (["env.tags=[hard]", "objective.where={tag: hrad}"], r"there is no 'hrad' \(did you mean 'hard'\?\)"),
    ],
)
def test_a_selection_that_matches_nobody(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config("quickstart", overrides)


def test_a_selection_that_may_match() -> None:
    load_config("quickstart", [EXPERT, "objective.where={actor: expert}"])
    load_config(
        "quickstart",
        ["objective.where={source: corrected, actor: expert}", "objective.target=taken", "objective.divergence=null"],
    )
    load_config("quickstart", ["env.tags=[hard]", "objective.where={tag: hard, min_turn: 7}"])
    frozen = "objective.sampler={kind: frozen, episodes: 8}"  # its episodes may be given in Python
    load_config("quickstart", [frozen, "objective.where={actor: expert}"])
