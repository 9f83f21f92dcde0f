"""Which of the episodes that pass by are the same one."""

import hashlib
from dataclasses import dataclass, field, replace

from agentopd.types import Key, Trajectory


@dataclass(slots=True)
class Repeats:
    """The episodes that were there: the key under which each was played, and a digest of its tokens.

    A key alone does not tell: runs in folders of one name give the same ones.
    """

    _seen: dict[Key, list[bytes]] = field(default_factory=dict)

    def is_again(self, trajectory: Trajectory) -> bool:
        """Whether this episode was there before; from now on it was."""
        known, tokens = self._seen.setdefault(trajectory.origin or trajectory.key, []), _digest(trajectory)
        if tokens in known:
            return True
        known.append(tokens)
        return False

    def own(self, trajectory: Trajectory) -> Trajectory:
        """The episode, without its ``origin`` where the first one that told the same has other tokens."""
        if trajectory.origin is None:
            return trajectory
        tokens = _digest(trajectory)
        first = self._seen.setdefault(trajectory.origin, [tokens])[0]
        return trajectory if first == tokens else replace(trajectory, origin=None)


def _digest(trajectory: Trajectory) -> bytes:
    digest = hashlib.sha256()
    for segment in trajectory.segments:
        digest.update(len(segment).to_bytes(8) + segment.tokens_T.tobytes())
    return digest.digest()[:16]
