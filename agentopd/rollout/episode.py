"""One episode: the conversation, and the exact tokens that the policy read and wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np

from agentopd.chat import Action, Chat, Extension, Hint
from agentopd.chat.conversation import without_oldest
from agentopd.chat.hint import MissingFactsError
from agentopd.rollout.policy import Assignment, Generation, Request, Rollout
from agentopd.rollout.segments import SegmentBuilder
from agentopd.rollout.session import Observed
from agentopd.types import EXPERT, Failure, Message, Outcome, Stop, Trajectory, Turn

TOO_LONG, UNTOLD = "too_long", "untold"
"""Kinds of failures: of an expert whose action no turn can hold; of an environment that does not tell what a hint names."""


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
    prompt: list[int]
    """Where a segment starts: what the actor reads in place of its prompt."""


class Episode:
    """The life of one episode: open, then request, take and observe by turns, until ``stop`` is set.

    What an actor is shown by a hint is in its requests alone: the segments hold the conversation that anybody may read.
    """

    def __init__(
        self, number: int, assignment: Assignment, chat: Chat, settings: Rollout, hint: Hint | None = None
    ) -> None:
        self.number = number
        self.assignment = assignment
        self.stop: Stop | None = None
        self._chat = chat
        self._settings = settings
        self._hint = hint
        self._failure: Failure | None = None
        self._segments: list[SegmentBuilder] = []
        self._turns: list[Turn] = []
        self._opening: tuple[Message, ...] = ()
        self._messages: list[Message] = []
        self._tools: tuple[dict[str, Any], ...] = ()
        self._advice: str | None = None
        self._script: tuple[int, ...] | None = None
        self._shown_prompt: list[int] = []
        self._segment_prompt_length = 0
        self._privileged: Mapping[str, Any] = {}
        self._family = ""
        self._success: bool | None = None
        self._pending: Pending | None = None

    @property
    def begun(self) -> bool:
        """Whether ``reset`` has been answered."""
        return bool(self._segments)

    def open(self, observed: Observed) -> None:
        """Builds the first prompt from what ``reset`` gave."""
        self._messages = observed.conversation
        self._opening = tuple(self._messages)
        self._tools = observed.tools
        self._privileged = observed.privileged or {}
        self._family = observed.family
        self._advice = observed.advice
        prompt = self._chat.prompt(self._messages, self._tools)
        try:
            seen = self._seen(self._messages, prompt)
        except MissingFactsError as error:
            self._begin_segment(prompt, prompt)
            self.fail(Failure("env", UNTOLD, f"{self.assignment.task.env_id}: {error}"))
            return
        self._begin_segment(prompt, seen)
        if not self._fits(len(self._context())):
            self.stop = "overflow"
        else:
            self._write_script()

    def _begin_segment(self, prompt: list[int], seen: list[int]) -> None:
        """Starts a segment with ``prompt``, in whose place the actor reads ``seen``."""
        self._segments.append(SegmentBuilder(prompt))
        self._shown_prompt, self._segment_prompt_length = seen, len(prompt)

    def _seen(self, messages: Sequence[Message], prompt: list[int]) -> list[int]:
        """What the actor reads in place of ``prompt``, which renders ``messages``."""
        if self._hint is None:
            return prompt
        return self._chat.prompt(self._hint.shown(messages, self._privileged), self._tools)

    def _context(self) -> list[int]:
        """All that the actor reads before its next action."""
        return [*self._shown_prompt, *self._segments[-1].tokens[self._segment_prompt_length :]]

    def request(self) -> Request:
        """What the policy is asked for next."""
        seed = np.random.SeedSequence([self.assignment.seed, len(self._turns)]).generate_state(1, np.uint64)
        return Request(self.number, tuple(self._context()), int(seed[0]), self._settings.max_new_tokens, self._script)

    def _write_script(self) -> None:
        """Writes the next action where the expert acts. One that is longer than a turn may be fails the episode."""
        if self.assignment.actor != EXPERT:
            return
        assert self._advice is not None  # the session of an expert's episode always asks
        self._script = tuple(self._chat.write(self._messages, self._advice, self._tools))
        needed, limit = len(self._script), self._settings.max_new_tokens
        if needed > limit:
            message = (
                f"rollout.max_new_tokens={limit} is too small: an action of the expert of {self.assignment.task.env_id} "
                f"has {needed} tokens; set it to {needed} or more"
            )
            self.fail(Failure("env", TOO_LONG, message))

    def take(self, generation: Generation, policy_version: int, seconds: float) -> str:
        """Appends what the policy wrote; returns the canonical action for the environment."""
        action = self._chat.read(generation.tokens, self._tools)
        start, stop = self._segments[-1].add_action(generation.tokens, generation.logprobs, len(self._turns))
        turn = Turn(
            index=len(self._turns),
            actor=self.assignment.actor,
            segment=len(self._segments) - 1,
            start=start,
            stop=stop,
            text=action.text,
            action=action.canonical,
            calls=tuple(action.calls),
            finish="stop" if action.stopped else "length",
            errors=(() if action.stopped else ("cut",)) + (() if action.text.strip() else ("empty",)),
            advice=self._advice,
            seconds_policy=seconds,
            prefilled=generation.prefilled,
            policy_version=policy_version,
        )
        self._pending = Pending(action, turn)
        return action.canonical

    def observe(self, observed: Observed) -> None:
        """Takes the environment's answer to the pending action, and sets ``stop`` where the episode is over."""
        assert self._pending is not None
        action, turn = self._pending.action, self._pending.turn
        self._pending = None
        self._success = observed.success
        self._advice = observed.advice
        turn = replace(
            turn,
            observations=observed.messages,
            reward=observed.reward,
            terminated=observed.terminated,
            truncated=observed.truncated,
            errors=turn.errors + observed.errors,
            seconds_env=observed.seconds,
        )
        reason = self._reason_to_stop(observed)
        following = None if reason else self._following(action, observed.messages)
        self._turns.append(replace(turn, drift=following.extension.drift if following else "last"))
        if following:
            self._go_on(following)
        else:
            self.stop = reason or "overflow"

    def _reason_to_stop(self, observed: Observed) -> Stop | None:
        if observed.terminated:
            return "terminated"
        if observed.truncated:
            return "truncated"
        return "turn_limit" if len(self._turns) + 1 >= self._settings.max_turns else None

    def _following(self, action: Action, observations: Sequence[Message]) -> Following | None:
        """How the observations would enter the context; None where they do not fit."""
        characters = sum(len(message["content"]) for message in observations)
        if characters > self._settings.max_length * self._chat.longest_token:
            return None  # known before megabytes are tokenised, while all other episodes wait
        extension = self._chat.extend(self._messages, action, observations, self._tools)
        messages = [*self._messages, action.message, *observations]
        forked = extension.drift == "forked"
        prompt = self._seen(messages, extension.tokens) if forked else []
        if self._fits(len(prompt) if forked else len(self._context()) + len(extension.tokens)):
            return Following(messages, extension, prompt)
        return self._shortened(messages) if self._settings.on_overflow == "drop_oldest" else None

    def _shortened(self, messages: list[Message]) -> Following | None:
        """``messages`` without the oldest turns, as many as must go; None where even the latest turn alone does not fit."""
        for kept in without_oldest(messages):
            prompt = self._chat.prompt(kept, self._tools)
            seen = self._seen(kept, prompt)
            if self._fits(len(seen)):
                return Following(kept, Extension(prompt, "forked"), seen)
        return None

    def _go_on(self, following: Following) -> None:
        self._messages = following.messages
        if following.extension.drift == "forked":
            self._begin_segment(following.extension.tokens, following.prompt)
        else:
            self._segments[-1].add_context(following.extension.tokens)
        self._write_script()

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
        # a reward on the way is no success: an episode that was cut off says nothing of its own
        succeeded = (reward > 0 and self.stop == "terminated") if self._success is None else self._success
        return Trajectory(
            key=self.assignment.key,
            task=self.assignment.task,
            actors=(self.assignment.actor,),
            segments=tuple(segment.build(self.assignment.source) for segment in self._segments),
            turns=tuple(self._turns),
            outcome=Outcome(reward, succeeded and self._failure is None, self.stop),
            privileged=self._privileged,
            failure=self._failure,
            versions=dict(package_versions()),
            opening=self._opening,
            tools=self._tools,
            family=self._family,
        )


@cache
def package_versions() -> Mapping[str, str]:
    """The versions of what produced an episode."""
    return {package: version(package) for package in ("agentopd", "transformers", "torch", "gymnasium")}
