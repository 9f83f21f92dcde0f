"""Adapters, by PEFT: put around a model, merged into its weights, read from a folder."""

import json
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from agentopd.errors import ConfigError, first_line
from agentopd.quantization import is_quantized, unpack

CONFIG = "adapter_config.json"


def is_adapter(name: str) -> bool:
    """Whether ``name`` is a folder with an adapter alone."""
    folder = Path(name).expanduser()
    return (folder / CONFIG).exists() and not (folder / "config.json").exists()


def base_of(name: str) -> str:
    """The model that the adapter in the folder ``name`` was trained on, as it says itself.

    Raises:
        ConfigError: It does not say; or following what adapters say leads back to one of them.
    """
    base = below = _said_base(name)
    passed = {Path(name).expanduser().resolve()}
    while is_adapter(below):
        if (folder := Path(below).expanduser().resolve()) in passed:
            raise ConfigError(
                f"model={name!r} is an adapter whose base, as base_model_name_or_path of adapter_config.json says, leads back to the "
                f"adapter {below!r}; put the model it was trained on into {folder / CONFIG}"
            )
        passed.add(folder)
        below = _said_base(below)
    return base


def _said_base(name: str) -> str:
    file = Path(name).expanduser() / CONFIG
    try:
        base = json.loads(file.read_bytes())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"model={name!r}: {file} cannot be read: {first_line(error)}; restore it") from None
    if not isinstance(base, str) or not base:
        raise ConfigError(
            f"model={name!r} is an adapter that names no base model; put base_model_name_or_path into {file}, or give a "
            "model into which it has been merged"
        )
    return base


def with_adapter(base: PreTrainedModel, name: str) -> PreTrainedModel:
    """``base`` with the adapter in the folder ``name`` merged into its weights; beside them, and frozen, where they are in four bits: to
    round the sum to four bits would lose most of what an adapter says.

    Raises:
        ConfigError: The adapter cannot be read, or was trained on another model than ``base``.
    """
    wrapped = _around(base, name)
    return wrapped.requires_grad_(False).eval() if is_quantized(base) else merged(wrapped)


def fitting(base: PreTrainedModel, name: str) -> PreTrainedModel:
    """``base``, which may be without weights, once the adapter in the folder ``name`` has been tried on it.

    Raises:
        ConfigError: As of :func:`with_adapter`.
    """
    plain: PreTrainedModel = _around(base, name).unload()
    return plain


def _around(base: PreTrainedModel, name: str) -> Any:
    from peft import PeftConfig, get_peft_model  # heavy, and only needed here

    folder = str(Path(name).expanduser())
    try:
        with torch.random.fork_rng(devices=[]):  # what is drawn is overwritten
            model = get_peft_model(base, PeftConfig.from_pretrained(folder))
        with warnings.catch_warnings():
            # nothing is copied onto a base without weights, as is meant
            warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")
            loaded = model.load_adapter(folder, model.active_adapter)
        problem = _mismatch(loaded.missing_keys, loaded.unexpected_keys)
    except Exception as error:  # damage shows itself as nearly anything, and so does a base of another shape
        problem = first_line(error)
    if problem:
        raise ConfigError(
            f"model={name!r}: the adapter does not fit its base {base.name_or_path!r}: {problem}; give the model it was trained "
            f"on as base_model_name_or_path in {Path(folder) / CONFIG}, or a model into which it has been merged"
        )
    return model


def _mismatch(missing: list[str], unexpected: list[str]) -> str:
    if missing:
        return f"it has no weights for {missing[0]}"
    return f"the base has no place for {unexpected[0]}" if unexpected else ""


