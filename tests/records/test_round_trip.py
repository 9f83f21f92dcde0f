"""What is written is read back equal, or refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import record_cases as cases
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentopd import records
from agentopd.errors import RecordError
from agentopd.records.encoding import to_table
from agentopd.records.plain import escape, from_json, to_json, unescape
from agentopd.records.schema import SCHEMA
from agentopd.types import CallOutcome, Dense, Key, Record, Sparse, ToolCall

LOOP: list[object] = []
LOOP.append(LOOP)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_invariant_7_a_record_read_back_equals_the_one_written(data: st.DataObject) -> None:
    run = data.draw(cases.NAME, "run")
    written = [data.draw(cases.records(Key(run, 3, i)), "record") for i in range(data.draw(st.integers(0, 3), "count"))]
    with TemporaryDirectory() as folder:
        records.RecordWriter(folder).write(3, written)
        read = records.open(folder)
        assert list(read) == written
        assert len(read) == len(written)
        for record in written:
            assert read[record.trajectory.key] == read[str(record.trajectory.key)] == record


def test_equality_sees_every_kind_of_difference(tmp_path: Path) -> None:
    record = cases.plain_record(0, 0)
    annotation = record.annotations[0]
    statistics = {"margin": annotation.taken_logprob_N}
    record = replace(record, annotations=(replace(annotation, statistics=statistics),))
    records.RecordWriter(tmp_path).write(0, [record])
    (read,) = records.open(tmp_path)
    assert read == record
    read.annotations[0].statistics["margin"][0] += 1
    assert read != record


def _holding(facts: dict[str, object]) -> Record:
    plain = cases.plain_record(0, 0).trajectory
    turn = replace(plain.turns[0], calls=(ToolCall("add", facts),))
    return Record(replace(plain, turns=(turn,), privileged=facts, task=replace(plain.task, kwargs=facts)))


@given(cases.MAPPING)
def test_free_form_data_equals_what_is_read_back(facts: dict[str, object]) -> None:
    assert _holding(facts) == _holding(from_json(to_json(facts, "facts")))


@pytest.mark.parametrize("around", [lambda x: x, lambda x: [x], lambda x: (1, x), lambda x: {"a": [x], 3: None}])
@pytest.mark.parametrize("where", ["privileged", "turns", "task"])
def test_nan_equals_nan_wherever_it_stands_and_nothing_else(where: str, around: Callable[[float], object]) -> None:
    def record(value: float) -> Record:
        there = getattr(_holding({"x": around(value)}).trajectory, where)
        return Record(replace(cases.plain_record(0, 0).trajectory, **{where: there}))

    assert record(float("nan")) == record(float("nan"))
    assert record(float("nan")) != record(0.5)
    assert record(0.5) != record(float("nan"))
    assert record(0.5) == record(0.5)


def test_arrays_read_back_can_be_written_to(tmp_path: Path) -> None:
    records.RecordWriter(tmp_path).write(0, [cases.plain_record(0, 0)])
    (read,) = records.open(tmp_path)
    read.trajectory.segments[0].tokens_T[0] = 5


def test_a_dense_block_is_refused_and_thin_named(tmp_path: Path) -> None:
    record = cases.plain_record(0, 0)
    dense = replace(record.annotations[0], block=Dense(torch.zeros(2, 3), "model"))
    writer = records.RecordWriter(tmp_path)
    with pytest.raises(RecordError, match=r"run/0/0/0.*'teacher'.*thin"):
        writer.write(0, [Record(record.trajectory, (dense,))])
    assert records.open(tmp_path).steps == ()


def test_a_field_that_types_call_otherwise_keeps_its_name_in_files() -> None:
    record = cases.plain_record(0, 0)
    (annotations,) = to_table([record])["annotations"].to_pylist()
    assert annotations[0]["taken_N"] == record.annotations[0].taken_logprob_N.tolist()


def test_an_array_of_another_type_is_refused(tmp_path: Path) -> None:
    record = cases.plain_record(0, 0)
    wide = replace(record.annotations[0], taken_logprob_N=np.zeros(2))  # type: ignore[arg-type]
    with pytest.raises(RecordError, match="taken_logprob_N is float64; make it float32"):
        records.RecordWriter(tmp_path).write(0, [Record(record.trajectory, (wide,))])


def test_a_sparse_block_of_odd_shapes_is_refused(tmp_path: Path) -> None:
    record = cases.plain_record(0, 0)
    odd = Sparse(np.zeros((2, 3), np.int32), np.zeros((2, 2), np.float32), np.zeros(2, np.float32))
    with pytest.raises(RecordError, match=r"\(2, 3\), \(2, 2\)"):
        records.RecordWriter(tmp_path).write(
            0, [Record(record.trajectory, (replace(record.annotations[0], block=odd),))]
        )


def without(kind: pa.DataType, name: str) -> pa.DataType:
    """A type without the fields of that name, at any depth."""
    if pa.types.is_list(kind):
        return pa.list_(without(kind.value_type, name))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, without(f.type, name)) for f in kind if f.name != name])
    return kind


def beside_an_older_file(path: Path, record: Record, later: Record, lacking: str) -> records.Records:
    """What reads two records, the first from a file that lacks a nested field."""
    older = pa.schema([pa.field(f.name, without(f.type, lacking)) for f in SCHEMA], metadata=SCHEMA.metadata)
    table = pa.Table.from_pylist(to_table([record]).to_pylist(), schema=older)
    records.RecordWriter(path).write(1, [later])
    pq.write_table(table, path / "records" / "step-000000.parquet", write_page_checksum=True)
    return records.open(path)


def test_a_sparse_block_of_before_it_was_said_whose_ids_it_holds_is_the_teachers(tmp_path: Path) -> None:
    said = Sparse(np.zeros((2, 3), np.int32), np.zeros((2, 3), np.float32), np.zeros(2, np.float32))
    plain = [cases.plain_record(step, 0) for step in (0, 1)]
    record, later = (replace(one, annotations=(replace(one.annotations[0], block=said),)) for one in plain)
    opened = beside_an_older_file(tmp_path, record, later, "of")
    assert list(opened) == [record, later]
    assert len(opened.table(["key", "annotations"])) == 2


def test_a_turn_of_before_calls_were_recorded_has_no_outcomes(tmp_path: Path) -> None:
    record, plain = (cases.plain_record(step, 0) for step in (0, 1))
    turn = replace(plain.trajectory.turns[0], outcomes=(CallOutcome("add", "tool_error", 0.5, True),))
    later = replace(plain, trajectory=replace(plain.trajectory, turns=(turn,)))
    opened = beside_an_older_file(tmp_path, record, later, "outcomes")
    assert list(opened) == [record, later]
    assert opened["run/0/0/0"].trajectory.turns[0].outcomes == ()
    assert len(opened.table(["key", "turn_S"])) == 2


def test_what_is_not_plain_data_is_refused_by_name(tmp_path: Path) -> None:
    record = cases.plain_record(0, 0)
    odd = replace(record.trajectory, privileged={"answer": {3}})
    with pytest.raises(RecordError, match=r"run/0/0/0: privileged holds a set"):
        records.RecordWriter(tmp_path).write(0, [Record(odd)])


@pytest.mark.parametrize(("facts", "reason"), [([10**5000], "integer string"), (LOOP, "recursion")])
def test_what_json_cannot_write_is_refused_by_name(tmp_path: Path, facts: object, reason: str) -> None:
    odd = replace(cases.plain_record(0, 0).trajectory, privileged={"answer": facts})
    with pytest.raises(RecordError, match=f"run/0/0/0: privileged cannot be written: .*{reason}"):
        records.RecordWriter(tmp_path).write(0, [Record(odd)])


def test_a_number_too_large_for_its_column_is_refused(tmp_path: Path) -> None:
    record = cases.plain_record(0, 0)
    odd = replace(record.trajectory, task=replace(record.trajectory.task, seed=2**64))
    with pytest.raises(RecordError, match="run/0/0/0"):
        records.RecordWriter(tmp_path).write(0, [Record(odd)])


@given(cases.TEXT)
def test_escaped_text_is_valid_and_comes_back(text: str) -> None:
    assert unescape(escape(text)) == text
    escape(text).encode("utf-8")


def test_ordinary_text_is_not_changed() -> None:
    assert escape("größer 🙂 \n") == "größer 🙂 \n"
    assert escape("\ud800") == "\0d800"


@given(cases.PLAIN)
def test_plain_values_come_back_with_their_types(value: object) -> None:
    read = from_json(to_json(value, "value"))
    assert repr(read) == repr(value)  # says more than ==: True is not 1, and nan is nan
