"""Writers of records that tests kill. A module of their own, which the server of their processes imports once, and not every process."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

from record_cases import plain_record

from agentopd.records import RecordWriter
from agentopd.types import Key, Record

EACH, TOKENS = 12, 200


def record_of(step: int, index: int, attempt: int) -> Record:
    plain = plain_record(step, index, TOKENS)
    return replace(plain, trajectory=replace(plain.trajectory, key=Key("run", step, index, attempt)))


def write(folder: Path, first: int, attempt: int, told: Path) -> None:
    """Notes and writes three steps, and says what is done; then it waits until it is killed."""
    batches = [[record_of(step, i, attempt) for i in range(EACH)] for step in range(first, first + 3)]
    with told.open("ab", buffering=0) as file:
        writer = RecordWriter(folder)
        file.write(b"ready\n")
        for step, batch in enumerate(batches, first):
            for record in batch:
                writer.note(step, record)
                file.write(f"{record.trajectory.key}\n".encode())
            writer.write(step, batch)
            file.write(f"{step}\n".encode())
    signal.pause()


def dies_at_a_sync(folder: Path) -> None:
    """Is killed when the file of the third step is synced, and has no name yet."""
    syncs, sync = 0, os.fsync

    def stop_at_the_fifth(handle: Any) -> None:  # each step syncs its file, then its folder
        nonlocal syncs
        syncs += 1
        if syncs == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(handle)

    os.fsync = stop_at_the_fifth  # type: ignore[assignment]
    writer = RecordWriter(folder)
    for step in range(3):
        writer.write(step, [record_of(step, i, 0) for i in range(EACH)])
