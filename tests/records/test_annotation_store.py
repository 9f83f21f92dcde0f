"""What teachers said, kept by what decides it."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import record_cases as cases
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd.errors import ConfigError, RecordError
from agentopd.records.decoding import from_bytes
from agentopd.records.encoding import to_bytes
from agentopd.records.store import Store
from agentopd.types import Annotation, Dense, Sparse

with_turns = st.integers(0, 3).flatmap(cases.annotations)


def of(seed: int) -> Annotation:
    return Annotation(
        "judge",
        segment_N=np.zeros(2, np.int32),
        index_N=np.arange(2, dtype=np.int32),
        block=Sparse(np.full((2, 1), seed, np.int32), np.zeros((2, 1), np.float32), np.zeros(2, np.float32)),
        taken_logprob_N=np.full(2, -seed, np.float32),
        entropy_N=np.zeros(2, np.float32),
        reward_S=np.full(1, np.nan, np.float32),
        skip_S=np.zeros(1, np.bool_),
    )


@given(with_turns)
@settings(max_examples=40)
def test_an_annotation_alone_is_read_back_equal(annotation: Annotation) -> None:
    assert from_bytes(to_bytes(annotation)) == annotation


def test_what_is_put_is_found_by_the_next_process(tmp_path: Path) -> None:
    first = Store(tmp_path / "new" / "said.sqlite")
    first.put({"a": of(1), "b": of(2)})
    first.put({"a": of(3)})  # what is there already stays
    first.put({})
    second = Store(first.path)
    assert len(second) == 2
    assert [second.get(key) for key in "abc"] == [of(1), of(2), None]
    first.close()


def test_many_threads_lose_nothing(tmp_path: Path) -> None:
    stores = [Store(tmp_path / "said.sqlite") for _ in range(3)]
    threads = [
        threading.Thread(target=lambda one=store, n=n: [one.put({f"{n}/{i}": of(i)}) for i in range(10)])
        for n, store in enumerate([*stores, *stores])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores[0]) == 60
    assert stores[1].get("4/7") == of(7)


def test_nothing_is_kept_of_what_cannot_be_kept_as_a_whole(tmp_path: Path) -> None:
    store = Store(tmp_path / "said.sqlite")
    with pytest.raises(RecordError, match="dense block"):
        store.put({"a": of(1), "b": replace(of(1), block=Dense(torch.zeros(0, 4), "judge"))})
    assert len(store) == 0


def test_whoever_answers_nearly_the_same_is_the_same(tmp_path: Path) -> None:
    store = Store(tmp_path / "said.sqlite")
    first = store.known("a", [-1.0, -2.0], 1e-3)
    assert store.known("a", [-1.0009, -1.9991], 1e-3) == first
    assert Store(store.path).known("a", [-1.0, -2.0], 1e-3) == first
    others = [
        store.known("a", [-1.002, -2.0], 1e-3),
        store.known("b", [-1.0, -2.0], 1e-3),
        store.known("a", [-1.0], 1e-3),
    ]
    assert len({first, *others}) == 4
    assert store.known("a", [float("nan")], 1e-3) not in {first, *others}


def test_a_file_that_is_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "said.sqlite").write_bytes(b"no database at all, and long enough to be looked at" * 40)
    with pytest.raises(RecordError, match=r"said\.sqlite: file is not a database; .*delete it"):
        Store(tmp_path / "said.sqlite")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^cache: .* cannot be written: .*; choose another folder$"):
        Store(tmp_path / "file" / "said.sqlite")
