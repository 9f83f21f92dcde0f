"""The vLLM engine: turns of the student by a server that holds a copy of its weights."""

from collections.abc import Collection, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from agentopd.errors import ConfigError, PolicyError
from agentopd.freezing import evaluating
from agentopd.quantization import apart, is_quantized
from agentopd.rollout.engine import check_requests, scripted
from agentopd.rollout.engines import Vllm
from agentopd.rollout.growing import Growing
from agentopd.rollout.policy import Generation, Request, Rollout
from agentopd.rollout.sampling import processed
from agentopd.rollout.vllm.server import Drawn, Server, server_of
from agentopd.rollout.vllm.weights import lora_arguments, plain_model, shape_of, write_adapter
from agentopd.serving.threads import Threads

LOOKAHEAD = 33
"""Tokens beyond what a turn may think that are asked for at once: its mark, and one more."""
PROBE = 64
"""Tokens of a context by which it is seen that weights were taken."""
DRAWN = 4
"""Tokens that are drawn behind them."""
COOL = 0.5
"""The temperature that this is done at: log-probabilities of another one would show."""
CLOSE = {torch.float32: 1e-2}
"""By how much their log-probabilities may differ from those here, in nats, on average, by dtype."""
COARSE = 0.2
"""Of half precision, where kernels differ."""


