"""What a teacher is shown beside what the student sees, as settings say it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import PlainValidator, ValidationError

from agentopd.chat import Hint
from agentopd.chat.blanks import parts_of
from agentopd.chat.hint import SIBLING
from agentopd.errors import ConfigError
from agentopd.settings.base import Settings
from agentopd.settings.problems import explain
from agentopd.settings.problems import shown as told_of


class Shown(Settings):
    """A hint that is more than its text."""

    text: str
    """What is shown: see ``chat.Hint``."""
    place: Literal["opening", "system"] = "opening"
    """Behind the first observation, or in the system message."""
    facts: Mapping[str, str] = {}
    """Facts that are the same in all episodes, by the name that the text gives them."""
    files: Mapping[str, str] = {}
    """Likewise, each the content of a text file, such as notes on what was learned before."""
    demonstrations: str | None = None
    """Recorded episodes, a run's folder or records, of which ``{demonstration}`` is one that succeeded in the same task."""


def _read(given: Any) -> "str | Shown":
    if isinstance(given, str | Shown):
        return given
    if not isinstance(given, Mapping):
        raise ValueError(f"give the text to show, or a mapping with it; got {told_of(given)}")
    try:
        return Shown.model_validate(given)
    except ValidationError as error:
        raise ValueError(f"give the text to show, or a mapping with it: {explain(error, Shown)}") from None


Told: TypeAlias = Annotated[str | Shown, PlainValidator(_read)]
"""The setting ``hint``: its text, or a mapping with more."""


def hint_of(told: str | Shown, envs: tuple[str, ...] = ()) -> Hint:
    """The hint that a setting describes, shown in the environments ``envs``, or in all where there are none.

    Raises:
        ConfigError: The text is malformed, or does not show what is given to be shown, or a file cannot be read.
    """
    shown = Shown(text=told) if isinstance(told, str) else told
    twice = shown.facts.keys() & shown.files.keys()
    if twice:
        raise ConfigError(f"hint.files.{min(twice)}: hint.facts has a fact of this name too; give one of them another")
    read = {name: _content(name, path) for name, path in shown.files.items()}
    return Hint(shown.text, envs, shown.place, tuple(sorted({**shown.facts, **read}.items())), shown.demonstrations)


def shows_sibling(told: str | Shown) -> bool:
    """Whether a setting names ``{sibling}``; no file is read."""
    text = told if isinstance(told, str) else told.text
    try:
        return any(name == SIBLING for _, name, _ in parts_of("hint", text))
    except ConfigError:  # told where the hint is made
        return False


def _content(name: str, path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"hint.files.{name}={path}: it cannot be read ({error}); give a text file in UTF-8") from None
