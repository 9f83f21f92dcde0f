"""Mistakes are named before anything expensive happens, and a loss that is not finite keeps what was there."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import training_cases as cases
from safetensors.torch import load_file

from agentopd import records
from agentopd.errors import AgentOPDError, ConfigError, TrainingError
from agentopd.models import NewModel, build_tokenizer, new_model
from agentopd.objective import LossOutput
from agentopd.training.loop.learner import Learner
from agentopd.training.run import stages
from agentopd.training.run.whole import check, train


@pytest.fixture
def no_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fitting anything fails the test."""

    def expensive(*args: Any) -> None:
        pytest.fail("a stage was fitted before the mistake was found")

    monkeypatch.setattr(stages, "fit", expensive)


STAGED = ["stages.cold_start={episodes: 4, steps: 2}", "stages.teacher={episodes: 4, steps: 2}"]


@pytest.mark.usefixtures("no_stage")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=3", r"train\.stepz: unknown key \(did you mean 'steps'\?\)"),
        (
            "objective.divergence.kind=reverse_lk",
            r"no divergence is called 'reverse_lk' \(did you mean 'reverse_kl'\?\)",
        ),
        (
            "objective.sampler={actors: {teachr: 1.0}}",
            r"sources\.fresh\.actors: nobody is called 'teachr' \(did you mean",
        ),
        ("env.id=agentopd/Chekout-v0", r"agentopd/Checkout-v0"),
        ("env.id=no_such_module:a/B-v0", r"no_such_module"),
        ("rollout.max_length=60", r"rollout\.max_length=60 is too small for agentopd/Checkout-v0"),
        ("rollout.max_length=1025", r"student: the model reads at most 1024 tokens, and rollout\.max_length=1025"),
        ("train.arguments={optim: sgdd}", r"train\.arguments\.optim: this is decided elsewhere"),
        ("train.arguments={logging_dirr: x}", r"train\.arguments\.logging_dirr: TrainingArguments has no such field"),
        ("train.arguments={adam_epsilon: x}", r"train\.arguments\.adam_epsilon: Input should be a valid number"),
        ("train.optimizer=sgdd", r"sgdd"),
        ("train.optimizer=grokadamw", r"train: transformers' TrainingArguments refuses a value: .*grokadamw"),
        ("train.arguments={report_to: nosuch}", r"train\.arguments\.report_to=\['nosuch'\]: .*leave it out"),
        ("train.arguments={save_only_model: true}", r"save_only_model: the trainer needs False"),
        (
            "objective.where={actor: nobody}",
            r"objective\.where\.actor: there is no 'nobody'; there are: student, expert",
        ),
        (
            "objective.where={source: nosuch}",
            r"objective\.where\.source: there is no 'nosuch'; there are: fresh, corrected",
        ),
        (
            "objective.where={env: nosuch}",
            r"objective\.where\.env: there is no 'nosuch'; there are: agentopd/Checkout-v0",
        ),
        ("objective.sampler={actors: {}}", r"actors=\{\}: shares must be at least 0, and one of them above"),
        ("objective.sampler={actors: {student: -1, expert: 2}}", r"shares must be at least 0"),
        (
            "rollout.temperature=1e-40",
            r"rollout\.temperature: a temperature is 0\.001 or more, or 0 for greedy, got 1e-40",
        ),
        ("evaluation.temperature=1e-4", r"evaluation\.temperature: a temperature is 0\.001 or more, or 0 for greedy"),
        ("train.lora={target_modules: 5}", r"^train\.lora\.target_modules: expected all-linear, a list .*\(got 5\)$"),
        (
            "train.lora={target_modules: [1]}",
            r"^train\.lora\.target_modules: expected all-linear, a list .*\(got \[1\]\)$",
        ),
        ("train.lora={r: 999999999999}", r"^train\.lora\.r: Input should be less than or equal to 65536"),
        ("train.lora={target_modules: [nosuch]}", r"^train\.lora\.target_modules=\('nosuch',\): no such adapter"),
        ("student.attention=nosuch", r"^student\.attention='nosuch': .*set attention to sdpa or eager"),
        ("teacher.attention=flash_attention_2", r"^teachers\.teacher\.attention='flash_attention_2': "),
        ("teacher={kind: local}", r"teachers\.teacher: give exactly one of model"),
        ("stages.teacher=null", r"stages\.teacher=null: the method uses teachers\.teacher, .*model trained weights"),
    ],
)
def test_a_mistake_is_found_before_anything_is_made(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        train(cases.tiny(*STAGED, override), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_is_too_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"teachers\.teacher: the model reads at most 512 tokens"):
        train(cases.tiny("teachers.teacher.new.max_positions=512"), tmp_path / "run")


@pytest.mark.usefixtures("no_stage")
def test_a_teacher_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    cases.model(1).save_pretrained(folder)
    config = cases.tiny(*STAGED, f"teachers.teacher={{kind: local, model: {folder}}}")
    other = build_tokenizer(["quite other words"], 300)
    other.save_pretrained(folder)
    with pytest.raises(
        ConfigError,
        match=r"teachers\.teacher: the tokenizer of .* differs from the student's.*set teachers\.teacher\.model to a",
    ):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_stage")
def test_models_that_cannot_be_loaded_are_told_before_a_stage(tmp_path: Path) -> None:
    whole, small, cut, untold = (tmp_path / name for name in ("whole", "small", "cut", "untold"))
    for folder in (whole, cut, untold):
        _saved(folder, None)
    new_model(NewModel(**cases.TINY), build_tokenizer(["other"], 300), 0).save_pretrained(small)
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    tokenizer = copy.deepcopy(cases.tokenizer())
    tokenizer.add_tokens(["unheard", "of"])
    tokenizer.save_pretrained(untold)
    for override, message in (
        (
            f"teacher={{kind: local, model: {small}}}",
            r"^teachers\.teacher\.model=.*knows \d+ token ids, and the student's",
        ),
        (f"teacher={{kind: local, model: {cut}}}", r"^teachers\.teacher\.model=.*cannot be loaded: .*restore what is"),
        (f"student={{model: {cut}}}", r"^student\.model=.*cannot be loaded: .*restore what is"),
        (
            f"student={{model: {untold}}}",
            r"^student\.model=.*knows 4\d\d token ids, and its tokenizer makes .*resize_token",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            train(cases.tiny(*STAGED, f"student={{model: {whole}}}", override), tmp_path / "run")


@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_a_teacher_in_a_folder_with_the_same_tokenizer_or_none_is_fine(with_tokenizer: bool, tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    cases.model(1).save_pretrained(folder)
    if with_tokenizer:
        cases.tokenizer().save_pretrained(folder)
    result = train(cases.tiny(f"teachers.teacher={{kind: local, model: {folder}}}", steps=1), tmp_path / "run")
    assert result.metrics["step"] == 1


@pytest.mark.usefixtures("no_stage")
def test_folders_that_hold_something_or_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").touch()
    for output, message in (
        (tmp_path / "taken", "already holds a run or other files"),
        (tmp_path / "taken" / "thesis.tex", "already holds a run or other files"),
        (tmp_path / "taken" / "thesis.tex" / "run", "cannot be written"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(cases.tiny(*STAGED), output)


@pytest.mark.usefixtures("no_stage")
def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"stages\.cache: .* cannot be written"):
        train(cases.tiny(f"stages.cache={tmp_path / 'file' / 'cache'}"), tmp_path / "run")


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(cases.tiny(save_every=1, steps=1), run)
    before = sorted(path.name for path in run.rglob("*"))
    with pytest.raises(ConfigError, match=r"train\.learning_rate=0\.01, and this configuration has 0\.02"):
        train(cases.tiny("train.learning_rate=0.02", save_every=1, steps=1), run, resume=True)
    assert sorted(path.name for path in run.rglob("*")) == before


def test_a_loss_that_is_not_finite_stops_and_keeps_its_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, calls = Learner.loss, []

    def broken(self: Learner, model: torch.nn.Module, batch: Any) -> LossOutput:
        output = loss(self, model, batch)
        calls.append(batch)
        return LossOutput(output.loss * float("nan"), output.signals) if len(calls) > 2 else output

    monkeypatch.setattr(Learner, "loss", broken)
    run = tmp_path / "run"
    with pytest.raises(
        TrainingError, match=r"the loss is nan at step 2; the micro-batch is kept in .*failed-step-000002"
    ):
        train(cases.tiny(steps=4, save_every=1), run)
    tensors = load_file(run / "failed-step-000002.safetensors")
    assert torch.equal(tensors["input_ids_B_T"], calls[-1].input_ids_B_T)
    assert [row["step"] for row in cases.metrics(run)] == [1, 2]
    assert records.open(run).steps == (0, 1)
    monkeypatch.undo()
    assert train(cases.tiny(steps=4, save_every=1), run, resume=True).metrics["step"] == 4


def test_a_method_that_needs_an_expert_says_so(tmp_path: Path) -> None:
    for method in ("sft", "dagger"):
        with pytest.raises(
            ConfigError, match="learns from the environments' experts, and training_envs:tests/Lengthy-v0"
        ):
            train(cases.tiny("env.id=training_envs:tests/Lengthy-v0", method=method), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_without_an_expert_the_quickstart_learns_from_the_reward(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = cases.tiny(*STAGED, "env.id=training_envs:tests/Lengthy-v0", "evaluation.tasks=2")
    run = tmp_path / "run"
    result = train(config, run)
    said = " ".join(capsys.readouterr().err.split())
    assert "training_envs:tests/Lengthy-v0 has no expert: the stages teacher and cold_start are left out" in said
    assert "the method is grpo" in said
    assert result.panels.keys() == {"student_before", "student_after"}
    assert "expert" not in json.dumps(cases.metrics(run))
    # the same command resumes it, although the folder holds the configuration without stages
    assert train(config, run, resume=True).metrics["step"] == 2


def test_what_the_chat_template_does_not_take_is_told_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = "{% for m in messages %}{{ '<|user|>' ~ m.role ~ m.content ~ '<|end|>' }}{% endfor %}"
    said = []
    for name, template in (("own", None), ("other", plain)):
        folder = _saved(tmp_path / name, template)
        check(cases.tiny(f"student={{model: {folder}}}", "rollout.max_length=600"), tmp_path / "run")
        said.append(" ".join(capsys.readouterr().err.split()))
    assert "chat template" not in said[0]
    assert "tools: told in the system message; calls: hermes, as text; observations: tool role" in said[1]


def _saved(folder: Path, template: str | None) -> Path:
    """A student whose tokenizer has this chat template."""
    cases.model(0).save_pretrained(folder)
    tokenizer = copy.deepcopy(cases.tokenizer())
    tokenizer.chat_template = template or tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    return folder


def test_an_expert_that_always_fails_leaves_nothing_to_draw_from(tmp_path: Path) -> None:
    config = cases.tiny("env.id=training_envs:tests/Lost-v0", "rollout.max_failures=1.0", method="sft")
    with pytest.raises(AgentOPDError, match="all 8 episodes failed, so there is nothing to draw from"):
        cases.trainer(config, tmp_path).train()


def test_a_run_whose_teacher_cannot_be_made_leaves_its_folder_free(tmp_path: Path) -> None:
    broken = "teachers={judge: {kind: 'test_bad_input:broken'}}"
    grpo = "objective.target={kind: reward, name: judge}"
    with pytest.raises(ConfigError, match=r"teachers\.judge\.kind=test_bad_input:broken raised ValueError: no key"):
        train(cases.tiny(broken, grpo, method="grpo"), tmp_path / "run")
    train(cases.tiny(steps=1), tmp_path / "run")


def broken(context: object) -> None:
    raise ValueError("no key")
