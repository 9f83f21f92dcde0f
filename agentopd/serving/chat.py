"""A model that answers in words: chat completions by the official OpenAI client, none paid for twice."""

import json
import logging
import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import httpx2

from agentopd.errors import ConfigError, TeacherError, describe
from agentopd.serving.answers import Answers
from agentopd.serving.deadline import deadline
from agentopd.serving.endpoint import listed_models, named_model
from agentopd.serving.ledger import Ledger
from agentopd.serving.waiting import SAID, AwayError, RefusedError, Waiting, json_of
from agentopd.settings.problems import nearest

if TYPE_CHECKING:
    from openai import OpenAI

_log = logging.getLogger(__name__)

COMPLETIONS, MODELS = "/chat/completions", "/models"
NO_LIST = frozenset({404, 405, 501})
"""Statuses of a server that does not list its models."""
LOST = "\N{REPLACEMENT CHARACTER}".encode()
ROUNDED = 1e-2
"""By how much probabilities may sum to more than 1 where a server rounds their logarithms."""
IMPOSSIBLE = 1 << 53
"""Tokens that no answer takes."""
BROKE_DOWN = ("abort", "error")
"""How answers end that the server failed to finish."""
LOOK = "look at what stands at this address, and at its log"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer, with the likeliest in its place."""

    spelt: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said."""

    content: str
    calls: tuple[tuple[str, str], ...]
    """The name of each tool called, and its arguments as the model wrote them; neither, and no object, where it is no call of a function."""
    finish: str
    """``stop``, ``tool_calls``, or why it broke off, such as ``length`` or ``content_filter``."""
    tokens: tuple[Token, ...] | None
    """Where log-probabilities were asked for, and given."""


@dataclass(slots=True, eq=False)
class ChatServer:
    """A server of chat completions, asked from many threads at once. :meth:`of` makes one.

    What was answered once is not asked again, and what two threads ask at the same time is sent once.
    """

    waiting: Waiting
    model: str
    ledger: Ledger
    answers: Answers
    _client: "OpenAI" = field(repr=False)
    known: str | None = field(init=False, default=None)
    """The model by the name that the server's answers tell; ``None`` before there was one, or where they tell none."""
    _asked: dict[str, "Future[Any]"] = field(init=False, repr=False, default_factory=dict)
    _lock: threading.Lock = field(init=False, repr=False, default_factory=threading.Lock)

    @classmethod
    def of(cls, waiting: Waiting, model: str | None, ledger: Ledger, answers: Answers) -> Self:
        """The model of a server, which is asked what it has.

        Args:
            waiting: The server. Its address is the one that OpenAI clients take, mostly with ``/v1``.
            model: The model; ``None`` where the server has one alone.
            ledger: What was spent.
            answers: What was answered.

        Raises:
            ConfigError: The client is not installed, or the server does not serve ``model``.
            TeacherError: The server refused, or did not answer for too long.
        """
        client = _client(waiting)
        return cls(waiting, _model(waiting, client, model), ledger, answers, client)

    def ask(self, body: Mapping[str, Any]) -> Answer:
        """What the model says to a request, without ``model`` in it.

        Raises:
            SpentError: The cap is reached.
            TeacherError: The server refused, was away for too long, answers as another model now, or answered what cannot be used.
        """
        whole = {"model": self.model, **body}
        key = self.answers.key(self.waiting.url, whole)
        with self._lock:
            found = self._asked.get(key)
            mine = found is None
            waited = self._asked.setdefault(key, Future()) if found is None else found
        if mine:
            self._answer(key, whole, waited)
        return self._read(waited.result())

    def _answer(self, key: str, body: Mapping[str, Any], waited: "Future[Any]") -> None:
        try:
            answer = self.answers.get(key)
            if answer is None:
                with self.answers.turn(key, self.waiting.patience.longest):
                    answer = self.answers.get(key) or self._fresh(key, body)
            self._require_same(answer)
            waited.set_result(answer)
        except BaseException as error:
            waited.set_exception(error)
        finally:
            with self._lock:
                del self._asked[key]

    def _fresh(self, key: str, body: Mapping[str, Any]) -> Any:
        answer = self.waiting.waited(COMPLETIONS, lambda: self._once(body))
        self._require_same(answer)
        self._read(answer)  # or it is not kept
        kept = _kept(answer)
        self._require_no_key(kept)
        self.answers.put(key, kept)
        return answer

    def _once(self, body: Mapping[str, Any]) -> Any:
        self.ledger.begin()
        try:
            answer = _sent(self.waiting, self._client, "POST", COMPLETIONS, body)
            self.waiting.require_answered(COMPLETIONS, answer)
        except _UnsentError as error:
            self.ledger.refund()
            raise AwayError(str(error)) from error
        except (AwayError, RefusedError):
            self.ledger.refund()
            raise
        except _LostError as error:
            raise AwayError(str(error)) from error
        found = json_of(answer)
        if isinstance(found, dict) and not found.get("choices") and found.get("error"):  # some relays, with status 200
            self.ledger.refund()
            raise AwayError(f"answered an error: {self._brief(found['error'])}")
        failed = _failed(found)
        self._pay(found, must_tell=not failed)
        if failed:
            raise AwayError(f"gave no answer that can be used: it {failed}; it said {self._brief(found)}")
        return found

    def _pay(self, answer: Any, must_tell: bool) -> None:
        usage = answer.get("usage") if isinstance(answer, dict) else None
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else []
        known = [count for count in counts if isinstance(count, int) and 0 <= count < IMPOSSIBLE]
        if len(known) == 2:
            self.ledger.pay(*known)
        elif must_tell and self.ledger.needs_usage:
            raise self._unusable("it tells no usage, which the cap is on; set cap.requests instead")

    def _require_same(self, answer: Any) -> None:
        """Holds the model that an answer is of against the one before."""
        told = answer.get("model") if isinstance(answer, dict) else None
        if not isinstance(told, str):
            return
        with self._lock:
            self.known = known = self.known or told
        if told != known:
            raise TeacherError(
                f"{self.waiting.who}: {self.waiting.url} answered as the model {self.waiting.hidden(repr(told))}, and before as "
                f"{self.waiting.hidden(repr(known))}; set model to the exact version, or begin a new run"
            )

    def _require_no_key(self, kept: Mapping[str, Any]) -> None:
        """Refuses what would put the key into answers and records, such as an error that a relay tells as if its model said it."""
        if self.waiting.repeats_key(json.dumps(kept)):
            raise self._unusable(f"it repeats the key (it said {self._brief(kept)}); {LOOK}")

    def _read(self, answer: Any) -> Answer:
        try:
            return _answer_of(answer)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
            why, _, remedy = self.waiting.hidden(describe(error)).partition("; ")
            raise self._unusable(f"{why} (it said {self._brief(answer)}); {remedy or LOOK}") from error

    def _brief(self, answer: Any) -> str:
        return self.waiting.hidden(json.dumps(answer))[:SAID]

    def _unusable(self, why: str) -> TeacherError:
        return TeacherError(
            f"{self.waiting.who}: {self.waiting.url}{COMPLETIONS} gave no answer that can be used: {why}"
        )


