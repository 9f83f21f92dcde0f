"""Models: from random weights, a folder or the hub; and the head that turns their hidden states into logits."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from agentopd import gguf
from agentopd.adapters import base_of, fitting, is_adapter, with_adapter
from agentopd.chat import Chat
from agentopd.chat.tokenizer import build_tokenizer
from agentopd.errors import ConfigError, first_line
from agentopd.forward import hidden_states, unwrapped
from agentopd.model_files import check_folder, check_whole, unloadable
from agentopd.objective.head import Head
from agentopd.quantization import Quantization, asked, require_packable, settled
from agentopd.settings.base import Settings

__all__ = [
    "FrozenModel",
    "ModelConfig",
    "NewModel",
    "build_tokenizer",
    "check_head",
    "config_of",
    "head_of",
    "load_classifier",
    "load_model",
    "load_tokenizer",
    "new_model",
    "outline_of",
    "positions_of",
]

_TOKENIZER = "tokenizer_config.json"

Dtype = Literal["float32", "bfloat16", "float16", "float64"]


class NewModel(Settings):
    """A Llama architecture with random weights."""

    hidden_size: int = Field(128, ge=2)
    """Must be an even multiple of ``heads``: rotary positions turn pairs of units."""
    layers: int = Field(4, ge=1)
    """How many blocks."""
    heads: int = Field(4, ge=1)
    """Of attention, in each layer."""
    intermediate_size: int = Field(384, ge=1)
    """The width of the feed-forward part of a layer."""
    max_positions: int = Field(2048, ge=2)
    """The longest sequence."""
    vocab_size: int = Field(1024, ge=1)
    """The largest vocabulary of a tokenizer built for it; the model has one row for each id of the tokenizer it gets."""
    seed: int = Field(0, ge=0, lt=1000)
    """Beside the run's seed: models of one shape with different seeds start, and are fitted by a stage, differently."""

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
    """The type of its weights."""
    attention: str = Field("sdpa", min_length=1)
    """The attention implementation, by its name in transformers."""
    quantization: Quantization | None = None
    """``nf4`` holds the linear layers of its body in four bits (QLoRA, arXiv 2305.14314; needs ``pip install "agentopd[qlora]"``): they
    are frozen, and computed with in ``dtype``. An adapter's folder then stays beside its base."""

    @model_validator(mode="after")
    def _one_of_two(self) -> "ModelConfig":
        if (self.model is None) == (self.new is None):
            given = "neither" if self.model is None else "both"
            raise ConfigError(f"give exactly one of model (a hub id or folder) and new (random weights), got {given}")
        if self.quantization is not None:
            is_gguf = self.model is not None and gguf.is_gguf(self.model)
            require_packable(self.quantization, self.model, self.dtype, is_gguf)
        return self


class FrozenModel(ModelConfig):
    """One that is never trained."""

    offload: bool = False
    """Whether the weights of its layers wait in the host's memory: each comes to the device for the moment in which it is read."""

    @model_validator(mode="after")
    def _waits_unpacked(self) -> "FrozenModel":
        if self.offload and self.quantization is not None:
            raise ConfigError(
                f"offload=True: weights in four bits (quantization={self.quantization}) stay on the device; leave one of the two out"
            )
        return self


def load_model(config: ModelConfig) -> PreTrainedModel:
    """Loads a causal language model, in evaluation mode, on the CPU. The weights of a GGUF file are unpacked. One in four bits is on the
    GPU where there is one.

    Its head is tried with one small forward, where the attention runs on a CPU (``sdpa``, ``eager``).

    Raises:
        ConfigError: There is no such model, it has no weights or not all of them, or its logits are not a :class:`Head` of its
            hidden states.
    """
    if config.model is None:
        raise ConfigError("load_model reads a hub id or folder, but the config says new; use new_model for that")
    if is_adapter(config.model):
        with _base_for(config.model) as base:
            plain = load_model(config.model_copy(update={"model": base}))
        return with_adapter(plain, config.model)
    if config.quantization is not None:
        _require_unpacked(config, config_of(config.model))
    model = _read(config, config.model)
    if config.attention in ("sdpa", "eager"):
        check_head(model)
    return model


