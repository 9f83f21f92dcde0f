"""A vLLM server that scores tokens: ids go in, log-probabilities come out, and no text is ever tokenised again.

What is asked is ``prompt_logprobs`` of ``/v1/completions``: of each token of a prompt its own log-probability and those of the most
likely. vLLM gives them at temperature 1 whatever a request says, also with ``--logprobs-mode processed_logprobs`` (read in 0.32:
``_get_prompt_logprobs_dict`` skips the sampling processors). It sends all rows of a prompt, also those that nobody asked for. Ids of
one's own choosing are asked for as :mod:`agentopd.serving.chosen` says.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from agentopd.errors import ConfigError, TeacherError, describe
from agentopd.serving.chosen import PATH, UnscoredError, answered, question
from agentopd.serving.endpoint import Endpoint, listed_models, named_model
from agentopd.serving.waiting import NOT_ADMITTED, RefusedError
from agentopd.types import Floats, Ints, Whose

WHOLE = -1
"""The ``k`` that asks for all of the vocabulary."""
UNHEARD = 1e-7
"""The least mass that is told apart from none: log-probabilities come in single precision."""
ROUNDING = 1e-3
"""By how much what is told may be off, in nats: probabilities above 1, and numbers by which an answer is known again."""
SAME = 0.02
"""By how much two answers of one model may differ, in nats, on average over some tokens: in half precision what else a server reads at
the same time changes the last digits. Checkpoints that differ by a few steps may pass for the same."""
NOTHING = -9000.0
"""What is below stands for a probability of 0: vLLM sends -9999 for minus infinity."""
LEAST = -9999.0
"""What a token of no probability is told to have."""


@dataclass(frozen=True, slots=True)
class TopK:
    """What was said of N tokens."""

    ids_N_K: Ints
    """The most likely ids, best first, padded with -1; or those that were chosen, as in :class:`~agentopd.types.Sparse`."""
    logprob_N_K: Floats
    logtail_N: Floats
    """Log of the mass outside them."""
    taken_N: Floats
    """The log-probability of the token itself."""

    @property
    def entropy_N(self) -> Floats:
        """Of the ids and one bucket for all others, in nats, [N]; unknown where no id was asked for."""
        if not self.ids_N_K.shape[1]:
            return np.full(len(self.taken_N), np.nan, np.float32)
        log_N_K = np.concatenate([self.logprob_N_K, self.logtail_N[:, None]], 1).astype(np.float64)
        surprise_N_K = np.where(np.isneginf(log_N_K), 0.0, log_N_K)
        entropy_N: Floats = -(np.exp(log_N_K) * surprise_N_K).sum(1).astype(np.float32)
        return entropy_N

    def within(self, size: int, whole: bool) -> "TopK":
        """Of the ids below ``size`` alone, where others are no tokens but rows that fill up a head.

        Their mass is outside; where the ids were the ``whole`` vocabulary those that are left are all, and are normalised again.
        """
        beyond_N_K = self.ids_N_K >= size
        if not beyond_N_K.any():
            return self
        order_N_K = np.argsort(beyond_N_K, axis=1, kind="stable")
        ids_N_K = np.take_along_axis(np.where(beyond_N_K, -1, self.ids_N_K), order_N_K, 1).astype(np.int32)
        logprob_N_K = np.take_along_axis(np.where(beyond_N_K, -np.inf, self.logprob_N_K), order_N_K, 1)
        if whole:
            kept = int((~beyond_N_K).sum(1).max())
            return replace(self, ids_N_K=ids_N_K[:, :kept], logprob_N_K=logprob_N_K[:, :kept]).tempered(1.0)
        lost_N = np.logaddexp.reduce(np.where(beyond_N_K, self.logprob_N_K, -np.inf), axis=1)
        return replace(self, ids_N_K=ids_N_K, logprob_N_K=logprob_N_K, logtail_N=np.logaddexp(self.logtail_N, lost_N))

    def tempered(self, power: float) -> "TopK":
        """The distributions whose probabilities are proportional to those said, to a power; all of the vocabulary is there."""
        logprob_N_V = power * self.logprob_N_K.astype(np.float64)
        whole_N = np.log(np.exp(logprob_N_V).sum(1))
        logprob_N_V -= whole_N[:, None]
        taken_N = (power * self.taken_N - whole_N).astype(np.float32)
        return replace(self, logprob_N_K=logprob_N_V.astype(np.float32), taken_N=taken_N)

    @classmethod
    def joined(cls, parts: Sequence[Self], k: int, least: int = 0) -> Self:
        """The rows of ``parts``, one behind the other, padded to the widest, or to ``least``; ``k`` ids wide where there are none."""
        width = max(least, max((part.ids_N_K.shape[1] for part in parts), default=k))

        def widened(column_N_K: NDArray[Any], filler: float) -> NDArray[Any]:
            return np.pad(column_N_K, ((0, 0), (0, width - column_N_K.shape[1])), constant_values=filler)

        nothing_N = np.zeros(0, np.float32)
        return cls(
            np.concatenate([np.zeros((0, width), np.int32), *(widened(part.ids_N_K, -1) for part in parts)]),
            np.concatenate([np.zeros((0, width), np.float32), *(widened(part.logprob_N_K, -np.inf) for part in parts)]),
            np.concatenate([nothing_N, *(part.logtail_N for part in parts)]),
            np.concatenate([nothing_N, *(part.taken_N for part in parts)]),
        )


@dataclass(slots=True, eq=False)
class Scorer:
    """The model of a server, as something that scores tokens; from many threads at once. :meth:`found` makes one.

    A restarted server may hold other weights: after it has been away, and by :meth:`confirm`, it is asked again what it was asked first.
    """

    endpoint: Endpoint
    model: str
    longest: int | None
    """The tokens that it reads at most."""
    k: int
    """How many ids are asked for; 0 for the token alone, -1 for all of the vocabulary."""
    probe: Sequence[int]
    """What it is known by: some tokens, two or more."""
    of: Whose = "teacher"
    """Whose likeliest ids are told: its own; or those that are chosen, which are the student's; or both."""
    size: int = 0
    """How many ids there are, where some are chosen."""
    _known: Floats = field(init=False)
    """What it first said of the tokens of ``probe``."""
    _outages: int = field(init=False)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._outages = self.endpoint.outages
        self._known = self._probed().taken_N
        off = self._off(self._probed().taken_N)
        if not off <= SAME:
            raise TeacherError(
                f"{self.endpoint.who}: {self.endpoint.url} answers the same question differently: log-probabilities of the same tokens differ "
                f"by {off:.3g} on average; serve one model at this address, in a precision that is not too low"
            )

    @classmethod
    def found(
        cls,
        endpoint: Endpoint,
        model: str | None,
        k: int,
        probe: Sequence[int],
        of: Whose = "teacher",
        size: int = 0,
    ) -> Self:
        """The model of a server, which is asked a first time.

        Args:
            endpoint: The server.
            model: By the name that it is served under; ``None`` where it is the only one.
            k: See the attribute.
            probe: See the attribute.
            of: See the attribute.
            size: See the attribute.

        Raises:
            ConfigError: The server does not serve ``model``, or several where none is named; or not so many ids, or none that are chosen.
            TeacherError: It does not answer, or not as vLLM does.
        """
        models = listed_models(endpoint, "/v1/models", endpoint.get("/v1/models"))
        name = named_model(endpoint, model, models)
        try:
            return cls(endpoint, name, _length(endpoint, models[name]), k, probe, of, size)
        except TeacherError as error:
            refused = isinstance(error, RefusedError) and 400 <= error.status not in NOT_ADMITTED
            if of != "teacher" and (refused or isinstance(error.__cause__, UnscoredError)):
                raise ConfigError(
                    f"ids={of}: {error}; serve the model with vLLM 0.32 or newer on a GPU, VLLM_USE_V2_MODEL_RUNNER=1 in its environment, with "
                    f"--enable-scale-out --max-logprobs {k + 1}, or set ids: teacher"
                ) from error
            if refused:
                raise ConfigError(
                    f"top_k={k}: {error}; ask for fewer, or start the server with --max-logprobs {k}"
                ) from error
            raise

    @property
    def answer(self) -> tuple[float, ...]:
        """The log-probabilities that it first gave to the tokens of ``probe``, from the second on."""
        return tuple(self._known.tolist())

    @property
    def width(self) -> int:
        """The ids a row that are told, where their number is known."""
        return 2 * self.k if self.of == "union" else max(self.k, 0)

    def score(self, tokens: Sequence[int], positions: Sequence[int], chosen_N_K: Ints | None = None) -> TopK:
        """What the model says at some positions of ``tokens``, 1 or more, of the tokens that stand there.

        Args:
            tokens: All that it reads, fewer than ``longest``.
            positions: Where the tokens of interest stand.
            chosen_N_K: The student's ``k`` likeliest ids there, best first, unless its own are told alone.

        Raises:
            TeacherError: The server refused, was away for too long, is another model now, or answered what cannot be.
        """
        found = self._asked(tokens, positions, chosen_N_K)
        with self._lock:
            if self.endpoint.outages != self._outages:
                self._require_same()
        return found

    def read_as(self, tokens: Sequence[int]) -> str | None:
        """The text of ``tokens`` by the tokenizer of the server; ``None`` where it does not tell."""
        answer = self.endpoint.tried("/detokenize", {"model": self.model, "tokens": [int(token) for token in tokens]})
        text = answer.get("prompt") if isinstance(answer, dict) else None
        return text if isinstance(text, str) else None

    def confirm(self) -> None:
        """Asks again what the server is known by: it may have been restarted while nobody asked it anything.

        Raises:
            TeacherError: It is another model now; or as of :meth:`score`.
        """
        with self._lock:
            self._require_same()

    def expect(self, answer: Sequence[float]) -> None:
        """From now on the server is known by ``answer``, which a scorer of the same probe had.

        Raises:
            TeacherError: It is another model now.
        """
        with self._lock:
            now, self._known = self._known, np.asarray(answer, np.float32)
            self._require_known(now)

    def _asked(self, tokens: Sequence[int], positions: Sequence[int], chosen_N_K: Ints | None) -> TopK:
        named: dict[str, Any] = {"model": self.model}
        if chosen_N_K is None:
            asked = {"prompt": [int(token) for token in tokens], "max_tokens": 1, "temperature": 1.0}
            answer = self.endpoint.post("/v1/completions", named | asked | {"prompt_logprobs": self.k})
        else:
            own = self.k if self.of == "union" else None
            answer = self.endpoint.post(PATH, named | question(tokens, positions, chosen_N_K, own))
        try:
            if chosen_N_K is None:
                return _read(answer["choices"][0]["prompt_logprobs"], tokens, positions, self.k)
            return self._read_chosen(answer, tokens, positions, chosen_N_K)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise TeacherError(
                f"{self.endpoint.who}: {self.endpoint.url} gave no log-probabilities that can be used: "
                f"{_with_remedy(self.endpoint.hidden(describe(error)))}"
            ) from error

    def _read_chosen(
        self, answer: Mapping[str, Any], tokens: Sequence[int], positions: Sequence[int], chosen_N_K: Ints
    ) -> TopK:
        """What was said of the ids chosen, behind the model's own where these were asked for too.

        Raises:
            ValueError: There is nothing, or what is no log-probability.
        """
        logprob_N_K, taken_N = answered(answer, tokens, positions, chosen_N_K)
        _require_logprobs(np.column_stack([logprob_N_K, taken_N]))
        if self.of == "student":
            return _told(chosen_N_K, logprob_N_K, taken_N)
        own = _read(answer["prompt_logprobs"], tokens, positions, self.k)
        repeated_N_K = (chosen_N_K[:, :, None] == own.ids_N_K[:, None]).any(-1)
        return _told(
            np.concatenate([own.ids_N_K, np.where(repeated_N_K, -1, chosen_N_K)], 1).astype(np.int32),
            np.concatenate([own.logprob_N_K, np.where(repeated_N_K, -np.inf, logprob_N_K)], 1),
            taken_N,
        )

    def _probed(self) -> TopK:
        """What is said of the probe; of chosen ids as many as will ever be asked for."""
        chosen_N_K = None
        if self.of != "teacher":
            size = min(self.k + 1, self.size)  # one more than are told: the token that stands there is none of them
            after_N = [np.roll(np.arange(size), -1 - token)[: self.k] for token in self.probe[1:]]
            chosen_N_K = np.array(after_N, np.int32)
        return self._asked(self.probe, range(1, len(self.probe)), chosen_N_K)

    def _require_same(self) -> None:
        outages = self.endpoint.outages
        self._require_known(self._probed().taken_N)
        self._outages = outages

    def _require_known(self, now_N: Floats) -> None:
        off = self._off(now_N)
        if not off <= SAME:
            raise TeacherError(
                f"{self.endpoint.who}: {self.endpoint.url} is another model than before: log-probabilities of the same tokens differ by "
                f"{off:.3g} on average; start the server with the model that it had, or begin a new run"
            )

    def _off(self, now_N: Floats) -> float:
        """By how much an answer to the probe differs from the first, in nats, on average; infinitely where it is of another length."""
        return float(np.abs(now_N - self._known).mean()) if now_N.shape == self._known.shape else np.inf


