"""Make records of chat data: conversations of other programs, tokenised once by the tokenizer of the model that is to learn from them.

examples:
  agentopd import chats.jsonl --model Qwen/Qwen3-0.6B --output runs/chats
  agentopd import sharegpt/ --config runs/first --format sharegpt --skip-bad --output runs/others
  agentopd import hf:me/chats@train --model my/model --success --output runs/from-hub
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentopd.chat import Chat


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument(
        "source", help="a .jsonl, .json or .parquet file, a folder of such or of a data set, or hf:REPO[@SPLIT]"
    )
    parser.add_argument("--output", required=True, help="a folder for the records")
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument(
        "--model", help="whose tokenizer and chat template write the tokens: a folder or a name on the hub"
    )
    whose.add_argument("--config", help="a run folder or a configuration instead, with how it writes conversations")
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="settings that come after the configuration")
    parser.add_argument(
        "--format",
        default="auto",
        choices=("auto", "openai", "sharegpt", "trl"),
        help="of the rows (default: %(default)s)",
    )
    parser.add_argument("--env", help="the id of an environment that the conversations are of")
    parser.add_argument("--success", action="store_true", help="episodes whose rows do not tell it succeeded")
    parser.add_argument("--skip-bad", action="store_true", help="leave out rows that cannot be read, and count them")


def run(arguments: argparse.Namespace) -> int:
    """Writes, and prints what came of it."""
    from pathlib import Path

    from agentopd.chat.tokenizer import keep_beside
    from agentopd.sharing import Wanted, take_in

    chat = _chat(arguments.model, arguments.config, arguments.overrides)
    wanted = Wanted(chat, arguments.format, arguments.env, arguments.success, arguments.skip_bad)
    told = take_in(arguments.source, arguments.output, wanted)
    keep_beside(wanted.chat.tokenizer, Path(arguments.output))
    print(json.dumps({"output": arguments.output, **asdict(told)}, indent=2))
    return 0


def _chat(model: str | None, config: str | None, overrides: Sequence[str]) -> "Chat":
    """How the model, or the student of the configuration, writes conversations."""
    from agentopd.chat import Chat
    from agentopd.cli import source
    from agentopd.errors import ConfigError
    from agentopd.models import load_tokenizer
    from agentopd.training.run.stages import tokenizer_of

    if config is None:
        if overrides:
            raise ConfigError(
                f"{overrides[0]}: settings change a configuration; give --config instead of --model {model}"
            )
        return Chat(load_tokenizer(str(model)))
    loaded, student = source.load(config, overrides)
    return loaded.chat(load_tokenizer(str(student)) if student else tokenizer_of(loaded, print_aside))


def print_aside(text: str) -> None:
    """Says what is going on, beside the output."""
    import sys

    print(text, file=sys.stderr)
