"""A run that a model with another tokenizer teaches, and what is refused before it."""

import math
from pathlib import Path

import pytest
import torch
import training_cases as cases
from foreign_cases import GLM, foreign

from agentopd import records
from agentopd.__main__ import main
from agentopd.config import Config
from agentopd.doctor import examine
from agentopd.errors import ConfigError
from agentopd.models import NewModel, new_model
from agentopd.training.loop.arguments import arguments
from agentopd.training.loop.trainer import AgentOPDTrainer
from agentopd.training.run.whole import check, train
from agentopd.types import Span

TINY = NewModel(**{**cases.TINY, "max_positions": 4096})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of another family, with its tokenizer."""
    place = tmp_path_factory.mktemp("foreign")
    new_model(TINY, foreign(GLM), 3).save_pretrained(place)
    foreign(GLM).save_pretrained(place)
    return str(place)


def config(folder: str, *overrides: str, method: str = "gold") -> Config:
    return cases.tiny(f"teachers.teacher={{kind: cross_tokenizer, model: '{folder}'}}", *overrides, method=method)


def test_the_doctor_finds_it_well(folder: str) -> None:
    checks, _ = examine(config(folder))
    assert [check for check in checks if check.status == "fail"] == []
    [beside] = [check for check in checks if check.name == "tokenizers"]
    assert "teachers.teacher: a tokenizer of its own; " in beside.found


def test_it_annotates_what_was_played_before(folder: str, tmp_path: Path) -> None:
    train(cases.tiny(), tmp_path / "run")
    teacher = f"teachers.other={{kind: cross_tokenizer, model: '{folder}'}}"
    cache = str(tmp_path / "cache")
    assert (
        main(
            [
                "annotate",
                str(tmp_path / "run"),
                "--output",
                str(tmp_path / "more"),
                "--cache",
                cache,
                "--teacher",
                teacher,
            ]
        )
        == 0
    )
    kept = sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())
    again = teacher.replace("teachers.other", "teachers.another")
    assert (
        main(
            [
                "annotate",
                str(tmp_path / "run"),
                "--output",
                str(tmp_path / "again"),
                "--cache",
                cache,
                "--teacher",
                again,
            ]
        )
        == 0
    )
    assert (
        sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()) == kept
    )  # nothing was asked twice
    added = [one for record in records.open(tmp_path / "more") for one in record.annotations if one.teacher == "other"]
    assert not all(said.skip_S.all() for said in added)
    for said in added:  # where a call is malformed in each turn nothing is taught
        assert isinstance(said.block, Span) == (len(said.index_N) > 0) == (not said.skip_S.all())


@pytest.mark.parametrize("method", ["gold", "uld", "thinking-machines"])
def test_a_run_learns_from_it(folder: str, method: str, tmp_path: Path) -> None:
    result = train(config(folder, method=method), tmp_path / "run")
    assert all(math.isfinite(value) for value in result.metrics.values())
    assert result.metrics["train/grad_norm" if "train/grad_norm" in result.metrics else "grad_norm"] > 0
    assert 0.0 < result.metrics["teacher/teacher/aligned_bytes"] <= 1.0
    assert set(result.panels) == {"student_before", "student_after"}  # it does not play
    said = [one for record in records.open(tmp_path / "run") for one in record.annotations if one.teacher == "teacher"]
    taught = [one for one in said if not one.skip_S.all()]  # where a call is malformed in each turn nothing is
    assert taught
    assert all(isinstance(one.block, Span) and (one.taken_logprob_N < 0).any() for one in taught)


def test_how_a_step_is_cut_changes_nothing(folder: str, tmp_path: Path) -> None:
    gradients = []
    for cut in ("train.max_tokens=100000", "train.max_tokens=400", "train.layout=packed"):
        settings = config(folder, cut, "train.chunk_rows=7")
        student = cases.model(0).double()
        trainer = AgentOPDTrainer(student, arguments(settings, tmp_path), cases.tokenizer())
        trainer.training_step(student, trainer.river.draw(0))
        gradients.append({name: p.grad for name, p in student.named_parameters() if p.grad is not None})
    assert any(float(gradient.abs().max()) > 1e-5 for gradient in gradients[0].values())
    for other in gradients[1:]:
        for name, gradient in other.items():
            torch.testing.assert_close(gradient, gradients[0][name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("objective.divergence=forward_kl",), r"objective\.divergence\.kind=forward_kl: .*set divergence: \{kind: gold\} .*teachers\.teacher\.kind=cross_tokenizer has a vocabulary of its own"),
        (("objective.support={kind: top_k, k: 4}",), r"objective\.support\.kind=top_k"),
        (("objective.temperature=2.0",), r"objective\.temperature=2\.0"),
        (("teachers.all={kind: ensemble, members: [teacher, teacher2]}", "teachers.teacher2={kind: self}"), r"'teacher' is of kind cross_tokenizer, which has a tokenizer of its own"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_told_when_the_configuration_is_read(
    folder: str, overrides: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        config(folder, *overrides)


def test_what_it_cannot_do_is_told_before_anything_is_fitted(folder: str, tmp_path: Path) -> None:
    acting = config(folder, "objective.sampler.actors={student: 0.5, teacher: 0.5}")
    with pytest.raises(
        ConfigError,
        match=r"'teacher' is to act, and teachers\.teacher\.kind=cross_tokenizer has a tokenizer of its own",
    ):
        check(acting, tmp_path / "run")
    check(config(folder), tmp_path / "run")
    short = new_model(TINY.model_copy(update={"max_positions": 64}), foreign(GLM), 0)
    short.save_pretrained(tmp_path / "short")
    foreign(GLM).save_pretrained(tmp_path / "short")
    with pytest.raises(
        ConfigError, match=r"^teachers\.teacher: in its own tokens the first prompt of .* reads at most 64"
    ):
        check(config(str(tmp_path / "short")), tmp_path / "run")
    new_model(TINY, cases.tokenizer(), 0).save_pretrained(tmp_path / "small")
    small = config(str(tmp_path / "small"), f"teachers.teacher.tokenizer='{folder}'")
    with pytest.raises(
        ConfigError, match=r"knows \d+ token ids, and its tokenizer makes 700; give the model's own tokenizer"
    ):
        check(small, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"^teachers\.teacher\.model=.*has no tokenizer_config\.json"):
        check(config(str(tmp_path / "small")), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"^teachers\.teacher\.tokenizer='.*nowhere': there is no such folder"):
        check(config(folder, f"teachers.teacher.tokenizer={tmp_path / 'nowhere'}"), tmp_path / "run")


def test_another_model_given_in_python_does_not_stand_for_it(folder: str, tmp_path: Path) -> None:
    settings = config(folder)
    with pytest.raises(ConfigError, match=r"teacher_model would stand for teachers\.teacher, of kind cross_tokenizer"):
        AgentOPDTrainer(cases.model(0), arguments(settings, tmp_path), cases.tokenizer(), teacher_model=cases.model(1))
