"""The student's turns, written by actors that each have an engine and a copy of its weights."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor
from transformers import PreTrainedModel

from agentopd.cluster.hosting import actor_host
from agentopd.cluster.pool import Actor, ActorPool, pool_of
from agentopd.cluster.settings import Cluster, Place
from agentopd.errors import PolicyError
from agentopd.isolation.lane import Host
from agentopd.offloading import moved
from agentopd.rollout.engine import check_requests, scripted
from agentopd.rollout.engines import Engine
from agentopd.rollout.policy import Generation, Policy, Request, Rollout
from agentopd.settings.choice import Choice


@dataclass(frozen=True, slots=True)
class Setup:
    """What an actor makes its policy of."""

    model: PreTrainedModel
    ends: frozenset[int]
    settings: Rollout
    device: str


@dataclass(frozen=True, slots=True)
class Given:
    """What an actor must have before it writes, by references into the object store: it takes what it does not have yet."""

    holder: str
    setup: Any
    version: int
    weights: Any
    """Those that are trained; ``None`` where they are still those of the setup."""


class Writer(Actor):
    """What runs in an actor: the policy of whoever asked last."""

    def __init__(self) -> None:
        self._given: Given | None = None
        self._model: PreTrainedModel | None = None
        self._policy: Policy | None = None
        self._device = "cpu"

    def act(self, given: Given, requests: Sequence[Request]) -> list[Generation]:
        """One generation a request; raises as the engine does."""
        return self._policy_of(given).act(requests)

    def release(self, holder: str, episodes: Sequence[int]) -> None:
        """Frees what is kept for these episodes."""
        if self._policy is not None and self._given is not None and self._given.holder == holder:
            self._policy.release(episodes)

    def _policy_of(self, given: Given) -> Policy:
        import ray

        from agentopd.cluster.shipping import unpacked

        had = self._given
        if had is None or had.holder != given.holder:
            self._given = self._policy = self._model = None  # what was there goes before the next comes
            setup: Setup = unpacked(ray.get(given.setup))
            self._device, self._model = setup.device, moved(setup.model, torch.device(setup.device))
            self._policy = setup.settings.policy(self._model, setup.ends)
        assert self._model is not None
        assert self._policy is not None
        if had is None or (had.holder, had.version) != (given.holder, given.version):
            if given.weights is not None:
                self._take(unpacked(ray.get(given.weights)))
            self._policy.update(self._model, given.version)
        self._given = given
        return self._policy

    def _take(self, weights: Mapping[str, Tensor]) -> None:
        assert self._model is not None
        for name, parameter in self._model.named_parameters():
            if name in weights:
                parameter.data = weights[name].to(self._device)


class ActorPolicy:
    """A policy whose turns actors write: an episode's by the same one while that lives, whose engine keeps a cache of it.

    Weights go into the object store once a version, those that are trained alone; each actor takes them before it writes again.
    """

    def __init__(
        self, model: PreTrainedModel, ends: Collection[int], settings: Rollout, pool: ActorPool, gpu: bool
    ) -> None:
        """Keeps a reference to ``model``; call :meth:`update` whenever its weights have changed.

        Args:
            model: The model that acts, inside an adapter or not.
            ends: The ids that end a turn.
            settings: How turns are sampled, and by which engine.
            pool: The actors.
            gpu: Whether they have one.
        """
        self.version = 0
        self._setup = Setup(model, frozenset(ends), settings, "cuda" if gpu else "cpu")
        self._pool = pool
        self._at: dict[int, int] = {}
        self._given = Given(uuid4().hex, None, 0, None)
        self._changed = False

    def act(self, requests: Sequence[Request]) -> list[Generation]:
        """One generation a request. Scripts are played here.

        Raises:
            PolicyError: A request is impossible, an engine failed, or there are no actors.
        """
        check_requests(requests)
        turns = self._begun(requests)
        try:
            return [turn.result() for turn in turns]
        finally:
            for turn in turns:
                turn.cancel()

    def submit(self, request: Request) -> "Future[Generation]":
        """Begins a turn by itself; raises as :meth:`act`."""
        [turn] = self._begun([request])
        return turn

    def settle(self) -> None:
        """Puts the weights of now into the object store: afterwards the model may change while turns are written."""
        import ray

        from agentopd.cluster.shipping import packed

        if self._given.setup is not None and not self._changed:
            return
        self._pool.gather()
        model = self._setup.model
        if self._given.setup is None:
            self._given = replace(
                self._given, setup=ray.put(packed(self._setup, "cluster.rollout")), version=self.version
            )
        else:
            trained = {name: one.data for name, one in model.named_parameters() if one.requires_grad}
            self._given = replace(self._given, weights=ray.put(packed(trained)), version=self.version)
        self._changed = False

    def release(self, episodes: Sequence[int]) -> None:
        """The actors free what they keep for these episodes."""
        at: dict[int, list[int]] = {}
        for episode in episodes:
            if (seat := self._at.pop(episode, None)) is not None:
                at.setdefault(seat, []).append(episode)
        for seat, those in at.items():
            actor = self._pool.actor(seat)
            if actor is not None:
                actor.release.remote(self._given.holder, those)

    def update(self, model: PreTrainedModel, version: int) -> None:
        """The weights of the model it holds have changed in place; actors are given them when a turn is next asked for."""
        self.version, self._changed = version, True

    def _begun(self, requests: Sequence[Request]) -> "list[Future[Generation]]":
        asked = [request for request in requests if request.script is None]
        if asked:
            self.settle()
        turns = iter(self._pool.ask(self._written, asked, [self._seat(request.episode) for request in asked]))
        return [next(turns) if request.script is None else _played(request.script) for request in requests]

    def _seat(self, episode: int) -> int | None:
        """The actor that has the episode's cache, or else the one with the fewest episodes."""
        there, counts = self._pool.there, Counter(self._at.values())
        if self._at.get(episode) not in there:
            self._at.pop(episode, None)
            if there:
                self._at[episode] = min(there, key=lambda seat: counts[seat])
        return self._at.get(episode)

    def _written(self, actor: Any, requests: list[Request]) -> list[Generation]:
        import ray

        written: list[Generation] = ray.get(actor.act.remote(self._given, requests))
        return written


