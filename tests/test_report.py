"""The page of a run: what it shows, what it escapes, and that nothing missing or damaged stops it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from view_cases import bytes_tokenizer

from agentopd.evaluation import Panel, Rate
from agentopd.records import RecordWriter
from agentopd.types import (
    CallOutcome,
    Failure,
    Key,
    Message,
    Outcome,
    Record,
    Segment,
    Task,
    ToolCall,
    Trajectory,
    Turn,
)
from agentopd.viewer import write_report

EVIL = "<script>alert('x')</script>"
QUESTION = "What do 2 and 3 make, <together>?"
PROMPT, ACTION = "Add 2 and 3 & say so.", "add <2> & 3 → ü"


def _record(step: int, index: int, success: bool, failure: Failure | None = None) -> Record:
    tokenizer = bytes_tokenizer()
    prompt, action = tokenizer.encode(PROMPT).ids, tokenizer.encode(ACTION).ids
    start, stop = len(prompt), len(prompt) + len(action)
    made_T = np.arange(stop) >= start
    turn_T = np.where(made_T, 0, -1).astype(np.int32)
    zeros = np.zeros(stop, np.float32)
    segment = Segment(np.array(prompt + action, np.int32), turn_T, turn_T, made_T, zeros)
    turn = Turn(
        0,
        "student",
        0,
        start,
        stop,
        ACTION,
        ACTION,
        (ToolCall("add", {"x": 2}),),
        ({"role": "tool", "name": "add", "content": f"5 {EVIL}"},),
        reward=1.0,
        errors=() if success else ("unknown_tool",),
        advice=EVIL,
        outcomes=(CallOutcome("add", "ok" if success else f"no {EVIL}", 0.25, cut=True),),
    )
    outcome = Outcome(float(success), success, "failed" if failure else "terminated")
    key, task = Key(EVIL, step, index), Task("toy/Sum-v0", index)
    opening: tuple[Message, ...] = ({"role": "system", "content": EVIL}, {"role": "user", "content": QUESTION})
    tool = {"type": "function", "function": {"name": "add", "description": EVIL}}
    return Record(
        Trajectory(
            key, task, ("student",), (segment,), (turn,), outcome, failure=failure, opening=opening, tools=(tool,)
        )
    )


def _signals(record: Record) -> dict[str, np.ndarray]:
    index = np.flatnonzero(record.trajectory.segments[0].turn_T >= 0)
    return {
        "trajectory": np.array([str(record.trajectory.key)] * len(index)),
        "segment": np.zeros(len(index), np.int32),
        "index": index.astype(np.int32),
        "entropy": np.zeros(len(index), np.float32),
        "loss/coef": np.ones(len(index), np.float32),
        "loss/divergence": np.linspace(-0.5, 2.0, len(index), dtype=np.float32),
    }


def _panel(successes: int, tasks: int = 20, families: tuple[str, ...] = ("",)) -> dict[str, Any]:
    records = [_record(0, i, i < successes) for i in range(tasks)]
    told = (replace(r.trajectory, family=families[i % len(families)]) for i, r in enumerate(records))
    return Panel.of(list(told)).to_dict()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "my-run"
    (folder / "student").mkdir(parents=True)
    bytes_tokenizer().save(str(folder / "student" / "tokenizer.json"))
    (folder / "config.yaml").write_text(f"seed: 0\nnote: {EVIL}\n")
    rows = [
        {"step": s, "train/loss": 1 / s, "train/loss/divergence": 2 / s, "rollout/success": s / 10} for s in range(1, 6)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    panels = {"student_before": _panel(6), "student@3": _panel(10), "teacher": _panel(19), "student_after": _panel(15)}
    (folder / "panels.json").write_text(json.dumps(panels))
    writer = RecordWriter(folder)
    for step in (0, 4):
        records = [_record(step, i, i % 2 == 0) for i in range(9)]
        records.append(_record(step, 9, True, Failure("env", "timeout", EVIL)))
        writer.write(step, records)
        writer.write_signals(step, _signals(records[0]))
    return folder


class _Page(HTMLParser):
    """Tags, balanced or not, and text."""

    VOID = {"meta", "br", "hr", "img", "link", "input"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attrs for name, attrs in self.tags if name == tag)


def _page(run: Path) -> _Page:
    path = write_report(run)
    assert path == run / "report.html"
    page = _Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


def test_the_page_shows_the_result(run: Path) -> None:
    text = _page(run).text
    assert "my-run" in text
    assert "20 episodes recorded in 2 steps" in text
    for shown in ("30.0% [14.5, 51.9]", "75.0% [53.1, 88.8]", "95.0% [76.4, 99.1]", "+45.0 points ["):
        assert shown in text
    assert "unknown_tool" in text


def test_the_page_draws_its_charts_as_text_without_network(run: Path) -> None:
    page = _page(run)
    charts = list(page.named("svg"))
    assert [chart["aria-label"] for chart in charts] == [
        "Success by step",
        "loss",
        "mean loss/divergence",
        "Success by turns",
        "Bad actions by turn",
    ]
    assert "held-out tasks" in page.text
    assert not list(page.named("script")) + list(page.named("link")) + list(page.named("img"))
    addresses = [v for _, attrs in page.tags for k, v in attrs.items() if k in ("href", "src", "xlink:href")]
    assert all(address and address.startswith("#") for address in addresses)
    assert "#0000" not in (run / "report.html").read_text()


def _log(run: Path, steps: int, **metrics: float) -> None:
    rows = [{"step": s, **{name.replace("__", "/"): s * x for name, x in metrics.items()}} for s in range(1, steps + 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_what_was_seen_by_turn_is_drawn_of_the_first_and_of_the_last_steps(run: Path) -> None:
    by_turn = {f"depth__{name}__{turn}": 0.01 for turn in (1, "9+") for name in ("loss__divergence", "student_entropy", "teacher_entropy__one", "epistemic__one", "disagreement__one", "loss__weight", "tokens", "errors")}  # fmt: skip
    _log(run, 30, rollout__parsed=0.01, rollout__cut=0.01, **by_turn)
    page = _page(run)
    drawn = [chart["aria-label"] for chart in page.named("svg")]
    assert "Cut off and parsed" in drawn
    assert drawn[-7:] == [
        "loss/divergence by turn",
        "Entropy by turn",
        "Disagreement by turn",
        "Epistemic by turn",
        "loss/weight by turn",
        "Length of actions by turn",
        "Turns with a bad action",
    ]
    assert "Length of actions by turn in training, steps 1 to 3 (dashed) and steps 28 to 30." in page.text
    assert all(shown in page.text for shown in ("actions that parse", "turns cut off", "9+", "one"))
    assert "episodes cut off" not in page.text


def test_what_changed_over_the_run_stands_in_tables(run: Path) -> None:
    rows = [
        {
            "step": step,
            "seconds": 100.0 + 2 * step,
            "train/loss": 1.0,
            "depth/loss/divergence/1": 1.0 / step,
            "depth/loss/divergence/9+": 0.5,
            "rollout/seconds/policy": 0.5,
            "rollout/seconds/env": 0.25,
            "seconds/rollout": 0.75,
            "seconds/teachers": 0.25,
            "seconds/learner": 0.5,
            f"rollout/tools/{EVIL}/calls": 2.0 * step,
            f"rollout/tools/{EVIL}/errors": 0.125,
        }
        for step in range(1, 21)
    ]
    (run / "times.json").write_text(json.dumps({"student": 61.5}))
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = _page(run)
    text = page.text
    depths = text.partition("By depth over training")[2].partition("Errors")[0]
    assert "1-23-45-6" in depths
    assert "turn 10.750.290.18" in depths  # the means of two steps each
    assert "turn 9+0.50.5" in depths
    assert "1 turn50%50%all" in depths
    assert f"{EVIL}3.0012.5%39.0012.5%" in text
    times = text.partition("Time")[2]
    for shown in ("start61.5 s", "first38.0 s2.0 s a", "rollouts14.2 s38%", "backward9.5 s25%", "checkpoints9.5 s25%"):
        assert shown in times, shown
    assert not list(page.named("script"))


def test_weights_have_a_histogram_where_they_differ(run: Path) -> None:
    def weigh(step: int, weights: np.ndarray) -> None:
        records = [_record(step, 0, True)]
        RecordWriter(run).write(step, records)
        signals = _signals(records[0])
        RecordWriter(run).write_signals(step, signals | {"loss/weight": weights.astype(np.float32)})

    size = len(_signals(_record(0, 0, True))["index"])
    assert "Weights" not in _page(run).text
    weigh(9, np.ones(size))
    assert "Every token weighs the same." in _page(run).text
    weigh(10, np.linspace(0.0, 2.0, size))
    assert "loss/weight" in [chart["aria-label"] for chart in _page(run).named("svg")]


def test_the_page_leads_into_the_viewer_where_it_lies_beside(run: Path) -> None:
    assert "agentopd view of this folder" in _page(run).text
    (run / "view.html").write_text("")
    links = [attrs["href"] for attrs in _page(run).named("a")]
    assert links[0] == "view.html"
    assert f"view.html#key={quote(EVIL)}/0/0/0" in links
    assert len(links) == 1 + 8


def test_families_have_a_table_where_there_are_several(run: Path) -> None:
    assert "By family" not in _page(run).text
    kinds = ("gcd", EVIL)
    panels = {
        "student_before": _panel(6, 20, kinds),
        "teacher": _panel(19, 20, kinds),
        "student_after": _panel(15, 20, kinds),
    }
    (run / "panels.json").write_text(json.dumps(panels))
    page = _page(run)
    text = page.text.partition("By family")[2].partition("Learning curve")[0]
    gain = Panel.from_dict(panels["student_after"]).changes_from(Panel.from_dict(panels["student_before"]))["gcd"]
    assert f"gcd{Rate(3, 10).text()}{Rate(8, 10).text()}{Rate(10, 10).text()}{gain.text()}10" in text
    assert EVIL in text
    assert not list(page.named("script"))


def test_sampled_panels_stand_beside_the_greedy_ones(run: Path) -> None:
    kept = json.loads((run / "panels.json").read_text())
    sampled = {
        f"{name}_sampled": _panel(n, 10) for name, n in (("student_before", 2), ("teacher", 9), ("student_after", 5))
    }
    (run / "panels.json").write_text(json.dumps(kept | sampled))
    text = _page(run).text
    names = (
        "student before",
        "student before sampled",
        "student after",
        "student after sampled",
        "teacher",
        "teacher sampled",
    )
    at = [
        text.index(f"{name}{rate}")
        for name, rate in zip(names, ("30.0%", "20.0%", "75.0%", "50.0%", "95.0%", "90.0%"), strict=True)
    ]
    assert at == sorted(at)
    assert text.count("+30.0 points [") == 1
    assert text.count("student after sampled") == 1


def test_the_page_shows_two_successes_and_two_failures_of_the_first_and_the_last_step(run: Path) -> None:
    page = _page(run)
    episodes = [attrs for attrs in page.named("details") if attrs.get("class") == "episode"]
    assert len(episodes) == 8
    assert page.text.count("no success toy/Sum-v0") == 4
    for key in ("/0/0/0", "/0/1/0", "/4/0/0", "/4/3/0"):
        assert f"{EVIL}{key}" in page.text
    assert page.text.index("Step 0") < page.text.index("/0/0/0") < page.text.index("Step 4") < page.text.index("/4/0/0")
    assert page.text.count(f"user{QUESTION}") == 8
    assert page.text.count(f"system{EVIL}") == 8
    assert page.text.count("tools: add") == 8
    assert PROMPT not in page.text
    assert "→ add(x=2)" in page.text
    assert "tool · add" in page.text
    assert "reward 1" in page.text
    assert page.text.count("add ok, 0.25 s, answer cut") == 4
    assert page.text.count(f"add no {EVIL}, 0.25 s, answer cut") == 4


def test_tokens_are_shaded_by_the_signal(run: Path) -> None:
    page = _page(run)
    shaded = list(page.named("i"))
    assert len(shaded) == 2 * len(bytes_tokenizer().encode(ACTION).ids)
    assert (shaded[0]["title"], shaded[0]["class"]) == ("-0.5", "n")
    assert (shaded[-1]["title"], shaded[-1]["style"]) == ("2", "--d:1.00")
    assert "class" not in shaded[-1]
    assert page.text.count(ACTION) == 8


def test_text_of_models_and_environments_is_escaped(run: Path) -> None:
    page = _page(run)
    assert not list(page.named("script"))
    assert page.text.count(EVIL) >= 6
    assert EVIL not in (run / "report.html").read_text()


def test_panel_names_are_escaped_in_charts(run: Path) -> None:
    (run / "panels.json").write_text(json.dumps({"student_before": _panel(3), f"{EVIL} $x$": _panel(4)}))
    page = _page(run)
    assert not list(page.named("script"))
    assert f"{EVIL} $x$" in page.text


def test_the_same_run_gives_the_same_page(run: Path) -> None:
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


def test_an_empty_folder_gives_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    text = _page(tmp_path).text
    for name in ("config.yaml", "metrics.jsonl", "panels.json"):
        assert f"{name} is not in the run folder." in text
    for line in (
        "No panel was played.",
        "No train/loss was logged.",
        "No rollout/parsed was logged.",
        "No episode was recorded.",
        "No depth/ metrics",
    ):
        assert line in text


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("panels.json", b"{", "panels.json cannot be read"),
        ("panels.json", b'{"student_before": {"episodes": [{"odd": 1}]}}', "panels.json cannot be read"),
        ("panels.json", b"[]", "panels.json cannot be read"),
        ("metrics.jsonl", b'{"step": 1, "train/loss": 2.0}\n{"step": 2, "tr', "1 unreadable lines"),
        ("metrics.jsonl", b'{"step": 1, "train/loss": Infinity}\n\xff\n', "1 unreadable lines"),
        ("config.yaml", b"\xff\xfe\xff", "config.yaml cannot be read"),
        ("records/step-000004.parquet", b"half", "step-000004.parquet"),
        ("records/step-000004.signals.parquet", b"half", "step-000004.signals.parquet"),
        ("student/tokenizer.json", b"{", "cannot be read"),
    ],
)
def test_a_damaged_file_is_said_in_a_line(run: Path, name: str, content: bytes, said: str) -> None:
    (run / name).write_bytes(content)
    text = _page(run).text
    assert said in text
    assert "By turn depth" in text
    assert ("delete it to go on without this step" in text) == name.endswith(".parquet")


def test_without_a_tokenizer_episodes_are_shown_as_text(run: Path) -> None:
    (run / "student" / "tokenizer.json").unlink()
    page = _page(run)
    assert "No tokenizer lies in the run folder" in page.text
    assert ACTION in page.text
    assert not list(page.named("i"))


def test_panels_over_other_tasks_are_not_paired(run: Path) -> None:
    (run / "panels.json").write_text(json.dumps({"student_before": _panel(3, 10), "student_after": _panel(4, 12)}))
    assert "other tasks" in _page(run).text


def test_half_surrogates_in_records_do_not_stop_the_page(run: Path) -> None:
    record = _record(5, 0, False, Failure("env", "raised", "half \ud800"))
    trajectory = replace(record.trajectory, opening=({"role": "user", "content": "other \udfff"},))
    RecordWriter(run).write(5, [Record(trajectory)])
    text = _page(run).text
    assert "other \\udfff" in text
