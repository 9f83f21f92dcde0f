"""Models without weights: of a folder, a GGUF file, the hub, or, where the hub cannot be reached, of the few shapes that are known here."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from agentopd.config.shipped import load_yaml
from agentopd.models import ModelConfig, outline_of

PATIENCE = 5.0
"""Seconds for which the hub is waited for, where its answer is not needed."""


class Outlines:
    """Makes outlines, each once."""

    def __init__(self, tokenizer: Callable[[], PreTrainedTokenizerBase]) -> None:
        self.notes: list[str] = []
        """What is to be said of where they come from."""
        self._tokenizer = tokenizer
        self._made: dict[ModelConfig, PreTrainedModel] = {}

    def of(self, wanted: ModelConfig) -> PreTrainedModel:
        """The model, in the dtype of its configuration.

        Raises:
            ConfigError: There is no such model.
        """
        if wanted not in self._made:
            made = self._known(wanted) or outline_of(wanted, self._tokenizer() if wanted.new else None)  # type: ignore[arg-type]
            nn.Module.to(made, getattr(torch, wanted.dtype))
            self._made[wanted] = made
        return self._made[wanted]

    def _known(self, wanted: ModelConfig) -> PreTrainedModel | None:
        """A model whose shape is known here, where neither the hub nor its cache gives it."""
        name = str(wanted.model)
        shape = known().get(name)
        if shape is None or Path(name).exists() or isinstance(try_to_load_from_cache(name, "config.json"), str):
            return None
        try:
            HfApi().model_info(name, timeout=PATIENCE)
            return None
        except Exception:  # whatever keeps the hub from answering: offline mode, a proxy, no network
            self.notes.append(f"{name}: the hub cannot be reached, so its shape is the one that agentopd knows")
        config = AutoConfig.for_model(**shape)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        return model


def known() -> dict[str, dict[str, Any]]:
    """What ``config.json`` says of the shapes of some models on the hub, by their ids."""
    return load_yaml(Path(str(resources.files("agentopd.planning"))) / "known.yaml")
