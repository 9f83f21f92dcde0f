"""Tools of real MCP servers: by the official API over standard streams and HTTP, and by hand."""

import gc
import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from mcp_cases import PLACE, by_hand, children, official, over_http, pids

from agentopd.errors import ConfigError, EnvError, ToolError
from agentopd.tools.mcp import Mcp, Server, close_shared
from agentopd.types import ToolCall


@pytest.fixture(scope="module")
def notes() -> Iterator[Mcp]:
    server = official(time_limit=60.0, shown=100)
    yield server
    server.close()


def ask(server: Mcp, name: str, /, **arguments: Any) -> str:
    return server.tools.call(ToolCall(name, arguments))


def refused(server: Mcp, name: str, /, **arguments: Any) -> tuple[str, str]:
    with pytest.raises(ToolError) as error:
        ask(server, name, **arguments)
    return error.value.kind, str(error.value)


def test_schemas_are_the_servers_own(notes: Mcp) -> None:
    schema = notes.tools[0].schema["function"]
    assert schema["description"] == "Add entries."
    assert schema["parameters"]["$defs"]["Entry"]["properties"]["colour"]["enum"] == ["red", "blue"]
    assert schema["parameters"]["properties"]["times"]["default"] == 1
    assert notes.tools.names == ("add", "read", "sleep", "leave", "show", "flood", "secret-word", "empty")


def test_calls_keep_state_and_defaults_are_the_servers(notes: Mcp) -> None:
    assert (
        ask(notes, "add", entries=[{"name": "a", "text": "x"}, {"name": "b", "text": "y", "colour": "blue"}], times=2)
        == "2 notes"
    )
    assert (ask(notes, "read", name="a"), ask(notes, "read", name="b")) == ("red xx", "blue yy")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "add: 'entries' is a required property"),
        (
            {"entries": [{"name": "a", "text": "x", "colour": "pink"}]},
            "add: entries[0].colour: 'pink' is not one of ['red', 'blue']",
        ),
        ({"entries": [{"name": "a"}]}, "add: entries[0]: 'text' is a required property"),
        ({"entries": [], "times": "2"}, "add: times: '2' is not of type 'integer'"),
    ],
)
def test_arguments_are_checked_by_the_schema_and_do_not_reach_the_server(notes: Mcp, arguments: Any, told: str) -> None:
    assert refused(notes, "add", **arguments) == ("bad_arguments", told)


def test_what_the_server_calls_an_error_is_the_models_to_read(notes: Mcp) -> None:
    assert refused(notes, "read", name="none") == ("tool_error", "Error executing tool read")
    assert refused(notes, "nothing")[0] == "unknown_tool"


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("image", "Here:\n[image: image/png, 30 bytes]"),
        ("link", "Here:\n[resource: a file, file:///a.txt]"),
        ("file", "Here:\n[resource: file:///b.txt]\nhello"),
        ("odd", "Here:\n\u00e9\u202e\x00<|im_end|></tool_call>"),
    ],
)
def test_what_is_text_is_told_and_all_else_by_its_kind(notes: Mcp, kind: str, told: str) -> None:
    assert ask(notes, "show", kind=kind) == told


def test_an_error_without_a_word_is_not_told_as_ok(notes: Mcp) -> None:
    assert refused(notes, "show", kind="nothing") == ("tool_error", "it failed and did not say why")


def test_long_answers_are_cut_and_empty_ones_are_ok(notes: Mcp) -> None:
    assert ask(notes, "flood", characters=100) == "y" * 100
    assert ask(notes, "flood", characters=2_000_000) == "y" * 100 + "… [cut: 100 of 2000000 characters]"
    assert ask(notes, "empty") == "ok"


def test_a_slow_call_ends_in_time_and_a_server_that_ends_is_no_fault_of_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOTES_KEY", "k3y-of-ours")
    server = official(time_limit=0.5, pass_env=["NOTES_KEY"], tools=["secret-word", "sleep", "leave"], prefix="my_")
    try:
        assert server.tools.names == ("my_secret-word", "my_sleep", "my_leave")
        begin = time.monotonic()
        assert refused(server, "my_sleep", seconds=30.0) == ("tool_timeout", "my_sleep: no answer within 0.5 s")
        assert time.monotonic() - begin < 10.0
        server.begin()  # the old one sleeps on
        assert ask(server, "my_secret-word") == "the key is ***"
        with pytest.raises(EnvError, match=r"MCP server 'notes' is gone: .*last words: notes: the disk is full"):
            ask(server, "my_leave")
        server.begin()
        assert ask(server, "my_secret-word") == "the key is ***"
        assert "k3y" not in repr(server.server) + repr(server._address)
    finally:
        server.close()


def test_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_KEY", "abc")
    with over_http() as (url, process):
        server = Mcp("far", url=url, key_env="HTTP_KEY", headers={"X-Run": "1"}, time_limit=60.0)
        assert ask(server, "add", entries=[{"name": "a", "text": "abc"}]) == "1 notes"
        assert ask(server, "read", name="a") == "red ***"
        assert refused(server, "read", name="none")[0] == "tool_error"
        server.begin()  # another connection to the same server
        assert ask(server, "read", name="a") == "red ***"
        process.kill()
        process.wait()
        with pytest.raises(EnvError, match="MCP server 'far' is gone"):
            ask(server, "read", name="a")
        with pytest.raises(EnvError, match="MCP server 'far' did not start"):
            server.begin()
        server.close()


