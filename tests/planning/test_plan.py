"""`agentopd plan`, as a person runs it."""

import argparse
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from agentopd import cli
from agentopd.__main__ import main
from agentopd.config import load_config
from agentopd.errors import ConfigError, RecordError
from agentopd.planning import Hardware, hardware, outlines, plan
from agentopd.planning.hardware import table
from agentopd.planning.measuring import measured
from agentopd.planning.setup import RESERVED, reserved
from agentopd.planning.step import by_limits, by_records
from agentopd.planning.telling import lines
from agentopd.records import RecordWriter
from agentopd.types import Key, Outcome, Record, Segment, Task, Trajectory, Turn

ONE_GPU = "configs/scale/one_gpu.yaml"
TINY = {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 24, "max_positions": 1024, "vocab_size": 400}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreachable:
        def model_info(self, *arguments: Any, **more: Any) -> None:
            raise ConnectionError

    monkeypatch.setattr(outlines, "HfApi", Unreachable)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {
        "env": {"id": "agentopd/Checkout-v0"},
        "student": {"new": TINY},
        "teachers": {"teacher": {"kind": "local", "new": TINY}, "far": {"kind": "served", "url": "http://127.0.0.1:1"}},
        "stages": {"cache": str(tmp_path_factory.mktemp("cache"))},
        "rollout": {"max_new_tokens": 24, "max_length": 640, "max_turns": 8},
        "train": {"tasks_per_step": 4},
    }


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, Any]]:
    status = main(["plan", *argv, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_the_one_gpu_configuration_fits_an_h100_without_a_hub(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", ONE_GPU, "--hardware", "H100"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("\t") == ["memory of a device", "", "generate", "teachers", "learn"]
    assert "vLLM server\t19.9 GiB\tx\tx\tx" in lines
    assert "model: student, 1,720,574,976 parameters of 2 bytes" in lines
    assert "note: Qwen/Qwen3-8B: the hub cannot be reached, so its shape is the one that agentopd knows" in lines
    assert any(line.startswith("bottleneck: generate: bound by memory bandwidth; ") for line in lines)
    assert not any(line.startswith("refused") for line in lines)


def test_the_eight_gpus_configuration_fits_them_in_shards_alone(capsys: pytest.CaptureFixture[str]) -> None:
    eight = "configs/scale/eight_gpus.yaml"
    status, plan = told(capsys, eight, "--hardware", "H100", "--gpus", "8")
    assert (status, plan["refused"]) == (0, "")
    assert plan["bottleneck"]["remedy"] == "set rollout.engine.kind: vllm"
    status, whole = told(capsys, eight, "train.sharded=false", "--hardware", "H100", "--gpus", "8")
    assert (status, whole["refused"].split(":")[0]) == (
        1,
        "learn takes 96.3 GiB, and H100 has 79.6 GiB; the largest part is optimiser with 30.0 GiB",
    )


@pytest.mark.parametrize(
    ("device", "share", "more", "status"),
    [("H100", 0.25, (), 1), ("H200", 0.4, (), 0), ("H100", 0.3, ("student.model=Qwen/Qwen3-1.7B",), 0)],
)
def test_each_of_eight_gpus_holds_a_server_beside_what_learns(
    device: str, share: float, more: tuple[str, ...], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    of, on = ("configs/scale/eight_gpus.yaml", *more), ("--hardware", device, "--gpus", "8")
    engine = f"rollout.engine={{kind: vllm, arguments: [--gpu-memory-utilization={share}]}}"
    _, here = told(capsys, *of, *on)
    found, served = told(capsys, *of, engine, *on)
    assert found == status, served["refused"]
    (server,) = (part for part in served["memory"]["parts"] if part["name"] == "vLLM server")
    assert server["bytes"] == share * hardware(device).memory
    seconds = [plan["time"]["stages"][0]["seconds"] for plan in (here, served)]
    assert seconds[1] < seconds[0]


@pytest.mark.parametrize(
    ("given", "told_of"),
    [
        ({"every_n_layers": 0}, ".every_n_layers=0: give a whole number"),
        ({"every": 2}, ".every: checkpointed layers take no such argument"),
        ("[1", "='[1': give a mapping"),
    ],
)
def test_what_checkpointed_layers_do_not_take_is_refused(
    given: Any, told_of: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = json.dumps({"gradient_checkpointing": True, "gradient_checkpointing_kwargs": given})
    assert main(["plan", ONE_GPU, f"train.arguments={arguments}", "--hardware", "H100"]) == 2
    assert f"gradient_checkpointing_kwargs{told_of}" in capsys.readouterr().err


def test_layers_whose_inputs_wait_elsewhere_may_be_said_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    kept = []
    for given in ({"offload": True}, '{"offload": true}', {}):
        arguments = json.dumps({"gradient_checkpointing": True, "gradient_checkpointing_kwargs": given})
        _, plan = told(capsys, ONE_GPU, f"train.arguments={arguments}", "--hardware", "H100")
        kept.append(next(one["bytes"] for one in plan["memory"]["parts"] if one["name"] == "activations"))
    assert kept[0] == kept[1] < kept[2]


def test_a_server_that_sleeps_has_room_where_one_that_does_not_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    of, on = "configs/scale/eight_gpus.yaml", ("--hardware", "H100", "--gpus", "8")
    engine = "rollout.engine={{kind: vllm, sleep: {}, arguments: [--gpu-memory-utilization=0.4]}}"
    (status, _), (refused, _) = (told(capsys, of, engine.format(one), *on) for one in ("true", "false"))
    assert (status, refused) == (0, 1)


def test_what_cannot_fit_is_refused_in_a_sentence_that_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", ONE_GPU, "--hardware", "RTX4090"]) == 1
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith("refused: generate takes ")
    assert (
        "and RTX4090 has 23.9 GiB; the largest part is caches of teacher's panel with 27.0 GiB: lower rollout.concurrency"
        in last
    )


@pytest.mark.parametrize("name", table())
def test_every_device_gives_a_plan(
    name: str, raw: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(raw))
    status, found = told(capsys, str(tmp_path / "run.yaml"), "--hardware", name)
    parts = found["memory"]["parts"]
    assert found["memory"]["peak"] == max(
        sum(part["bytes"] for part in parts if stage in part["stages"]) for stage in ("generate", "teachers", "learn")
    )
    assert (status, found["refused"]) == (0, "")
    assert found["hardware"]["name"] == name
    assert found["time"]["seconds"] == sum(stage["seconds"] for stage in found["time"]["stages"])
    assert [stage["name"] for stage in found["time"]["stages"]] == ["generate", "teachers", "learn"]


def test_the_table_of_devices_is_the_one_that_help_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    assert ", ".join(table()) in " ".join(capsys.readouterr().out.split())


def test_shards_make_full_training_fit(capsys: pytest.CaptureFixture[str]) -> None:
    full = [
        ONE_GPU,
        "train.lora=null",
        "student.dtype=float32",
        "rollout.engine=transformers",
        "rollout.concurrency=28",
    ]
    status, one = told(capsys, *full, "--hardware", "A100-80")
    assert (status, one["trained"]["parameters"]) == (1, 1_720_574_976)
    status, eight = told(capsys, *full, "train.sharded=true", "--hardware", "A100-80", "--gpus", "8")
    assert (status, eight["sharded"], eight["step"]["episodes"]) == (0, True, 3)
    assert [stage["name"] for stage in eight["time"]["stages"]][-1] == "exchange"


def test_a_server_that_leaves_no_room_for_an_episode_is_refused() -> None:
    config = load_config(ONE_GPU, ["rollout.engine.arguments=[--gpu-memory-utilization, '0.045']"])
    refused = plan(config, hardware("H100")).refused
    assert "the vLLM server reserves 3.6 GiB" in refused
    assert "raise --gpu-memory-utilization" in refused


def test_vllm_in_this_process_is_planned_as_a_server_is() -> None:
    config = load_config(
        ONE_GPU, ["rollout.engine={kind: vllm_in_process, arguments: [--gpu-memory-utilization=0.045]}"]
    )
    told = plan(config, hardware("H100"))
    assert "the vLLM reserves 3.6 GiB" in told.refused
    assert "the time in which the vLLM is given new weights is not counted" in told.notes
    assert not any("is not known" in one for one in told.notes)


@pytest.mark.parametrize(
    ("arguments", "share"),
    [
        ("[]", RESERVED),
        ("[--gpu-memory-utilization=0.4]", 0.4),
        ("[--gpu_memory_utilization, '0.4', --enforce-eager]", 0.4),
        ("[--gpu-memory-utilization=0.9, --gpu-memory-utilization=0.3]", 0.3),
    ],
)
def test_the_share_of_a_server_is_what_its_arguments_say(raw: dict[str, Any], arguments: str, share: float) -> None:
    config = load_config(raw, [f"rollout.engine={{kind: vllm, arguments: {arguments}}}"])
    assert reserved(config.rollout.engine) == share


def test_a_file_describes_a_device(tmp_path: Path, raw: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(raw))
    card = {"memory": 8e9, "bandwidth": 3e11, "bfloat16": 2e13, "float32": 1e13, "efficiency": {"learn": 0.3}}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    status, found = told(capsys, str(tmp_path / "run.yaml"), "--hardware", str(tmp_path / "card.yaml"), "--gpus", "2")
    assert (status, found["hardware"]["memory"], found["hardware"]["efficiency"]["learn"]) == (0, 8e9, 0.3)
    assert "the link between devices is not known, so what they exchange takes no time here" in found["notes"]
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card | {"bandwith": 1}))
    with pytest.raises(ConfigError, match=r"card.yaml: bandwith: .*did you mean 'bandwidth'"):
        hardware(str(tmp_path / "card.yaml"))
    with pytest.raises(ConfigError, match=r"hardware='H10O': no device is called so \(did you mean 'H100'\?\)"):
        hardware("H10O")


def test_this_machine_measured(raw: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    found = measured()
    assert torch.equal(torch.get_rng_state(), before)
    assert 1e8 < found.bandwidth < 1e13
    assert 1e8 < found.float32 < 1e15
    assert 1e-6 < found.issue < 0.1
    assert found.cpu is not torch.cuda.is_available()


def test_numbers_of_devices_that_mean_nothing(raw: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="gpus=0: give at least 1 device"):
        plan(load_config(raw), hardware("H100"), 0)


def test_what_is_elsewhere_is_not_counted_and_said(raw: dict[str, Any]) -> None:
    config = load_config(raw, ["method=grpo"])
    assert [one.name for one in plan(config, hardware("H100")).stages] == ["generate", "learn"]
    both = load_config(raw, ["objective.target.name=far", "objective.support={kind: top_k, k: 64}"])
    found = plan(both, hardware("H100"))
    assert "the time of teachers.far is not counted, as no model of theirs is here" in found.notes
    assert found.setup.teachers == ()


def test_an_optimiser_that_is_not_here_is_counted_as_adam(raw: dict[str, Any]) -> None:
    found = plan(load_config(raw, ["train.optimizer=grokadamw"]), hardware("H100"))
    assert any(note.startswith("train.optimizer=grokadamw cannot be tried here") for note in found.notes)
    assert found.setup.trained.optimiser == 2 * found.setup.trained.gradients


def test_a_student_in_four_bits_is_planned_where_it_can_be_trained() -> None:
    settings = ["student.quantization=nf4", "rollout.engine=transformers"]
    four, whole = (plan(load_config("scale/one_gpu", more), hardware("H100")) for more in (settings, settings[1:]))
    assert four.setup.student.bytes < 0.45 * whole.setup.student.bytes  # its embeddings are not packed
    assert [note for note in four.notes if note.startswith("student: in four bits")]
    assert not [note for note in whole.notes if "four bits" in note]
    assert four.setup.trained == whole.setup.trained
    assert "vllm" not in four.slowest.remedy
    assert any("of them in four bits" in line for line in lines(four))
    with pytest.raises(ConfigError, match=r"^rollout\.engine\.kind=vllm: .*choose rollout\.engine\.kind: transformers"):
        plan(load_config("scale/one_gpu", settings[:1]), hardware("H100"))
    with pytest.raises(ConfigError, match=r"^train\.lora=null: "):
        plan(load_config("scale/one_gpu", [*settings, "train.lora=null"]), hardware("H100"))


def test_a_teacher_that_waits_takes_less_of_a_card() -> None:
    waits, whole = (
        plan(load_config("scale/one_gpu", [f"teachers.teacher.offload={offload}"]), hardware("H100"))
        for offload in ("true", "false")
    )
    [there], [all_of_it] = ([one for one in each.parts if one.name == "teachers.teacher"] for each in (waits, whole))
    assert there.bytes < 0.2 * all_of_it.bytes  # embeddings and head
    assert waits.setup.teachers[0].shape.layered > 0.8 * waits.setup.teachers[0].shape.parameters
    assert any("not counted in the seconds" in note for note in waits.notes)


@pytest.mark.parametrize("engine", ["vllm_in_process", "{kind: vllm_server, url: 'http://x', share: /s}"])
def test_an_engine_of_one_process_is_planned_on_one_device(engine: str) -> None:
    config = load_config("scale/one_gpu", [f"rollout.engine={engine}"])
    assert plan(config, hardware("H100")).gpus == 1
    with pytest.raises(
        ConfigError, match=r"^rollout\.engine\.kind=vllm_\w+: 2 processes would each .*choose kind: vllm,"
    ):
        plan(config, hardware("H100"), gpus=2)


def test_limits_by_hand(raw: dict[str, Any]) -> None:
    step = by_limits(load_config(raw))
    assert (step.episodes, step.played, step.length, step.generated, step.turns) == (4, 4, 640, 8 * 24, 8)
    assert step.context == 640 - 96
    assert by_limits(load_config(raw, ["rollout.max_episode_tokens=100"])).generated == 100
    assert by_limits(load_config(raw, ["method=sft"])).played == 0  # the expert plays, or a data set is read
    assert step.shared(2).episodes == 2


def episode(index: int, turn_T: list[int]) -> Record:
    count = len(turn_T)
    place_T = np.array(turn_T, np.int32)
    segment = Segment(
        np.arange(count, dtype=np.int32), place_T, np.minimum(place_T, 0), place_T >= 0, np.zeros(count, np.float32)
    )
    turns = tuple(
        Turn(t, "student", 0, int(np.flatnonzero(place_T == t)[0]), int(np.flatnonzero(place_T == t)[-1]) + 1, "", "")
        for t in sorted({t for t in turn_T if t >= 0})
    )
    task = Task("x/Y-v0", index, {})
    return Record(
        Trajectory(Key("run", 0, index), task, ("student",), (segment,), turns, Outcome(1.0, True, "terminated")), ()
    )


def test_records_say_how_long_episodes_are(raw: dict[str, Any], tmp_path: Path) -> None:
    config = load_config(raw)
    RecordWriter(tmp_path / "records").write(0, [episode(0, [-1, 0, 0, -1, 1]), episode(1, [-1, -1, 0])])
    step = by_records(config, tmp_path)
    assert (step.episodes, step.length, step.generated, step.turns) == (4, 4, 2, 1.5)
    assert step.context == (1 + 2 + 4 + 2) / 4
    assert step.common == 0  # one token is not worth a pass of its own
    RecordWriter(tmp_path / "alike" / "records").write(0, [episode(i, [*[-1] * (40 + i), 0]) for i in range(3)])
    assert by_records(config, tmp_path / "alike").common == 41  # the first is shortest, and the others go on as it does
    found = plan(config, hardware("H100"), run=tmp_path)
    assert found.seconds < plan(config, hardware("H100")).seconds
    with pytest.raises(RecordError, match="does not exist"):
        plan(config, hardware("H100"), run=tmp_path / "none")


def test_a_device_of_ones_own_in_python(raw: dict[str, Any]) -> None:
    small = Hardware(name="small", memory=1e5, bandwidth=1e9, bfloat16=1e9, float32=1e9, cpu=True)
    found = plan(load_config(raw), small)
    assert found.refused.startswith("learn takes ")
    assert "small has 97.7 KiB; the largest part is logits with " in found.refused
    assert found.slowest.seconds <= found.seconds


PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")


def test_the_page_has_the_figures_of_the_table() -> None:
    rows = {
        row[0]: row[1:]
        for row in re.findall(
            r"^\| ([A-Z][\w-]+) \| (.*?) GB \| (.*?) TB \| (.*?) TFLOP/s \| (.*?) TFLOP/s \| (.*?) GB \|$",
            PAGE,
            re.MULTILINE,
        )
    }
    assert rows.keys() == table().keys()
    for name, one in table().items():
        figures = (
            one.memory / 1e9,
            one.bandwidth / 1e12,
            one.bfloat16 / 1e12,
            one.float32 / 1e12,
            (one.link or 0) / 1e9,
        )
        assert rows[name] == tuple(f"{figure:g}" for figure in figures)


def test_the_page_names_the_options_of_the_verb_and_its_file_describes_a_device(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    cli.plan.configure(parser)
    options = {one.option_strings[-1] for one in parser._actions if one.option_strings} - {"--help"}
    assert {
        option for row in re.findall(r"^\| (`--.*?) \|", PAGE, re.MULTILINE) for option in re.findall(r"--\w+", row)
    } == options
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "card.yaml").write_text(block)
    assert hardware(str(tmp_path / "card.yaml")).link == 32e9


def test_the_commands_of_the_page_are_understood() -> None:
    parser = argparse.ArgumentParser()
    cli.plan.configure(parser)
    commands = re.findall(r"^agentopd plan (.*?)(?: +#.*)?$", PAGE, re.MULTILINE)
    assert len(commands) == 11
    for command in commands:
        given = [text for text in shlex.split(command) if "=" not in text or text.startswith("-")]
        assert parser.parse_args(given).config