def _length(endpoint: Endpoint, told: Any) -> int | None:
    """The tokens that a model reads, where a server tells that."""
    if told is None or (type(told) is int and told > 1):
        return told
    raise TeacherError(
        f"{endpoint.who}: {endpoint.url}/v1/models tells max_model_len={endpoint.hidden(ascii(told))[:50]}, which is no number of tokens; "
        "give the address of a server that speaks as vLLM's does"
    )


def _with_remedy(why: str) -> str:
    """Why an answer cannot be used, and what to do where that does not say it."""
    return why if "; " in why else f"{why}; look at the server's log: at its version, and at the precision of its model"


def _read(
    rows: Sequence[Mapping[str, Mapping[str, Any]] | None], tokens: Sequence[int], positions: Sequence[int], k: int
) -> TopK:
    """The rows of an answer at ``positions``.

    Raises:
        ValueError: One lacks its token or some of the ids asked for, or holds what is no log-probability; or they are not those of
            ``tokens``.
    """
    if len(rows) != len(tokens):
        raise ValueError(f"{len(rows)} rows for {len(tokens)} tokens")
    parts = [_row(rows[position], int(tokens[position]), k) for position in positions]
    width = max((len(ids) for ids, _, _ in parts), default=max(k, 0))
    ids_N_K = np.full((len(parts), width), -1, np.int32)
    logprob_N_K = np.full((len(parts), width), -np.inf, np.float64)
    for n, (ids, logprobs, _) in enumerate(parts):
        ids_N_K[n, : len(ids)], logprob_N_K[n, : len(ids)] = ids, logprobs
    return _told(ids_N_K, logprob_N_K, np.array([taken for _, _, taken in parts]), k == WHOLE)