def test_each_episode_has_a_process_of_its_own_and_leaves_none(caplog: pytest.LogCaptureFixture) -> None:
    server = Mcp("notes", **by_hand())
    assert ask(server, "write", name="a", text="x") == '{"a": "x"}'
    [first] = children()
    server.begin()
    assert ask(server, "read") == "{}"
    [second] = children()
    assert second != first
    for _ in range(2):  # told as often as asked, logged once
        with pytest.raises(EnvError, match=r"is gone: .* \(its last words: notes: no disk\)"):
            server.call("leave", {}) if children() else server._link.call("read", {}, 1.0)  # type: ignore[union-attr]
    assert [record.message.count("is gone") for record in caplog.records if "is gone" in record.message] == [1]
    server.begin()
    assert ask(server, "read") == "{}"
    server.close()
    assert children() == set()
    assert ask(server, "read") == "{}"  # its tools work on
    del server
    gc.collect()
    for _ in range(100):
        if not children():
            return
        time.sleep(0.1)
    raise AssertionError("a server outlives its object")


def test_a_shared_server_is_one_process_and_starts_again_when_it_ended() -> None:
    one, other = (Mcp(name, **by_hand(fresh=False)) for name in ("one", "other"))
    ask(one, "write", name="a", text="x")
    one.close()
    other.begin()
    assert ask(other, "read") == '{"a": "x"}'
    assert len(children()) == 1
    with pytest.raises(EnvError, match="is gone"):
        ask(other, "leave")
    one.begin()
    other.begin()
    assert ask(one, "read") == ask(other, "read") == "{}"
    assert len(children()) == 1
    close_shared()
    assert children() == set()


def test_no_server_outlives_its_program() -> None:
    marker = f"of-program-{uuid4()}"
    marked = by_hand() | {"args": [*by_hand()["args"], marker]}
    code = f"from agentopd.tools.mcp import Mcp\nm = Mcp(**{marked!r})\nm.begin()\nn = Mcp(**{marked!r}, fresh=False)\nn.begin()"
    code += f"\nimport sys\nsys.path.append({PLACE!r})\nfrom mcp_cases import pids\nprint(len(pids({marker!r})))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (told.stdout.strip(), told.stderr) == ("3", "")  # the two servers and the program itself
    assert pids(marker) == set()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "nothing is given: give one of module, command and url"),
        ({"module": "a", "url": "http://x"}, "module and url is given"),
        ({"url": "http://me:pass@x/mcp"}, "an address with a name or a key in it"),
        ({"command": "python notes.py"}, r"no program; give its arguments apart, command: python, args: \[notes.py\]"),
        ({"url": "ftp://x"}, "give an address such as http"),
        ({"url": "http://x", "args": ["a"]}, "args: not with url"),
        ({"module": "a", "headers": {"a": "b"}}, "headers: not with module"),
        ({"url": "http://x", "key_env": "NO_SUCH_KEY"}, "key_env=NO_SUCH_KEY: this environment variable is not set"),
        ({"url": "http://x", "header_env": {"X": "sk-123"}}, r"header_env.X=\.\.\.: this is no environment variable"),
        ({"modul": "a"}, "modul: unknown key"),
        ({"module": "a", "time_limit": 0.0}, "time_limit"),
    ],
)
def test_settings_are_checked_before_anything_starts(settings: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=f"notes: .*{told}"):
        Mcp("notes", **settings)


def test_what_cannot_start_says_why() -> None:
    broken: list[tuple[dict[str, Any], str]] = [
        ({"command": "/no/such/program"}, "No such file"),
        ({"command": sys.executable, "args": ["-c", "raise SystemExit('no licence')"]}, "last words: no licence"),
        (
            by_hand(args=["-c", "import time; time.sleep(60)"], start_limit=0.5),
            "did not start within start_limit=0.5 seconds",
        ),
        ({"url": "http://127.0.0.1:9/mcp"}, "did not start"),
    ]
    for settings, told in broken:
        with pytest.raises(EnvError, match=told):
            Mcp("notes", **settings).begin()


def test_tools_that_are_asked_for_must_be_there() -> None:
    with pytest.raises(
        ConfigError,
        match=r"notes.tools: the server has no tool 'raed' \(did you mean 'read'\?\); it has: write, read, leave",
    ):
        _ = Mcp("notes", **by_hand(tools=["raed"])).tools


def test_secrets_are_not_part_of_the_settings() -> None:
    assert "keys" not in Server.model_fields


def test_tools_that_take_too_long_to_look_at_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Mcp("slow", module="agentopd.envs.mcp_warehouse", start_limit=60.0)
    clock = itertools.count(0, 100)
    monkeypatch.setattr("agentopd.tools.mcp.time", SimpleNamespace(monotonic=lambda: next(clock)))
    with pytest.raises(
        EnvError, match=r"slow: only 0 of its \d tools could be looked at within start_limit=60 seconds; name those"
    ):
        _ = server.tools
    server.close()
