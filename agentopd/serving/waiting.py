"""A server that may be away: what is asked of it again, for how long, and what is said of it."""

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx2
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_exponential, wait_random

from agentopd.errors import TeacherError
from agentopd.serving.keys import hidden, key_of, require_address

_log = logging.getLogger(__name__)
T = TypeVar("T")

SAID = 300
"""Characters of an answer that a message repeats."""
AWAY = (frozenset({408, 409, 425, 429}) | frozenset(range(500, 600))) - {501, 505}
"""Statuses of a server that may answer later, or of what stands before it."""
SECRET = 12
"""Characters from which on a key is no word that an answer may well hold, as ``EMPTY`` is."""
NOT_ADMITTED = frozenset({401, 403})
"""Statuses of a server that does not know who asks."""


BRIEF = 15.0
"""Seconds until a connection is given up, or a question that takes no model's time, such as which models there are."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server is waited for."""

    timeout: float
    """Seconds until one request is given up."""
    patience: float
    """Seconds over which a request is tried again, ever less often."""

    @property
    def brief(self) -> float:
        """As ``timeout``, :data:`BRIEF` at most."""
        return min(self.timeout, BRIEF)

    @property
    def longest(self) -> float:
        """Seconds until a question has its answer, or is given up: its last request may begin when patience ends."""
        return self.patience + self.timeout

    @property
    def limits(self) -> httpx2.Timeout:
        """What a client is given."""
        return httpx2.Timeout(self.timeout, connect=self.brief)


class RefusedError(TeacherError):
    """The server does not answer such a request, now or later."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class AwayError(Exception):
    """The server did not answer, and may later."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


@dataclass(slots=True, eq=False)
class Waiting:
    """Requests to one server, from many threads at once; what does not answer is asked again, at most for ``patience.patience``.

    The key that it is opened with is sent, and stands in no message.
    """

    who: str
    """Whom errors are told of, such as ``teacher 'judge'``."""
    url: str
    patience: Patience
    key_env: str | None = None
    """The environment variable that holds the key."""
    outages: int = field(init=False, default=0)
    """How often it did not answer: what was known of the server before may no longer hold."""
    _key: str | None = field(init=False, repr=False)
    _lock: threading.Lock = field(init=False, repr=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Opens nothing yet.

        Raises:
            ConfigError: The address is none, or the variable of the key is not set.
        """
        require_address(self.url)
        self._key = None if self.key_env is None else key_of(self.key_env)

    @property
    def key(self) -> str | None:
        """What is sent so that the server answers; never told."""
        return self._key

    def hidden(self, text: str) -> str:
        """``text`` without the key, which some servers repeat."""
        return hidden(text, self._key)

    def repeats_key(self, text: str) -> bool:
        """Whether ``text``, which a server said, holds the key."""
        return len(self._key or "") >= SECRET and self.hidden(text) != text

    def waited(self, path: str, once: Callable[[], T]) -> T:
        """What ``once`` gives, which asks at ``path`` and raises AwayError where the server does not answer.

        Raises:
            TeacherError: It did not answer for too long; the message names the server.
        """
        again = Retrying(
            retry=retry_if_exception_type(AwayError),
            wait=_wait,
            stop=stop_after_delay(self.patience.patience),
            before_sleep=self._tell,
            reraise=True,
        )
        try:
            return again(once)
        except AwayError as error:
            raise TeacherError(
                f"{self.who}: {self.url}{path} {error}, over {self.patience.patience:g} seconds; start the server, or raise patience"
            ) from error

    def require_answered(self, path: str, answer: httpx2.Response) -> None:
        """Looks at the status of an answer.

        Raises:
            AwayError: The server may answer later.
            RefusedError: It never will.
        """
        if answer.is_success:
            return
        text = answer.content.decode(errors="replace")  # whatever encoding it claims to be in
        said = " ".join(self.hidden(text).split())[:SAID]
        if answer.status_code in AWAY:
            raise AwayError(f"answered {answer.status_code}: {said}", _asked_to_wait(answer, self.patience.patience))
        told = f"{self.who}: {self.url}{path} refused with {answer.status_code}: {said}"
        raise RefusedError(told + self._remedy(answer), answer.status_code)

    def _remedy(self, answer: httpx2.Response) -> str:
        """Where to ask, or how to be let in, where that is what the server refused."""
        if answer.has_redirect_location:
            return (
                f"; it points to {self.hidden(answer.headers['location'])[:SAID]}: give the address where the server is"
            )
        if answer.status_code not in NOT_ADMITTED:
            return ""
        if self.key_env is None:
            return "; set key_env to the name of an environment variable that holds the server's key"
        return f"; look at the key that the environment variable {self.key_env} holds"

    def _tell(self, state: RetryCallState) -> None:
        with self._lock:
            self.outages += 1
        error = state.outcome.exception() if state.outcome is not None else None
        seconds = state.next_action.sleep if state.next_action is not None else 0.0
        _log.warning("%s: %s %s; asked again in %.1f s", self.who, self.url, error, seconds)


def json_of(answer: httpx2.Response) -> Any:
    """What an answer holds.

    Raises:
        AwayError: It is no JSON, such as half a body.
    """
    try:
        return answer.json()
    except (ValueError, RecursionError) as error:
        raise AwayError(f"answered what is no JSON ({error})") from error


_backoff = wait_exponential(multiplier=0.5, max=30.0) + wait_random(0.0, 0.5)


def _wait(state: RetryCallState) -> float:
    """As long as the server asked for, or else ever longer."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.wait if isinstance(error, AwayError) else None
    return _backoff(state) if asked is None else max(asked, 0.1)


def _asked_to_wait(answer: httpx2.Response, patience: float) -> float | None:
    """The seconds that ``Retry-After`` names, at most a minute and ``patience``; it may name a date, which is not read."""
    try:
        seconds = float(answer.headers.get("retry-after", ""))
    except ValueError:
        return None
    return min(seconds, 60.0, patience) if math.isfinite(seconds) and seconds >= 0 else None
