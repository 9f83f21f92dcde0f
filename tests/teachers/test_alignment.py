"""Alignments worked out by hand, and that no byte is lost or counted twice."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from foreign_cases import ANSWER, FORGETFUL, GLM, HERMES, OPENING, TOOLS, foreign, own, played
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd.chat import Chat
from agentopd.chat.token_bytes import TokenBytes
from agentopd.teachers.alignment import OURS, THEIRS, Common, Cut, Pair, align, commons, said_of
from agentopd.teachers.rewriting import Aligner, Beside, rewritten
from agentopd.tooling.action import render_action
from agentopd.types import CONTEXT, Message, Segment, ToolCall

STUDENT = Chat(own())
OTHERS = {
    "hermes": Chat(foreign(HERMES)),
    "glm": Chat(foreign(GLM)),
    "forgetful": Chat(foreign(FORGETFUL)),
    "sentencepiece": Chat(foreign(HERMES, 1200, sentencepiece=True)),
}


def text_of(template: str, tokens: Sequence[int]) -> str:
    return str(foreign(template).decode(list(tokens)))


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


VALUE = st.one_of(
    st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from('🙂你好e\u0301 <"\\')), max_size=12),
    st.integers(-999, 999),
    st.booleans(),
    st.lists(st.integers(0, 9), max_size=3),
)
CALLS = st.lists(
    st.builds(ToolCall, st.just("price"), st.dictionaries(st.sampled_from(["item", "count", "note"]), VALUE)),
    max_size=2,
)
CONTENT = st.text(
    st.one_of(st.sampled_from("abc e\u0301🙂你\n.,"), st.characters(exclude_categories=["Cs"])), max_size=20
)
BROKEN = st.sampled_from(['<tool_call>{"name": "price"</tool_call>', "so </tool_call>", '<tool_call>{"name": 1}'])
ACTION = st.one_of(
    st.builds(lambda content, calls: render_action(content, calls), CONTENT.map(lambda t: t.replace("tool_call", "")), CALLS), BROKEN
)  # fmt: skip
TOKENS = st.lists(st.integers(0, len(own()) - 1), min_size=1, max_size=12)


@pytest.mark.parametrize("name", OTHERS)
@settings(max_examples=40, deadline=None)
@given(actions=st.lists(st.one_of(ACTION, TOKENS), min_size=1, max_size=3))
def test_no_byte_is_lost_or_counted_twice(name: str, actions: list[str | list[int]]) -> None:
    trajectory = played(STUDENT, actions)
    aligner = aligner_of(OTHERS[name])
    again = rewritten(trajectory, OTHERS[name], STUDENT)
    assert [one.turn for one in again.turns] == [turn.index for turn in trajectory.turns]
    for turn, theirs in zip(trajectory.turns, again.turns, strict=True):
        view = again.tokens[theirs.view]
        assert tuple(view[theirs.start : theirs.start + len(theirs.tokens)]) == theirs.tokens
        assert theirs.start > 0
        beside = aligner.beside(trajectory, turn, theirs)
        tokens = trajectory.segments[turn.segment].tokens_T[turn.start : turn.stop].tolist()
        sides = aligner.ours.pieces(tokens), aligner.theirs.pieces(theirs.tokens)
        at = (0, 0)
        skipped = 0
        for pair in [*beside.pairs, Pair((len(tokens),) * 2, (len(theirs.tokens),) * 2, 0)]:
            assert at[0] <= pair.ours[0]
            assert at[1] <= pair.theirs[0]
            skipped += sum(len(piece or b"") for piece in sides[0][at[0] : pair.ours[0]])
            covered = [
                b"".join(piece or b"" for piece in side[slice(*ends)])
                for side, ends in zip(sides, pair[:2], strict=True)
            ]
            assert len(covered[0]) == pair.size
            if pair.same:
                assert covered[0] == covered[1]
                assert all(
                    piece is not None
                    for side, ends in zip(sides, pair[:2], strict=True)
                    for piece in side[slice(*ends)]
                )
            else:
                assert pair.ours[0] < pair.ours[1]
                assert pair.theirs[0] < pair.theirs[1]
            at = pair.ours[1], pair.theirs[1]
        assert skipped + sum(pair.size for pair in beside.pairs) == beside.size
        assert beside.size == sum(len(piece or b"") for piece in sides[0])
        assert 0.0 <= beside.share <= 1.0


def aligner_of(other: Chat, end_of_turn: bool = False) -> Aligner:
    return Aligner(STUDENT, other, TokenBytes(own()), TokenBytes(other.tokenizer), end_of_turn)


@pytest.mark.parametrize("name", OTHERS)
def test_plain_text_is_aligned_to_the_last_byte(name: str) -> None:
    trajectory = played(STUDENT, ["It costs 17 🙂 in all, 你好 e\u0301."])
    [theirs] = rewritten(trajectory, OTHERS[name], STUDENT).turns
    assert aligner_of(OTHERS[name]).beside(trajectory, trajectory.turns[0], theirs).share == 1.0


def test_with_the_student_s_own_chat_every_token_is_a_span() -> None:
    trajectory = played(STUDENT, [render_action("So.", [CALL]), "All done."])
    again = rewritten(trajectory, STUDENT, STUDENT)
    assert again.tokens == [trajectory.segments[0].tokens_T[: trajectory.turns[-1].stop].tolist()]
    for turn, theirs in zip(trajectory.turns, again.turns, strict=True):
        beside = aligner_of(STUDENT, end_of_turn=True).beside(trajectory, turn, theirs)
        assert [pair.ours for pair in beside.pairs] == [(n, n + 1) for n in range(turn.stop - turn.start)]
        assert [pair.theirs for pair in beside.pairs] == [pair.ours for pair in beside.pairs]


def test_a_malformed_turn_stands_as_it_was_written() -> None:
    raw = '<tool_call>{"name": "price", </tool_call>'
    trajectory = played(STUDENT, [raw])
    [theirs] = rewritten(trajectory, OTHERS["glm"], STUDENT).turns
    assert text_of(GLM, theirs.tokens) == f"{raw}</s>"
    assert aligner_of(OTHERS["glm"]).beside(trajectory, trajectory.turns[0], theirs).share == 1.0


def test_invariant_8_the_teacher_reads_its_own_template_and_the_tools() -> None:
    trajectory = played(STUDENT, [render_action("", [CALL]), "Done."])
    [tokens] = rewritten(trajectory, OTHERS["glm"], STUDENT).tokens
    text = text_of(GLM, tokens)
    assert text.startswith("<s>system\n[{")
    assert '"note"' in text
    assert text.endswith(
        "<s>bot\n<tool_call>price\n<arg_key>item</arg_key>\n<arg_value>a pear</arg_value>\n<arg_key>count</arg_key>\n<arg_value>1</arg_value>\n"
        "<arg_key>x</arg_key>\n<arg_value>1</arg_value>\n</tool_call></s><s>tool\n17</s><s>bot\nDone.</s>"
    )


def test_a_template_that_rewrites_the_past_gives_a_view_a_turn() -> None:
    again = rewritten(played(STUDENT, ["One.", "Two.", "Three."]), OTHERS["forgetful"], STUDENT)
    assert [one.view for one in again.turns] == [0, 1, 2]
    assert text_of(FORGETFUL, again.tokens[2]).count("(said)") == 2


def test_a_student_whose_template_rewrites_the_past_is_read_in_one_view() -> None:
    student = Chat(foreign(FORGETFUL))
    trajectory = played(student, ["One.", "Two.", "Three."])
    assert len(trajectory.segments) == 4
    again = rewritten(trajectory, STUDENT, student)
    assert [one.view for one in again.turns] == [0, 0, 0]
    aligner = Aligner(student, STUDENT, TokenBytes(student.tokenizer), TokenBytes(own()), False)
    pairs = zip(trajectory.turns, again.turns, strict=True)
    assert all(aligner.beside(trajectory, turn, theirs).share == 1.0 for turn, theirs in pairs)


def test_ends_of_turns_are_aligned_where_that_is_asked_for() -> None:
    trajectory = played(STUDENT, ["Done.", STUDENT.write(list(OPENING), "cut")[:-1]])
    first, second = rewritten(trajectory, OTHERS["glm"], STUDENT).turns
    with_end, without = (aligner_of(OTHERS["glm"], end) for end in (True, False))
    last = with_end.beside(trajectory, trajectory.turns[0], first).pairs[-1]
    assert last.ours[1] == trajectory.turns[0].stop - trajectory.turns[0].start
    assert last.size == 0
    assert without.beside(trajectory, trajectory.turns[0], first).pairs[-1].size > 0
    assert with_end.beside(trajectory, trajectory.turns[1], second).pairs[-1].size > 0


def test_ids_of_the_same_bytes_match_and_special_ones_do_not() -> None:
    aligner = aligner_of(OTHERS["glm"])
    matched = aligner.matched()
    ours, theirs = aligner.ours.of, aligner.theirs.of
    ends = (own().convert_tokens_to_ids("<|end|>"), foreign(GLM).convert_tokens_to_ids("</s>"))
    couples = list(zip(matched.student_K.tolist(), matched.teacher_K.tolist(), strict=True))
    assert ends in couples
    assert all(ours[s] == theirs[t] is not None for s, t in couples if (s, t) != ends)
    assert len(set(matched.teacher_K.tolist())) == len(couples) > 256
    assert matched.student_K.tolist() == sorted(matched.student_K.tolist())
    same = aligner_of(STUDENT).matched()
    assert same.student_K.tolist() == same.teacher_K.tolist() == list(range(len(own())))


def test_a_turn_of_no_bytes_is_aligned() -> None:
    assert Beside([], 0).share == 1.0


def test_thinking_is_written_as_the_other_template_thinks() -> None:
    """Both templates know the mark; calls are written in two formats."""
    thinks = "{#- </think> -#}"
    student, other = Chat(foreign(HERMES + thinks)), Chat(foreign(GLM + thinks))
    canonical, thought = render_action("So.", [CALL]), "<think>\nhm, 3 pears\n</think>\n\n"
    trajectory = played(student, [student.write(list(OPENING), canonical, list(TOOLS), thought), "Done."])
    [turn, _] = trajectory.turns
    assert turn.text.startswith(thought)
    assert turn.action == canonical
    [theirs, _] = rewritten(trajectory, other, student).turns
    assert text_of(GLM, theirs.tokens).startswith(f"{thought}So.<tool_call>price\n<arg_key>")
    aligner = Aligner(student, other, TokenBytes(student.tokenizer), TokenBytes(other.tokenizer), False)
    beside = aligner.beside(trajectory, turn, theirs)
    pieces = aligner.ours.pieces(trajectory.segments[0].tokens_T[turn.start : turn.stop].tolist())
    covered = b"".join(piece or b"" for pair in beside.pairs for piece in pieces[slice(*pair.ours)]).decode()
    assert covered.startswith(f"{thought}So.<tool_call>price")


def test_thinking_is_said_aloud_where_the_other_template_knows_none() -> None:
    student = Chat(foreign(HERMES + "{#- </think> -#}"))
    thought = "<think>\nhm\n</think>\n\n"
    trajectory = played(student, [student.write(list(OPENING), "So.", list(TOOLS), thought)])
    [theirs] = rewritten(trajectory, OTHERS["glm"], student).turns
    assert text_of(GLM, theirs.tokens) == f"{thought}So.</s>"


def test_invariant_8_what_the_student_no_longer_saw_is_not_shown() -> None:
    """Its second segment starts without the oldest turn, as ``on_overflow: drop_oldest`` makes it."""
    whole = played(STUDENT, ["First words.", "Second words.", "Third words."])
    [segment], [first, second, third] = whole.segments, whole.turns
    seen: list[Message] = [*OPENING, {"role": "assistant", "content": "Second words."}, ANSWER]
    prompt = STUDENT.prompt(seen, list(TOOLS))
    own_T, length = slice(third.start, third.stop), third.stop - third.start
    context = [CONTEXT] * len(prompt)
    later = Segment(
        np.concatenate([np.array(prompt, np.int32), segment.tokens_T[own_T]]),
        np.array([*context, *[2] * length], np.int32),
        np.array([*context, *[0] * length], np.int32),
        np.array([False] * len(prompt) + [True] * length, np.bool_),
        np.concatenate([np.zeros(len(prompt), np.float32), segment.logprob_T[own_T]]),
    )
    before = replace(segment, turn_T=np.where(segment.turn_T == 2, CONTEXT, segment.turn_T))
    moved = replace(third, segment=1, start=len(prompt), stop=len(prompt) + length)
    dropped = replace(whole, segments=(before, later), turns=(first, second, moved))
    again = rewritten(dropped, OTHERS["glm"], STUDENT)
    texts = [text_of(GLM, tokens) for tokens in again.tokens]
    assert [one.view for one in again.turns] == [0, 0, 1]
    assert "First words." in texts[0]
    assert "First words." not in texts[1]
    assert texts[1].endswith("<s>bot\nSecond words.</s><s>tool\n17</s><s>bot\nThird words.</s>")
    assert aligner_of(OTHERS["glm"]).beside(dropped, dropped.turns[2], again.turns[2]).share == 1.0
