"""What acts: requests, generations, and the settings of sampling and of episodes."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from pydantic import AfterValidator, Field, model_validator
from transformers import PreTrainedModel

from agentopd.acting import WHOLE, Acting
from agentopd.chat.budget import Budget
from agentopd.isolation.hosts import host
from agentopd.isolation.lane import Host, Isolation
from agentopd.rollout.engines import ENGINES, Engine
from agentopd.rollout.modes import MODES, Mode
from agentopd.settings.base import Settings
from agentopd.settings.choice import Choice
from agentopd.settings.kinds import Kinds
from agentopd.types import Key, Task, Trajectory


@dataclass(frozen=True, slots=True)
class Request:
    """One episode asks a policy for its next turn."""

    episode: int
    """Whose turn it is: an engine may keep a cache under this number until it is released."""
    tokens: Sequence[int]
    """The whole context, generation prompt included."""
    seed: int
    """Of this turn: the same seed and context give the same tokens, whatever else is in the batch, up to rounding."""
    max_new_tokens: int
    script: tuple[int, ...] | None = None
    """Tokens to play instead of generating."""
    guide: tuple[int, ...] | None = None
    """The whole context as the model reads it that takes part in every token, where one does."""
    budget: Budget | None = None
    """How long the turn may think, where that is limited; scripts are played as they are."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What a policy produced for one request."""

    tokens: list[int]
    """The end-of-turn token included, where one was produced."""
    logprobs: list[float]
    """Of each token under the distribution that was sampled from; 0 for scripted and greedy tokens."""
    prefilled: int
    """Prompt tokens that were processed for this turn; those found in a cache are not."""
    guided: list[bool] | None = None
    """Which tokens the guide wrote, where there is one."""
    forced: list[bool] | None = None
    """Which tokens nobody chose, since a thought was closed; ``None`` for none."""


class Policy(Protocol):
    """Anything that acts for many episodes at once."""

    @property
    def version(self) -> int:
        """How often the weights have changed, as :meth:`update` was told last."""
        ...

    def act(self, requests: Sequence[Request]) -> list[Generation]:
        """One generation a request, in order; any subset of the living episodes, each at most once."""
        ...

    def release(self, episodes: Sequence[int]) -> None:
        """These episodes are over: what was kept for them is freed."""
        ...

    def update(self, model: PreTrainedModel, version: int) -> None:
        """The weights are now those of ``model``, as ``version``: a copy of them is replaced, and caches die."""
        ...


COLDEST = 1e-3
"""The least temperature above 0: what colder ones divide by leaves no digits of the logits, and at last no number."""


def _not_nearly_greedy(temperature: float) -> float:
    if 0.0 < temperature < COLDEST:
        raise ValueError(f"a temperature is {COLDEST} or more, or 0 for greedy, got {temperature}; set it to 0")
    return temperature


Temperature = Annotated[float, Field(ge=0.0), AfterValidator(_not_nearly_greedy)]


class Rollout(Settings):
    """How turns are sampled and how long episodes may be."""

    engine: Annotated[Choice, Kinds("engine", ENGINES)] = Field("transformers", validate_default=True)
    """What generates the student's turns; teachers that act do so by their models in this process."""
    mode: Annotated[Choice, Kinds("mode", MODES)] = Field("sync", validate_default=True)
    """Whether rollout and learning take turns, or episodes of steps to come are played meanwhile."""
    temperature: Temperature = 1.0
    """Divides the logits, from 0.001 on; 0 takes the most probable token, and records behaviour log-probability 0 (a point distribution)."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Keeps the fewest tokens whose probabilities reach this sum; applied after ``top_k``."""
    top_k: int = Field(0, ge=0)
    """Keeps this many most probable tokens; 0 keeps all."""
    max_new_tokens: int = Field(128, ge=1)
    """Of one turn; a turn that reaches it is cut."""
    thinking_budget: int | None = Field(None, ge=0)
    """Tokens that a turn may think, of ``max_new_tokens``; then the thought is closed by tokens that count as context."""
    max_length: int = Field(2048, ge=2)
    """Of one segment: prompt and ``max_new_tokens`` must fit."""
    max_turns: int = Field(16, ge=1)
    """Of one episode; it then stops with ``turn_limit``."""
    max_episode_tokens: int | None = Field(None, ge=1)
    """Action tokens of one episode, whoever wrote them; a model is cut there, and the episode stops with ``token_limit``."""
    time_limit: float = Field(30.0, gt=0.0)
    """Seconds for one ``reset`` or ``step`` of an environment."""
    isolation: Isolation = "thread"
    """Where environments live: each in a thread, or each in a process, which is killed and replaced where it hangs or dies."""
    concurrency: int = Field(64, ge=1)
    """Episodes that live at the same time."""
    on_overflow: Literal["truncate", "drop_oldest"] = "truncate"
    """When a context no longer fits: end the episode, or drop its oldest turns and fork a segment."""
    max_failures: float = Field(0.2, ge=0.0, le=1.0)
    """The share of episodes that may fail; beyond it the run stops. A single failed episode never stops it."""

    def policy(self, model: PreTrainedModel, ends: Collection[int]) -> Policy:
        """What acts by ``model``, whose turns one of ``ends`` ends, by the engine that is chosen."""
        return self.made_engine.policy(model, ends, self)

    @property
    def made_engine(self) -> Engine:
        """The engine that is chosen."""
        engine: Engine = self.engine.function(**self.engine.settings)
        return engine

    def host(self) -> Host:
        """What hosts environments, for the thread that asks.

        Raises:
            ConfigError: This system has no such way.
        """
        return host(self.isolation, self.time_limit)

    @property
    def made_mode(self) -> Mode:
        """The mode that is chosen."""
        mode: Mode = self.mode.function(**self.mode.settings)
        return mode

    @property
    def sampling(self) -> str:
        """What the log-probabilities of sampled tokens depend on beside the model."""
        return f"temperature={self.temperature:g} top_p={self.top_p:g} top_k={self.top_k}"

    @model_validator(mode="after")
    def _rests_between_turns(self) -> "Rollout":
        if self.made_mode.ahead is not None and self.made_engine.rest is not None:
            raise ValueError(
                f"engine.sleep=true: in mode {self.mode.kind} turns are written while a step is learned from, so nothing could be given back; leave "
                "it out, or set mode: sync"
            )
        return self

    @model_validator(mode="after")
    def _room_to_answer(self) -> "Rollout":
        if self.thinking_budget is not None and self.thinking_budget >= self.max_new_tokens:
            raise ValueError(
                f"thinking_budget={self.thinking_budget} leaves no room for an answer in max_new_tokens={self.max_new_tokens}; make it smaller, "
                "or leave it out"
            )
        return self


@dataclass(frozen=True, slots=True)
class Assignment:
    """One episode to play: a task, a name, and who acts."""

    task: Task
    key: Key
    actor: str
    """``expert``, or a key of the policies."""
    seed: int
    """Of the policy's draws in this episode; the environment is seeded by the task."""
    source: str
    """The name, in the method, of what asked for this episode."""
    acting: Acting = WHOLE
    """Who else acts in it, and when."""
    recorded: Trajectory | None = None
    """The episode of this task whose actions the actor ``recorded`` gives again, of one turn at least."""

    @property
    def actors(self) -> tuple[str, ...]:
        """All who may act, the one it is assigned to first."""
        return tuple(dict.fromkeys([self.actor, *self.acting.others]))
