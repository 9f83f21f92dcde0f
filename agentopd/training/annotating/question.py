"""What is asked: which records, by which teachers, in which chat."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentopd import records
from agentopd.chat import Chat, Hint
from agentopd.chat.hint import MissingFactsError
from agentopd.config import Config, load_config
from agentopd.config.loading import build, split
from agentopd.config.overrides import apply
from agentopd.config.shipped import load_yaml
from agentopd.errors import ConfigError
from agentopd.freezing import frozen
from agentopd.models import ModelConfig, load_tokenizer
from agentopd.offloading import moved, on_device
from agentopd.records import Records
from agentopd.records.plain import from_json
from agentopd.records.thinning import Kept
from agentopd.run_files import CONFIG
from agentopd.settings.choice import Choice
from agentopd.settings.problems import nearest
from agentopd.teachers import Teacher, build_teachers, members_of, traits_of
from agentopd.training.checks.preflight import check_teacher
from agentopd.training.checks.recorded import NOTE
from agentopd.training.checks.roles import every_hint
from agentopd.training.loop.folder import RunFolder
from agentopd.training.run.stages import student_of, teacher_of, tokenizer_of
from agentopd.training.show.display import say

DECIDES = (
    *("teachers", "teacher", "student", "env", "envs", "seed", "template_kwargs"),
    *("call_format", "past_thinking", "rollout", "stages"),
    *("train.lora", "train.layout", "train.max_tokens"),
)
"""The keys that decide what teachers say; those of ``train`` where a stage fits weights."""


@dataclass(frozen=True, slots=True)
class Question:
    """Teachers, and the records that they are asked about."""

    records: Records
    config: Config
    """Of the run that made the records, with the teachers that are asked now in place of its own."""
    home: Path | None
    """The run folder that the configuration is of, where it is."""
    block: Kept
    k: int

    def plain(self) -> dict[str, Any]:
        """What decides the answer, for :data:`NOTE`."""
        asked = {"records": str(self.records.folder.resolve()), "block": self.block, "k": self.k}
        return asked | {"config": self.config.model_dump(mode="json")}


def question(
    source: str | Path,
    given: Sequence[str],
    config: str | Path | None = None,
    block: Kept = "sparse",
    k: int = 64,
) -> Question:
    """Reads what a person asks for.

    Args:
        source: A run folder or a records folder.
        given: The teachers, each text a YAML file that holds one or several, the name of a teacher of the configuration, or ``a.b=value``.
        config: The configuration of the records, or the run folder that it is in; by default it is looked for beside the records.
        block: What is kept of whole distributions, as for ``records.block``.
        k: How many tokens a sparse row keeps.

    Raises:
        ConfigError: There is no configuration, a teacher is not what it should be, or none is given.
        RecordError: There are no records.
    """
    if k < 1:
        raise ConfigError(f"k={k}: keep at least one token a row")
    opened = records.open(source)
    home, found = _configuration(opened.folder, config)
    return Question(opened, with_teachers(found, given), home, block, k)


def _configuration(folder: Path, config: str | Path | None) -> tuple[Path | None, Config]:
    """The configuration of the records in ``folder``, and the run folder that it stands in."""
    home = folder.parent if config is None else Path(config)
    if (home / CONFIG).exists():
        return home, load_config(home / CONFIG)
    if (home / NOTE).exists():
        return None, load_config(load_yaml(home / NOTE)["config"])
    if config is None:
        raise ConfigError(
            f"{folder} has no config.yaml beside it, which says how its episodes were written; add --config with the configuration that "
            "they were played with, or the folder of its run"
        )
    return None, load_config(config)


def with_teachers(config: Config, given: Sequence[str]) -> Config:
    """``config`` with the teachers that ``given`` names, and no others; its method reads none of them.

    Raises:
        ConfigError: One is not what it should be, or there is none.
    """
    raw: dict[str, Any] = config.model_dump(mode="json")
    own, raw["teachers"] = raw["teachers"], {}
    raw["objective"] = {"target": {"kind": "taken"}}  # whatever the run's method was, it names teachers of its own
    for text in given:
        if _sets(text):
            raw = apply(raw, *split(text))
            if not isinstance(raw["teachers"], Mapping):
                raise ConfigError(f"--teacher {text}: give teachers by name, such as teachers.judge.kind=reward")
        else:
            short = {"teacher": raw.pop("teacher")} if "teacher" in raw else {}
            raw["teachers"] = _together(text, {**raw["teachers"], **short}, _named(text, own, config))
    made = build(raw)
    if not made.teachers:
        raise ConfigError(
            f"--teacher {' '.join(given)}: this names no teacher; give one, such as teachers.judge.kind=reward"
        )
    _require_effect(given)
    return made


def _require_effect(given: Sequence[str]) -> None:
    """Raises ConfigError where a setting decides neither who is asked nor what is said."""
    for text in given:
        key = text.partition("=")[0] if _sets(text) else "teachers"
        if not any(key == known or key.startswith(f"{known}.") for known in DECIDES):
            raise ConfigError(
                f"--teacher {text}: it changes nothing about who is asked or what is said, as nothing is trained here; leave it out: keys that "
                f"do are {', '.join(DECIDES)}"
            )


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # longer than a name may be, as a setting with a rubric is
        return False


def _sets(text: str) -> bool:
    """Whether it is a setting, ``a.b=value``."""
    return "=" in text and not _is_file(text)


def _together(text: str, there: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The teachers that are ``there``, and ``more`` that ``text`` names.

    Raises:
        ConfigError: Two of one name are not the same.
    """
    for name, teacher in more.items():
        if name in there and there[name] != teacher:
            raise ConfigError(
                f"--teacher {text}: there is a teacher {name!r} already, from what stands before it; give one of them another name, in a "
                "file with teachers: {NAME: {kind: ...}}, and put settings of it behind it"
            )
    return {**there, **more}


