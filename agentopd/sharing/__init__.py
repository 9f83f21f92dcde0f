"""Records for other programs, and theirs as records."""

from agentopd.sharing.export import Exported, Wish, export, push
from agentopd.sharing.taking import Taken, Wanted, take_in

__all__ = ["Exported", "Taken", "Wanted", "Wish", "export", "push", "take_in"]
