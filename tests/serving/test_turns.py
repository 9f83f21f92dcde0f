"""Several teachers or processes that ask the same at once: one asks, the others have its answer."""

import itertools
import logging
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from talking_cases import said, talking

from agentopd.errors import TeacherError
from agentopd.serving import Answers, ChatServer, Ledger, Patience
from agentopd.serving.waiting import Waiting

ASKS = """
import sys
from pathlib import Path
from agentopd.serving import Answers, ChatServer, Ledger, Patience
from agentopd.serving.waiting import Waiting

url, path = sys.argv[1:]
server = ChatServer.of(Waiting("teacher 'judge'", url, Patience(20.0, 20.0)), "tiny", Ledger("judge"), Answers(Path(path)))
print("ready", flush=True)
sys.stdin.readline()
for i in range(4):
    print(server.ask({"messages": [{"role": "user", "content": str(i)}]}).content, flush=True)
"""
HOLDS = """
import sys
from pathlib import Path
from agentopd.serving import Answers

with Answers(Path(sys.argv[1])).turn("ab12", 60.0):
    print("held", flush=True)
    sys.stdin.readline()
"""
WAITS = """
import logging, sys
from pathlib import Path
from agentopd.serving import Answers

logging.lastResort = None
logging.getLogger("agentopd.serving.turns").addHandler(type("Told", (logging.Handler,), {"emit": lambda self, record: print("waited")})())
print("ready", flush=True)
with Answers(Path(sys.argv[1])).turn("ab12", 0.2):
    pass
"""


def begun(script: str, *arguments: str) -> "subprocess.Popen[str]":
    """A process that has said its first line."""
    command = [sys.executable, "-c", script, *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def test_two_processes_pay_once_and_hear_the_same(tmp_path: Path) -> None:
    counted = itertools.count()

    def never_the_same(_: object) -> dict[str, object]:
        time.sleep(0.2)
        return said(str(next(counted)))

    with talking(never_the_same) as server:
        both = [begun(ASKS, server.base, str(tmp_path / "a.sqlite")) for _ in range(2)]
        for process in both:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        heard = [process.communicate()[0].split() for process in both]
    assert heard[0] == heard[1]
    assert len(set(heard[0])) == 4
    assert len(server.asked) == 4


def judges(url: str, *paths: Path) -> list[ChatServer]:
    """Teachers of one process, each with the answers at a path."""
    waiting = Waiting("teacher 'judge'", url, Patience(20.0, 20.0))
    return [ChatServer.of(waiting, "tiny", Ledger("judge"), Answers(path)) for path in paths]


def test_two_teachers_of_a_run_pay_once_and_hear_the_same(tmp_path: Path) -> None:
    counted = itertools.count()

    def never_the_same(_: object) -> dict[str, object]:
        time.sleep(0.2)
        return said(str(next(counted)))

    (tmp_path / "link").symlink_to(tmp_path)
    with talking(never_the_same) as server, ThreadPoolExecutor(8) as threads:
        both = judges(server.base, tmp_path / "a.sqlite", tmp_path / "link" / "a.sqlite")
        bodies = [{"messages": [{"role": "user", "content": str(i)}]} for i in range(4)]
        heard = [[threads.submit(one.ask, body) for body in bodies] for one in both]
        first, second = ([one.result().content for one in some] for some in heard)
    assert first == second
    assert len(set(first)) == len(server.asked) == 4
    assert [one.ledger.spent.requests for one in both] != [4, 4]


def test_a_teacher_that_is_gone_gives_back_no_turn_of_another(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    mine, gone = Answers(path), Answers(path)
    with mine.turn("ab12", 0.0):
        with gone.turn("cd34", 0.0):
            pass
        del gone
        waits = begun(WAITS, str(path))
        assert waits.communicate()[0] == "waited\n"


def test_a_turn_is_waited_for_and_ends_with_its_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.sqlite"
    other, answers = begun(HOLDS, str(path)), Answers(path)
    with answers.turn("cd34", 0.0):  # another question
        assert not caplog.text
    with caplog.at_level(logging.WARNING), answers.turn("ab12", 0.2):
        assert "another process has asked the same for long, and is not waited for" in caplog.text
    caplog.clear()
    other.kill()
    other.wait()
    for _ in range(2):
        with answers.turn("ab12", 0.0):
            assert not caplog.text


def test_where_no_turn_can_be_kept_nothing_is_asked(tmp_path: Path) -> None:
    (tmp_path / "no folder").touch()
    with (
        pytest.raises(TeacherError, match=r"a\.sqlite cannot be written: .*; make room"),
        Answers(tmp_path / "no folder" / "a.sqlite").turn("ab12", 0.0),
    ):
        pytest.fail("it was asked")
