"""Where exports are written, and where imports are read: whole or not at all, and one error each."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import sharing_cases as cases

from agentopd import records
from agentopd.errors import RecordError
from agentopd.sharing import Wanted, Wish, export, files, take_in
from agentopd.sharing.formats import FORMATS, Row

PLACES = ["out.jsonl", "out.parquet", "out"]
ROW: Row = {"messages": [cases.said("What?"), cases.acting("So.")]}


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_cannot_be_made_is_one_error(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file" / "deep" / place, tmp_path / ("x" * 300) / place, tmp_path / ("y" * 300 + place)):
        with pytest.raises(RecordError, match=r"^cannot write .*; make room or choose another output$"):
            files.write([ROW], output, FORMATS["trl"])
    assert written(tmp_path) == ["file"]


@pytest.mark.parametrize("place", PLACES)
def test_a_failed_export_leaves_no_folders(place: str, tmp_path: Path) -> None:
    def broken() -> Iterator[Row]:
        yield ROW
        raise OSError(28, "No space left on device")

    for rows, said in (([], "nothing to export"), (broken(), "No space left on device")):
        with pytest.raises(RecordError, match=said):
            files.write(rows, tmp_path / "made" / "deep" / place, FORMATS["trl"])
        assert written(tmp_path) == []


@pytest.mark.parametrize("place", PLACES)
def test_two_exports_do_not_write_into_one_another(place: str, tmp_path: Path) -> None:
    """The second begins while the first is at it, and ends before it."""
    output, other = tmp_path / place, {"messages": [cases.said("Other?"), cases.acting("Other.")]}

    def rows() -> Iterator[Row]:
        yield ROW
        files.write([other], output, FORMATS["trl"])
        yield ROW

    with pytest.raises(RecordError, match="exists already; choose another output"):
        files.write(rows(), output, FORMATS["trl"])
    assert [row["messages"][0]["content"] for _, row in files.read(str(output)) if isinstance(row, dict)] == ["Other?"]
    assert [path.name for path in tmp_path.iterdir()] == [place]


@pytest.mark.parametrize("place", PLACES)
def test_what_a_killed_export_left_is_in_no_other(place: str, tmp_path: Path) -> None:
    for name in (f".{place}.part", f".{place}-killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data-00001-of-00002.arrow").write_bytes(b"old")
    assert files.write([ROW], tmp_path / place, FORMATS["trl"]) == 1
    assert [row for _, row in files.read(str(tmp_path / place))] == [ROW]
    assert not any("00002" in path for path in written(tmp_path) if path.startswith(place))


def saved(folder: Path) -> Path:
    cases.keep(folder / "run", cases.trajectory(cases.CASES["plain"]))
    export(records.open(folder / "run"), folder / "data", Wish("trl"))
    return folder / "data"


@pytest.mark.parametrize("damage", ["dataset_info.json", "state.json", "data-00000-of-00001.arrow", "absent"])
def test_a_damaged_data_set_is_one_error(damage: str, tmp_path: Path) -> None:
    folder = saved(tmp_path)
    if damage == "absent":
        (folder / "data-00000-of-00001.arrow").unlink()
    else:
        (folder / damage).write_bytes(b"{ and then nothing")
    with pytest.raises(
        RecordError, match=rf"^cannot read {folder}: .*; it is damaged, or no data set of save_to_disk$"
    ):
        take_in(str(folder), tmp_path / "again", Wanted(cases.chat()))
    assert not (tmp_path / "again").exists()


def test_a_data_set_for_each_split_is_one_error(tmp_path: Path) -> None:
    one = datasets.load_from_disk(str(saved(tmp_path)))
    datasets.DatasetDict({"train": one, "test": one}).save_to_disk(str(tmp_path / "both"))
    said = rf"^{tmp_path}/both holds a data set for each split \(test, train\); give the folder of one$"
    with pytest.raises(RecordError, match=said):
        take_in(str(tmp_path / "both"), tmp_path / "again", Wanted(cases.chat()))
    assert take_in(str(tmp_path / "both" / "train"), tmp_path / "again", Wanted(cases.chat())).episodes == 1


def test_a_network_that_breaks_while_streaming_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub is reached: ``load_dataset`` gives a stream of ``datasets`` that breaks behind its first rows."""

    def rows() -> Iterator[dict[str, Any]]:
        yield from [ROW] * 300
        raise ConnectionError("connection reset by peer")

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.IterableDataset.from_generator(rows))
    said = (
        "^cannot read hf:me/first: ConnectionError: connection reset by peer; check the network, the name and the split"
    )
    with pytest.raises(RecordError, match=said):
        take_in("hf:me/first", tmp_path / "again", Wanted(cases.chat()))
    assert not (tmp_path / "again").exists()
