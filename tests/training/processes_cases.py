"""Several processes in one test, joined over gloo as a launcher joins them."""

import os
import pickle
import socket
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

LONGEST = 240
"""Seconds after which a test's processes hang."""


def together(work: Callable[..., Any], *arguments: Any, size: int = 2) -> list[Any]:
    """What ``work(*arguments)`` gives in each of ``size`` processes, by rank; an error stands for what was raised."""
    context, port = get_context("spawn"), _free_port()
    pipes = [context.Pipe(duplex=False) for _ in range(size)]
    started = [context.Process(target=_process, args=(sender, work, arguments)) for _, sender in pipes]
    for rank, process in enumerate(started):
        with patch.dict(os.environ, _launched(rank, size, port)):  # read where modules are imported, too
            process.start()
    for _, sender in pipes:
        sender.close()
    try:
        return [_answer(receiver) for receiver, _ in pipes]
    finally:
        for process in started:
            process.join(10)
            process.kill()


def _answer(receiver: Connection) -> Any:
    if not receiver.poll(LONGEST):
        raise TimeoutError(f"a process did not answer within {LONGEST} seconds")
    return pickle.loads(receiver.recv_bytes())


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _launched(rank: int, size: int, port: int) -> dict[str, str]:
    """What a launcher tells a process by its environment."""
    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    return {name: str(value) for name, value in here.items()} | {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}


def _process(sender: Connection, work: Callable[..., Any], arguments: Any) -> None:
    import torch

    torch.set_num_threads(1)
    try:
        found = work(*arguments)
    except Exception as error:
        traceback.print_exc()
        found = error
    sender.send_bytes(pickle.dumps(found))  # by value: the memory of tensors ends with its process


def files(folder: Path) -> set[str]:
    """The names of all files in a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
