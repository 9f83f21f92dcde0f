"""What a method draws from records: whether they are there, whether their tokens mean the same here, whether their teachers spoke."""

from collections.abc import Iterator
from pathlib import Path

from agentopd import records as store
from agentopd.chat import Chat
from agentopd.config import Config
from agentopd.config.drawn import behaved, require_drawn_by
from agentopd.config.shipped import load_yaml
from agentopd.errors import ConfigError, RecordError
from agentopd.objective.source import Source
from agentopd.replaying import replay
from agentopd.run_files import CONFIG
from agentopd.settings.choice import numbers_of
from agentopd.teachers import traits_of
from agentopd.training.checks.looking import UNTOLD, Found, look
from agentopd.training.checks.roles import recorded_sources, used_teachers
from agentopd.training.checks.selected import idle_terms
from agentopd.types import STUDENT, Key, Trajectory

NOTE = "annotated.yaml"
"""The file in a folder of annotated records that says what was asked; the configuration stands in it, too."""
TRIED = 4
"""Episodes of each environment that are begun again before a run that begins with them."""


def check_recorded(config: Config, chat: Chat) -> list[str]:
    """Looks at all records that the method draws from, and at what recorded teachers said of them; what is to be told of it.

    Raises:
        ConfigError: They are not there, of another tokenizer, longer or otherwise sampled than the run allows; or nothing is left of
            them, or no term selects any; or they cannot be begun again where that is meant; or a teacher said nothing of some.
    """
    told, drawn = list[str](), dict[str, Found]()
    for name, source in config.objective.sources.items():
        if source.kind == "recorded":
            found = _found(f"objective.sources.{name}", source)
            _require_readable(config, name, source, found, chat)
            told.append(
                f"the source {name!r} draws from {len(found.entries)} of the {found.total} records in {found.folder}"
            )
            if source.plays:
                told += _tried(config, f"objective.sources.{name}.records={source.records}", found)
            else:
                _require_drawn(config, name, found)
                drawn[name] = found
    told += idle_terms(config.objective, drawn)
    for name, choice in used_teachers(config).items():
        if traits_of(choice).recorded:
            _check_teacher(config, name, str(choice.settings["records"]), choice.settings["teacher"] or name)
    return told


def _found(key: str, source: Source) -> Found:
    try:
        found = look(str(source.records), source.keep)
    except RecordError as error:
        raise ConfigError(f"{key}.records={source.records}: {error}") from error
    if not found.entries:
        raise ConfigError(
            f"{key}.keep: none of the {found.total} records in {found.folder} is left, where episodes that failed or have no turn, and each "
            f"episode's second record, are left out{' too' if source.keep else ''}; ask for less, or give other records"
        )
    return found


def _require_readable(config: Config, name: str, source: Source, found: Found, chat: Chat) -> None:
    key = f"objective.sources.{name}.records={source.records}"
    if found.tokenizers - {UNTOLD, chat.vocabulary}:
        raise ConfigError(
            f"{key}: its episodes were written with another tokenizer than the student's, so their tokens would mean something else; give "
            "records of a student with this tokenizer"
        )
    if source.plays or UNTOLD in found.tokenizers:
        require_written(key, chat, store.open(found.folder)[found.entries[0].key].trajectory)
    if found.longest > config.rollout.max_length and not source.plays:
        raise ConfigError(
            f"{key}: its longest segment has {found.longest} tokens, more than rollout.max_length={config.rollout.max_length}, up to which models "
            f"are known to read; set rollout.max_length: {found.longest}"
        )


def require_written(key: str, chat: Chat, trajectory: Trajectory) -> None:
    """Raises ConfigError over ``key`` where the first prompt of ``trajectory`` is not what ``chat`` writes for its opening."""
    first = next(iter(trajectory.turns), None)
    if first is None or not trajectory.opening:
        return
    written = trajectory.segments[first.segment].tokens_T[: first.start].tolist()
    if chat.prompt(trajectory.opening, list(trajectory.tools)) != written:
        raise ConfigError(
            f"{key}: episode {trajectory.key} was written with another tokenizer or chat template than this configuration's, so its "
            "tokens would mean something else; give the configuration, or the run folder, that it was played with"
        )


