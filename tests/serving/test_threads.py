"""Threads that do what they are given, and end."""

import gc
import subprocess
import sys
import threading
import time

import pytest

from agentopd.serving import Threads


def test_results_and_errors_come_back() -> None:
    threads = Threads(2)
    assert [threads.begin(pow, 2, n).result() for n in range(5)] == [1, 2, 4, 8, 16]
    with pytest.raises(ZeroDivisionError):
        threads.begin(divmod, 1, 0).result()
    assert threads.begin(int, "7", base=8).result() == 7


def test_what_is_cancelled_is_not_done() -> None:
    threads, gate, done = Threads(1), threading.Event(), list[int]()
    first = threads.begin(gate.wait, 5.0)
    second, third = threads.begin(done.append, 2), threads.begin(done.append, 3)
    assert second.cancel()
    gate.set()
    assert first.result()
    third.result()
    assert done == [3]


def test_so_many_work_at_once_and_they_end_with_their_owner() -> None:
    before = set(threading.enumerate())
    threads, gate = Threads(3), threading.Barrier(3)
    assert sorted(one.result() for one in [threads.begin(gate.wait, 5.0) for _ in range(3)]) == [0, 1, 2]
    own = set(threading.enumerate()) - before
    assert len(own) == 3
    assert all(one.daemon for one in own)
    del threads
    gc.collect()
    for one in own:
        one.join(5.0)
        assert not one.is_alive()


def test_who_leaves_waits_for_nobody_and_says_nothing() -> None:
    script = "import time; from agentopd.serving.threads import Threads; kept = Threads(4); kept.begin(time.sleep, 60.0); time.sleep(0.2)"
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert time.monotonic() - begin < 30.0
