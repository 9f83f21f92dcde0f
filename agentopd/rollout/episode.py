"""One episode: the conversation, and the exact tokens that the policy read and wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

import numpy as np

from agentopd.acting import Moment
from agentopd.chat import Action, Chat, Extension, Hint
from agentopd.chat.conversation import without_oldest
from agentopd.chat.hint import MissingFactsError
from agentopd.env.registry import package_of
from agentopd.errors import ConfigError
from agentopd.isolation.session import Observed, success_of
from agentopd.rollout.policy import Assignment, Generation, Request, Rollout
from agentopd.rollout.repeating import other_answer, other_start, tokens_of_turn
from agentopd.rollout.segments import SegmentBuilder
from agentopd.types import (
    ENGINE,
    EXPERT,
    RECORDED,
    SAMPLING,
    TOKENIZER,
    Failure,
    Message,
    Outcome,
    Stop,
    Trajectory,
    Turn,
    own_errors,
)

TOO_LONG, UNTOLD = "too_long", "untold"
"""Kinds of failures: of an expert whose action no turn can hold; of an environment that does not tell what a hint names."""
UNREPEATED = "unrepeated"
"""The kind of failure of an episode in which a recorded one was to be repeated, and something else came back."""


@dataclass(frozen=True, slots=True)
class Pending:
    """An action that the environment has not answered yet."""

    action: Action
    turn: Turn


@dataclass(frozen=True, slots=True)
class Following:
    """How the context goes on after an action."""

    messages: list[Message]
    """The conversation that the next action reads."""
    extension: Extension
    seen: Mapping[str, list[int]]
    """Where a segment starts: what actors that are shown a hint read in place of its prompt."""


class Episode:
    """The life of one episode: open, then request, take and observe by turns, until ``stop`` is set.

    ``actor`` says whose turn it is. What an actor is shown by a hint is in its own requests alone: the segments hold the conversation
    that anybody may read. Where a turn is taken back, ``replaying`` is set until :meth:`resume` is given what its environment,
    brought back, answered last.
    """

    def __init__(
        self,
        number: int,
        assignment: Assignment,
        chat: Chat,
        settings: Rollout,
        hints: Mapping[str, Hint] = MappingProxyType({}),
    ) -> None:
        self.number = number
        self.assignment = assignment
        self.actor = assignment.actor
        self.replaying = False
        self.stop: Stop | None = None
        self._chat = chat
        self._settings = settings
        self._hints = hints
        self._failure: Failure | None = None
        self._segments: list[SegmentBuilder] = []
        self._turns: list[Turn] = []
        self._opening: tuple[Message, ...] = ()
        self._messages: list[Message] = []
        self._tools: tuple[dict[str, Any], ...] = ()
        self._advice: str | None = None
        self._script: tuple[int, ...] | None = None  # the tokens of the next turn, where they are given
        self._seen_prompts: Mapping[str, list[int]] = {}
        self._segment_prompt_length = 0
        self._actors = [assignment.actor]
        self._mended: int | None = None  # the turn that was taken back
        self._foreseen: tuple[str, ...] = ()  # the expert's actions, where it played the task first
        self._recorded = assignment.recorded
        self._shown_turns = 0  # of the episode that is followed: the recorded one, or the expert's
        self._written = 0  # action tokens of the turns that were answered
        self._privileged: Mapping[str, Any] = {}
        self._family = ""
        self._success: bool | None = None
        self._pending: Pending | None = None

    @property
    def begun(self) -> bool:
        """Whether ``reset`` has been answered."""
        return bool(self._segments)

    @property
    def guide(self) -> str | None:
        """Who takes part in every token of the actor's, where somebody does."""
        acting = self.assignment.acting
        return acting.others[0] if acting.mixing is not None else None

    @property
    def opening(self) -> Sequence[Message]:
        """The messages before the first action."""
        return self._opening

    @property
    def turns(self) -> Sequence[Turn]:
        """Those that the environment has answered."""
        return self._turns

    def open(self, observed: Observed) -> None:
        """Builds the first prompt from what ``reset`` gave."""
        self._messages = observed.conversation
        self._opening = tuple(self._messages)
        self._tools = observed.tools
        self._privileged = observed.privileged or {}
        self._family = observed.family
        self._advice = observed.advice
        self._foreseen = observed.expert_actions
        self._shown_turns = len(self._recorded.turns) if self._recorded else len(self._foreseen)
        prompt = self._chat.prompt(self._messages, self._tools)
        try:
            seen = self._seen(self._messages)
        except MissingFactsError as error:
            self._begin_segment(prompt, {})
            self.fail(Failure("env", UNTOLD, f"{self.assignment.task.env_id}: {error}"))
            return
        self._begin_segment(prompt, seen)
        if self._recorded is not None and (other := other_start(self._recorded, self._opening, prompt)):
            self.fail(Failure("env", UNREPEATED, other))
        elif not self._fits(self._longest(prompt, seen)):
            self.stop = "overflow"
        else:
            self._next()

    def _begin_segment(self, prompt: list[int], seen: Mapping[str, list[int]]) -> None:
        """Starts a segment with ``prompt``, in whose place some actors read what is ``seen``."""
        self._segments.append(SegmentBuilder(prompt))
        self._seen_prompts, self._segment_prompt_length = seen, len(prompt)

    def _seen(self, messages: Sequence[Message]) -> dict[str, list[int]]:
        """The prompt that renders ``messages`` as each actor with a hint reads it."""
        shown = {actor: hint.shown(messages, self._privileged) for actor, hint in self._hints.items()}
        return {actor: self._chat.prompt(hinted, self._tools) for actor, hinted in shown.items()}

    def _longest(self, prompt: Sequence[int], seen: Mapping[str, list[int]]) -> int:
        """Of what those who may act read in place of ``prompt``."""
        return max(len(seen.get(actor, prompt)) for actor in self.assignment.actors)

    def _context(self, actor: str) -> tuple[int, ...]:
        """All that ``actor`` reads before its next action."""
        tokens, start = self._segments[-1].tokens, self._segment_prompt_length
        shown = self._seen_prompts.get(actor)
        return tuple(tokens) if shown is None else (*shown, *tokens[start:])

    def request(self) -> Request:
        """What the policy of ``actor`` is asked for next."""
        guide = None if self.guide is None else self._context(self.guide)
        context, thinks = self._context(self.actor), self._settings.thinking_budget
        limited = thinks is not None and self._script is None
        budget = self._chat.budget(context, thinks) if limited and thinks is not None else None
        return Request(self.number, context, self._seed(), self._room(), self._script, guide, budget)

    def _seed(self, *which: int) -> int:
        """The seed of what the next turn draws; with a number, of something else in that turn."""
        entropy = [self.assignment.seed, len(self._turns), *which]
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])

    def _room(self) -> int:
        """How many tokens the next turn may have; 0 or less where the episode has had all of its own."""
        turn, episode = self._settings.max_new_tokens, self._settings.max_episode_tokens
        return turn if episode is None else min(turn, episode - self._written)

    def _next(self) -> None:
        """Decides who acts next, and writes the action where it is the expert."""
        turn = len(self._turns)
        moment = Moment(turn, (self._seed(1) >> 11) / 2.0**53, self._shown_turns, self._mended)
        actor = self.assignment.acting.who(moment) or self.assignment.actor
        if actor not in self.assignment.actors:
            raise ConfigError(
                f"objective.sources.{self.assignment.source}.acting: at turn {turn} who() gives {actor!r}, and those who may act are "
                f"{', '.join(self.assignment.actors)}; name it among `others`"
            )
        self.actor, self._script = actor, None
        if actor == EXPERT:
            self._play_script("of the expert", self._written_by_expert(turn))
        elif actor == RECORDED:
            assert self._recorded is not None  # whoever assigns it gives the episode that is repeated
            self._play_script(f"in {self._recorded.key}", tokens_of_turn(self._recorded, turn))

    def _written_by_expert(self, turn: int) -> tuple[int, ...]:
        action = self._foreseen[turn] if turn < len(self._foreseen) else self._advice
        assert action is not None  # the session of an episode in which it may act always asks
        return tuple(self._chat.write(self._messages, action, self._tools))

    def _play_script(self, whose: str, script: tuple[int, ...]) -> None:
        """Plays these tokens next. An action that is longer than a turn may be fails the episode."""
        self._script = script
        needed, limit = len(script), self._settings.max_new_tokens
        if needed > limit:
            message = (
                f"rollout.max_new_tokens={limit} is too small: an action {whose} of {self.assignment.task.env_id} "
                f"has {needed} tokens; set it to {needed} or more"
            )
            self.fail(Failure("env", TOO_LONG, message))

    def take(self, generation: Generation, policy_version: int, seconds: float) -> str:
        """Appends what the policy wrote, in ``seconds`` under weights of ``policy_version``; returns the canonical action for the environment."""
        prompt = self._segments[-1].tokens
        action = self._chat.read(generation.tokens, self._tools, prompt)
        thinking = self._chat.thought_size(prompt, generation.tokens)
        start, stop = self._segments[-1].add_action(
            generation.tokens, generation.logprobs, len(self._turns), self._wrote(generation), generation.forced
        )
        turn = Turn(
            index=len(self._turns),
            actor=self.actor,
            segment=len(self._segments) - 1,
            start=start,
            stop=stop,
            text=action.text,
            action=action.canonical,
            calls=tuple(action.calls),
            finish="stop" if action.stopped else "length",
            errors=own_errors(action.stopped, action.text),
            advice=self._advice,
            seconds_policy=seconds,
            prefilled=generation.prefilled,
            policy_version=policy_version,
            thinking=thinking,
        )
        self._pending = Pending(action, turn)
        return action.canonical

    def _wrote(self, generation: Generation) -> list[int]:
        """Who wrote each token, as an index into the trajectory's actors."""
        actor = self._index(self.actor)
        if self.guide is None or not any(generation.guided or ()):
            return [actor] * len(generation.tokens)
        guide = self._index(self.guide)
        return [guide if guided else actor for guided in generation.guided or ()]

    def _index(self, actor: str) -> int:
        if actor not in self._actors:
            self._actors.append(actor)
        return self._actors.index(actor)

    def observe(self, observed: Observed) -> None:
        """Takes the environment's answer to the pending action, and sets ``stop`` where the episode is over.

        Where the turn is to be acted by somebody else it is as if it had never been, and ``replaying`` is set.
        """
        assert self._pending is not None
        action, turn = self._pending.action, self._answered(self._pending.turn, observed)
        self._pending = None
        if self._mended is None and self.assignment.acting.mends(turn):
            self._segments[-1].take_back(turn.start)
            self._mended, self.replaying = turn.index, True
            return
        if turn.actor == RECORDED and self._recorded is not None and (other := other_answer(self._recorded, turn)):
            self._turns.append(turn)
            self.fail(Failure("env", UNREPEATED, other))
            return
        self._success = observed.success
        self._advice = observed.advice
        self._written += turn.stop - turn.start
        reason = self._reason_to_stop(observed)
        following = None if reason else self._following(action, observed.messages)
        self._turns.append(replace(turn, drift=following.extension.drift if following else "last"))
        if following:
            self._go_on(following)
        else:
            self.stop = reason or "overflow"

    def resume(self, observed: Observed) -> None:
        """Goes on in the environment that was brought back to the turn that is acted again."""
        self.replaying = False
        self._advice = observed.advice
        self._next()

    def _answered(self, turn: Turn, observed: Observed) -> Turn:
        return replace(
            turn,
            observations=observed.messages,
            reward=observed.reward,
            terminated=observed.terminated,
            truncated=observed.truncated,
            errors=turn.errors + observed.errors,
            seconds_env=observed.seconds,
            outcomes=observed.outcomes,
        )

    def _reason_to_stop(self, observed: Observed) -> Stop | None:
        if observed.terminated:
            return "terminated"
        if observed.truncated:
            return "truncated"
        if len(self._turns) + 1 >= self._settings.max_turns:
            return "turn_limit"
        return "token_limit" if self._room() <= 0 else None

    def _following(self, action: Action, observations: Sequence[Message]) -> Following | None:
        """How the observations would enter the context; None where they do not fit."""
        characters = sum(len(message["content"]) for message in observations)
        if characters > self._settings.max_length * self._chat.longest_token:
            return None  # known before megabytes are tokenised, while all other episodes wait
        extension = self._chat.extend(self._messages, action, observations, self._tools)
        messages = [*self._messages, action.message, *observations]
        if extension.drift == "forked":
            seen = self._seen(messages)
            length = self._longest(extension.tokens, seen)
        else:
            seen = {}
            before = self._segments[-1].tokens
            shown = self._longest(before[: self._segment_prompt_length], self._seen_prompts)
            length = shown + len(before) - self._segment_prompt_length + len(extension.tokens)
        if self._fits(length):
            return Following(messages, extension, seen)
        return self._shortened(messages) if self._settings.on_overflow == "drop_oldest" else None

    def _shortened(self, messages: list[Message]) -> Following | None:
        """``messages`` without the oldest turns, as many as must go; None where even the latest turn alone does not fit."""
        for kept in without_oldest(messages):
            prompt = self._chat.prompt(kept, self._tools)
            seen = self._seen(kept)
            if self._fits(self._longest(prompt, seen)):
                return Following(kept, Extension(prompt, "forked"), seen)
        return None

    def _go_on(self, following: Following) -> None:
        self._messages = following.messages
        if following.extension.drift == "forked":
            self._begin_segment(following.extension.tokens, following.seen)
        else:
            self._segments[-1].add_context(following.extension.tokens)
        self._next()

    def _fits(self, prompt_tokens: int) -> bool:
        return prompt_tokens + self._settings.max_new_tokens <= self._settings.max_length

    def fail(self, failure: Failure) -> None:
        """The episode ends here; an action without an answer is kept."""
        if self._pending is not None:
            self._turns.append(self._pending.turn)
        self._failure, self.stop = failure, "failed"

    def trajectory(self) -> Trajectory:
        """The episode as it was, once ``stop`` is set."""
        assert self.stop is not None
        reward = sum(turn.reward for turn in self._turns)
        succeeded = success_of(self._success, reward, self.stop)
        written = {
            TOKENIZER: self._chat.vocabulary,
            SAMPLING: self._settings.sampling,
            ENGINE: self._settings.engine.kind,
        }
        return Trajectory(
            key=self.assignment.key,
            task=self.assignment.task,
            actors=tuple(self._actors),
            segments=tuple(segment.build(self.assignment.source) for segment in self._segments),
            turns=tuple(self._turns),
            outcome=Outcome(reward, succeeded and self._failure is None, self.stop),
            privileged=self._privileged,
            failure=self._failure,
            versions={**package_versions(), **package_of(self.assignment.task.env_id), **written},
            opening=self._opening,
            tools=self._tools,
            family=self._family,
        )


@cache
def package_versions() -> Mapping[str, str]:
    """The versions of what produced an episode."""
    return {package: version(package) for package in ("agentopd", "transformers", "torch", "gymnasium")}