def outline_of(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The model without weights: what can be found wrong with it before they are loaded, is.

    Of a folder, and of an adapter's, the names and shapes of the weights are read and held against its architecture as loading
    does; of a hub id, a GGUF file and quantised weights the configuration alone. ``quantization`` changes no shape, and is left out.

    Raises:
        ConfigError: There is no such model or no such attention here; or weights are missing, cut off or of another shape; or an
            adapter does not fit its base.
    """
    if config.new is not None:
        with torch.device("meta"):
            return new_model(config.new, tokenizer, 0, config.dtype, config.attention)
    name = str(config.model)
    if is_adapter(name):
        with _base_for(name) as base:
            plain = outline_of(config.model_copy(update={"model": base}), tokenizer)
        return fitting(plain, name)
    found = config_of(name)
    _require_unpacked(config, found)
    config = config.model_copy(update={"quantization": None})  # what is packed has the shape of what is not
    outline = _architecture(found, config)
    if not Path(name).expanduser().is_dir() or hasattr(found, "quantization_config"):
        return outline
    return _read(config, name, device_map="meta")


def _require_unpacked(config: ModelConfig, found: PretrainedConfig) -> None:
    """Raises ConfigError where weights are to be packed that are packed already."""
    if config.quantization is not None and hasattr(found, "quantization_config"):
        raise ConfigError(
            f"quantization={config.quantization}: the weights of model={config.model!r} are quantised already, as its config.json says; leave "
            "quantization out, or give the model that they were made of"
        )


def _architecture(found: PretrainedConfig, config: ModelConfig) -> PreTrainedModel:
    """What ``found`` describes, without weights, with the attention of ``config``."""

    def made(attention: str) -> PreTrainedModel:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(found, attn_implementation=attention)  # type: ignore[no-untyped-call]
        return model

    try:
        return made(config.attention)
    except Exception as error:  # as in _read
        wrong = first_line(error)
    try:
        made("eager")
    except Exception as error:
        raise unloadable(str(config.model), error) from error
    raise _no_attention(config.attention, wrong)


CLASSIFIERS: Mapping[str, Any] = {
    "sequences": AutoModelForSequenceClassification,
    "tokens": AutoModelForTokenClassification,
}


def load_classifier(
    config: ModelConfig, of: Literal["sequences", "tokens"], weightless: bool = False
) -> PreTrainedModel:
    """Loads a classifier of sequences, or of tokens, in evaluation mode, on the CPU; ``weightless`` reads names and shapes of its weights alone.

    Raises:
        ConfigError: There is no such model, or it has no weights of such a classifier, as a language model has none.
    """
    name = str(config.model)
    try:
        return _read(config, name, CLASSIFIERS[of], **({"device_map": "meta"} if weightless else {}))
    except ConfigError as error:
        if "lacks weights" not in str(error):
            raise
        found, _, remedy = str(error).rpartition("; ")
        raise ConfigError(f"{found} (a language model is no classifier of {of}); {remedy}") from error


def _read(config: ModelConfig, name: str, auto: Any = AutoModelForCausalLM, **more: Any) -> PreTrainedModel:
    """The model in a folder, on the hub or in a GGUF file, all of its weights found; with ``device_map="meta"`` found alone."""
    check_folder(name, "config.json")
    place, file = gguf.source(name)
    packing = asked(config.quantization, getattr(torch, config.dtype))
    try:
        loaded: Any = auto.from_pretrained(
            place,
            dtype=getattr(torch, config.dtype),
            attn_implementation=config.attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            **file,
            **(gguf.unpacking() if file else {}),
            **packing,
            **more,
        )
    except Exception as error:  # loaders raise nearly anything over a file that is not what it should be
        raise unloadable(name, error) from error
    model: PreTrainedModel = loaded[0]
    if file:
        gguf.forget_blocks(model, name)
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ConfigError(
            f"model={name!r} holds an adapter beside a model, or on the hub; give a folder with the adapter alone, or a "
            "model into which it has been merged"
        )
    check_whole(name, loaded[1])
    return settled(model)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a hub id, a folder or a GGUF file; that of its base for an adapter without one.

    Raises:
        ConfigError: There is none.
    """
    if is_adapter(name) and not (Path(name).expanduser() / _TOKENIZER).exists():
        with _base_for(name) as base:
            return load_tokenizer(base)
    check_folder(name, _TOKENIZER)
    place, file = gguf.source(name)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place, **file)
    except Exception as error:  # as above
        raise unloadable(name, error, "has no tokenizer that can be loaded") from error
    tokenizer.name_or_path = name
    return tokenizer


