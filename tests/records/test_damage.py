"""Damaged files: each is named with the place, the rest is read, and nothing wrong is ever returned."""

import contextlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from record_cases import plain_record

from agentopd import records
from agentopd.errors import RecordError
from agentopd.records import RecordWriter, groups
from agentopd.types import Record

EACH = 6


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three steps, each of three row groups of two records."""
    monkeypatch.setattr(groups, "RECORDS_AT_MOST", 2)
    writer = RecordWriter(tmp_path)
    for step in range(3):
        writer.write(step, _step(step))
    return tmp_path


def _step(step: int) -> list[Record]:
    return [plain_record(step, i, tokens=120) for i in range(EACH)]


def _second(folder: Path) -> Path:
    return folder / "records" / "step-000001.parquet"


def _flipped(path: Path, place: int) -> bytes:
    """Flips a byte, and returns what the file held."""
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
    return whole


def _inside(path: Path, group: int) -> int:
    """A place among the tokens of a row group."""
    columns = pq.ParquetFile(path).metadata.row_group(group)
    held = [columns.column(i) for i in range(columns.num_columns)]
    (tokens,) = (one for one in held if one.path_in_schema == "segments.list.element.tokens_T.list.element")
    return int(tokens.data_page_offset) + int(tokens.total_compressed_size) - 3


def test_a_damaged_row_group_is_named_with_its_place(filled: Path) -> None:
    path = _second(filled)
    begin = pq.ParquetFile(path).metadata.row_group(1).column(0)
    first = begin.dictionary_page_offset or begin.data_page_offset
    _flipped(path, _inside(path, 1))
    opened = records.open(filled)
    seen: list[Record] = []
    said = rf"step-000001\.parquet, row group 1, which begins at byte {first} and holds episodes 2 to 3: .*damaged: restore it"
    with pytest.raises(RecordError, match=said):
        seen.extend(opened.step(1))
    assert opened["run/2/1/0"] == _step(2)[1]
    assert opened["run/1/5/0"] == _step(1)[5]
    with pytest.raises(RecordError, match=r"step-000001\.parquet.*damaged"):
        opened["run/1/2/0"]
    assert len(opened) == 3 * EACH


def test_what_is_damaged_can_be_left_out_and_is_listed(filled: Path) -> None:
    path = _second(filled)
    _flipped(path, _inside(path, 1))
    opened = records.open(filled, skip_damaged=True)
    wanted = [*_step(0), *_step(1)[:2], *_step(1)[4:], *_step(2)]
    assert not opened.damaged
    for _ in range(2):
        assert list(opened) == wanted
        (damage,) = opened.damaged
        assert "row group 1" in damage
        assert "episodes 2 to 3" in damage


def test_a_truncated_file_can_be_left_out(filled: Path) -> None:
    path = _second(filled)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(RecordError, match=r"step-000001\.parquet, its footer.*damaged"):
        len(records.open(filled))
    opened = records.open(filled, skip_damaged=True)
    assert list(opened) == [*_step(0), *_step(2)]
    assert len(opened) == len(opened.table()) == 2 * EACH
    (damage,) = opened.damaged
    assert f"{path}, its footer" in damage
    assert opened.steps == (0, 1, 2)
    assert opened["run/0/0/0"] == _step(0)[0]


def test_a_file_cut_at_any_length_is_named_and_the_rest_is_read(filled: Path) -> None:
    path = _second(filled)
    whole = path.read_bytes()
    for length in np.random.default_rng(0).integers(0, len(whole), 200):
        path.write_bytes(whole[:length])
        with pytest.raises(RecordError, match=r"step-000001\.parquet.*damaged"):
            list(records.open(filled).step(1))
        assert records.open(filled)["run/2/0/0"].trajectory.key.step == 2
    assert list(records.open(filled, skip_damaged=True)) == [*_step(0), *_step(2)]


def test_a_flipped_byte_never_gives_wrong_records(filled: Path) -> None:
    path, wanted, found = _second(filled), _step(1), 0
    for place in np.random.default_rng(1).integers(0, path.stat().st_size, 200):
        whole = _flipped(path, int(place))
        # a byte outside any page may be padding or a statistic that nothing reads: then all is still right
        left: list[Record] = []
        said = ""
        try:
            left += records.open(filled).step(1)
        except RecordError as error:
            said = str(error)
        assert left == wanted[: len(left)]
        assert "step-000001.parquet" in said or (left == wanted and not said)
        found += bool(said)
        with contextlib.suppress(RecordError):
            left = [one for one in records.open(filled, skip_damaged=True) if one.trajectory.key.step == 1]
            assert all(one in wanted for one in left)
        path.write_bytes(whole)
    assert found > 100


def test_damaged_signals_leave_the_episodes(filled: Path) -> None:
    key = str(_step(1)[0].trajectory.key)
    columns = {"trajectory": np.array([key] * 40), "segment": np.zeros(40, int), "index": np.arange(40)}
    RecordWriter(filled).write_signals(1, columns | {"loss/divergence": np.linspace(0, 1, 40)})
    path = filled / "records" / "step-000001.signals.parquet"
    assert "loss/divergence" in records.open(filled).tokens(key)
    _flipped(path, path.stat().st_size // 4)
    with pytest.raises(RecordError, match="signals"):
        records.open(filled).tokens(key)
    rest = records.open(filled, skip_damaged=True)
    assert "loss/divergence" not in rest.tokens(key)
    assert rest.signals_if_any(1) is None
    assert rest.signals_if_any(0) is None
    [damage] = rest.damaged
    assert str(path) in damage
    assert len(list(rest)) == 3 * EACH
    with pytest.raises(RecordError, match="signals"):
        rest.signals(1)
