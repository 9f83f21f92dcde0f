"""Two processes, joined over gloo as a launcher joins them, that work for all tests of this one."""

import atexit
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

SIZE = 2
LONGEST = 400
"""Seconds after which they hang."""


def together(work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``work(*arguments)`` gives in each process, by rank; an error stands for what was raised."""
    pipes = _started()
    for pipe in pipes:
        pipe.send_bytes(pickle.dumps((work, arguments)))
    try:
        return [_answer(pipe) for pipe in pipes]
    except (EOFError, TimeoutError):
        _started.cache_clear()
        raise


def _answer(pipe: Connection) -> Any:
    if not pipe.poll(LONGEST):
        raise TimeoutError(f"a process did not answer within {LONGEST} seconds")
    return pickle.loads(pipe.recv_bytes())  # by value: the memory of tensors ends with its process


@cache
def _started() -> list[Connection]:
    """Starting them takes longer than most of what they do."""
    context, port, pipes = get_context("spawn"), _free_port(), []
    for rank in range(SIZE):
        ours, theirs = context.Pipe()
        process = context.Process(target=_process, args=(theirs,), daemon=True)
        with patch.dict(os.environ, _launched(rank, port)):  # read where modules are imported, too
            process.start()
        theirs.close()
        pipes.append(ours)
        atexit.register(process.kill)
    return pipes


def _launched(rank: int, port: int) -> dict[str, str]:
    """What a launcher tells a process by its environment."""
    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": SIZE, "LOCAL_WORLD_SIZE": SIZE, "MASTER_PORT": port}
    return {name: str(value) for name, value in here.items()} | {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _process(pipe: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            work, arguments = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            found = work(*arguments)
        except Exception as error:
            traceback.print_exc()
            found = error
        pipe.send_bytes(pickle.dumps(found))


def files(folder: Path) -> set[str]:
    """The names of all files in a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
