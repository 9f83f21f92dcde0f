"""A real vLLM server on this machine's CPU, for as long as a measurement or a test needs it."""

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2

PATIENCE = 400.0
"""Seconds in which a server must be there."""


@contextmanager
def vllm_server(python: str, model: Path, port: int, log: Path, arguments: Sequence[str] = ()) -> Iterator[str]:
    """Serves the folder ``model`` on loopback, its worker with one thread; gives its address."""
    settings = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [
        python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--host", "127.0.0.1", "--port", str(port),
        "--served-model-name", "teacher", "--dtype", "float32", "--enforce-eager", "--max-model-len", "1024", *arguments,
    ]  # fmt: skip
    with log.open("w") as out:
        process = subprocess.Popen(
            command, env={**os.environ, **settings}, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, process, log)
            yield url
        finally:
            _stop(process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Ends the server and what it started, the hard way where it does not listen."""
    for signal in (15, 9):
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal)
            process.wait(20)


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    begin = time.monotonic()
    while time.monotonic() - begin < PATIENCE:
        if process.poll() is not None:
            break
        try:
            if httpx2.get(f"{url}/health", timeout=2.0, trust_env=False).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.5)
    raise RuntimeError(f"vLLM did not start; the end of {log}:\n{log.read_text()[-4000:]}")
