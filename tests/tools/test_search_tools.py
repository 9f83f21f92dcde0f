"""Search over pages: the ranking is BM25, the same in every process, and no query breaks it."""

import math
import os
import subprocess
import sys

import pytest
from gymnasium.error import DependencyNotInstalled
from hypothesis import given
from hypothesis import strategies as st

from agentopd.errors import ConfigError, ToolError
from agentopd.tooling import ToolSet
from agentopd.tools.search import Library
from agentopd.types import ToolCall

PAGES = {
    "Pots": "Clay is turned, dried and fired. A glaze makes pots tight.",
    "Glass": "Sand is molten and blown.",
    "Kilns": "A kiln fires clay, and a kiln melts sand for glass.",
}


def bm25(query: str, pages: dict[str, str], k1: float = 1.5, b: float = 0.75) -> dict[str, float]:
    """The formula of Lucene, in float64: idf * tf / (tf + k1 * (1 - b + b * length / mean length))."""
    words = {
        title: f"{title} {text}".lower().replace(".", "").replace(",", "").split() for title, text in pages.items()
    }
    mean = sum(map(len, words.values())) / len(words)
    scores = dict.fromkeys(pages, 0.0)
    for word in set(query.lower().split()):
        having = sum(word in page for page in words.values())
        idf = math.log(1 + (len(words) - having + 0.5) / (having + 0.5))
        for title, page in words.items():
            tf = page.count(word)
            scores[title] += idf * tf / (tf + k1 * (1 - b + b * len(page) / mean))
    return scores


@pytest.mark.parametrize("query", ["clay", "glass sand", "kiln", "clay kiln sand", "pots glaze glass", "is a"])
def test_the_ranking_is_that_of_the_formula(query: str) -> None:
    library = Library(PAGES)
    scores = bm25(query, PAGES)
    best = sorted((title for title in PAGES if scores[title] > 0), key=lambda title: -scores[title])
    found = library._ranked(sorted(set(query.split())))
    assert found == best
    numbers = [library._ids[word] for word in sorted(set(query.split())) if word in library._ids]
    assert library._index.get_scores(numbers).tolist() == pytest.approx(list(scores.values()), rel=1e-5)


def test_titles_that_differ_in_case_or_white_space_alone_are_pages_of_their_own() -> None:
    pages = {"Us": "A film.", "US": "A country.", "A  B": "Two spaces.", " C\nD ": "A line.", "A B": "One space."}
    library = Library(pages)
    assert [library.open(title) for title in pages] == list(pages.values())
    assert library.opened == set(pages)
    assert library.open("us") == "A film."
    assert library.open("c d") == "A line."
    library.fill({"US": "Us."})
    assert library.open("Us") == "Us."


def test_results_have_titles_and_snippets() -> None:
    library = Library(PAGES, snippet=20)
    assert library.search("GLAZE") == "Pots: ...glaze makes pots tig..."
    assert library.search("kilns tight").splitlines() == [
        "Pots: ...ze makes pots tight.",
        "Kilns: A kiln fires clay, a...",
    ]
    assert library.asked == {"GLAZE", "kilns tight"}
    assert library.search("iron") == library.search("") == library.search("?!") == "Nothing found."
    assert library.open(" gLASS ") == "Sand is molten and blown."
    assert library.opened == {"Glass"}
    with pytest.raises(ToolError, match="no page is called 'Iron'; search for it"):
        library.open("Iron")
    library.fill({"Iron": "x" * 5000})
    assert (library.asked, library.opened) == (set(), set())
    assert library.open("iron") == "x" * 4000 + "… [cut: 4000 of 5000 characters]"


def test_pages_that_score_the_same_keep_their_order() -> None:
    titles = [f"page{number}" for number in (3, 1, 2, 9, 5, 7, 8, 4)]
    library = Library(dict.fromkeys(titles, "the same words"), results=4)
    assert [line.partition(":")[0] for line in library.search("same words").splitlines()] == titles[:4]
    assert library.search("words same") == library.search("same words words")


def test_a_word_of_all_pages_is_found_where_there_are_many() -> None:
    pages = {f"Page {n}": "Widget " * (1 + n % 3) + f"one two three four five six seven{n}" for n in range(20_000)}
    library = Library(pages, results=2)
    assert [line.partition(":")[0] for line in library.search("widget").splitlines()] == ["Page 2", "Page 5"]


def test_other_scripts_and_forms_are_found() -> None:
    pages = {
        "\u5317\u4eac": "\u5317\u4eac\u662f\u4e2d\u56fd\u7684\u9996\u90fd\u3002",  # Beijing is the capital of China
        "\u30b3\u30fc\u30d2\u30fc": "\u7f8e\u5473\u3057\u3044\u30b3\u30fc\u30d2\u30fc",
        "Cafe\u0301": "Un cafe\u0301 a\u0300 Zu\u0308rich",  # letters and accents apart, as some systems write them
        "Wide": "\uff11\uff12\uff13",
    }
    library = Library(pages)
    found = {
        query: library.search(query).split(":")[0] for query in ("\u9996\u90fd", "\u30b3\u30fc", "Z\u00fcrich", "123")
    }
    assert list(found.values()) == list(pages)
    assert library.search("z\u00fcrich") == "Cafe\u0301: Un caf\u00e9 \u00e0 Z\u00fcrich"
    assert library.open("caf\u00e9") == pages["Cafe\u0301"]
    assert Library(pages, snippet=4).search("Z\u00fcrich").endswith("...Z\u00fcri...")


SCRIPT = """
from agentopd.env import expert_action, make
env = make("agentopd/Search-v0", size=8, results=8)
for seed in range(6):
    print(env.reset(seed=seed))
    for query in ("was born in the year", "person town company", "the river"):
        print(env.step('<tool_call>{"name": "search", "arguments": {"query": "%s"}}</tool_call>' % query))
    over = False
    while not over:
        action = expert_action(env)
        *said, over, _, info = env.step(action)
        print(action, said, info)
"""


def test_it_finds_the_same_in_every_process() -> None:
    told = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=os.environ | {"PYTHONHASHSEED": str(number)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for number in (1, 2)
    ]
    assert told[0] == told[1]
    assert told[0].count("Right.") >= 6


HOSTILE = [
    "\0",
    "\u202e",
    "\ud83d",
    "' OR 1=1",
    "*",
    "clay\n\n\tclay",
    "\u4e2d\u6587",
    "clay " * 40,
    "(" * 150,
    "\\w+",
    "-clay",
    "a" * 200,
]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_query_and_no_title_breaks_it(text: str) -> None:
    library = Library(PAGES)
    assert library.search(text)
    with pytest.raises(ToolError, match="no page is called"):
        library.open(text)


@given(st.text(max_size=60))
def test_any_query_is_answered(text: str) -> None:
    lines = Library(PAGES, results=2).search(text).splitlines()
    assert 1 <= len(lines) <= 2


def test_limits() -> None:
    tools = ToolSet.of(Library(PAGES))
    assert tools.names == ("search", "open")
    with pytest.raises(ToolError, match="longer than 200 characters"):
        tools.call(ToolCall("search", {"query": "clay " * 41}))
    for name in ("results", "snippet", "shown"):
        with pytest.raises(ConfigError, match=f"{name}=0 must be at least 1"):
            Library(PAGES, **{name: 0})


def test_pages_without_words() -> None:
    assert Library().search("clay") == "Nothing found."
    assert Library({"": "", "?": "!"}).search("clay") == "Nothing found."
    assert Library({"": "", "b": "clay"}).search("clay") == "b: clay"


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(DependencyNotInstalled, match="pip install bm25s"):
        Library(PAGES)
