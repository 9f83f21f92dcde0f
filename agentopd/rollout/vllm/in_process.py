"""vLLM in this process, without a server: its engine is given weights as they are, and token ids."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NoReturn

from torch import distributed
from transformers import PreTrainedModel

from agentopd.errors import ConfigError, PolicyError, describe
from agentopd.rollout.engines import VllmInProcessEngine
from agentopd.rollout.vllm.server import NAME, Drawn, Server, begun, new_folder
from agentopd.rollout.vllm.stepping import EngineThread
from agentopd.rollout.vllm.weights import checkpoint_of, write_config

STUDENT = "the student's vLLM"
TAKEN = (
    "torch.distributed of this process is taken, or will be, and vLLM wants it for itself; start agentopd without a launcher, or choose kind: "
    "vllm, whose server is a process of its own"
)
FLAGS = (
    "--skip-tokenizer-init", "--max-logprobs=1", "--logprobs-mode=processed_logprobs", "--load-format=dummy", "--disable-log-stats",
)  # fmt: skip
"""How the engine is made. It begins with weights of chance: then the first change shows whether all of them follow."""
SETTINGS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
LEVEL = "VLLM_LOGGING_LEVEL"
"""What vLLM says comes between the lines of the run, so it tells errors alone, unless this says otherwise."""
STOPPING = 60.0
"""Seconds in which the engine must have ended once it is told to."""


def missing() -> str:
    """What this process lacks for it, and what to do; vLLM is not imported for that."""
    if find_spec("vllm") is None:
        return "this interpreter has no vLLM; install it by pip install 'agentopd[vllm]', or choose kind: vllm, whose server may have a python of its own"
    return TAKEN if "LOCAL_RANK" in os.environ else ""


def begun_here(settings: VllmInProcessEngine, model: PreTrainedModel, arguments: Sequence[str]) -> "InProcessServer":
    """A new engine.

    Args:
        settings: How it is run.
        model: What it is for.
        arguments: All that it is told, as ``vllm serve`` takes it.

    Raises:
        ConfigError: There is no vLLM, it does not know an argument, or torch.distributed is taken.
        PolicyError: It does not start.
    """
    taken = TAKEN if distributed.is_available() and distributed.is_initialized() else ""
    if lacking := missing() or taken:
        raise ConfigError(f"rollout.engine.kind=vllm_in_process: {lacking}")

    def begin(server: InProcessServer) -> None:
        write_config(model, server.folder / NAME)
        server.start(arguments)

    return begun(InProcessServer(new_folder(), settings=settings), begin)


@dataclass(slots=True, eq=False, kw_only=True)
class InProcessServer(Server):
    """An engine in this process, and its thread."""

    settings: VllmInProcessEngine
    _thread: EngineThread | None = None
    _lora: Any = None

    def start(self, arguments: Sequence[str]) -> None:
        """Makes the engine, for the configuration that lies in its folder; raises as :func:`begun_here`."""
        told = ["--model", str(self.folder / NAME), *FLAGS, *arguments]
        self._thread = EngineThread(lambda: _made(told))
        try:
            self._thread.begun.result(self.settings.start)
        except ConfigError:
            raise
        except TimeoutError as error:
            raise PolicyError(f"{STUDENT} did not start within {self.settings.start:g} seconds") from error
        except Exception as error:
            raise PolicyError(f"{STUDENT} did not start: {describe(error)}") from error

    @property
    def alive(self) -> bool:
        """Whether nothing has failed in it."""
        return self._thread is not None and self._thread.failure is None

    def generate(self, tokens: list[int], sampling: Mapping[str, Any]) -> Drawn:
        """Together with what other threads ask for."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        def add(engine: Any, name: str) -> None:
            wanted = SamplingParams(**sampling, output_kind=RequestOutputKind.FINAL_ONLY)
            engine.add_request(name, {"prompt_token_ids": tokens}, wanted, lora_request=self._lora)

        name, turn = self._running.turn(add)
        try:
            output = self._result(turn, "write a turn")
        except PolicyError:
            self._running.abandon(name)
            raise
        drawn = output.outputs[0]
        try:
            logprobs = [of[token].logprob for token, of in zip(drawn.token_ids, drawn.logprobs or (), strict=True)]
            return Drawn(list(drawn.token_ids), logprobs, output.num_cached_tokens or 0)
        except ValueError as error:
            raise PolicyError(f"{STUDENT} wrote what cannot be used ({drawn.finish_reason}): {error}") from error

    def load(self, model: PreTrainedModel) -> None:
        """As they are, layer by layer."""
        weights = checkpoint_of(model)
        self._do(
            "take weights",
            lambda engine: engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights.items())}),
        )

    def forget(self) -> bool:
        """Asks it to."""
        return bool(self._do("empty its prefix cache", lambda engine: engine.reset_prefix_cache()))

    def stop(self) -> None:
        """Ends turns, engine and thread, and removes the folder."""
        if self._thread is not None:
            self._thread.stop(STOPPING)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _put_on(self, name: str) -> None:
        from vllm.lora.request import LoRARequest

        worn = LoRARequest(name, self._adapters, str(self.folder / name))
        self._do("take an adapter", lambda engine: engine.add_lora(worn))
        self._lora = worn

    def _take_off(self, name: str) -> None:
        self._do("let go of an adapter", lambda engine: engine.remove_lora(self._adapters - 1))

    def _sleep(self) -> None:
        self._do("sleep", lambda engine: engine.sleep(1))

    def _wake(self) -> None:
        self._do("wake", lambda engine: engine.wake_up())

    @property
    def _running(self) -> EngineThread:
        if self._thread is None:
            raise PolicyError(f"{STUDENT} was not started")
        return self._thread

    def _do(self, what: str, function: Callable[[Any], Any]) -> Any:
        return self._result(self._running.call(function), what)

    def _result(self, future: "Future[Any]", what: str) -> Any:
        try:
            return future.result(self.settings.timeout)
        except TimeoutError as error:
            raise PolicyError(f"{STUDENT} did not {what} within {self.settings.timeout:g} seconds") from error
        except Exception as error:
            raise PolicyError(f"{STUDENT} could not {what}: {describe(error)}") from error


def _made(arguments: list[str]) -> Any:
    """An ``LLMEngine`` whose core is in this process too."""
    os.environ.update(SETTINGS)
    os.environ.setdefault(LEVEL, "ERROR")
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.engine.llm_engine import LLMEngine

    parser: Any = EngineArgs.add_cli_args(FlexibleArgumentParser())
    parser.error = _unknown
    try:
        return LLMEngine.from_engine_args(EngineArgs.from_cli_args(parser.parse_args(arguments)))
    except BaseException:
        cleanup_dist_env_and_memory()
        raise


def _unknown(message: str) -> NoReturn:
    raise ConfigError(f"rollout.engine.arguments: {message}; give what vllm serve takes for its engine")
