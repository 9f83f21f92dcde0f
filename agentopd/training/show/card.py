"""The model card: the README that is pushed with a student."""

import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from agentopd.config import Config
from agentopd.config.shipped import write

TAGS = ("agentopd", "on-policy-distillation")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

_TEXT = """# {name}

A tool-using agent, trained by on-policy distillation with agentopd: it acted in environments with tools, and teachers said of its own
trajectories what they would have done.

- Environments: {envs}
- Started from: {base}
- Optimiser steps: {steps}{success}

## Method

```yaml
{method}```

## Versions

{versions}
"""


def card(
    config: Config, name: str, base: str, steps: int, best: tuple[int, float] | None, adapter: bool, **metadata: Any
) -> ModelCard:
    """The card of a student.

    Args:
        config: What decided the run.
        name: Of the model.
        base: What it was trained from, by its name; told as ``base_model`` where it is one on the hub.
        steps: Optimiser steps so far.
        best: Step and validation success of the best panel so far, where there was one.
        adapter: Whether the files are an adapter beside ``base``.
        metadata: What else the card's head holds, such as ``license``; ``tags`` come after our own.
    """
    on_hub = _HUB_ID.fullmatch(base) is not None and not Path(base).exists()
    head = metadata | {
        "tags": tags_with(metadata.get("tags")),
        "base_model": base if on_hub else None,
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "model_name": name,
    }
    data = ModelCardData(**{key: value for key, value in head.items() if value is not None})
    text = _TEXT.format(
        name=name,
        envs=", ".join(env.id for env in config.envs),
        base=base if on_hub else "weights that are not on the hub",
        steps=steps,
        success="" if best is None else f"\n- Best validation success: {best[1]:.3f}, after step {best[0]}",
        method=write({"objective": config.objective.model_dump(mode="json", exclude={"notes"})}),
        versions=_versions(adapter),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def tags_with(given: str | Sequence[str] | None) -> list[str]:
    """Our tags, then those ``given``."""
    more = [given] if isinstance(given, str) else [*(given or ())]
    return list(dict.fromkeys([*TAGS, *more]))


def _versions(adapter: bool) -> str:
    packages = ["agentopd", "transformers", "torch", *(["peft"] if adapter else [])]
    return "\n".join(f"- {package} {version(package)}" for package in packages)
