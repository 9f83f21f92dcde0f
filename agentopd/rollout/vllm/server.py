"""A vLLM server that belongs to this process. It is spoken to through a socket file that no other user can open.

Its development mode, which weights are changed by, lets whoever reaches it call anything, so there is no port. Token ids go in and come
out; it has no tokenizer.
"""

import atexit
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import torch

from agentopd.errors import ConfigError, PolicyError, describe
from agentopd.rollout.engines import VllmEngine
from agentopd.rollout.vllm.environment import environment

NAME = "student"
"""What the model is served under."""
GENERATE = "/inference/v1/generate"
TOLD = 500
"""Characters of an answer that a message repeats."""
STOPPING = 20.0
"""Seconds in which the server must have ended once it is told to."""
_RUN = """
trap : TERM
exec 3<&0
"$@" < /dev/null 3<&- &
server=$!
{ trap '' TERM; read -r _ <&3; rm -rf -- "$0"; kill -TERM -$$; sleep 10; kill -KILL -$$; } &
watch=$!
wait $server; status=$?
while kill -0 $server 2> /dev/null; do wait $server; status=$?; done
kill -KILL $watch
exit $status
"""
"""Runs the server until this process ends, however it does: what is read from is a pipe that nothing else closes. Its folder goes too."""


@dataclass(slots=True, eq=False)
class Server:
    """One server. :func:`server_of` starts it."""

    folder: Path
    """Of the socket, the log and the weights."""
    settings: VllmEngine
    holder: object = None
    """Whose weights it has."""
    served: str = NAME
    """What turns are asked of: the model, or the model in its last adapter."""
    _adapters: int = 0
    _failed: bool = False
    _process: "subprocess.Popen[bytes] | None" = None
    _client: httpx2.Client = field(init=False)

    def __post_init__(self) -> None:
        """Opens nothing yet."""
        unlimited = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        transport = httpx2.HTTPTransport(uds=str(self.folder / "socket"), limits=unlimited)
        timeout = httpx2.Timeout(self.settings.timeout, connect=30.0)
        self._client = httpx2.Client(base_url="http://vllm", transport=transport, timeout=timeout)

    def start(self, arguments: Sequence[str], device: torch.device) -> None:
        """Starts the server on the weights that lie in its folder, and waits until it is there.

        Args:
            arguments: What it is told.
            device: Of the student.

        Raises:
            ConfigError: There is no vLLM.
            PolicyError: It does not start.
        """
        python = self.settings.python or sys.executable
        if shutil.which(python) is None:
            raise ConfigError(
                f"rollout.engine.python={python}: there is no such program; name the interpreter that vLLM is installed for"
            )
        command = [
            python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.weights), "--served-model-name", NAME,
            "--uds", str(self.folder / "socket"), "--skip-tokenizer-init", "--enable-scale-out", "--max-logprobs", "1",
            "--logprobs-mode", "processed_logprobs", "--enable-prompt-tokens-details", *arguments, *self.settings.arguments,
        ]  # fmt: skip
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", _RUN, str(self.folder), *command],
                env=environment(device),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait(python)

    @property
    def weights(self) -> Path:
        """The folder of what it loads."""
        return self.folder / "weights"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.folder / "vllm.log"

    @property
    def pid(self) -> int | None:
        """The process group of all that runs for it."""
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process is not None and self._process.poll() is None

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """What it answers to ``body``; ``None`` where that is nothing.

        Raises:
            PolicyError: It is gone, refused, or took too long.
        """
        try:
            answer = self._client.post(path, json=body)
            if answer.is_server_error:
                raise self._broken(f"failed at {path} with {answer.status_code}")
            if not answer.is_success:
                raise PolicyError(
                    f"the student's vLLM server refused {path} with {answer.status_code}: {answer.text[:TOLD]}"
                )
            return answer.json() if answer.headers.get("content-type", "").startswith("application/json") else None
        except (httpx2.RequestError, ValueError) as error:
            raise self._broken(f"did not answer {path} ({describe(error)})") from error

    def wear(self, write: Callable[[Path], None]) -> None:
        """Puts the model into the adapter that ``write`` puts into a folder, in place of the one before.

        Each has a name of its own: one that is loaded in place is read again with every request, and its blocks stay in the prefix cache.
        """
        self._adapters += 1
        before, self.served = self.served, f"{NAME}-{self._adapters}"
        write(self.folder / self.served)
        self.ask("/v1/load_lora_adapter", {"lora_name": self.served, "lora_path": str(self.folder / self.served)})
        if before != NAME:
            self.ask("/v1/unload_lora_adapter", {"lora_name": before})
            shutil.rmtree(self.folder / before)

    def stop(self) -> None:
        """Ends it and what it started, and removes its folder."""
        if self._process is not None:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(self._process.pid, number)
                    self._process.wait(STOPPING)
        self._client.close()
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path != self.log or not self._failed:
                path.unlink(missing_ok=True)
        if not self._failed:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _wait(self, python: str) -> None:
        begin = time.monotonic()
        while self.alive and time.monotonic() - begin < self.settings.start:
            with suppress(httpx2.TransportError):
                if self._client.get("/health", timeout=5.0).is_success:
                    return
            time.sleep(0.2)
        said = self.log.read_text(errors="replace")
        if "No module named 'vllm'" in said or "No module named vllm" in said:
            raise ConfigError(
                f"rollout.engine.python={python}: it has no vLLM; install vllm for it, or name the interpreter that it is installed for"
            )
        raise self._broken(f"did not start within {self.settings.start:g} seconds" if self.alive else "did not start")

    def _broken(self, why: str) -> PolicyError:
        """What is wrong, and where its log is, which is then kept."""
        self._failed = True
        state = ""
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                state = f" and has ended with status {self._process.wait(2.0)}"  # which may follow the connection's end
        return PolicyError(
            f"the student's vLLM server {why}{state}{self._first_error()}; all that it said stands in {self.log}"
        )

    def _first_error(self) -> str:
        """What went wrong first, as far as its log tells: later errors follow from that."""
        if not self.log.exists():
            return ""
        found = re.search(r" ERROR .*?\b(\w+Error: .+)", self.log.read_text(errors="replace"))
        return f": {found[1][:TOLD]}" if found else ""


_servers: dict[str, Server] = {}


def server_of(
    key: str,
    settings: VllmEngine,
    device: torch.device,
    arguments: Callable[[], Sequence[str]],
    write: Callable[[Path], None],
) -> Server:
    """The one server of this process; another one is stopped where its key differs, or it is dead, and a new one started.

    Args:
        key: What it is started for.
        settings: How it is run.
        device: Of the student.
        arguments: Gives what is told to a new one.
        write: Writes the weights that a new one begins with into a folder.

    Raises:
        ConfigError: There is no vLLM.
        PolicyError: It does not start.
    """
    running = _servers.get(key)
    if running is not None and running.alive:
        return running
    stop_servers()
    server = Server(Path(tempfile.mkdtemp(prefix="agentopd-vllm-")), settings)
    try:
        write(server.weights)
        server.start(arguments(), device)
    except BaseException:
        server.stop()
        raise
    return _servers.setdefault(key, server)


def stop_servers() -> None:
    """Stops what was started."""
    while _servers:
        _servers.popitem()[1].stop()


atexit.register(stop_servers)
