"""README.md and docs/: the index lists every page once, and no link or mention leads nowhere."""

import re
from pathlib import Path

import pytest
from page_cases import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


def linked(path: Path) -> list[str]:
    """What a page links to within the repository, each without its place in the page."""
    targets = re.findall(r"\]\(([\w./-]+\.\w+)[^)]*\)", path.read_text(encoding="utf-8"))
    return [target for target in targets if "://" not in target]


def test_the_index_lists_every_page_once_and_the_readme_leads_to_it() -> None:
    listed = [target for target in linked(DOCS / "index.md") if not target.startswith("../")]
    assert sorted(listed) == sorted(path.name for path in DOCS.glob("*.md") if path.name != "index.md")
    assert {"docs/index.md", "docs/tutorial.md", "docs/evidence.md"} <= {*linked(ROOT / "README.md")}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_and_mentions_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [target for target in linked(path) if not (path.parent / target).exists()] == []
    assert [page for page in re.findall(r"`(docs/[\w-]+\.md)`", text) if not (ROOT / page).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_benchmarks_that_are_named_are_there(path: Path) -> None:
    named = re.findall(r"python -m benchmarks\.([a-z]\w*)", path.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / "benchmarks" / f"{name}.py").exists()] == []
