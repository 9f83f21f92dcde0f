"""Models: from random weights, a folder or the hub; their hidden states, and the head that turns those into logits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from agentopd import gguf
from agentopd.adapters import base_of, is_adapter, with_adapter
from agentopd.chat import Chat
from agentopd.chat.tokenizer import build_tokenizer
from agentopd.errors import ConfigError, first_line
from agentopd.objective.head import Head
from agentopd.settings.choice import Settings

__all__ = [
    "ModelConfig",
    "NewModel",
    "build_tokenizer",
    "check_head",
    "config_of",
    "head_of",
    "hidden_states",
    "load_model",
    "load_tokenizer",
    "new_model",
]

_TOKENIZER = "tokenizer_config.json"

Dtype = Literal["float32", "bfloat16", "float16", "float64"]


class NewModel(Settings):
    """A Llama architecture with random weights."""

    hidden_size: int = Field(128, ge=2)
    """Must be an even multiple of ``heads``: rotary positions turn pairs of units."""
    layers: int = Field(4, ge=1)
    heads: int = Field(4, ge=1)
    intermediate_size: int = Field(384, ge=1)
    max_positions: int = Field(2048, ge=2)
    """The longest sequence."""
    vocab_size: int = Field(1024, ge=1)
    """The largest vocabulary of a tokenizer built for it; the model has one row for each id of the tokenizer it gets."""

    @model_validator(mode="after")
    def _heads_fit(self) -> "NewModel":
        if self.hidden_size % (2 * self.heads):
            raise ConfigError(f"hidden_size={self.hidden_size} must be an even multiple of heads={self.heads}")
        return self


class ModelConfig(Settings):
    """Which model: exactly one of ``model`` and ``new``."""

    model: str | None = Field(None, min_length=1)
    """A hub id or a folder; a ``.gguf`` file, also as ``package:file.gguf`` inside an installed Python package; or the folder of
    an adapter, which is merged into its base."""
    new: NewModel | None = None
    """Random weights instead."""
    dtype: Dtype = "float32"
    attention: str = Field("sdpa", min_length=1)
    """The attention implementation, by its name in transformers."""

    @model_validator(mode="after")
    def _one_of_two(self) -> "ModelConfig":
        if (self.model is None) == (self.new is None):
            given = "neither" if self.model is None else "both"
            raise ConfigError(f"give exactly one of model (a hub id or folder) and new (random weights), got {given}")
        return self


def load_model(config: ModelConfig) -> PreTrainedModel:
    """Loads a causal language model, in evaluation mode, on the CPU. The weights of a GGUF file are unpacked.

    Its head is tried with one small forward, where the attention runs on a CPU (``sdpa``, ``eager``).

    Raises:
        ConfigError: There is no such model, it has no weights or not all of them, or its logits are not a :class:`Head` of its
            hidden states.
    """
    if config.model is None:
        raise ConfigError(
            "load_model reads a hub id or folder, but the config says new; use new_model for random weights"
        )
    if is_adapter(config.model):
        return with_adapter(load_model(config.model_copy(update={"model": base_of(config.model)})), config.model)
    _check_folder(config.model, "config.json")
    place, file = gguf.source(config.model)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place,
            dtype=getattr(torch, config.dtype),
            attn_implementation=config.attention,
            output_loading_info=True,
            **file,
            **(gguf.unpacking() if file else {}),
        )
    except Exception as error:  # loaders raise nearly anything over a file that is not what it should be
        raise ConfigError(f"model={config.model!r} cannot be loaded: {first_line(error)}") from error
    model: PreTrainedModel = loaded[0]
    if file:
        gguf.forget_blocks(model, config.model)
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ConfigError(
            f"model={config.model!r} holds an adapter beside a model, or on the hub; give a folder with the adapter alone, or a "
            "model into which it has been merged"
        )
    report: Mapping[str, Any] = loaded[1]
    if report["missing_keys"] or report["mismatched_keys"]:
        lacking = sorted(map(str, report["missing_keys"] or report["mismatched_keys"]))
        raise ConfigError(f"model={config.model!r} lacks weights that its config.json asks for, such as {lacking[0]!r}")
    if config.attention in ("sdpa", "eager"):
        check_head(model)
    return model


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a hub id, a folder or a GGUF file; that of its base for an adapter without one.

    Raises:
        ConfigError: There is none.
    """
    if is_adapter(name) and not (Path(name).expanduser() / _TOKENIZER).exists():
        return load_tokenizer(base_of(name))
    _check_folder(name, _TOKENIZER)
    place, file = gguf.source(name)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place, **file)
    except Exception as error:  # as above
        raise ConfigError(f"{name!r} has no tokenizer that can be loaded: {first_line(error)}") from error
    tokenizer.name_or_path = name
    return tokenizer


