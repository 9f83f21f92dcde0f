"""One trajectory as the page reads it: plain data for JSON, numbers cut to what an eye can tell apart."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentopd.types import Annotation, Message, Record, Turn
from agentopd.viewer.columns import Tokens, Top
from agentopd.viewer.decoding import Texts

DIGITS = 4
ENDLESS = 1e30
"""Stands for infinity, which JSON lacks."""
TITLE = 140
"""Letters of an episode's first user message that the list shows."""


def payload(record: Record, tokens: Tokens, texts: Texts | None, teachers: Sequence[str]) -> dict[str, Any]:
    """A record, with what is known of its tokens."""
    one = record.trajectory
    said = [annotation for annotation in record.annotations if annotation.teacher in teachers]
    return {
        "key": str(one.key),
        "task": {"env": one.task.env_id, "seed": str(one.task.seed), "split": one.task.split, "tags": one.task.tags},
        "family": one.family,
        "outcome": {
            "reward": exact(one.outcome.total_reward),
            "success": one.outcome.success,
            "stop": one.outcome.stop,
        },
        "failure": None if one.failure is None else _fields(one.failure, ("boundary", "kind", "message")),
        "opening": [_message(message) for message in one.opening],
        "tools": one.tools,
        "turns": [_turn(turn, span, said) for turn, span in zip(one.turns, tokens.span_S, strict=True)],
        "tokens": {
            "id": tokens.ids.tolist(),
            "text": None if texts is None else _texts(tokens, texts),
            "flag": tokens.flags.tolist(),
        },
        "signals": _signals(tokens),
        "tops": [_top(top) for top in tokens.tops],
        "vocabulary": {} if texts is None else _vocabulary(tokens, texts),
    }


def title_of(record: Record) -> str:
    """What the episode is about: the first line of its first user message that says something."""
    said = (str(message.get("content", "")) for message in record.trajectory.opening if message["role"] == "user")
    lines = (line.strip() for text in said for line in text[: 4 * TITLE].splitlines())
    line = next((line for line in lines if line), "")
    return line if len(line) <= TITLE else f"{line[:TITLE]}…"


def rounded(column: NDArray[Any]) -> list[float | None]:
    """Numbers with :data:`DIGITS` significant digits; ``None`` for ``nan``."""
    values = np.asarray(column, np.float64)
    values = np.where(np.isinf(values), np.copysign(ENDLESS, values), values)
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.floor(np.log10(np.abs(values)))
    places = np.where(np.isfinite(size), DIGITS - 1 - size, 0.0)
    up, down = 10.0 ** np.clip(places, 0, 22), 10.0 ** np.clip(-places, 0, 22)
    cut = np.where((places > 22) | (places < -22), values, np.round(values * up / down) / up * down)
    return [None if value != value else value for value in cut.tolist()]


def _signals(tokens: Tokens) -> dict[str, list[float | None]]:
    """All columns, rounded at once, for many small calls take far longer."""
    count, columns = len(tokens.ids), list(tokens.signals.values())
    values = rounded(np.concatenate([np.zeros(0), *columns]))
    return {name: values[i * count : (i + 1) * count] for i, name in enumerate(tokens.signals)}


def _texts(tokens: Tokens, texts: Texts) -> list[str]:
    ids = tokens.ids.tolist()
    return [text for start, stop in tokens.span_S for text in texts.of(ids[start:stop])]


def _vocabulary(tokens: Tokens, texts: Texts) -> dict[int, str]:
    """The texts of all tokens that some distribution holds likely."""
    found = np.unique(np.concatenate([np.zeros(0, np.int64), *(top.ids_N_K.reshape(-1) for top in tokens.tops)]))
    return {token: texts.alone(token) for token in found.tolist() if token >= 0}


def _top(top: Top) -> dict[str, Any]:
    return {
        "title": top.title,
        "k": top.ids_N_K.shape[1],
        "rows": top.row_N.tolist(),
        "ids": top.ids_N_K.reshape(-1).tolist(),
        "logprobs": rounded(top.logprob_N_K.reshape(-1)),
        "tails": rounded(top.logtail_N),
    }


def _turn(turn: Turn, span: tuple[int, int], said: Sequence[Annotation]) -> dict[str, Any]:
    plain = ("actor", "text", "action", "terminated", "truncated", "finish", "drift", "errors", "advice")
    return {
        **_fields(turn, plain),
        "tokens": span,
        "reward": exact(turn.reward),
        "version": turn.policy_version,
        "seconds": [_short(time) for time in (turn.seconds_policy, turn.seconds_env)],
        "calls": [{"name": call.name, "arguments": _arguments(call.arguments)} for call in turn.calls],
        "outcomes": [
            {**_fields(one, ("name", "outcome", "cut")), "seconds": _short(one.seconds)} for one in turn.outcomes
        ],
        "observations": [_message(message) for message in turn.observations],
        "teachers": {annotation.teacher: _of_turn(annotation, turn.index) for annotation in said},
    }


def _of_turn(annotation: Annotation, turn: int) -> dict[str, Any]:
    corrected = annotation.corrected_S
    return {
        "reward": _reward(annotation, turn),
        "skip": bool(annotation.skip_S[turn]) if turn < len(annotation.skip_S) else False,
        "corrected": corrected[turn] if turn < len(corrected) else None,
    }


def _reward(annotation: Annotation, turn: int) -> float | None:
    given = float(annotation.reward_S[turn]) if turn < len(annotation.reward_S) else float("nan")
    return _short(given, 7)  # float32 has no more


def exact(value: float) -> float | None:
    """A number as it is; ``None`` for ``nan``, and what stands for infinity."""
    if math.isnan(value):
        return None
    return math.copysign(ENDLESS, value) if math.isinf(value) else float(value)


def _short(value: float, digits: int = DIGITS) -> float | None:
    found = exact(value)
    return None if found is None else float(f"{found:.{digits}g}")


def _arguments(given: Any) -> list[tuple[str, str]]:
    """The arguments of a call as text, which holds numbers that a browser would round."""
    if isinstance(given, Mapping):
        return [(str(name), _written(value)) for name, value in given.items()]
    return [] if given is None else [("", str(given))]


def _written(value: Any) -> str:
    """Text as it stands, other values as JSON; text that would read as one of those stands in quotes."""
    if isinstance(value, str) and value.strip() and not _reads_as_json(value):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _reads_as_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _message(message: Message) -> dict[str, Any]:
    plain: dict[str, Any] = {
        name: message[name] for name in ("role", "name", "content", "reasoning_content") if name in message
    }
    calls = [call.get("function", call) for call in message.get("tool_calls", ())]
    return {
        **plain,
        "calls": [
            {"name": str(call.get("name", "?")), "arguments": _arguments(call.get("arguments"))} for call in calls
        ],
    }


def _fields(of: Any, names: Sequence[str]) -> Mapping[str, Any]:
    return {name: getattr(of, name) for name in names}
