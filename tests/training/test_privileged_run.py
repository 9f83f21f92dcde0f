"""A run whose teacher is the student itself, shown the answer: adapters, a cold start half of which shows it, panels, records."""

import json
from pathlib import Path
from typing import Any

import pytest
import training_cases as cases
from peft import LoraConfig

from agentopd import records
from agentopd.chat import Chat
from agentopd.config import Config, load_config
from agentopd.config.shipped import load_recipe, recipes
from agentopd.errors import ConfigError, TrainingError
from agentopd.models import NewModel, load_tokenizer, new_model
from agentopd.training.loop.arguments import AgentOPDConfig
from agentopd.training.loop.trainer import AgentOPDTrainer
from agentopd.training.run.stages import _decides_fit, fit, tokenizer_of
from agentopd.training.run.whole import check, evaluate, train

MARK = "Psst, it comes to"


def config(*overrides: str, **train: Any) -> Config:
    raw = cases.raw(**train)
    raw["teachers"] = {"teacher": {"kind": "privileged", "hint": MARK + " {answer}."}}
    raw["stages"] |= {"teacher": None, "cold_start": {"episodes": 4, "steps": 2, "privileged": 0.5}}
    return load_config(raw, overrides)


@pytest.mark.parametrize("lora", [None, {"r": 2, "lora_alpha": 4}])
def test_invariant_8_nothing_privileged_reaches_the_students_tokens(
    lora: dict[str, int] | None, tmp_path: Path
) -> None:
    train(config(lora=lora), tmp_path / "run")
    tokenizer = load_tokenizer(str(tmp_path / "run" / "student"))
    kept = list(records.open(tmp_path / "run"))
    assert len(kept) == 4
    for record in kept:
        texts = [tokenizer.decode(segment.tokens_T.tolist()) for segment in record.trajectory.segments]
        texts += [message["content"] for message in record.trajectory.opening]
        assert not any(MARK in text for text in texts)
        [annotation] = record.annotations
        assert len(annotation.taken_logprob_N) == sum(int((s.turn_T >= 0).sum()) for s in record.trajectory.segments)
    assert {"student_before", "student_after", "teacher"} <= cases.panels(tmp_path / "run").keys()


def test_the_teacher_reads_the_hint_and_the_student_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[bool, str]] = []
    trainer = cases.trainer(config(), tmp_path, teacher_model=None)
    chat: Chat = trainer.river.chat
    for name, policy in trainer.river.policies.items():
        act = policy.act

        def noted(requests: Any, name: str = name, act: Any = act) -> Any:
            read.extend((name == "teacher", str(chat.tokenizer.decode(list(r.tokens)))) for r in requests)
            return act(requests)

        monkeypatch.setattr(policy, "act", noted)
    trainer.river.draw(0)
    assert read
    assert all((MARK in text) == is_teacher for is_teacher, text in read)


def test_a_teacher_given_in_python_is_the_privileged_one(tmp_path: Path) -> None:
    given = cases.model(7)
    trainer = cases.trainer(config(), tmp_path, teacher_model=given)
    assert trainer.river.teachers["teacher"].model is given
    args = AgentOPDConfig(output_dir=str(tmp_path), agentopd=config(), report_to=[])
    alone = AgentOPDTrainer(cases.model(0), args, cases.tokenizer())
    teacher = alone.river.teachers["teacher"].model
    assert teacher is not None
    assert cases.same_weights(cases.weights(teacher), cases.weights(cases.model(0)))


def test_after_merging_nothing_acts_or_learns_as_if_the_adapter_were_there(tmp_path: Path) -> None:
    args = AgentOPDConfig(output_dir=str(tmp_path), agentopd=config(), report_to=[], disable_tqdm=True)
    lora = LoraConfig(r=2, target_modules=["q_proj"])
    trainer = AgentOPDTrainer(cases.model(0), args, cases.tokenizer(), peft_config=lora)
    trainer.train()
    assert trainer.play_panel(1, actor="teacher").success.n == 1
    trainer.merge()
    trainer.merge()
    assert trainer.play_panel(1).success.n == 1
    with pytest.raises(
        ConfigError, match=r"^actor='teacher': this teacher is the student without its adapter, and merge"
    ):
        trainer.play_panel(1, actor="teacher")
    with pytest.raises(
        TrainingError, match=r"^merge\(\) has added the adapter .*train before merging, or give the merged"
    ):
        trainer.train()
    plain = AgentOPDTrainer(cases.model(0), args, cases.tokenizer())
    plain.merge()  # has no adapter, so nothing ends
    assert plain.train().global_step == 2


def test_a_share_of_privileged_traces_needs_a_hint() -> None:
    raw = cases.raw()
    raw["stages"] |= {"cold_start": {"episodes": 4, "steps": 1, "privileged": 0.5}}
    with pytest.raises(
        ConfigError, match="there are 0 hints that can be shown in them; give exactly one teacher of kind privileged"
    ):
        check(load_config(raw, []))