def _told(ids_N_K: Ints, logprob_N_K: NDArray[np.floating], taken_N: NDArray[np.float64], whole: bool = False) -> TopK:
    """What was said, and the mass outside; none where the ids are ``whole``.

    Raises:
        ValueError: The probabilities sum to more than 1, or those of the ``whole`` vocabulary to less.
    """
    mass_N = np.exp(logprob_N_K).sum(1)
    if (mass_N > 1.0 + ROUNDING).any():
        raise ValueError(
            f"probabilities that sum to {mass_N.max():.4g}; start the server without --logprobs-mode raw_logits"
        )
    if whole and (mass_N < 1.0 - ROUNDING).any():
        raise ValueError(
            f"probabilities of the whole vocabulary that sum to {mass_N.min():.4g}; start the server with --max-logprobs -1, or set top_k to "
            "how many it gives"
        )
    return TopK(
        ids_N_K,
        logprob_N_K.astype(np.float32),
        np.log(np.maximum(1.0 - mass_N, UNHEARD)).astype(np.float32)
        if not whole
        else np.full(len(taken_N), -np.inf, np.float32),
        np.maximum(taken_N, LEAST).astype(np.float32),
    )


def _require_logprobs(logprobs: NDArray[np.floating]) -> None:
    """Raises ValueError over the first that is none."""
    possible = logprobs <= ROUNDING  # not of NaN
    if not possible.all():
        raise ValueError(f"a log-probability of {logprobs[~possible][0]}")


def _row(row: Mapping[str, Mapping[str, Any]] | None, token: int, k: int) -> tuple[Ints, NDArray[np.float64], float]:
    """The ids of one row, best first, and their log-probabilities; and that of the token."""
    if row is None or str(token) not in row:
        raise ValueError(f"a row without the token {token} that stands there")
    ids = np.fromiter(map(int, row), np.int32, len(row))
    logprobs = np.fromiter((one["logprob"] for one in row.values()), np.float64, len(row))
    _require_logprobs(logprobs)
    if len(ids) < k:
        raise ValueError(f"{len(ids)} log-probabilities of a token, where {k} were asked for")
    best = np.argsort(-logprobs, kind="stable")[: len(ids) if k == WHOLE else k]
    logprobs = np.where(logprobs < NOTHING, -np.inf, logprobs)
    return ids[best], logprobs[best], row[str(token)]["logprob"]
