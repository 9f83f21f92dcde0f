"""The processes of one run: who of them does what, and how they hear of each other.

A launcher (``torchrun``, ``accelerate launch``) starts equal processes. They exchange objects over gloo, on the CPU, whatever the devices:
every exchange carries what a process made or the error that ended it, so that one that fails ends all with its error.
"""

import io
import os
import pickle
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from agentopd.errors import AgentOPDError, ConfigError, TrainingError, describe

T = TypeVar("T")
R = TypeVar("R")

PATIENCE = timedelta(days=1)
"""How long a process waits for the others: a rollout may take as long as its slowest environment."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """One process among those of a run. With a single one every method is its plain work."""

    rank: int = 0
    size: int = 1
    group: Any = None
    """The gloo group of all of them; ``None`` for a single one."""

    @property
    def is_first(self) -> bool:
        """Whether this one writes, says and asks for all."""
        return self.rank == 0

    def gather(self, work: Callable[[], T]) -> list[T]:
        """What ``work`` gives in each process, by rank; all of it in every process. Tensors arrive on the CPU.

        Raises:
            Exception: What ``work`` raised in the process of the lowest rank that failed; the others are ended by the same.
        """
        if self.size == 1:
            return [work()]
        made, error = None, None
        try:
            made = work()
        except Exception as caught:
            if self.is_shared(caught):  # the others have it already
                raise
            error = caught
        heard: list[Any] = [None] * self.size
        distributed.all_gather_object(heard, _packed(made, error), self.group)
        answers = [pickle.loads(one) for one in heard]
        failed = [rank for rank, (_, one) in enumerate(answers) if one is not None]
        if failed:
            raise self.shared(error if error is not None and failed[0] == self.rank else answers[failed[0]][1])
        return [one for one, _ in answers]

    def shared(self, error: Exception) -> Exception:
        """``error``, which every process raises at the same place: nobody need hear of it, and the first one tells it."""
        error.shared = True  # type: ignore[attr-defined]
        if isinstance(error, AgentOPDError):
            error.is_told = not self.is_first
        return error

    @staticmethod
    def is_shared(error: BaseException) -> bool:
        """Whether every process has ``error``, by :meth:`gather` or :meth:`shared`."""
        return bool(getattr(error, "shared", False))

    def agree(self, work: Callable[[], T]) -> T:
        """What ``work`` gives here, once it has gone well in every process.

        Raises:
            Exception: As for :meth:`gather`.
        """
        made: list[T] = []
        self.gather(lambda: made.append(work()))
        return made[0]

    def first(self, work: Callable[[], T]) -> T:
        """What ``work`` gives in the first process, which alone does it; in every process.

        Raises:
            Exception: As for :meth:`gather`.
        """
        found: list[Any] = self.gather(lambda: work() if self.is_first else None)
        return found[0]  # type: ignore[no-any-return]

    def spread(
        self, items: Sequence[T], key: Callable[[T], Hashable], work: Callable[[list[T]], Sequence[R]]
    ) -> list[R]:
        """What ``work`` makes of ``items``, one each and in their order: every process works on a share, and all get everything.

        Args:
            items: The same in every process.
            key: Items with the same key are in the same share.
            work: Is not called where a share is empty.

        Raises:
            Exception: As for :meth:`gather`.
        """
        if self.size == 1:
            return list(work([*items]))
        mine, owner = self.share(items, key), owners([key(one) for one in items], self.size)
        made = [iter(one) for one in self.gather(lambda: list(work(mine)) if mine else [])]
        return [next(made[rank]) for rank in owner]

    def share(self, items: Sequence[T], key: Callable[[T], Hashable]) -> list[T]:
        """Those of ``items`` that :meth:`spread` has this process work on."""
        owner = owners([key(one) for one in items], self.size)
        return [one for one, rank in zip(items, owner, strict=True) if rank == self.rank]

    def map(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """What ``work`` makes of each item, in their order, each made by one of the processes, one after the other.

        Raises:
            Exception: As for :meth:`gather`.
        """
        numbered = [*enumerate(items)]
        return self.spread(numbered, lambda one: one[0], lambda share: [work(item) for _, item in share])


ALONE = Ranks()
"""A single process."""


def owners(keys: Sequence[Hashable], size: int) -> list[int]:
    """The rank that each item belongs to: keys go round, in the order in which they come up first."""
    rank_of: dict[Hashable, int] = {}
    return [rank_of.setdefault(key, len(rank_of) % size) for key in keys]


def joined() -> Ranks:
    """The processes that a launcher has started, this one among them; a single one where there is no launcher.

    The first call waits for all of them.

    Raises:
        ConfigError: The environment speaks of several processes, and no launcher has said where they meet.
    """
    if not distributed.is_available() or (not distributed.is_initialized() and processes() == 1):
        return ALONE
    if not distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        try:
            distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        except ValueError as error:
            raise ConfigError(
                f"WORLD_SIZE={processes()}: {error}; start agentopd by torchrun or accelerate launch, or unset WORLD_SIZE"
            ) from error
    return _joined()


@cache
def _joined() -> Ranks:
    size = distributed.get_world_size()
    return (
        Ranks(distributed.get_rank(), size, distributed.new_group(backend="gloo", timeout=PATIENCE))
        if size > 1
        else Ranks()
    )


def processes() -> int:
    """How many processes the launcher says that it has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _packed(made: Any, error: Exception | None) -> bytes:
    """An answer as bytes; an error that cannot be packed is told in words."""
    try:
        return _bytes((made, error))
    except Exception:
        if error is None:
            raise
        return _bytes((None, TrainingError(describe(error))))


def _bytes(value: Any) -> bytes:
    file = io.BytesIO()
    _Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()


class _Pickler(pickle.Pickler):
    """Packs a tensor as what it holds: pickle would send all memory that it is a view of, and name its device."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        flat = value.detach().cpu().contiguous().reshape(-1)
        return _unpacked, (flat.view(torch.uint8).numpy().tobytes(), value.dtype, tuple(value.shape))


def _unpacked(held: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    flat = torch.frombuffer(bytearray(held), dtype=dtype) if held else torch.empty(0, dtype=dtype)
    return flat.reshape(shape)
