"""Episodes drawn as text, and models and chats small enough for the tests of teachers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from agentopd.chat import Action, Chat
from agentopd.models import ModelConfig
from agentopd.teachers import TeacherContext
from agentopd.types import CONTEXT, Failure, Key, Message, Outcome, Segment, Task, ToolCall, Trajectory, Turn

VOCAB = 61


def tiny_llama(seed: int, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """Random weights, large enough for its distributions to be far from uniform."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
    )
    model: LlamaForCausalLM = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        model.lm_head.weight.mul_(20.0)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


OPENING: tuple[Message, ...] = ({"role": "user", "content": "Begin."},)


class ByteChat:
    """Writes an action as its bytes modulo the vocabulary, then an end of turn. What it reads says how many tokens it was."""

    end_of_turn = 7
    tokenizer = range(VOCAB)

    def write(self, messages: Sequence[Message], canonical: str, tools: Sequence[Mapping[str, Any]]) -> list[int]:
        return [byte % VOCAB for byte in canonical.encode()] + [self.end_of_turn]

    def read(self, tokens: Sequence[int], tools: Sequence[Mapping[str, Any]], prompt: Sequence[int] = ()) -> Action:
        text = f"{len(tokens)} tokens"
        return Action(text, text, (), text, True, {"role": "assistant", "content": text})


def context(
    name: str = "teacher",
    model: PreTrainedModel | None = None,
    temperature: float = 1.0,
    load: Callable[[ModelConfig], PreTrainedModel] | None = None,
) -> TeacherContext:
    def given(config: ModelConfig) -> PreTrainedModel:
        assert model is not None, "this teacher needs no model"
        return model

    return TeacherContext(name, cast(Chat, ByteChat()), load or given, temperature)


def episode(
    *layouts: str,
    seed: int = 0,
    actors: tuple[str, ...] = ("student",),
    acted: Mapping[int, int] | None = None,
    rewards: Sequence[float] = (),
    advice: Mapping[int, str] | None = None,
    tools: Mapping[int, str] | None = None,
    sources: Sequence[str] = (),
    tokens: Sequence[int] | None = None,
    failed: bool = False,
) -> Trajectory:
    """An episode from one picture a segment: ``"..00.11"`` has two turns of two tokens in three tokens of context.

    Args:
        layouts: One character a token: a digit is the turn that produced it, a dot is context.
        seed: Chooses the tokens.
        actors: The actors of the trajectory.
        acted: Which actor took a turn, by the turn's index; the first where it is not said.
        rewards: The reward of each turn, 0 where it is not said.
        advice: The expert's advice, by the turn's index.
        tools: The tool that a turn called, by the turn's index.
        sources: The source of each segment, ``fresh`` where it is not said.
        tokens: The token ids of every segment, where they matter.
        failed: Whether the episode failed.
    """
    rng = np.random.default_rng(seed)
    acted, advice, tools = acted or {}, advice or {}, tools or {}
    segments, turns = [], []
    for s, layout in enumerate(layouts):
        turn_T = np.array([CONTEXT if char == "." else int(char) for char in layout], dtype=np.int32)
        actor_T = np.array([acted.get(int(turn), 0) if turn >= 0 else CONTEXT for turn in turn_T], dtype=np.int32)
        tokens_T = np.array(rng.integers(0, VOCAB, len(layout)) if tokens is None else tokens, dtype=np.int32)
        logprob_T = np.where(turn_T >= 0, -1.0, 0.0).astype(np.float32)
        segments.append(
            Segment(tokens_T, turn_T, actor_T, turn_T >= 0, logprob_T, dict(enumerate(sources)).get(s, "fresh"))
        )
        for index in sorted(set(turn_T[turn_T >= 0].tolist())):
            turns.append(
                Turn(
                    index=index,
                    actor=actors[acted.get(index, 0)],
                    segment=s,
                    start=layout.index(str(index)),
                    stop=layout.rindex(str(index)) + 1,
                    text=f"text {index}",
                    action=f"action {index}",
                    calls=(ToolCall(tools[index], {}),) if index in tools else (),
                    reward=dict(enumerate(rewards)).get(index, 0.0),
                    advice=advice.get(index),
                )
            )
    return Trajectory(
        key=Key("test", 0, seed),
        task=Task("test/Env-v0", seed),
        actors=actors,
        segments=tuple(segments),
        turns=tuple(turns),
        outcome=Outcome(float(sum(rewards)), False, "failed" if failed else "terminated"),
        failure=Failure("env", "ValueError", "boom") if failed else None,
        opening=OPENING,
    )


def acted_by(model: PreTrainedModel, layout: str, temperature: float, seed: int) -> Trajectory:
    """An episode whose action tokens ``model`` samples, one plain forward a token, with their log-probabilities."""
    drawn = episode(layout, seed=seed)
    segment = drawn.segments[0]
    tokens, logprobs = segment.tokens_T.copy(), segment.logprob_T.copy()
    generator = torch.Generator().manual_seed(seed)
    for t in np.flatnonzero(segment.turn_T >= 0):
        with torch.no_grad():
            logits_V = model(torch.from_numpy(tokens[None, :t]).long()).logits[0, -1]
        logprob_V = torch.log_softmax(logits_V / temperature, -1)
        tokens[t] = int(torch.multinomial(logprob_V.exp(), 1, generator=generator))
        logprobs[t] = float(logprob_V[int(tokens[t])])
    return replace(drawn, segments=(replace(segment, tokens_T=tokens, logprob_T=logprobs),))
