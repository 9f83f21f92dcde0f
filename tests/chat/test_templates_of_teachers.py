"""Every chat template that TRL ships, as that of a teacher with another tokenizer and as that of its student."""

import pytest
from foreign_cases import own, played
from template_cases import CASES, chat_of

from agentopd.chat import Chat
from agentopd.chat.token_bytes import TokenBytes
from agentopd.teachers.rewriting import Aligner, rewritten
from agentopd.tooling.action import call

OWN = Chat(own())
ACTIONS = [
    "Let me see.\n" + call("price", item="red pears", count=3),
    "It costs 17.",
    '<tool_call>{"name": "price"</tool_call>',
]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("teaches", [True, False])
def test_what_is_said_is_aligned_whatever_the_template(name: str, teaches: bool) -> None:
    student, other = (OWN, chat_of(name)) if teaches else (chat_of(name), OWN)
    trajectory = played(student, ACTIONS[:: 1 if teaches else -1])
    aligner = Aligner(
        student, other, TokenBytes(student.tokenizer), TokenBytes(other.tokenizer), end_of_turn=False, forms=False
    )
    pairs = zip(trajectory.turns, rewritten(trajectory, other, student).turns, strict=True)
    shares = [aligner.beside(trajectory, turn, theirs).share for turn, theirs in pairs][:: 1 if teaches else -1]
    assert shares[0] > 0.2  # names and values of a call, and what stands beside it
    assert min(shares[1:]) > (
        0.99 if teaches else 0.5
    )  # a template may put a space, or a mark of its own, before the words
