"""Tables of README.md and docs/: each is what its command prints of the stored results, and every result is told."""

import re
from pathlib import Path

import pytest
import torch

from benchmarks import pages

SLOW = {"benchmarks.uncertainty --table"}
"""Those whose intervals take seconds of resampling."""
EVIDENCE = (pages.ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
TABLES = [(path, command) for path in pages.pages() for command in pages.commands(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(
    ("path", "command"),
    [
        pytest.param(*one, id=f"{one[0].name}-{one[1].split()[0]}", marks=[pytest.mark.slow] * (one[1] in SLOW))
        for one in TABLES
    ],
)
def test_a_table_is_what_its_command_prints(path: Path, command: str) -> None:
    text, threads = path.read_text(encoding="utf-8"), torch.get_num_threads()
    assert pages.table(text, command) == pages.printed(command), "python -m benchmarks.pages"
    assert torch.get_num_threads() == threads


def test_every_result_is_told_with_its_table() -> None:
    stored = {path.stem for path in (pages.ROOT / "benchmarks" / "results").iterdir()}  # a file, or a folder of them
    assert {command.split()[0].removeprefix("benchmarks.") for command in pages.commands(EVIDENCE)} == stored


def test_every_mark_is_one() -> None:
    for path in pages.pages():
        text = path.read_text(encoding="utf-8")
        assert text.count("<!-- table:") == text.count("<!-- end of table -->") == len(pages.commands(text)), path


def test_links_within_the_evidence_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-")
        for one in re.findall(r"^## (.*)$", EVIDENCE, re.MULTILINE)
    }
    linked = set(re.findall(r"\]\(#(.*?)\)", EVIDENCE))
    assert len(linked) > 5
    assert linked <= headings


def test_a_page_is_filled_and_what_was_stale_is_named() -> None:
    page = "Before.\n<!-- table: python -m benchmarks.bfcl --table -->\nold\n<!-- end of table -->\nAfter.\n"
    assert [*pages.stale(page)] == ["benchmarks.bfcl --table"]
    filled = pages.filled(page)
    assert filled.startswith("Before.\n<!-- table: python -m benchmarks.bfcl --table -->\n| category |")
    assert filled.endswith("|\n<!-- end of table -->\nAfter.\n")
    assert [*pages.stale(filled)] == []
    assert pages.filled(filled) == filled


def test_a_page_asks_for_no_measurement() -> None:
    with pytest.raises(ValueError, match="add --table"):
        pages.filled("<!-- table: python -m benchmarks.bfcl -->\n<!-- end of table -->")
