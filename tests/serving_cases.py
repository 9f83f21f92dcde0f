"""A server over real HTTP that scores tokens with a tiny model in vLLM's form, and misbehaves when told to."""

import base64
import io
import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Served:
    """What the server holds, and how it next misbehaves: each fault is taken once, in order.

    A fault is a status; ``half`` of a body; ``nan``; ``shift``, all log-probabilities a little; ``late``; ``hang`` up; or ``drop``, which leaves the token itself out, or the scores of
    chosen ids; of these ``more`` is a probability above 1, and ``wide`` a column that nobody asked for.
    """

    model: PreTrainedModel
    faults: deque[int | str] = field(default_factory=deque)
    asked: list[dict[str, Any]] = field(default_factory=list)
    authorized: list[str | None] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""
    longest: int = 128
    away_after: int | None = None
    """The number of requests after which it answers 503."""
    most: int = 1 << 30
    """Ids that it scores at most, of a token."""
    tokenizer: PreTrainedTokenizerBase | None = None
    """What it says that tokens mean; without one it does not."""
    scores: int | str | None = None
    """How it takes the question about chosen ids: the status that it refuses it with; ``ignores``; or answers."""

    @property
    def questions(self) -> list[dict[str, Any]]:
        """What was asked beside who it is, which is asked with the first ids."""
        tokens = [one.get("prompt", one.get("token_ids", [])) for one in self.asked]
        return [one for one, ids in zip(self.asked, tokens, strict=True) if ids != [*range(len(ids))]]

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Counts how many requests are at work at once, each a moment at least."""
        with self.lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(0.01)
        yield
        with self.lock:
            self.at_once -= 1

    def read(self, tokens: list[int]) -> torch.Tensor:
        with torch.no_grad(), self.lock:
            log_T_V: torch.Tensor = torch.log_softmax(self.model(torch.tensor([tokens])).logits[0].double(), -1)
        return log_T_V

    def rows(self, tokens: list[int], k: int) -> list[dict[str, dict[str, float]] | None]:
        log_T_V = self.read(tokens)
        rows: list[dict[str, dict[str, float]] | None] = [None]
        for token, log_V in zip(tokens[1:], log_T_V, strict=False):
            best = log_V.topk(len(log_V) if k < 0 else k)
            said = {token: float(log_V[token])} | dict(zip(best.indices.tolist(), best.values.tolist(), strict=True))
            rows.append({str(i): {"logprob": max(value, -9999.0)} for i, value in said.items()})
        return rows

    def chosen(self, tokens: list[int], rows: list[list[int]], start: int) -> np.ndarray[Any, Any] | None:
        """The scores of ids of each row, padded with minus infinity; nothing where vLLM would refuse the question."""
        width, ids = max(map(len, rows), default=0), {i for row in rows for i in row}
        if not width or width > self.most or len(rows) != len(tokens) - 1 - start:
            return None
        if min(ids) < -1 or max(ids) >= self.model.config.vocab_size:
            return None
        log_T_V, found = self.read(tokens), np.full((len(rows), width), -np.inf, np.float32)
        for i, row in enumerate(rows):
            found[i, : len(row)] = [float(log_T_V[start + i, one]) if one >= 0 else -np.inf for one in row]
        return found


class _Server(ThreadingHTTPServer):
    served: Any


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answered(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        models = {"data": [{"id": "tiny", "max_model_len": self.server.served.longest}]}
        self.answered(200, json.dumps(models).encode())

    def do_POST(self) -> None:
        served = self.server.served
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/detokenize":
            return self.read_as(served.tokenizer, asked["tokens"])
        served.asked.append(asked)
        served.authorized.append(self.headers.get("Authorization"))
        fault = served.faults.popleft() if served.faults else None
        if served.away_after is not None and len(served.asked) > served.away_after:
            fault = 503
        if isinstance(fault, int):
            self.answered(fault, b'{"error": "as told"}', Retry_After="0.1")
        elif fault == "hang":
            self.close_connection = True
        elif self.path == "/inference/v1/generate":
            self.generated(asked, fault)
        else:
            self.scored(asked, fault)

    def read_as(self, tokenizer: PreTrainedTokenizerBase | None, tokens: list[int]) -> None:
        text = None if tokenizer is None else tokenizer.decode(tokens)
        self.answered(404 if text is None else 200, json.dumps({"prompt": text}).encode())

    def generated(self, asked: dict[str, Any], fault: str | None) -> None:
        served, tokens, given = self.server.served, asked["token_ids"], asked["sampling_params"]
        if isinstance(served.scores, int):
            return self.answered(served.scores, b'{"error": "not here"}')
        with served.busy():
            found = served.chosen(tokens, given["prompt_logprob_token_ids"], given["prompt_logprob_start"])
        if found is None or given.get("prompt_logprobs", 0) > served.most:
            return self.answered(400, b'{"error": "out of bounds"}')
        if fault in ("nan", "more"):
            found[-1, 0] = np.nan if fault == "nan" else 0.5
        if fault == "wide":
            found = np.pad(found, ((0, 0), (0, 1)))
        np.save(file := io.BytesIO(), found)
        said: dict[str, Any] = {"prompt_token_id_logprobs": base64.b64encode(file.getvalue()).decode()}
        if fault == "drop" or served.scores == "ignores":
            said = {}
        if (k := given.get("prompt_logprobs")) is not None:
            said["prompt_logprobs"] = served.rows(tokens, k)
        self.answered(200, json.dumps(said).encode())

    def scored(self, asked: dict[str, Any], fault: str | None) -> None:
        served, tokens = self.server.served, asked["prompt"]
        time.sleep(0.5 if fault == "late" else 0.01)
        with served.busy():
            rows = served.rows(tokens, asked["prompt_logprobs"])
        if fault == "nan":
            rows[-1] = {name: {"logprob": float("nan")} for name in rows[-1] or {}}
        if fault == "shift":
            rows[1:] = [
                {name: {"logprob": one["logprob"] - 0.1} for name, one in (row or {}).items()} for row in rows[1:]
            ]
        if fault == "drop":
            rows[-1] = {name: value for name, value in (rows[-1] or {}).items() if int(name) != tokens[-1]}
        body = json.dumps({"choices": [{"prompt_logprobs": rows}]}).encode()
        sent = body[: len(body) // 2] if fault == "half" else body
        self.close_connection = fault == "half"
        self.answered(200, sent, Content_Length=str(len(body)))


@contextmanager
def serving(model: PreTrainedModel, longest: int = 128) -> Iterator[Served]:
    """A server on loopback while the block lasts."""
    served = Served(model, longest=longest)
    with running(served, Handler):
        yield served


@contextmanager
def running(served: Any, handler: type[BaseHTTPRequestHandler]) -> Iterator[None]:
    """A server of what is ``served``, which learns its address, on loopback while the block lasts."""
    server = _Server(("127.0.0.1", 0), handler)
    server.served, served.url = served, f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