def _tried(config: Config, key: str, found: Found) -> Iterator[str]:
    """Begins a few episodes of each environment again; what is to be told of those that are not repeated.

    Raises:
        ConfigError: Of an environment none can be played at all.
    """
    opened, by_env = store.open(found.folder), dict[str, list[Key]]()
    for entry in found.entries:
        by_env.setdefault(entry.env, []).append(entry.key)
    for env, keys in by_env.items():
        some = [opened[one] for one in keys[:TRIED]]
        rollout = config.rollout
        verdicts = replay(some, isolation=rollout.isolation, time_limit=rollout.time_limit).verdicts
        if all(verdict.status == "unplayable" for verdict in verdicts):
            raise ConfigError(
                f"{key}: its episodes of {env} cannot be begun again; of {len(verdicts)} that were tried the first, {verdicts[0].key}: "
                f"{verdicts[0].note}"
            )
        other = [verdict for verdict in verdicts if verdict.status != "same"]
        if other:
            yield (
                f"{len(other)} of {len(verdicts)} episodes of {env} that were tried again are not what they were, and an episode whose prefix is "
                f"not fails; the first, {other[0].key}: {other[0].told}"
            )


def _require_drawn(config: Config, name: str, found: Found) -> None:
    """Holds who drew the tokens, and how, against what terms take for granted of that."""
    for actor in sorted(found.actors - {STUDENT}):
        try:
            require_drawn_by(config.objective, name, actor)
        except ValueError as error:
            raise ConfigError(f"{error} (the records of the source {name!r} hold such)") from error
    reads = behaved(config.objective, name)
    other = sorted(found.samplings - {config.rollout.sampling})
    if reads and other:
        how = (
            "do not say how they were sampled"
            if other == [UNTOLD]
            else f"were sampled with {', '.join(filter(None, other))}"
        )
        raise ConfigError(
            f"{reads}: it reads what tokens were sampled with, episodes of objective.sources.{name}.records {how}, and rollout has "
            f"{config.rollout.sampling}; sample alike, or learn by an analytic estimator without the weight importance"
        )


def _check_teacher(config: Config, name: str, records: str, said_by: str) -> None:
    key = f"teachers.{name}"
    try:
        said = look(records)
    except RecordError as error:
        raise ConfigError(f"{key}.records={records}: {error}") from error
    _require_temperature(key, said.folder, config.temperature)
    given = said.said.get(said_by, {})
    for source_name, source in recorded_sources(config.objective).items():
        entries = look(str(source.records), source.keep).entries
        missing = [entry.played for entry in entries if str(entry.played) not in given]
        if missing:
            raise ConfigError(
                f"{key}: {said.folder} holds no word of {said_by!r} on {len(missing)} of the {len(entries)} episodes of the source {source_name!r}, "
                f"such as {missing[0]} ({', '.join(said.said) or 'nobody'} spoke); let it be asked once: agentopd annotate {source.records} --teacher "
                f"teachers.{said_by}.kind=... --output FOLDER, and set {key}.records: FOLDER"
            )
    for problem in _too_little(config, name, set(given.values())):
        raise ConfigError(f"{problem}; annotate anew with --block sparse and a --k that is large enough")


def _require_temperature(key: str, folder: Path, temperature: float) -> None:
    for place, inside in ((folder.parent / NOTE, True), (folder.parent / CONFIG, False)):
        if not place.exists():
            continue
        held = load_yaml(place)
        rollout = (held["config"] if inside else held).get("rollout") or {}
        then = float(rollout.get("temperature", 1.0)) or 1.0
        if then != temperature:
            raise ConfigError(
                f"{key}: its word in {folder} is at the temperature {then:g}, and this run compares at {temperature:g}; set rollout.temperature: "
                f"{then:g}, or annotate anew"
            )
        return


def _too_little(config: Config, name: str, told: set[str]) -> Iterator[str]:
    """Terms that read more of the teacher's distributions than was kept."""
    kept = min((int(one.partition(" ")[2] or 0) for one in told if one != "span"), default=None)
    if kept is None:
        return
    for key, term in config.objective.keyed():
        if name not in term.reads.values() or not term.reads_distribution:
            continue
        if kept == 0:
            yield f"{key}.estimator: it reads distributions, and of those of teachers.{name} the taken token's probability alone was kept"
        elif term.support.kind == "full":
            yield (
                f"{key}.support.kind=full: of the distributions of teachers.{name} the {kept} likeliest tokens were kept; set {key}.support: "
                f"{{kind: top_k, k: {kept}}}"
            )
        elif term.support.kind == "top_k" and max(numbers_of(term.support.settings["k"]), default=0) > kept:
            yield f"{key}.support.k: of the distributions of teachers.{name} the {kept} likeliest tokens were kept; lower it"
