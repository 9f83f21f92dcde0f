import json
import threading
import time

from agentopd.isolation.threads import Isolated
from agentopd.types import Failure


def raise_error() -> int:
    raise ValueError("boom")


def raise_timeout() -> int:
    raise TimeoutError("the remote side")


def raise_misnamed() -> int:
    raise OSError("no 'r\udce9sum\udce9.txt'")  # how Python reads a name that is not UTF-8


def leave() -> int:
    raise SystemExit(3)


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message")


def raise_unreadable() -> int:
    raise UnreadableError


def raise_in_a_library() -> int:
    return int(json.loads("four"))


def test_calls_run_in_one_thread_of_their_own() -> None:
    thread: Isolated[int] = Isolated(time_limit=5.0)
    names = []
    for _ in range(3):
        thread.submit("step", threading.get_ident)
        names.append(thread.result())
    assert len(set(names)) == 1
    assert names[0] != threading.get_ident()


def test_what_a_call_raises_is_a_failure_and_the_thread_lives_on() -> None:
    thread: Isolated[int] = Isolated(time_limit=5.0)
    for job, message in [
        (raise_error, "ValueError: boom"),
        (raise_timeout, "TimeoutError: the remote side"),
        (leave, "SystemExit: 3"),
        (raise_in_a_library, "JSONDecodeError: Expecting value: line 1 column 1 (char 0)"),
        (raise_unreadable, "UnreadableError"),
        (raise_misnamed, r"OSError: no 'r\udce9sum\udce9.txt'"),
    ]:
        thread.submit("step", job)
        failure = thread.result()
        assert isinstance(failure, Failure)
        assert (failure.boundary, failure.kind) == ("env", "raised")
        assert failure.message.startswith(f"{message} (test_isolated.py, line ")
    thread.submit("step", lambda: 4)
    assert thread.result() == 4


def test_a_call_that_hangs_is_left_behind_and_closed_when_it_returns() -> None:
    release, closed = threading.Event(), threading.Event()
    thread: Isolated[bool] = Isolated(time_limit=0.05)
    begin = time.monotonic()
    thread.submit("step", release.wait)
    assert thread.result() == Failure("env", "timeout", "step took longer than time_limit=0.05 s")
    assert time.monotonic() - begin < 2.0
    thread.close(closed.set)
    assert not closed.is_set()
    release.set()
    assert closed.wait(timeout=5.0)


def test_calls_of_several_environments_run_at_the_same_time() -> None:
    barrier = threading.Barrier(3)
    threads: list[Isolated[int]] = [Isolated(time_limit=5.0) for _ in range(3)]
    for thread in threads:
        thread.submit("step", barrier.wait)
    assert sorted(map(str, (thread.result() for thread in threads))) == ["0", "1", "2"]
