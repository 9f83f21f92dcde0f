"""The page of a run: curves, panels, sample episodes, in one file of HTML."""

from agentopd.viewer.report import write_report

__all__ = ["write_report"]
