"""The trace of a run: spans by thread, joined where they follow each other, in a file that trace viewers read."""

import json
import threading
import time
from pathlib import Path

import pytest

from agentopd.profiling import GAP, Profile, lasted, profiled, span


def spans(path: Path) -> list[dict[str, object]]:
    return [one for one in json.loads(path.read_text()) if one["ph"] == "X"]


def test_spans_of_each_thread_are_written(tmp_path: Path) -> None:
    def work() -> None:
        with span("elsewhere"):
            time.sleep(0.01)

    with profiled(tmp_path / "run" / "profile.json"):
        thread = threading.Thread(target=work, name="worker")
        with span("here"):
            thread.start()
            thread.join()
        lasted("env", "3", 0.5)
    found = {str(one["name"]): one for one in spans(tmp_path / "run" / "profile.json")}
    assert found.keys() == {"here", "elsewhere"}
    assert found["here"]["tid"] != found["elsewhere"]["tid"]
    assert 1e4 <= float(str(found["elsewhere"]["dur"])) <= float(str(found["here"]["dur"]))
    events = json.loads((tmp_path / "run" / "profile.json").read_text())
    assert {one["args"]["name"] for one in events if one["ph"] == "M"} >= {"worker", "environments"}
    begin, end = (next(one["ts"] for one in events if one["ph"] == kind) for kind in "be")
    assert end - begin == pytest.approx(0.5e6)


def test_spans_that_follow_each_other_are_one(tmp_path: Path) -> None:
    profile = Profile(tmp_path / "one.json")
    zero = time.perf_counter()
    for begin, end in ((0.0, 0.1), (0.1 + GAP / 2, 0.2), (0.2 + 2 * GAP, 0.3), (0.301, 0.9)):
        profile.add("token", zero + begin, zero + end)
    profile.close()
    lengths = [float(str(one["dur"])) for one in spans(tmp_path / "one.json")]
    assert lengths == pytest.approx([0.2e6, 0.096e6, 0.599e6], rel=1e-3)


def test_nothing_is_written_without_a_profile(tmp_path: Path) -> None:
    with profiled(None), span("here"):
        lasted("env", "0", 1.0)
    assert not [*tmp_path.iterdir()]


def test_a_file_of_a_killed_run_lacks_only_its_end(tmp_path: Path) -> None:
    profile = Profile(tmp_path / "one.json")
    for i in range(1200):
        profile.add(str(i), float(i), i + 0.5)
    text = (tmp_path / "one.json").read_text().rstrip().rstrip(",")
    assert len(json.loads(text + "]")) >= 1000
