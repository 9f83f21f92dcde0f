"""TextWorld: text adventures that are made from the seed, or loaded from files. The engine knows the way from wherever one stands."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentopd.env import TextEnv
from agentopd.envs import text_world_games as engine
from agentopd.errors import ConfigError, ToolError
from agentopd.tooling import brief, call, tool

CACHE = "~/.cache/agentopd/textworld"
KEPT = 512
"""Compiled games in the cache, of about half a megabyte each."""
MOST_GAMES = 2**31
LIMITS = {"rooms": (1, 20), "objects": (1, 40), "quest_length": (1, 20)}

WALKING = (
    "north",
    "south",
    "east",
    "west",
    "n",
    "s",
    "e",
    "w",
    "look",
    "l",
    "inventory",
    "i",
    "examine",
    "x",
    "get",
    "take",
)
"""First words that every game understands beside its own verbs."""
LONGEST = 100
"""Of a command, in characters."""
_COMMAND = re.compile(r"[a-z0-9 '-]+")
_DRAWN = re.compile(r"^(?=.*\S)[ _|\\/$>]+$", re.MULTILINE)
"""A line of the title that is drawn when a game begins."""
_ENDING = re.compile(r"\s*Would you like to RESTART.*", re.DOTALL)
_STATUS = re.compile(r"\n>\s.*-=.*=-\s*-?\d+/\d+\s*$")
"""The line of place, score and moves that ends what the interpreter shows."""
_GAPS = re.compile(r"\s*\n\s*\n\s*")


class TextWorld(TextEnv):
    """A text adventure: rooms, doors, keys and things, and a quest that is told when it begins. A turn is a command.

    The reward is the share of the game's score that a command earns: 1 for the whole quest. Winning is success; a game that is lost
    ends too.

    Args:
        rooms: Of generated games, 1 to 20.
        objects: Things in generated games, 1 to 40; the quest may need more.
        quest_length: Commands that the quest takes in generated games, 1 to 20.
        games: How many different games are generated, the seed choosing among them; ``None``: a seed is a game of its own. Or
            the user's: paths, patterns and folders of TextWorld's files, of which the seed draws one.
        admissible: Whether the commands that the game understands now are told each turn.
        progress: What a command adds to the reward that brings the end of the quest nearer, 0 to 1; what leads away takes as much.
        cache: Where compiled games are kept, about 512. Default: ``agentopd/textworld`` in the user's cache folder.
    """

    instructions = "Play the text adventure: one command a turn, until its quest is fulfilled."

    def __init__(
        self,
        rooms: int = 3,
        objects: int = 4,
        quest_length: int = 3,
        games: int | str | Sequence[str] | None = 100,
        admissible: bool = True,
        progress: float = 0.0,
        cache: str | None = None,
    ):
        for name, value in (("rooms", rooms), ("objects", objects), ("quest_length", quest_length)):
            least, most = LIMITS[name]
            if not least <= value <= most:
                raise ConfigError(f"{name}={value} must be from {least} to {most}")
        if isinstance(games, int) and not 1 <= games <= MOST_GAMES:
            raise ConfigError(f"games={games} must be from 1 to {MOST_GAMES}, null, or files")
        if not 0 <= progress <= 1:
            raise ConfigError(f"progress={progress} must be from 0 to 1")
        self._settings = (rooms, objects, quest_length)
        self._files = () if games is None or isinstance(games, int) else engine.files_of(games)
        self._variety = games if isinstance(games, int) else MOST_GAMES
        self.admissible, self.progress = admissible, progress
        folder = os.environ.get("XDG_CACHE_HOME", "")
        self._cache = Path(cache or (f"{folder}/agentopd/textworld" if folder else CACHE)).expanduser()
        self._env: Any = None
        self._played: engine.Played | None = None

    def start(self) -> str:
        """Draws a game, compiles it if that was not done before, and tells how it begins."""
        played = self._drawn()
        if self._played != played:
            self.close()
            self._env, self._played = engine.opened(played), played
        self._state = self._env.reset()
        self._score = 0
        return self._told(_DRAWN.sub("", self._state.feedback))

    @tool
    def act(self, command: str) -> str:
        """Do something in the game.

        Args:
            command: What to do, such as: go north.
        """
        self._state, _, _ = self._env.step(self._checked(command))
        earned = (self._state.score or 0) - self._score
        self._score += earned
        reward = earned / max(self._state.max_score or 1, 1) + self.progress * self._state.intermediate_reward
        if self._state.won or self._state.lost:
            self.finish(reward, success=bool(self._state.won))
            return _tidy(_ENDING.sub("", self._state.feedback))
        self.add_reward(reward)
        return self._told(self._state.feedback)

    def expert(self) -> str:
        """The first command of the engine's own policy here; ``look`` where the quest can no longer be fulfilled."""
        return call("act", command=self._state.policy_commands[0] if self._state.policy_commands else "look")

    def privileged(self) -> dict[str, Any]:
        """The commands that lead to the end from here, numbered, one a line."""
        lines = (f"{n}. {command}" for n, command in enumerate(self._state.policy_commands or (), 1))
        return {"walkthrough": "\n".join(lines)}

    def close(self) -> None:
        """Frees the interpreter."""
        if self._env is not None:
            self._env.close()
        self._env = self._played = None
        super().close()

    def _drawn(self) -> engine.Played:
        if self._files:
            file = self._files[int(self.np_random.integers(len(self._files)))]
            game = engine.loaded(file)
            return game, file if file.suffix == ".z8" else engine.compiled(game, self._cache, KEPT)
        game = engine.generated(*self._settings, int(self.np_random.integers(self._variety)))
        return game, engine.compiled(game, self._cache, KEPT)

    def _checked(self, command: str) -> str:
        """The command, if it does nothing but play: the interpreter also knows ones that save, undo, restart and quit.

        Raises:
            ToolError: It may do something else (``invalid_action``).
        """
        wanted = " ".join(command.split()).casefold()
        if known := next((one for one in self._state.admissible_commands if one.casefold() == wanted), None):
            return str(known)
        words = wanted.split() if len(wanted) <= LONGEST and _COMMAND.fullmatch(wanted) else []
        verbs = sorted({*self._state.verbs})
        if not words or words[0] not in (*verbs, *WALKING) or "then" in words:
            told = f"{brief(repr(command), 40)} is not understood; begin with one of: {', '.join(verbs)}"
            raise ToolError(told, kind="invalid_action")
        return wanted

    def _told(self, feedback: str) -> str:
        text = _tidy(feedback)
        return f"{text}\nCommands: {'; '.join(self._state.admissible_commands)}." if self.admissible else text


def _tidy(text: str) -> str:
    return _GAPS.sub("\n", _STATUS.sub("", text)).strip()