def _played(script: Sequence[int]) -> "Future[Generation]":
    played: Future[Generation] = Future()
    played.set_result(scripted(script))
    return played


@dataclass(frozen=True, kw_only=True)
class ClusterEngine(Engine):
    """Actors on a cluster, each with an engine of its own."""

    copies = True
    cluster: Cluster
    place: Place
    engine: Choice

    def policy(self, model: PreTrainedModel, ends: Collection[int], settings: Rollout) -> Policy:
        """What acts by ``model``: see :class:`ActorPolicy`."""
        pool = pool_of("cluster.rollout", Writer, self.place, self.cluster.patience, PolicyError)
        own = settings.model_copy(update={"engine": self.engine})
        return ActorPolicy(model, ends, own, pool, self.place.gpus > 0)


class PlacedRollout(Rollout):
    """A rollout whose environments are in actors."""

    environments: Place
    patience: float

    def host(self) -> Host:
        """What hosts environments; each actor does as ``isolation`` says."""
        return actor_host(self.environments, self.patience, self.isolation, self.time_limit)


def on_cluster(rollout: Rollout, cluster: Cluster, student: bool) -> Rollout:
    """``rollout`` with what ``cluster`` places elsewhere: environments, and the engine where the ``student`` acts.

    Episodes are told to be of that engine.
    """
    if student and cluster.rollout is not None:
        settings = {"cluster": cluster, "place": cluster.rollout, "engine": rollout.engine}
        engine = Choice(rollout.engine.kind, ClusterEngine, settings)
        rollout = rollout.model_copy(update={"engine": engine})
    if cluster.environments is None:
        return rollout
    return PlacedRollout.model_construct(**dict(rollout), environments=cluster.environments, patience=cluster.patience)
