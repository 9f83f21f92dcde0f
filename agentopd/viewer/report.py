"""The page of a run: one self-contained HTML file with results, curves and sample episodes. What is missing is said in a line."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from html import escape
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

import agentopd.viewer.charts as charts
import agentopd.viewer.over as over
from agentopd import records
from agentopd.errors import ConfigError, RecordError
from agentopd.evaluation import Difference, Panel
from agentopd.objective.signals import LOSSES
from agentopd.run_files import (
    AFTER_PANEL,
    BEFORE_PANEL,
    CONFIG,
    METRICS,
    PANELS,
    RECORDS,
    REPORT,
    SAMPLED,
    TIMES,
    VIEW,
    read_times,
)
from agentopd.viewer.charts import BEFORE, OTHER, STUDENT, TEACHER, Series
from agentopd.viewer.decoding import Decode, tokenizer_of
from agentopd.viewer.depths import depth_figures, unit_of
from agentopd.viewer.episodes import samples
from agentopd.viewer.page import figure, grid, missing, page, table
from agentopd.viewer.times import times

PAIRS = {AFTER_PANEL: BEFORE_PANEL, AFTER_PANEL + SAMPLED: BEFORE_PANEL + SAMPLED}
"""The panels whose change is shown, and from which."""


@dataclass(frozen=True, slots=True)
class RunData:
    """What a run folder holds; ``problems`` says of the rest why it is not here."""

    path: Path
    config: str
    metrics: Sequence[Mapping[str, Any]]
    panels: Mapping[str, Panel]
    records: records.Records | None
    decode: Decode | None
    problems: Sequence[str]

    @property
    def view(self) -> str:
        """The page of all trajectories, where it lies beside; else empty."""
        return VIEW if (self.path / VIEW).exists() else ""


def write_report(run_dir: str | Path) -> Path:
    """Writes ``report.html`` into a run folder from its ``config.yaml``, ``metrics.jsonl``, ``panels.json`` and ``records/``.

    The page needs no network. Token texts come from a tokenizer in the folder (``student/``, or the newest checkpoint).

    Returns:
        The path of the page.
    """
    run = _read(Path(run_dir))
    sections = [
        ("Result", _result(run)),
        ("By family", _families(run)),
        ("Learning curve", _learning(run)),
        ("Loss", _losses(run)),
        ("Rollouts", _rollouts(run)),
        ("By turn depth", _depths(run)),
        ("By depth over training", _guarded(lambda: "".join(over.by_depth(run.metrics, run.records)))),
        ("Weights", _guarded(lambda: over.weights(run.records))),
        ("Errors", _errors(run)),
        ("Tools", over.tools(run.metrics)),
        ("Time", times(run.metrics, read_times(run.path / TIMES))),
        ("Sample episodes", _guarded(lambda: samples(run.records, run.decode, run.view))),
        ("Configuration", _config(run)),
    ]
    body = "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections if content)
    problems = "".join(map(missing, run.problems))
    path = run.path / REPORT
    title = run.path.resolve().name
    html = page(title, _guarded(lambda: _facts(run)), problems + body)
    path.write_text(html, encoding="utf-8", errors="backslashreplace")  # records keep half surrogates, UTF-8 has none
    return path


def _read(path: Path) -> RunData:
    problems: list[str] = []

    def attempt(name: str, read: Callable[[Path], Any], default: Any) -> Any:
        try:
            return read(path / name)
        except FileNotFoundError:
            problems.append(f"{name} is not in the run folder.")
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecordError) as error:
            problems.append(f"{name} cannot be read: {error}")
        return default

    return RunData(
        path,
        attempt(CONFIG, lambda file: file.read_text(encoding="utf-8"), ""),
        attempt(METRICS, lambda file: _read_metrics(file, problems), []),
        attempt(PANELS, _read_panels, {}),
        attempt(RECORDS, records.open, None),
        attempt("tokenizer", lambda file: tokenizer_of(file.parent), None),
        problems,
    )


def _read_metrics(file: Path, problems: list[str]) -> list[dict[str, Any]]:
    """The rows; a line that a kill has cut short is counted."""
    rows, unreadable = [], 0
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            rows.append(row | {"step": int(row["step"])})
        except (ValueError, TypeError, KeyError):
            unreadable += 1
    if unreadable:
        problems.append(f"{file.name}: {unreadable} unreadable lines are left out.")
    return rows


def _read_panels(file: Path) -> dict[str, Panel]:
    return {name: Panel.from_dict(panel) for name, panel in json.loads(file.read_text(encoding="utf-8")).items()}


def _guarded(section: Callable[[], str]) -> str:
    try:
        return section()
    except RecordError as error:
        return missing(str(error))


def _facts(run: RunData) -> str:
    facts = [f"{len({row['step'] for row in run.metrics})} logged steps"] if run.metrics else []
    if run.records is not None:
        facts.append(f"{len(run.records)} episodes recorded in {len(run.records.steps)} steps")
    if run.view:
        facts.append(f'<a href="{VIEW}">all of them, token by token</a>')
    elif run.records is not None:
        facts.append("<code>agentopd view</code> of this folder shows all of them, token by token")
    return " · ".join(facts)


def _result(run: RunData) -> str:
    if not run.panels:
        return missing("No panel was played.")
    beside = (n for name, _ in _main_panels(run) for n in (name, name + SAMPLED) if n in run.panels)
    shown = {name: run.panels[name] for name in beside}
    rows = [_result_row(name, panel, run.panels.get(PAIRS.get(name, ""))) for name, panel in shown.items()]
    head = ("", "success, 95% interval", "change, paired", "reward", "turns", "failed", "tasks")
    return table(head, rows)


def _main_panels(run: RunData) -> list[tuple[str, Panel]]:
    """Before, after, then the teachers; not those played on the way, nor the sampled ones, which stand beside these."""
    named = [name for name in (BEFORE_PANEL, AFTER_PANEL) if name in run.panels]
    others = [*named, *(name + SAMPLED for name in run.panels)]
    named += [name for name in run.panels if name not in others and not name.startswith("student@")]
    return [(name, run.panels[name]) for name in named]


def _result_row(name: str, panel: Panel, before: Panel | None) -> list[str]:
    change = ""
    if before is not None:
        try:
            change = panel.change_from(before).text()
        except ConfigError:
            change = "other tasks"
    numbers = (f"{panel.mean_reward:.3g}", f"{panel.mean_turns:.3g}", str(panel.failed), str(panel.success.n))
    return [name.replace("_", " "), panel.success.text(), change, *numbers]


def _families(run: RunData) -> str:
    """A table of success by kind of task; empty where there is one kind only."""
    panels = dict(_main_panels(run))
    rates = {name: panel.by_family() for name, panel in panels.items()}
    families = sorted({family for found in rates.values() for family in found})
    if len(families) < 2:
        return ""
    before, after = panels.get(BEFORE_PANEL), panels.get(AFTER_PANEL)
    gains: Mapping[str, Difference] = {}
    if before is not None and after is not None:
        with suppress(ConfigError):  # of other tasks, as the table above says
            gains = after.changes_from(before)
    rows = [
        [
            family,
            *(found[family].text() if family in found else "" for found in rates.values()),
            gains[family].text() if family in gains else "",
            str(max(found[family].n for found in rates.values() if family in found)),
        ]
        for family in families
    ]
    names = [name.replace("_", " ") for name in panels]
    return table(["", *names, "change of the student, paired", "tasks"], rows)


def _learning(run: RunData) -> str:
    drawn = (_panel_curve(run), _metric(run, "rollout/success", "training episodes", BEFORE), _validation(run))
    series = [one for one in drawn if one is not None]
    if not series:
        return missing("Neither panels nor rollout/success were logged.")
    span = sorted({x for one in series for x in one.x})
    colours = _colours(run)
    for name, panel in _main_panels(run):
        if name not in (BEFORE_PANEL, AFTER_PANEL) and panel.success.n:
            level = [panel.success.value] * 2
            series.append(Series(name, [span[0], max(span[-1], span[0] + 1)], level, colours[name], dashed=True))
    return figure(
        charts.lines("Success by step", series, "optimiser step", "success", share=True),
        "Success on held-out tasks, with its 95% Wilson band, of the episodes that were trained on, and of the validation tasks that were played on the way.",
    )


def _panel_curve(run: RunData) -> Series | None:
    points = {
        int(name[8:]): p for name, p in run.panels.items() if name.startswith("student@") and name[8:].isdecimal()
    }
    last = max([*points, *(row["step"] for row in run.metrics)], default=1)
    ends = {0: run.panels.get(BEFORE_PANEL), last: run.panels.get(AFTER_PANEL)}
    points |= {step: panel for step, panel in ends.items() if panel is not None}
    steps = [step for step in sorted(points) if points[step].success.n]
    rates = [points[step].success for step in steps]
    low, high = [r.interval.low for r in rates], [r.interval.high for r in rates]
    return Series("held-out tasks", steps, [r.value for r in rates], STUDENT, low, high) if rates else None


def _validation(run: RunData) -> Series | None:
    """The panels of validation tasks on the way, with their intervals."""
    found = _metric(run, "panel/success", "validation tasks", OTHER)
    bounds = [_metric(run, f"panel/{end}", "", OTHER) for end in ("low", "high")]
    if found is None or not all(bound is not None and bound.x == found.x for bound in bounds):
        return found
    low, high = (bound.y for bound in bounds if bound is not None)
    return replace(found, low=low, high=high)


def _colours(run: RunData) -> dict[str, str]:
    """A colour for each panel: the student's two, and those of its teachers in turn."""
    own = {BEFORE_PANEL: BEFORE, AFTER_PANEL: STUDENT}
    others = [name for name, _ in _main_panels(run) if name not in own]
    return own | dict(zip(others, cycle((TEACHER, OTHER)), strict=False))


