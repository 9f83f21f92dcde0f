"""The trainer's arguments: what it rests on cannot be changed, and what it cannot do is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import training_cases as cases
import yaml

from agentopd.config import load_config
from agentopd.errors import ConfigError
from agentopd.training.loop.arguments import AgentOPDConfig, arguments
from agentopd.training.run.whole import train


@pytest.mark.parametrize("name", ["fsdp", "deepspeed"])
def test_sharding_that_is_not_the_trainers_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remedy = rf": the trainer shards the student itself; .*--use_{name}, and set train\.sharded=true"
    given: dict[str, Any] = {name: {"a": 1}}
    with pytest.raises(ConfigError, match=f"^{name}={{.*}}{remedy}"):
        AgentOPDConfig(output_dir=str(tmp_path), max_steps=1, **given)
    monkeypatch.setenv(f"ACCELERATE_USE_{name.upper()}", "true")
    with pytest.raises(ConfigError, match=f"^ACCELERATE_USE_{name.upper()}=true{remedy}"):
        train(cases.tiny(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_several_cards_in_one_process_are_one(tmp_path: Path) -> None:
    args = arguments(cases.tiny(), tmp_path)
    for cards, used in ((0, 0), (1, 1), (4, 1)):
        args._n_gpu = cards
        assert args.n_gpu == used


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        ({"auto_find_batch_size": True}, "auto_find_batch_size=True: the trainer needs False"),
        ({"num_train_epochs": 7}, "num_train_epochs=7: the trainer needs 1"),
    ],
)
def test_what_the_trainer_rests_on_cannot_be_changed(given: dict[str, int], needed: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=needed):
        AgentOPDConfig(output_dir=str(tmp_path), max_steps=1, **given)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=rf"train\.arguments\.{next(iter(given))}: the trainer needs"):
        arguments(cases.tiny(arguments=given), tmp_path)


@pytest.mark.parametrize(
    ("given", "instead"),
    [
        ({"per_device_train_batch_size": 4}, r"4: the trainer does not read it; .*set train\.tasks_per_step"),
        ({"gradient_accumulation_steps": 4}, r"micro-batches of train\.max_tokens; set that"),
        ({"per_device_eval_batch_size": 4}, r"rollout\.concurrency"),
        ({"label_smoothing_factor": 0.1}, "set objective"),
        ({"resume_from_checkpoint": "x"}, r"trainer\.train\(resume_from_checkpoint=.*--resume"),
        ({"data_seed": 3}, "set seed"),
        ({"train_sampling_strategy": "group_by_length"}, r"objective\.sources"),
        ({"save_total_limit": -1}, "give at least 1, or leave it out to keep all"),
        ({"save_total_limit": 0}, "give at least 1"),
        ({"lr_scheduler_kwargs": {"num_cycles": 2}}, "for the schedule 'constant': a constant schedule takes none"),
    ],
)
def test_what_nothing_reads_is_refused(given: dict[str, Any], instead: str, tmp_path: Path) -> None:
    key = rf"^{next(iter(given))}=.*{instead}"
    with pytest.raises(ConfigError, match=key):
        AgentOPDConfig(output_dir=str(tmp_path), max_steps=1, lr_scheduler_type="constant", **given)
    with pytest.raises(ConfigError, match=key):
        arguments(cases.tiny("train.schedule=constant", arguments=given), tmp_path)


@pytest.mark.parametrize(
    ("given", "instead"),
    [
        ({"every_layers": 2}, "every_layers: .*no such argument .*did you mean 'every_n_layers'"),
        ({"every_n_layers": 0}, "every_n_layers=0: give a whole number from 1 on"),
        ({"every_n_layers": "x"}, "every_n_layers='x': give a whole number from 1 on"),
        ({"offload": True}, "offload=True: there is no card here .*leave it out"),
    ],
)
def test_what_checkpointed_layers_do_not_take_is_told_before_the_first_step(
    given: dict[str, Any], instead: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    with pytest.raises(ConfigError, match=rf"^gradient_checkpointing_kwargs\.{instead}"):
        arguments(
            cases.tiny(arguments={"gradient_checkpointing": True, "gradient_checkpointing_kwargs": given}), tmp_path
        )


def test_what_is_said_of_checkpointed_layers_where_there_are_none_is_refused(tmp_path: Path) -> None:
    given: dict[str, Any] = {"gradient_checkpointing_kwargs": {"every_n_layers": 2}}
    with pytest.raises(ConfigError, match=r"^gradient_checkpointing_kwargs=.* add gradient_checkpointing: true"):
        arguments(cases.tiny(arguments=given), tmp_path)
    assert arguments(cases.tiny(arguments=given | {"gradient_checkpointing": True}), tmp_path).gradient_checkpointing


@pytest.mark.parametrize(
    ("schedule", "given", "complaint"),
    [
        ("cosine", {"nosuch": 1}, "unexpected keyword argument 'nosuch'"),
        ("linear", {"num_cycles": 2}, "unexpected keyword argument 'num_cycles'"),
        ("cosine_with_min_lr", None, "min_lr"),
        ("cosine", {"num_cycles": 2}, None),
        ("cosine_with_min_lr", {"min_lr": 1e-6}, None),
        ("reduce_lr_on_plateau", {"patience": 3}, None),
        ("warmup_stable_decay", {"num_decay_steps": 3}, None),
        ("inverse_sqrt", None, None),
        ("constant_with_warmup", None, None),
    ],
)
def test_a_schedule_gets_what_it_takes(schedule: str, given: Any, complaint: str | None, tmp_path: Path) -> None:
    def make() -> AgentOPDConfig:
        return AgentOPDConfig(
            output_dir=str(tmp_path), max_steps=9, eval_strategy="steps", eval_steps=1, lr_scheduler_type=schedule,
            lr_scheduler_kwargs=given, warmup_steps=2,
        )  # fmt: skip

    if complaint is None:
        assert make().lr_scheduler_kwargs == given
    else:
        with pytest.raises(
            ConfigError, match=rf"^lr_scheduler_kwargs=.*schedule '{schedule}': .*{complaint}.*train\.schedule"
        ):
            make()


def test_what_is_left_out_in_python_comes_from_the_configuration(tmp_path: Path) -> None:
    config = cases.tiny("seed=3", steps=7, warmup_steps=2, eval_every=3)
    ours, theirs = arguments(config, tmp_path), AgentOPDConfig(output_dir=str(tmp_path), agentopd=config)
    for name in ("report_to", "disable_tqdm", "save_total_limit"):  # matters of taste, which a script decides itself
        setattr(theirs, name, getattr(ours, name))
    left = {n: (v, theirs.to_dict()[n]) for n, v in ours.to_dict().items() if theirs.to_dict()[n] != v}
    assert left.keys() <= {"logging_dir"}
    assert (theirs.max_steps, theirs.learning_rate, theirs.lr_scheduler_type) == (7, 0.01, "cosine")
    given = AgentOPDConfig(output_dir=str(tmp_path), agentopd=config, max_steps=4, learning_rate=0.5)
    assert (given.max_steps, given.learning_rate, given.save_steps) == (4, 0.5, 4)
    same = AgentOPDConfig(
        str(tmp_path), agentopd=config, eval_strategy="no", learning_rate=5e-5, lr_scheduler_type="linear"
    )
    assert (same.eval_strategy, same.learning_rate, same.lr_scheduler_type) == ("no", 5e-5, "linear")


def test_a_configuration_is_read_as_load_config_reads_it(tmp_path: Path) -> None:
    raw = cases.raw(steps=7)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(raw))
    for given in (raw, tmp_path / "mine.yaml", str(tmp_path / "mine.yaml")):
        args = AgentOPDConfig(output_dir=str(tmp_path), agentopd=given)
        assert args.agentopd == load_config(raw)
        assert args.max_steps == 7
    assert AgentOPDConfig(output_dir=str(tmp_path), agentopd="quickstart").agentopd == load_config("quickstart")
    with pytest.raises(ConfigError, match=r"^no configuration at 'quickstrat'"):
        AgentOPDConfig(output_dir=str(tmp_path), agentopd="quickstrat")
    with pytest.raises(ConfigError, match=r"^agentopd is of type list; give the configuration, such as"):
        AgentOPDConfig(output_dir=str(tmp_path), agentopd=[raw])  # type: ignore[arg-type]


def test_the_best_model_is_the_one_of_the_best_panel(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    config = cases.tiny(method="gkd")
    args = AgentOPDConfig(str(tmp_path), agentopd=config, load_best_model_at_end=True, report_to=[], **options)
    assert (args.metric_for_best_model, args.greater_is_better) == ("success", True)
    trainer = cases.trainer(config, tmp_path, args=args)
    trainer.train()
    assert trainer.best is not None
    for name in ("loss", "eval_loss"):
        with pytest.raises(ConfigError, match=rf"^metric_for_best_model='{name}': a panel has no loss; leave it out"):
            AgentOPDConfig(str(tmp_path), agentopd=config, metric_for_best_model=name, **options)


def test_a_seed_that_is_not_the_configurations_is_refused(tmp_path: Path) -> None:
    config = cases.tiny("seed=3")
    assert AgentOPDConfig(output_dir=str(tmp_path), max_steps=1, agentopd=config, seed=3).seed == 3
    with pytest.raises(ConfigError, match=r"^seed=7: a run follows the seed of its configuration, 3"):
        AgentOPDConfig(output_dir=str(tmp_path), max_steps=1, agentopd=config, seed=7)


def test_arguments_are_plain_for_trackers(tmp_path: Path) -> None:
    args = arguments(cases.tiny(arguments={"report_to": ["none"]}, steps=3), tmp_path)
    assert args.report_to == []
    plain = json.loads(args.to_json_string())  # type: ignore[no-untyped-call]
    assert plain["agentopd"]["train"]["steps"] == plain["max_steps"] == 3
    assert args.agentopd is not None
    assert not args.logging_nan_inf_filter


def test_where_nothing_is_kept_no_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cases.trainer(cases.tiny(steps=1, save_every=1), tmp_path, args=arguments(cases.tiny(steps=1), None)).train()
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_is_not_installed_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.integrations.integration_utils.is_tensorboard_available", lambda: False)
    with pytest.raises(
        ConfigError, match=r"^train\.arguments\.report_to=\['tensorboard'\]: .*requires tensorboard.*leave it out"
    ):
        train(cases.tiny(arguments={"report_to": "tensorboard"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for trackers in (["tensorboard"], ["nosuch"]):
        args = AgentOPDConfig(str(tmp_path), agentopd=cases.tiny(), report_to=trackers)
        with pytest.raises(ConfigError, match=rf"^report_to=\['{trackers[0]}'\]: .*{trackers[0]}.*leave it out"):
            cases.trainer(cases.tiny(), tmp_path, args=args)


@pytest.mark.parametrize(
    ("given", "overrides", "message"),
    [
        ({"push_to_hub": True}, [], r"push_to_hub=True: give train\.arguments\.hub_model_id too"),
        (
            {"hub_token": "secret"},
            [],
            "hub_token: a configuration is kept in the run folder.*set the environment variable HF_TOKEN",
        ),
        ({"push_to_hub": True, "hub_model_id": "me/it"}, [], "True: nobody is logged in to the hub; set HF_TOKEN or"),
        (
            {"push_to_hub": True, "hub_model_id": "me/it"},
            ["train.lora={r: 2}"],
            r"\('RUN/student'\)\.push_to_hub\('NAME'\)",
        ),
    ],
)
def test_a_push_that_could_not_be_is_told_first(
    given: dict[str, Any], overrides: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentopd.training.loop.arguments.get_token", lambda: "hf_it" if overrides else None)
    with pytest.raises(ConfigError, match=rf"^train\.arguments\..*{message}") as told:
        train(cases.tiny(*overrides, arguments=given), tmp_path / "run")
    assert "secret" not in str(told.value)
    assert not (tmp_path / "run").exists()
    assert not arguments(cases.tiny(arguments={"push_to_hub": False}), tmp_path).push_to_hub


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_multiplies_in_half_precision_after_stages_that_did_not(dtype: str, tmp_path: Path) -> None:
    overrides = (f"student.dtype={dtype}", "train.arguments={bf16: true, use_cpu: true}")
    result = train(cases.tiny(*overrides, steps=1), tmp_path / "run")
    assert result.student.dtype == getattr(torch, dtype)
    assert math.isfinite(result.metrics["train/loss"])
    assert set(result.panels) == {"student_before", "teacher", "student_after"}
