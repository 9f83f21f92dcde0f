"""Turns beside the same turns in other templates: no byte is lost or counted twice."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from foreign_cases import ANSWER, CLOSED, FORGETFUL, GLM, HERMES, OPENING, TOOLS, foreign, own, played
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd.chat import Chat
from agentopd.chat.token_bytes import TokenBytes
from agentopd.teachers.alignment import Pair
from agentopd.teachers.rewriting import NOTHING, Aligner, Beside, coming, rewritten
from agentopd.tooling.action import render_action
from agentopd.types import CONTEXT, Message, Segment, ToolCall

STUDENT = Chat(own())
OTHERS = {
    "hermes": Chat(foreign(HERMES)),
    "glm": Chat(foreign(GLM)),
    "forgetful": Chat(foreign(FORGETFUL)),
    "sentencepiece": Chat(foreign(HERMES, 1200, sentencepiece=True)),
    "closed": Chat(foreign(CLOSED)),
    "react": Chat(foreign(HERMES), call_format="react"),
    "xml": Chat(foreign(GLM), call_format="xml"),
}
BEGINS = {"react": "A", "xml": "<"}
"""What the others' first token of a call is, where it is no mark of Hermes or GLM."""


def text_of(template: str, tokens: Sequence[int]) -> str:
    return str(foreign(template).decode(list(tokens)))


CALL = ToolCall("price", {"item": "a pear", "count": 1, "x": 1})

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


def aligner_of(other: Chat, end_of_turn: bool = False, forms: bool = True) -> Aligner:
    return Aligner(STUDENT, other, TokenBytes(own()), TokenBytes(other.tokenizer), end_of_turn, forms)


@pytest.mark.parametrize("name", OTHERS)
def test_plain_text_is_aligned_to_the_last_byte(name: str) -> None:
    # a format may write a space in front: with a letter behind it that can be one token, which is of the format and of the text
    trajectory = played(STUDENT, ["🙂 It costs 17 in all, 你好 e\u0301."])
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
    beside = aligner_of(OTHERS["glm"], forms=False).beside(trajectory, trajectory.turns[0], theirs)
    assert beside.share == 1.0
    assert beside.coming == [NOTHING] * len(beside.pairs)


def test_a_malformed_turn_is_aligned_only_where_both_write_calls_alike() -> None:
    """In the other's form it would be as unlikely for its wrapper as for what is wrong with it."""
    trajectory = played(STUDENT, ['So. <tool_call>{"name": "price", </tool_call>'])
    for other, aligned in ((OTHERS["glm"], False), (OTHERS["hermes"], False), (STUDENT, True)):
        [theirs] = rewritten(trajectory, other, STUDENT).turns
        beside = aligner_of(other).beside(trajectory, trajectory.turns[0], theirs)
        assert bool(beside.pairs) == aligned
        assert beside.share == float(aligned)
        assert beside.size == 45


def test_what_could_come_is_the_next_form_and_behind_the_last_another_call() -> None:
    """A word, the opening, two pieces of a name, the close, the end: 20 to 25 here, 40 to 46 there; calls begin with 21 and 41."""
    ends = [((0, 1), (0, 1)), ((1, 2), (1, 3)), ((2, 3), (3, 4)), ((3, 4), (4, 5)), ((4, 5), (5, 6)), ((5, 6), (6, 7))]
    pairs = [Pair(*both, 1, same=n not in (1, 4)) for n, both in enumerate(ends)]
    opening, close = (21, 41), (24, 45)
    assert coming(pairs, range(20, 26), range(40, 47), opening) == [opening, NOTHING, close, close, NOTHING, opening]
    assert coming(pairs[:1], [20], [40], opening) == [opening]
    assert coming(pairs[:1], [20], [40], NOTHING) == [NOTHING]
    alike = [pair._replace(same=True) for pair in pairs]
    assert coming(alike, range(20, 26), range(40, 47), opening) == [opening, NOTHING, *[opening] * 4]


@pytest.mark.parametrize("name", OTHERS)
def test_words_could_have_been_a_call(name: str) -> None:
    """In ReAct the first of them stands in a form of its own, behind ``Final Answer:``."""
    trajectory = played(STUDENT, ["Done."])
    [theirs] = rewritten(trajectory, OTHERS[name], STUDENT).turns
    beside = aligner_of(OTHERS[name], end_of_turn=True).beside(trajectory, trajectory.turns[0], theirs)
    sides = (STUDENT, OTHERS[name])
    told = {
        tuple(chat.tokenizer.decode([i]) for chat, i in zip(sides, coming, strict=True))
        for coming in beside.coming[name == "react" :]
    }
    assert told == {('<tool_call>{"name": "', BEGINS.get(name, "<"))}
    assert len(beside.coming) == len(beside.pairs)
    [same] = rewritten(trajectory, STUDENT, STUDENT).turns
    alone = aligner_of(STUDENT, end_of_turn=True).beside(trajectory, trajectory.turns[0], same)
    assert alone.coming == [NOTHING] * len(alone.pairs)


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


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("react", 'Thought: So.\nAction: price\nAction Input: {"item": "a pear", "count": 1, "x": 1}'),
        (
            "xml",
            'So.\n<invoke name="price">\n<parameter name="item">a pear</parameter>\n<parameter name="count">1</parameter>\n'
            '<parameter name="x">1</parameter>\n</invoke>',
        ),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_names_and_values_are_aligned_with_calls_as_text(name: str, text: str, turned: bool) -> None:
    """Whether the teacher writes calls as text, or the student does."""
    student, other = (OTHERS[name], STUDENT) if turned else (STUDENT, OTHERS[name])
    trajectory = played(student, [render_action("So.", [CALL]), "Done."])
    first = trajectory.turns[0]
    assert first.calls == (CALL,)
    again = rewritten(trajectory, other, student)
    assert (first.text if turned else text_of(HERMES, again.turns[0].tokens).removesuffix("</s>")) == text
    aligner = Aligner(student, other, TokenBytes(student.tokenizer), TokenBytes(other.tokenizer))
    beside = aligner.beside(trajectory, first, again.turns[0])
    pieces = aligner.ours.pieces(trajectory.segments[0].tokens_T[first.start : first.stop].tolist())
    same = b"|".join(
        b"".join(piece or b"" for piece in pieces[slice(*pair.ours)]) for pair in beside.pairs if pair.same
    )
    assert all(word in same.replace(b"|", b"") for word in (b"o.", b"rice", b"item", b"a pear", b"count"))
    assert any(not pair.same for pair in beside.pairs)
    assert beside.share > 0.15


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


