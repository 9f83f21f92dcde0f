"""Files of one directory: what the tools do, and that nothing leads out."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from threading import Event, Thread

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentopd.env.exchange import Reply
from agentopd.errors import ConfigError, EnvError, ToolError
from agentopd.tooling import CRASH, ToolSet
from agentopd.tools import confined
from agentopd.tools.files import Folder
from agentopd.types import ToolCall

SECRET = "the secret outside"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    """A folder with ordinary files, and with traps; what lies outside must be as before in the end."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for place in (inside / "sub", outside):
        place.mkdir(parents=True)
    (outside / "secret.txt").write_text(SECRET)
    (inside / "a.txt").write_text("figs: 3\npears: 4\n")
    (inside / "sub" / "b.txt").write_text("plums: 5\n")
    (inside / "link.txt").symlink_to(outside / "secret.txt")
    (inside / "out").symlink_to(outside)
    (inside / "up").symlink_to("..")
    (inside / "sub" / "chain").symlink_to("../out")
    (inside / "dangling").symlink_to(outside / "new.txt")
    (inside / "loop").symlink_to("loop")
    (inside / "zero").symlink_to("/dev/zero")
    (inside / "fds").symlink_to("/proc/self")
    os.link(outside / "secret.txt", inside / "hard.txt")
    os.mkfifo(inside / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        try:
            listening.bind(str(inside / "sock"))
        except OSError:  # a path too long for a socket
            (inside / "sock").symlink_to(outside)
    (inside / "binary").write_bytes(b"\xff\xfe\x00")
    (inside / "large").write_text("x" * 5000)
    yield Folder(inside, max_bytes=4096, max_entries=40, max_depth=4, shown=100)
    assert sorted(path.name for path in tmp_path.rglob("*") if inside not in path.parents) == [
        "inside",
        "outside",
        "secret.txt",
    ]
    assert (outside / "secret.txt").read_text() == SECRET


def empty(tmp_path: Path, **limits: int) -> Folder:
    (tmp_path / "new").mkdir(exist_ok=True)
    return Folder(tmp_path / "new", **limits)


HOSTILE = [
    "/etc/passwd",
    "//etc/passwd",
    "..",
    "../outside/secret.txt",
    "sub/../../outside/secret.txt",
    "sub/..",
    "./../outside/secret.txt",
    "link.txt",
    "./link.txt",
    "out/secret.txt",
    "out/./secret.txt",
    "up/outside/secret.txt",
    "sub/chain/secret.txt",
    "dangling",
    "loop",
    "zero",
    "fds/environ",
    "fds/cwd/x",
    "fds/root/etc/passwd",
    "hard.txt",
    "pipe",
    "sock",
    "",
    ".",
    "/",
    "a.txt/x",
    "a.txt/../a.txt",
    "\0",
    "a.txt\0.png",
    "a\nb",
    "a\x1b[2Jb",
    "\u202etxt.a",
    "\ud83d",
    "x" * 256,
    "\u4e2d" * 86,
    "x/" * 5 + "y",
    "x/" * 100_000 + "y",
    "x" * 1_000_000,
]
NAMES = [
    "\u2025",
    "\uff0e\uff0e\uff0foutside",
    "\u2215etc",
    "..\\outside",
    "C:\\x",
    "~",
    "~root",
    "...",
    "-rf",
    "$HOME",
    "%2e%2e%2f",
    "a b",
    "\u00e9",
]
"""Names like others, which mean nothing here."""


@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: ascii(path)[:40])
def test_no_path_leads_out(folder: Folder, path: str) -> None:
    before = folder.contents()
    tools = ToolSet.of(folder)
    calls = [
        ToolCall("read", {"path": path}),
        ToolCall("write", {"path": path, "text": "changed"}),
        ToolCall("append", {"path": path, "text": "changed"}),
        ToolCall("move", {"path": path, "to": "stolen.txt"}),
        ToolCall("move", {"path": "a.txt", "to": path}),
        ToolCall("delete", {"path": path}),
    ]
    for call in calls:
        with pytest.raises(ToolError) as refused:
            tools.call(call)
        said = str(refused.value)
        assert refused.value.kind in ("tool_error", "bad_arguments"), said
        assert len(said) < 300
        assert "/tmp" not in said
        assert SECRET not in said
    if path not in ("", "."):
        with pytest.raises(ToolError):
            tools.call(ToolCall("list_files", {"path": path}))
    assert folder.contents() == before


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_look_alikes_are_names(folder: Folder, name: str) -> None:
    folder.write(name, "mine")
    assert folder.read(name) == "mine"
    assert (folder.root / name).read_text() == "mine"
    folder.delete(name)
    assert not (folder.root / name).exists()


