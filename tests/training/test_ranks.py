"""Several processes: what each does, and how they hear of each other."""

from typing import Any

import pytest
import torch
from processes_cases import together

from agentopd.errors import ConfigError, TrainingError
from agentopd.training.loop.ranks import Ranks, joined, owners


def test_keys_go_round_and_stay_together() -> None:
    assert owners(["a", "a", "b", "c", "b", "d"], 3) == [0, 0, 1, 2, 1, 0]


def test_a_single_process_does_everything_itself() -> None:
    alone = joined()
    assert alone == Ranks()
    assert alone.is_first
    assert alone.gather(lambda: 3) == [3]
    assert alone.agree(lambda: 4) == alone.first(lambda: 4) == 4
    assert alone.spread([3, 1, 2], lambda one: one, lambda share: [-one for one in share]) == [-3, -1, -2]


def test_a_number_of_processes_without_a_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match=r"^WORLD_SIZE=2: .*RANK.*; start agentopd by torchrun or .*unset WORLD_SIZE"):
        joined()


def _raises(ranks: Ranks, failing: int) -> None:
    if ranks.rank == failing:
        raise ConfigError(f"rank {failing} fails")


def _all_of_it() -> dict[str, Any]:
    ranks = joined()
    shares: list[list[int]] = []

    def tenfold(share: list[int]) -> list[int]:
        shares.append(share)
        return [10 * one for one in share]

    found = {
        "gather": ranks.gather(lambda: ranks.rank + 1),
        "first": ranks.first(lambda: f"from {ranks.rank}"),
        "agree": ranks.agree(lambda: ranks.rank),
        "spread": ranks.spread([5, 6, 7, 8, 9], lambda one: one // 2, tenfold),
        "single": ranks.spread([5], lambda one: one, tenfold),
        "map": ranks.map(lambda one: (ranks.rank, one * one), [2, 3, 4]),
        "shares": shares,
    }
    wide = torch.arange(6.0, dtype=torch.bfloat16).reshape(2, 3)[:, 1]
    found["tensor"] = ranks.gather(lambda: wide)[1 - ranks.rank].tolist()
    for failing in (0, 1):
        with pytest.raises(ConfigError, match=f"rank {failing} fails") as caught:
            ranks.agree(lambda: _raises(ranks, failing))  # noqa: B023
        found[f"told of {failing}"] = caught.value.is_told
    return found


def test_two_processes_share_work_results_and_errors() -> None:
    first, second = together(_all_of_it)
    for one in (first, second):
        assert one["gather"] == [1, 2]
        assert one["first"] == "from 0"
        assert one["spread"] == [50, 60, 70, 80, 90]  # pairs (5), (6, 7), (8, 9) go round
        assert one["single"] == [50]
        assert one["map"] == [(0, 4), (1, 9), (0, 16)]
        assert one["tensor"] == [1.0, 4.0]
    assert [first["agree"], second["agree"]] == [0, 1]
    assert first["shares"] == [[5, 8, 9], [5]]
    assert second["shares"] == [[6, 7]]  # of a single item it has none
    assert [first["told of 0"], second["told of 0"]] == [False, True]
    assert [first["told of 1"], second["told of 1"]] == [False, True]


class _UnpackableError(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("no")


def _meets_an_error_elsewhere() -> str:
    ranks = joined()

    def inner() -> None:
        if ranks.rank == 1:
            raise _UnpackableError("what it is")
        ranks.first(lambda: "something")
        ranks.first(lambda: "more")

    try:
        ranks.agree(inner)
    except Exception as error:
        ranks_after = ranks.gather(lambda: ranks.rank)
        return f"{type(error).__name__}: {error} {ranks_after}"
    return "nothing"


def test_an_error_ends_those_who_wait_for_something_else() -> None:
    first, second = together(_meets_an_error_elsewhere)
    assert first == f"{TrainingError.__name__}: _UnpackableError: what it is [0, 1]"
    assert second == "_UnpackableError: what it is [0, 1]"
