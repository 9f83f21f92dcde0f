"""What decides what a teacher says: the teacher itself, and all of a trajectory that one may read. Equal digests, equal annotations."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from transformers import PreTrainedModel

from agentopd.chat import Chat
from agentopd.offloading import waiting
from agentopd.types import Key, Trajectory, timeless


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a teacher is, settings included; whatever its name. Two are one where the texts are equal and the numbers close."""

    text: str
    numbers: tuple[float, ...] = ()
    """By which something is known whose weights nobody sees: what it answers to a question that is always the same."""
    tolerance: float = 0.0
    """By how much each of these may differ."""


def digest(*values: Any) -> str:
    """The SHA-256 of plain values, arrays, settings and dataclasses of these, in hexadecimal digits.

    Raises:
        TypeError: There is something else among them, of which nobody knows whether it is the same another time.
    """
    whole = hashlib.sha256()
    _feed(whole, values)
    return whole.hexdigest()


def _feed(whole: Any, value: Any) -> None:
    """Adds one value, with its type and its length, so that no two lists of values run into the same bytes."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        whole.update(f"array {value.dtype.str} {value.shape};".encode())
        whole.update(np.ascontiguousarray(value))
    elif isinstance(value, BaseModel):
        _feed(whole, value.model_dump(mode="json"))
    elif is_dataclass(value) and not isinstance(value, type):
        _feed(whole, {field.name: getattr(value, field.name) for field in fields(value)})
    elif isinstance(value, Mapping):
        whole.update(f"mapping {len(value)};".encode())
        for item in sorted(value.items(), key=lambda item: repr(item[0])):
            _feed(whole, item)
    elif isinstance(value, list | tuple):
        whole.update(f"list {len(value)};".encode())
        for one in value:
            _feed(whole, one)
    elif value is None or isinstance(value, bool | int | float | str | bytes):
        text = repr(value).encode(errors="backslashreplace")
        whole.update(f"{type(value).__name__} {len(text)};".encode() + text)
    else:
        raise TypeError(
            f"a {type(value).__name__} has no digest; give plain values, arrays, settings or dataclasses of these"
        )


NAMES = {"_name_or_path", "transformers_version"}
"""What a model's configuration says of where it lies, and of who wrote it."""


def of_model(model: PreTrainedModel) -> str | None:
    """The digest of a model's architecture and of the bytes of its weights; ``None`` for one that owns none, such as another seen
    in another way."""
    weights = {**dict(model.named_parameters()), **model.state_dict(), **waiting(model)}
    if not weights:
        return None
    whole = hashlib.sha256()
    _feed(whole, {name: repr(value) for name, value in model.config.to_dict().items() if name not in NAMES})
    places: dict[int, str] = {}
    for name, tensor in sorted(weights.items()):
        first = places.setdefault(tensor.data_ptr() or id(tensor), name)
        _feed(whole, [name, first, str(tensor.dtype), tuple(tensor.shape)])
        if first == name:  # what is tied is read once
            whole.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return whole.hexdigest()


def of_chat(chat: Chat) -> str:
    """The digest of how conversations are written: the tokenizer's ids, its chat template with its settings, and what was set by hand."""
    tokenizer, by_hand = chat.tokenizer, [chat.call_format, chat.past_thinking]
    by_hand = by_hand if by_hand != [None, "template"] else []
    return digest(tokenizer.get_vocab(), str(tokenizer.chat_template), chat.template_kwargs, *by_hand)


def read_of(trajectory: Trajectory) -> str:
    """The digest of all that a teacher may read of an episode: tokens, turns, messages, tools, facts, advice, rewards.

    Not its name, the code that played it, or what a clock or an engine measured or was counted of its tokens.
    """
    turns = tuple(replace(timeless(turn), prefilled=0, policy_version=0, thinking=0) for turn in trajectory.turns)
    return digest(replace(trajectory, key=Key("", 0, 0), origin=None, versions={}, turns=turns))
