"""Tools under attack: nothing outside is read, changed or reached, no call outlasts its limit, and the environment goes on."""

import re
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attack_cases import DEN, LOOK_UP, SECRET, TOOLS, Attack, Attacks, Den, Place, leads_here, place
from code_attacks import CODE
from http_attacks import Server, serving
from reach_attacks import REACH

from agentopd.chat import Chat
from agentopd.chat.tokenizer import build_tokenizer
from agentopd.errors import EnvError
from agentopd.rollout import Assignment, Rollout, collect
from agentopd.tooling import CRASH, call, tool
from agentopd.tools.mcp import Mcp
from agentopd.types import Key, Task

ALL: Attacks = {**CODE, **REACH}
QUICK = (
    "calculator: a tower of powers", "python: a value without end as a key", "sqlite: rows of another database", "read: a link",
    "change: written through a dangling link", "search: accents", "fetch: a name that leads here", "fetch: tags that are not closed",
)  # fmt: skip
MARGIN = 10.0
"""Seconds beyond a limit: a busy machine, and what a killed worker takes to be replaced."""
SLOW_RUN = Rollout(
    max_turns=2, time_limit=60.0, max_new_tokens=150_000, max_length=10**6, max_failures=1.0, concurrency=16
)


@pytest.fixture(scope="module")
def canary() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def here(canary: Server) -> Iterator[Server]:
    with serving(canary.port) as server:
        yield server


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", leads_here(LOOK_UP))


@pytest.fixture
def den(tmp_path: Path, here: Server, canary: Server) -> Iterator[Place]:
    """The place of attacks; outside of it all is as it was in the end."""
    (root := tmp_path / "place").mkdir()
    made = place(root, here, canary)
    before = made.seen()
    canary.seen.clear()
    yield made
    assert made.seen() == before
    assert canary.seen == []


def endured(env: Den, attack: Attack) -> None:
    """Attacks once, and calls once more."""
    env.reset(seed=0)
    begun = time.monotonic()
    try:
        observation, *_, info = env.step(env.attack)
        assert not attack.gone
    except EnvError as error:
        observation, info = str(error), {"errors": []}
        assert attack.gone
    assert time.monotonic() - begun < env.kind.limit + MARGIN
    assert re.search(attack.told, observation), observation[:500]
    assert SECRET not in observation
    assert len(observation) < 12_000
    assert attack.kind == "mcp" or CRASH not in info["errors"], observation
    if attack.gone:
        env.reset(seed=0)
    begun = time.monotonic()
    tries = 3 if attack.kind == "mcp" else 1  # a server that still talks is late once more, and new in the next episode
    for _ in range(tries):
        if (answer := env.step(env.place.written(env.kind.goes_on))[0]) == env.kind.answer:
            break
        env.reset(seed=0)
    assert answer == env.kind.answer
    assert time.monotonic() - begun < tries * (env.kind.limit + MARGIN)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in ALL])
def test_attack(den: Place, name: str) -> None:
    attack = ALL[name]
    env = Den(attack.kind, den, den.written(attack.action))
    try:
        endured(env, attack)
    finally:
        env.close()


def test_there_are_enough() -> None:
    assert len(ALL) >= 60
    assert {attack.kind for attack in ALL.values()} == set(TOOLS)
    assert set(QUICK) < set(ALL)


