"""Which parameters of a function are arguments of the tool."""

from typing import Any, Self

import pytest

from agentopd.errors import ConfigError, ToolError
from agentopd.tooling import Tool, ToolSet, tool
from agentopd.types import ToolCall


class Scale:
    @tool
    def weigh(self: Self, cls: str) -> str:
        """Weigh."""
        return f"{type(self).__name__} {cls}"


def test_a_parameter_may_be_called_self_or_cls_where_it_is_an_argument() -> None:
    @tool
    def repeat(self: int, cls: str = "a") -> str:
        """Repeat."""
        return cls * self

    assert list(Tool.of(repeat).parameters["properties"]) == ["self", "cls"]
    assert list(Tool.of(Scale().weigh).parameters["properties"]) == ["cls"]
    tools = ToolSet([repeat, *ToolSet.of(Scale())])
    assert tools.call(ToolCall("repeat", {"self": 2, "cls": "b"})) == "bb"
    assert tools.call(ToolCall("weigh", {"cls": "b"})) == "Scale b"


def test_self_outside_of_a_method_is_refused() -> None:
    @tool
    def lost(self, item: str) -> str:  # type: ignore[no-untyped-def]
        """Lost."""
        return item

    @tool
    def hinted(self: Any, item: str) -> str:
        """An argument like others, until it is bound."""
        return item

    for wrong, name in ((lost, "lost"), (Scale.weigh, "weigh"), (hinted.__get__(Scale()), "hinted")):
        with pytest.raises(ConfigError, match=rf"^tool {name}: 'self' stands for the object only in a method; define"):
            Tool.of(wrong)
    assert Tool.of(lost.__get__(Scale()))(item="fig") == "fig"


def test_a_whole_number_too_large_for_a_float_is_no_number_for_a_tool() -> None:
    @tool
    def weigh(grams: float) -> str:
        """Weigh."""
        return repr(grams)

    for value in (10**400, -(10**400)):
        with pytest.raises(ToolError, match=r"^weigh: grams: Input should be a finite number"):
            Tool.of(weigh)(grams=value)
    assert Tool.of(weigh)(grams=10**300) == "1e+300"
