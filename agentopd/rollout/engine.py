"""The transformers engine: batches of unequal length, and each episode's cache kept between its turns."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from agentopd.errors import ConfigError, PolicyError
from agentopd.forward import is_plain
from agentopd.freezing import evaluating
from agentopd.rollout.attention import shared_heads
from agentopd.rollout.batch import Batch, Row
from agentopd.rollout.decoding import Decoding, Take
from agentopd.rollout.kv import Column, Entry
from agentopd.rollout.masks import SUPPORTED
from agentopd.rollout.policy import Generation, Request, Rollout
from agentopd.rollout.sampling import draw, processed

SHARED = 16
"""Tokens that contexts must begin with alike for it to be worth a forward of its own."""


class TransformersPolicy:
    """Samples turns from a causal language model of transformers.

    A turn processes only the tokens after the longest common prefix of its context and what is cached, and what the contexts of
    new episodes begin with is processed once. Models with layers other than plain full attention (sliding window, recurrent)
    process the whole context each turn; ``Generation.prefilled`` says so.
    The same request gives the same tokens in any batch up to rounding: a token differs only where a uniform draw falls within
    rounding of a boundary between two tokens.
    """

    def __init__(self, model: PreTrainedModel, end_of_turn: int | Collection[int], settings: Rollout) -> None:
        """Keeps a reference to ``model``; call :meth:`update` whenever its weights have changed.

        Args:
            model: The model that acts.
            end_of_turn: The id that ends a turn, or all that do.
            settings: How turns are sampled.

        Raises:
            ConfigError: The model's attention is neither ``sdpa`` nor ``eager``.
        """
        self.version = 0
        self._model = model
        self._ends = frozenset([end_of_turn] if isinstance(end_of_turn, int) else end_of_turn)
        self._settings = settings
        self._entries: dict[int, Entry] = {}
        self._opening: Entry | None = None
        plain = is_plain(model.config)
        self._layers = len(DynamicCache(config=model.config).layers) if plain else None
        attention = model.config._attn_implementation
        if attention not in SUPPORTED:
            raise ConfigError(
                f"the rollout engine supports attention {' or '.join(SUPPORTED)}, not {attention!r}: set attention=sdpa"
            )

    def act(self, requests: Sequence[Request]) -> list[Generation]:
        """One generation a request. Scripts are played without the model; the cache catches up later.

        Raises:
            PolicyError: A request is impossible, or the model's logits are not finite.
        """
        check_requests(requests)
        rows = self.rows([request for request in requests if request.script is None])
        if rows:
            generate([(self, rows)], self.take)
        played = {row.request.episode: row.generation for row in rows}
        return [played[r.episode] if r.script is None else scripted(r.script) for r in requests]

    def release(self, episodes: Sequence[int]) -> None:
        """Frees the caches of these episodes; a pool's memory returns when none of its rows is in use."""
        for episode in episodes:
            self._entries.pop(episode, None)
        # what a step processes must not depend on the steps before it: a resumed run has not played them
        if not self._entries:
            self._opening = None

    def update(self, model: PreTrainedModel, version: int) -> None:
        """The weights of the model it holds have changed in place: every cache dies. ``model`` is that one, wrapped or not."""
        self._entries.clear()
        self._opening = None
        self.version = version

    @property
    def model(self) -> PreTrainedModel:
        """What acts."""
        return self._model

    @property
    def settings(self) -> Rollout:
        """How turns are sampled."""
        return self._settings

    @property
    def ends(self) -> Collection[int]:
        """The ids that end a turn."""
        return self._ends

    def rows(self, requests: Sequence[Request]) -> list[Row]:
        """One a request, over what is cached of it."""
        return [Row.of(request, self._entries.get(request.episode)) for request in requests]

    def begin(self, rows: list[Row], joined: bool = False) -> Batch:
        """The batch of ``rows``, whose prompts are yet to be processed but for what is cached; ``joined`` as for :class:`Batch`."""
        self._open(rows)
        self._catch_up(rows)
        return self.batch(rows, joined)

    def batch(self, rows: list[Row], joined: bool = False) -> Batch:
        """The batch of ``rows``, over what is cached of each."""
        return Batch(self._model, rows, self._layers, joined=joined)

    def read(self, rows: list[Row]) -> None:
        """Processes the prompts of ``rows`` but for the last token of each."""
        self._open(rows)
        self._catch_up(rows)
        self._read([row for row in rows if len(row.prompt_T) - row.cached > 1])

    def keep(self, batch: Batch, done_only: bool = False) -> None:
        """Keeps the caches of a batch's rows, where the model can, for the episodes' next turns."""
        if batch.plain:
            self._entries |= batch.entries(done_only)

    def _open(self, rows: list[Row]) -> None:
        """Processes what the contexts of newcomers begin with, such as instructions and tools, once for all of them."""
        if self._layers is None:
            return
        new = [row for row in rows if row.entry is None]
        if self._opening is not None:
            new = [row for row in new if not row.begins_with(self._opening, SHARED)]
        shared = _common_length([row.prompt_T for row in new]) if len(new) > 1 else 0
        if shared < SHARED:
            return
        first = new[0].request
        row = Row.of(replace(first, tokens=first.tokens[: shared + 1]), None)
        batch = Batch(self._model, [row], self._layers, held_back=1)
        batch.prefill()
        self._opening = batch.entries()[first.episode]
        for row in new:
            row.begins_with(self._opening, SHARED)
        new[0].prefilled += shared  # on whose account it goes

    def _catch_up(self, rows: list[Row]) -> None:
        """Processes the long contexts of newcomers by themselves, so that the others are not padded to their length."""
        new = [len(row.prompt_T) - row.cached for row in rows]
        typical = sorted(new)[len(new) // 2]
        late = [row for row, count in zip(rows, new, strict=True) if count > 2 * typical]
        if self._layers is None or not late or max(new) * len(new) <= 2 * sum(new):
            return
        self._read(late)

    def _read(self, rows: list[Row]) -> None:
        if not rows:
            return
        batch = Batch(self._model, rows, self._layers, held_back=1)
        batch.prefill()
        entries = batch.entries()
        for row in rows:
            row.caught_up(entries[row.request.episode])

    def take(self, rows_P_B: Sequence[Sequence[Row]], logits_P_B_V: Sequence[Tensor]) -> None:
        """Draws the next token of every row that is not done."""
        [rows], [logits_B_V] = rows_P_B, logits_P_B_V
        require_finite(logits_B_V)
        logprob_B_V = processed(logits_B_V, self._settings)
        token_B = draw(logprob_B_V, uniforms_of(rows, logits_B_V.device))
        taken_logprob_B = logprob_B_V.gather(1, token_B[:, None])[:, 0]
        for row, token, logprob in zip(rows, token_B.tolist(), taken_logprob_B.tolist(), strict=True):
            if not row.done:
                row.add(token, logprob, self._ends)


@contextmanager
def decoding(policies: Sequence[TransformersPolicy]) -> Iterator[None]:
    """While it lasts, the models of these policies write."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        for policy in policies:
            stack.enter_context(evaluating(policy.model))
        stack.enter_context(shared_heads())
        yield


def generate(parts: Sequence[tuple[TransformersPolicy, list[Row]]], take: Take) -> None:
    """Generates until every row is done; several models go on together."""
    policies = [policy for policy, _ in parts]
    with decoding(policies):
        turns = Decoding(policies, take)
        turns.begin([rows for _, rows in parts])
        while turns.alive:
            turns.step()


def uniforms_of(rows: Sequence[Row], device: torch.device) -> Tensor:
    """The numbers that decide the rows' next tokens, [B]."""
    return torch.tensor([row.uniform for row in rows], dtype=torch.float64, device=device)


def require_finite(logits_B_V: Tensor) -> None:
    """Raises PolicyError where they are not."""
    if not bool(torch.isfinite(logits_B_V.amax(1)).all()):  # the largest shows any NaN and any infinity
        raise PolicyError("the model's logits are not finite: its weights are broken, or its dtype overflows")


def _common_length(prompts: Sequence[Column]) -> int:
    """How many leading tokens all prompts share, at most all but one of the shortest."""
    limit = min(map(len, prompts)) - 1
    differs_T = (np.stack([prompt_T[:limit] for prompt_T in prompts]) != prompts[0][:limit]).any(0)
    return int(differs_T.argmax()) if differs_T.any() else limit


def check_requests(requests: Sequence[Request]) -> None:
    """Raises PolicyError where one is impossible."""
    episodes = [request.episode for request in requests]
    if len(set(episodes)) < len(episodes):
        raise PolicyError(f"an episode asks twice in one call: {sorted(e for e in episodes if episodes.count(e) > 1)}")
    for request in requests:
        if not len(request.tokens) or request.max_new_tokens < 1:
            raise PolicyError(
                f"episode {request.episode}: a context of {len(request.tokens)} tokens and max_new_tokens={request.max_new_tokens}; both must be positive"
            )


def scripted(script: Sequence[int]) -> Generation:
    """Tokens that are played as they are."""
    return Generation(list(script), [0.0] * len(script), prefilled=0)
