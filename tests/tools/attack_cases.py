"""Where tools are attacked: an environment that lends one kind of tool, with a secret and a server around it that no call may reach."""

import os
import socket
import sqlite3
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
from http_attacks import Server

from agentopd.env import TextEnv
from agentopd.tooling import ToolSet, call
from agentopd.tools.calculator import calculate
from agentopd.tools.fetch import Fetch
from agentopd.tools.files import Folder
from agentopd.tools.mcp import Mcp
from agentopd.tools.python import GRACE, Python
from agentopd.tools.search import Library
from agentopd.tools.sqlite import Limits, Sqlite

DEN = "tests/Den-v0"
SECRET = "the-canary-sings-83b1"
REBOUND = "rebound.example"
"""A name that one may ask for, and that whoever owns it lets lead to this machine."""


@dataclass(frozen=True)
class Attack:
    """One action of a model that means harm.

    ``$OUTSIDE`` stands for the path of the folder with the secret, ``$HERE`` and ``$CANARY`` for the ports of the server that may be asked and
    of the one that may not.
    """

    kind: str
    """Of the tool: a key of ``TOOLS``."""
    action: str
    told: str = ""
    """What the observation holds, as a regular expression."""
    gone: bool = False
    """Whether it breaks the environment, which a reset mends."""


Attacks = Mapping[str, Attack]


def calls(kind: str, tool: str, argument: str, told: Mapping[str, tuple[str, str]]) -> dict[str, Attack]:
    """Attacks by name, each of what is given as ``argument`` and what is then told."""
    return {name: Attack(kind, call(tool, **{argument: given}), said) for name, (given, said) in told.items()}


@dataclass(frozen=True)
class Place:
    """A folder on the disk with what is attacked and what must stay as it is, and two servers."""

    root: Path
    here: int
    canary: int

    @property
    def inside(self) -> Path:
        return self.root / "inside"

    @property
    def outside(self) -> Path:
        return self.root / "outside"

    def written(self, action: str) -> str:
        named = {"$OUTSIDE": str(self.outside), "$HERE": str(self.here), "$CANARY": str(self.canary)}
        for word, meaning in named.items():
            action = action.replace(word, meaning)
        return action

    def seen(self) -> dict[str, bytes]:
        """What lies outside, by path; nothing else may appear beside it."""
        found = {str(path): path.read_bytes() for path in self.outside.rglob("*")}
        return found | {str(path): b"" for path in self.root.iterdir()}


def place(root: Path, here: Server, canary: Server) -> Place:
    """Lays out a folder with traps in it."""
    made = Place(root, here.port, canary.port)
    for folder in (made.inside / "sub", made.outside):
        folder.mkdir(parents=True)
    for name in ("secret.txt", "held.txt"):
        (made.outside / name).write_text(SECRET)
    (made.inside / "a.txt").write_text("figs: 3\n")
    (made.inside / "link").symlink_to(made.outside / "secret.txt")
    (made.inside / "out").symlink_to(made.outside)
    (made.inside / "sub" / "chain").symlink_to("../out")
    (made.inside / "dangling").symlink_to(made.outside / "new.txt")
    (made.inside / "zero").symlink_to("/dev/zero")
    (made.inside / "process").symlink_to("/proc/self")
    os.link(made.outside / "held.txt", made.inside / "hard")
    os.mkfifo(made.inside / "pipe")
    with sqlite3.connect(made.outside / "secret.db") as db:
        db.execute("CREATE TABLE hidden AS SELECT ? AS word", (SECRET,))
    db.close()
    return made


def _database(place: Place) -> Sqlite:
    db = sqlite3.connect(":memory:", check_same_thread=False)
    db.executescript("CREATE TABLE towns (name TEXT); INSERT INTO towns VALUES ('Ulm'); CREATE TABLE numbers (n);")
    db.executemany("INSERT INTO numbers VALUES (?)", [(n,) for n in range(1000)])
    db.execute("CREATE TEMP TABLE noted AS SELECT ? AS word", (SECRET,))
    db.commit()
    db.execute("ATTACH ? AS other", (str(place.outside / "secret.db"),))
    return Sqlite(db, Limits(seconds=0.5))


def _fetch(place: Place) -> Fetch:
    allow = [f"http://127.0.0.1:{place.here}/data"]
    return Fetch([*allow, f"http://{REBOUND}:{place.canary}", f"http://localhost:{place.canary}"], seconds=3.0)


def _mcp(place: Place) -> Mcp:
    program = str(Path(__file__).with_name("mcp_hostile.py"))
    args = ["-S", "-E", program, f"http://127.0.0.1:{place.canary}"]
    return Mcp("hostile", command=sys.executable, args=args, time_limit=1.0, start_limit=120.0)


PAGES = {"Kilns": "A kiln fires clay.", "Glass": "Sand is molten."}


@dataclass(frozen=True)
class Kind:
    """A kind of tool."""

    make: Callable[[Place], Any]
    limit: float
    """Seconds that a call may take by what is set."""
    goes_on: str
    """A call that works whatever was called before."""
    answer: str


TOOLS: Mapping[str, Kind] = {
    "calculator": Kind(lambda _: calculate, 0.5, call("calculate", expression="2*3"), "6"),
    "python": Kind(lambda _: Python(seconds=0.5), 0.5 + GRACE, call("python", code="print(2*3)"), "6"),
    "sqlite": Kind(_database, 0.5, call("query", sql="SELECT name FROM main.towns"), "name\nUlm"),
    "files": Kind(lambda place: Folder(place.inside), 0.5, call("read", path="a.txt"), "figs: 3\n"),
    "search": Kind(lambda _: Library(PAGES), 0.5, call("open", title="Glass"), "Sand is molten."),
    "fetch": Kind(_fetch, 3.0, call("fetch", url="http://127.0.0.1:$HERE/data/text"), "plain"),
    "mcp": Kind(_mcp, 1.0, call("do"), "fine"),
}


class Den(TextEnv):
    """Lends one tool; its expert attacks once, and then goes on."""

    def __init__(self, kind: str, place: Place, attack: str = "", tool: Any = None) -> None:
        self.kind, self.place, self.attack = TOOLS[kind], place, attack
        self.tool = self.kind.make(place) if tool is None else tool
        if isinstance(self.tool, Mcp):
            self.extra_tools = tuple(self.tool.tools)
        else:
            self.extra_tools = (self.tool,) if callable(self.tool) else tuple(ToolSet.of(self.tool))

    def start(self) -> str:
        self.turn = 0
        if isinstance(self.tool, Mcp):
            self.tool.begin()
        return "Go on."

    def step(self, action: str) -> Any:
        self.turn += 1
        return super().step(action)

    def expert(self) -> str:
        return self.attack if self.turn == 0 else self.place.written(self.kind.goes_on)

    def close(self) -> None:
        if isinstance(self.tool, Mcp | Sqlite):
            self.tool.close()


def leads_here(real: Callable[..., Any]) -> Callable[..., Any]:
    """``socket.getaddrinfo`` for which ``REBOUND`` leads to this machine."""

    def looked_up(host: Any, *given: Any, **more: Any) -> Any:
        return real("127.0.0.1" if host == REBOUND else host, *given, **more)

    return looked_up


LOOK_UP = socket.getaddrinfo
if DEN not in gymnasium.registry:
    gymnasium.register(DEN, entry_point=f"{__name__}:Den")
