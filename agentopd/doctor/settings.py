"""What a run checks before its first stage, and what an episode needs: settings, models, prompts, episodes."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from agentopd.doctor.check import Check
from agentopd.doctor.patient import Patient, Played
from agentopd.rollout.preflight import Reader
from agentopd.training.checks.preflight import (
    check_acting,
    check_adapter,
    check_experts,
    check_models,
    check_prompts,
    check_teachers,
    with_data,
)
from agentopd.training.checks.recorded import check_recorded
from agentopd.training.checks.trial import try_own_parts
from agentopd.training.loop.arguments import arguments


def settings(patient: Patient) -> Iterator[Check]:
    """Arguments of the trainer, who acts and who teaches, parts of one's own on made-up rows."""
    config = with_data(patient.config)
    arguments(config, Path(tempfile.gettempdir()))
    check_acting(config)
    check_experts(config)
    check_teachers(config)
    try_own_parts(config, len(patient.tokenizer))
    yield Check("settings", "pass", "the settings go together")


def _readers(patient: Patient) -> list[Reader]:
    return patient.once("models that fit", lambda: check_models(patient.config, patient.tokenizer))


def models(patient: Patient) -> Iterator[Check]:
    """Whether models, adapter and vocabularies are there and fit, without loading weights."""
    readers = _readers(patient)
    check_adapter(patient.config, patient.tokenizer)
    there = ", ".join(dict.fromkeys(reader.key for reader in readers))
    yield Check("models", "pass", f"there and whole, with a row for each of {len(patient.tokenizer)} ids: {there}")


def recorded(patient: Patient) -> Iterator[Check]:
    """Whether the records that the method draws from are there, and its recorded teachers spoke of them."""
    told = check_recorded(patient.config, patient.chat)
    yield Check("records", "pass", "; ".join(told) or "the method draws from none")


def lengths(patient: Patient) -> Iterator[Check]:
    """Whether prompts, turns and hints fit into what student and teachers read."""
    readers, rollout = _readers(patient), patient.config.rollout
    check_prompts(patient.config, patient.tokenizer, readers=readers)
    reads = {reader.key: reader.longest for reader in readers}
    told = ", ".join(f"{key} reads {'any number' if longest is None else longest}" for key, longest in reads.items())
    full = [one for one in _episodes(patient) if one.trajectory.outcome.stop == "overflow"]
    if full:
        yield Check(
            "lengths",
            "warn",
            f"{len(full)} of {len(_episodes(patient))} episodes ended since rollout.max_length={rollout.max_length} was full",
            "raise rollout.max_length, lower rollout.max_new_tokens or rollout.max_turns, or set rollout.on_overflow: drop_oldest",
        )
        return
    yield Check("lengths", "pass", f"rollout.max_length={rollout.max_length}; {told}")


def _episodes(patient: Patient) -> list[Played]:
    return [*patient.by_student, *patient.by_expert]


def episodes(patient: Patient) -> Iterator[Check]:
    """Whether episodes can be played, by the student and by the environments' experts."""
    failures = [one.trajectory for one in _episodes(patient) if one.trajectory.failure is not None]
    for trajectory in failures:
        yield Check(
            "episodes",
            "fail",
            f"{trajectory.task.env_id}, played by {trajectory.actors[0]}: {trajectory.failure and trajectory.failure.message}",
            f"agentopd.testing.check_text_env({trajectory.task.env_id!r}) shows what is wrong with the environment",
        )
    if not failures:
        count = len(_episodes(patient))
        yield Check(
            "episodes", "pass", f"{count} played, {len(patient.by_expert)} of them by the environments' experts"
        )
