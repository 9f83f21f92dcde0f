"""Answers that are broken on their way, to both kinds of servers: asked for again, and never waited for without end."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pytest
from serving_cases import Handler, running
from talking_cases import said

from agentopd.errors import TeacherError
from agentopd.serving import Answers, ChatServer, Endpoint, Ledger, Patience, RefusedError
from agentopd.serving.waiting import Waiting

Ask: TypeAlias = Callable[["Broken", Patience], Any]
FINE = json.dumps(said("7")).encode()
KEY = "s3cret"


@dataclass
class Broken:
    """Sends ``faults`` as they are, one after the other, then answers."""

    faults: list[bytes] = field(default_factory=list)
    pause: float = 0.0
    """Between the bytes of a fault."""
    asked: int = 0
    url: str = ""
    longest: int = 128


class _Breaking(Handler):
    def do_POST(self) -> None:
        held = self.server.served
        self.rfile.read(int(self.headers["Content-Length"]))
        held.asked += 1
        if not held.faults:
            return self.answered(200, FINE)
        self.close_connection, fault = True, held.faults.pop(0)
        for part in [fault] if not held.pause else [fault[i : i + 1] for i in range(len(fault))]:
            self.wfile.write(part)
            time.sleep(held.pause)

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # whom it talks to has left
            self.close_connection = True


def sent(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    told = {"Content-Length": str(len(body))} | {name.replace("_", "-"): value for name, value in headers.items()}
    return (
        f"HTTP/1.1 {status}\r\n".encode() + b"".join(f"{n}: {v}\r\n".encode() for n, v in told.items()) + b"\r\n" + body
    )


@contextmanager
def breaking(*faults: bytes, pause: float = 0.0) -> Iterator[Broken]:
    held = Broken([*faults], pause)
    with running(held, _Breaking):
        yield held


def by_endpoint(server: Broken, patience: Patience) -> Any:
    return Endpoint("teacher 'one'", server.url, patience, "A_KEY").post("/v1/completions", {})["choices"]


def by_client(server: Broken, patience: Patience) -> Any:
    waiting = Waiting("teacher 'one'", server.url, patience, "A_KEY")
    return ChatServer.of(waiting, "tiny", Ledger("one"), Answers()).ask({"messages": []}).content


@pytest.fixture(params=[by_endpoint, by_client])
def ask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ask:
    monkeypatch.setenv("A_KEY", KEY)
    asked: Ask = request.param
    return asked


@pytest.mark.parametrize(
    "fault",
    [
        sent(FINE, Content_Encoding="gzip"),
        sent(b"[" * 100_000),
        sent(FINE, "520 Odd"),
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"cho',
    ],
    ids=["no gzip", "too deep", "520", "chunks cut off"],
)
def test_it_is_asked_for_again(ask: Ask, fault: bytes) -> None:
    with breaking(fault) as server:
        assert ask(server, Patience(5.0, 5.0)) is not None
    assert server.asked == 2


def test_the_encoding_that_it_claims_does_not_matter(ask: Ask) -> None:
    with breaking(sent(FINE, Content_Type="application/json; charset=base64")) as server:
        assert ask(server, Patience(5.0, 5.0)) is not None
    assert server.asked == 1


def test_a_server_that_drips_is_given_up(ask: Ask) -> None:
    with breaking(sent(FINE), pause=0.05) as server:
        began = time.monotonic()
        with pytest.raises(
            TeacherError, match=r"^teacher 'one': http://127.* did not answer \(ReadTimeout: .*too slowly"
        ):
            ask(server, Patience(0.5, 0.0))
    assert time.monotonic() - began < 0.05 * len(FINE)


def test_a_server_that_has_moved_says_where_to(ask: Ask) -> None:
    there = f"https://there/v1?key={KEY}"
    with (
        breaking(sent(b"", "307 Temporary Redirect", Location=there)) as server,
        pytest.raises(
            RefusedError, match=r"refused with 307: ; it points to https://there/v1\?key=\*\*\*: give"
        ) as told,
    ):
        ask(server, Patience(5.0, 5.0))
    assert KEY not in str(told.value)


def test_no_server_is_waited_for_longer_than_patience_lasts_because_it_asks_for_it(ask: Ask) -> None:
    with breaking(sent(b"", "429 Busy", Retry_After="60")) as server:
        began = time.monotonic()
        assert ask(server, Patience(5.0, 1.0)) is not None
    assert time.monotonic() - began < 30.0
