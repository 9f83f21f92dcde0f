"""TextWorld's games: made from a seed, compiled once and kept, or loaded from files. The only module that imports ``textworld``."""

import glob
import hashlib
import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

from gymnasium.error import DependencyNotInstalled

from agentopd.errors import ConfigError, EnvError, describe

try:
    import textworld
    from textworld.envs import JerichoEnv, TWInform7
    from textworld.generator import KnowledgeBase, compile_inform7_game, generate_inform7_source, make_game
except ImportError as error:
    raise DependencyNotInstalled(f'TextWorld needs textworld: pip install "agentopd[textworld]" ({error})') from error

Game: TypeAlias = Any
"""A ``textworld.Game``: the logic of a game, from which its compiled form is made."""
Played: TypeAlias = tuple[Game, Path]
"""A game and its compiled form, a file for the Z-machine; a file of the same name with ``.json`` lies beside it."""

STORY = "game.z8"
SUFFIXES = (".z8", ".json")
IN_USE = 3600.0
"""Seconds since a game was last taken, within which it is not removed."""
SEED = 1
"""Of the interpreter's own dice, so that a game plays the same each time. 0 would mean the clock."""

_generating = (
    Lock()
)  # the generator, and what reads games, share knowledge, a random state and a parser among all who use them
_compiling: defaultdict[Path, Lock] = defaultdict(Lock)  # episodes that begin at once often draw the same game


@lru_cache(maxsize=128)
def generated(rooms: int, objects: int, quest_length: int, seed: int) -> Game:
    """The game of a seed, the same in every process.

    Raises:
        EnvError: TextWorld cannot make such a game from this seed.
    """
    options = textworld.GameOptions()
    options.nb_rooms, options.nb_objects, options.quest_length = rooms, objects, quest_length
    options.kb, options.seeds = KnowledgeBase.default(), seed
    try:
        with _generating:
            return make_game(options)
    except Exception as error:  # among others its own QuestGenerationError
        told = f"rooms={rooms}, objects={objects}, quest_length={quest_length}, seed {seed}"
        raise EnvError(
            f"TextWorld could not make a game: {told}: {describe(error)}; choose another quest_length"
        ) from error


def compiled(game: Game, cache: Path, most: int) -> Path:
    """The compiled form of a game, made if none lies in ``cache``, which is kept to about ``most`` games.

    Raises:
        EnvError: It cannot be compiled, or the cache not written.
    """
    with _generating:
        source = generate_inform7_source(game)
    folder = cache / hashlib.sha256(f"{textworld.__version__}\n{source}".encode()).hexdigest()[:24]
    try:
        with _compiling[folder]:
            if not is_whole(folder / STORY):
                shutil.rmtree(folder, ignore_errors=True)  # of a full disk, for instance
                cache.mkdir(parents=True, exist_ok=True)
                _compile(game, source, folder)
                _trim(cache, most)
            with suppress(OSError):  # a cache that can only be read serves what lies in it
                os.utime(folder)
    except OSError as error:
        raise EnvError(f"cache={cache}: it cannot be written: {error.strerror}") from error
    return folder / STORY


def is_whole(file: Path) -> bool:
    """Whether a story for the Z-machine is there, as long as its header says, and of its checksum."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return False
    return _is_whole(file, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=1024)
def _is_whole(file: Path, size: int, changed: int) -> bool:
    story = file.read_bytes()
    length = 8 * int.from_bytes(story[26:28], "big")
    checksum = int.from_bytes(story[28:30], "big")
    return story[:1] == b"\x08" and 64 <= length <= len(story) and sum(story[64:length]) % 2**16 == checksum


def _compile(game: Game, source: str, folder: Path) -> None:
    """Fills ``folder`` at one stroke, so that whoever sees it sees it whole."""
    aside = Path(tempfile.mkdtemp(prefix="making-", dir=folder.parent))
    try:
        game.save(str(aside / "game.json"))
        compile_inform7_game(source, str(aside / STORY))
        if not folder.is_dir():  # another may have been quicker
            aside.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    except Exception as error:
        raise EnvError(f"TextWorld could not compile a game: {describe(error)}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _trim(cache: Path, most: int) -> None:
    """Removes the games that were not taken for the longest time, but none that may be in use."""
    used: list[tuple[float, Path]] = []
    for folder in cache.iterdir():
        try:
            used.append((folder.stat().st_mtime, folder))
        except FileNotFoundError:  # another process removed it
            continue
    for last, folder in sorted(used)[: max(len(used) - most, 0)]:
        if time.time() - last > IN_USE:
            shutil.rmtree(folder, ignore_errors=True)


def files_of(games: str | Sequence[str]) -> tuple[Path, ...]:
    """The files that paths, patterns and folders name, sorted; each game once.

    Raises:
        ConfigError: Nothing is there, or something that cannot be played.
    """
    found: dict[Path, None] = {}
    for pattern in [games] if isinstance(games, str) else games:
        path = os.path.expanduser(pattern)
        names = [path] if os.path.isfile(path) else glob.glob(path, recursive=True)
        if os.path.isdir(path):
            names = [  # ALFWorld's are looked for to be refused by name: each has a .json beside it that is no game
                name
                for suffix in (*SUFFIXES, ".tw-pddl")
                for name in glob.glob(f"{glob.escape(path)}/**/*{suffix}", recursive=True)
            ]
        if not names:
            raise ConfigError(f"games: nothing is at {pattern!r}; give files, a pattern or a folder of {_forms()}")
        for name in sorted(names):
            found[_playable(Path(name).resolve())] = None
    if not found:
        raise ConfigError(f"games={games!r}: name at least one of {_forms()}, or leave games out to generate some")
    return tuple(found)


def _playable(file: Path) -> Path:
    """The compiled form where there is one, else the ``.json`` from which it can be made."""
    if file.suffix not in SUFFIXES:
        why = "games of ALFWorld need its planner, and those of Glulx an older TextWorld"
        raise ConfigError(f"games: {file} cannot be played; give {_forms()} ({why})")
    if not file.with_suffix(".json").is_file():
        raise ConfigError(f"games: {file} needs its {file.stem}.json beside it, which TextWorld wrote with it")
    return file.with_suffix(".z8") if file.with_suffix(".z8").is_file() else file


def _forms() -> str:
    return "TextWorld's own .z8 with .json, or .json alone"


def loaded(file: Path) -> Game:
    """The game of a file of :func:`files_of`; each is read once, unless it changes.

    Raises:
        EnvError: It cannot be read.
    """
    logic = file.with_suffix(".json")
    try:
        return _read(logic, logic.stat().st_mtime_ns)
    except Exception as error:
        raise EnvError(f"games: {logic} cannot be read as a game of TextWorld: {describe(error)}") from error


@lru_cache(maxsize=128)
def _read(logic: Path, changed: int) -> Game:
    with _generating:
        return textworld.Game.load(str(logic))


def opened(played: Played) -> Any:
    """A game that is ready to be reset: an interpreter of its own, in this process. ``close`` frees it.

    Raises:
        EnvError: The story is damaged. The interpreter would end the whole process.
    """
    game, file = played
    if not is_whole(file):
        raise EnvError(f"{file} is damaged, or no story for version 8 of the Z-machine; compile the game again")
    infos = textworld.EnvInfos(
        admissible_commands=True, policy_commands=True, intermediate_reward=True, feedback=True, verbs=True
    )
    interpreter = JerichoEnv(infos)
    interpreter._game = game  # TextWorld takes it from here instead of reading it again, which takes seconds
    interpreter.seed(SEED)
    env = TWInform7(interpreter)
    env.load(str(file))
    return env
