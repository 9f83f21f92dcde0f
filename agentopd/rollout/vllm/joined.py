"""A vLLM server that the user runs, perhaps on another machine: it is given the weights through a folder that both see."""

import shutil
from contextlib import suppress
from dataclasses import dataclass

from agentopd.errors import ConfigError, PolicyError
from agentopd.rollout.engines import VllmServerEngine
from agentopd.rollout.vllm.http_server import HttpServer, client
from agentopd.rollout.vllm.server import begun, new_folder

PAGE = "docs/training.md"
"""Where it is told how such a server is started."""
READABLE = 0o755
"""The server may run as another user."""


def joined(settings: VllmServerEngine, longest: int) -> "JoinedServer":
    """The server that is there.

    Args:
        settings: Where it is.
        longest: The tokens that an episode may have.

    Raises:
        ConfigError: The shared folder cannot be written to, or the server takes shorter episodes.
        PolicyError: It does not answer.
    """
    try:
        folder = new_folder(settings.share)
        folder.chmod(READABLE)
    except OSError as error:
        raise ConfigError(
            f"rollout.engine.share={settings.share}: no folder can be made there ({error.strerror}); give one that this process can write to, and "
            "that the server sees under the same path"
        ) from error
    server = JoinedServer(folder, client=client(settings.url, settings.timeout), url=settings.url)
    return begun(server, lambda server: server.join(longest))


@dataclass(slots=True, eq=False, kw_only=True)
class JoinedServer(HttpServer):
    """A server that was there before this process, and stays."""

    url: str

    def join(self, longest: int) -> None:
        """Learns what it serves; raises as :func:`joined`."""
        answer = self.ask("/v1/models", method="GET")
        try:
            model = next(one for one in answer["data"] if one.get("parent") is None)
            self.model, most = str(model["id"]), model.get("max_model_len")
        except (KeyError, TypeError, AttributeError, StopIteration) as error:
            raise PolicyError(
                f"rollout.engine.url={self.url}: it names no model of vLLM's; give the address of vllm serve, without /v1"
            ) from error
        if most is not None and most < longest:
            raise ConfigError(
                f"rollout.max_length={longest}: the server at {self.url} takes {most} tokens; start it with --max-model-len {longest}, or lower "
                "rollout.max_length"
            )

    @property
    def alive(self) -> bool:
        """Always: if it has failed, it may have been started again."""
        return True

    def broken(self, why: str) -> PolicyError:
        """It may come back without any of what it was given."""
        self.holder = self.worn = None
        return PolicyError(
            f"the student's vLLM server at {self.url} {why}; see that it runs as {PAGE} says, and go on with --resume"
        )

    @property
    def remedy(self) -> str:
        """It may have been started without what opens a path."""
        return f"; it runs at {self.url}, and {PAGE} says with which variables and flags it has to be started"

    def stop(self) -> None:
        """Takes the adapter off, and removes the folder."""
        if self.worn is not None:
            with suppress(PolicyError):
                self.ask("/v1/unload_lora_adapter", {"lora_name": self.worn})
        self.client.close()
        shutil.rmtree(self.folder, ignore_errors=True)
