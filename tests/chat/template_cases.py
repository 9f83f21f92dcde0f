"""Every chat template that TRL ships, and some in the style of others, each on a small tokenizer with the tokens that it writes."""

import copy
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import trl
from chat_cases import TEXTS
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from agentopd.chat import Chat
from agentopd.chat.tokenizer import build_tokenizer

FOLDER = Path(trl.__file__).parent / "chat_templates"
SPECIAL = re.compile(
    r"<\|[^|<>\s]+\|>|<\uff5c[^\uff5c<>\s]+\uff5c>|<\|[a-z_]+>|<[a-z_]+\|>|<(?:start|end)_of_[a-z]+>|<image>|<sop>|</s>|\[gMASK\]|<\|\"\|>"
)
ORDINARY = re.compile(r"</?(?:think|tool_call|tool_response|arg_key|arg_value)>|<\uff5c(?:User|Assistant)\uff5c>")
"""Tokens of their own that are no special ones, as in the tokenizers of Qwen, GLM and DeepSeek."""

PLAIN_CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
STRICT = (  # as Mistral 7B: no system or tool role, strict turns
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if message.role == 'user' %}{{ '[INST] ' + message.content + ' [/INST]' }}"
    "{% elif message.role == 'assistant' %}{{ ' ' + message.content + eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Case:
    template: str
    kwargs: dict[str, Any] = field(default_factory=dict)


CASES = {path.stem: Case(path.read_text()) for path in sorted(FOLDER.glob("*.jinja"))}
CASES |= {
    "qwen3_closed": Case(CASES["qwen3"].template, {"enable_thinking": False}),
    "qwen3_open": Case(CASES["qwen3"].template, {"enable_thinking": True}),
    "qwen3_training_closed": Case(CASES["qwen3_training"].template, {"enable_thinking": False}),
    "glm4moe_closed": Case(CASES["glm4moe"].template, {"enable_thinking": False}),
    "gemma4_open": Case(CASES["gemma4_v5"].template, {"enable_thinking": True}),
    "plain_chatml": Case(PLAIN_CHATML),
    "strict": Case(STRICT),
}


@cache
def _bytes() -> PreTrainedTokenizerFast:
    return build_tokenizer([*TEXTS, "Hello, well so be it.\n\n one two three"], 420)


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    template = CASES[name].template
    tokenizer = copy.deepcopy(_bytes())
    ordinary = set(ORDINARY.findall(template))
    special = set(SPECIAL.findall(template)) - ordinary
    end = (
        "<\uff5cend\u2581of\u2581sentence\uff5c>"
        if "<\uff5cend\u2581of\u2581sentence\uff5c>" in special
        else "<|endoftext|>"
    )
    tokenizer.add_special_tokens(
        {"bos_token": "<bos>", "eos_token": end, "extra_special_tokens": sorted(special - {end})}
    )
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in sorted(ordinary)])
    tokenizer.chat_template = template
    return tokenizer


@cache
def chat_of(name: str) -> Chat:
    return Chat(tokenizer_of(name), CASES[name].kwargs)
