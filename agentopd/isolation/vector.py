"""Many copies of an environment as one Gymnasium vector environment, which steps all of them side by side."""

import copy
import math
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

from agentopd import env as environments
from agentopd.env import TextSpace
from agentopd.errors import ConfigError, EnvError
from agentopd.isolation.bare import Answer, Bare, answer_of
from agentopd.isolation.hosts import HOSTS, host
from agentopd.isolation.lane import Host, Isolation, Lane
from agentopd.tooling import brief
from agentopd.types import Bools, Failure

Texts: TypeAlias = tuple[str, ...]
Infos: TypeAlias = dict[str, Any]
Given: TypeAlias = tuple[Texts, np.ndarray[Any, np.dtype[np.float64]], Bools, Bools, Infos]
NOTHING = Answer("", {}, truncated=True)
"""What stands for the answer of an environment that gave none: its episode is over."""


class LaneError(EnvError):
    """Some environments of a vector environment raised, hung or died; the others have answered, and all can be stepped on."""

    def __init__(self, message: str, failures: Mapping[int, Failure], given: Any) -> None:
        super().__init__(message)
        self.failures = dict(failures)
        """What happened, by index."""
        self.given = given
        """What the call would have returned: of those that failed an empty observation, and the end of their episode; of ``call`` what
        happened to them."""


