"""Alignments worked out by hand."""

from collections.abc import Sequence

from agentopd.teachers.alignment import OURS, THEIRS, Common, Cut, Pair, align, commons, said_of
from agentopd.types import ToolCall


def cut(*pieces: str, special: str = OURS) -> Cut:
    return Cut.of([None if piece == "*" else piece.encode() for piece in pieces], special)


def pairs(ours: Cut, theirs: Cut, said: Sequence[Sequence[str]] = ()) -> list[tuple[str, str]]:
    return [
        ("|".join(ours.pieces[slice(*pair.ours)]), "|".join(theirs.pieces[slice(*pair.theirs)]))
        for pair in align(ours, theirs, said)
    ]


def same(ours: Cut, theirs: Cut) -> list[tuple[str, str]]:
    return [
        ("|".join(ours.pieces[slice(*pair.ours)]), "|".join(theirs.pieces[slice(*pair.theirs)]))
        for pair in align(ours, theirs, (), forms=False)
    ]


def test_the_same_text_cut_in_two_ways() -> None:
    assert pairs(cut("he", "llo", " wor", "ld"), cut("h", "ello", " wor", "l", "d")) == [
        ("he|llo", "h|ello"), (" wor", " wor"), ("ld", "l|d")
    ]  # fmt: skip
    assert align(cut("ab"), cut("a", "b"), ()) == [Pair((0, 1), (0, 2), 2)]


def test_the_bytes_of_an_emoji_lie_across_tokens() -> None:
    smile = "🙂".encode()
    ours = Cut.of([b"a" + smile[:2], smile[2:]], OURS)
    theirs = Cut.of([b"a", smile[:1], smile[1:2], smile[2:]], THEIRS)
    assert [(pair.ours, pair.theirs) for pair in align(ours, theirs, ())] == [((0, 1), (0, 3)), ((1, 2), (3, 4))]


def test_special_tokens_are_the_same_as_nothing() -> None:
    assert same(cut("a", "*", "b"), cut("a", "*", "b", special=THEIRS)) == [("a", "a"), ("b", "b")]
    assert same(cut("a", "*"), cut("a", "\xff")) == [("a", "a")]


def test_a_token_half_inside_is_no_part_of_the_same_bytes() -> None:
    assert same(cut("x", "yz"), cut("x", "y", "w")) == [("x", "x")]
    assert pairs(cut("x", "yz"), cut("x", "y", "w")) == [("x", "x"), ("yz", "y|w")]


def test_what_lies_between_is_one_form_on_each_side() -> None:
    ours = cut("so", " ", "*", '{"', "name", '": "', "look", '"}', "*")
    theirs = cut("so", "*", "look", "\n", "</", "call>", special=THEIRS)
    said = [["so"], ["look"]]
    found = align(ours, theirs, said)
    assert found == [
        Pair((0, 1), (0, 1), 2),
        Pair((1, 6), (1, 2), 11, same=False),
        Pair((6, 7), (2, 3), 4),
        Pair((7, 9), (3, 6), 2, same=False),
    ]
    assert align(ours, theirs, said, forms=False) == [found[0], found[2]]


def test_a_form_on_one_side_alone_has_no_counterpart() -> None:
    assert pairs(cut("a", "*", "b"), cut("a", "b"), [["a", "b"]]) == [("a", "a"), ("b", "b")]
    assert pairs(cut("a"), cut("a", "*", special=THEIRS), [["a"]]) == [("a", "a")]


def test_there_are_no_forms_where_a_word_is_missing_or_moved() -> None:
    """A template that leaves the content out, and one that puts it behind the call, do not write the same turn."""
    ours, call = cut("so", "<", "look", ">"), ["look"]
    assert pairs(ours, cut("[", "look", "]"), [["so"], call]) == [("look", "look")]
    assert pairs(ours, cut("[", "look", "]", "so"), [["so"], call]) == [("so", "so")]
    assert pairs(ours, cut("so", "[", "look", "]"), [["so"], call]) == [
        ("so", "so"), ("<", "["), ("look", "look"), (">", "]")
    ]  # fmt: skip


