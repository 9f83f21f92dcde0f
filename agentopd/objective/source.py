"""Where trajectories come from: who acts, how deep, and how often."""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from agentopd.acting import ACTING, Acting
from agentopd.errors import ConfigError
from agentopd.filters import Filter
from agentopd.settings.base import Settings
from agentopd.settings.choice import Choice, numbers_of
from agentopd.settings.clock import Clock
from agentopd.settings.parts import Number, OneOf
from agentopd.types import EXPERT, RECORDED, STUDENT

CAPS = ("max_turns", "max_new_tokens", "max_episode_tokens")
"""What bounds an episode."""


class Source(Settings):
    """Where trajectories come from."""

    kind: Literal["fresh", "frozen", "recorded", "replayed"] = "fresh"
    """``fresh``: new episodes at every step. ``frozen``: ``episodes`` episodes made once and drawn from again. ``recorded``: the episodes in
    ``records``, drawn from again; or, with ``acting: {kind: prefix, by: recorded}``, their tasks, begun again. ``replayed``: earlier
    episodes of the source ``of``."""
    records: str | None = None
    """Of ``recorded``: a run folder or a records folder."""
    keep: Filter | None = None
    """Of ``recorded``: which records are meant; by default all episodes that did not fail."""
    of: str | None = None
    """Of ``replayed``: a fresh source of this method."""
    capacity: int | None = Field(None, ge=1)
    """Of ``replayed``: how many of the latest episodes it draws from; until there are so many its tasks are fresh ones of ``of``. By default
    all that there are."""
    actors: dict[str, Number] = {STUDENT: 1.0}
    """Who acts, each with its share of the episodes."""
    acting: Annotated[Choice, OneOf("acting", ACTING)] = Field("whole", validate_default=True)
    """Who else acts within the student's episodes, and when."""
    max_turns: Number | None = None
    """Of one episode, whoever acts; ``rollout.max_turns`` where that is less. Rounded down, as the next two."""
    max_new_tokens: Number | None = None
    """Of one turn; ``rollout.max_new_tokens`` where that is less."""
    max_episode_tokens: Number | None = None
    """Action tokens of one episode; ``rollout.max_episode_tokens`` where that is less."""
    per_task: int = Field(1, ge=1)
    """Episodes of the same task, for baselines by group."""
    divided: bool = False
    """Whether the episodes of each task are divided among the actors by share, the first to the first actor, instead of drawn."""
    share: Number = 1.0
    """Share of the batch's tasks, relative to the other sources."""
    episodes: int = Field(512, ge=1)
    """Of ``frozen``: how many there are."""

    @field_validator("share")
    @classmethod
    def _takes_part(cls, share: Any) -> Any:
        numbers = numbers_of(share)
        if any(number < 0 for number in numbers) or (numbers and not any(numbers)):
            raise ValueError(
                f"a share is above 0, or a schedule that is at times, got {min(numbers):g}; leave the source out for none"
            )
        return share

    @model_validator(mode="after")
    def _somebody_acts(self) -> "Source":
        numbers = {actor: numbers_of(share) for actor, share in self.actors.items()}
        nobody = all(found and not any(found) for found in numbers.values())  # one's own schedule may give anything
        if nobody or any(share < 0 for found in numbers.values() for share in found):
            raise ValueError(
                f"actors={self.actors}: shares must be at least 0, and one of them above, such as {{student: 1.0}}"
            )
        return self

    @model_validator(mode="after")
    def _everybody_gets_an_episode(self) -> "Source":
        shares = [share for share in self.actors.values() if not isinstance(share, Choice)]
        if not self.divided or len(shares) < len(self.actors):
            return self
        ends = np.cumsum(shares) / sum(shares)
        middles = (np.arange(self.per_task) + 0.5) / self.per_task
        got = np.bincount(np.searchsorted(ends, middles, side="right"), minlength=len(shares))
        idle = [actor for actor, share, count in zip(self.actors, shares, got, strict=False) if share > 0 and not count]
        if idle:
            raise ValueError(
                f"divided: of per_task={self.per_task} episodes none is left for {idle[0]!r} with actors={self.actors}; raise per_task, or "
                "its share"
            )
        return self

    @model_validator(mode="after")
    def _frozen_once(self) -> "Source":
        caps = {name: getattr(self, name) for name in CAPS}
        moving = {f"actors.{name}": share for name, share in self.actors.items()} | caps
        moving |= {f"acting.{name}": value for name, value in self.acting.settings.items()}
        for name, value in moving.items():
            if self.kind == "frozen" and isinstance(value, Choice):
                raise ValueError(
                    f"{name}: the episodes of a frozen source are played once, before the first step, so a schedule would stand still; "
                    "give a number, or set kind: fresh"
                )
        return self

    @field_validator(*CAPS)
    @classmethod
    def _leaves_something(cls, cap: Any) -> Any:
        if cap is not None and (least := min(numbers_of(cap), default=1.0)) < 1:
            raise ValueError(f"a cap leaves at least 1, got {least:g}; set it to 1 or more, or to null for none")
        return cap

    @model_validator(mode="after")
    def _others_fit_in(self) -> "Source":
        kind = self.acting.kind
        try:
            acting = self.acting_at_first
        except ConfigError as error:
            raise ValueError(f"acting.kind={kind}: {error}") from error
        if acting.others and set(self.actors) != {STUDENT}:
            raise ValueError(
                f"acting.kind={kind}: others act within the student's own episodes, and actors has {', '.join(self.actors)}; leave actors "
                "out, or give whole episodes of others a source of their own"
            )
        if STUDENT in acting.others:
            raise ValueError("acting.by=student: the student acts where nobody else does; name a teacher, or expert")
        if acting.mixing is not None and EXPERT in acting.others:
            raise ValueError(
                f"acting.by=expert: {kind} needs another's distribution at every token, and the expert has none; name a teacher that is a model"
            )
        if self.max_new_tokens is not None and EXPERT in self.who:
            raise ValueError(
                "max_new_tokens: the expert's actions are played whole, and this cap would cut them; leave it out, or set max_episode_tokens"
            )
        return self

    @model_validator(mode="after")
    def _comes_from_somewhere(self) -> "Source":
        for kind, needed, also in (("recorded", "records", ("keep",)), ("replayed", "of", ("capacity",))):
            given = [name for name in (needed, *also) if getattr(self, name) is not None]
            if given and self.kind != kind:
                raise ValueError(
                    f"{given[0]}: only a source of kind {kind} reads it, and this one is {self.kind}; leave it out"
                )
            if self.kind == kind and needed not in given:
                remedy = "a run folder, such as runs/first" if kind == "recorded" else "the name of a fresh source"
                raise ValueError(f"kind={kind}: {needed} is missing; give {remedy}")
        if RECORDED in self.who and (self.kind != "recorded" or self.acting.kind != "prefix"):
            raise ValueError(
                "acting.by=recorded: only tasks of a source of kind recorded can be begun again by what was recorded, as a prefix; set kind: "
                "recorded, records: RUN and acting: {kind: prefix, by: recorded}"
            )
        return self

    @model_validator(mode="after")
    def _nobody_acts_in_what_is_over(self) -> "Source":
        if self.kind not in ("recorded", "replayed") or RECORDED in self.who:
            return self
        defaults = {name: type(self).model_fields[name].default for name in (*CAPS, "actors", "divided")}
        touched = [name for name, default in defaults.items() if getattr(self, name) != default]
        touched += ["acting"] if self.acting.kind != "whole" else []
        if touched:
            again = (
                "" if self.kind == "replayed" else ", or begin their tasks again: acting: {kind: prefix, by: recorded}"
            )
            raise ValueError(
                f"{touched[0]}: the episodes of a {self.kind} source are over, so nobody acts in them; leave it out{again}"
            )
        return self

    @property
    def plays(self) -> bool:
        """Whether its episodes are played at the step that learns from them."""
        return self.kind == "fresh" or RECORDED in self.who

    def acts(self, clock: Clock) -> Acting:
        """Who else acts at ``clock``.

        Raises:
            ConfigError: A kind of one's own makes no :class:`Acting`.
        """
        made = self.acting.function(**self.acting.at(clock))
        if not isinstance(made, Acting):
            raise ConfigError(f"it makes {type(made).__name__}; derive it from agentopd.acting.Acting")
        return made

    @property
    def acting_at_first(self) -> Acting:
        """Who else acts at the first step: numbers may move from there, and who the others are does not."""
        return self.acts(Clock(0, 1))

    @property
    def who(self) -> list[str]:
        """All who may act."""
        return list(dict.fromkeys([*self.actors, *self.acting_at_first.others]))

    def setting_of(self, actor: str) -> str:
        """The setting that names ``actor``."""
        return "actors" if actor in self.actors else "acting.by"

    @property
    def needs_expert(self) -> bool:
        """Whether the environments' expert acts, or is asked for what this source cannot do without."""
        return EXPERT in self.who or self.acting_at_first.needs_expert