def config_of(name: str) -> PretrainedConfig:
    """The configuration of a model's text, no weights read: of a hub id, a folder, a GGUF file, or an adapter's base.

    Raises:
        ConfigError: There is none.
    """
    if is_adapter(name):
        with _base_for(name) as base:
            return config_of(base)
    check_folder(name, "config.json")
    place, file = gguf.source(name)
    try:
        found: PretrainedConfig = AutoConfig.from_pretrained(place, **file).get_text_config()
    except Exception as error:  # as above
        raise unloadable(name, error) from error
    return found


@contextmanager
def _base_for(name: str) -> Iterator[str]:
    """The base of the adapter ``name``; what is wrong with it is told as the adapter's."""
    base = base_of(name)
    try:
        yield base
    except ConfigError as error:
        raise ConfigError(
            f"model={name!r}, an adapter, names as its base {error}" if str(error).startswith("model=") else str(error)
        ) from error


def _no_attention(attention: str, wrong: str) -> ConfigError:
    return ConfigError(f"attention={attention!r}: {wrong}; set attention to sdpa or eager, or install what it takes")


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
            raise _no_attention(attention, first_line(error)) from error
    nn.Module.to(model, getattr(torch, dtype))
    return nn.Module.eval(model)


def positions_of(config: PretrainedConfig) -> int | None:
    """How many tokens a model of this configuration reads at most; ``None`` where it has no limit."""
    longest: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return longest


def head_of(model: nn.Module) -> Head:
    """The output head of a causal language model, wrapped or not. Its tensors are the model's own parameters.

    Raises:
        ConfigError: The head is not one plain linear layer (it has an adapter, or is split over devices).
    """
    inner = unwrapped(model)
    linear = inner.get_output_embeddings()
    if type(linear) is not nn.Linear:
        raise ConfigError(
            f"the output head of {type(inner).__name__} is a {type(linear).__module__}.{type(linear).__name__}, not one plain "
            "torch.nn.Linear; leave lm_head out of adapters, and the vocabulary unsplit"
        )
    config = inner.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
    return Head(linear.weight, linear.bias, float(scale), getattr(config, "final_logit_softcapping", None))


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Compares the model's own logits with those that its head gives, on two tokens.

    Raises:
        ConfigError: They differ: the architecture does something to its logits that :class:`Head` does not know; or they are NaN.
    """
    ids_B_T = torch.tensor([[0, 1]], device=model.device)
    own = model(input_ids=ids_B_T, use_cache=False).logits.float()
    ours = head_of(model).logits(hidden_states(model, ids_B_T)).float()
    if own.isnan().any():
        raise ConfigError(
            f"model={model.name_or_path!r}: its logits are NaN, so its weights are broken, or too large for its dtype; give whole weights, or try "
            "dtype: float32"
        )
    if own.shape != ours.shape or not torch.allclose(own, ours, rtol=2e-2, atol=1e-3 * float(own.abs().max())):
        raise ConfigError(
            f"the logits of {type(model).__name__} are not its hidden states times its output head (with logit_scale, "
            "logits_scaling and final_logit_softcapping applied), so its divergences would be wrong; use another architecture"
        )
