"""What vLLM is asked about ids of one's own choosing, and what is made of its answer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_cases import SIZES, model_of
from serving_cases import Served, serving
from transformers import PreTrainedModel

from agentopd.errors import ConfigError, TeacherError
from agentopd.models import head_of
from agentopd.serving import Endpoint, Patience, Scorer
from agentopd.serving.chosen import PATH, answered, question
from agentopd.types import Whose

KEPT = json.loads((Path(__file__).parent / "chosen_answer.json").read_text())
"""The ``answer`` as vLLM's response model and its ``numpy2base64`` write these ``logprobs``, to what is ``asked`` as it was read by
its request model."""
TOKENS, POSITIONS = [5, 3, 7, 2], [2, 3]
CHOSEN = np.array([[1, 4], [2, 6]], np.int32)
LOGPROBS = np.nan_to_num(np.array(KEPT["logprobs"], np.float64), nan=-np.inf)
VOCAB = int(SIZES["vocab_size"])


def tiny(scale: float = 1.0) -> PreTrainedModel:
    model = model_of("llama", torch.float32)
    with torch.no_grad():
        head_of(model).weight_V_H.mul_(scale)
    return model


def scorer(server: Served, k: int, of: Whose) -> Scorer:
    endpoint = Endpoint("teacher 'teacher'", server.url, Patience(5.0, 0.5))
    return Scorer.found(endpoint, None, k, range(32), of, VOCAB)


def test_the_question_is_one_that_vllm_reads() -> None:
    assert {"model": "tiny"} | question(TOKENS, POSITIONS, CHOSEN, 2) == KEPT["asked"]
    assert "prompt_logprobs" not in question(TOKENS, POSITIONS, CHOSEN, None)["sampling_params"]


def test_only_rows_that_are_asked_about_name_ids() -> None:
    asked = question([1, 2, 3, 4, 5, 6], [2, 4], np.array([[7, 3], [8, 9]], np.int32), None)["sampling_params"]
    assert asked["prompt_logprob_start"] == 1
    assert asked["prompt_logprob_token_ids"] == [[7, 3], [], [8, 9, 5], []]


def test_vllms_own_answer_is_read() -> None:
    logprob_N_K, taken_N = answered(KEPT["answer"], TOKENS, POSITIONS, CHOSEN)
    rows = [1, 2]  # that predict the tokens at 2 and 3
    np.testing.assert_allclose(logprob_N_K, np.take_along_axis(LOGPROBS[rows], CHOSEN.astype(int), 1), atol=1e-6)
    assert logprob_N_K[1, 1] == -np.inf  # minus infinity stands for itself
    np.testing.assert_allclose(taken_N, LOGPROBS[rows, [7, 2]], atol=1e-6)


def test_of_vllms_own_answer_a_union_names_each_id_once() -> None:
    with serving(tiny()) as server:
        union = scorer(server, 2, "union")
    said = union._read_chosen(KEPT["answer"], TOKENS, POSITIONS, np.array([[1, 4], [2, 5]], np.int32)[:, :2])
    assert said.ids_N_K.tolist() == [[3, 5, 1, 4], [5, 3, 2, -1]]
    known = np.exp([[LOGPROBS[1, i] for i in (3, 5, 1, 4)], [*(LOGPROBS[2, i] for i in (5, 3, 2)), -np.inf]])
    np.testing.assert_allclose(np.exp(said.logprob_N_K[0]), known[0], atol=1e-6)
    np.testing.assert_allclose(np.exp(said.logtail_N), 1 - known.sum(1), atol=1e-5)


@pytest.mark.parametrize("of", ["student", "union"])
@pytest.mark.parametrize("status", [400, 404, "ignores"])
def test_a_server_that_does_not_score_them_is_found_out_when_it_is_asked_first(of: Whose, status: int | str) -> None:
    with serving(tiny()) as server:
        server.scores = status
        said = (
            "without prompt_token_id_logprobs" if status == "ignores" else f"{PATH} refused with {status}: .*not here"
        )
        with pytest.raises(
            ConfigError,
            match=rf"^ids={of}: .*{said}.*0\.32 .*V2_MODEL_RUNNER=1 .*--max-logprobs 6, or set ids: teacher$",
        ):
            scorer(server, 5, of)


def test_it_is_asked_first_about_as_many_ids_as_ever() -> None:
    with serving(tiny()) as server:
        server.most = 6
        scorer(server, 5, "student")
        server.most = 5
        with pytest.raises(ConfigError, match=r"refused with 400.*--max-logprobs 6"):
            scorer(server, 5, "student")
        server.most = 1 << 30
        scorer(server, VOCAB, "student")  # of all of them the token taken is one


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("nan", "a log-probability of nan"),
        ("more", "a log-probability of 0.5"),
        ("wide", r"scores of shape \(.*\), where \(.*\) were asked for"),
        ("drop", "an answer without prompt_token_id_logprobs"),
    ],
)
def test_an_answer_that_cannot_be_is_an_error_that_names_the_server(fault: str, said: str) -> None:
    with serving(tiny()) as server:
        asked = scorer(server, 2, "student")
        server.faults.append(fault)
        with pytest.raises(TeacherError, match=rf"teacher 'teacher': {server.url} gave no .*{said}"):
            asked.score(TOKENS, [3], CHOSEN[:1])


@pytest.mark.parametrize("held", ["what?", 7, "k05VTVBZ", KEPT["answer"]["prompt_token_id_logprobs"][:120]])
def test_what_holds_no_array_is_refused(held: Any) -> None:
    with pytest.raises(ValueError, match=r"NumPy array|Failed to read|magic|EOF|header|reshape"):
        answered({"prompt_token_id_logprobs": held}, TOKENS, POSITIONS, CHOSEN)


def test_a_restarted_server_is_known_by_its_scores() -> None:
    with serving(tiny()) as server:
        asked = scorer(server, 2, "union")
        server.model = tiny(20.0)
        server.faults.append(503)
        with pytest.raises(TeacherError, match="is another model than before"):
            asked.score(TOKENS, [3], CHOSEN[:1])
