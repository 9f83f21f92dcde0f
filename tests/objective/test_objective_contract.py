"""A user's own parts that break their contract: each is one error with the part's key, what it returned and what was expected."""

from typing import Any

import numpy as np
import pytest
import torch
from objective_cases import Saying, Student, episode, method, prepared, record, teacher_heads
from pydantic import ValidationError
from torch import Tensor

from agentopd.errors import ConfigError
from agentopd.objective import divergence, linear_divergence

HERE = "test_objective_contract"
HEADS = teacher_heads("teacher")
SCORED = {"estimator": "score_function"}
GIVEN: dict[str, Any] = {
    "nothing": None,
    "number": 1.0,
    "text": ["a"] * 6,
    "ragged": [[1.0], [1.0, 2.0]],
    "complex": np.ones(6, complex),
    "nan": np.array([1, 1, np.nan, 1, np.nan, 1]),
    "column": np.ones((6, 1)),
    "attached": torch.ones(6, requires_grad=True),
    "torch": torch.full((6,), 0.5),
    "truth": np.arange(6) > 2,
}


def gives(*arguments: Any, what: str) -> Any:
    return GIVEN[what]


def raises(*arguments: Any) -> Any:
    return GIVEN["x"]


def alone(rows: Any) -> Any:
    """A weight that forgets the teacher."""


def needy(rows: Any, teacher: Any, other: Any) -> Any:
    """A weight that asks for more than it gets."""


def out_of_memory(*arguments: Any) -> Any:
    raise torch.OutOfMemoryError("too large")


def detached(logp: Tensor, logq: Tensor) -> Tensor:
    return (logp.detach() - logq).sum(-1)


def disagreement(logp: Tensor, logq: Tensor) -> Tensor:
    return (logp.argmax(-1) != logq.argmax(-1)).float()


def whole_numbers(logp: Tensor, logq: Tensor) -> Tensor:
    return logp.argmax(-1)


def no_number(logp: Tensor, logq: Tensor) -> Tensor:
    return (logp - logq).sum(-1) / 0.0


def one_of_two(logp_N_V: Tensor, teacher: Any) -> Tensor:
    return logp_N_V


def unequal(logp_N_V: Tensor, teacher: Any) -> tuple[Tensor, Tensor]:
    return logp_N_V, teacher.logq_N_V[:, :3]


def cut_off(logp_N_V: Tensor, teacher: Any) -> tuple[Tensor, Tensor]:
    return logp_N_V.detach(), teacher.logq_N_V


def records() -> list[Any]:
    return [record(episode([1, 3]), Saying(), heads=HEADS), record(episode([2], index=1), Saying(), heads=HEADS)]


def own(name: str, **settings: Any) -> dict[str, Any]:
    return {"kind": f"{HERE}:{name}", **settings}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nothing", "returned None for 6 rows; return one finite number"),
        ("number", r"returned shape \(\) of float64 for 6 rows"),
        ("text", r"returned shape \(6,\) of <U1 for 6 rows"),
        ("ragged", "returned a list, no array"),
        ("complex", r"returned shape \(6,\) of complex128"),
        ("nan", "returned nan for row 2, one of 2 bad numbers in 6 rows; return one finite number"),
        ("column", r"returned shape \(6, 1\) of float64"),
        ("attached", r"returned shape \(6,\) of torch\.float32, no array"),
    ],
)
@pytest.mark.parametrize("part", ["weight", "aggregate", "estimator", "coupling"])
def test_what_is_no_number_a_row_is_named(part: str, what: str, message: str) -> None:
    settings = {part: own("gives", what=what)} | (SCORED if part == "coupling" else {})
    with pytest.raises(ConfigError, match=rf"^objective\.{part}\.kind={HERE}:gives {message}"):
        prepared(method(**settings), records())


def test_what_is_a_number_a_row_is_taken_whatever_holds_it() -> None:
    for what, expected in (("torch", [0.5] * 6), ("truth", [0.0] * 3 + [1.0] * 3)):
        assert prepared(method(weight=own("gives", what=what)), records()).terms[0].weight_A.tolist() == expected