class _UnsentError(Exception):
    """The request never reached the server."""


class _LostError(Exception):
    """The request was sent, and the answer did not come: the server may have charged for it."""


def require_client() -> None:
    """Raises ConfigError where the official client is not installed."""
    try:
        import openai  # noqa: F401  # only those who ask such a server need it
    except ImportError as error:
        raise ConfigError(
            'kind=openai: the official OpenAI client is not installed; pip install "agentopd[openai]"'
        ) from error


def _client(waiting: Waiting) -> "OpenAI":
    require_client()
    import openai

    key = waiting.key or "none"  # or the client would take that of its own environment variable
    proxied = httpx2.URL(waiting.url).host not in LOOPBACK
    try:
        http_client = httpx2.Client(
            timeout=waiting.patience.limits,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=proxied,  # the proxies of this machine
            event_hooks=deadline(waiting.patience.timeout),
        )
    except (httpx2.InvalidURL, ValueError) as error:
        raise ConfigError(
            "HTTPS_PROXY=..., HTTP_PROXY or ALL_PROXY: one of these environment variables holds no address of a proxy; set it to one such as "
            "http://host:8080, or unset it"
        ) from error
    client = openai.OpenAI(
        api_key=key,
        admin_api_key="",
        base_url=waiting.url,
        timeout=waiting.patience.limits,
        max_retries=0,
        default_headers={"Authorization": f"Bearer {key}"},
        http_client=http_client,
    )
    client.organization = client.project = None  # those of the environment belong to another server, perhaps
    return client


def _sent(
    waiting: Waiting, client: "OpenAI", method: str, path: str, body: Mapping[str, Any] | None
) -> httpx2.Response:
    """The server's answer, whatever its status.

    Raises:
        _UnsentError: There was no connection.
        _LostError: There was one, and no answer came.
    """
    from openai import APIConnectionError, APIStatusError

    try:
        if method == "GET":
            return client.get(path, cast_to=httpx2.Response, options={"timeout": waiting.patience.brief})
        return client.post(path, cast_to=httpx2.Response, body=body)
    except APIStatusError as error:
        return error.response
    except APIConnectionError as error:
        cause = error.__cause__ or error
        unsent = isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
        raise (_UnsentError if unsent else _LostError)(f"did not answer ({waiting.hidden(describe(cause))})") from error