def test_an_end_of_two_tokens_is_aligned_as_a_whole() -> None:
    """Whether to stop is decided before the first of them; what a closing mark alone leads to says nothing of it."""
    closed = Chat(foreign(CLOSED))
    mark, end = (foreign(CLOSED).vocab[text] for text in ("<unk>", "</s>"))
    assert closed.closing == (mark,)
    both, cut = closed.write(list(OPENING), "Done."), closed.write(list(OPENING), "Done.")[:-2]
    for student, other, actions, sizes in (
        (STUDENT, closed, ["Done."], [(1, 2)]),
        (closed, STUDENT, [both, [*cut, end], [*cut, mark], cut], [(2, 1), (1, 1), None, None]),
        (closed, closed, [both, [*cut, end]], [(1, 1), (1, 2)]),
    ):
        trajectory = played(student, actions)
        aligner = Aligner(student, other, TokenBytes(student.tokenizer), TokenBytes(other.tokenizer))
        turns = zip(trajectory.turns, rewritten(trajectory, other, student).turns, sizes, strict=True)
        for turn, theirs, size in turns:
            pairs = aligner.beside(trajectory, turn, theirs).pairs
            last = pairs[-1]
            if size is None:
                assert last.size > 0
                continue
            assert (last.ours[1], last.theirs[1]) == (turn.stop - turn.start, len(theirs.tokens))
            assert (last.ours[1] - last.ours[0], last.theirs[1] - last.theirs[0]) == size
            assert sum(pair.size for pair in pairs) == len("Done.")
            assert all(before.theirs[1] == after.theirs[0] for before, after in pairwise(pairs))


def test_what_begins_the_end_of_a_turn_matches() -> None:
    closed, theirs = Chat(foreign(CLOSED)), Chat(foreign(CLOSED, 800))
    mark, end = (foreign(CLOSED).vocab[text] for text in ("<unk>", "</s>"))
    own_end = own().convert_tokens_to_ids("<|end|>")
    for student, other, expected in (
        (STUDENT, closed, {(own_end, mark)}),
        (closed, STUDENT, {(mark, own_end)}),
        (closed, theirs, {(mark, mark), (end, end)}),
    ):
        ours, known = TokenBytes(student.tokenizer), TokenBytes(other.tokenizer)
        matched = Aligner(student, other, ours, known).matched()
        couples = zip(matched.student_K.tolist(), matched.teacher_K.tolist(), strict=True)
        assert {(s, t) for s, t in couples if ours.of[s] is None or known.of[t] is None} == expected


def test_calls_are_written_alike_whatever_ends_a_turn() -> None:
    """What is right about a malformed call is as unlikely in either, so its turn is aligned."""
    student, other = Chat(foreign(HERMES)), Chat(foreign(CLOSED))
    trajectory = played(student, ['So. <tool_call>{"name": "price", </tool_call>'])
    [theirs] = rewritten(trajectory, other, student).turns
    aligner = Aligner(student, other, TokenBytes(student.tokenizer), TokenBytes(other.tokenizer))
    assert aligner.beside(trajectory, trajectory.turns[0], theirs).share == 1.0


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
    assert Beside([], 0, []).share == 1.0


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


DRAFT = f"hm, {render_action('', [CALL])} or not"


def test_a_call_that_was_only_thought_of_stands_where_it_was_thought() -> None:
    student = Chat(foreign(HERMES + "{#- </think> -#}"))
    thought = f"<think>\n{DRAFT}\n</think>\n\n"
    trajectory = played(student, [student.write(list(OPENING), "So.", list(TOOLS), thought)])
    [theirs] = rewritten(trajectory, OTHERS["hermes"], student).turns
    assert text_of(HERMES, theirs.tokens) == f"{thought}So.</s>"


@pytest.mark.parametrize("opened", [False, True])
def test_a_thought_that_never_ended_is_a_thought_in_the_other_template_too(opened: bool) -> None:
    opens = HERMES.replace('{{- "<s>bot\\n" -}}', '{{- "<s>bot\\n<think>\\n" -}}')
    assert opens != HERMES
    thinks = "{#- </think> -#}"
    student, other = Chat(foreign((opens if opened else HERMES) + thinks)), Chat(foreign(GLM + thinks))
    text = DRAFT if opened else f"<think>\n{DRAFT}"
    trajectory = played(student, [student.tokenizer.encode(text, add_special_tokens=False)])
    assert not trajectory.turns[0].action
    [theirs] = rewritten(trajectory, other, student).turns
    assert text_of(GLM, theirs.tokens) == f"<think>\n{DRAFT}</s>"
    [aloud] = rewritten(trajectory, OTHERS["hermes"], student).turns
    assert text_of(HERMES, aloud.tokens) == f"<think>\n{DRAFT}</s>"


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
