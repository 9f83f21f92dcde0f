"""Questions: one with a known answer, told by ``reset``, which is how rows of a file or a data set become tasks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentopd.env import TextEnv
from agentopd.envs.answers import exactly, nearly, number
from agentopd.errors import ConfigError, EnvError, describe
from agentopd.settings.kinds import load
from agentopd.settings.problems import nearest, shown
from agentopd.tooling import call, tool
from agentopd.tools.named import Named

Verifier = Callable[[str, Mapping[str, Any]], float]
"""From what was answered and the options of the task to a score from 0 to 1."""


class Questions(TextEnv):
    """Asks ``options["question"]``; the reward is the verifier's score of what is answered, which ends the episode.

    ``options["answer"]`` is the known answer, a text or a number, or a list of such, of which any is right. ``options["family"]``, where
    it is there, is the family of the task; what else the options hold is privileged, as the answer is. Without any options it
    asks for a sum of its own, so that it can be tried.

    Args:
        tools: What can be called beside ``answer``: some of ``calculator`` and ``python``, or import paths.
        verifier: ``exact`` (the same words, in any case; numbers as numbers), ``numeric`` (the same number, as far as ``tolerance``),
            or the import path of a function of ``(answer: str, options: Mapping[str, Any])`` that returns a score from 0 to 1. For such
            a function no known answer need be there; without one there is no expert's action.
        tolerance: How far apart numbers may be, relative to the larger one.
        success: The least score that counts as success.
        instructions: The system message.
    """

    instructions = "Answer the question with the tool answer."

    def __init__(
        self,
        tools: Sequence[str] = (),
        verifier: str = "exact",
        tolerance: float = 1e-6,
        success: float = 1.0,
        instructions: str | None = None,
    ):
        if not 0 < success <= 1:
            raise ConfigError(f"success={success} must be above 0 and at most 1")
        if not 0 <= tolerance < 1:
            raise ConfigError(f"tolerance={tolerance} must be from 0 to less than 1")
        self.instructions = instructions or type(self).instructions
        self._named, self._own = Named(tools), ":" in verifier
        self.extra_tools = self._named.functions
        self._least, self._tolerance = success, tolerance
        self._verify = _own(verifier) if self._own else self._shipped(verifier)

    def start(self) -> str:
        """Asks what the options say."""
        self._named.reset()
        self._task = dict(self.options) if self.options else self._sum()
        question = self._task.get("question")
        if not isinstance(question, str) or not question.strip():
            self._refuse("question", "a text")
        self.family = str(self._task.get("family", ""))
        self._known = _listed(self._task.get("answer"))
        if (not self._known and not self._own) or not all(map(_answerable, self._known)):
            self._refuse("answer", "a text, a finite number, or a list of such")
        if self._verify == self._numeric and any(number(one) is None for one in self._known):
            self._refuse("answer", "a number, which verifier=numeric needs")
        return str(question)

    def close(self) -> None:
        """Closes the tools that were made for it."""
        self._named.close()
        super().close()

    def _refuse(self, name: str, wanted: str) -> None:
        raise EnvError(
            f"options[{name!r}] is {shown(self._task.get(name))}, and must be {wanted}; with data, data.columns.{name} names the column"
        )

    def _sum(self) -> dict[str, Any]:
        a, b = (int(number) for number in self.np_random.integers(10, 100, 2))
        return {"question": f"What is {a} + {b}?", "answer": a + b}

    @tool
    def answer(self, answer: str) -> str:
        """Answer the question.

        Args:
            answer: The answer alone.
        """
        score = self._verify(answer, self._task)
        self.finish(reward=score, success=score >= self._least)
        return "Right." if score == 1 else "Partly right." if score > 0 else "Wrong."

    def expert(self) -> str:
        """Gives the known answer, the first where there are several."""
        if not self._known:
            raise EnvError(
                "options['answer'] is not there, so there is no expert's action; name its column by data.columns.answer"
            )
        return call("answer", answer=str(self._known[0]))

    def privileged(self) -> dict[str, Any]:
        """The answer, and all other options but question and family."""
        return {name: value for name, value in self._task.items() if name not in {"question", "family"}}

    def _shipped(self, name: str) -> Verifier:
        verifiers: Mapping[str, Verifier] = {"exact": self._exact, "numeric": self._numeric}
        if name not in verifiers:
            raise ConfigError(
                f"verifier={name!r} is not known{nearest(name, verifiers)}; there are: {', '.join(verifiers)}; one of yours is written "
                "package.module:function"
            )
        return verifiers[name]

    def _exact(self, answer: str, options: Mapping[str, Any]) -> float:
        return float(exactly(answer, self._known))

    def _numeric(self, answer: str, options: Mapping[str, Any]) -> float:
        return float(nearly(answer, self._known, self._tolerance))


def _listed(answer: Any) -> list[Any]:
    return answer if isinstance(answer, list) else [] if answer is None else [answer]


def _answerable(known: Any) -> bool:
    return isinstance(known, str | bool) or (isinstance(known, int | float) and number(known) is not None)


def _own(path: str) -> Verifier:
    try:
        verify = load(path)
    except ValueError as error:
        raise ConfigError(f"verifier: {error}") from error

    def checked(answer: str, options: Mapping[str, Any]) -> float:
        try:
            score = float(verify(answer, dict(options)))
        except Exception as error:  # the user's code
            raise EnvError(f"verifier {path} failed on {shown(answer)}: {describe(error)}") from error
        if not 0 <= score <= 1:
            raise EnvError(f"verifier {path} gave {score} for {shown(answer)}; a score is from 0 to 1")
        return score

    return checked