def test_a_value_that_is_written_in_two_ways_lies_in_a_form() -> None:
    ours, theirs = cut("f", '("', "\\n", '")'), cut("f", "<", "\n", ">")
    assert pairs(ours, theirs, [[], ["f", "\n"]]) == [("f", "f"), ('("|\\n|")', "<|\n|>")]


def test_there_are_no_forms_where_nothing_tells_the_place_of_a_call() -> None:
    """Its name is written in two ways, so the other side might have it behind the words."""
    assert pairs(cut("A", "<\\u0066>", "B"), cut("A", "[f]", "B"), [["A", "B"], ["f"]]) == [("A", "A"), ("B", "B")]


def test_what_one_side_says_once_more_is_no_form() -> None:
    """A template that repeats the content does not say so by the wrapper of a call."""
    ours, said = cut("hm, so", " <", "look", ">"), [["hm, so"], ["look"]]
    repeated = cut("hm, so", "\n", "hm, so", "[", "look", "]")
    assert pairs(ours, repeated, said) == [("hm, so", "hm, so"), ("look", "look"), (">", "]")]
    assert pairs(ours, cut("hm, so", "[", "look", "]"), said)[1] == (" <", "[")


def test_empty_tokens_belong_to_no_span() -> None:
    assert pairs(cut("", "a", "b"), cut("a", "", "b")) == [("a", "a"), ("b", "b")]


WRITTEN = '<tool_call>{"name": "price", "arguments": {"item": "a pear", "count": 1, "x": 1}}</tool_call>'
TAGGED = "<tool_call>price\n<arg_key>item</arg_key>\n<arg_value>a pear</arg_value>\n<arg_key>count</arg_key>\n<arg_value>1</arg_value>\n<arg_key>x</arg_key>\n<arg_value>1</arg_value>\n</tool_call>"
CALL = ToolCall("price", {"item": "a pear", "count": 1, "x": 1})


def test_names_and_values_of_a_call_hold_two_formats_together() -> None:
    found = commons(WRITTEN, TAGGED, said_of([], [CALL], WRITTEN, TAGGED))
    assert [WRITTEN[a : a + n] for a, _, n in found] == [
        "<tool_call>", "price", "item", "a pear", "count", "1", "x", "1", "</tool_call>"
    ]  # fmt: skip
    assert all(WRITTEN[a : a + n] == TAGGED[b : b + n] for a, b, n in found)
    assert TAGGED[found[3].theirs - 11 : found[3].theirs] == "<arg_value>"


def test_what_could_stand_in_two_places_is_left_out() -> None:
    """The argument called arguments stands inside of what JSON calls so too."""
    ours = '{"name": "f", "arguments": {"arguments": "v"}}'
    theirs = "f(arguments=v)"
    found = commons(ours, theirs, said_of([], [ToolCall("f", {"arguments": "v"})], ours, theirs))
    assert [ours[a : a + n] for a, _, n in found] == ["f", "v"]


def test_a_word_within_a_word_is_none() -> None:
    assert commons("value", "in a", [["a"]]) == []
    assert [one.size for one in commons("x a y", "z a w", [["a"]])] == [3]


def test_values_that_formats_write_in_different_ways_are_left_out() -> None:
    call = ToolCall("f", {"on": True, "text": 'say "no"'})
    said = said_of([], [call], "", "")
    assert said == [[], ["f", "on", "text", "say", '"no"']]
    ours, theirs = '{"on": true, "text": "say \\"no\\""}', '<on>True</on><text>say "no"</text>'
    found = commons(ours, theirs, [said[1][1:]])
    assert [ours[a : a + n] for a, _, n in found] == ["text", "say "]  # "on" might be either of two tags


def test_joined_pieces_are_one() -> None:
    assert commons("a b!", "a b?", [["a"], ["b"]]) == [Common(0, 0, 3)]
