"""Servers that take a connection and say nothing: what is cheap to answer is not waited for as long as what a model writes."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import training_cases as cases

import agentopd.serving.waiting as waiting
from agentopd.config import load_config
from agentopd.doctor.whole import examine


@pytest.fixture
def silent() -> Iterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["served", "openai"])
def test_the_doctor_gives_up_on_one_long_before_its_timeout(
    kind: str, silent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "BRIEF", 0.3)
    teacher = {"kind": kind, "url": silent, "patience": 0.1, "timeout": 60.0}
    method = {"target": {"name": "teacher"}, "support": {"kind": "top_k", "k": 8}}
    if kind == "openai":
        method = {"target": {"kind": "reward", "name": "teacher"}, "estimator": {"kind": "score_function"}}
        teacher |= {"ask": "score", "model": "m"}
    raw = cases.raw(method=method) | {"teachers": {"teacher": teacher}}
    raw["stages"] |= {"teacher": None}
    begin = time.monotonic()
    found, _ = examine(load_config(raw))
    assert time.monotonic() - begin < 50.0
    [check] = [one for one in found if one.name == "teachers"]
    assert check.status == "fail"
    assert "did not answer (ReadTimeout: timed out)" in check.found
