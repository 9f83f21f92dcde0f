"""The configuration of a run: its root, ``a.b=value`` overrides, and the files and recipes that are shipped."""

from agentopd.config.root import STUDENT, Config, Fit, Stages, Train, build, dump, load_config

__all__ = ["STUDENT", "Config", "Fit", "Stages", "Train", "build", "dump", "load_config"]