def _named(text: str, own: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    """The teachers in a file, or the one of that name with those that it reads."""
    if not _is_file(text):
        if text in own:
            return {name: own[name] for name in (*members_of(config.teachers[text]), text)}
        known = ", ".join(own) or "none"
        raise ConfigError(
            f"--teacher {text}: there is no such file{nearest(text, own)}; give a YAML file, teachers.NAME.kind=..., or a teacher of the "
            f"configuration: {known}"
        )
    held = load_yaml(Path(text))
    teachers = {"teacher": held} if "kind" in held else held.get("teachers")
    if not isinstance(teachers, Mapping):
        raise ConfigError(
            f"--teacher {text}: the file holds no teachers; write teachers: {{NAME: {{kind: ...}}}}, or one with its kind"
        )
    return teachers


def require_told(asked: Question, steps: Sequence[int]) -> None:
    """Raises ConfigError where a teacher is shown what none of the episodes tells."""
    hints = every_hint(asked.config)
    table = asked.records.table(["step", "env", "privileged"]) if hints else None
    rows = [] if table is None else [row for row in table.to_pylist() if row["step"] in steps]
    for name, hint in hints.items():
        found = [_missing(hint, from_json(row["privileged"])) for row in rows if hint.shown_in(row["env"])]
        if found and all(found):
            raise ConfigError(f"teachers.{name}.{found[0]}; so it is in each of the {len(found)} episodes here")


def _missing(hint: Hint, facts: Mapping[str, Any]) -> str:
    """What is said of an episode that does not tell what a hint names; empty where it does."""
    try:
        hint.filled({**facts, **dict.fromkeys(hint.hindsight, "")})
    except MissingFactsError as error:
        return str(error)
    return ""


def tokenizer_for(asked: Question) -> PreTrainedTokenizerBase:
    """The tokenizer that the episodes were written with: that of the run's student, or what the configuration says."""
    if asked.home is not None:
        run = RunFolder(asked.home)
        kept = run.student if run.student.exists() else run.last_checkpoint()
        if kept is not None:
            return load_tokenizer(str(kept))
    return tokenizer_of(asked.config, say)


def teachers_of(
    asked: Question, tokenizer: PreTrainedTokenizerBase, chat: Chat, folder: Path, answers: Path
) -> dict[str, Teacher]:
    """The teachers, made as for a run whose student has learned nothing yet.

    Args:
        asked: Who is asked.
        tokenizer: That the episodes were written with.
        chat: The same, with its template.
        folder: Where they may keep what was spent.
        answers: Where they may keep what they were answered.

    Raises:
        ConfigError: One has no trained weights, reads other token ids than the student writes, or learns beside a student.
        TeacherError: A server does not answer.
    """
    config = asked.config
    for name, choice in config.teachers.items():
        _require_still(name, choice)
    for name, choice in config.teachers.items():
        check_teacher(config, name, choice, tokenizer)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def load(wanted: ModelConfig) -> PreTrainedModel:
        return on_device(teacher_of(config, wanted, tokenizer, say), wanted, device)

    def student() -> PreTrainedModel:
        return moved(frozen(student_of(config, tokenizer, say)), device)

    choices, temperature = config.teachers, config.temperature
    return build_teachers(choices, chat, load, temperature, student, student, device, folder, answers)


def _require_still(name: str, choice: Choice) -> None:
    """Raises ConfigError where a teacher is made for a student in training."""
    traits = traits_of(choice)
    if traits.compares:
        raise ConfigError(
            f"teachers.{name}.kind={choice.kind}: it learns beside a student in training, and here nothing is trained, so it would say "
            "nothing of worth; choose another teacher"
        )
    for setting in ("every", "average", "interpolate"):
        if traits.initial and choice.settings.get(setting) is not None:
            raise ConfigError(
                f"teachers.{name}.{setting}: it follows a student in training, and here nothing is trained; leave it out, for the student "
                "as it began"
            )
    if traits.few is not None and traits.few.of != "teacher":
        raise ConfigError(
            f"teachers.{name}.{traits.few.whose}={traits.few.of}: it is asked about what a student in training finds likely, and here "
            "nothing is trained; set it to teacher"
        )
