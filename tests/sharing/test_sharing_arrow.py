"""Data sets of others: their calls and schemas are structs, of which Arrow gives each row the keys of all."""

from pathlib import Path
from typing import Any

import datasets
import pytest
import sharing_cases as cases

from agentopd import records
from agentopd.sharing import Wanted, take_in

PRICE = {"name": "price", "arguments": {"item": "pear", "deep": {"unit": "kg"}, "more": [{"a": 1}, {"b": 2}]}}
ORDER = {"name": "order", "arguments": {"order_id": 7, "deep": {"fast": True}, "more": []}}


def schema(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": f"To {name}.", "parameters": parameters}}


TOOLS = [schema("price", item={"type": "string"}), schema("order", order_id={"type": "integer", "minimum": 1})]
ROWS = [
    {"messages": [cases.said("Go."), cases.acting("", {"type": "function", "function": one})], "tools": TOOLS}
    for one in (PRICE, ORDER)
]


@pytest.mark.parametrize("suffix", [".parquet", ""])
def test_a_row_of_structs_has_only_its_own_keys(suffix: str, tmp_path: Path) -> None:
    data, place = datasets.Dataset.from_list(ROWS), tmp_path / f"data{suffix}"
    given = data[0]["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert given["order_id"] is None  # or this test would show nothing
    data.to_parquet(str(place)) if suffix else data.save_to_disk(str(place))
    take_in(str(place), tmp_path / "run", Wanted(cases.chat()))
    for one, call in zip(records.open(tmp_path / "run"), (PRICE, ORDER), strict=True):
        [turn] = one.trajectory.turns
        assert [(made.name, made.arguments) for made in turn.calls] == [(call["name"], call["arguments"])]
        assert list(one.trajectory.tools) == TOOLS
        assert "null" not in cases.chat().tokenizer.decode(one.trajectory.segments[0].tokens_T)


def test_null_in_json_text_is_a_value(tmp_path: Path) -> None:
    call = cases.call("a", "price", item=None)
    datasets.Dataset.from_list([{"messages": [cases.said("Go."), cases.acting("", call)]}]).to_parquet(
        str(tmp_path / "data.parquet")
    )
    take_in(str(tmp_path / "data.parquet"), tmp_path / "run", Wanted(cases.chat()))
    [one] = records.open(tmp_path / "run")
    assert one.trajectory.turns[0].calls[0].arguments == {"item": None}