def test_each_tool(folder: Folder) -> None:
    assert folder.list_files().splitlines() == ["a.txt", "binary", "large", "sub/b.txt", "(11 that cannot be opened)"]
    assert folder.list_files("sub").splitlines() == ["sub/b.txt", "(1 that cannot be opened)"]
    assert folder.read("a.txt") == "figs: 3\npears: 4\n"
    assert folder.read("./a.txt", start=9) == "ears: 4\n"
    folder.append("a.txt", "limes: 6")
    assert folder.read("a.txt") == "figs: 3\npears: 4\nlimes: 6\n"
    folder.write("c/d.txt", "x")
    folder.append("c/d.txt", "y\n")
    assert folder.read("c/d.txt") == "x\ny\n"
    folder.move("c/d.txt", "sub/e.txt")
    assert folder.list_files("c") == "There are no files."
    assert "c/ (empty)" in folder.list_files()
    assert folder.contents()["sub/e.txt"] == "x\ny\n"
    folder.delete("c/")
    folder.write("sub/e.txt", "")
    assert folder.read("sub/e.txt") == "The file is empty."
    assert ToolSet.of(folder).call(ToolCall("write", {"path": "z", "text": "1"})) == "ok"
    assert folder.seen == {"", "a.txt", "c", "c/d.txt", "sub", "sub/e.txt"}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda f: f.read("none"), "'none': there is no such file"),
        (lambda f: f.append("none", "x"), "'none': there is no such file"),
        (lambda f: f.move("none", "x"), "'none': there is no such file"),
        (lambda f: f.move("a.txt", "sub/b.txt"), "'sub/b.txt': it exists already"),
        (lambda f: f.move("a.txt", "a.txt"), "'a.txt': it exists already"),
        (lambda f: f.move("sub", "top"), "'sub': it is no plain file"),
        (lambda f: f.delete("sub"), "'sub': the folder is not empty"),
        (lambda f: f.write("sub", "x"), "'sub': it is no plain file"),
        (lambda f: f.read("sub"), "'sub': it is no plain file"),
        (lambda f: f.read("binary"), "'binary': it is no text"),
        (lambda f: f.read("large"), "'large': it is larger than 4096 bytes"),
        (lambda f: f.read("a.txt", 99), "'a.txt': start=99, and it has 17 characters"),
        (lambda f: f.read("a.txt", -1), "'a.txt': start=-1, and it has 17 characters"),
        (lambda f: f.write("big", "\u00e9" * 2049), "'big': no file is larger than 4096 bytes, and this has 4098"),
        (lambda f: f.append("sub/b.txt", "x" * 4096), "no file is larger than 4096"),
        (lambda f: f.list_files("a.txt"), "'a.txt': a part of the path is no folder"),
        (lambda f: f.read("../x"), r"'../x': .. is not allowed"),
        (lambda f: f.read("/x"), "'/x': paths begin at the top folder, without a /"),
        (lambda f: f.read("a/b/c/d/e"), "'a/b/c/d/e': a path has at most 4 parts"),
    ],
)
def test_what_is_refused_is_told(folder: Folder, call: object, said: str) -> None:
    with pytest.raises(ToolError, match=said.replace(".", r"\.")):
        call(folder)  # type: ignore[operator]


def test_long_answers_are_cut_with_a_marker(tmp_path: Path) -> None:
    folder = empty(tmp_path, shown=10)
    folder.write("a", "0123456789abcdef")
    assert folder.read("a") == "0123456789… [cut: 10 of 16 characters]"
    assert folder.read("a", start=3) == "3456789abc… [cut: 13 of 16 characters]"
    assert folder.read("a", start=10) == "abcdef"
    for name in "bcdef":
        folder.write(name, "")
    assert folder.list_files() == "a\nb\nc\nd\ne\n… [cut: 10 of 11 characters]"


def test_no_more_files_than_allowed(tmp_path: Path) -> None:
    folder = empty(tmp_path, max_entries=3)
    folder.write("d/a", "1")
    folder.write("b", "2")
    for name, arguments in (
        ("write", {"path": "c", "text": "3"}),
        ("write", {"path": "e/f", "text": "3"}),
        ("move", {"path": "b", "to": "e/b"}),
    ):
        with pytest.raises(ToolError, match="there are 3 files and folders, and no more fit"):
            ToolSet.of(folder).call(ToolCall(name, arguments))
    folder.write("b", "changed")
    assert folder.list_files() == "b\nd/a\n(no more than 3 are listed)"
    folder.delete("b")
    folder.write("c", "3")
    assert folder.contents() == {"c": "3", "d/a": "1"}


