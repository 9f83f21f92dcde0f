"""What the pages of a run are made of: pieces of text for tokens, curves by turn."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from view_cases import TOKENIZER

from agentopd.viewer.charts import STUDENT
from agentopd.viewer.decoding import pieces
from agentopd.viewer.depths import Stretch, depth_figures


@given(st.text(max_size=20))
def test_pieces_join_to_the_whole(text: str) -> None:
    ids = TOKENIZER.encode(text).ids
    found = pieces(ids, lambda some: str(TOKENIZER.decode(list(some), skip_special_tokens=False)))
    assert len(found) == len(ids)
    assert "".join(found) == text


def _decode(ids: Sequence[int]) -> str:
    return str(TOKENIZER.decode(list(ids), skip_special_tokens=False))


@given(st.lists(st.integers(0, TOKENIZER.get_vocab_size() - 1), max_size=80))
def test_pieces_of_bytes_that_are_no_text_join_to_the_whole(ids: list[int]) -> None:
    found = pieces(ids, _decode)
    assert len(found) == len(ids)
    assert "".join(found) == _decode(ids)


def test_bytes_that_are_no_text_cost_no_more_than_text() -> None:
    lead, rest = TOKENIZER.encode("\u00e9").ids
    asked: list[int] = []

    def decode(ids: Sequence[int]) -> str:
        asked.append(len(ids))
        return _decode(ids)

    ids = [lead, rest, *[rest] * 2_000, lead, rest]
    assert "".join(pieces(ids, decode)) == _decode(ids)
    assert sum(asked) < 64 * len(ids)


def test_curves_by_turn_are_means_over_their_steps() -> None:
    rows = [
        {"step": 1, "depth/tokens/1": 2.0, "depth/tokens/9+": 5.0},
        {"step": 2, "depth/tokens/1": 4.0, "depth/x/1": 9},
    ]
    curve = Stretch(rows, dashed=False).curve("tokens", "", STUDENT)
    assert curve is not None
    assert (curve.x, curve.y) == ([1, 9], [3.0, 5.0])
    assert Stretch(rows, dashed=False).curve("errors", "", STUDENT) is None
    assert depth_figures([{"step": 1, "rollout/success": 1.0}]) == []
    assert "in training, step 2." in depth_figures([{"step": 2, "depth/tokens/1": 4.0}])[0]
