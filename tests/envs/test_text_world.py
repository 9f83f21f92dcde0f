"""TextWorld: games of the seed and of files, the engine's policy from anywhere, and nothing that leaves the game."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agentopd.env import expert_action, make, system_prompt
from agentopd.errors import ConfigError, EnvError
from agentopd.testing import check_text_env
from agentopd.tooling import call

pytest.importorskip("textworld", reason='pip install "agentopd[textworld]", whose interpreter needs a C compiler')
from agentopd.envs import text_world_games as engine

ID = "agentopd/TextWorld-v0"
SMALL: dict[str, Any] = {"rooms": 2, "objects": 3, "quest_length": 2, "games": 3}
Played = tuple[bool, list[tuple[str, str, float]]]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "agentopd" / "textworld"


def wander(seed: int, steps: int = 6, **kwargs: Any) -> Played:
    """Random commands, some of them vague, then the expert's: success, and all that was done and told."""
    env: Any = make(ID, **(SMALL | kwargs))
    told = [("", env.reset(seed=seed)[0], 0.0)]
    dice, over, cut, info = random.Random(seed), False, False, {}
    while not over and not cut:
        commands = [*env.unwrapped._state.admissible_commands, "take all", "drop all", "open all", "north", "eat key"]
        action = call("act", command=dice.choice(commands)) if len(told) <= steps else expert_action(env)
        observation, reward, over, cut, info = env.step(action)
        told.append((action, observation, reward))
    env.close()
    return bool(info["success"]), told


@pytest.mark.parametrize("kwargs", [{}, {"plain": True, "admissible": False, "progress": 0.1}])
def test_it_conforms_and_the_expert_always_wins(kwargs: dict[str, Any]) -> None:
    assert check_text_env(ID, time_limit=120.0, **SMALL, **kwargs).expert_rate == 1.0


def test_the_expert_goes_on_from_anywhere_and_threads_are_apart() -> None:
    alone = [wander(seed) for seed in range(12)]
    assert all(success for success, _ in alone)
    with ThreadPoolExecutor(32) as threads:
        assert list(threads.map(wander, [*range(12)] * 3)) == alone * 3


def test_another_process_plays_the_same(tmp_path: Path) -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); from test_text_world import wander; import json; print(json.dumps(wander(5)))"
    environment = os.environ | {
        "PYTHONHASHSEED": "7",
        "XDG_CACHE_HOME": str(tmp_path),
    }  # it generates and compiles anew
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    success, told = json.loads(printed.splitlines()[-1])
    assert (success, [tuple(step) for step in told]) == wander(5)


def test_winning_earns_the_score_and_progress_is_paid_on_top() -> None:
    _, told = wander(0, steps=0)
    assert [reward for *_, reward in told] == [0.0, 0.0, 1.0]
    assert "*** The End ***" in told[-1][1]
    assert "RESTART" not in told[-1][1]
    assert "$$" not in told[0][1]
    _, paid = wander(0, steps=0, progress=0.25)
    assert [reward for *_, reward in paid] == [0.0, 0.25, 1.25]


@pytest.mark.parametrize(
    "command",
    [
        "quit",
        "restart",
        "undo",
        "save",
        "look. save",
        "look then quit",
        "look; undo",
        "script",
        "tw-trace-actions",
        "",
        "é",
    ],
)
def test_commands_about_the_game_itself_do_not_reach_it(command: str) -> None:
    env = make(ID, **SMALL)
    env.reset(seed=0)
    observation, _, over, _, info = env.step(call("act", command=command))
    assert "is not understood; begin with one of: close, drop, " in observation
    assert (info["errors"], over) == (["invalid_action"], False)


def test_admissible_commands_are_told_where_asked() -> None:
    assert "\nCommands: " in make(ID, **SMALL).reset(seed=0)[0]
    env = make(ID, admissible=False, plain=True, **SMALL)
    observation, info = env.reset(seed=0)
    assert "Commands:" not in observation
    assert (
        info["privileged"]["walkthrough"]
        == f"1. {expert_action(env)}\n" + info["privileged"]["walkthrough"].split("\n")[1]
    )
    assert system_prompt(env).endswith("Answer with nothing but the command.")