def test_a_deep_tree_of_others_is_listed_to_its_depth_only(tmp_path: Path) -> None:
    folder = empty(tmp_path, max_depth=3, max_entries=50)
    (folder.root / "a/b/c/d/e").mkdir(parents=True)
    (folder.root / "a/b/c/d/x").write_text("deep")
    assert folder.list_files() == "a/b/c/ (what it holds is not listed)"
    assert folder.list_files("a/b/c") == "(1 that cannot be opened)"  # a path to it is too long for all tools
    for number in range(100):
        (folder.root / f"f{number:03}").write_text("")
    assert len(folder.list_files().splitlines()) == 49


def test_a_file_that_others_hold_is_replaced_and_not_changed(tmp_path: Path) -> None:
    folder = empty(tmp_path)
    folder.write("a", "old")
    with open(folder.root / "a") as held:
        folder.write("a", "new")
        assert held.read() == "old"
    assert os.listdir(folder.root) == ["a"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = empty(tmp_path)
    folder.write("a", "old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "/secret/place")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(ToolError, match="'a': No space left on device"):
        folder.write("a", "new")
    assert os.listdir(folder.root) == ["a"]
    assert folder.read("a") == "old"


def test_a_link_that_is_put_there_meanwhile_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that turns into a link between the look at it and its opening."""
    folder = empty(tmp_path)
    outside = tmp_path / "outside.txt"
    outside.write_text(SECRET)
    folder.write("a", "mine")
    look = confined.kind_of

    def then_linked(name: str, descriptor: int) -> int | None:
        kind = look(name, descriptor)
        if name == "a":
            (folder.root / "a").unlink()
            (folder.root / "a").symlink_to(outside)
        return kind

    monkeypatch.setattr(confined, "kind_of", then_linked)
    with pytest.raises(ToolError):
        folder.read("a")
    monkeypatch.setattr("agentopd.tools.files.kind_of", then_linked)
    (folder.root / "a").unlink()
    (folder.root / "a").write_text("mine")
    folder.write("a", "changed")
    assert outside.read_text() == SECRET


def test_a_race_with_links_never_reads_outside(tmp_path: Path) -> None:
    folder = empty(tmp_path)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_text(SECRET)
    (folder.root / "real").mkdir()
    (folder.root / "real" / "x").write_text("mine")
    over = Event()
    real, kept = folder.root / "real", folder.root / "kept"

    def swap() -> None:
        while not over.is_set():
            real.rename(kept)
            with suppress(FileExistsError):  # a write may have made the folder again
                real.symlink_to(tmp_path / "outside")
                real.unlink()
            while kept.exists():
                rmtree(real, ignore_errors=True)
                with suppress(OSError):
                    kept.rename(real)

    swapping = Thread(target=swap, daemon=True)
    swapping.start()
    read = set()
    for _ in range(500):
        try:
            read.add(folder.read("real/x"))
            folder.write("real/x", "mine")
        except ToolError:
            read.add("refused")
    over.set()
    swapping.join()
    assert read <= {"mine", "refused"}
    assert (tmp_path / "outside" / "x").read_text() == SECRET


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.text(alphabet="./\\abou\u202e\0 \n\u2215~", max_size=24), to=st.text(alphabet="./out", max_size=12))
def test_any_path_is_answered_or_refused(folder: Folder, path: str, to: str) -> None:
    tools = ToolSet.of(folder)
    for name, arguments in (
        ("write", {"path": path, "text": "x"}),
        ("move", {"path": path, "to": to}),
        ("read", {"path": to}),
        ("delete", {"path": path}),
    ):
        said = Reply()
        said.run([ToolCall(name, arguments)], tools, over=lambda: False)
        assert SECRET not in said.observation
        assert CRASH not in said.errors


def test_descriptors_are_closed(folder: Folder) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("descriptors are counted in /proc, which Linux alone has")
    before = len(os.listdir("/proc/self/fd"))
    for path in HOSTILE:
        for tool in (folder.read, folder.list_files, folder.delete):
            with suppress(ToolError):
                tool(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_bytes=0 must be at least 1"):
        Folder(tmp_path, max_bytes=0)
    with pytest.raises(ConfigError, match="is no directory; make it first"):
        Folder(tmp_path / "none")
    folder = empty(tmp_path)
    folder.root.rmdir()
    with pytest.raises(EnvError, match="cannot be opened"):
        folder.read("a")
