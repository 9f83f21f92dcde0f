"""Pages over TLS, from a server of this machine whose certificate is made here."""

import datetime
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agentopd.errors import ConfigError, ToolError
from agentopd.tooling import ToolSet
from agentopd.tools.fetch import Fetch
from agentopd.types import ToolCall


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(f"over TLS to {self.headers['Host']}".encode())

    def log_message(self, *_: Any) -> None: ...


def certificate(folder: Path, *names: str, days: int = 2) -> tuple[Path, Path]:
    """A certificate that vouches for itself, for numbers and names, and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    now = datetime.datetime.now(datetime.UTC)
    meant = [x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name) for name in names]
    made = (
        x509.CertificateBuilder().subject_name(who).issuer_name(who).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=5))
        .not_valid_after(now + datetime.timedelta(days=days)).add_extension(x509.SubjectAlternativeName(meant), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True).sign(key, hashes.SHA256())
    )  # fmt: skip
    folder.mkdir()
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(*pem))
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def serve() -> Iterator[Any]:
    started: list[Any] = []

    def start(pair: tuple[Path, Path]) -> int:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair)
        served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        served.handle_error = lambda *_: None  # type: ignore[method-assign]
        served.socket = context.wrap_socket(served.socket, server_side=True)
        threading.Thread(target=served.serve_forever, daemon=True).start()
        started.append(served)
        return int(served.server_address[1])

    yield start
    for served in started:
        served.shutdown()
        served.server_close()


def fetched(url: str, **settings: Any) -> str:
    return ToolSet.of(Fetch([url], **settings)).call(ToolCall("fetch", {"url": url}))


def test_a_page_over_tls_by_number_and_by_name(tmp_path: Path, serve: Any) -> None:
    pair = certificate(tmp_path / "a", "127.0.0.1", "localhost")
    port = serve(pair)
    url = f"https://127.0.0.1:{port}/"
    assert fetched(url, authorities=pair[0]) == f"over TLS to 127.0.0.1:{port}"
    named = f"https://localhost:{port}/"
    tools = ToolSet.of(Fetch([named, url], authorities=str(pair[0])))
    assert tools.call(ToolCall("fetch", {"url": named})) == f"over TLS to localhost:{port}"


@pytest.mark.parametrize(
    ("names", "days", "trusted", "why"),
    [
        (("127.0.0.1",), 2, False, "self-signed certificate|self signed certificate"),
        (("127.0.0.2", "localhost"), 2, True, "IP address mismatch"),
        (("127.0.0.1",), -1, True, "certificate has expired"),
    ],
    ids=["of nobody known", "of another", "of yesterday"],
)
def test_a_wrong_certificate_is_refused_in_one_line(
    tmp_path: Path,
    serve: Any,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, ...],
    days: int,
    trusted: bool,
    why: str,
) -> None:
    pair = certificate(tmp_path / "a", *names, days=days)
    port = serve(pair)
    monkeypatch.setenv("SSL_CERT_FILE", str(pair[0]))  # surroundings vouch for nobody
    with pytest.raises(ToolError, match=rf"127\.0\.0\.1 cannot be reached: .*({why})") as refused:
        fetched(f"https://127.0.0.1:{port}/", authorities=pair[0] if trusted else None)
    assert len(str(refused.value).splitlines()) == 1


def test_what_holds_no_certificate_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    for name in ("none.pem", "empty.pem"):
        with pytest.raises(ConfigError, match=rf"authorities='.*{name}': .*; give a PEM file of certificates"):
            Fetch(["https://127.0.0.1/"], authorities=tmp_path / name)