def _metric(run: RunData, name: str, label: str, colour: str) -> Series | None:
    rows = [row for row in run.metrics if isinstance(row.get(name), int | float) and np.isfinite(row[name])]
    return Series(label, [row["step"] for row in rows], [row[name] for row in rows], colour) if rows else None


def _losses(run: RunData) -> str:
    logged = sorted({name for row in run.metrics for name in row if name.startswith("train/")})
    terms = [name for name in logged if name.endswith(tuple(f"/{kind}" for kind in LOSSES))]
    wanted = [("train/loss", "loss")] + [(name, f"mean {name.removeprefix('train/')}") for name in terms]
    found = [(name, label, _metric(run, name, label, STUDENT)) for name, label in wanted]
    figures = [
        figure(
            charts.lines(escape(label), [one], "optimiser step", label),
            f"{label[0].upper()}{label[1:]}{'' if name == 'train/loss' else unit_of(name)} step by step.",
        )
        for name, label, one in found
        if one is not None
    ]
    return grid(figures) if figures else missing("No train/loss was logged.")


def _rollouts(run: RunData) -> str:
    named = {
        "rollout/truncated": ("episodes cut off", TEACHER),
        "rollout/cut": ("turns cut off", BEFORE),
        "rollout/parsed": ("actions that parse", STUDENT),
    }
    series = [one for name, (label, colour) in named.items() if (one := _metric(run, name, label, colour))]
    if not series:
        return missing("No rollout/parsed was logged.")
    return figure(
        charts.lines("Cut off and parsed", series, "optimiser step", "share", share=True),
        "Shares of the episodes that a limit ended, of the turns cut at rollout.max_new_tokens, and of the actions in which every block is a call.",
    )


