"""A teacher behind any API that speaks as OpenAI's: it answers in words, and is never paid twice for the same answer.

The run folder keeps answers and spending.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

import agentopd.teachers.judging as judging
import agentopd.teachers.preferring as preferring
import agentopd.teachers.writing as writing
from agentopd.chat.blanks import Blanks
from agentopd.errors import ConfigError, under
from agentopd.serving import Answers, Cap, ChatServer, Ledger, Patience, Prices, Threads
from agentopd.serving.answers import ANSWERS
from agentopd.serving.ledger import SPENDING
from agentopd.serving.waiting import Waiting
from agentopd.teachers.asking import SPENT
from agentopd.teachers.base import EVERYWHERE, Teacher, TeacherContext
from agentopd.teachers.grouping import Normalised
from agentopd.teachers.judging import ScoringTeacher
from agentopd.teachers.preferring import PreferringTeacher
from agentopd.teachers.soft import Vocabulary
from agentopd.teachers.traits import Examined, Traits, TraitsBy
from agentopd.teachers.writing import WritingTeacher
from agentopd.where import Where

OURS = ("model", "messages", "tools", "stream", "n", "logprobs", "top_logprobs")
"""What a request says that ``options`` must leave alone."""
BESIDE = ("defaultheaders", "extrabody", "extraheaders", "extraquery", "headers")
"""What OpenAI's client is told beside a request, where keys may stand; as an option it would be sent as a part of the request."""
KEYS = ("accesstoken", "apikey", "authorization", "secretkey", "subscriptionkey")
"""How the names of options end that hold keys, at any depth; these and :data:`BESIDE` are spelt without what is no letter."""
METRICS: Mapping[str, tuple[str, ...]] = {"correction": ("unmapped",), "score": ("spread",), "preference": ()}
"""What each question tells beside what was spent and skipped."""

REWARDING = ("score", "preference")
READ_BY: Mapping[str, tuple[tuple[str, ...], str]] = {
    "of": (("score",), "only a score is given to an episode"),
    "best": (("score",), "only scores have a highest"),
    "rescale": (("score",), "only scores are divided by the highest"),
    "normalised": (("score",), "only scores are compared within a group"),
    "rubric": (REWARDING, "only scores and preferences go by a rubric"),
    "scale": (REWARDING, "only scores and preferences are rewards"),
    "pairs": (("preference",), "only preferences have rivals"),
    "top_logprobs": (("correction", "score"), "only corrections and scores are made of log-probabilities"),
}
"""Which ``ask`` reads a setting, of those that not all of them read, and why no other does."""


def _idle(settings: Mapping[str, Any]) -> dict[str, str]:
    asks, prompt = settings["ask"], settings["prompt"]
    unread = {name: f"{why}, and ask={asks}" for name, (by, why) in READ_BY.items() if asks not in by}
    if prompt is not None and "{rubric}" not in prompt:
        unread.setdefault("rubric", "the prompt does not show {rubric}")
    return unread


def _traits(settings: Mapping[str, Any]) -> Traits:
    asks, soft = settings["ask"], bool(settings["top_logprobs"])
    return Traits(
        corrects=asks == "correction",
        distributes=asks == "correction" and soft,
        rewards=asks != "correction",
        statistics=("coverage",) if asks == "correction" and soft else (),
        metrics=(*SPENT, "skipped", *METRICS[asks]),
        examine=_examine,
        idle=_idle,
        adjustable=("cap", "prices", "in_flight", "timeout", "patience", "key_env"),
    )


@TraitsBy(_traits)
def openai(
    context: TeacherContext,
    *,
    url: str,
    model: str | None = None,
    ask: Literal["correction", "score", "preference"] = "correction",
    of: Literal["turn", "episode"] = "turn",
    prompt: str | None = None,
    rubric: str = judging.RUBRIC,
    best: Annotated[int, Field(ge=1, le=10)] = 10,
    rescale: bool = True,
    scale: float = 1.0,
    normalised: Normalised = "none",
    pairs: Annotated[int, Field(ge=1)] = 4,
    top_logprobs: Annotated[int, Field(ge=0)] = 0,
    options: dict[str, Any] | None = None,
    where: Where = EVERYWHERE,
    in_flight: Annotated[int, Field(ge=1)] = 32,
    timeout: Annotated[float, Field(gt=0.0)] = 120.0,
    patience: Annotated[float, Field(ge=0.0)] = 300.0,
    key_env: str | None = None,
    prices: Prices | None = None,
    cap: Cap | None = None,
) -> Teacher:
    """A model behind an API of chat completions, whatever its tokenizer. It is asked once an episode is over, or its rivals for preferences.

    Args:
        context: What the run lends.
        url: The address that OpenAI clients take, such as ``http://127.0.0.1:8000/v1``.
        model: The model; needed where the server has several.
        ask: For a better action at the student's state, a score, or which of two actions at one state is better, the last two as rewards.
        of: Of ``score``: one for each turn, or one for the episode, which stands on its last selected turn.
        prompt: The text of the question, with names in braces; of ``correction`` the system message.
        rubric: What scores and preferences go by.
        best: Of ``score``: the highest.
        rescale: Of ``score``: whether it is divided by ``best``.
        scale: What rewards are multiplied by, of scores once they are ``normalised``, as for ``verifier``.
        normalised: Of rewards: ``group`` sets them against those of the other episodes of the task, as for ``verifier``.
        pairs: Of ``preference``: rivals of a turn at most.
        top_logprobs: Alternatives to each token: scores are means over them, corrections soft labels where the answer's tokens are the student's.
        options: What every request says beside that, such as ``{temperature: 0, max_completion_tokens: 512}``.
        where: The turns that it teaches; the others cost nothing.
        in_flight: As for ``served``.
        timeout: As for ``served``.
        patience: As for ``served``.
        key_env: As for ``served``.
        prices: What a million tokens cost.
        cap: Where spending ends.

    Raises:
        ConfigError: Settings do not go together, or the client is not installed.
    """
    with under(f"teachers.{context.name}"):
        asked = _prompt(ask, of, prompt)
        _require_apt(context.temperature, ask, top_logprobs, options or {}, prices, cap)
        server = _server(context, _waiting(context.name, url, timeout, patience, key_env), model, prices, cap)
    body = _asking_for(top_logprobs if ask != "preference" else 0) | (options or {})
    shared: Any = {"name": context.name, "where": where, "server": server, "body": body, "threads": Threads(in_flight)}
    shared |= {"prompt": asked} | ({"rubric": rubric, "scale": scale} if ask != "correction" else {})
    return _made(context, ask, shared, pairs, top_logprobs, of=of, best=best, rescale=rescale, normalised=normalised)


