"""A tokenizer made for a run: byte-complete, with a chat template that spends few tokens."""

import hashlib
import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from agentopd.errors import ConfigError

PAD, SYSTEM, USER, ASSISTANT, TOOL, END = SPECIAL = (
    "<|pad|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|tool|>",
    "<|end|>",
)

CALL_PARTS = (
    "<tool_call>",
    "</tool_call>",
    '<tool_call>{"name": "',
    '", "arguments": {',
    '", "arguments": {"',
    "}}</tool_call>",
    '"}}</tool_call>',
)
"""Text of calls that is one token each, so that a turn is little more than the words that matter in it. The longest wins."""

SCAFFOLD = (
    '{"name": "a", "arguments": {"b": "c", "d": 1, "e": -2.5, "f": true, "g": ["h", "i"]}}',
    "n(a: string, b?: integer) c",
)
"""JSON and tool signatures, whose punctuation the merges should know whatever the texts."""

PRE_TOKENS = (
    r"\p{N}"  # digits one by one, the same wherever they stand
    r"| ?[\p{L}\p{M}_]+"  # a word or a tool's name, with the space before it
    r"| ?[^\s\p{L}\p{M}\p{N}_]+(?: [^\s\p{L}\p{M}\p{N}_]+)*(?: (?=\p{N}))?"  # punctuation such as `": "`, or `": ` before a digit
    r"|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = """\
{%- set system = messages[0].content if messages and messages[0].role == "system" else "" -%}
{%- if system or tools -%}
  {{- "<|system|>" ~ system -}}
  {%- for tool in tools or [] -%}
    {%- set function = tool.function if tool.function is defined else tool -%}
    {%- set required = function.parameters.required or [] -%}
    {{- ("\\n" if system or not loop.first else "") ~ function.name ~ "(" -}}
    {%- for name, schema in (function.parameters.properties or {}).items() -%}
      {{- (", " if not loop.first else "") ~ name ~ ("" if name in required else "?") ~ ": " -}}
      {%- if schema.enum is defined -%}
        {{- schema.enum | map("tojson") | join("|") -}}
      {%- else -%}
        {{- schema.type if schema.type is string else (schema.type | default(["any"]) | join("|")) -}}
      {%- endif -%}
    {%- endfor -%}
    {{- ")" ~ (" " ~ function.description if function.description else "") -}}
  {%- endfor -%}
{%- endif -%}
{%- for message in messages -%}
  {%- if message.role == "assistant" -%}
    {{- "<|assistant|>" -}}
    {%- generation -%}
      {{- message.content or "" -}}
      {%- for call in message.tool_calls or [] -%}
        {%- set function = call.function if call.function is defined else call -%}
        {{- '<tool_call>{"name": ' ~ function.name | tojson ~ ', "arguments": ' -}}
        {{- function.arguments | tojson | replace("<", "\\\\u003c") ~ "}</tool_call>" -}}
      {%- endfor -%}
      {{- "<|end|>" -}}
    {%- endgeneration -%}
  {%- elif message.role in ["user", "tool"] -%}
    {{- "<|" ~ message.role ~ "|>" ~ message.content -}}
  {%- elif not loop.first or message.role != "system" -%}
    {{- raise_exception("roles are system (first), user, assistant and tool, not " ~ message.role) -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<|assistant|>" -}}{%- endif -%}
"""
"""Only an assistant's turn is closed; the others end where the next begins. Longer conversations continue shorter ones."""


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of a tokenizer's ids: where it is equal, tokens mean the same."""
    ids = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]


def special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of a tokenizer's special tokens, those that it has no name for included, in order."""
    added = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return sorted(added | set(tokenizer.all_special_ids))


def keep_beside(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes ``tokenizer.json`` into a folder of records, by which whoever shows them reads their tokens; a tokenizer in Python alone has none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.save(str(folder / "tokenizer.json"))


def build_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Learns a byte-level BPE tokenizer from ``texts``; any text is encoded exactly, words it has seen often are one token.

    The same texts give the same tokenizer. Words are learned by how often they occur, until ``vocab_size`` is reached.

    Args:
        texts: What the run's conversations look like.
        vocab_size: The largest number of ids, special tokens included.

    Returns:
        A tokenizer that ends turns, and sequences, with ``<|end|>``.

    Raises:
        ConfigError: ``vocab_size`` leaves no room for the bytes.
    """
    added = [AddedToken(text, special=True, normalized=False) for text in SPECIAL]
    added += [AddedToken(text, special=False, normalized=False) for text in CALL_PARTS]
    alphabet = ByteLevel.alphabet()
    if vocab_size < len(alphabet) + len(added):
        raise ConfigError(
            f"vocab_size={vocab_size} is too small: bytes and markers alone take {len(alphabet) + len(added)}"
        )
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = Sequence(
        [Split(Regex(PRE_TOKENS), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size - len(CALL_PARTS),
        special_tokens=added[: len(SPECIAL)],
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    bpe.train_from_iterator(chain(texts, SCAFFOLD), trainer)
    bpe.add_tokens(added[len(SPECIAL) :])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=[SYSTEM, USER, ASSISTANT, TOOL],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