class LaneVectorEnv(VectorEnv[Texts, Texts, Any]):
    """Environments each on a lane of its own: a thread, or a process.

    Seeds, autoreset and the form of ``info`` are those of ``gymnasium.vector.SyncVectorEnv``; observations are tuples of text. An
    environment that raised, hung or died is made anew, with a seed drawn from its own; its episode counts as truncated.
    """

    def __init__(
        self, bare: Callable[[], Bare], n: int, lanes: Host, autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP
    ) -> None:
        """Makes ``n`` of what ``bare`` gives, side by side, each on one of ``lanes``.

        Raises:
            ConfigError: The environment is not registered, or refuses its arguments, or cannot live on such a lane.
            EnvError: It cannot be made.
        """
        super().__init__()
        self.num_envs, self.autoreset_mode = n, autoreset_mode
        self.metadata = {"autoreset_mode": autoreset_mode}
        self.single_observation_space = self.single_action_space = TextSpace()
        self.observation_space = batch_space(self.single_observation_space, n)
        self.action_space = batch_space(self.single_action_space, n)
        self._bare, self._host = bare, lanes
        self._lanes: list[Lane] = []
        self._observations = [""] * n
        self._begun = False
        self._over = np.zeros(n, np.bool_)
        self._seeds: list[int | None] = [None] * n
        self._lost = [0] * n
        try:
            self._lanes += (lanes.lane(bare()) for _ in range(n))
            for lane in self._lanes:
                lane.submit("make")
            for problem in [lane.result() for lane in self._lanes]:
                if isinstance(problem, Failure):
                    raise EnvError(f"{bare().env_id} cannot be made: {problem.message}")
                if problem is not None:
                    raise ConfigError(str(problem))
        except BaseException:
            self.close()
            raise

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Infos | None = None
    ) -> tuple[Texts, Infos]:
        """Starts an episode of all, or of those that the array ``options["reset_mask"]`` marks; see ``SyncVectorEnv.reset``.

        Raises:
            ConfigError: Seeds or mask do not fit the number of environments.
            LaneError: Some could not be started.
        """
        seeds = _seeds(seed, self.num_envs)
        mask, options = _mask(options, self.num_envs)
        for index in mask:
            self._seeds[index], self._lost[index] = seeds[index], 0
        answers, failures = self._round({i: ("reset", (seeds[i], copy.deepcopy(options))) for i in mask})
        self._begun = True
        infos = self._take(answers)
        given = tuple(self._observations), infos
        if failures:
            raise self._error(failures, given, failures)
        return given

    def step(self, actions: Sequence[str]) -> Given:
        """Takes an action of each; see ``SyncVectorEnv.step``.

        Raises:
            ConfigError: Actions are not one text for each environment.
            ResetNeeded: There is no episode; or one is over, where none is reset by itself.
            LaneError: Some did not answer.
        """
        actions = _actions(actions, self.num_envs)
        if not self._begun:
            raise ResetNeeded("there is no episode: call reset() before step()")
        if self.autoreset_mode == AutoresetMode.DISABLED and self._over.any():
            raise ResetNeeded(
                f"the episodes of {np.flatnonzero(self._over).tolist()} are over: call reset(options={{'reset_mask': ...}}) first"
            )
        again = self.autoreset_mode == AutoresetMode.SAME_STEP
        answers, failures = self._round(
            {
                i: ("reset", (self._next_seed(i), None)) if over else ("step", (action, again))
                for i, (action, over) in enumerate(zip(actions, self._over.tolist(), strict=True))
            },
            2 if again else 1,
        )
        infos = self._take(answers)
        rewards_B = np.array([answer.reward for answer in answers.values()], np.float64)
        terminated_B = np.array([answer.terminated for answer in answers.values()], np.bool_)
        truncated_B = np.array([answer.truncated for answer in answers.values()], np.bool_)
        given = tuple(self._observations), rewards_B, terminated_B, truncated_B, infos
        if failures:
            raise self._error(failures, given, failures)
        return given

    def _round(
        self, calls: Mapping[int, tuple[str, tuple[Any, ...]]], each: int = 1
    ) -> tuple[dict[int, Answer], dict[int, Failure]]:
        """Calls those environments side by side, with the time of ``each`` so many calls; who fails is replaced."""
        for index, (method, arguments) in calls.items():
            self._lanes[index].submit(method, *arguments, calls=each)
        answers, failures = dict[int, Answer](), dict[int, Failure]()
        for index in calls:
            found = self._lanes[index].result()
            if isinstance(found, Failure):
                failures[index], found = found, NOTHING
            answers[index] = answer_of(found)
        for index in failures:  # once all have answered: it may fail
            self._replace(index)
        return answers, failures

    def _replace(self, index: int) -> None:
        self._lanes[index].close()
        self._lanes[index] = self._host.lane(self._bare())
        self._lost[index] += 1

    def _next_seed(self, index: int) -> int | None:
        """None goes on with the numbers of the environment, which one that is new does not have."""
        seed, lost = self._seeds[index], self._lost[index]
        if seed is None or not lost:
            return None
        self._seeds[index], self._lost[index] = int(np.random.SeedSequence([seed, lost]).generate_state(1)[0]), 0
        return self._seeds[index]

    def _take(self, answers: Mapping[int, Answer]) -> Infos:
        given: dict[int, Infos] = {}
        for index, answer in answers.items():
            self._observations[index] = answer.observation
            self._over[index] = answer.over and answer.final is None
            given[index] = answer.info
            if answer.final is not None:
                given[index] = answer.info | {"final_obs": answer.final[0], "final_info": answer.final[1]}
        return merged(given, self.num_envs)

    def _error(self, failures: Mapping[int, Failure], given: Any, replaced: Collection[int]) -> LaneError:
        (index, first), *more = failures.items()
        others = f", and so did not {', '.join(str(i) for i, _ in more)}" if more else ""
        return LaneError(
            f"environment {index} of {self.num_envs} ({self._bare().env_id}) did not answer: {first.message}{others}; "
            f"{self._what_now(index, index in replaced)}",
            failures,
            given,
        )

    def _what_now(self, index: int, replaced: bool) -> str:
        """What becomes of an environment that did not answer: one that raised in ``call`` stays in the episode that it is in."""
        if self._begun and not replaced and not self._over[index]:
            return "its episode goes on"
        how = "at the next step, whatever the action"
        if not self._begun:
            how = "by reset()"
        elif self.autoreset_mode == AutoresetMode.DISABLED:
            how = "by reset(options={'reset_mask': ...})"
        return f"it {'is made anew' if replaced else 'has no episode'}, and starts {'an episode' if replaced else 'one'} {how}"

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """An attribute of each, through its wrappers; what it returns, where it can be called. From a process only plain data come."""
        return self._each("call", [(name, args, kwargs)] * self.num_envs)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of each, through its wrappers."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Sets an attribute of each: to one value, or to each its own of a list or tuple."""
        values = values if isinstance(values, list | tuple) else [values] * self.num_envs
        self._each("set_attr", [(name, value) for value in values])

    def _each(self, method: str, arguments_B: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
        for lane, arguments in zip(self._lanes, arguments_B, strict=True):
            lane.submit(method, *arguments)
        found = [lane.result() for lane in self._lanes]
        failures = {i: one for i, one in enumerate(found) if isinstance(one, Failure)}
        replaced = [index for index, failure in failures.items() if failure.kind != "raised"]
        for index in replaced:
            self._replace(index)
            self._over[index] = True
        if failures:
            raise self._error(failures, tuple(found), replaced)
        return tuple(found)

    def render(self) -> tuple[Any, ...]:
        """What each renders."""
        return self.call("render")

    def close_extras(self, **kwargs: Any) -> None:
        """Lets all environments go, without waiting for them."""
        for lane in self._lanes:
            lane.close()


def merged(infos: Mapping[int, Infos], n: int) -> Infos:
    """What ``n`` environments tell, by index, in Gymnasium's form: for each key an array of all, and under ``_key`` of whom it is.

    Dicts become dicts of such arrays. Numbers of one type are an array of that; anything else is an array of objects, ``None`` where
    there is none, so that no number is rounded, and none meets a text.
    """
    by_key: dict[str, dict[int, Any]] = {}
    for index, info in infos.items():
        for key, value in info.items():
            by_key.setdefault(key, {})[index] = value
    together: Infos = {}
    for key, values in by_key.items():
        where = list(values)
        if set(map(type, values.values())) == {dict}:
            together[key] = merged(values, n)
        else:
            together[key] = _column(list(values.values()), where, n)
        of_whom = together[f"_{key}"] = np.zeros(n, np.bool_)
        of_whom[where] = True
    return together


def _column(values: Sequence[Any], where: Sequence[int], n: int) -> np.ndarray[Any, np.dtype[Any]]:
    """``values`` at the places ``where`` of ``n``."""
    kinds = set(map(type, values))
    numbers = len(kinds) == 1 and kinds <= {bool, int, float} and not (kinds == {int} and any(map(_is_wide, values)))
    kind: type = kinds.pop() if numbers else object
    column = np.zeros(n, kind) if numbers else np.full(n, None, object)
    column[where] = np.fromiter(values, kind, len(values))
    return column


def _is_wide(value: int) -> bool:
    return value.bit_length() > 63


def _seeds(seed: int | Sequence[int | None] | None, n: int) -> list[int | None]:
    if seed is None:
        return [None] * n
    if isinstance(seed, int | np.integer):
        return [int(seed) + index for index in range(n)]
    try:
        seeds = [None if one is None else operator.index(one) for one in seed]
    except TypeError as error:
        raise ConfigError(
            f"seed={brief(repr(seed), 80)}: give one whole number, or one for each environment"
        ) from error
    if len(seeds) != n:
        raise ConfigError(
            f"seed={brief(repr(seed), 80)}: {len(seeds)} seeds for {n} environments; give one number, or one for each"
        )
    return seeds


def _mask(options: Infos | None, n: int) -> tuple[list[int], Infos | None]:
    """Which environments are reset, and the options that are theirs."""
    if options is None or "reset_mask" not in options:
        return list(range(n)), options
    mask = options["reset_mask"]
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (n,) or not mask.any():
        raise ConfigError(
            f"options['reset_mask']={mask!r}: give an array of {n} booleans, of which one is true or more"
        )
    return np.flatnonzero(mask).tolist(), {key: value for key, value in options.items() if key != "reset_mask"}


def _actions(actions: Sequence[str], n: int) -> Sequence[str]:
    if isinstance(actions, str) or len(actions) != n or not all(isinstance(one, str) for one in actions):
        raise ConfigError(f"actions={brief(repr(actions), 80)}: give {n} texts, one for each environment")
    return actions


def make_vec(
    id: str,
    n: int,
    *,
    isolation: Isolation | Literal["none"] = "thread",
    time_limit: float = 30.0,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    **kwargs: Any,
) -> LaneVectorEnv | SyncVectorEnv[Texts, Texts]:
    """``n`` copies of :func:`agentopd.make` as one Gymnasium vector environment; observations and actions are tuples of text.

    Args:
        id: As :func:`agentopd.make` takes it.
        n: How many.
        isolation: ``thread``: all step at the same time, each in a thread of its own. ``process``: each in a process of its own, which is
            killed and replaced where it hangs or dies; actions, ``info`` and attributes are copied, as plain data. ``none``: one after the
            other in the thread that calls, by ``gymnasium.vector.SyncVectorEnv``.
        time_limit: Seconds for one ``reset`` or ``step`` of an environment; there is none without isolation.
        autoreset_mode: Gymnasium's: when an episode that is over is followed by the next.
        **kwargs: For the environment's constructor.

    Raises:
        ConfigError: An argument is wrong; nothing is registered under ``id``, or its arguments do not fit.
        EnvError: It cannot be made.
    """
    if isolation not in (*HOSTS, "none"):
        raise ConfigError(f"isolation={isolation!r}: choose {', '.join(HOSTS)} or none")
    if not isinstance(n, int) or not isinstance(time_limit, int | float) or n < 1 or not 0 < time_limit < math.inf:
        raise ConfigError(
            f"n={n!r} must be a whole number of at least 1, time_limit={time_limit!r} seconds, more than 0"
        )
    try:
        mode = AutoresetMode(autoreset_mode)
    except ValueError as error:
        modes = ", ".join(each.value for each in AutoresetMode)
        raise ConfigError(f"autoreset_mode={autoreset_mode!r}: choose one of {modes}") from error
    if isolation == "none":
        return SyncVectorEnv([partial(environments.make, id, **kwargs)] * n, autoreset_mode=mode)
    return LaneVectorEnv(lambda: Bare(id, copy.deepcopy(kwargs)), n, host(isolation, time_limit), mode)
