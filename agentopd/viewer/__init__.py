"""What a person looks at: the page of a run, and the viewer of its records, each one file of HTML."""

from agentopd.viewer.report import write_report
from agentopd.viewer.view import write_view

__all__ = ["write_report", "write_view"]