def test_a_part_that_raises_is_named_with_its_place() -> None:
    with pytest.raises(
        ConfigError, match=rf"^objective\.weight\.kind={HERE}:raises raised KeyError: 'x' \(line \d+ of .*{HERE}\.py\)$"
    ):
        prepared(method(weight=own("raises")), records())
    with pytest.raises(
        ConfigError, match=r"KeyError: 'x' .*; teacher is None, since the target of this term is no teacher's$"
    ):
        prepared(method(target={"kind": "taken"}, weight=own("raises")), records())
    with pytest.raises(torch.OutOfMemoryError):
        prepared(method(weight=own("out_of_memory")), records())


def test_the_key_is_that_of_the_term_and_of_the_weight() -> None:
    terms = [{"name": "a"}, {"weight": ["uniform", own("raises")]}]
    with pytest.raises(ConfigError, match=r"^objective\.terms\.1\.weight\.1\.kind="):
        prepared(method(terms=terms), records())
    with pytest.raises(ConfigError, match=r"^objective\.terms\.1\.divergence\.kind="):
        student_loss(terms=[{"name": "a"}, {"divergence": own("raises")}])


def test_a_part_of_ours_that_cannot_work_is_named_too() -> None:
    with pytest.raises(ConfigError, match=r"^objective\.weight\.kind=teacher_entropy: .* needs a term whose target"):
        prepared(method(target={"kind": "taken"}, weight="teacher_entropy"), records())


@pytest.mark.parametrize("name", ["alone", "needy"])
def test_a_function_that_cannot_be_called_is_refused_with_the_configuration(name: str) -> None:
    message = rf"weight '{HERE}:{name}' takes \(.*\) -> Any and is called as f\(rows, teacher, \*\*settings\)"
    with pytest.raises(ValidationError, match=message):
        method(weight=own(name))


def student_loss(**settings: Any) -> Tensor:
    return Student.new().loss(prepared(method(**settings), records()), HEADS).loss


@pytest.mark.parametrize(
    ("part", "name", "message"),
    [
        ("divergence", "raises", "raised KeyError: 'x'"),
        ("divergence", "detached", r"returned a tensor without a gradient .* train nothing"),
        ("divergence", "disagreement", r"returned a tensor without a gradient .* train nothing"),
        ("divergence", "whole_numbers", r"returned shape \(5,\) of torch\.int64 for rows of shape \(5,\)"),
        ("divergence", "no_number", r"returned -?inf, one of 5 bad numbers in 5 rows"),
        ("support", "one_of_two", r"returned shape \(5, 11\) of torch\.float64 for 5 rows; return the log-prob"),
        ("support", "unequal", r"returned shape \(5, 11\) of torch\.float64 and shape \(5, 3\) of torch\.float64"),
        ("support", "cut_off", r"returned a tensor without a gradient"),
    ],
)
def test_a_bad_tensor_is_named_in_the_first_chunk(part: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^objective\.{part}\.kind={HERE}:{name} {message}"):
        student_loss(**{part: own(name)})


def test_without_gradient_mode_or_a_trained_student_a_divergence_may_be_constant() -> None:
    student, teacher = torch.randn(4, 7), torch.randn(4, 7)
    leaf, kind = student.clone().requires_grad_(), f"{HERE}:disagreement"
    expected = (student.argmax(-1) != teacher.argmax(-1)).float()
    torch.testing.assert_close(divergence(kind, student, teacher), expected)
    with torch.no_grad():
        torch.testing.assert_close(divergence(kind, leaf, teacher), expected)
        student_loss(divergence=own("disagreement"))
    with pytest.raises(ValueError, match=rf"^kind={kind} returned a tensor without a gradient"):
        divergence(kind, leaf, teacher)
    with pytest.raises(ValueError, match="without a gradient"):
        linear_divergence(leaf, torch.randn(5, 7), teacher, torch.randn(5, 7), kind=kind)


def test_a_tail_bucket_beside_normalisation_is_refused_with_the_configuration() -> None:
    with pytest.raises(ValidationError, match="tail bucket already makes both sides sum to one"):
        method(support={"kind": "top_k", "normalise_teacher": True})