def _made(context: TeacherContext, ask: str, shared: Any, pairs: int, top_logprobs: int, **scoring: Any) -> Teacher:
    """The teacher that asks so."""
    if ask == "score":
        return ScoringTeacher(**scoring, **shared)
    if ask == "preference":
        return PreferringTeacher(pairs=pairs, **shared)
    return WritingTeacher(corrects=True, chat=context.chat, vocabulary=_vocabulary(context, top_logprobs), **shared)


def _vocabulary(context: TeacherContext, top_logprobs: int) -> Vocabulary | None:
    """What makes soft labels of alternatives, where there are any."""
    return Vocabulary.of(context.chat, top_logprobs) if top_logprobs else None


def _waiting(name: str, url: str, timeout: float, patience: float, key_env: str | None) -> Waiting:
    return Waiting(f"teacher {name!r}", url.rstrip("/"), Patience(timeout, patience), key_env)


def _server(
    context: TeacherContext, waiting: Waiting, model: str | None, prices: Prices | None, cap: Cap | None
) -> ChatServer:
    """The model, with what was spent on it and what it answered before, where the run keeps these."""
    kept = context.answers or context.folder
    spending = None if context.folder is None else context.folder / SPENDING
    answers = Answers(None if kept is None else kept / ANSWERS)
    return ChatServer.of(waiting, model, Ledger(context.name, model or "", spending, prices, cap), answers)


def _asking_for(top_logprobs: int) -> dict[str, Any]:
    """What a request says that asks for log-probabilities."""
    return {"logprobs": True, "top_logprobs": top_logprobs} if top_logprobs else {}


def _examine(given: Examined) -> None:
    """What can be known before anything is paid for; the server is asked for the list of its models."""
    settings, temperature = given.settings, given.temperature
    apt = {name: settings[name] for name in ("ask", "top_logprobs", "prices", "cap")}
    _require_apt(temperature, **apt, options=settings["options"] or {})
    _prompt(settings["ask"], settings["of"], settings["prompt"])
    waiting = _waiting(given.name, *(settings[name] for name in ("url", "timeout", "patience", "key_env")))
    ChatServer.of(waiting, settings["model"], Ledger(given.name), Answers())


def _require_apt(
    temperature: float,
    ask: str,
    top_logprobs: int,
    options: Mapping[str, Any],
    prices: Prices | None,
    cap: Cap | None,
) -> None:
    beside = [name for name in map(str, options) if _plain(name) in BESIDE]
    beside += [name for name in _names(options) if _plain(name).endswith(KEYS)]
    if beside:
        raise ConfigError(
            f"options=...: they are what a request itself says, and are written down; leave {beside[0]} out, and give the key by key_env"
        )
    taken = [name for name in OURS if name in options]
    if taken:
        [name, *_] = taken
        raise ConfigError(f"options=...: {name}={options[name]!r} is said by the teacher itself; leave {name} out")
    try:
        json.dumps(dict(options), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"options=...: {error}; give what JSON can hold") from error
    if cap is not None and cap.cost is not None and prices is None:
        raise ConfigError(
            f"cap={cap.model_dump(exclude_none=True)}: a cap on the cost needs to know what tokens cost; set prices: {{input: ..., output: "
            "...}, per million tokens"
        )
    if ask == "correction" and top_logprobs and temperature != 1.0:
        raise ConfigError(
            f"top_logprobs={top_logprobs}: the server's log-probabilities are at temperature 1, and student and teacher are compared at "
            f"{temperature:g}; set rollout.temperature=1, or leave top_logprobs out"
        )


def _plain(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower())


def _names(options: Any) -> Iterator[str]:
    """The names of all settings, also of those inside others."""
    if isinstance(options, Mapping):
        yield from map(str, options)
        options = list(options.values())
    for one in options if isinstance(options, list) else ():
        yield from _names(one)


def _prompt(ask: str, of: str, prompt: str | None) -> Blanks:
    if ask == "correction":
        return Blanks.of("prompt", "{instructions}" if prompt is None else prompt, writing.FIELDS)
    if ask == "preference":
        made = Blanks.of("prompt", preferring.PROMPT if prompt is None else prompt, preferring.FIELDS)
        if not {"first", "second"} <= made.names:
            raise ConfigError(
                f"prompt={prompt!r}: it does not show the two actions; name both {{first}} and {{second}}"
            )
        return made
    own = judging.TURN_PROMPT if of == "turn" else judging.EPISODE_PROMPT
    made = Blanks.of("prompt", own if prompt is None else prompt, judging.FIELDS)
    if not {"conversation", "action"} & made.names:
        raise ConfigError(
            f"prompt={prompt!r}: it shows nothing of what was done, so that all would have one score; name {{conversation}}, {{action}} or both"
        )
    return made