def adapted(
    model: PreTrainedModel, peft_config: Any, seed: int, key: str = "peft_config", weightless: bool = False
) -> Any:
    """``model`` inside a new adapter, whose weights depend on ``seed`` alone.

    Args:
        model: What stays as it is; the adapter's layers are put into it.
        peft_config: A configuration of PEFT's.
        seed: Of the adapter's weights. No global random generator moves.
        key: What the message calls ``peft_config``.
        weightless: Whether the adapter gets no weights either: to try whether it fits.

    Raises:
        ConfigError: The adapter does not fit the model.
    """
    from peft import get_peft_model  # heavy, and only needed here

    if is_wrapped(model):
        raise ConfigError(
            f"{key}: the model is inside an adapter already; leave {key} out to train that one, or merge it first "
            "(model.merge_and_unload())"
        )
    if getattr(peft_config, "is_prompt_learning", False):
        raise ConfigError(
            f"{key}: {type(peft_config).__name__} puts made-up tokens before what the student reads, which would then be another "
            "text than the teacher's; use an adapter inside the layers, such as LoraConfig"
        )
    listed = getattr(peft_config, "target_modules", None)
    plain = model.get_input_embeddings()
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta") if weightless else nullcontext():
            torch.default_generator.manual_seed(seed)
            wrapped = get_peft_model(model, deepcopy(peft_config))  # it writes into it
        unmatched = [] if isinstance(listed, str) else _unmatched(listed or (), wrapped)
        problem = f"it has no module called {unmatched[0]!r}" if unmatched else _tied(plain, wrapped)
    except Exception as error:  # PEFT raises ValueError, TypeError and others over a configuration that does not fit
        problem = first_line(error)
        if "allocate memory" in problem:
            raise ConfigError(f"{key}: there is no memory for an adapter of rank {peft_config.r}; lower r") from error
    if problem:
        raise ConfigError(
            f"{key}: no such adapter for {type(model).__name__}: {problem}; give target_modules that the model has, or all-linear"
        )
    return wrapped


def _unmatched(listed: Iterable[str], wrapped: Any) -> list[str]:
    """Those listed names that are no layer's: PEFT minds only where all are."""
    targeted = wrapped.base_model.targeted_module_names
    return [name for name in listed if not any(f".{target}".endswith(f".{name}") for target in targeted)]


def _tied(embeddings: nn.Module, wrapped: Any) -> str:
    """What is wrong with an adapter on embeddings that are the output head too: merged, or saved, it would change both."""
    if wrapped.get_input_embeddings() is embeddings or not wrapped.config.get_text_config().tie_word_embeddings:
        return ""
    return "its input embeddings are its output head too, which no adapter may change"


PLAIN_STARTS = ("gaussian", "orthogonal", "eva")
"""Names of ``init_lora_weights`` that change no weight beside the adapter's own; others, such as ``pissa``, do."""


def leaves_base(wrapped: Any) -> bool:
    """Whether a model of PEFT's without its adapter is, and stays, the model that was put into it."""
    config = wrapped.peft_config[wrapped.active_adapter]
    start = getattr(config, "init_lora_weights", True)
    return getattr(config, "bias", "none") == "none" and (isinstance(start, bool) or start in PLAIN_STARTS)


def is_wrapped(model: Any) -> bool:
    """Whether ``model`` is one of PEFT's, around another."""
    from peft import PeftModel  # heavy, and only needed here

    return isinstance(model, PeftModel)


def merged(model: Any) -> PreTrainedModel:
    """The model inside an adapter, the adapter's change added to its weights; in place. A plain model stays what it is.

    Weights in four bits are unpacked first, so what is returned takes as much memory as a model in its dtype.
    """
    if not is_wrapped(model):
        return model  # type: ignore[no-any-return]
    if is_quantized(model):
        plain = merged_copy(model)
        nn.Module.to(plain, model.device)
    else:
        plain = model.merge_and_unload()
    nn.Module.requires_grad_(plain)
    return plain


def merged_copy(model: Any, into: PreTrainedModel | None = None) -> PreTrainedModel:
    """A plain model with the weights of ``into`` and the change of the adapter around ``model``, which stays as it is; on the CPU.

    Args:
        model: In four bits, inside an adapter.
        into: Is changed; by default the weights of ``model`` itself, unpacked, so that what is returned says the same as ``model``.
    """
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict  # as above

    base = unpack(deepcopy(model).unload()) if into is None else into
    config = deepcopy(model.peft_config[model.active_adapter])
    config.init_lora_weights = True  # other starts change the base, and what is drawn is overwritten
    with torch.random.fork_rng(devices=[]):
        wrapped = get_peft_model(base, config)
    set_peft_model_state_dict(wrapped, get_peft_model_state_dict(model))
    plain: PreTrainedModel = wrapped.merge_and_unload()
    nn.Module.requires_grad_(plain)
    return nn.Module.eval(plain)
