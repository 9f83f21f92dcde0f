"""Questions with known answers: asked from options, verified as asked for, and the rows that are shipped."""

import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from question_rows import FILE, lines

from agentopd.config import load_config
from agentopd.env import expert_action, make, tools_of
from agentopd.errors import ConfigError, EnvError
from agentopd.isolation.session import Session
from agentopd.rollout.tasks import TaskStream
from agentopd.testing import check_text_env
from agentopd.tooling import call, tool

ID = "agentopd/Questions-v0"


def test_it_keeps_the_contract() -> None:
    assert check_text_env(ID).expert_rate == 1.0
    assert check_text_env(ID, tools=["calculator"], verifier="numeric").expert_rate == 1.0


def test_it_asks_what_the_options_say_and_keeps_the_rest_for_teachers() -> None:
    options = {"question": "Where?", "answer": "in Bo", "family": "place", "source": "p. 3"}
    env = make(ID)
    said, info = env.reset(seed=0, options=options)
    assert (said, info["family"], info["privileged"]) == ("Where?", "place", {"answer": "in Bo", "source": "p. 3"})
    assert expert_action(env) == call("answer", answer="in Bo")
    assert env.step(expert_action(env))[1:3] == (1.0, True)


JUDGED: list[tuple[str, Any, str, float]] = [
    ("exact", "in Bo", " In  bo ", 1.0),
    ("exact", "in Bo", "Bo", 0.0),
    ("exact", ["Bo", "Ada"], "ada", 1.0),
    ("exact", 12, "12.0", 1.0),
    ("exact", True, "true", 1.0),
    ("exact", 1_000_000, "1000001", 0.0),
    ("exact", "12", "12.0", 0.0),
    ("exact", ["", "x"], "", 1.0),
    ("numeric", "1,234.50", "1234.5", 1.0),
    ("numeric", "3/4", "0.75", 1.0),
    ("numeric", "$12", "12", 1.0),
    ("numeric", 12, "12.1", 0.0),
    ("numeric", [1, 2], "2", 1.0),
    ("numeric", 12, "nan", 0.0),
    ("numeric", 12, "twelve", 0.0),
    ("numeric", 12, "1/0", 0.0),
    ("numeric", 0.1, "0.10000001", 1.0),
    ("numeric", 12, "1e999999999", 0.0),
]


@pytest.mark.parametrize(("verifier", "known", "answer", "reward"), JUDGED)
def test_answers_are_verified(verifier: str, known: Any, answer: str, reward: float) -> None:
    env = make(ID, verifier=verifier)
    env.reset(seed=0, options={"question": "?", "answer": known})
    _, got, over, _, info = env.step(call("answer", answer=answer))
    assert (got, over, info["success"]) == (reward, True, reward == 1.0)


def test_a_verifier_and_tools_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    own = types.ModuleType("own_parts")

    @tool
    def look(at: str) -> str:
        """Look at something."""
        return f"{at}!"

    def overlap(answer: str, options: Mapping[str, Any]) -> float:
        if answer == "fails":
            raise KeyError("x")
        return len(set(answer) & set(options["wanted"])) / len(options["wanted"]) if answer != "too much" else 2.0

    own.__dict__.update(look=look, overlap=overlap)
    monkeypatch.setitem(sys.modules, "own_parts", own)
    env = make(ID, tools=["own_parts:look", "python"], verifier="own_parts:overlap", success=0.5)
    assert tools_of(env).names == ("answer", "look", "python")
    for answer, reward, success in (("ab", 0.5, True), ("a", 0.25, False), ("", 0.0, False)):
        env.reset(seed=0, options={"question": "?", "wanted": "abcd"})
        assert env.step(call("look", at="x"))[0] == "x!"
        _, got, _, _, info = env.step(call("answer", answer=answer))
        assert (got, info["success"]) == (reward, success)
    for answer, match in (
        ("fails", "verifier own_parts:overlap failed on 'fails': KeyError"),
        ("too much", "gave 2.0"),
    ):
        env.reset(seed=0, options={"question": "?", "wanted": "abcd"})
        with pytest.raises(EnvError, match=match):
            env.step(call("answer", answer=answer))
    env.reset(seed=0, options={"question": "?", "wanted": "abcd"})
    with pytest.raises(EnvError, match="no expert's action"):
        expert_action(env)


