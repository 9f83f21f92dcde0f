"""The viewer's server: this machine's own, read as it is looked at, and deaf to whoever does not know its address."""

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from test_view_page import trajectories
from view_cases import toy

from agentopd.__main__ import main
from agentopd.viewer.serve import Site, server
from agentopd.viewer.sources import notes_on, opened
from agentopd.viewer.view import write_view


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return toy(tmp_path / "run")


@pytest.fixture
def address(run: Path) -> Iterator[str]:
    made, address = server(opened([run]))
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield address
    made.shutdown()
    made.server_close()
    thread.join()


def ask(address: str, path: str, host: str | None = None, method: str = "GET") -> tuple[int, str, dict[str, str]]:
    place = urlsplit(address)
    connection = HTTPConnection(place.hostname or "", place.port or 0, timeout=10)
    connection.request(method, path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, dict(answer.getheaders())


def test_it_serves_the_same_trajectories_as_the_file(run: Path, address: str) -> None:
    path = urlsplit(address).path
    status, page, headers = ask(address, path)
    assert status == 200
    assert "data-served" in page
    assert "connect-src &#x27;self&#x27;" in page
    assert headers["Referrer-Policy"] == "no-referrer"
    index = json.loads(ask(address, f"{path}index")[1])
    filed = trajectories(write_view(opened([run])))
    served = [json.loads(ask(address, f"{path}block/{block}")[1])[0] for block in index["columns"]["block"]]
    assert served == filed


@pytest.mark.parametrize("path", ["/", "/wrong/", "/wrong/index", "//index"])
def test_without_its_token_it_says_nothing(address: str, path: str) -> None:
    assert ask(address, path)[:2] == (403, "Open the address that agentopd printed.")


def test_a_foreign_name_for_this_machine_is_refused(address: str) -> None:
    path, port = urlsplit(address).path, urlsplit(address).port
    assert ask(address, path, f"localhost:{port}")[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", ""):
        assert ask(address, path, host)[0] == 403, host


def test_at_the_port_that_addresses_leave_out_it_answers_to_a_name_without_one(run: Path) -> None:
    try:
        made, address = server(opened([run]), 80)
    except OSError as error:
        pytest.skip(f"port 80: {error}")
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    path = urlsplit(address).path
    statuses = [ask(address, path, host)[0] for host in ("127.0.0.1", "localhost", "127.0.0.1:80", "evil.example")]
    made.shutdown()
    made.server_close()
    thread.join()
    assert statuses == [200, 200, 200, 403]


@pytest.mark.parametrize("rest", ["x", "block/", "block/16", "block/-1", "block/1/2", "../config.yaml"])
def test_nothing_else_is_there(address: str, rest: str) -> None:
    status = ask(address, urlsplit(address).path + rest)[0]
    assert status in (403, 404)


def test_it_takes_no_other_method_and_listens_on_this_machine_alone(address: str) -> None:
    assert ask(address, urlsplit(address).path, method="POST")[0] == 501
    assert urlsplit(address).hostname == "127.0.0.1"


def test_a_damaged_file_is_said(run: Path, address: str) -> None:
    (run / "records" / "step-000001.parquet").write_bytes(b"half")
    status, text, _ = ask(address, f"{urlsplit(address).path}block/9")
    assert status == 500
    assert "step-000001.parquet" in text


def test_one_damaged_file_leaves_the_rest_of_the_page(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = len(trajectories(write_view(opened([run]))))
    hurt = run / "records" / "step-000001.parquet"
    hurt.write_bytes(hurt.read_bytes()[:400])
    signals = run / "records" / "step-000000.signals.parquet"
    signals.write_bytes(b"half")
    assert main(["view", str(run)]) == 0
    assert 0 < len(trajectories(run / "view.html")) < whole
    told = capsys.readouterr().err.splitlines()
    assert [line.startswith(f"left out: cannot read {path}") for line, path in zip(told, (signals, hurt), strict=True)]
    notes = opened([run])
    Site(notes)
    assert [note.startswith("Left out: ") for note in notes_on(notes)][:2] == [True, True]


def test_a_port_that_is_taken_is_told_before_the_records_are_read(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []
    monkeypatch.setattr("agentopd.viewer.serve.Site", lambda *given: read.append(given))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["view", str(run), "--serve", "--port", str(port)]) == 2
    assert f"--port {port}: " in capsys.readouterr().err
    assert main(["view", str(run), "--serve", "--port", "70000"]) == 2
    assert "--port 70000: " in capsys.readouterr().err
    assert read == []


def test_a_browser_that_goes_away_is_no_error(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    place = urlsplit(address)
    for _ in range(3):
        with socket.create_connection((place.hostname, place.port)) as gone:
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.sendall(f"GET {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n".encode())
    assert ask(address, place.path)[0] == 200
    time.sleep(0.2)
    assert capsys.readouterr().err == ""
