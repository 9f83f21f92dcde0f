"""What a finished run leaves, as far as it is read when runs are held against each other."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentopd.config import Config, dump
from agentopd.evaluation import Panel, Played
from agentopd.run_files import AFTER_PANEL, CONFIG, METRICS, PANELS


def leave_run(folder: Path, config: Config, played: Sequence[Played], rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes its configuration, its last panel and its metrics."""
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(dump(config), encoding="utf-8")
    (folder / PANELS).write_text(json.dumps({AFTER_PANEL: Panel(tuple(played)).to_dict()}), encoding="utf-8")
    (folder / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
