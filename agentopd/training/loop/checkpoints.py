"""Checkpoints: which of them are whole, what they were made with, and what is said of a damaged one."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainingArguments

from agentopd.adapters import is_wrapped
from agentopd.config import Config
from agentopd.config.differing import differences
from agentopd.config.loading import completed
from agentopd.config.shipped import load_yaml, parse, write
from agentopd.errors import ConfigError, TeacherError, TrainingError, describe
from agentopd.teachers import traits_of
from agentopd.training.loop.arguments import decisive

RIVER = "river.json"
TENSORS = "river.safetensors"
STATE = "trainer_state.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint in ``folder``."""
    return max(complete(folder), key=step_of, default=None)


def complete(folder: Path) -> list[Path]:
    """The complete checkpoints in ``folder``."""
    return [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name) and is_complete(path)]


def is_complete(checkpoint: Path) -> bool:
    """Whether everything of a checkpoint was written: the trainer's state comes last."""
    try:
        state = json.loads((checkpoint / STATE).read_bytes())
    except (OSError, ValueError):
        return False
    return (checkpoint / RIVER).exists() and isinstance(state, dict) and "global_step" in state


def step_of(checkpoint: Path) -> int:
    """The step of ``checkpoint-N``."""
    return int(checkpoint.name.rsplit("-", 1)[-1])


def require_named(folder: Path) -> None:
    """Raises ConfigError where ``folder`` holds what is called like a checkpoint and has no step: training would delete it as old."""
    other = [path for path in folder.glob("checkpoint-*") if not _NAME.fullmatch(path.name)]
    if other:
        raise ConfigError(
            f"--resume: {min(other)} is called like a checkpoint, and has no step, so it would be deleted as an old one; move it "
            f"out of {folder}"
        )


