"""Python that reaches nothing outside, stalls no run and remembers."""

import copy
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentopd import TextEnv
from agentopd.errors import ConfigError, ToolError
from agentopd.tooling import ToolSet, call
from agentopd.tools.python import Python


def refused(code: str, tool: Python | None = None) -> str:
    with pytest.raises(ToolError) as caught:
        (tool or Python()).python(code=code)
    return str(caught.value)


def outcome(tool: Python, code: str) -> str:
    try:
        return tool.python(code=code)
    except ToolError as error:
        return str(error)


def test_values_and_prints_are_told() -> None:
    run = Python().python
    assert run(code="1 + 2") == "3"
    assert run(code="x = 3") == "no output"
    assert run(code="print('a')\nx") == "a\n3"
    assert run(code="print('a', end='')") == "a"
    assert run(code="for n in (0, 1):\n    print(n, end=' ')\n2") == "0 1 \n2"
    assert refused("print('a', end='')\n1 / 0") == "a\nZeroDivisionError: division by zero"
    assert run(code="'text'") == "'text'"
    assert run(code="None") == "no output"


def test_variables_and_functions_live_until_the_reset() -> None:
    tool = Python()
    tool.python(code="def double(n):\n    return 2 * n\nx = 20")
    assert refused("x = 21\n1 / 0", tool) == "ZeroDivisionError: division by zero"
    assert tool.python(code="double(x)") == "42"
    other = copy.deepcopy(tool)
    tool.reset()
    assert refused("x", tool) == "NameError: name 'x' is not defined"
    assert other.python(code="x") == "21"
    assert refused("y", other) == "NameError: name 'y' is not defined"
    one = Python(keeps=False)
    one.python(code="x = 1")
    assert refused("x", one) == "NameError: name 'x' is not defined"


def test_the_same_calls_give_the_same_answers() -> None:
    code = "import random, time\nfrom datetime import datetime\n(random.random(), time.time(), datetime.now())"
    first, second = Python(), Python()
    told = [tool.python(code=code) for tool in (first, second)]
    assert told[0] == told[1]
    assert first.python(code=code) != told[0]  # its random numbers go on
    assert first.python(code="random.random()") != first.python(code="random.random()")


OUTSIDE = [
    "open('/etc/passwd').read()", "open('x', 'w').write('y')", "import os\nos.listdir('/')", "import os\nos.environ['PATH']",
    "import os\nos.getenv('PATH') + ''", "import os\nos.system('id')", "import os\nos.fork()", "import os\nos.remove('/tmp/x')", "import subprocess",
    "import socket", "import urllib.request", "import ctypes", "import multiprocessing", "import threading", "import shutil",
    "import importlib", "import pickle", "import agentopd", "__import__('os')", "().__class__.__bases__[0].__subclasses__()",
    "print.__self__", "(lambda: 0).__globals__", "exec.__globals__", "[c for c in {}.__class__.__mro__]", "globals()['__builtins__']",
    "breakpoint()", "input()", "exit()", "raise SystemExit", "raise KeyboardInterrupt", "from pathlib import Path\nPath('/etc/passwd').read_text()",
    "from pathlib import Path\nlist(Path('/').iterdir())", "eval(\"open('/etc/passwd').read()\")", "compile('1', 'x', 'exec')",
    "\x00", "(" * 5000, "x = " + "[" * 3000, "lambda", "def f(): yield\nf().gi_frame.f_back", "'{0.__class__}'.format(1)",
]  # fmt: skip


@pytest.mark.parametrize("code", OUTSIDE)
def test_nothing_outside_is_reached(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = refused(code)
    assert said
    assert "root:" not in said
    assert os.environ["PATH"] not in said
    assert not [*tmp_path.iterdir()]


HEAVY = {
    "while True: pass": "TimeoutError: it takes longer than 0.3 seconds",
    "def f(n):\n    return f(n + 1)\nf(0)": "RecursionError: maximum recursion depth exceeded",
    "[0] * 10**9": "MemoryError: it needs more than 67108864 bytes, or prints too much",
    "'a' * 10**10": "MemoryError: it needs more than 67108864 bytes, or prints too much",
    "x = []\nwhile True: x.append(x * 2)": "Error: it",
    "2 ** 10 ** 9": "MemoryError: it needs more than 67108864 bytes, or prints too much",
    "sum(range(10 ** 12))": "TimeoutError: it takes longer than 0.3 seconds",
    "sorted(range(10 ** 7), key=lambda n: -n)": "Error: it",
    "'9' * 10 ** 6 in '9' * (10 ** 7 - 1) + '8'": "",
}


@pytest.mark.parametrize("code", HEAVY)
def test_heavy_code_ends_at_its_limits_and_leaves_the_tool_in_order(code: str) -> None:
    tool = Python(seconds=0.3)
    tool.python(code="kept = 7")
    started = time.monotonic()
    assert HEAVY[code] in outcome(tool, code)
    assert time.monotonic() - started < 10
    assert tool.python(code="kept") == "7"


def test_sleep_takes_no_time() -> None:
    started = time.monotonic()
    assert Python().python(code="import time\ntime.sleep(1000)") == "no output"
    assert time.monotonic() - started < 10


def test_output_is_bounded_and_says_what_is_left_out() -> None:
    told = Python(output=100).python(code="print('a' * 500 + 'z')")
    assert told == f"{'a' * 50}… [cut: 100 of 502 characters]\n{'a' * 48}z"
    assert len(refused("while True: print('x' * 1000)", Python(output=100, seconds=0.5))) < 300
    assert len(Python(output=100).python(code="list(range(1000))")) < 140
    assert len(refused("raise ValueError('x' * 10**6)")) < 600
    assert "longer than 10000 characters" in refused("#" * 10_001)


@pytest.mark.parametrize("text", ["</tool_call>", "<|im_end|>", "\ud800", "\u202e", "é🙂", "\x1b[31m"])
def test_odd_text_comes_back_as_text(text: str) -> None:
    assert Python().python(code="print(" + ascii(text) + ")")


def test_settings_are_checked() -> None:
    for name in ("seconds", "memory", "output"):
        with pytest.raises(ConfigError, match=f"{name}=0 must be above 0"):
            Python(**{name: 0})  # type: ignore[arg-type]


def test_many_episodes_hold_variables_of_their_own() -> None:
    tools = [Python() for _ in range(32)]

    def play(n: int) -> str:
        tools[n].python(code=f"x = {n}")
        return tools[n].python(code="x * x")

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(play, range(32))) == [str(n * n) for n in range(32)]


class Squares(TextEnv):
    """An environment that lends the tool."""

    def __init__(self) -> None:
        self.sandbox = Python()
        self.extra_tools = (self.sandbox.python,)

    def start(self) -> str:
        self.sandbox.reset()
        return "Print 7 squared."


def test_an_environment_lends_it() -> None:
    env = Squares()
    env.reset(seed=0)
    assert ToolSet(env.extra_tools).names == ("python",)
    assert env.step(call("python", code="x = 7"))[0] == "no output"
    assert env.step(call("python", code="print(x * x)"))[0] == "49"
    observation, *_, info = env.step(call("python", code="1/0"))
    assert (observation, info["errors"]) == ("ZeroDivisionError: division by zero", ["python_error"])
    env.reset(seed=1)
    assert env.step(call("python", code="x"))[0] == "NameError: name 'x' is not defined"