def config_of(name: str) -> PretrainedConfig:
    """The configuration of a model's text, no weights read: of a hub id, a folder, a GGUF file, or an adapter's base.

    Raises:
        ConfigError: There is none.
    """
    if is_adapter(name):
        return config_of(base_of(name))
    _check_folder(name, "config.json")
    place, file = gguf.source(name)
    try:
        found: PretrainedConfig = AutoConfig.from_pretrained(place, **file).get_text_config()
    except Exception as error:  # as above
        raise ConfigError(f"model={name!r} cannot be loaded: {first_line(error)}") from error
    return found


def new_model(
    new: NewModel,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    dtype: Dtype = "float32",
    attention: str = "sdpa",
) -> PreTrainedModel:
    """A Llama (arXiv 2302.13971) with random weights, no dropout, input and output embeddings tied.

    The weights depend on ``seed`` alone, and are drawn in float32; no global random generator moves.

    Raises:
        ConfigError: There is no such ``attention`` here.
    """
    end, pad = Chat(tokenizer).end_of_turn, tokenizer.pad_token_id
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=new.hidden_size,
        num_hidden_layers=new.layers,
        num_attention_heads=new.heads,
        num_key_value_heads=new.heads,
        intermediate_size=new.intermediate_size,
        max_position_embeddings=new.max_positions,
        initializer_range=0.6
        * new.hidden_size**-0.5,  # transformers' 0.02 is for wide models; narrow ones start far too small
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=end,
        pad_token_id=pad,
        dtype=torch.float32,
    )
    config._attn_implementation = attention
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            model: PreTrainedModel = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
        except (ValueError, ImportError) as error:  # an attention that transformers, or this machine, does not have
            raise ConfigError(f"attention={attention!r}: {first_line(error)}") from error
    nn.Module.to(model, getattr(torch, dtype))
    return nn.Module.eval(model)


def hidden_states(model: nn.Module, input_ids_B_T: Tensor, position_ids_B_T: Tensor | None = None) -> Tensor:
    """The last hidden states [B, T, H], after the final norm: what :func:`head_of` turns into logits.

    They are taken through the forward of ``model`` itself, so that the hooks of wrappers (DDP, FSDP, PEFT) run. No mask is given:
    sequences are padded on the right, where causal attention never looks, or packed into one row.

    Args:
        model: A causal language model, wrapped or not.
        input_ids_B_T: Token ids; any id as padding.
        position_ids_B_T: For packed rows, positions that restart at 0 with each sequence.
    """
    last = _inner(model).config.get_text_config().num_hidden_layers - 1
    output = model(
        input_ids=input_ids_B_T,
        position_ids=position_ids_B_T,
        output_hidden_states=[last],  # the others are not kept alive; the last one is stored after the norm
        logits_to_keep=1,
        use_cache=False,  # with a cache, packed sequences would see each other
    )
    hidden_B_T_H: Tensor = output.hidden_states[-1]
    return hidden_B_T_H


def head_of(model: nn.Module) -> Head:
    """The output head of a causal language model, wrapped or not. Its tensors are the model's own parameters.

    Raises:
        ConfigError: The head is not one plain linear layer (it has an adapter, or is split over devices).
    """
    inner = _inner(model)
    linear = inner.get_output_embeddings()
    if type(linear) is not nn.Linear:
        raise ConfigError(
            f"the output head of {type(inner).__name__} is a {type(linear).__name__}, not one plain linear layer; "
            "leave lm_head out of adapters, and the vocabulary unsplit"
        )
    config = inner.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
    return Head(linear.weight, linear.bias, float(scale), getattr(config, "final_logit_softcapping", None))


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Compares the model's own logits with those that its head gives, on two tokens.

    Raises:
        ConfigError: They differ: the architecture does something to its logits that :class:`Head` does not know.
    """
    ids_B_T = torch.tensor([[0, 1]], device=model.device)
    own = model(input_ids=ids_B_T, use_cache=False).logits.float()
    ours = head_of(model).logits(hidden_states(model, ids_B_T)).float()
    if own.shape != ours.shape or not torch.allclose(own, ours, rtol=2e-2, atol=1e-3 * float(own.abs().max())):
        raise ConfigError(
            f"the logits of {type(model).__name__} are not its hidden states times its output head (with logit_scale, "
            "logits_scaling and final_logit_softcapping applied), so its divergences would be wrong; use another architecture"
        )


def _inner(model: nn.Module) -> Any:
    return model.module if isinstance(model, DistributedDataParallel) else model


def _check_folder(name: str, needed: str) -> None:
    """Names what is wrong with a local path, which transformers would take for a hub id."""
    folder = Path(name).expanduser()
    if gguf.is_gguf(name):
        return
    if not folder.exists() and (folder.is_absolute() or name.startswith((".", "~"))):
        raise ConfigError(f"model={name!r}: there is no such folder")
    if folder.is_dir() and not (folder / needed).exists():
        raise ConfigError(
            f"model={name!r}: the folder has no {needed}; give one that save_pretrained of a model and of its tokenizer wrote"
        )