@pytest.mark.slow
def test_all_of_them_in_one_run(tmp_path: Path, here: Server, canary: Server) -> None:
    """A scripted actor, and sixteen environments side by side: none stalls the run, and none but those that break a server fails."""
    chat = Chat(build_tokenizer([call("do", how="x")], 600))
    places = {name: place(tmp_path / str(number), here, canary) for number, name in enumerate(ALL)}
    before = {name: there.seen() for name, there in places.items()}
    canary.seen.clear()
    tasks = [
        Task(DEN, 0, {"kind": one.kind, "place": places[name], "attack": places[name].written(one.action)})
        for name, one in ALL.items()
    ]
    assignments = [Assignment(task, Key("run", 0, n), "expert", 1, source="fresh") for n, task in enumerate(tasks)]
    begun = time.monotonic()
    played = collect(assignments, {}, chat, SLOW_RUN)
    assert time.monotonic() - begun < 300.0
    for (name, attack), episode in zip(ALL.items(), played, strict=True):
        kind = TOOLS[attack.kind]
        told = "\n".join(message["content"] for turn in episode.turns for message in turn.observations)
        assert SECRET not in told, name
        if attack.gone:
            assert episode.failure is not None, name
            assert (episode.failure.boundary, episode.failure.kind) == ("env", "raised"), (name, episode.failure)
            continue
        assert episode.failure is None, (name, episode.failure)
        assert len(episode.turns) == 2, name
        answer = "\n".join(message["content"] for message in episode.turns[1].observations)
        late = attack.kind in ("fetch", "mcp") and "no answer within" in answer  # on a machine with too much to do
        assert answer == kind.answer or late, (name, answer)
    assert {name: there.seen() for name, there in places.items()} == before
    assert canary.seen == []


def test_no_thread_is_left_behind_by_a_page_without_end(den: Place) -> None:
    env = Den("fetch", den, "")
    env.reset(seed=0)
    before = threading.active_count()
    for page in ("hints", "headers", "chunks"):
        env.step(call("fetch", url=f"http://127.0.0.1:{den.here}/data/{page}"))
    for _ in range(100):
        if not any("settle" in thread.name for thread in threading.enumerate()) and threading.active_count() <= before:
            return
        time.sleep(0.1)
    raise AssertionError([thread.name for thread in threading.enumerate()])


def test_a_server_of_tools_that_compresses_what_it_says_is_left(den: Place) -> None:
    begun = time.monotonic()
    with pytest.raises(EnvError, match="did not start"):
        Mcp("far", url=f"http://127.0.0.1:{den.here}/data/bomb").begin()
    assert time.monotonic() - begun < MARGIN


class Unguarded:
    """Tools as they should not be."""

    def __init__(self, place: Place) -> None:
        self.place = place

    @tool
    def read(self, path: str) -> str:
        """Read any file."""
        return (self.place.inside / path).read_text()

    @tool
    def write(self, path: str) -> str:
        """Write any file."""
        (self.place.outside / path).write_text("x")
        return "done"

    @tool
    def fetch(self, path: str) -> str:
        """Fetch any page."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.place.canary}/{path}") as page:
            return str(page.read().decode())

    @tool
    def wait(self, path: str) -> str:
        """Take one's time."""
        time.sleep(TOOLS["files"].limit + MARGIN + 0.5)
        return path

    @tool
    def crash(self, path: str) -> str:
        """Crash."""
        raise RuntimeError(path)

    @tool(max_characters=None)
    def flood(self, path: str) -> str:
        """Say much."""
        return path * 20_000


@pytest.mark.parametrize("name", ["read", "crash", "flood", pytest.param("wait", marks=pytest.mark.slow)])
def test_the_checks_see_tools_without_guards(den: Place, name: str) -> None:
    attack = Attack("files", call(name, path="link"))
    with pytest.raises(AssertionError):
        endured(Den("files", den, attack.action, Unguarded(den)), attack)


@pytest.mark.parametrize("name", ["write", "fetch"])
def test_the_canaries_sing(tmp_path: Path, here: Server, canary: Server, name: str) -> None:
    (root := tmp_path / "place").mkdir()
    made, before = place(root, here, canary), None
    before = made.seen()
    canary.seen.clear()
    env: Any = Den("files", made, "", Unguarded(made))
    env.reset(seed=0)
    env.step(call(name, path="x"))
    assert (made.seen() == before, canary.seen == []) == ((False, True) if name == "write" else (True, False))
