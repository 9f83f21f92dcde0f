"""What a server lists as its models, and calls itself in answers: no list but of names, and no key in a name."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from serving_cases import Handler, running
from talking_cases import Talking, said, talking

from agentopd.errors import TeacherError
from agentopd.serving import Answers, ChatServer, Ledger, Patience
from agentopd.serving.endpoint import Endpoint
from agentopd.serving.scorer import Scorer
from agentopd.serving.waiting import Waiting

KEY = "sk-12345/6789"
BRIEF = Patience(2.0, 1.0)
NO_LIST = "which is no list of models; give the address"


class _Listing(Handler):
    models: Any = ()

    def do_GET(self) -> None:
        self.answered(200, json.dumps({"data": self.models}).encode())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Talking]:
    monkeypatch.setenv("A_KEY", KEY)
    served = Talking(lambda _: said("7"))
    with running(served, _Listing):
        yield served


@pytest.mark.parametrize("name", [1, None, "a\ud800", KEY, [KEY]])
@pytest.mark.parametrize("model", [None, "tiny"])
def test_what_is_no_name_is_no_list(
    name: Any, model: str | None, server: Talking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Listing, "models", [{"id": name}, {"id": "other"}])
    with pytest.raises(TeacherError, match=NO_LIST) as served:
        Scorer.found(Endpoint("teacher 't'", server.url, BRIEF, "A_KEY"), model, 0, range(4))
    with pytest.raises(TeacherError, match=NO_LIST) as spoken:
        ChatServer.of(Waiting("teacher 't'", f"{server.url}/v1", BRIEF, "A_KEY"), model, Ledger("t"), Answers())
    for error in (served, spoken):
        assert KEY not in str(error.value)
        assert str(error.value).encode()


@pytest.mark.parametrize("told", ["8192", 512.5, -1, True, KEY])
def test_what_is_no_length_is_told(told: Any, server: Talking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Listing, "models", [{"id": "tiny", "max_model_len": told}])
    with pytest.raises(
        TeacherError, match=r"tells max_model_len=.*, which is no number of tokens; give the address"
    ) as error:
        Scorer.found(Endpoint("teacher 't'", server.url, BRIEF, "A_KEY"), None, 0, range(4))
    assert KEY not in str(error.value)


def test_an_answer_that_calls_its_model_by_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", KEY)
    with talking(lambda asked: said("7") | {"model": asked["messages"][0]["content"].replace("key", KEY)}) as server:
        one = ChatServer.of(Waiting("teacher 't'", server.base, BRIEF, "A_KEY"), "tiny", Ledger("t"), Answers())
        for name in ("tiny-1", "key"):
            question = {"messages": [{"role": "user", "content": name}]}
            if name == "tiny-1":
                assert one.ask(question).content == "7"
                continue
            with pytest.raises(TeacherError, match=r"answered as the model '\*\*\*', and before as 'tiny-1'"):
                one.ask(question)
