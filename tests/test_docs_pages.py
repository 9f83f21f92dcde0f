"""README.md and docs/: the index lists every page once, and no link or mention leads nowhere."""

import re
from pathlib import Path

import pytest
from page_cases import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


def links(text: str) -> list[tuple[str, str]]:
    """What a text links to within the repository: file and heading."""
    found = re.findall(r"\]\(([\w./-]+\.\w+)(?:#([^)]*))?\)", text)
    return [(target, heading) for target, heading in found if "://" not in target]


def linked(path: Path) -> list[str]:
    """The files that a page links to."""
    return [target for target, _ in links(path.read_text(encoding="utf-8"))]


def headings(path: Path) -> set[str]:
    """The headings of a page, as links name them."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_index_lists_every_page_once_and_the_readme_leads_to_it() -> None:
    pages, _, _ = (DOCS / "index.md").read_text(encoding="utf-8").partition("## By the words")
    listed = [target for target, _ in links(pages) if not target.startswith("../")]
    assert sorted(listed) == sorted(path.name for path in DOCS.glob("*.md") if path.name != "index.md")
    assert {"docs/index.md", "docs/tutorial.md", "docs/evidence.md"} <= {*linked(ROOT / "README.md")}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_and_mentions_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [target for target in linked(path) if not (path.parent / target).exists()] == []
    placed = [(target, heading) for target, heading in links(text) if heading]
    assert [place for place in placed if place[1] not in headings(path.parent / place[0])] == []
    assert [page for page in re.findall(r"`(docs/[\w-]+\.md)`", text) if not (ROOT / page).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_benchmarks_that_are_named_are_there(path: Path) -> None:
    named = re.findall(r"python -m benchmarks\.([a-z]\w*)", path.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / "benchmarks" / f"{name}.py").exists()] == []
