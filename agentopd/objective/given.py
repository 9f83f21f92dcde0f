"""What a stranger gives to the fused divergences, checked: a wrong shape may broadcast without an error."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from agentopd.objective.chunked import check_tokens
from agentopd.objective.divergences import check_tensors, choose
from agentopd.objective.head import Head
from agentopd.settings.choice import Choice

Weight: TypeAlias = Tensor | Head
"""[V, H]; or a whole head, which brings its own bias, scale and soft-cap."""
T = TypeVar("T")


def given_head(
    who: str,
    hidden: Tensor,
    weight: Weight,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
) -> Head:
    """One model's head, whole also where it is sharded.

    Raises:
        ValueError: It does not fit the hidden states, or a number is out of range.
    """
    if isinstance(weight, Head) and bias is not None:
        raise ValueError(f"{who}_weight is a Head and {who}_bias is given too; put the bias into the Head")
    head = weight if isinstance(weight, Head) else Head(weight, bias, scale, softcap)
    check_tensors(**{f"{who}_hidden": hidden, f"{who}_weight": head.weight_V_H, f"{who}_bias": head.bias_V})
    _check_shapes(who, hidden, head)
    if not _positive(head.scale) or not (head.softcap is None or _positive(head.softcap)):
        raise ValueError(f"scale and softcap must be above 0, got {head.scale} and {head.softcap}")
    return head.gathered()


def _check_shapes(who: str, hidden: Tensor, head: Head) -> None:
    weight, bias = head.weight_V_H, head.bias_V
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1] or not weight.numel():
        raise ValueError(
            f"{who}_hidden is {tuple(hidden.shape)} and {who}_weight {tuple(weight.shape)}; give [A, H] (select or flatten the "
            "positions) and [V, H], of at least one token and one number a token"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"{who}_bias is {tuple(bias.shape)}; give one number a token, ({len(weight)},)")
    found = {tensor.dtype for tensor in (hidden, weight, bias) if tensor is not None}
    if not hidden.is_floating_point() or (len(found) > 1 and not torch.is_autocast_enabled(hidden.device.type)):
        names = ", ".join(sorted(map(str, found)))
        raise ValueError(
            f"{who}_hidden, {who}_weight and {who}_bias are of {names}; cast them to one floating-point dtype"
        )


def _positive(number: float) -> bool:
    return 0.0 < number < math.inf


def given_weights(weights: Tensor | None, student_hidden: Tensor) -> Tensor:
    """One detached number a row, [A], of any sign; the mean where none are given.

    Raises:
        ValueError: Their shape is another, one is not finite, or all are 0.
    """
    check_tensors(weights=weights)
    rows = len(student_hidden)
    if weights is None:
        return student_hidden.new_full((rows,), 1.0 / max(rows, 1))
    if weights.shape != (rows,):
        raise ValueError(f"student_hidden has {rows} rows and weights {tuple(weights.shape)}; give one a row")
    if rows and not weights.isfinite().all():
        at = int((~weights.isfinite()).nonzero()[0])
        raise ValueError(f"weights[{at}] is {float(weights[at])}; give finite numbers, of any sign")
    if rows and not weights.any():
        raise ValueError(f"weights are all 0, so none of the {rows} rows would be learned from; leave such rows out")
    return weights.detach()


def given_tokens(tokens: Tensor, student_hidden: Tensor, student: Head) -> Tensor:
    """The tokens taken, [A], as indices.

    Raises:
        ValueError: They are not one token of the vocabulary a row.
    """
    check_tensors(tokens=tokens)
    check_tokens(tokens, len(student_hidden), len(student.weight_V_H))
    return tokens.long()


def given_column(name: str, column: Any, rows: int) -> Tensor:
    """One detached finite number a row, [A].

    Raises:
        ValueError: It is something else.
    """
    check_tensors(**{name: column})
    if column is None or column.shape != (rows,):
        found = "missing" if column is None else f"of shape {tuple(column.shape)}"
        raise ValueError(f"{name} is {found} for {rows} rows; give one number a row")
    if not column.isfinite().all():
        at = int((~column.isfinite()).nonzero()[0])
        raise ValueError(f"{name}[{at}] is {float(column[at])}; give finite numbers, and leave out rows without one")
    return column.detach()  # type: ignore[no-any-return]


def given_divergence(kind: str, parameters: Mapping[str, Any], rows: int) -> tuple[Choice, dict[str, Any]]:
    """The divergence and its settings, checked; one number a row by the smallest and the largest."""
    per_row = {
        name: value.detach() for name, value in parameters.items() if isinstance(value, Tensor) and value.ndim > 0
    }
    for name, value in per_row.items():
        if value.shape != (rows,):
            raise ValueError(
                f"{name} has shape {tuple(value.shape)} for {rows} rows; give a number, or one number a row"
            )
    numbers = {name: value for name, value in parameters.items() if name not in per_row}
    ends = [{name: float(end(value)) for name, value in per_row.items() if rows} for end in (torch.min, torch.max)]
    choices = [choose(kind, {**numbers, **end}) for end in ends]
    return choices[0], {**choices[0].settings, **per_row}


def given_shares(shares: Sequence[float] | Tensor | None, members: int) -> list[float]:
    """One share a member of an ensemble, with sum 1.

    Raises:
        ValueError: There are none, or not one each, or they make no mean.
    """
    if not members:
        raise ValueError("teacher_hidden is an empty list; give the hidden states of at least one teacher")
    found = [1.0 / members] * members if shares is None else [float(share) for share in shares]
    if len(found) != members or not all(map(_positive, found)) or not math.isclose(sum(found), 1.0, rel_tol=1e-5):
        raise ValueError(
            f"teacher_shares={found} for {members} teachers; give one number above 0 a teacher, with sum 1, and leave out a teacher "
            "without a share"
        )
    return found


def one_each(name: str, given: Any, kind: type[T] | tuple[type[T], ...], members: int) -> list[Any]:
    """What is given for each of several teachers.

    Raises:
        ValueError: It is no list, or one of another length.
    """
    if given is None:
        return [None] * members
    if isinstance(given, kind) or not isinstance(given, Sequence) or len(given) != members:
        found = f"{len(given)} long" if isinstance(given, Sequence) else f"a {type(given).__name__}"
        raise ValueError(f"{name} is {found} and teacher_hidden is a list of {members}; give a list of one each")
    return list(given)


def check_finite(signals: Mapping[str, Tensor], models: Sequence[str] = ("student", "teacher")) -> None:
    """Refuses rows whose logits made no distribution, or whose value is no number: they would spoil the whole gradient.

    Read off the results [A], so it costs one number that the host waits for. A logit of -inf is a probability of 0 and fine.
    """
    value_A = signals["divergence"]
    bad_A = ~value_A.isfinite()
    if not bad_A.any():
        return
    row = int(bad_A.nonzero()[0])
    who = [name for name in models if not signals[f"{name}_entropy"][row].isfinite()]
    where = " and ".join(f"{name}_hidden or {name}_weight" for name in who) or "what is given for it"
    raise ValueError(
        f"row {row} has the divergence {float(value_A[row])}, as {int(bad_A.sum())} of {len(bad_A)} rows have none that is finite: "
        f"{where} holds nan, inf or numbers too large for the dtype; mend it, or leave such rows out (hidden[mask])"
    )