def _model(waiting: Waiting, client: "OpenAI", model: str | None) -> str:
    """The model by its name; one that a server does not list, or that lists none, is taken at its word."""

    def once() -> Any:
        try:
            answer = _sent(waiting, client, "GET", MODELS, None)
        except (_UnsentError, _LostError) as error:
            raise AwayError(str(error)) from error
        waiting.require_answered(MODELS, answer)
        return json_of(answer)

    try:
        listed = listed_models(waiting, MODELS, waiting.waited(MODELS, once))
    except RefusedError as error:
        if error.status not in NO_LIST:
            raise
        if model is None:
            raise ConfigError(
                f"model=null: {waiting.url} does not list its models (status {error.status}); name one, or give its address, mostly with /v1"
            ) from error
        return model
    if model is not None and model not in listed:  # some list no aliases
        _log.warning(
            "%s: model=%r is not among those that %s lists%s", waiting.who, model, waiting.url, nearest(model, listed)
        )
        return model
    return named_model(waiting, model, listed)


def _failed(answer: Any) -> str:
    """Why another time there may be an answer where this one has none, or half of one; empty where that is not so."""
    if not isinstance(answer, dict) or "choices" not in answer:
        return ""
    if not answer["choices"]:
        return "has no choices"
    first = answer["choices"][0] if isinstance(answer["choices"], list) else None
    if not isinstance(first, dict):
        return ""
    if first.get("finish_reason") in BROKE_DOWN:
        return f"ended with {first['finish_reason']!r}"
    return "has no message" if first.get("message") is None else ""


def _answer_of(raw: Mapping[str, Any]) -> Answer:
    choice = raw["choices"][0]
    message = choice["message"]
    content, calls = message.get("content") or "", message.get("tool_calls") or ()
    if isinstance(content, list):  # in parts, of which some servers think in one and speak in another
        content = "".join(part["text"] for part in content if part.get("type") == "text")
    if not isinstance(content, str):
        raise TypeError(f"the content is {type(content).__name__}")
    logprobs = (choice.get("logprobs") or {}).get("content")
    return Answer(
        content,
        tuple(map(_call, calls)),
        str(choice.get("finish_reason")),
        None if logprobs is None else tuple(map(_token, logprobs)),
    )


def _call(said: Any) -> tuple[str, str]:
    """The name of a call, and its arguments; without a name, and with arguments that are none, where it is no call of a function."""
    function = said.get("function") if isinstance(said, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        return "", "null"
    arguments = function.get("arguments")
    text = arguments if isinstance(arguments, str) else "" if arguments is None else json.dumps(arguments)
    return function["name"], text


def _kept(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What is read of an answer, and no more: some servers repeat what a request's headers held."""
    choice = answer["choices"][0]
    message = {name: choice["message"][name] for name in ("content", "tool_calls") if name in choice["message"]}
    kept = {name: choice[name] for name in ("finish_reason", "logprobs") if name in choice}
    return {"choices": [{"message": message, **kept}]} | {
        name: answer[name] for name in ("model", "usage") if name in answer
    }


def _token(said: Mapping[str, Any]) -> Token:
    top = tuple((_bytes(one), _logprob(one)) for one in _top(said))
    mass = math.fsum(math.exp(logprob) for logprob in dict(top).values())
    if mass > 1.0 + ROUNDED:
        raise ValueError(
            f"probabilities of what might have stood there that sum to {mass:.4g}; set top_logprobs: 0, as the server tells none that are true"
        )
    return Token(_bytes(said), _logprob(said), top)


def _top(said: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return said.get("top_logprobs") or ()


def _bytes(said: Mapping[str, Any]) -> bytes:
    """The bytes of a token; a server that does not tell them writes it as text.

    None where the text stands for bytes that are not told: vLLM writes U+FFFD for half a character.
    """
    told = said.get("bytes")
    found = str(said["token"]).encode(errors="replace") if told is None else bytes(told)
    return b"" if LOST in found else found


def _logprob(said: Mapping[str, Any]) -> float:
    logprob = float(said["logprob"])
    if not logprob <= 1e-3:
        raise ValueError(f"a log-probability of {logprob}; set top_logprobs: 0, as the server tells none that are true")
    return min(logprob, 0.0)
