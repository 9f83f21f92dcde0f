"""A kind of teacher of one's own is treated, before anything is made, as what it says of itself."""

import json
from typing import Any

import pytest
import training_cases as cases
import training_envs  # noqa: F401

from agentopd.config import Config
from agentopd.errors import ConfigError
from agentopd.models import NewModel, new_model
from agentopd.teachers import EVERYWHERE, Teacher, TeacherContext, Traits
from agentopd.teachers.local import local
from agentopd.teachers.rewards import reward
from agentopd.training.checks.preflight import check_experts, check_models, check_prompts, check_teachers
from agentopd.training.checks.roles import hints_of, used_teachers
from agentopd.where import Where

NEW: dict[str, Any] = {"new": cases.TINY | {"vocab_size": 400}}
LENGTHY = "env.id=training_envs:tests/Lengthy-v0"


@Traits(model=True, corrects=False)
def elder(context: TeacherContext, *, new: NewModel | None = None, model: str | None = None) -> Teacher:
    """A model in this process."""
    return local(context, model=model, new=new)


@Traits(model=True, initial=True, hint=True, corrects=False)
def coach(context: TeacherContext, *, hint: str | None, new: dict[str, Any] | None = None) -> Teacher:
    """A model in this process that is shown a hint; by default the student."""
    raise AssertionError("the checks come before any teacher is made")


@Traits(corrects=False)
def silent(context: TeacherContext, *, where: Where = EVERYWHERE) -> Teacher:
    """A judge."""
    return reward(context, where=where)


@Traits(needs_expert=True)
def asking(context: TeacherContext) -> Teacher:
    """One that asks the environment's expert."""
    raise AssertionError("the checks come before any teacher is made")


def config(kind: str, *overrides: str, method: str = "agentopd", **settings: Any) -> Config:
    """The method's teacher is of the kind ``kind`` in this file."""
    teacher = json.dumps({"kind": f"test_roles:{kind}", **settings})
    return cases.tiny(f"teachers={{teacher: {teacher}}}", *overrides, method=method)


def test_new_weights_of_ones_own_kind_need_a_stage() -> None:
    check_teachers(config("elder", **NEW))
    with pytest.raises(ConfigError, match=r"^stages\.teacher=null: the method uses teachers\.teacher, whose weights"):
        check_teachers(config("elder", "stages.teacher=null", **NEW))


@pytest.mark.parametrize(
    "weight", [{"kind": "epistemic"}, {"kind": "gate", "statistic": "aleatoric", "threshold": 1.0, "of": "teacher"}]
)
def test_what_only_an_ensemble_tells_is_asked_of_one(weight: dict[str, Any]) -> None:
    """Found before a stage is fitted; a kind of one's own may tell it."""
    asking = f"objective.weight={json.dumps(weight)}"
    with pytest.raises(
        ConfigError,
        match=rf"^objective\.weight\.kind={weight['kind']}: .* told by an ensemble, .*of kind 'local'; add teachers",
    ):
        check_teachers(cases.tiny(asking))
    check_teachers(config("elder", asking, **NEW))
    first, panel = (
        "teachers.first={kind: local, model: x}",
        "teachers.teacher={kind: ensemble, members: [first, second]}",
    )
    second = first.replace("first", "second").replace("model: x", "model: y")
    check_teachers(cases.tiny(asking, first, second, panel))


def test_a_model_of_ones_own_kind_is_looked_at_before_it_is_loaded() -> None:
    assert [reader.key for reader in check_models(config("elder", **NEW), cases.tokenizer())] == [
        "student",
        "teachers.teacher",
    ]
    short = {"new": NEW["new"] | {"max_positions": 512}}
    with pytest.raises(ConfigError, match=r"^teachers\.teacher: the model reads at most 512 tokens"):
        check_models(config("elder", **short), cases.tokenizer())
    with pytest.raises(ConfigError, match=r"^teachers\.teacher: give exactly one of model .* and new"):
        check_models(config("elder"), cases.tokenizer())
    with pytest.raises(ConfigError, match=r"^teachers\.teacher\.new\.width: unknown key"):
        check_models(config("coach", hint="{answer}", new={"width": 8}), cases.tokenizer())


def test_the_weights_of_ones_own_kind_may_be_given_in_python(tmp_path: Any) -> None:
    given = cases.model(1)
    made = cases.trainer(config("elder", **NEW), tmp_path, teacher_model=given).river.teachers["teacher"]
    assert made.model is given
    short = new_model(NewModel(**cases.TINY | {"max_positions": 512}), cases.tokenizer(), 1)
    with pytest.raises(ConfigError, match=r"^teacher_model: the model reads at most 512 tokens"):
        cases.trainer(config("elder", **NEW), tmp_path, teacher_model=short)


def test_a_hint_of_ones_own_kind_is_read_and_must_be_seen_in_a_stage() -> None:
    assert hints_of(config("coach", hint="It is {answer}."))["teacher"].text == "It is {answer}."
    assert hints_of(config("coach", hint=None)) == {}
    with pytest.raises(ConfigError, match=r"^teachers\.teacher\.hint='\{': "):
        check_teachers(config("coach", hint="{"))
    with pytest.raises(ConfigError, match=r"^stages\.teacher\.privileged=0: teachers\.teacher reads a hint"):
        check_teachers(config("coach", hint="{answer}", **NEW))
    check_teachers(config("coach", hint=None, **NEW))


def test_a_hint_of_ones_own_kind_names_what_is_told_and_fits() -> None:
    with pytest.raises(ConfigError, match=r"^teachers\.teacher, agentopd/Checkout-v0: hint='\{solution\}'"):
        check_prompts(config("coach", hint="{solution}"), cases.tokenizer())
    long = config("coach", "rollout.max_length=1020", hint="{answer}")
    readers = check_models(long, cases.tokenizer())
    with pytest.raises(ConfigError, match=r"^teachers\.teacher\.hint: it adds \d+ tokens .*max_length=1020.* 1024"):
        check_prompts(long, cases.tokenizer(), readers=readers)


def test_a_kind_of_ones_own_that_never_corrects_leaves_nobody_who_does() -> None:
    with pytest.raises(ConfigError, match="no teacher corrects"):
        used_teachers(config("silent", method="dagger"))


def test_a_kind_of_ones_own_that_asks_the_expert_needs_one() -> None:
    check_experts(config("asking", method="dagger"))
    with pytest.raises(ConfigError, match="learns from the environments' experts, and training_envs:tests/Lengthy-v0"):
        check_experts(config("asking", LENGTHY, method="dagger"))
    named = config("asking", LENGTHY, "objective.target={kind: reward, name: teacher}", method="grpo")
    with pytest.raises(ConfigError, match="learns from the environments' experts"):
        check_experts(named)
    check_experts(config("asking", LENGTHY, method="grpo"))
