"""A vLLM server that belongs to this process. It is spoken to through a socket file that no other user can open.

Its development mode, which weights are changed by, lets whoever reaches it call anything, so there is no port.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import torch
from transformers import PreTrainedModel

from agentopd.errors import ConfigError, PolicyError
from agentopd.rollout.engines import VllmEngine
from agentopd.rollout.vllm.environment import environment
from agentopd.rollout.vllm.http_server import FLAGS, TOLD, UNLIMITED, HttpServer, client
from agentopd.rollout.vllm.server import NAME, begun, new_folder
from agentopd.rollout.vllm.weights import write_weights

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


def started(settings: VllmEngine, model: PreTrainedModel, arguments: Sequence[str]) -> "StartedServer":
    """A new server. It begins with other weights than those of ``model``: then the first change shows whether all of them follow.

    Args:
        settings: How it is run.
        model: What it is for.
        arguments: What it is told beside the settings.

    Raises:
        ConfigError: There is no vLLM.
        PolicyError: It does not start.
    """
    folder = new_folder()
    transport = httpx2.HTTPTransport(uds=str(folder / "socket"), limits=UNLIMITED)
    server = StartedServer(folder, client=client("http://vllm", settings.timeout, transport), settings=settings)

    def begin(server: StartedServer) -> None:
        write_weights(model, server.weights, others=True)
        server.start(arguments, model.device)

    return begun(server, begin)


@dataclass(slots=True, eq=False, kw_only=True)
class StartedServer(HttpServer):
    """A server that ends with this process."""

    settings: VllmEngine
    _failed: bool = False
    _process: "subprocess.Popen[bytes] | None" = field(default=None)

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
            "--uds", str(self.folder / "socket"), *FLAGS, *arguments,
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

    def stop(self) -> None:
        """Ends it and what it started, and removes its folder."""
        if self._process is not None:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(self._process.pid, number)
                    self._process.wait(STOPPING)
        self.client.close()
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
                if self.client.get("/health", timeout=5.0).is_success:
                    return
            time.sleep(0.2)
        said = self.log.read_text(errors="replace")
        if "No module named 'vllm'" in said or "No module named vllm" in said:
            raise ConfigError(
                f"rollout.engine.python={python}: it has no vLLM; install vllm for it, or name the interpreter that it is installed for"
            )
        raise self.broken(f"did not start within {self.settings.start:g} seconds" if self.alive else "did not start")

    def broken(self, why: str) -> PolicyError:
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
