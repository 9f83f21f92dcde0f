"""Tokenizers with chat templates in the style of several model families."""

from functools import cache
from typing import Any

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from agentopd.chat.tokenizer import build_tokenizer
from agentopd.tooling.action import call
from agentopd.types import Message

TEXTS = ["assistant user system tool look_up price item pear Look up prices.\n\nthink", call("look_up", item="pear")]
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Look up a price.",
            "parameters": {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]},
        },
    }
]

CALLS = (
    '{%- for call in message.tool_calls or [] -%}{{- "\\n" if message.content or not loop.first -}}<tool_call>{{- "\\n" -}}'
    '{"name": "{{- call.function.name -}}", "arguments": {{ call.function.arguments | tojson -}} }'
    '{{- "\\n" -}}</tool_call>{%- endfor -%}'
)
CHATML = (
    "{%- set ns = namespace(query=-1) -%}"
    "{%- for message in messages -%}{%- if message.role == 'user' -%}{%- set ns.query = loop.index0 -%}{%- endif -%}{%- endfor -%}"
    "{%- if tools -%}{{- '<|im_start|>system\\n' -}}{%- if messages[0].role == 'system' -%}{{- messages[0].content ~ '\\n' -}}{%- endif -%}"
    "{{- tools | tojson ~ '<|im_end|>\\n' -}}{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'assistant' -%}"
    "{{- '<|im_start|>assistant\\n' -}}"
    "{{- message.content.split('</think>')[-1].lstrip('\\n') if loop.index0 < ns.query else message.content -}}"
    + CALLS
    + "{{- '<|im_end|>\\n' -}}"
    "{%- elif message.role == 'tool' -%}"
    "{{- '<|im_start|>user\\n<tool_response>\\n' ~ message.content ~ '\\n</tool_response><|im_end|>\\n' -}}"
    "{%- elif message.role == 'user' or not tools -%}{{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' -}}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- if closed -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}{%- endif -%}"
)
LLAMA3 = (
    "{{- bos_token -}}{%- for message in messages -%}"
    "{{- '<|start_header_id|>' ~ ('ipython' if message.role == 'tool' else message.role) ~ '<|end_header_id|>\\n\\n' -}}"
    "{%- if message.tool_calls -%}{%- if message.tool_calls | length > 1 -%}{{- raise_exception('one call only') -}}{%- endif -%}"
    "{{- {'name': message.tool_calls[0].function.name, 'parameters': message.tool_calls[0].function.arguments} | tojson -}}"
    "{%- else -%}{{- message.content | trim -}}{%- endif -%}"
    "{%- if loop.first and tools -%}{{- '\\n\\n' ~ tools | tojson -}}{%- endif -%}"
    "{{- '<|eot_id|>' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"
)
PLAIN = (
    "{%- for message in messages -%}{{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
TEMPLATES = {
    "chatml": (CHATML, ["<|im_start|>", "<|im_end|>", "<|endoftext|>"], "<|im_end|>"),
    "llama3": (
        LLAMA3,
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>"],
        "<|eot_id|>",
    ),
    "plain": (PLAIN, ["<|im_start|>", "<|im_end|>", "<|endoftext|>"], "<|im_end|>"),
}
NAMES = ["ours", *TEMPLATES]
ASK: list[Message] = [{"role": "system", "content": "Shop well."}, {"role": "user", "content": "Price of a pear?"}]


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    tokenizer = build_tokenizer(TEXTS, 600)
    if name != "ours":
        template, specials, _ = TEMPLATES[name]
        tokenizer.add_special_tokens(
            {"eos_token": specials[-1], "bos_token": specials[0], "extra_special_tokens": specials[1:-1]}
        )
        tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in ("<think>", "</think>")])
        tokenizer.chat_template = template
    return tokenizer
