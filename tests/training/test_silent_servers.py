"""Servers that take a connection and say nothing: what is cheap to answer is not waited for as long as what a model writes."""

import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import training_cases as cases
from serving_cases import serving
from talking_cases import said, talking

import agentopd.doctor.patient as patient
import agentopd.serving.waiting as waiting
from agentopd.config import Config, load_config
from agentopd.doctor import Check, examine


@pytest.fixture
def silent() -> Iterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["served", "openai"])
def test_the_doctor_gives_up_on_one_long_before_its_timeout(
    kind: str, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "BRIEF", 0.3)
    begin = time.monotonic()
    found, _ = examine(asking(kind, silent))
    assert time.monotonic() - begin < 50.0
    assert silence(found)[-1].name == "teachers"


def asking(kind: str, url: str) -> Config:
    """A run whose teacher is a server."""
    teacher = {"kind": kind, "url": url, "patience": 0.1, "timeout": 60.0}
    method = {"target": {"name": "teacher"}, "support": {"kind": "top_k", "k": 8}}
    if kind == "openai":
        method = {"target": {"kind": "reward", "name": "teacher"}, "estimator": {"kind": "score_function"}}
        teacher |= {"ask": "score", "model": "m"}
    raw = cases.raw(method=method) | {"teachers": {"teacher": teacher}}
    raw["stages"] |= {"teacher": None}
    return load_config(raw)


def silence(found: Sequence[Check]) -> list[Check]:
    """The rows that tell of it."""
    return [one for one in found if one.status == "fail" and "did not answer (ReadTimeout: timed out)" in one.found]


@pytest.mark.parametrize("kind", ["served", "openai"])
def test_the_doctor_gives_up_on_one_that_lists_its_model_and_is_silent_to_questions(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (patient.READ * 2, patient.WRITTEN) < (40.0, 50.0)  # what is left of a minute
    monkeypatch.setattr(patient, "READ", 0.2)
    monkeypatch.setattr(patient, "WRITTEN", 0.2)
    server: Any = serving(cases.model(1), longest=1024) if kind == "served" else talking(lambda _: said("7"))
    with server as held:
        held.faults.extend(["late"] * 99)
        found, _ = examine(asking(kind, held.url if kind == "served" else held.base))
    assert [one.name for one in silence(found)] == (
        ["models", "teachers"] if kind == "served" else ["same answer twice"]
    )
