"""Small models that think, saved with their tokenizer: the template opens the thought, and keeps or forgets what was thought."""

import tempfile
from functools import cache
from pathlib import Path

from tokenizers import AddedToken

from agentopd.models import NewModel, build_tokenizer, new_model

TURN = "'<|im_start|>' ~ message.role ~ '\n' ~ {} ~ '<|im_end|>\n'"
TEMPLATE = (
    "{%- for message in messages -%}{%- if message.role == 'assistant' -%}{{- "
    + TURN.format("opened ~ SAID")
    + " -}}{%- else -%}{{- "
    + TURN.format("message.content")
    + " -}}{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' ~ opened -}}{%- endif -%}{#- </think> -#}"
)
SAID = {
    "keeps": "message.content",
    "forgets": "(message.content if loop.last else message.content.split('</think>')[-1].lstrip('\\n'))",
}
TEXTS = [
    "Look up both, then pay the total. Pay for pear and fig and nut. I look. Thank you\n\n assistant user",
    'Thought: I look.\nAction: look\nAction Input: {"item": "pear"}\nFinal Answer:',
    '<invoke name="look">\n<parameter name="item">nut</parameter>\n</invoke>',
]


@cache
def _held() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory()


@cache
def folder(template: str, seed: int) -> Path:
    """A model with random weights and its tokenizer, whose template ``keeps`` or ``forgets``; ``opened`` is what it opens a turn with."""
    tokenizer = build_tokenizer(TEXTS, 560)
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"})
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in ("<think>", "</think>")])
    tokenizer.chat_template = TEMPLATE.replace("SAID", SAID[template])
    place = Path(_held().name) / f"{template}-{seed}"
    size = {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 24, "max_positions": 1024}
    new_model(NewModel(**size, vocab_size=len(tokenizer)), tokenizer, seed).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place
