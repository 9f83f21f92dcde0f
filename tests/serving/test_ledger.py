"""What was spent is known after a kill, and nothing is asked past the cap."""

import json
from pathlib import Path

import pytest

from agentopd.errors import TeacherError
from agentopd.serving import Cap, Ledger, Prices, Spent, SpentError


def test_cost_is_tokens_times_prices_per_million() -> None:
    ledger = Ledger("judge", prices=Prices(input=0.15, output=0.6))
    ledger.begin()
    ledger.pay(1000, 200)
    assert ledger.spent == Spent(1, 1000, 200, pytest.approx(1000 * 0.15e-6 + 200 * 0.6e-6))  # type: ignore[arg-type]
    assert ledger.text() == "1 requests, 1000 prompt and 200 completion tokens, cost 0.00027 by the prices given"


def test_what_was_spent_is_read_back_and_that_of_others_is_not(tmp_path: Path) -> None:
    path = tmp_path / "spending.jsonl"
    for name in ("judge", "writer"):
        ledger = Ledger(name, "m", path, Prices(input=1.0, output=2.0))
        ledger.begin()
        ledger.pay(10, 5)
        ledger.begin()  # and is killed
    again = Ledger("judge", "m", path)
    assert again.spent == Spent(2, 10, 5, 2e-5)
    assert again.since() == Spent()
    again.begin()
    again.refund()
    again.pay(1, 1)
    assert again.since() == Spent(0, 1, 1, 0.0)
    assert [json.loads(line)["teacher"] for line in path.read_text().splitlines()].count("writer") == 3


def test_a_line_that_was_cut_short_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "spending.jsonl"
    path.write_text('{"teacher": "judge", "requests": 1}\n{"teacher": "judge", "prompt_to')
    ledger = Ledger("judge", "", path)
    ledger.begin()
    assert Ledger("judge", "", path).spent == Spent(2)


@pytest.mark.parametrize(
    ("cap", "said"),
    [
        (Cap(requests=2), r"^teachers\.judge\.cap\.requests=2: reached by 2 requests, 200 prompt and 20 completion"),
        (Cap(tokens=220), r"cap\.tokens=220: reached .* raise teachers\.judge\.cap\.tokens and resume the run$"),
        (Cap(cost=0.0003), r"cap\.cost=0\.0003: .* cost 0\.0004 by the prices given"),
    ],
)
def test_no_request_begins_past_the_cap(cap: Cap, said: str, tmp_path: Path) -> None:
    path = tmp_path / "spending.jsonl"
    for _ in range(2):
        ledger = Ledger("judge", "m", path, Prices(input=1.0, output=10.0), cap)
        ledger.begin()
        ledger.pay(100, 10)
    for one in (ledger, Ledger("judge", "m", path, Prices(input=1.0, output=10.0), cap)):
        with pytest.raises(SpentError, match=said):
            one.begin()
    assert ledger.spent.requests == 2


def test_what_cannot_be_written_down_is_not_asked(tmp_path: Path) -> None:
    (tmp_path / "spending").write_text("")
    ledger = Ledger("judge", "m", tmp_path / "spending" / "spending.jsonl")
    with pytest.raises(TeacherError, match=r"spending\.jsonl cannot be written: .*; make room, or make it writable"):
        ledger.begin()
