"""Chat completions over real HTTP: what is asked again, what is refused, what is paid once."""

import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from talking_cases import Talking, likely, said, talking

from agentopd.errors import ConfigError, TeacherError
from agentopd.serving import Answer, Answers, Cap, ChatServer, Ledger, Patience, RefusedError, Spent, SpentError
from agentopd.serving.waiting import Waiting


@pytest.fixture
def server() -> Iterator[Talking]:
    with talking(lambda asked: said(f"to {asked['messages'][0]['content']}")) as one:
        yield one


def of(
    server: Talking,
    model: str | None = "tiny",
    patience: Patience = Patience(5.0, 5.0),  # noqa: B008
    key_env: str | None = None,
    ledger: Ledger | None = None,
    path: Path | None = None,
) -> ChatServer:
    waiting = Waiting("teacher 'judge'", server.base, patience, key_env)
    return ChatServer.of(waiting, model, ledger or Ledger("judge"), Answers(path))


def body(text: str = "you") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def test_it_asks_exactly_what_it_is_given(server: Talking) -> None:
    answer = of(server).ask(body() | {"temperature": 0, "top_k": 3})
    assert answer == Answer("to you", (), "stop", None)
    assert server.asked == [{"model": "tiny", **body(), "temperature": 0, "top_k": 3}]
    assert of(server, model=None).model == "tiny"


@pytest.mark.parametrize(
    "fault", [429, 500, 503, 520, 524, 529, "half", "hang", {"error": {"code": 502, "message": "upstream"}}]
)
def test_a_server_that_comes_back_is_waited_for(server: Talking, fault: Any, caplog: pytest.LogCaptureFixture) -> None:
    one = of(server)
    server.faults.extend([fault, fault])
    with caplog.at_level(logging.WARNING):
        assert one.ask(body()).content == "to you"
    assert len(server.asked) == 3
    assert server.base in caplog.text
    assert one.ledger.spent.prompt_tokens == 100
    free = fault not in ("half", "hang")  # what may have been charged is counted
    assert one.ledger.spent.requests == (1 if free else 3)


def test_a_late_answer_is_asked_for_again(server: Talking) -> None:
    one = of(server, patience=Patience(0.2, 5.0))
    server.faults.append("late")
    assert one.ask(body()).content == "to you"


def test_one_that_stays_away_is_an_error_that_names_it(server: Talking) -> None:
    one = of(server, patience=Patience(5.0, 0.3))
    server.faults.extend([503] * 99)
    with pytest.raises(
        TeacherError, match=r"^teacher 'judge': http://127.*/v1/chat/completions answered 503: .*over 0\.3"
    ):
        one.ask(body())


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_what_refuses_is_not_asked_again(server: Talking, status: int) -> None:
    one = of(server)
    server.faults.append(status)
    with pytest.raises(RefusedError, match=rf"/v1/chat/completions refused with {status}: .*as told"):
        one.ask(body())
    assert len(server.asked) == 1
    assert one.ledger.spent == Spent()


@pytest.mark.parametrize(
    "garbage",
    ["null", "[]", '"text"', "{}", {"choices": [3]}, {"choices": [{"message": {"content": 3}}]},
     {"choices": [{"message": {"tool_calls": 3}}]},
     said("hm", logprobs={"content": [{"token": "hm", "logprob": float("nan")}]})],
)  # fmt: skip
def test_an_answer_that_is_none_is_an_error_and_is_not_kept(server: Talking, garbage: Any) -> None:
    one = of(server)
    server.faults.append(garbage)
    with pytest.raises(
        TeacherError,
        match=r"^teacher 'judge': http://127.*gave no answer that can be used: .*; (look at what stands|set top_logprobs: 0)",
    ):
        one.ask(body())
    assert one.ask(body()).content == "to you"


EMPTY: list[dict[str, Any]] = [
    {"choices": [], "usage": {}},
    {"choices": None},
    {"choices": [], "error": {"code": 502}},
    {"choices": [{"message": None, "finish_reason": ["?"]}]},
    said("hal", finish="error"),
    said("hal", finish="abort"),
]


@pytest.mark.parametrize("empty", EMPTY)
def test_an_answer_without_a_message_is_asked_for_again(server: Talking, empty: dict[str, Any]) -> None:
    """Also where a cap is on tokens, which such answers seldom tell."""
    one = of(server, ledger=Ledger("judge", cap=Cap(tokens=10_000)))
    server.faults.append(empty)
    assert one.ask(body()).content == "to you"
    assert len(server.asked) == 2


