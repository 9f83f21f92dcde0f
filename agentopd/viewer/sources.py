"""Whose records are shown: folders, opened, with the tokenizer that reads them and the selection that is meant."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentopd import records
from agentopd.errors import ConfigError
from agentopd.filters import Filter
from agentopd.records.signals import ByTrajectory, Columns
from agentopd.types import Record
from agentopd.viewer.columns import Tokens, tokens_of
from agentopd.viewer.decoding import Texts, tokenizer_of
from agentopd.viewer.payload import payload

EVERYTHING = Filter(failed=None)


@dataclass(frozen=True, slots=True)
class Source:
    """The records of one folder."""

    name: str
    records: records.Records
    texts: Texts | None
    where: Filter
    teachers: tuple[str, ...] | None
    """Whose annotations count; all without."""

    def __iter__(self) -> Iterator[tuple[Record, Tokens]]:
        """The records that are meant, with what is known of their tokens."""
        for record, signals in self.records.with_signals():
            if self.where.keeps(record):
                yield record, self.tokens(record, signals)

    def signals(self, step: int) -> ByTrajectory:
        """The signals of a step by trajectory."""
        return ByTrajectory(self.records.signals_if_any(step) or {})

    def tokens(self, record: Record, signals: Columns) -> Tokens:
        """What is known of a record's tokens; ``signals`` are its own."""
        return tokens_of(record, signals, self._heard(record))

    def payload(self, record: Record, tokens: Tokens) -> dict[str, Any]:
        """A record as the page reads it."""
        return payload(record, tokens, self.texts, self._heard(record))

    def _heard(self, record: Record) -> tuple[str, ...]:
        return tuple(said.teacher for said in record.annotations) if self.teachers is None else self.teachers


def opened(
    paths: Sequence[str | Path],
    where: Filter = EVERYTHING,
    teachers: Sequence[str] | None = None,
    tokenizer: str | Path | None = None,
) -> list[Source]:
    """The records at ``paths``. What is damaged is left out, and told once all is read: :func:`notes_on`.

    Args:
        paths: Run folders, or records folders.
        where: Which records are meant.
        teachers: Whose annotations are shown; all without.
        tokenizer: A folder with a ``tokenizer.json``, for records beside which none lies.

    Raises:
        ConfigError: There is no tokenizer where one is said to be, or no record that a teacher annotated.
        RecordError: There are no records.
    """
    found = [records.open(path, skip_damaged=True) for path in paths]
    heard = None if teachers is None else tuple(teachers)
    for path, one in zip(paths, found, strict=True) if heard else ():
        _require_teachers(path, one, heard or ())
    names = _names([run_of(one) for one in found])
    texts = [_texts(run_of(one), tokenizer) for one in found]
    return [Source(name, one, text, where, heard) for name, one, text in zip(names, found, texts, strict=True)]


def run_of(held: records.Records) -> Path:
    """The folder of the run that some records are of: the one above ``records``."""
    folder = held.folder.resolve()
    return folder.parent if folder.name == "records" else folder


def notes_on(sources: Sequence[Source]) -> list[str]:
    """What a reader has to know of what is not there."""
    wanted = where_of(sources)
    notes = [f"Only trajectories that fit --where are here: {wanted}."] if wanted else []
    for source in sources:
        who = f"{source.name}: " if len(sources) > 1 else ""
        notes += [f"{who}Left out: {damage}" for damage in source.records.damaged]
        if source.texts is None:
            notes.append(f"{who}No tokenizer lies in the run folder, so tokens are shown as numbers.")
        if not source.records.signal_steps:
            notes.append(f"{who}No signals were recorded, so tokens have only what sampling and annotations tell.")
    return notes


def where_of(sources: Sequence[Source]) -> str:
    """What was chosen, as the settings of ``--where``; empty where every trajectory is shown."""
    where = sources[0].where
    return "" if where == EVERYTHING else " ".join(_settings(where.model_dump(exclude_unset=True, mode="json")))


def _settings(given: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, value in given.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{above}{name}.")
        elif value is not None:
            shown = (
                str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else value
            )
            yield f"{above}{name}={shown}"


def _texts(run: Path, given: str | Path | None) -> Texts | None:
    try:
        decode = tokenizer_of(Path(given) if given is not None else run)
    except ValueError as error:
        raise ConfigError(f"the tokenizer cannot be read: {error}; give another by --tokenizer FOLDER") from error
    if decode is None and given is not None:
        raise ConfigError(
            f"--tokenizer {given}: there is no tokenizer.json in it; give the folder of a model or of a run"
        )
    return None if decode is None else Texts(decode)


def _require_teachers(path: str | Path, held: records.Records, wanted: Sequence[str]) -> None:
    """Looks at the first record of each step, for steps are annotated whole."""
    first = (next(held.step(step), None) for step in held.steps)
    known = {said.teacher for record in first if record is not None for said in record.annotations}
    absent = [name for name in wanted if name not in known]
    if absent and held.steps:
        raise ConfigError(
            f"--teacher {absent[0]}: it annotated nothing in {path}; those who did: {', '.join(sorted(known)) or 'nobody'}"
        )


def _names(runs: Sequence[Path]) -> list[str]:
    """The folders' names; of those that share one more of the path, and numbers where that does not help."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = ["/".join(run.parts[-2:]) for run in runs]
    twice = [name for name in names if names.count(name) > 1]
    return [f"{name} ({i + 1})" if name in twice else name for i, name in enumerate(names)]
