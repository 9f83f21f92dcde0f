"""Why an episode cannot be played again, or may not be what it was, each in a sentence with what to do."""

from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import gymnasium
from gymnasium.envs.registration import parse_env_id

from agentopd.env.registry import package_of
from agentopd.replaying.episode import answered
from agentopd.types import Trajectory

ENVIRONMENTS = ("agentopd", "gymnasium")
"""Of the packages whose versions records keep, those that decide what any environment answers, beside the package that has it."""


@dataclass(frozen=True, slots=True)
class Change:
    """A package with another version than when an episode was played."""

    package: str
    was: str
    now: str

    @property
    def told(self) -> str:
        """What to do about it."""
        return (
            f"it was played with {self.package} {self.was}, and this is {self.now}: pip install {self.package}=={self.was} tells whether "
            "that is why"
        )


def changes(trajectory: Trajectory) -> list[Change]:
    """What has another version now, of what decides an environment's answers."""
    found = []
    for package in (*ENVIRONMENTS, *package_of(trajectory.task.env_id)):
        was, now = trajectory.versions.get(package), _installed(package)
        if was is not None and was != now:
            found.append(Change(package, was, now))
    return found


@cache
def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def said_of(change: Change, count: int) -> str:
    """That so many episodes were played with another version."""
    episodes = "1 episode was" if count == 1 else f"{count} episodes were"
    return f"{episodes} played with {change.package} {change.was}; this is {change.now}"


def refusal(trajectory: Trajectory, reason: str) -> str:
    """Why there is no such environment: its own reason, or that only other versions of it are registered."""
    env_id = trajectory.task.env_id
    name = env_id.rpartition(":")[2]
    others = [other for other in _versions_of(name) if other != name]
    if name in gymnasium.registry or not others:
        return reason
    played = ", ".join(
        f"{package} {trajectory.versions[package]}" for package in ENVIRONMENTS if package in trajectory.versions
    )
    return (
        f"environment {env_id!r} was upgraded: only {' and '.join(others)} is registered now, which may answer otherwise; install the version of "
        f"its package that has {name}{f' (it was played with {played})' if played else ''}, or play new episodes"
    )


def _versions_of(name: str) -> list[str]:
    """The ids that are registered of an environment, in all its versions."""
    try:
        own = parse_env_id(name)[:2]
    except gymnasium.error.Error:
        return []
    return sorted(spec.id for spec in gymnasium.registry.values() if (spec.namespace, spec.name) == own)


def ended(trajectory: Trajectory) -> str:
    """What is to be known of an episode that was compared only up to where it got."""
    failure = trajectory.failure
    if failure is None:
        return ""
    where = f"at turn {len(answered(trajectory))}" if trajectory.opening else "at its start"
    return f"it failed {where} ({failure.boundary} {failure.kind}: {_first_line(failure.message)}), and was compared up to there"


def _first_line(text: str) -> str:
    line, *more = text.split("\n", 1)
    return f"{line}..." if more else line