def test_a_server_that_never_has_a_message_is_told(server: Talking) -> None:
    server.faults.extend(EMPTY * 9)
    told = r"^teacher 'judge': http://127.*/v1/chat/completions gave no answer that can be used: .*, over 0\.3 seconds; start"
    with pytest.raises(TeacherError, match=told):
        of(server, patience=Patience(5.0, 0.3)).ask(body())


def test_what_no_answer_takes_is_no_usage(server: Talking) -> None:
    server.reply = lambda _: said("7") | {"usage": {"prompt_tokens": 10**400, "completion_tokens": 1}}
    assert of(server).ask(body()).content == "7"
    with pytest.raises(TeacherError, match="it tells no usage, which the cap is on"):
        of(server, ledger=Ledger("judge", cap=Cap(tokens=10))).ask(body("another"))


def test_another_model_behind_the_same_name_is_found_out(server: Talking) -> None:
    one = of(server)
    one.ask(body("first"))
    server.faults.append(said("hm") | {"model": "tiny-2"})
    with pytest.raises(
        TeacherError, match="answered as the model 'tiny-2', and before as 'tiny-1'; set model to the exact"
    ):
        one.ask(body())


def test_what_a_server_repeats_of_a_request_is_not_kept(
    server: Talking, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("A_KEY", "s3cret")
    one = of(server, path=tmp_path / "a.sqlite", key_env="A_KEY")
    told = said("to you") | {"headers": {"authorization": "Bearer s3cret"}}
    told["choices"][0]["message"]["sent"] = "s3cret"
    server.faults.append(told)
    answer = one.ask(body())
    one.answers.put("end", {})
    assert all(b"s3cret" not in file.read_bytes() for file in tmp_path.iterdir())
    assert of(server, path=tmp_path / "a.sqlite").ask(body()) == answer
    assert len(server.asked) == 1


@pytest.mark.parametrize("proxy", ["127.0.0.1:9:pr0xyPASS", "nowhere://me:pr0xyPASS@here"])
def test_a_proxy_without_an_address_is_told_and_its_password_is_not(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(ConfigError, match=r"^HTTPS_PROXY=\.\.\., .* holds no address of a proxy") as told:
        ChatServer.of(
            Waiting("teacher", "https://here.invalid/v1", Patience(1.0, 0.1)), None, Ledger("judge"), Answers()
        )
    assert "pr0xyPASS" not in str(told.value)


def test_the_same_is_sent_once_at_the_same_time_and_never_again(server: Talking, tmp_path: Path) -> None:
    one = of(server, path=tmp_path / "a.sqlite")
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(one.ask(body()).content)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["to you"] * 8
    assert len(server.asked) == 1
    assert of(server, path=tmp_path / "a.sqlite").ask(body()).content == "to you"
    assert len(server.asked) == 1
    one.ask(body("another"))
    assert len(server.asked) == 2


def test_an_error_reaches_all_who_wait_for_the_same(server: Talking) -> None:
    one = of(server)
    server.faults.append(400)
    failed: list[Exception] = []

    def ask() -> None:
        try:
            one.ask(body())
        except TeacherError as error:
            failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failed) >= 1
    assert one.ask(body()).content == "to you"


def test_nothing_is_sent_past_the_cap_and_what_is_kept_still_answers(server: Talking) -> None:
    one = of(server, ledger=Ledger("judge", cap=Cap(requests=2)))
    one.ask(body("1"))
    one.ask(body("2"))
    with pytest.raises(SpentError, match=r"^teachers\.judge\.cap\.requests=2: "):
        one.ask(body("3"))
    assert one.ask(body("1")).content == "to 1"
    assert len(server.asked) == 2


def test_a_cap_on_tokens_needs_a_server_that_counts_them(server: Talking) -> None:
    untold = {name: value for name, value in said("hm").items() if name != "usage"}
    server.faults.extend([untold, untold])
    assert of(server).ask(body()).content == "hm"
    with pytest.raises(TeacherError, match=r"it tells no usage, which the cap is on; set cap\.requests instead"):
        of(server, ledger=Ledger("judge", cap=Cap(tokens=9))).ask(body())


def test_the_key_is_sent_and_never_told(
    server: Talking, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("A_KEY", "s3cret")
    monkeypatch.setenv("OPENAI_API_KEY", "another-s3cret")
    monkeypatch.setenv("OPENAI_ORG_ID", "an-org")
    with caplog.at_level(logging.DEBUG):
        one = of(server, key_env="A_KEY", path=tmp_path / "a.sqlite", ledger=Ledger("judge", path=tmp_path / "s.jsonl"))
        assert one.ask(body()).content == "to you"
        server.faults.append("no JSON, s3cret")
        server.faults.append({"error": "bad s3cret"})
        server.faults.append({"choices": "s3cret"})
        with pytest.raises(TeacherError) as error:
            one.ask(body("again"))
    assert set(server.authorized) == {"Bearer s3cret"}
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert "s3cret" not in str(error.value) + caplog.text + repr(one) + repr(vars(one.ledger))
    assert b"s3cret" not in kept
    of(server).ask(body("without"))
    assert server.authorized[-1] == "Bearer none"
    assert "an-org" not in str(server.headers)


@pytest.mark.parametrize("key", ["sk-123456/789", "EMPTY"])
def test_an_answer_that_repeats_the_key_is_not_kept(
    key: str, server: Talking, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A short one is a word like others, and no secret."""
    monkeypatch.setenv("A_KEY", key)
    one = of(server, key_env="A_KEY", path=tmp_path / "a.sqlite")
    server.reply = lambda asked: said(f"Incorrect API key provided: {key}")
    if key == "EMPTY":
        assert one.ask(body()).content.endswith("EMPTY")
        return
    with pytest.raises(
        TeacherError, match=r"gave no answer that can be used: it repeats the key \(it said .*: \*\*\*"
    ) as error:
        one.ask(body())
    one.answers.put("end", {})
    assert key not in str(error.value)
    assert all(key.encode() not in file.read_bytes() for file in tmp_path.iterdir())
    server.reply = lambda asked: said("", ("pay", {"to": key}))
    with pytest.raises(TeacherError, match="it repeats the key"):
        one.ask(body())


@pytest.mark.parametrize("key", ["s3cret\n", "s3cret s3cret", "s3cr\u00e9t"])
def test_what_is_more_than_a_key_is_refused_and_not_told(
    server: Talking, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("A_KEY", key)
    with pytest.raises(ConfigError, match=r"^key_env=A_KEY: this environment variable holds more than a key") as error:
        of(server, key_env="A_KEY")
    assert key.strip() not in str(error.value)


def test_content_in_parts_is_its_text(server: Talking) -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "17"}]
    server.faults.append({"choices": [{"message": {"content": parts}}]})
    assert of(server).ask(body()).content == "17"


def test_one_that_lists_nothing_is_taken_at_its_word(caplog: pytest.LogCaptureFixture) -> None:
    with talking(lambda _: said("hm"), models=()) as server:
        assert of(server, model="any").ask(body()).content == "hm"
        with pytest.raises(
            ConfigError, match=r"^model=null: http://127.* does not list its models \(status 404\); name one"
        ):
            of(server, model=None)
    with talking(lambda _: said("hm"), models=("tiny", "other")) as server:
        of(server, model="tinny")
        assert "model='tinny' is not among those that http://127" in caplog.text
        assert "did you mean 'tiny'?" in caplog.text
        with pytest.raises(ConfigError, match=r"model=null: .* serves tiny, other; name one"):
            of(server, model=None)


def test_without_the_client_it_says_how_to_get_it(server: Talking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match=r'not installed; pip install "agentopd\[openai\]"'):
        of(server)


def test_log_probabilities_are_read_as_bytes(server: Talking) -> None:
    server.faults.append(said("é", logprobs=likely(("é", {"é": -0.1, "e": -2.5}))))
    tokens = of(server).ask(body()).tokens
    assert tokens is not None
    assert (tokens[0].spelt, tokens[0].logprob, tokens[0].top) == (
        b"\xc3\xa9",
        -0.1,
        ((b"\xc3\xa9", -0.1), (b"e", -2.5)),
    )


def test_log_probabilities_that_are_none_are_refused(server: Talking) -> None:
    """Some servers say 0 of every token where they know nothing."""
    server.faults.append(said("7", logprobs=likely(("7", {"7": 0.0, "8": 0.0, "9": 0.0}))))
    with pytest.raises(
        TeacherError, match=r"^teacher 'judge': http://127.* sum to 3 .*; set top_logprobs: 0, as the server"
    ):
        of(server).ask(body())
    server.faults.append(said("7", logprobs=likely(("7", {"7": -0.69, "8": -0.69}))))  # rounded
    assert of(server).ask(body("again")).tokens is not None
