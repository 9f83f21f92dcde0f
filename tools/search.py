"""Full-text search over pages, for models: search and open. The ranking is BM25 (Robertson and Zaragoza 2009) by ``bm25s``."""

import logging
import re
from collections.abc import Mapping
from typing import Any
from unicodedata import normalize

import numpy as np
from gymnasium.error import DependencyNotInstalled

from agentopd.errors import ConfigError, ToolError
from agentopd.tooling import brief, cut, tool

MAX_QUERY = 200
DECIMALS = 4
"""Scores that agree so far are taken for the same, and then the page that was given first comes first: rounding elsewhere changes nothing.
Of scores below 1, as those of a word that most pages have, these are decimals of the best one's."""

_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
"""The signs of Chinese and Japanese, which put no spaces between words: each counts as a word."""
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+")


class Library:
    """Tools to search pages and to open one: ``ToolSet.of(Library({"Ceramics": "Pots are ..."}))``.

    Words are compared without case and in Unicode's compatibility form (NFKC); nothing else is done to them. Of Chinese and Japanese each
    sign is a word. The words of a title count as part of the page. A page is opened by its
    title as it is, or else by one that differs in case, white space and form alone, of several the first.

    Args:
        pages: Texts by title.
        results: How many a search gives at most.
        snippet: Characters of a page that a result shows, around the first word that was found.
        shown: Characters of an opened page; the rest is cut off, which is said.

    Raises:
        DependencyNotInstalled: ``bm25s`` is missing.
    """

    def __init__(
        self, pages: Mapping[str, str] | None = None, *, results: int = 5, snippet: int = 80, shown: int = 4000
    ):
        for name, limit in {"results": results, "snippet": snippet, "shown": shown}.items():
            if limit < 1:
                raise ConfigError(f"{name}={limit} must be at least 1")
        self.results, self.snippet, self.shown = results, snippet, shown
        self._bm25s = _bm25s()
        self.fill(pages or {})

    def fill(self, pages: Mapping[str, str]) -> None:
        """Goes on with other pages, as if made anew."""
        self.pages = dict(pages)
        self.asked: set[str] = set()
        """Queries that were searched for."""
        self.opened: set[str] = set()
        """Titles of pages that were opened."""
        self._titles: dict[str, str] = {}
        for title in self.pages:
            self._titles.setdefault(_plain(title), title)
        words = [_words(f"{title} {text}") for title, text in self.pages.items()]
        self._ids = {word: number for number, word in enumerate(sorted({word for page in words for word in page}))}
        self._index: Any = None
        if self._ids:
            # No set of words goes in: its order, and with it that of a sum of scores, changes from process to process.
            self._index = self._bm25s.BM25(backend="numpy", csc_backend="numpy")
            numbers = [[self._ids[word] for word in page] for page in words]
            self._index.index((numbers, dict(self._ids)), create_empty_token=False, show_progress=False)

    @tool
    def search(self, query: str) -> str:
        """Search the pages.

        Args:
            query: Words.
        """
        if len(query) > MAX_QUERY:
            raise ToolError(f"the query is longer than {MAX_QUERY} characters")
        words = set(_words(query))
        titles = self._ranked(sorted(words & self._ids.keys()))
        self.asked.add(query)
        return "\n".join(f"{title}: {self._snippet(self.pages[title], words)}" for title in titles) or "Nothing found."

    @tool(max_characters=None)
    def open(self, title: str) -> str:
        """Open a page.

        Args:
            title: Its title, as a search shows it.
        """
        there = title if title in self.pages else self._titles.get(_plain(title))  # US is not Us where both are there
        if there is None:
            raise ToolError(f"no page is called {brief(repr(title), 60)}; search for it")
        self.opened.add(there)
        return cut(self.pages[there], self.shown)

    def _ranked(self, words: list[str]) -> list[str]:
        if not words:
            return []
        scores = self._index.get_scores([self._ids[word] for word in words])
        rounded = np.round(scores / min(1.0, scores.max()), DECIMALS)
        best = np.argsort(-rounded, kind="stable")[: self.results]
        titles = list(self.pages)
        return [titles[number] for number in best if scores[number] > 0]

    def _snippet(self, text: str, words: set[str]) -> str:
        line = normalize("NFC", " ".join(text.split()))
        first = next((match.start() for match in _WORD.finditer(line) if words.intersection(_words(match[0]))), 0)
        start = max(0, min(first, len(line) - self.snippet))
        end = start + self.snippet
        return f"{'...' if start else ''}{line[start:end]}{'...' if end < len(line) else ''}"


def _plain(title: str) -> str:
    return " ".join(normalize("NFKC", title).split()).casefold()


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(normalize("NFKC", text))]


def _bm25s() -> Any:
    try:
        import bm25s
    except ImportError as error:
        raise DependencyNotInstalled("bm25s is not installed; run pip install bm25s") from error
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it logs each index, below the level that a program asks for
    return bm25s
