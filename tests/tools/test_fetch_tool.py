"""Pages of a real server on the loopback, and addresses that mean to reach others."""

import gzip
import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agentopd.errors import ConfigError, EnvError, ToolError
from agentopd.tooling import ToolSet
from agentopd.tools.fetch import Fetch
from agentopd.tools.web_address import is_public, parsed
from agentopd.types import ToolCall

PAGES: dict[str, tuple[str, bytes]] = {
    "/data/text": ("text/plain; charset=utf-8", "Gr\u00fc\u00dfe".encode()),
    "/data/latin": ("text/plain; charset=ISO-8859-1", "Gr\u00fc\u00dfe".encode("latin-1")),
    "/data/page": (
        "text/html",
        b"<title>Pots</title><script>x<b>y</b></script><p>A  <b>kiln</b>\n fires &amp; glows.<p>End",
    ),
    "/data/json": ("application/json", b'{"a": 1}'),
    "/data/image": ("image/png", b"\x89PNG"),
    "/data/untold": ("", b"text"),
    "/data/big": ("text/plain", b"x" * 3_000_000),
    "/data/script": ("text/html", b"<p>Begin<script>" + b"x" * 2000 + b"</script><p>End"),
    "/data/gzip": ("text/plain", gzip.compress(b"x" * 10_000_000)),
    "/data/empty": ("text/plain", b" \n"),
    "/secret": ("text/plain", b"SECRET"),
    "/database": ("text/plain", b"SECRET"),
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server: Any = self.server
        path = self.path.partition("?")[0]
        server.seen.append((self.path, dict(self.headers)))
        if path == "/data/to":
            return self.tell(302, {"Location": self.path.partition("?")[2], "Content-Length": "0"}, b"")
        if path == "/data/slow":
            self.send_response(200)
            for _ in range(100):  # a header at a time: each is in time, all of them are not
                self.send_header("X-More", "x")
                self.flush_headers()
                time.sleep(0.05)
        if path not in PAGES:
            return self.tell(404, {"Content-Length": "0"}, b"")
        kind, body = PAGES[path]
        headers = {"Content-Length": str(len(body)), "Set-Cookie": "id=7"} | ({"Content-Type": kind} if kind else {})
        self.tell(200, headers | ({"Content-Encoding": "gzip"} if path == "/data/gzip" else {}), body)

    def tell(self, status: int, headers: dict[str, str], body: bytes) -> None:
        try:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    served: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.seen, served.handle_error = [], lambda *_: None
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield served
    served.shutdown()
    served.server_close()


@pytest.fixture
def port(server: Any) -> int:
    server.seen.clear()
    return int(server.server_address[1])


def fetched(fetch: Fetch, url: str) -> str:
    return ToolSet.of(fetch).call(ToolCall("fetch", {"url": url}))


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("text", "Gr\u00fc\u00dfe"),
        ("latin", "Gr\u00fc\u00dfe"),
        ("page", "Pots\nA kiln fires & glows.\nEnd"),
        ("json", '{"a": 1}'),
        ("big", "x" * 100 + "… [cut: 100 of 1041 characters]"),
        ("script", "Begin\n(the page goes on, 1000 bytes were read)"),
        ("empty", "The page is empty."),
        ("to?/data/json", '{"a": 1}'),
        ("to?json", '{"a": 1}'),
        ("to?to?to?json", '{"a": 1}'),
        ("text?a=b&c=%20d#there", "Gr\u00fc\u00dfe"),
    ],
)
def test_pages_are_told_as_text(port: int, path: str, told: str) -> None:
    fetch = Fetch([f"http://127.0.0.1:{port}/data"], max_bytes=1000, shown=100)
    assert fetched(fetch, f"http://127.0.0.1:{port}/data/{path}") == told


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("image", "the page is 'image/png', no text"),
        ("untold", "the page is '', no text"),
        ("gzip", "the page is compressed"),
        ("none", "127.0.0.1 answered 404"),
        ("to?to?to?to?json", "more than 3 redirects"),
        ("to", "127.0.0.1 answered 302"),  # and not where else it is
    ],
)
def test_what_is_no_page_is_said(port: int, path: str, told: str) -> None:
    with pytest.raises(ToolError, match=told):
        fetched(Fetch([f"http://127.0.0.1:{port}/data"]), f"http://127.0.0.1:{port}/data/{path}")


