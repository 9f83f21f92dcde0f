"""``docs/objective.md``: its list of kinds is that of the registries, and its examples run."""

import inspect
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from objective_cases import H, Saying, Student, V, episode, method, record, teacher_heads

from agentopd.acting import ACTING, ROUNDING, Moment, Turns
from agentopd.config import load_config
from agentopd.objective import (
    Episodes,
    LiveColumns,
    Objective,
    Prepared,
    Rows,
    TeacherColumns,
    cut,
    divergence,
    linear_divergence,
    loss,
    prepare,
)
from agentopd.objective.advantages import COUPLINGS
from agentopd.objective.aggregates import AGGREGATES
from agentopd.objective.contract import CONTRACTS
from agentopd.objective.divergences import DIVERGENCES
from agentopd.objective.estimators import ESTIMATORS
from agentopd.objective.live import live_columns
from agentopd.objective.supports import SUPPORTS
from agentopd.objective.targets import TARGETS
from agentopd.objective.weights import WEIGHTS
from agentopd.settings.choice import at
from agentopd.settings.clock import Clock
from agentopd.settings.schedules import SCHEDULES
from agentopd.settings.signature import Registry

PAGE = (Path(__file__).parents[2] / "docs" / "objective.md").read_text(encoding="utf-8")
SAMPLERS, *METHODS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
HEADS = teacher_heads("teacher")
REGISTRIES: Mapping[str, Registry] = {
    "target": TARGETS,
    "divergence": DIVERGENCES,
    "support": SUPPORTS,
    "estimator": ESTIMATORS,
    "weight": WEIGHTS,
    "aggregate": AGGREGATES,
    "coupling": COUPLINGS,
    "acting": ACTING,
    "schedule": SCHEDULES,
}


@pytest.fixture(autouse=True)
def mine(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The page's examples as the module that it says they stand in."""
    module = ModuleType("mine")
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, module.__dict__)
    monkeypatch.setitem(sys.modules, "mine", module)
    return module


