"""The doctor, and a run, beside a server whose model is not what the configuration takes it for."""

from pathlib import Path

import pytest
import training_cases as cases
from foreign_cases import GLM, foreign
from serving_cases import serving

from agentopd.config import Config
from agentopd.doctor import examine
from agentopd.errors import ConfigError
from agentopd.training.run.whole import check


def taught_by(url: str) -> Config:
    teacher = f"teachers.teacher={{kind: served, url: '{url}', top_k: 8, patience: 1.0}}"
    return cases.tiny(teacher, "objective.support={kind: top_k, k: 8}", "stages.teacher=null")


def test_a_server_of_another_tokenizer_is_refused_before_anything_is_fitted(tmp_path: Path) -> None:
    with serving(cases.model(1), longest=1024) as server:
        server.tokenizer = foreign(GLM)
        with pytest.raises(
            ConfigError,
            match=rf"^teachers\.teacher\.url={server.url}: its model 'tiny' has another tokenizer than the student.*cross_tokenizer",
        ):
            check(taught_by(server.url), tmp_path / "run")
        assert not server.questions
        [found, *_] = [one for one in examine(taught_by(server.url))[0] if one.status == "fail"]
        assert "has another tokenizer than the student" in found.found
        assert found.remedy.startswith("serve a model that shares the student's tokenizer")


@pytest.mark.parametrize("tells", [True, False])
def test_one_of_the_same_tokenizer_or_that_does_not_tell_is_taken(tells: bool, tmp_path: Path) -> None:
    with serving(cases.model(1), longest=1024) as server:
        server.tokenizer = cases.tokenizer() if tells else None
        check(taught_by(server.url), tmp_path / "run")
