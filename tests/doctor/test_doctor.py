"""The doctor finds nothing wrong with a good setup and, one by one, what is wrong with broken ones."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from transformers import PreTrainedTokenizerBase

import agentopd
from agentopd.__main__ import main
from agentopd.chat import Chat
from agentopd.chat.tokenizer import CHAT_TEMPLATE
from agentopd.config import Config, load_config
from agentopd.doctor import Check, answers, examine, memory, template, tokens
from agentopd.doctor.patient import Patient
from agentopd.doctor.whole import CHECKS
from agentopd.models import NewModel, load_tokenizer, new_model
from agentopd.planning import Hardware, plan
from agentopd.planning.memory import GENERATE, LEARN, Part
from agentopd.planning.room import shown
from agentopd.teachers import Stateless, Teacher, TeacherContext, Traits, rowless
from agentopd.training.run.stages import student_of
from agentopd.types import Annotation, Trajectory

TINY = {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 24, "max_positions": 1024, "vocab_size": 400}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {
        "env": {"id": "agentopd/Checkout-v0"},
        "student": {"new": TINY},
        "teachers": {"teacher": {"kind": "local", "new": TINY}},
        "stages": {"cache": str(tmp_path_factory.mktemp("cache")), "teacher": {"episodes": 8, "steps": 1}},
        "rollout": {"max_new_tokens": 24, "max_length": 640, "max_turns": 8},
        "method": "agentopd",
        "train": {"steps": 2, "tasks_per_step": 2, "eval_every": 0, "save_every": 0},
        "evaluation": {"tasks": 4, "during": 2},
    }


@pytest.fixture(scope="module")
def patient(raw: dict[str, Any]) -> Patient:
    """One that is well, whose episodes are played once."""
    return Patient(load_config(raw))


@pytest.fixture(scope="module")
def folder(patient: Patient, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its student, with its tokenizer."""
    path = tmp_path_factory.mktemp("model")
    patient.student.save_pretrained(path)
    patient.tokenizer.save_pretrained(path)
    return path


def rows(config: Config) -> dict[str, list[Check]]:
    checks, _ = examine(config)
    return {name: [check for check in checks if check.name == name] for name in CHECKS}


def one(config: Config, name: str) -> Check:
    """What is found under a name, the worst first."""
    order = ("fail", "warn", "skip", "pass")
    return min(rows(config)[name], key=lambda check: order.index(check.status))


def test_nothing_is_wrong_with_a_good_setup_and_nothing_is_fitted(raw: dict[str, Any]) -> None:
    checks, notes = examine(load_config(raw))
    assert [check.name for check in checks] == list(CHECKS)
    assert {check.status for check in checks} == {"pass"}
    assert any("teacher: no run has fitted it yet" in note for note in notes)
    assert sorted(path.name.partition("-")[0] for path in Path(raw["stages"]["cache"]).iterdir()) == ["tokenizer"]


def test_what_a_run_has_fitted_is_what_is_looked_at(raw: dict[str, Any], tmp_path: Path) -> None:
    config = load_config(
        raw | {"stages": raw["stages"] | {"cache": str(tmp_path), "cold_start": raw["stages"]["teacher"]}}
    )
    tokenizer = Patient(config).tokenizer
    fitted = student_of(config, tokenizer, lambda _: None)
    looked_at = Patient(config)
    for name, value in fitted.state_dict().items():
        torch.testing.assert_close(looked_at.student.state_dict()[name], value)
    assert not any("no run has fitted it" in note for note in looked_at.notes)