def records(sources: Sequence[str]) -> list[Any]:
    """Two tasks, two episodes each, one of which succeeds; the tasks of the method's sources in turn."""
    turns = [[2, 3, 1], [1, 2], [4], [2, 2]]
    made = [
        episode(t, index=i, task=i // 2, reward=float(i), success=i % 2 == 1, source=sources[i // 2 % len(sources)])
        for i, t in enumerate(turns)
    ]
    return [record(one, Saying(), heads=HEADS) for one in made]


def ready(student: Student, objective: Objective) -> Prepared:
    """Prepared as if the student itself had acted, so that no ratio is clipped."""
    rows = Rows.of(records([*objective.sources]))
    live = live_columns(
        rows, lambda ids, _: student.embedding_V_H[ids].cumsum(1).tanh(), student.head, 10**6, "padded", 1.0, 100
    )
    acted = replace(rows, logprob_A=live.logprob_A).with_live(live)
    return prepare(objective, acted, Clock(3, 10))


def value(student: Student, objective: Objective, max_tokens: int = 10**6, chunk_rows: int = 5) -> torch.Tensor:
    batches = cut(ready(student, objective), max_tokens)
    return torch.stack(
        [loss(student.hidden(b), student.head, HEADS, b, chunk_rows=chunk_rows).loss for b in batches]
    ).sum()


def _cell(parameter: inspect.Parameter) -> str:
    default: Any = parameter.default
    return (
        parameter.name if default is parameter.empty else f"{parameter.name}={yaml.safe_dump(default).splitlines()[0]}"
    )


def test_the_list_of_kinds_is_that_of_the_registries() -> None:
    listed: dict[tuple[str, str], list[str]] = {}
    for part, kinds, settings in re.findall(r"^\| (`\w+`) \| (.+?) \| (.*)\|$", PAGE, re.MULTILINE):
        for kind in re.findall(r"`(\w+)`", kinds):
            listed[part.strip("`"), kind] = re.findall(r"`([^`]+)`", settings)
    assert listed == {
        (part, kind): [
            _cell(p)
            for p in inspect.signature(function).parameters.values()
            if p.kind is inspect.Parameter.KEYWORD_ONLY
        ]
        for part, registry in REGISTRIES.items()
        for kind, function in registry.items()
    }


@pytest.mark.parametrize("part", sorted(CONTRACTS))
def test_every_part_has_its_contract_and_an_example_of_at_most_five_lines(part: str, mine: ModuleType) -> None:
    found = re.search(rf"\*\*{part.capitalize()}\*\*: `f\((.*?), \*\*settings\).*?```python\n(.*?)```", PAGE, re.DOTALL)
    assert found
    assert found[2].count("\n") <= 5
    names = re.findall(r"def (\w+)", found[2])
    parameters = inspect.signature(getattr(mine, names[0])).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert found[1].split(", ") == positional
    assert len(positional) == len(CONTRACTS[part].arguments)


@pytest.mark.parametrize(
    "settings",
    [
        {"weight": "mine:agreement"},
        {"aggregate": "mine:early"},
        {"estimator": "mine:bounded"},
        {"estimator": "mine:hinge"},
        {"divergence": {"kind": "jsd", "beta": {"kind": "mine:deeper", "later": 0.7}}},
        {"estimator": "score_function", "coupling": "mine:successes"},
        {"target": {"kind": "mine:halfway", "name": "teacher", "reference": "teacher", "share": 0.3}},
        {"target": {"kind": "mine:halfway", "name": "teacher", "reference": "teacher"}, "estimator": "score_function"},
        {"support": {"kind": "mine:without_eos", "eos": 3}},
        {"divergence": {"kind": "mine:total_variation", "power": 2.0}},
    ],
)
def test_each_example_trains_and_does_not_depend_on_the_cut(settings: dict[str, Any]) -> None:
    student, objective = Student.new(), method(**settings)
    whole = value(student, objective)
    gradients = torch.autograd.grad(whole, student.parameters)
    assert all(gradient.abs().max() > 1e-6 for gradient in gradients)
    pieces = value(student, objective, max_tokens=1, chunk_rows=2)
    torch.testing.assert_close(pieces, whole)
    for one, other in zip(torch.autograd.grad(pieces, student.parameters), gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_the_divergence_works_outside_of_a_run() -> None:
    student, teacher = torch.randn(2, 3, V).requires_grad_(), torch.randn(2, 3, V)
    expected = 0.5 * (student.softmax(-1) - teacher.softmax(-1)).abs().sum(-1)
    torch.testing.assert_close(divergence("mine:total_variation", student, teacher), expected)
    hidden, weight = torch.randn(4, H).requires_grad_(), torch.randn(V, H)
    out = linear_divergence(hidden, weight, hidden.detach(), weight.flip(0), kind="mine:total_variation")
    assert torch.autograd.grad(out.loss, hidden)[0].abs().max() > 0


def test_the_fused_divergences_work_as_shown(mine: ModuleType) -> None:
    assert mine.hidden.grad.abs().max() > 0
    assert all(column.shape == (6,) and column.isfinite().all() for column in mine.seen)
    logits, teachers = mine.hidden @ mine.weight.T, [mine.head.logits(mine.wide), mine.hidden @ mine.weight.T]
    q, r = (teacher.detach().log_softmax(-1) for teacher in teachers)
    for out, kind, target in (
        (mine.mixed, "forward_kl", (0.7 * q.exp() + 0.3 * r.exp()).log()),
        (mine.past, "reverse_kl", 1.25 * q - 0.25 * r),
    ):
        torch.testing.assert_close(out.divergence, divergence(kind, logits, target).detach(), rtol=1e-4, atol=1e-4)
    assert (mine.mixed.epistemic >= 0).all()
    assert (mine.sparse.divergence <= divergence("forward_kl", logits, q) + 1e-5).all()
    gap = logits.log_softmax(-1).gather(1, mine.ids[:, :1])[:, 0] - mine.logprobs[:, 0]
    torch.testing.assert_close(mine.sampled.divergence, (gap**2 / 2).detach())


@pytest.mark.parametrize("text", METHODS)
def test_each_method_is_a_file_that_loads_and_trains(text: str, tmp_path: Path) -> None:
    file = tmp_path / "my_method.yaml"
    file.write_text(text, encoding="utf-8")
    objective = load_config("quickstart", [f"method={file}"]).objective
    student = Student.new()
    assert all(term.coef_A.any() for term in ready(student, objective).terms)
    gradients = torch.autograd.grad(value(student, objective), student.parameters)
    assert all(gradient.abs().max() > 1e-6 for gradient in gradients)


def test_the_samplers_follow_the_schedules_of_their_papers(tmp_path: Path) -> None:
    file = tmp_path / "samplers.yaml"
    file.write_text(SAMPLERS, encoding="utf-8")
    sources = load_config("quickstart", [f"method={file}"]).objective.sources
    for step in range(250):
        clock, depth = Clock(step, 250), 1 + min(step, 50) // 2
        assert math.floor(at(sources["forward"].max_turns, clock, "") + ROUNDING) == depth
        backward, guided = (sources[name].acts(clock) for name in ("backward", "guided"))
        for turn in range(40):
            assert (backward.who(Moment(turn, 0.0, shown_turns=30)) == "expert") == (turn < 30 - depth)
        probability = 0.5 * (1 + math.cos(math.pi * min(step / (0.8 * 249), 1)))  # steps count from 0
        assert isinstance(guided, Turns)
        assert guided.probability == pytest.approx(probability)


def test_there_are_five_methods() -> None:
    assert len(METHODS) == 5


def test_the_table_of_columns_lists_them_all() -> None:
    listed = set(re.findall(r"`((?:rows|teacher)\.[\w.]+)(?:\[name\])?`(?=.* \|)", PAGE))
    held = {
        f"{name}.{f.name}"
        for name, kind in {
            "rows": Rows,
            "rows.live": LiveColumns,
            "rows.episodes": Episodes,
            "teacher": TeacherColumns,
        }.items()
        for f in fields(kind)
    }
    assert listed == (held - {"rows.records", "rows.segments", "rows.recomputed"}) | {"teacher.covered_A"}
