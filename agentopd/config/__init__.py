"""The configuration of a run: its sections and root, ``a.b=value`` overrides, and the files and recipes that are shipped."""

from agentopd.config.loading import build, changed, dump, load_config
from agentopd.config.root import Config
from agentopd.config.sections import Fit, Lora, Stages, Train

__all__ = ["Config", "Fit", "Lora", "Stages", "Train", "build", "changed", "dump", "load_config"]