def test_the_verb_prints_a_table_or_json_and_its_status(
    raw: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(raw))
    assert main(["doctor", str(tmp_path)]) == 0  # a run folder has such a file
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split("\t") == ["check", "result", "what was found", "what to do"]
    assert [line.split("\t")[0] for line in lines[: len(CHECKS)]] == list(CHECKS)
    assert main(["doctor", str(file), "rollout.max_length=70", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    [wrong] = [check for check in told["checks"] if check["name"] == "lengths"]
    assert wrong["status"] == "fail"
    assert "rollout.max_length=70 is too small" in wrong["found"]
    assert wrong["remedy"].startswith("set rollout.max_length to ")
    assert main(["doctor", str(file), "rollout.max_lenth=70"]) == 2


def test_settings_that_do_not_go_together(raw: dict[str, Any]) -> None:
    check = one(load_config(raw, ["stages.teacher=null"]), "settings")
    assert check.status == "fail"
    assert check.found.startswith("stages.teacher=null: the method uses teachers.teacher, whose weights are new")


def test_a_model_that_is_too_short_and_what_needs_it_is_not_looked_at(raw: dict[str, Any]) -> None:
    found = rows(load_config(raw, ["student.new.max_positions=500"]))
    assert found["models"][0].status == "fail"
    assert found["models"][0].found == "student: the model reads at most 500 tokens, and rollout.max_length=640"
    assert found["models"][0].remedy.startswith("lower rollout.max_length to 500")
    assert found["lengths"] == [Check("lengths", "skip", "it needs models that fit: see above")]


def test_weights_that_have_no_room_are_not_loaded(raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 1000.0)
    found = rows(load_config(raw))
    assert found["memory"][0].status == "fail"
    assert "an estimate" in found["memory"][0].found
    assert "train.max_tokens" in found["memory"][0].remedy
    assert found["temperature"][0].status == "skip"
    assert "no model is loaded" in found["teachers"][0].found


def test_an_estimate_close_to_what_there_is_warns() -> None:
    needed = (
        Part("student", 6e9, "shrink it"),
        Part("activations", 2e9, "cut it", (LEARN,)),
        Part("caches", 1e9, "", (GENERATE,)),
    )
    assert [memory.judged(needed, there).status for there in (7e9, 9e9, 20e9)] == ["fail", "warn", "pass"]
    assert "student 5.6 GiB, activations 1.9 GiB)" in memory.judged(needed, 9e9).found
    assert memory.judged(needed, 7e9).remedy == "shrink it; cut it"


def test_the_estimate_is_that_of_plan(raw: dict[str, Any]) -> None:
    there = 2.0**40
    config = load_config(raw)
    planned = plan(config, Hardware(name="this", memory=there, bandwidth=1.0, bfloat16=1.0, float32=1.0, cpu=True))
    assert f"a step takes roughly {shown(planned.peak)}, of" in rows(config)["memory"][0].found


def copied(folder: Path, target: Path, **changes: Any) -> Path:
    """The model in ``folder`` with another tokenizer or other settings."""
    tokenizer: Any = load_tokenizer(str(folder))
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    model = new_model(NewModel(**TINY), tokenizer, 1)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def test_a_teacher_of_another_vocabulary(raw: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    other: Any = load_tokenizer(str(folder))
    other.add_tokens(["kestrel"])
    new_model(NewModel(**TINY), other, 1).save_pretrained(tmp_path)
    other.save_pretrained(tmp_path)
    swapped = json.loads((tmp_path / "tokenizer.json").read_text())
    vocabulary = swapped["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(swapped))
    config = load_config(raw, [f"teachers.teacher={{kind: local, model: {tmp_path}}}"])
    check = one(config, "tokenizers")
    assert check.status == "fail"
    assert "differs from the student's, for instance in" in check.found
    assert one(config, "models").status == "fail"


def test_a_teacher_with_another_template_or_other_special_tokens(
    raw: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    other = copied(folder, tmp_path, chat_template=CHAT_TEMPLATE.replace("~ system -", '~ "Rules: " ~ system -'))
    check = one(load_config(raw, [f"teachers.teacher={{kind: local, model: {other}}}"]), "tokenizers")
    assert check.status == "warn"
    assert check.found.startswith("teachers.teacher: its chat template is another than the student's")
    same, special = (load_tokenizer(str(folder)) for _ in range(2))
    assert tokens.compared("teachers.t", same, load_tokenizer(str(folder))).status == "pass"
    special.add_special_tokens({"extra_special_tokens": ["<tool_call>"]})
    check = tokens.compared("teachers.t", special, same)
    assert check.status == "warn"
    assert "'<tool_call>'" in check.found


def test_a_model_that_ends_its_turns_otherwise(raw: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    copied(folder, tmp_path)
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    (tmp_path / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": [0]}))
    for override in (f"student={{model: {tmp_path}}}", f"teachers.teacher={{kind: local, model: {tmp_path}}}"):
        check = one(load_config(raw, [override]), "ends of turn")
        assert check.status == "fail"
        assert "ends at <|pad|>, and a turn of the chat template at <|end|>" in check.found


def test_ends_that_agree_in_part(patient: Patient) -> None:
    tokenizer = patient.tokenizer
    end = tokenizer.eos_token_id
    assert isinstance(end, int)
    assert tokens.agreed(frozenset([end]), tokenizer, {"student": frozenset([end, 0])}).status == "pass"
    assert (
        "<|pad|> ends a sequence too"
        in tokens.agreed(frozenset([end]), tokenizer, {"student": frozenset([end, 0])}).found
    )
    assert tokens.agreed(frozenset([0]), tokenizer, {"student": frozenset()}).status == "warn"


class Broken(agentopd.TextEnv):
    """Cannot be played."""

    def start(self) -> str:
        return "Hello"

    def respond(self, text: str) -> str:
        raise RuntimeError("it broke down")


gymnasium.register("doctor/Broken-v0", entry_point=Broken)


def test_an_environment_that_breaks_down(raw: dict[str, Any], folder: Path) -> None:
    own = {"env": {"id": "doctor/Broken-v0"}, "student": {"model": str(folder)}, "method": "grpo", "teachers": {}}
    found = rows(load_config(raw | own | {"stages": {"cache": raw["stages"]["cache"]}}))
    [check] = found["episodes"]
    assert check.status == "fail"
    assert found["temperature"][0].found == "it needs an episode of the student that did not fail: see episodes"
    assert "doctor/Broken-v0, played by student" in check.found
    assert "it broke down" in check.found
    assert "check_text_env('doctor/Broken-v0')" in check.remedy


def test_episodes_that_fill_their_context(raw: dict[str, Any], patient: Patient) -> None:
    longest = max(len(one.trajectory.segments[0].tokens_T) for one in patient.by_expert)
    check = one(load_config(raw, [f"rollout.max_length={longest - 30}"]), "lengths")
    assert check.status == "warn"
    assert check.remedy.startswith("raise rollout.max_length")


FORGETTING = CHAT_TEMPLATE.replace(
    '{{- "<|" ~ message.role ~ "|>" ~ message.content -}}',
    '{{- "<|" ~ message.role ~ "|>" ~ (message.content if messages | length < 4 or loop.last else "") -}}',
)


def test_a_template_that_rewrites_the_past(raw: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    copied(folder, tmp_path, chat_template=FORGETTING)
    *_, check = rows(load_config(raw, [f"student={{model: {tmp_path}}}"]))["chat template"]
    assert check.status == "warn"
    assert "each turn starts a new segment" in check.found
    assert "template_kwargs" in check.remedy


def test_a_template_that_takes_no_tools(raw: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    plain = "{%- for m in messages -%}<|{{ m.role }}|>{{ m.content }}{% if m.role == 'assistant' %}<|end|>{% endif %}{%- endfor -%}"
    copied(folder, tmp_path, chat_template=plain + "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}")
    check = one(load_config(raw, [f"student={{model: {tmp_path}}}"]), "chat template")
    assert check.status == "warn"
    assert "tools: told in the system message" in check.found


def test_an_episode_that_was_read_otherwise_than_the_template_writes_it(patient: Patient) -> None:
    [played] = patient.by_expert
    assert template.continued(patient.chat, [], [played.trajectory]).status == "pass"
    segment = played.trajectory.segments[0]
    tokens_T = segment.tokens_T.copy()
    tokens_T[played.trajectory.turns[1].start - 3] = 70
    odd = replace(played.trajectory, segments=(replace(segment, tokens_T=tokens_T),))
    check = template.continued(patient.chat, [], [odd])
    assert check.status == "warn"
    assert check.found.startswith("before turn 1 of an expert's episode another text was read")
    turns = (replace(played.trajectory.turns[0], drift="forked"), *played.trajectory.turns[1:])
    assert template.continued(patient.chat, [replace(played.trajectory, turns=turns)], []).status == "warn"


def test_a_mask_over_observations(patient: Patient) -> None:
    [played] = patient.by_student
    assert template.covered([played]).status == "pass"
    segment = played.trajectory.segments[0]
    context = int(np.flatnonzero(segment.turn_T < 0)[-1])

    def marked(**columns: Any) -> Check:
        changed = replace(segment, **columns)
        return template.covered([replace(played, trajectory=replace(played.trajectory, segments=(changed,)))])

    trainable_T = segment.trainable_T.copy()
    trainable_T[context] = True
    check = marked(trainable_T=trainable_T)
    assert (check.status, check.found.partition(": ")[2]) == ("fail", f"context is trained on at token {context}")
    assert "an action is not trained on" in marked(trainable_T=np.zeros_like(segment.trainable_T)).found
    turn_T = segment.turn_T.copy()
    turn_T[played.trajectory.turns[1].start - 1] = 1  # the last token of an observation
    assert "the tokens of turn 1 are not those that were generated in it" in marked(turn_T=turn_T).found


def test_greedy_and_cut_rollouts(raw: dict[str, Any]) -> None:
    assert one(load_config(raw, ["rollout.temperature=0.0"]), "temperature").found.startswith("rollout.temperature=0: ")
    for override in ("rollout.top_p=0.9", "rollout.top_k=5"):
        check = one(load_config(raw, [override]), "temperature")
        assert (check.status, check.found.partition(" ")[0]) == ("warn", override)
    assert one(load_config(raw, ["rollout.temperature=0.7"]), "temperature").status == "pass"


def test_tokens_that_were_sampled_at_another_temperature(patient: Patient) -> None:
    played = [one.trajectory for one in patient.by_student]
    said = patient.mirror("student").annotate(played)
    assert answers.parity(played, said, 1.0, torch.float32).status == "pass"
    segment = played[0].segments[0]
    cold = [replace(played[0], segments=(replace(segment, logprob_T=segment.logprob_T * np.float32(2.0)),))]
    assert answers.parity(cold, said, 1.0, torch.float32).status == "fail"


@Traits(corrects=False, distributes=False)
def moody(context: TeacherContext, *, silent: bool = False) -> Teacher:
    """Rewards at random, or not at all."""
    return Moody(name=context.name, corrects=silent)


class Moody(Stateless):
    def annotate(self, trajectories: Sequence[Trajectory]) -> list[Annotation]:
        return [rowless(self.name, one) if self.corrects else _rewarded(self.name, one) for one in trajectories]


def _rewarded(name: str, one: Trajectory) -> Annotation:
    reward_S = np.array([random.random() for _ in one.turns], np.float32)
    return rowless(name, one, reward_S=reward_S, skip_S=np.zeros(len(one.turns), np.bool_))


@pytest.mark.parametrize(("silent", "status"), [(False, "fail"), (True, "warn")])
def test_a_teacher_that_answers_differently_or_never(silent: bool, status: str, raw: dict[str, Any]) -> None:
    judge = {"judge": {"kind": "test_doctor:moody", "silent": silent}}
    objective = {"target": {"kind": "reward", "name": "judge"}, "sampler": {"per_task": 2}}
    own = {"teachers": judge, "method": "grpo", "objective": objective}
    found = rows(load_config(raw | own))
    assert [check.status for check in found["same answer twice"]] == [status]
    assert found["teacher = student"][0].status == "skip"


def test_answers_that_differ_in_what_they_are_about(patient: Patient) -> None:
    said = patient.mirror("t").annotate([one.trajectory for one in patient.by_student])
    assert answers.repeated("t", said, said).status == "pass"
    for changes in ({"skip_S": ~said[0].skip_S[:0]}, {"entropy_N": said[0].entropy_N * np.float32(np.nan)}):
        assert "in what it teaches" in answers.repeated("t", said, [replace(said[0], **changes)]).found


def odd(logp: Tensor, logq: Tensor) -> Tensor:
    """Not zero where both are equal."""
    return (logp.exp() * logp).sum(-1)


def test_a_divergence_that_is_not_zero_for_equal_distributions(raw: dict[str, Any]) -> None:
    check = one(load_config(raw, ["objective.divergence.kind=test_doctor:odd"]), "teacher = student")
    assert check.status == "fail"
    assert check.remedy.startswith("look at the divergence: it must be 0")


@pytest.mark.parametrize("method", ["gkd", "thinking-machines", "vopd", "sod", "eopd", "minillm"])
def test_shipped_methods_teach_nothing_to_a_student_like_the_teacher(
    method: str, raw: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config(raw | {"method": method}, ["train.tasks_per_step=4"])
    assert one(config, "teacher = student").status == "pass"
    assert "trains nothing" not in caplog.text


def test_servers_that_do_not_answer_and_keys_that_are_not_set(raw: dict[str, Any]) -> None:
    served = {"kind": "served", "url": "http://127.0.0.1:9", "patience": 300.0, "top_k": -1}
    own = load_config(raw | {"teachers": {"teacher": served}})
    config = own.model_copy()
    impatient = Patient(config).choices["teacher"].settings["patience"]
    assert impatient <= 5.0
    check = one(load_config(raw | {"teachers": {"teacher": served | {"patience": 0.1}}}), "teachers")
    assert check.status == "fail"
    assert "teacher 'teacher': http://127.0.0.1:9/v1/models did not answer" in check.found
    assert check.remedy == "start the server, or raise patience"
    check = one(load_config(raw | {"teachers": {"teacher": served | {"key_env": "NO_KEY"}}}), "teachers")
    assert "key_env=NO_KEY: this environment variable is not set" in check.found


def test_what_breaks_a_check_is_a_row_and_no_traceback(raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any) -> PreTrainedTokenizerBase:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(Chat, "describe", broken)
    monkeypatch.setattr(Chat, "falls_back", True)
    check = one(load_config(raw), "chat template")
    assert (check.status, check.found) == ("fail", "ZeroDivisionError: by zero")