def _depths(run: RunData) -> str:
    colours = _colours(run)
    success, errors = [], []
    for name, panel in _main_panels(run):
        depths, colour, label = panel.by_depth(), colours[name], name.replace("_", " ")
        ended, reached = [d for d in depths if d.episodes.n], [d for d in depths if d.turns]
        rates = [d.episodes for d in ended]
        limits = [r.interval.low for r in rates], [r.interval.high for r in rates]
        success.append(Series(label, [d.depth for d in ended], [r.value for r in rates], colour, *limits))
        errors.append(Series(label, [d.depth for d in reached], [d.errors / d.turns for d in reached], colour))
    figures = [] if not success else [
        figure(charts.bars("Success by turns", success, "turns of the episode", "success", share=True), "Success of episodes by how many turns they took, with 95% intervals."),
        figure(charts.bars("Bad actions by turn", errors, "turn", "bad actions a turn"), "Bad actions at each turn of the panel's episodes."),
    ]  # fmt: skip
    figures += depth_figures(run.metrics) or [missing("No depth/ metrics were logged.")]
    return grid(figures)


def _errors(run: RunData) -> str:
    panels = _main_panels(run)
    counts = {name: panel.errors() for name, panel in panels}
    kinds = sorted({k for c in counts.values() for k in c}, key=lambda k: -sum(c[k] for c in counts.values()))
    if not kinds:
        return missing("No bad action in any panel." if panels else "No panel was played.")
    turns = {name: max(sum(played.turns for played in panel.episodes), 1) for name, panel in panels}
    rows = [[kind, *(f"{100 * counts[name][kind] / turns[name]:.1f}" for name in counts)] for kind in kinds]
    return table(["in 100 turns", *(name.replace("_", " ") for name in counts)], rows)


def _config(run: RunData) -> str:
    if not run.config:
        return missing("There is no config.yaml.")
    return f"<details><summary>config.yaml</summary><pre>{escape(run.config)}</pre></details>"
