"""The learner's side of a step: from records to coefficients, micro-batches, losses and what was seen in them."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from agentopd.config import Config
from agentopd.errors import ConfigError
from agentopd.evaluation import by_depth
from agentopd.forward import hidden_states
from agentopd.models import head_of
from agentopd.objective import Batch, Head, LiveColumns, LossOutput, Objective, Prepared, Rows, cut, loss, prepare
from agentopd.objective.live import live_columns
from agentopd.objective.signals import CENTRE
from agentopd.settings.clock import Clock
from agentopd.training.loop.dealing import cost, deal
from agentopd.training.loop.ranks import ALONE, Ranks
from agentopd.types import Record

Signals = Mapping[str, NDArray[np.float32]]
Seen: TypeAlias = tuple[Tensor, Mapping[str, Tensor]]
"""Of one micro-batch: which rows of the global batch it held, and their signals."""


class Learner:
    """What is done with a global batch, for any objective."""

    def __init__(
        self, config: Config, teacher_heads: Mapping[str, Head], special: Sequence[int], ranks: Ranks = ALONE
    ) -> None:
        self._ranks = ranks
        self._config = config
        self._special = special
        self._heads = teacher_heads
        self._temperature = config.temperature

    def check(self, model: nn.Module, objective: Objective) -> None:
        """Refuses what cannot be trained, or not exactly.

        Raises:
            ConfigError: All of the student is frozen; or a weight reads its present statistics and it has dropout.
        """
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ConfigError("the student has no parameter with requires_grad, so nothing would be trained")
        dropout = dropouts(model)
        if objective.needs_live and dropout:
            raise ConfigError(
                f"a weight or ratio reads the student's present statistics, and it has dropout ({dropout[0]}); set it to 0"
            )

    def prepare(self, model: nn.Module, records: Sequence[Record], clock: Clock) -> tuple[Prepared, list[Batch]]:
        """Coefficients on the global batch, and the micro-batches it is cut into."""
        rows = Rows.of(records).with_special(self._special)
        if self._config.objective.needs_live:
            rows = rows.with_live(self._live(model, rows))
        prepared = prepare(self._config.objective, rows, clock)
        return prepared, cut(prepared, self._config.train.max_tokens, self._config.train.layout)

    def _live(self, model: nn.Module, rows: Rows) -> LiveColumns:
        train = self._config.train
        forward = partial(hidden_states, model)
        return live_columns(
            rows,
            forward,
            head_of(model),
            train.max_tokens,
            train.layout,
            self._temperature,
            train.chunk_rows,
            self._ranks.map,
        )

    def loss(self, model: nn.Module, batch: Batch) -> LossOutput:
        """The loss of one micro-batch: sum(coef * phi)."""
        device = next(model.parameters()).device
        there = batch.to(device)
        hidden_B_T_H = hidden_states(model, there.input_ids_B_T, there.position_ids_B_T)
        hidden_A_H = hidden_B_T_H[there.sample_A, there.position_A]
        chunk_rows, likeliest = self._config.train.chunk_rows, self._config.records.student_k
        return loss(hidden_A_H, head_of(model), self._heads, there, self._temperature, chunk_rows, likeliest)

    def nothing(self, model: nn.Module) -> Tensor:
        """A loss of 0 that reaches every trainable parameter, at the cost of one token.

        A process that has run out of micro-batches takes part with it: the others wait for its gradient of each parameter.
        """
        first_B_T = torch.zeros(1, 1, dtype=torch.int64, device=next(model.parameters()).device)
        hidden_B_T_H = hidden_states(model, first_B_T)
        head = head_of(model).gathered()  # after the forward, as in `loss`: FSDP has then gathered it
        touched = [hidden_B_T_H, head.weight_V_H, *([] if head.bias_V is None else [head.bias_V])]
        return sum((one.float().sum() * 0.0 for one in touched), torch.zeros((), device=first_B_T.device))

    def deal(self, model: nn.Module, batches: Sequence[Batch]) -> list[Batch | None]:
        """The micro-batches of this process, as many as every other has; ``None`` for :meth:`nothing`."""
        width = head_of(model).weight_V_H.shape[1]
        dealt = deal([cost(batch, width) for batch in batches], self._ranks.size)
        mine: list[Batch | None] = [batches[i] for i in dealt[self._ranks.rank]]
        return mine + [None] * (max(map(len, dealt)) - len(mine))

    def gather(self, size: int, outputs: Sequence[Seen]) -> dict[str, NDArray[np.float32]]:
        """The signals of all micro-batches as columns over the rows of the global batch; ``nan`` where a row was left out."""
        columns: dict[str, NDArray[np.float32]] = {}
        for row_A, signals in outputs:
            for name, value_A in signals.items():
                shape = (size, *value_A.shape[1:])
                column = columns.setdefault(name, np.full(shape, np.nan, np.float32))
                column[row_A.cpu().numpy()] = value_A.float().cpu().numpy()
        return columns

    def metrics(self, prepared: Prepared, signals: Signals, batches: Sequence[Batch]) -> dict[str, float]:
        """Means of the signals over the rows that were trained on, the :func:`centres` of divergences, and sizes."""
        means = {
            f"train/{name}": float(np.nanmean(column))
            for name, column in signals.items()
            if column.ndim == 1 and not np.isnan(column).all()
        }
        tokens = float(sum(batch.input_ids_B_T.numel() for batch in batches))
        sizes = {
            "train/tokens": tokens,
            "train/micro_batches": float(len(batches)),
            "train/rows": float(len(prepared.rows)),
        }
        return {
            **means,
            **centres(prepared.rows, signals),
            **{f"objective/{name}": value for name, value in prepared.metrics.items()},
            **sizes,
        }


def dropouts(model: nn.Module) -> list[str]:
    """Where a model leaves out at random what it computes, in training."""
    found = [name for name, module in model.named_modules() if isinstance(module, nn.Dropout) and module.p > 0]
    attends = bool(getattr(getattr(model, "config", None), "attention_dropout", 0.0))
    return [*found, *(["attention_dropout"] if attends else [])]


def centres(rows: Rows, signals: Signals) -> dict[str, float]:
    """``train/<term>/centre``: the turn, from 1, at which the divergence of a term lies on average; absent where that is 0.

    It is sum_k k n_k d_k / sum_k n_k d_k, with d_k the mean divergence of the tokens at turn k that were trained on, and n_k how many
    episodes have such tokens.
    """
    found = {}
    for name, value_A in signals.items():
        term, _, loss = name.rpartition("/")
        if loss != "divergence":
            continue
        kept_A = ~rows.corrected_A & ~np.isnan(value_A)
        if not kept_A.any():
            continue
        _, reached = np.unique(np.stack([rows.trajectory_A[kept_A], rows.turn_A[kept_A]]), axis=1)
        episodes = np.bincount(reached)
        share = {turn: float(episodes[turn]) * mean for turn, mean, _ in by_depth(rows.turn_A[kept_A], value_A[kept_A])}
        if (total := sum(share.values())) > 0:
            found[f"train/{term}/{CENTRE}"] = sum((turn + 1) * one for turn, one in share.items()) / total
    return found


def save_batch(batch: Batch, folder: Path, step: int) -> Path:
    """Writes the tensors of a micro-batch for a post-mortem. They are cloned: safetensors refuses shared memory."""
    path = folder / f"failed-step-{step:06d}.safetensors"
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in _tensors("", batch)}, path)
    return path


def _tensors(name: str, value: Any) -> list[tuple[str, Tensor]]:
    """Every tensor inside nested dataclasses, tuples and mappings, with the path to it."""
    if isinstance(value, Tensor):
        return [(name, value)]
    if is_dataclass(value) and not isinstance(value, type):
        return [
            pair for f in fields(value) for pair in _tensors(f"{name}.{f.name}".lstrip("."), getattr(value, f.name))
        ]
    if isinstance(value, Mapping):
        return [pair for key, item in value.items() for pair in _tensors(f"{name}.{key}", item)]
    if isinstance(value, tuple | list):
        return [pair for i, item in enumerate(value) for pair in _tensors(f"{name}.{i}", item)]
    return []
