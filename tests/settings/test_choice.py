"""A user's own function as a kind: how its signature is read, and what is said where it cannot be."""

import sys
from pathlib import Path
from typing import Any

import pytest

from agentopd.objective.weights import WEIGHTS
from agentopd.settings.choice import Choice
from agentopd.settings.clock import Clock
from agentopd.settings.kinds import Kinds
from agentopd.settings.parts import OneOf
from agentopd.settings.schedules import SCHEDULES

MINE = """
from typing import TYPE_CHECKING, Annotated
from pydantic import Field
if TYPE_CHECKING:
    from nowhere import Missing

def bare(rows, teacher, *, floor=0.5, k=3, mode="soft", on=True, steps=(1, 2), anything=None, required):
    return rows

def plain(rows, teacher): return rows
def checked(rows: "Missing", teacher: "Missing", *, floor: "float" = 0.5) -> "Missing": return rows
def loose(rows, teacher, floor=0.5, *, k=1): return rows
def open_(rows, teacher, **settings): return rows
def unknown(rows, teacher, *, floor: "Missing" = 0.5): return rows
def no_type(rows, teacher, *, floor: 3 = 0.5): return rows
def underscored(rows, teacher, *, _floor: float = 0.5): return rows
def named_kind(rows, teacher, *, kind="a"): return rows
def shadow(rows, teacher, *, copy=1, schema=2): return rows
def wrong_default(rows, teacher, *, floor: float = "high"): return rows
def optional(rows, teacher, *, bound: Annotated[float, Field(gt=0)] | None = None, name: str | None = None): return rows
def warm(clock, *, start: float, by=0.5): return start + by * clock.step
"""
WEIGHT, SCHEDULE = OneOf("weight", WEIGHTS), Kinds("schedule", SCHEDULES)


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_parts.py").write_text(MINE)
    (tmp_path / "my_broken.py").write_text("1 / 0")
    (tmp_path / "my_unfinished.py").write_text("def f(")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("my_parts", "my_broken", "my_unfinished"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def _bare(**settings: Any) -> Choice:
    return WEIGHT.validate({"kind": "my_parts:bare", "required": 0, **settings})


def test_settings_without_annotations_take_their_defaults_type() -> None:
    defaults = {"floor": 0.5, "k": 3, "mode": "soft", "on": True, "steps": (1, 2), "anything": None, "required": 0}
    assert _bare().settings == defaults
    given = {"floor": 1, "k": 4, "mode": "hard", "on": False, "steps": [3], "anything": {"a": [1]}, "required": "x"}
    assert _bare(**given).settings == given | {"floor": 1.0, "steps": (3,)}


def test_only_the_annotations_of_settings_need_to_exist_at_run_time() -> None:
    assert WEIGHT.validate({"kind": "my_parts:checked", "floor": 1}).settings == {"floor": 1.0}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("floor", "high", "floor: Input should be a valid number"),
        ("floor", True, "floor: Input should be a valid number"),
        ("k", 0.5, "k: Input should be a valid integer"),
        ("mode", 3, "mode: Input should be a valid string"),
        ("on", 1, "on: Input should be a valid boolean"),
        ("steps", 3, "steps: expected a list"),
        ("flor", 1.0, r"has no setting 'flor' \(did you mean 'floor'"),
    ],
)
def test_a_value_of_another_type_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^weight 'my_parts:bare':? {message}"):
        _bare(**{name: value})


def test_a_schedule_may_stand_for_a_float_without_an_annotation() -> None:
    choice = _bare(floor={"kind": "my_parts:warm", "start": 1.0})
    assert choice.at(Clock(step=4, total=9))["floor"] == 3.0
    with pytest.raises(ValueError, match=r"schedule 'my_parts:warm': start: Input should be a valid number"):
        SCHEDULE.validate({"kind": "my_parts:warm", "start": {"kind": "constant", "value": 1.0}})


def test_a_schedule_may_stand_for_a_float_that_may_be_null() -> None:
    assert _optional(None).at(Clock(step=0, total=9)) == {"bound": None, "name": None}
    choice = _optional({"kind": "linear", "start": 1.0, "end": 3.0})
    assert choice.at(Clock(step=4, total=9))["bound"] == 2.0
    with pytest.raises(ValueError, match="bound: Input should be greater than 0"):
        _optional({"kind": "linear", "start": 1.0, "end": 0.0})
    with pytest.raises(ValueError, match="name: Input should be a valid string"):
        WEIGHT.validate({"kind": "my_parts:optional", "name": {"kind": "constant", "value": 1.0}})


def _optional(bound: Any) -> Choice:
    return WEIGHT.validate({"kind": "my_parts:optional", "bound": bound})


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"kind": "step", "values": [1.0], "boundaries": [1]}, "'step': ValueError: 1 values need 0 boundaries, got 1"),
        ({"kind": "my_parts:plain"}, "'my_parts:plain': TypeError: "),
        ({"kind": "constant", "value": -1.0}, "Input should be greater than 0"),
        ({"kind": "my_parts:warm", "start": 1e308, "by": "x"}, "by: Input should be a valid number"),
    ],
)
def test_a_schedule_is_tried_at_the_first_step(schedule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WEIGHT.validate({"kind": "teacher_entropy", "scale": schedule})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("loose", r"floor=0.5 cannot be set: settings stand after a \*"),
        ("open_", r"\*\*settings cannot be set: settings stand after a \*"),
        ("underscored", "_floor: float = 0.5 cannot be set: .* no leading underscore"),
        ("named_kind", "kind='a' cannot be set: .* not kind"),
        ("unknown", "its settings cannot be read: NameError: name 'Missing' is not defined"),
        ("no_type", "its settings cannot be read: ArbitraryTypeWarning: 3 is not a Python type"),
    ],
)
def test_a_signature_that_cannot_be_read_is_refused_with_the_right_shape(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        WEIGHT.validate(f"my_parts:{name}")
    assert str(caught.value).startswith(f"weight 'my_parts:{name}': ")
    assert str(caught.value).endswith("; the shape is (rows, teacher, *, setting: float = 1.0)")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("my_parts:wrong_default", r"floor: Input should be a valid number.*\(got 'high'\)"),
        ("my_parts:absent", "cannot import 'my_parts:absent': .*the form is package.module:name"),
        ("my_broken:f", "cannot import 'my_broken:f': my_broken raises ZeroDivisionError: division by zero"),
        ("my_unfinished:f", r"cannot import 'my_unfinished:f': my_unfinished raises SyntaxError: .*line 1"),
        (":f", "cannot import ':f'; the form is package.module:name"),
        ("my_parts:", "cannot import 'my_parts:'; the form is package.module:name"),
        ("my_parts:MINE", "cannot import"),
        ("builtins:dict", "its settings cannot be read: ValueError"),
    ],
)
def test_other_mistakes_in_a_function_of_ones_own(kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WEIGHT.validate(kind)


@pytest.mark.filterwarnings("error")
def test_a_setting_may_be_called_as_pydantic_calls_something_of_its_own() -> None:
    assert WEIGHT.validate({"kind": "my_parts:shadow", "copy": 3}).settings == {"copy": 3, "schema": 2}


def test_a_function_without_settings_is_fine() -> None:
    assert WEIGHT.validate("my_parts:plain").settings == {}