def test_files_are_played_with_and_without_their_compiled_form(cache: Path, tmp_path: Path) -> None:
    wander(0)
    made = next(iter(sorted(cache.iterdir())))
    for name in ("game.z8", "game.json"):
        shutil.copy(made / name, tmp_path / name)
    shutil.copy(made / "game.json", tmp_path / "bare.json")
    assert [file.name for file in engine.files_of(str(tmp_path))] == ["bare.json", "game.z8"]
    first = [make(ID, games=str(tmp_path / name)).reset(seed=0) for name in ("game.z8", "bare.json")]
    assert first[0] == first[1]
    assert check_text_env(ID, time_limit=120.0, games=[str(tmp_path / "*.z8")]).expert_rate == 1.0


def test_files_are_read_by_many_at_once(tmp_path: Path) -> None:
    files = [tmp_path / f"{seed}.json" for seed in range(1, 9)]
    for file in files:
        engine.generated(2, 3, 2, int(file.stem)).save(str(file))
    with ThreadPoolExecutor(len(files)) as threads:
        read = list(threads.map(engine.loaded, files))
    engine._read.cache_clear()
    assert [one.serialize() for one in read] == [engine.loaded(file).serialize() for file in files]


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"rooms": 0}, "rooms=0 must be from 1 to 20"),
        ({"quest_length": 21}, "quest_length=21 must be from 1 to 20"),
        ({"games": 0}, "games=0 must be from 1 to 2147483648, null, or files"),
        ({"games": "/nowhere/*.z8"}, "games: nothing is at '/nowhere/\\*.z8'"),
        ({"games": __file__}, "cannot be played; give TextWorld's own .z8"),
    ],
)
def test_settings_are_checked(kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make(ID, **kwargs)


def test_a_file_that_is_no_game_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(EnvError, match=r"x.json cannot be read as a game of TextWorld"):
        make(ID, games=str(tmp_path / "x.json")).reset(seed=0)
    (tmp_path / "y.z8").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"y.z8 needs its y.json beside it"):
        make(ID, games=str(tmp_path / "y.z8"))
    trial = tmp_path / "train" / "pick" / "trial"
    trial.mkdir(parents=True)
    for name in ("game.tw-pddl", "traj_data.json"):
        (trial / name).write_text("{}")
    with pytest.raises(ConfigError, match=r"game\.tw-pddl cannot be played; .*ALFWorld need its planner"):
        make(ID, games=str(tmp_path / "train"))


def test_the_cache_is_bounded_but_for_what_is_in_use(tmp_path: Path) -> None:
    for age in range(5):
        (tmp_path / str(age)).mkdir()
        os.utime(tmp_path / str(age), (1e9 - age, 1e9 - age))
    (tmp_path / "new").mkdir()
    engine._trim(tmp_path, 2)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["0", "new"]
    engine._trim(tmp_path, 0)
    assert [folder.name for folder in tmp_path.iterdir()] == ["new"]


def test_close_frees_the_interpreter() -> None:
    def libraries() -> int:
        return Path("/proc/self/maps").read_text().count("libfrotz")

    before = libraries()
    env = make(ID, **SMALL)
    env.reset(seed=0)
    assert libraries() > before
    env.close()
    assert libraries() == before


def test_a_damaged_story_is_told_or_made_anew(cache: Path, tmp_path: Path) -> None:
    """The interpreter would end the process."""
    env = make(ID, **SMALL)
    told = env.reset(seed=0)[0]
    [kept] = [file for file in cache.glob("*/game.z8") if file == env.get_wrapper_attr("_played")[1]]
    whole = kept.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], whole[:999] + bytes([whole[999] ^ 1]) + whole[1000:]):
        assert engine.is_whole(kept)
        kept.write_bytes(broken)
        assert not engine.is_whole(kept)
        assert make(ID, **SMALL).reset(seed=0)[0] == told
    for name in ("game.z8", "game.json"):
        shutil.copy(kept.with_name(name), tmp_path)
    (tmp_path / "game.z8").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EnvError, match=r"game\.z8 is damaged"):
        make(ID, games=str(tmp_path)).reset(seed=0)


def test_a_cache_that_can_only_be_read_serves_what_lies_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told = make(ID, **SMALL).reset(seed=0)[0]

    def refused(path: Any, *_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "utime", refused)
    assert make(ID, **SMALL).reset(seed=0)[0] == told