HOSTILE = [
    "http://127.0.0.1:{port}/secret",
    "http://127.0.0.1:{port}/",
    "http://127.0.0.1:{port}",
    "http://127.0.0.1:{port}/database",
    "http://127.0.0.1:{port}/data/../secret",
    "http://127.0.0.1:{port}/data/%2e%2e/secret",
    "http://127.0.0.1:{port}/data/%252e%252e/secret",
    "http://127.0.0.1:{port}/data/..;/secret",
    "http://127.0.0.1:{port}/data/..%2fsecret",
    "http://127.0.0.1:{port}/data/..%5csecret",
    "http://127.0.0.1:{port}/data\\..\\secret",
    "http://127.0.0.1:{port}/data/%zz",
    "http://127.0.0.1:{port}/data/to?/secret",
    "http://127.0.0.1:{port}/data/to?http://localhost:{port}/secret",
    "http://127.0.0.1:{port}/data/to?//127.0.0.2:{port}/data/text",
    "http://127.0.0.1:{port}/data/to?file:///etc/passwd",
    "http://127.0.0.1:{port}/data/to?http://me:pass@127.0.0.1:{port}/data/text",
    "http://127.0.0.1:{port}/data/to?../secret",
    "http://127.0.0.1:{port}@localhost:{port}/data/text",
    "http://user:pass@127.0.0.1:{port}/data/text",
    "http://@127.0.0.1:{port}/data/text",
    "http://localhost:{port}/data/text",
    "http://LOCALHOST:{port}/data/text",
    "http://127.0.0.1.:{port}/data/text",
    "http://127.1:{port}/data/text",
    "http://2130706433:{port}/data/text",
    "http://0x7f000001:{port}/data/text",
    "http://0x7f.0.0.1:{port}/data/text",
    "http://0177.0.0.1:{port}/data/text",
    "http://127.000.000.001:{port}/data/text",
    "http://0:{port}/data/text",
    "http://0.0.0.0:{port}/data/text",
    "http://[::1]:{port}/data/text",
    "http://[::ffff:127.0.0.1]:{port}/data/text",
    "http://[::ffff:7f00:1]:{port}/data/text",
    "http://[::127.0.0.1]:{port}/data/text",
    "http://[fe80::1%25lo]:{port}/data/text",
    "http://[v1.x]:{port}/data/text",
    "http://\u2460\u2461\u2466.0.0.1:{port}/data/text",
    "http://127.0.0.1\u3002:{port}/data/text",
    "http://127\uff0e0\uff0e0\uff0e1:{port}/data/text",
    "http://127.0.0.1:{port}\r\nX-Evil: 1/data/text",
    "http://127.0.0.1:{port}/data/text HTTP/1.1\r\nX-Evil: 1",
    "http://127.0.0.1:{port}/data/text\x00",
    "http://127.0.0.1\t:{port}/data/text",
    " http://127.0.0.1:{port}/data/text",
    "http:/127.0.0.1:{port}/data/text",
    "http:\\\\127.0.0.1:{port}\\data\\text",
    "//127.0.0.1:{port}/data/text",
    "https://127.0.0.1:{port}/data/text",
    "ftp://127.0.0.1:{port}/data/text",
    "file:///etc/passwd",
    "data:text/plain,words",
    "gopher://127.0.0.1:{port}/data/text",
    "javascript:alert(1)",
    "http://127.0.0.1:{port}0000/data/text",
    "http://127.0.0.1:0/data/text",
    "http://127.0.0.1/data/text",
    "http://127.0.0.1.nip.io:{port}/data/text",
    "http://127.0.0.1:{port}#@evil.example/data/text",
    "http://evil.example?http://127.0.0.1:{port}/data/text",
    "http://169.254.169.254/latest/meta-data",
    "http://127.0.0.1:{port}/data/" + "x" * 5000,
    "",
]


@pytest.mark.parametrize("url", HOSTILE)
def test_nothing_else_is_reached(port: int, server: Any, url: str) -> None:
    fetch = Fetch([f"http://127.0.0.1:{port}/data"], seconds=5.0)
    with pytest.raises(ToolError) as error:
        fetched(fetch, url.replace("{port}", str(port)))
    assert error.value.kind == "tool_error"
    assert "SECRET" not in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert [path for path, _ in server.seen if not path.startswith("/data/to?")] == []


def test_nothing_is_allowed_unless_it_is_listed(port: int, server: Any) -> None:
    with pytest.raises(ToolError, match="is not allowed; allowed is: nothing"):
        fetched(Fetch(), f"http://127.0.0.1:{port}/data/text")
    assert server.seen == []


def test_a_name_that_leads_to_a_private_network_needs_the_number_on_the_list(port: int, server: Any) -> None:
    url = f"http://localhost:{port}/data/text"
    with pytest.raises(ToolError, match="localhost is in a private network"):
        fetched(Fetch([f"http://localhost:{port}"]), url)
    assert server.seen == []
    assert fetched(Fetch([f"http://localhost:{port}", f"http://127.0.0.1:{port}/data"]), url) == "Gr\u00fc\u00dfe"
    assert server.seen[0][1]["Host"] == f"localhost:{port}"


