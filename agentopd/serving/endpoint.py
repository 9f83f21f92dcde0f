"""One server that is asked in JSON, and answers in JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from agentopd.errors import ConfigError, TeacherError, describe
from agentopd.serving.deadline import deadline
from agentopd.serving.waiting import AwayError, RefusedError, Waiting, json_of
from agentopd.settings.problems import nearest


@dataclass(slots=True, eq=False)
class Endpoint(Waiting):
    """See :class:`Waiting`: requests to it are plain JSON."""

    _client: httpx2.Client = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Opens nothing yet.

        Raises:
            ConfigError: The address is none, or ends in /v1, or the variable of the key is not set.
        """
        Waiting.__post_init__(self)
        if self.url.rstrip("/").endswith("/v1"):
            raise ConfigError(f"url={self.url}: leave /v1 out; the server is asked at /v1/completions, and beside /v1")
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx2.Client(
            base_url=self.url,
            headers=headers,
            timeout=self.patience.limits,
            limits=limits,
            trust_env=False,
            event_hooks=deadline(self.patience.timeout),
        )

    def get(self, path: str) -> Any:
        """What it answers, as JSON."""
        return self.waited(path, lambda: self._once("GET", path, None, self.patience.brief))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """What it answers to ``body``, as JSON.

        Raises:
            TeacherError: It refused, or did not answer for too long; the message names the server.
        """
        return self.waited(path, lambda: self._once("POST", path, body))

    def tried(self, path: str, body: Mapping[str, Any]) -> Any:
        """What it answers to ``body``, asked once; ``None`` where it does not, for whatever reason."""
        try:
            return self._once("POST", path, body)
        except (AwayError, RefusedError):
            return None

    def _once(self, method: str, path: str, body: Mapping[str, Any] | None, limit: float | None = None) -> Any:
        timeout = self.patience.limits if limit is None else limit
        try:
            answer = self._client.request(method, path, json=body, timeout=timeout)
        except httpx2.RequestError as error:
            raise AwayError(f"did not answer ({self.hidden(describe(error))})") from error
        self.require_answered(path, answer)
        return json_of(answer)


def listed_models(server: Waiting, path: str, served: Any) -> dict[str, int | None]:
    """The models of a list as OpenAI-compatible servers give it, each with the tokens that it reads where that is told.

    Raises:
        TeacherError: ``served``, which stood at ``path``, is no such list.
    """
    try:
        models = {one["id"]: one.get("max_model_len") for one in served["data"]}
        for name in models:
            name.encode()
            if server.repeats_key(name):
                raise ValueError("the key is no model")
        return models
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise TeacherError(
            f"{server.who}: {server.url}{path} answered {server.hidden(ascii(served))[:200]}, which is no list of models; give the address of "
            "a server that speaks OpenAI's API, such as vLLM's"
        ) from error


def named_model(server: Waiting, model: str | None, models: Mapping[str, int | None]) -> str:
    """``model``, or the only one that a server has.

    Raises:
        ConfigError: It does not serve ``model``, or several where none is named.
    """
    if model is None and len(models) != 1:
        raise ConfigError(f"model=null: {server.url} serves {', '.join(models) or 'nothing'}; name one model")
    name = model or next(iter(models))
    if name not in models:
        raise ConfigError(
            f"model={name!r}: {server.url} does not serve it{nearest(name, models)}; name one that it serves: {', '.join(models)}"
        )
    return name
