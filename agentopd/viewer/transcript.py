"""Episodes as readable conversations in HTML, every token shaded by a signal."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from statistics import fmean
from typing import Any
from urllib.parse import quote

from agentopd.types import CallOutcome, Message, ToolCall, Trajectory, Turn
from agentopd.viewer.decoding import Decode, pieces
from agentopd.viewer.times import duration


@dataclass(frozen=True, slots=True)
class Shading:
    """A signal by segment and index of a token. A token of ``scale`` or more has the full colour."""

    name: str
    values: Mapping[tuple[int, int], float] = field(default_factory=dict)
    scale: float = 1.0


def episode(
    trajectory: Trajectory, decode: Decode | None, shading: Shading, unfold: bool = False, view: str = ""
) -> str:
    """One episode as a ``<details>`` element.

    Args:
        trajectory: The episode.
        decode: From token ids to text, special tokens included; without it tokens are not shaded.
        shading: How to shade the tokens of turns.
        unfold: Whether the element is open.
        view: The file that shows all trajectories, to link to; none without.
    """
    parts = [*map(_message, trajectory.opening), _tools(trajectory.tools)]
    parts += [_turn(trajectory, turn, decode, shading) for turn in trajectory.turns]
    if trajectory.failure is not None:
        failure = trajectory.failure
        parts.append(_block("failure", f"{failure.boundary} failed · {failure.kind}", escape(failure.message)))
    opened = " open" if unfold else ""
    return f'<details class="episode"{opened}><summary>{_summary(trajectory)}{_link(trajectory, view)}</summary>{"".join(parts)}</details>'


def _summary(trajectory: Trajectory) -> str:
    won, outcome = trajectory.outcome.success and trajectory.failure is None, trajectory.outcome
    mark = '<b class="good">success</b>' if won else '<b class="bad">no success</b>'
    facts = [
        trajectory.task.env_id,
        "1 turn" if len(trajectory.turns) == 1 else f"{len(trajectory.turns)} turns",
        f"reward {outcome.total_reward:g}",
        outcome.stop.replace("_", " "),
    ]
    return f"{mark} {escape(' · '.join(facts))} <code>{escape(str(trajectory.key))}</code>"


def _link(trajectory: Trajectory, view: str) -> str:
    return f' <a href="{view}#key={quote(str(trajectory.key))}">open</a>' if view else ""


def _tools(schemas: Sequence[Mapping[str, Any]]) -> str:
    if not schemas:
        return ""
    names = ", ".join(str(schema.get("function", schema).get("name", "?")) for schema in schemas)
    text = "\n".join(json.dumps(schema, ensure_ascii=False, default=str) for schema in schemas)
    return f'<details class="tools"><summary>tools: {escape(names)}</summary><pre>{escape(text)}</pre></details>'


def _turn(trajectory: Trajectory, turn: Turn, decode: Decode | None, shading: Shading) -> str:
    values = [shading.values.get((turn.segment, i)) for i in range(turn.start, turn.stop)]
    known = [value for value in values if value is not None]
    head = f"{turn.actor} · turn {turn.index + 1} · {turn.stop - turn.start} tokens"
    if known:
        head += f" · mean {shading.name} {fmean(known):.3g}"
    body = escape(turn.text)
    if decode is not None and turn.segment < len(trajectory.segments):
        ids = trajectory.segments[turn.segment].tokens_T[turn.start : turn.stop].tolist()
        body = "".join(_token(piece, v, shading.scale) for piece, v in zip(pieces(ids, decode), values, strict=False))
    calls = "".join(f'<div class="call">→ {escape(_call(call))}</div>' for call in turn.calls)
    return _block("assistant", head, body, calls + _tags(turn)) + "".join(map(_message, turn.observations))


def _tags(turn: Turn) -> str:
    tags = [f'<span class="bad">{escape(kind)}</span>' for kind in turn.errors]
    tags += [f"<span>{escape(_outcome(outcome))}</span>" for outcome in turn.outcomes]
    tags += ['<span class="bad">cut at the limit</span>'] if turn.finish == "length" else []
    tags += [f"<span>reward {turn.reward:g}</span>"] if turn.reward else []
    tags += [f"<span>context {turn.drift}</span>"] if turn.drift in ("realigned", "forked") else []
    tags += [f"<span>expert: {escape(turn.advice)}</span>"] if turn.advice is not None else []
    return f'<div class="tags">{"".join(tags)}</div>' if tags else ""


def _call(call: ToolCall) -> str:
    arguments = ", ".join(f"{name}={json.dumps(value, default=str)}" for name, value in call.arguments.items())
    return f"{call.name}({arguments})"


def _outcome(call: CallOutcome) -> str:
    took = f"{call.seconds:.2g} s" if call.seconds >= 0.01 else duration(call.seconds)
    return f"{call.name} {call.outcome}, {took}{', answer cut' if call.cut else ''}"


def _message(message: Message) -> str:
    role = message["role"]
    head = f"{role} · {message['name']}" if "name" in message else role
    return _block(role, head, escape(str(message.get("content", ""))))


def _block(kind: str, head: str, body: str, after: str = "") -> str:
    return f'<div class="message {escape(kind)}"><h4>{escape(head)}</h4><pre>{body}</pre>{after}</div>'


def _token(text: str, value: float | None, scale: float) -> str:
    if value is None:
        return escape(text)
    strength, kind = min(abs(value) / scale, 1.0), " class=n" if value < 0 else ""
    return f'<i{kind} style="--d:{strength:.2f}" title="{value:.3g}">{escape(text)}</i>'
