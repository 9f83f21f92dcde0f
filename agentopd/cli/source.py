"""What ``eval`` and ``rollout`` start from: a configuration, or the folder of a run with the student that it trained."""

from collections.abc import Sequence
from pathlib import Path

from agentopd.config import Config, load_config
from agentopd.errors import ConfigError
from agentopd.run_files import CONFIG, STUDENT


def load(source: str, overrides: Sequence[str]) -> tuple[Config, Path | None]:
    """The configuration, and the folder of the run's student.

    Raises:
        ConfigError: The configuration is wrong, or the run has not been finished.
    """
    run = Path(source)
    if not (run / CONFIG).exists():
        return load_config(source, overrides), None
    student = run / STUDENT
    if not student.exists():
        raise ConfigError(
            f"{run} has no student/: the run has not finished; go on with it by agentopd train {run} --resume"
        )
    return load_config(run / CONFIG, overrides), student