def test_a_hint_that_names_an_unknown_fact_is_told_before_any_stage(tmp_path: Path) -> None:
    wrong = config("teachers.teacher.hint='{solution}'")
    with pytest.raises(
        ConfigError, match=r"teachers\.teacher, agentopd/Checkout-v0: hint='\{solution\}': the environment tells"
    ):
        train(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_teaches_one_of_two_environments_plays_both(tmp_path: Path) -> None:
    envs = "envs=[{id: agentopd/Checkout-v0}, {id: agentopd/Calculator-v0}]"
    both = config(
        "env=null", envs, "teachers.teacher.hint='{prices}'", "teachers.teacher.where={env: agentopd/Checkout-v0}"
    )
    panel = cases.trainer(both, tmp_path).play_panel(8, actor="teacher")
    assert {played.env for played in panel.episodes} == {env.id for env in both.envs}
    assert not panel.failed


def test_a_hint_that_leaves_its_teacher_no_room_is_refused_before_the_run() -> None:
    """The student reads 1024 tokens and so does its teacher, who reads the hint as well."""
    with pytest.raises(
        ConfigError, match=r"^teachers\.teacher\.hint: it adds (\d+) tokens .*max_length=1020.* 1024"
    ) as error:
        check(config("rollout.max_length=1020"))
    fitting = str(error.value).rpartition("set rollout.max_length to ")[2].split()[0]
    check(config(f"rollout.max_length={fitting}"))
    with pytest.raises(ConfigError, match=r"teachers\.teacher\.hint"):
        check(config(f"rollout.max_length={int(fitting) + 1}"))


def test_the_quickstart_leaves_room_for_the_hint_of_every_recipe(tmp_path: Path) -> None:
    """Each recipe says that it runs on it."""
    hinted = [
        name for name in recipes() if any("hint" in one for one in load_recipe(name).get("teachers", {}).values())
    ]
    assert len(hinted) >= 9
    for name in hinted:
        check(load_config("quickstart", [f"method={name}", f"stages.cache={tmp_path}"]))


UNUSED = "objective.target={kind: reward, name: judge}"


def unused(hint: str, *overrides: str) -> Config:
    """A method that does not use the privileged teacher, whose hint the cold start shows."""
    raw = cases.raw(method="grpo")
    raw["teachers"] = {"coach": {"kind": "privileged", "hint": hint}, "judge": {"kind": "reward"}}
    raw["stages"] |= {"teacher": None, "cold_start": {"episodes": 4, "steps": 2, "privileged": 0.5}}
    return load_config(raw, [UNUSED, *overrides])


def test_a_stages_hint_is_checked_though_no_teacher_of_the_method_reads_it() -> None:
    check(unused("{answer}"))
    with pytest.raises(ConfigError, match=r"^teachers\.coach, agentopd/Checkout-v0: hint='\{solution\}': the environ"):
        check(unused("{solution}"))
    with pytest.raises(ConfigError, match=r"^teachers\.coach\.hint='\{': "):
        check(unused("{", "stages.cold_start=null"))
    message = r"^teachers\.coach\.hint: it adds \d+ tokens .* and the student in stages\.cold_start reads at most 1024"
    with pytest.raises(ConfigError, match=message):
        check(unused("{answer}", "rollout.max_length=1022"))


def test_a_cold_start_behind_a_hint_must_fit_the_student_whatever_its_teacher_reads(tmp_path: Path) -> None:
    new_model(NewModel(**cases.TINY | {"max_positions": 2048}), cases.tokenizer(), 0).save_pretrained(tmp_path)
    longer = (f"teachers.teacher.model={tmp_path}", "rollout.max_length=1020")
    with pytest.raises(ConfigError, match=r"the student in stages\.cold_start reads at most 1024"):
        check(config(*longer))
    check(config(*longer, "stages.cold_start.privileged=0"))


def test_a_trace_that_its_hint_makes_too_long_ends_the_stage(tmp_path: Path) -> None:
    short = new_model(NewModel(**cases.TINY | {"max_positions": 64}), cases.tokenizer(), 0)
    cold, tokenizer = config().stages.cold_start, cases.tokenizer()
    assert cold is not None
    with pytest.raises(
        ConfigError, match=r"^teachers\.teacher\.hint: behind it, a trace of the cold start has \d+ tok"
    ):
        fit(config(), cold, short, tokenizer, print, "cold start")


def test_a_remedy_is_one_that_helps() -> None:
    long = config("teachers.teacher.hint='" + "{prices} " * 60 + "'", "rollout.max_length=1000")
    with pytest.raises(
        ConfigError, match=r"no other value, serves .*shorten the hint, .*give student a model with \d+ "
    ):
        check(long)


def test_a_student_is_evaluated_without_its_teachers_hint(tmp_path: Path) -> None:
    cases.model(0).save_pretrained(tmp_path)
    cases.tokenizer().save_pretrained(str(tmp_path))
    assert evaluate(config("teachers.teacher.hint='{solution}'"), tmp_path, tasks=2).success.n == 2


def test_a_teacher_of_random_weights_is_no_self_distillation() -> None:
    new = json.dumps(cases.TINY | {"vocab_size": 400})
    with pytest.raises(ConfigError, match=r"stages\.teacher=null.*whose weights are new"):
        check(config(f"teachers.teacher.new={new}"))


def test_a_new_teacher_fitted_without_its_hint_is_refused() -> None:
    new, stage = json.dumps(cases.TINY | {"vocab_size": 400}), "stages.teacher={episodes: 4, steps: 1}"
    with pytest.raises(ConfigError, match=r"^stages\.teacher\.privileged=0: teachers\.teacher reads a hint"):
        check(config(f"teachers.teacher.new={new}", stage))
    check(config(f"teachers.teacher.new={new}", stage, "stages.teacher.privileged=0.5"))


def test_a_stage_that_shows_another_hint_is_another_stage() -> None:
    one, other = config(), config("teachers.teacher.hint='So: {answer}'")
    assert tokenizer_of(one, print).get_vocab() == tokenizer_of(other, print).get_vocab()
    stages = [_decides_fit(c, c.stages.cold_start, tokenizer_of(c, print)) for c in (one, other) if c.stages.cold_start]
    assert stages[0] != stages[1]