def test_what_a_tool_remembers_ends_with_the_episode() -> None:
    env = make(ID, tools=["python"])
    env.reset(seed=0)
    assert env.step(call("python", code="x = 3\nx"))[0] == "3"
    assert env.step(call("python", code="x + 1"))[0] == "4"
    env.reset(seed=0)
    assert env.step(call("python", code="x"))[4]["errors"] == ["python_error"]


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"verifier": "exakt"}, "verifier='exakt' is not known .did you mean 'exact'"),
        ({"verifier": "no_module:f"}, "verifier: cannot import 'no_module:f'"),
        ({"tools": "python"}, r"tools='python' must be a list of texts, such as \[python\]"),
        ({"tools": ["calculater"]}, "tools: 'calculater' is not known .did you mean 'calculator'"),
        ({"tools": ["json:dumps"]}, "not a tool; mark it with @tool"),
        ({"success": 0}, "success=0 must be"),
        ({"tolerance": 1}, "tolerance=1 must be"),
    ],
)
def test_settings_are_checked(kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make(ID, **kwargs)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"problem": "?"},
            r"options\['question'\] is None, and must be a text; with data, data.columns.question names",
        ),
        ({"question": 3, "answer": 4}, r"options\['question'\] is 3"),
        ({"question": "?"}, r"options\['answer'\] is None"),
        ({"question": "?", "answer": []}, r"options\['answer'\] is \[\]"),
        ({"question": "?", "answer": "x"}, "which verifier=numeric needs"),
        ({"question": "?", "answer": float("nan")}, "is nan, and must be a text, a finite number"),
    ],
)
def test_options_are_checked(options: dict[str, Any], match: str) -> None:
    with pytest.raises(EnvError, match=match):
        make(ID, verifier="numeric").reset(seed=0, options=options)


def test_the_shipped_rows_are_those_of_their_script_and_stand_in_their_questions() -> None:
    assert FILE.read_text(encoding="utf-8") == lines()
    assert FILE.stat().st_size < 100_000
    config = load_config(Path("configs/envs/questions.yaml"))
    for split in ("train", "evaluation"):
        stream = TaskStream(config.envs, 0, split)
        for i in range(60):
            observed = Session(stream[i], advice=True, needs_expert=True).reset()
            facts = observed.privileged or {}
            assert facts["answer"] in facts["sentence"]
            assert facts["sentence"] in observed.messages[0]["content"]
            assert observed.advice == call("answer", answer=facts["answer"])


def test_objects_of_tools_keep_nothing_from_one_episode_to_the_next(tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "own_memo.py").write_text(
        "from agentopd import tool\n\n\nclass Memo:\n    def __init__(self):\n        self.kept = []\n\n"
        '    @tool\n    def keep(self, text: str) -> str:\n        """Keep."""\n        self.kept.append(text)\n        return str(self.kept)\n\n'
        '    @tool\n    async def recall(self) -> str:\n        """Recall."""\n        return str(self.kept)\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    env = make(ID, tools=["own_memo:Memo"])
    for text in ("a", "b"):
        env.reset(seed=0)
        assert env.step(call("keep", text=text))[0] == env.step(call("recall"))[0] == str([text])
    env.close()


OWN_TOOLS = """
from agentopd import tool


class Waits:
    def __init__(self):
        self.kept = []

    async def reset(self):
        self.kept = []

    @tool
    def keep(self, text: str) -> str:
        \"\"\"Keep.\"\"\"
        self.kept.append(text)
        return str(self.kept)


class Breaks:
    @tool
    def first(self) -> str:
        \"\"\"Break.\"\"\"
        raise KeyError("one")

    @tool
    def second(self) -> str:
        \"\"\"Break, too.\"\"\"
        raise KeyError("two")


class Needs(Breaks):
    def __init__(self, path):
        self.path = path


class Plain:
    def keep(self, text: str) -> str:
        return text


class Tries:
    opened = []

    def __init__(self):
        self.tries = 1
        Tries.opened.append(self)

    @tool
    def reset(self, hard: bool) -> str:
        \"\"\"Begin again.\"\"\"
        self.tries += 1
        return str(self.tries)

    async def close(self):
        Tries.opened.remove(self)


class Late:
    @tool
    def keep(self, text: str) -> str:
        \"\"\"Keep.\"\"\"
        return text

    def reset(self):
        import no_such_package


class Unclean:
    def reset(self):
        self.kept = []

    @tool
    def note(self, text: str) -> str:
        \"\"\"Note.\"\"\"
        self.kept.append(text)
        return str(self.kept)

    def close(self):
        raise OSError("gone")


class Fails(Breaks):
    made = 0

    def __init__(self):
        Fails.made += 1
        if Fails.made != 2:
            raise OSError("nothing there")
"""


@pytest.fixture
def own_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_tools.py").write_text(OWN_TOOLS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_tools", raising=False)
    return "own_tools"


