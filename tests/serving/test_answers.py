"""Answers are found again, by other threads and other processes."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agentopd.errors import TeacherError
from agentopd.serving import Answers


def test_what_was_put_is_found_by_whoever_opens_the_file(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    key = Answers.key("http://here", {"model": "m", "messages": [{"content": "é\ud800"}]})
    kept = Answers(path)
    assert kept.get(key) is None
    assert not path.exists()
    kept.put(key, {"choices": ["é"]})
    assert Answers(path).get(key) == {"choices": ["é"]}
    assert Answers(path).get(Answers.key("http://there", {})) is None
    assert Answers().get(key) is None


def test_the_key_is_the_content_not_the_order() -> None:
    assert Answers.key("u", {"a": 1, "b": 2}) == Answers.key("u", {"b": 2, "a": 1})
    assert len({Answers.key("u", {"a": 1}), Answers.key("v", {"a": 1}), Answers.key("u", {"a": 2})}) == 3


def test_many_threads_write_at_once_into_two_connections(tmp_path: Path) -> None:
    both = [Answers(tmp_path / "a.sqlite") for _ in range(2)]
    threads = [threading.Thread(target=both[i % 2].put, args=(str(i), i)) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [Answers(tmp_path / "a.sqlite").get(str(i)) for i in range(40)] == [*range(40)]


def test_a_killed_process_leaves_what_it_had_put(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from agentopd.serving.answers import Answers\n"
        "Answers(Path(sys.argv[1])).put('k', 1); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.sqlite")], check=False)
    assert Answers(tmp_path / "a.sqlite").get("k") == 1


def test_a_file_that_is_none_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite").write_text("no database, and long enough to be looked at" * 99)
    with pytest.raises(TeacherError, match=r"a\.sqlite cannot be read: DatabaseError: .*move it away"):
        Answers(tmp_path / "a.sqlite").get("k")
