"""Whether a conversation only grows, token by token, and whether what is learned from is what was produced."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from agentopd.chat import Chat
from agentopd.chat.conversation import conversation
from agentopd.doctor.check import Check
from agentopd.doctor.patient import Patient, Played
from agentopd.types import Trajectory

TEMPLATE, MASK = "chat template", "tool mask"
SEE = "docs/chat-templates.md tells what a template must take"


def template(patient: Patient) -> Iterator[Check]:
    """What stands in for what the template lacks; whether it keeps the past as it was."""
    chat = patient.chat
    if chat.falls_back:
        yield Check(TEMPLATE, "warn", f"it does not take all that is put to it: {chat.describe()}", SEE)
    if chat.forks:
        yield rewritten("it rewrites earlier turns")
        return
    written = [one.trajectory for one in patient.by_expert]
    yield continued(chat, [one.trajectory for one in patient.by_student], written)


def rewritten(how: str) -> Check:
    """A template that changes the past: right, and slow."""
    return Check(
        TEMPLATE,
        "warn",
        f"{how}: each turn starts a new segment, whose whole prompt is read again by student and teachers",
        "set template_kwargs, such as enable_thinking: false, or tokenizer.chat_template to one that keeps the past; "
        + SEE,
    )


def continued(chat: Chat, sampled: Sequence[Trajectory], written: Sequence[Trajectory]) -> Check:
    """Whether episodes kept their past and, where the template wrote the actions, whether it would write the whole the same."""
    turns = [turn for trajectory in (*sampled, *written) for turn in trajectory.turns]
    drift = Counter(turn.drift for turn in turns if turn.drift != "last")
    told = ", ".join(f"{kind} {drift[kind]}" for kind in ("clean", "realigned", "forked"))
    if drift["forked"]:
        return rewritten(f"it rewrote earlier turns in episodes that were played ({told})")
    other = next((place for trajectory in written if (place := _first_other(chat, trajectory)) is not None), None)
    if other is not None:
        return Check(
            TEMPLATE,
            "warn",
            f"before turn {other} of an expert's episode another text was read than it writes for that conversation as a whole",
            "set tokenizer.chat_template to one whose longer conversations continue shorter ones; " + SEE,
        )
    return Check(TEMPLATE, "pass", f"longer conversations continue shorter ones (turns: {told})")


def _first_other(chat: Chat, trajectory: Trajectory) -> int | None:
    """The first turn before which something else was read than the template writes for the conversation so far."""
    for turn in trajectory.turns:
        prompt = chat.prompt(conversation(trajectory, turn.index, chat), list(trajectory.tools))
        read = trajectory.segments[turn.segment].tokens_T[: turn.start].tolist()
        if turn.segment == 0 and chat.tokenizer.decode(prompt) != chat.tokenizer.decode(read):
            return turn.index
    return None


def mask(patient: Patient) -> Iterator[Check]:
    """Whether exactly the tokens that were generated are learned from."""
    played = [*patient.by_student, *patient.by_expert]
    yield covered(played)


def covered(played: Sequence[Played]) -> Check:
    """Whether the trainable tokens of some episodes are what their actors generated, and observations are context."""
    count = 0
    for one in played:
        for turn, generated in zip(one.trajectory.turns, one.generated, strict=False):
            segment = one.trajectory.segments[turn.segment]
            marked_T = np.flatnonzero(segment.turn_T == turn.index)
            if tuple(segment.tokens_T[marked_T].tolist()) != generated:
                return _uncovered(one, f"the tokens of turn {turn.index} are not those that were generated in it")
            count += len(generated)
        for segment in one.trajectory.segments:
            if (segment.trainable_T != (segment.turn_T >= 0)).any():
                at = int(np.flatnonzero(segment.trainable_T != (segment.turn_T >= 0))[0])
                what = "context is trained on" if segment.trainable_T[at] else "an action is not trained on"
                return _uncovered(one, f"{what} at token {at}")
    return Check(MASK, "pass", f"{count} tokens were generated, and those alone are learned from")


def _uncovered(one: Played, what: str) -> Check:
    found = f"episode {one.trajectory.key}: {what}"
    return Check(
        MASK,
        "fail",
        found,
        "report it with the configuration: this is a defect of agentopd, or of a policy of your own",
    )