def test_a_reset_that_is_async_is_waited_for(own_tools: str) -> None:
    env = make(ID, tools=[f"{own_tools}:Waits"])
    for text in ("a", "b"):
        env.reset(seed=0)
        assert env.step(call("keep", text=text))[0] == str([text])


def test_the_first_crash_of_each_tool_of_a_class_is_logged_by_its_name(
    own_tools: str, caplog: pytest.LogCaptureFixture
) -> None:
    env = make(ID, tools=[f"{own_tools}:Breaks"])
    env.reset(seed=0)
    for name in ("first", "second"):
        env.step(call(name))
        assert f"tool own_tools.Breaks.{name} crashed" in caplog.text


def test_a_class_of_tools_that_cannot_be_made_is_told_by_its_name(own_tools: str) -> None:
    with pytest.raises(
        ConfigError, match=r"tools: own_tools:Needs cannot be made without .*'path'; name a class of yours"
    ):
        make(ID, tools=[f"{own_tools}:Needs"])
    with pytest.raises(
        ConfigError, match="tools: own_tools:Fails cannot be made without arguments: OSError: nothing there"
    ):
        make(ID, tools=[f"{own_tools}:Fails"])
    env = make(ID, tools=[f"{own_tools}:Fails"])
    env.reset(seed=0)
    with pytest.raises(EnvError, match="tools: own_tools:Fails cannot be made anew: OSError: nothing there"):
        env.reset(seed=0)


def test_objects_of_tools_are_closed_and_a_reset_of_the_model_is_its_own(own_tools: str) -> None:
    env = make(ID, tools=[f"{own_tools}:Tries"])
    opened = sys.modules[own_tools].Tries.opened
    first = list(opened)
    for episode in range(3):
        env.reset(seed=0)
        assert env.step(call("reset", hard=True))[0] == "2"
        assert len(opened) == 1
        assert (opened == first) == (episode == 0)
    env.close()
    env.close()
    assert not opened


def test_an_object_that_cannot_be_closed_costs_no_episode_and_leaves_no_other_open(own_tools: str) -> None:
    env = make(ID, tools=[f"{own_tools}:Unclean", f"{own_tools}:Tries"]).unwrapped
    for _ in range(2):
        env.reset(seed=0)
        assert env.step(call("note", text="a"))[0] == "['a']"
        with pytest.raises(EnvError, match="tools: own_tools:Unclean cannot be closed: OSError: gone"):
            env.close()
        assert not sys.modules[own_tools].Tries.opened


def test_classes_without_tools_and_what_they_lack_are_told_by_name(own_tools: str) -> None:
    with pytest.raises(ConfigError, match="tools: own_tools:Plain has no method marked with @tool; mark those"):
        make(ID, tools=[f"{own_tools}:Plain"])
    env = make(ID, tools=[f"{own_tools}:Late"])
    with pytest.raises(EnvError, match="tools: own_tools:Late cannot be reset: ModuleNotFoundError"):
        env.reset(seed=0)
