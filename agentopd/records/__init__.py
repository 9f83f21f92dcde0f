"""Records: trajectories and annotations, kept and read back equal."""

from agentopd.records.reader import Records, open
from agentopd.records.thinning import thin
from agentopd.records.writer import RecordWriter

__all__ = ["RecordWriter", "Records", "open", "thin"]