def test_a_name_is_looked_up_once_and_what_it_was_is_connected_to(
    port: int, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that means another host at each question: the first answer, which is looked at, is the one that counts."""
    real, asked = socket.getaddrinfo, []

    def rebinding(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "rebinding.example":
            asked.append(host)
            return real("127.0.0.1" if len(asked) == 1 else "127.0.0.2", *args, **kwargs)
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    allow = [f"http://rebinding.example:{port}", f"http://127.0.0.1:{port}/data"]
    assert fetched(Fetch(allow), f"http://rebinding.example:{port}/data/text") == "Gr\u00fc\u00dfe"
    with pytest.raises(ToolError, match="private network"):
        fetched(Fetch(allow), f"http://rebinding.example:{port}/data/text")
    assert len(asked) == 2


def test_surroundings_are_not_used_and_no_cookie_is_kept(
    port: int, server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (netrc := tmp_path / "netrc").write_text("machine 127.0.0.1 login me password pass\n")
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", str(netrc))
    fetch = Fetch([f"http://127.0.0.1:{port}"])
    for _ in range(2):
        fetched(fetch, f"http://127.0.0.1:{port}/data/text?a=1#there")
    for path, headers in server.seen:
        assert path == "/data/text?a=1"
        assert not {"cookie", "authorization", "referer"} & {name.lower() for name in headers}
        assert headers["Accept-Encoding"] == "identity"


def test_a_server_that_dribbles_is_left_in_time(port: int) -> None:
    begin = time.monotonic()
    with pytest.raises(ToolError, match=r"no answer within 0.5 s") as error:
        fetched(Fetch([f"http://127.0.0.1:{port}"], seconds=0.5), f"http://127.0.0.1:{port}/data/slow")
    assert error.value.kind == "tool_timeout"
    assert time.monotonic() - begin < 4.0


def test_what_cannot_be_reached_is_said() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ToolError, match=r"127\.0\.0\.1 cannot be reached"):
        fetched(Fetch([f"http://127.0.0.1:{port}"]), f"http://127.0.0.1:{port}/")
    with pytest.raises(ToolError, match=r"no-such-host\.invalid is not known"):
        fetched(Fetch(["http://no-such-host.invalid"]), "http://no-such-host.invalid/x")


def test_a_cache_answers_what_was_asked_before(port: int, server: Any, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{port}/data/text"
    for _ in range(3):
        assert fetched(Fetch([url], cache=tmp_path / "pages"), url) == "Gr\u00fc\u00dfe"
    assert len(server.seen) == 1
    with pytest.raises(ToolError, match="not allowed"):  # what stands there is no way around the list
        fetched(Fetch(cache=tmp_path / "pages"), url)
    assert fetched(Fetch([url], cache=tmp_path / "pages", shown=2), url).startswith("Gr… [cut: 2 of 5")


def test_a_cache_that_fails_is_no_mistake_of_the_model(port: int, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{port}/data/text"
    pages = tmp_path / "pages"
    fetched(Fetch([url], cache=pages), url)
    (kept,) = pages.iterdir()
    kept.write_text('{"text": ')
    with pytest.raises(EnvError, match=rf"^fetch: cache='.*{kept.name}': JSONDecodeError: .*; take that file away$"):
        fetched(Fetch([url], cache=pages), url)
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvError, match=r"^fetch: cache='.*file/pages': .*; give a directory that can be written$"):
        fetched(Fetch([url], cache=tmp_path / "file" / "pages"), url)


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({"allow": "http://a"}, "give a list"),
        ({"allow": ["example.org"]}, "is no address such as"),
        ({"allow": ["http://a/?b"]}, "has a query"),
        ({"allow": ["http://a/../b"]}, r"holds no \. and \.\."),
        ({"seconds": 0}, "seconds=0 must be above 0"),
        ({"shown": -1}, "shown=-1 must be above 0"),
    ],
)
def test_settings_are_checked(kwargs: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Fetch(**kwargs)


def test_what_an_entry_covers() -> None:
    entry = parsed("HTTPS://Example.org:443/a/")
    assert str(entry) == "https://example.org/a/"
    assert entry.covers(parsed("https://example.org/a/b?c"))
    for other in (
        "https://example.org/ab",
        "https://sub.example.org/a/b",
        "http://example.org/a/b",
        "https://example.org:444/a/b",
    ):
        assert not entry.covers(parsed(other))
    assert parsed("http://[0:0:0:0:0:0:0:1]/").host == "::1"


@pytest.mark.parametrize(
    "number",
    [
        "127.0.0.1",
        "10.1.1.1",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fec0::1",
        "fc00::1",
        "ff02::1",
        "::ffff:8.8.8.8",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "::7f00:1",
    ],
)
def test_numbers_of_networks_that_are_not_open(number: str) -> None:
    assert not is_public(ipaddress.ip_address(number))


def test_numbers_of_the_open_network() -> None:
    assert all(is_public(ipaddress.ip_address(number)) for number in ("8.8.8.8", "2606:4700:4700::1111"))
