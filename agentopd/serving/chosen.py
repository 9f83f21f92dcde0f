"""What a vLLM server is asked to score tokens of one's own choosing, and what it answers: ``/inference/v1/generate``.

Row i of ``prompt_logprob_token_ids`` names ids that are scored as the token at ``prompt_logprob_start + i + 1``; the answer's
``prompt_token_id_logprobs`` is base64 of a NumPy file, [rows, ids] in single precision, at temperature 1. That takes vLLM 0.32 or newer
started with ``--enable-scale-out``, and its V2 model runner, which runs on a GPU: a CPU build refuses, as do others, so the form is read
from vLLM 0.32's source (``sampling_params.py``, ``scale_out/token_in_token_out``, ``worker/gpu/sample/prompt_logprob.py``), and whether a
server knows it is found out by asking.
"""

import base64
import binascii
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentopd.types import Ints

PATH = "/inference/v1/generate"
SCORES = "prompt_token_id_logprobs"


class UnscoredError(ValueError):
    """An answer without scores: the server does not know the question."""


def question(tokens: Sequence[int], positions: Sequence[int], chosen_N_K: Ints, k: int | None) -> dict[str, Any]:
    """What is sent, but for the model's name.

    Args:
        tokens: All that the model reads.
        positions: Where the tokens of interest stand, 1 or more, none of them the first.
        chosen_N_K: The ids to score at each of them. The token that stands there is scored too.
        k: How many ids of the model's own are asked for as well; ``None`` for none.
    """
    start = min(positions) - 1
    rows: list[list[int]] = [[] for _ in range(len(tokens) - 1 - start)]
    for position, ids in zip(positions, _with_taken(tokens, positions, chosen_N_K), strict=True):
        rows[position - 1 - start] = ids
    own = {} if k is None else {"prompt_logprobs": k}
    asked = {"max_tokens": 1, "temperature": 1.0, "prompt_logprob_token_ids": rows, "prompt_logprob_start": start}
    return {"token_ids": [int(token) for token in tokens], "sampling_params": asked | own}


def answered(
    answer: Mapping[str, Any], tokens: Sequence[int], positions: Sequence[int], chosen_N_K: Ints
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The scores of the ids chosen, [N, K], and those of the tokens that stand there, [N].

    Raises:
        UnscoredError: There are none.
        ValueError: They are not as many as were asked for, or no numbers.
    """
    asked = _with_taken(tokens, positions, chosen_N_K)
    score_R_W, start = _array(answer), min(positions) - 1
    shape = (len(tokens) - 1 - start, max(map(len, asked)))
    if score_R_W.shape != shape:
        raise ValueError(f"scores of shape {score_R_W.shape}, where {shape} were asked for")
    score_N_W = score_R_W[np.array(positions) - 1 - start].astype(np.float64)
    taken_N = [row_W[ids.index(int(tokens[at]))] for row_W, ids, at in zip(score_N_W, asked, positions, strict=True)]
    return score_N_W[:, : chosen_N_K.shape[1]], np.array(taken_N)


def _with_taken(tokens: Sequence[int], positions: Sequence[int], chosen_N_K: Ints) -> list[list[int]]:
    """The ids asked for at each position: those chosen, and the token itself where it is none of them."""
    rows: list[list[int]] = chosen_N_K.tolist()
    return [ids if int(tokens[at]) in ids else [*ids, int(tokens[at])] for ids, at in zip(rows, positions, strict=True)]


def _array(answer: Mapping[str, Any]) -> NDArray[np.float32]:
    encoded = answer.get(SCORES)
    if encoded is None:
        raise UnscoredError(f"an answer without {SCORES}")
    try:
        array = np.load(io.BytesIO(base64.b64decode(encoded, validate=True)), allow_pickle=False)
    except (binascii.Error, TypeError, EOFError, OSError) as error:
        raise ValueError(f"{SCORES} that hold no NumPy array ({error})") from error
    if array.dtype != np.float32:
        raise ValueError(f"{SCORES} of type {array.dtype}, where float32 was expected")
    return array  # type: ignore[no-any-return]