class VllmPolicy:
    """Samples turns from a model by vLLM. Draws depend on a request's seed, and are not those of the transformers engine.

    The server is started, and given the weights, when the first turn is asked for after they have changed. It is then seen by a few tokens
    that it has them.
    """

    def __init__(self, model: PreTrainedModel, ends: Collection[int], settings: Rollout, engine: Vllm) -> None:
        """Starts nothing yet.

        Args:
            model: The student, inside an adapter or not; the server copies its weights.
            ends: The ids that end a turn.
            settings: How turns are sampled.
            engine: How the server is run, or where it is.

        Raises:
            ConfigError: vLLM has no such adapters, or the model is in four bits.
        """
        if is_quantized(model):
            raise ConfigError(apart("vllm"))
        self.version = 0
        self._model = model
        self._ends = frozenset(ends)
        self._settings = settings
        self._engine = engine
        self._adapter = lora_arguments(model)
        self._changes = 0
        self._threads = Threads(min(engine.in_flight, settings.concurrency))

    def act(self, requests: Sequence[Request]) -> list[Generation]:
        """One generation a request. Scripts are played without the server.

        Raises:
            ConfigError: There is no vLLM.
            PolicyError: A request is impossible, or the server failed, or does not have the student's weights.
        """
        check_requests(requests)
        asked = [request for request in requests if request.script is None]
        played: dict[int, Generation] = {}
        if asked:
            server = self._ready(asked[0].tokens)
            with _undrawn():
                turns = [self._threads.begin(self._turn, server, request) for request in asked]
                try:
                    played = {r.episode: turn.result() for r, turn in zip(asked, turns, strict=True)}
                finally:
                    for turn in turns:
                        turn.cancel()
        return [played[r.episode] if r.script is None else scripted(r.script) for r in requests]

    def submit(self, request: Request) -> "Future[Generation]":
        """Begins a turn by itself; raises as :meth:`act`."""
        if request.script is None:
            return self._threads.begin(self._turn, self._ready(request.tokens), request)
        played: Future[Generation] = Future()
        played.set_result(scripted(request.script))
        return played

    def settle(self) -> None:
        """Gives the server the weights now: afterwards the model may change while turns are written. Raises as :meth:`act`."""
        self._ready(range(PROBE))

    def release(self, episodes: Sequence[int]) -> None:
        """Nothing is kept for an episode but what the server's prefix cache finds again."""

    def update(self, model: PreTrainedModel, version: int) -> None:
        """The weights have changed; the server is given them when it is next asked."""
        self._model, self.version, self._adapter = model, version, lora_arguments(model)
        self._changes += 1

    def _ready(self, tokens: Sequence[int]) -> Server:
        """The server, with the weights of now; ``tokens`` are some that the model may read."""
        plain = plain_model(self._model)
        key = repr((self._engine, self._settings.max_length, self._adapter, shape_of(plain)))
        server = server_of(key, lambda: self._begun(plain))
        if server.asleep:
            if plain.device.type == "cuda":
                torch.cuda.empty_cache()  # or what learning had stays with this process, and the server lacks it
            server.wake()
        if server.holder != (self, self._changes):
            with _undrawn():
                self._give(server)
                self._require_taken(server, tokens[:PROBE])
            server.holder = (self, self._changes)
        return server

    def _begun(self, plain: PreTrainedModel) -> Server:
        return self._engine.server(plain, self._arguments(plain), self._settings.max_length)

    def _arguments(self, plain: PreTrainedModel) -> list[str]:
        dtype, longest = str(plain.dtype).removeprefix("torch."), str(self._settings.max_length)
        # a prompt that is read in parts takes back what was drawn behind the first ones, which ends 0.32's CPU build where draws are seeded
        whole = ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(max(2048, self._settings.max_length))]
        here = ["--enforce-eager", *whole] if plain.device.type == "cpu" else []
        return ["--max-model-len", longest, "--dtype", dtype, *here, *self._adapter]

    def _give(self, server: Server) -> None:
        """Gives the server the weights: under an adapter those below it once, and then the adapter alone."""
        known = isinstance(server.holder, tuple) and server.holder[0] is self
        if not (known and self._adapter):
            server.load(self._model)
        if self._adapter:
            server.wear(lambda folder: write_adapter(self._model, folder))
        if not server.forget():
            raise PolicyError(
                "the student's vLLM keeps what earlier weights computed: it refused to empty its prefix cache"
            )

    def _require_taken(self, server: Server, tokens: Sequence[int]) -> None:
        """Raises PolicyError where the server's log-probabilities are not those of the weights here."""
        drawn = self._generated(server, tokens, 0, DRAWN, temperature=COOL, top_p=1.0, top_k=0)
        ids = torch.tensor([[*tokens, *drawn.tokens]], device=self._model.device)
        with torch.inference_mode(), evaluating(self._model):
            logits_T_V = self._model(input_ids=ids, use_cache=False).logits[0, len(tokens) - 1 : -1]
        logprob_T_V = processed(logits_T_V, Rollout(temperature=COOL))
        own_T = logprob_T_V.gather(1, ids[0, len(tokens) :, None])[:, 0].cpu()
        off = float((own_T - torch.tensor(drawn.logprobs)).abs().mean())
        if not off <= CLOSE.get(plain_model(self._model).dtype, COARSE):
            raise PolicyError(
                f"the student's vLLM does not have the student's weights: after they were loaded, log-probabilities of the same tokens "
                f"differ by {off:.3g} nats on average; this version of vLLM cannot follow this model: choose rollout.engine.kind: transformers"
            )

    def _turn(self, server: Server, request: Request) -> Generation:
        """Generates one turn: at once, or, while its thought may have to be closed, in pieces."""
        turn = Growing(request=request)
        while not turn.done:
            room = turn.left
            if turn.watched and request.budget is not None:
                room = min(room, request.budget.tokens + LOOKAHEAD)
            context, settings = [*request.tokens, *turn.tokens], self._settings
            seed = request.seed + len(turn.tokens)
            piece = self._generated(server, context, seed, room, settings.temperature, settings.top_p, settings.top_k)
            turn.prefilled += len(context) - piece.cached
            self._take(turn, piece)
        return turn.generation

    def _take(self, turn: Growing, piece: Drawn) -> None:
        """Takes a piece up to where something else must be said."""
        for token, logprob in zip(piece.tokens, piece.logprobs, strict=True):
            turn.add(token, logprob, self._ends)
            while turn.closing and not turn.done:
                turn.add(token, logprob, self._ends)
            if turn.done or turn.forced[-1]:
                return

    def _generated(
        self, server: Server, context: Sequence[int], seed: int, room: int, temperature: float, top_p: float, top_k: int
    ) -> Drawn:
        sampling = {
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "seed": seed % 2**63,
            "max_tokens": room,
            "logprobs": 0,
            "stop_token_ids": sorted(self._ends),
            "ignore_eos": True,
            "detokenize": False,
        }
        drawn = server.generate([int(token) for token in context], sampling)
        return replace(drawn, logprobs=[0.0] * len(drawn.tokens)) if temperature == 0.0 else drawn


def _undrawn() -> AbstractContextManager[None]:
    """Puts the state of this process's random numbers back, of which 0.32's CPU sampler draws for each token, seeded or not, where it is in here.

    Only while nobody else draws: they would be given the same numbers again.
    """
    return torch.random.fork_rng(devices=[])