@contextmanager
def loading(checkpoint: Path, what: str) -> Iterator[None]:
    """Around what reads ``what`` of a checkpoint.

    Raises:
        TrainingError: It cannot be read. The message says how to go on.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, TeacherError):  # says nothing against the file
        raise
    except Exception as error:  # damage shows itself as nearly anything
        reason = describe(error).partition("\n")[0].rstrip(": ")
        raise TrainingError(
            f"{checkpoint}: {what} cannot be loaded: {reason}; restore it from a copy, or {_instead(checkpoint)}"
        ) from error


def _instead(checkpoint: Path) -> str:
    if not _NAME.fullmatch(checkpoint.name):
        return "give another checkpoint"
    older = [step_of(path) for path in complete(checkpoint.parent) if step_of(path) < step_of(checkpoint)]
    after = f"after step {max(older)}" if older else "from the first step"
    return f"move {checkpoint.name} out of {checkpoint.parent} to go on {after}"


def river_text(config: Config, river: Mapping[str, Any], made: Mapping[str, Any] | None = None) -> str:
    """What :data:`RIVER` holds: the state of the river, the configuration that it was made with and, from a trainer, :func:`made_with`."""
    return json.dumps({**river, "config": config.model_dump(mode="json"), "made": dict(made or {})})


def without_tensors(checkpoint: Path, river: Mapping[str, Any]) -> dict[str, Any]:
    """The state of the river for :func:`river_text`; the tensors in it are written into :data:`TENSORS`."""
    tensors: dict[str, Tensor] = {}
    plain = {name: _without_tensors(value, name, tensors) for name, value in river.items()}
    if tensors:
        save_file(tensors, checkpoint / TENSORS)
    return plain


def _without_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """``value`` with a reference for each tensor in it, which goes into ``tensors``."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()  # no two may share memory
        return {TENSORS: path}
    if isinstance(value, Mapping):
        return {key: _without_tensors(item, f"{path}/{key}", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_tensors(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]
    return value


def whole_river_of(checkpoint: Path) -> dict[str, Any]:
    """The state of the river with its tensors.

    Raises:
        TrainingError: It cannot be read.
    """
    plain = river_of(checkpoint)
    with loading(checkpoint, TENSORS):
        tensors = load_file(checkpoint / TENSORS) if TENSORS in json.dumps(plain["teachers"]) else {}
        return {**plain, "teachers": _with_tensors(plain["teachers"], tensors)}


def _with_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {TENSORS}:
            return tensors[value[TENSORS]]
        return {key: _with_tensors(item, tensors) for key, item in value.items()}
    return [_with_tensors(item, tensors) for item in value] if isinstance(value, list) else value


UNDECIDING = {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type"}
"""Settings of an adapter that say where it comes from, and change none of its numbers."""


def made_with(model: Any, args: TrainingArguments) -> dict[str, Any]:
    """What decides a run beside its configuration, as plain values: the arguments of the trainer, and the adapter that it trains."""
    adapter = None
    if is_wrapped(model):
        settings = model.peft_config[model.active_adapter].to_dict()
        adapter = {name: value for name, value in settings.items() if name not in UNDECIDING}
    return dict(json.loads(json.dumps({"args": decisive(args), "peft_config": adapter}, default=_plain)))


def _plain(value: Any) -> Any:
    return sorted(value, key=str) if isinstance(value, set | frozenset) else str(value)


def require_same(checkpoint: Path, config: Config, made: Mapping[str, Any]) -> None:
    """Holds a checkpoint against the trainer that is to go on from it.

    Raises:
        ConfigError: It was made with another configuration, other arguments, or another adapter.
        TrainingError: It cannot be read.
    """
    found = difference(checkpoint, config) or _other(river_of(checkpoint).get("made") or made, made)
    if found is not None:
        key, was, is_ = found
        raise ConfigError(
            f"resume_from_checkpoint: {checkpoint} was made with {key}={was!r}, and this trainer has {is_!r}; give the trainer what "
            "the checkpoint was made with, or start anew from its weights, which are a model like any other"
        )


def _other(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    adapters = [made["peft_config"] for made in (old, new)]
    if None in adapters and adapters[0] != adapters[1]:  # by kind: its settings would fill the message
        was, is_ = (adapter and adapter["peft_type"] for adapter in adapters)
        return "peft_config", was, is_
    return next(differences(old, new), None)


def river_of(checkpoint: Path) -> dict[str, Any]:
    """What :func:`river_text` wrote.

    Raises:
        TrainingError: It cannot be read.
    """
    with loading(checkpoint, RIVER):
        found = dict(json.loads((checkpoint / RIVER).read_bytes()))
        if not isinstance(found["config"], dict):
            raise TypeError("config is no mapping")
    return found


def difference(checkpoint: Path, config: Config) -> tuple[str, Any, Any] | None:
    """The first key in which ``config`` is not what a checkpoint was made with: path, was, is.

    Raises:
        TrainingError: The checkpoint cannot be read.
    """
    now = json.loads(json.dumps(config.model_dump(mode="json")))
    return next(differences(binding(river_of(checkpoint)["config"], config), binding(now, config)), None)


def binding(plain: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """The plain configuration of a run without what a resumed one, of the configuration ``config``, may have otherwise."""
    plain = completed(plain)
    teachers = dict(plain.get("teachers") or {})
    for name, choice in config.teachers.items():
        loose = traits_of(choice).adjustable
        if isinstance(teachers.get(name), dict):
            teachers[name] = {key: value for key, value in teachers[name].items() if key not in loose}
    train = {key: value for key, value in plain["train"].items() if key != "sharded"}  # nor do processes bind
    return {name: one for name, one in plain.items() if name != "cluster"} | {"teachers": teachers, "train": train}


def asked_otherwise(note: Path, asked: Mapping[str, Any], config: Config) -> tuple[str, Any, Any] | None:
    """Where the question that ``note`` keeps differs from ``asked``, which holds the plain ``config``: path, old, new."""
    was, now = (
        {**one, "config": binding(one["config"], config)} for one in (load_yaml(note), parse(write(asked), note.name))
    )
    return next(differences(was, now), None)
