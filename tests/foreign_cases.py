"""Tokenizers and chat templates unlike our own, learned from text that is shipped, and conversations for them."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

import agentopd
from agentopd.chat import Chat
from agentopd.models import build_tokenizer
from agentopd.types import CONTEXT, Key, Message, Outcome, Segment, Task, Trajectory, Turn

TEXTS = [
    (Path(agentopd.__file__).parent / name).read_text("utf-8") for name in ("types.py", "forward.py", "packing.py")
]

HERMES = """\
{%- for message in messages -%}
  {%- if message.role == "assistant" -%}
    {{- "<s>bot\\n" ~ (message.content or "") -}}
    {%- for call in message.tool_calls or [] -%}
      {{- "<tool_call>\\n{\\"name\\":\\"" ~ call.function.name ~ "\\",\\"arguments\\":" ~ call.function.arguments | tojson ~ "}\\n</tool_call>" -}}
    {%- endfor -%}
    {{- "</s>" -}}
  {%- else -%}
    {{- "<s>" ~ message.role ~ "\\n" -}}
    {%- if loop.first and tools -%}{{- tools | tojson ~ "\\n" -}}{%- endif -%}
    {{- message.content ~ "</s>" -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<s>bot\\n" -}}{%- endif -%}
"""
"""Roles by other names, calls as JSON with other spaces."""

GLM = HERMES.replace(
    """{{- "<tool_call>\\n{\\"name\\":\\"" ~ call.function.name ~ "\\",\\"arguments\\":" ~ call.function.arguments | tojson ~ "}\\n</tool_call>" -}}""",
    """{{- "<tool_call>" ~ call.function.name ~ "\\n" -}}
      {%- for name, value in call.function.arguments.items() -%}
        {{- "<arg_key>" ~ name ~ "</arg_key>\\n<arg_value>" ~ (value if value is string else value | tojson) ~ "</arg_value>\\n" -}}
      {%- endfor -%}
      {{- "</tool_call>" -}}""",
)
"""Calls with their arguments one by one, in tags."""

CLOSED = HERMES.replace('{{- "</s>" -}}', '{{- "<unk></s>" -}}')
"""Two tokens end a turn."""

FORGETFUL = HERMES.replace(
    '{{- "<s>bot\\n" ~ (message.content or "") -}}',
    '{{- "<s>bot\\n" ~ (message.content or "") ~ ("" if loop.last else " (said)") -}}',
)
"""It rewrites earlier turns."""


@cache
def own() -> PreTrainedTokenizerFast:
    """One that a run builds for new weights."""
    return build_tokenizer(TEXTS, 420)


@cache
def foreign(template: str = HERMES, size: int = 700, sentencepiece: bool = False) -> PreTrainedTokenizerBase:
    """A byte-level BPE, or a SentencePiece-like one that falls back to bytes, with special tokens of its own."""
    special = [AddedToken(text, special=True, normalized=False) for text in ("<pad>", "<s>", "</s>", "<unk>")]
    if sentencepiece:
        made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        made.decoder = decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        alphabet, more = [], [f"<0x{byte:02X}>" for byte in range(256)]
    else:
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet, more = pre_tokenizers.ByteLevel.alphabet(), []
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[*special, *more], initial_alphabet=sorted(alphabet), show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    if sentencepiece:
        made = _with_bytes(made)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=template,
    )


def _with_bytes(made: Tokenizer) -> Tokenizer:
    """The same where ``<0x41>`` is a token as any other, not one that text is looked through for."""
    described = json.loads(made.to_str())
    described["added_tokens"] = [token for token in described["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(described))


OPENING: tuple[Message, ...] = (
    {"role": "system", "content": "Use the tools."},
    {"role": "user", "content": "What do 3 pears cost?"},
)
_PARAMETERS = {
    "type": "object",
    "properties": {"item": {"type": "string"}, "count": {"type": "integer"}, "note": {"type": "string"}},
    "required": ["item"],
}
TOOLS: tuple[dict[str, Any], ...] = (
    {"type": "function", "function": {"name": "price", "description": "What it costs.", "parameters": _PARAMETERS}},
)
ANSWER: Message = {"role": "tool", "name": "price", "content": "17"}


def played(chat: Chat, actions: Sequence[str | list[int]], index: int = 0) -> Trajectory:
    """An episode of canonical actions, or of the very tokens of turns, each answered by the tool; as rollout writes it."""
    tools, messages = list(TOOLS), list(OPENING)
    tokens, turn_T = chat.prompt(messages, tools), list[int]()
    turn_T = [CONTEXT] * len(tokens)
    segments, turns, source = list[Segment](), list[Turn](), np.random.default_rng(index)

    def segment() -> Segment:
        marks = np.array(turn_T, np.int32)
        acted = marks >= 0
        logprob_T = np.where(acted, -source.uniform(0.01, 2.0, len(marks)), 0.0).astype(np.float32)
        return Segment(
            np.array(tokens, np.int32), marks, np.where(acted, 0, CONTEXT).astype(np.int32), acted, logprob_T
        )

    for s, given in enumerate(actions):
        written = chat.write(messages, given, tools) if isinstance(given, str) else given
        action, thinking = chat.read(written, tools, tokens), chat.thought_size(tokens, written)
        start = len(tokens)
        tokens, turn_T = [*tokens, *written], [*turn_T, *([s] * len(written))]
        turns.append(
            Turn(
                s,
                "student",
                len(segments),
                start,
                len(tokens),
                action.text,
                action.canonical,
                action.calls,
                (ANSWER,),
                thinking=thinking,
            )
        )
        extension = chat.extend(messages, action, [ANSWER], tools)
        messages = [*messages, action.message, ANSWER]
        if extension.drift == "forked":
            segments.append(segment())
            tokens, turn_T = [], []
        tokens, turn_T = [*tokens, *extension.tokens], [*turn_T, *([CONTEXT] * len(extension.tokens))]
    segments.append(segment())
    return Trajectory(
        Key("run", 0, index), Task("Env-v0", index), ("student",), tuple(segments), tuple(turns),
        Outcome(1.0, True, "terminated"), opening=OPENING, tools=TOOLS,
    )  # fmt: skip
