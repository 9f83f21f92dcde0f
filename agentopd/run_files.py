"""What lies in the folder of a run, by the names that its writers and its readers share."""

import json
from pathlib import Path

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
PANELS = "panels.json"
TIMES = "times.json"
RECORDS = "records"
STUDENT = "student"
CHECKPOINTS = "checkpoints"
REPORT = "report.html"
PROFILE = "profile-{}.json"
VIEW = "view.html"

BEFORE_PANEL, AFTER_PANEL = "student_before", "student_after"
"""The student's panels in :data:`PANELS`."""
SAMPLED = "_sampled"
"""Ends the name of a panel whose actions were sampled as in training."""

SPENT_EPISODES, SPENT_STUDENT, SPENT_TEACHER = "spent/episodes", "spent/student_tokens", "spent/teacher_tokens"
"""What a step took, in its row of :data:`METRICS`."""
STEP_SECONDS = "seconds/step"
"""How long it is since the step before, in the same row."""

STUDENT_STAGE, TEACHER_STAGE, PANEL_STAGE = "student", "teachers", "panels"
"""What :data:`TIMES` has the seconds of."""


def read_times(file: Path) -> dict[str, float]:
    """Seconds by what they were spent on; none where the file is absent or damaged, for nothing but the report depends on it."""
    try:
        found = json.loads(file.read_bytes())
        return {str(name): float(seconds) for name, seconds in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


SWEEP = "sweep.json"
"""What says of a folder that it is a sweep: its arms, seeds and budget."""
COMPARISON, COMPARISON_PAGE = "compare.json", "compare.html"
LAW, LAW_PAGE = "law.json", "law.html"


def seed_folder(sweep: Path, arm: str, seed: int) -> Path:
    """The run of an arm with a seed."""
    return sweep / arm / f"seed-{seed}"
