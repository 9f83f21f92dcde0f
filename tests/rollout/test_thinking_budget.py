"""A turn's thought is closed where its budget is used up: which tokens that are, and that nobody learns from them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
import torch
from test_rollout_with_model import Talk
from tokenizers import AddedToken
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from agentopd import records
from agentopd.acting import Accepted, Blended
from agentopd.chat import Chat
from agentopd.chat.budget import Watch
from agentopd.errors import ConfigError
from agentopd.models import build_tokenizer, head_of
from agentopd.objective.rows import Rows
from agentopd.records import RecordWriter
from agentopd.rollout.collect import collect
from agentopd.rollout.engine import TransformersPolicy
from agentopd.rollout.joint import Joint
from agentopd.rollout.metrics import rollout_metrics
from agentopd.rollout.policy import Assignment, Request, Rollout
from agentopd.teachers.local import LocalTeacher
from agentopd.types import CONTEXT, Annotation, Key, Record, Sampled, Task, Trajectory

TALK = "tests/ThinkingTalk-v0"
CLOSE_WEIGHT = 4.0
"""Makes the mark that closes a thought likely enough that some thoughts end by themselves."""


class Thinker(LlamaForCausalLM):  # type: ignore[no-untyped-call]
    """A random model that closes thoughts."""

    bias_V: torch.Tensor

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits + self.bias_V
        return output


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    gymnasium.register(TALK, entry_point=f"{Talk.__module__}:Talk")
    yield
    del gymnasium.registry[TALK]


TEMPLATE = (
    "{%- for message in messages -%}{%- if message.role == 'assistant' -%}"
    "{{- '<|im_start|>assistant\n' ~ opened ~ SAID ~ '<|im_end|>\n' -}}"
    "{%- else -%}{{- '<|im_start|>' ~ message.role ~ '\n' ~ message.content ~ '<|im_end|>\n' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' ~ opened -}}{%- endif -%}"
)
KEEPS = TEMPLATE.replace("SAID", "message.content") + "{#- </think> -#}"
FORGETS = TEMPLATE.replace(
    "SAID", "(message.content if loop.last else message.content.split('</think>')[-1].lstrip('\\n'))"
)
PLAIN = TEMPLATE.replace("SAID", "message.content")
OPENED = {"opened": "<think>\n"}


@cache
def tokenizer_of(template: str, marks: bool = True) -> PreTrainedTokenizerFast:
    """Knows the marks of thoughts as tokens of their own, or writes them in several."""
    tokenizer = build_tokenizer(["Hello hello I see and so on pear\n\n assistant user"], 420)
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"})
    if marks:
        tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in ("<think>", "</think>")])
    tokenizer.chat_template = template
    return tokenizer


@cache
def chat() -> Chat:
    """Of a template that keeps what was thought, and whose prompt opens the thought."""
    return Chat(tokenizer_of(KEEPS), OPENED)


@cache
def model(seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    size = len(chat().tokenizer)
    made: Any = Thinker(  # type: ignore[no-untyped-call]
        LlamaConfig(
            vocab_size=size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=2048, initializer_range=0.2,
        )
    )  # fmt: skip
    made.bias_V = torch.zeros(size)
    made.bias_V[chat().tokenizer.convert_tokens_to_ids("</think>")] = CLOSE_WEIGHT
    return cast(PreTrainedModel, made)


def play(budget: int | None, count: int = 6) -> list[Trajectory]:
    settings = Rollout(max_turns=3, max_new_tokens=24, thinking_budget=budget)
    policy = TransformersPolicy(model(), chat().ends_of_turn, settings)
    tasks = [Assignment(Task(TALK, seed=i), Key("run", 0, i), "student", seed=i, source="fresh") for i in range(count)]
    return collect(tasks, {"student": policy}, chat(), settings)


def forced_of(trajectory: Trajectory) -> list[tuple[int, list[int]]]:
    """For each turn, where its forced tokens begin in it, and which they are; -1 where there are none."""
    found = []
    for turn in trajectory.turns:
        segment = trajectory.segments[turn.segment]
        at = np.flatnonzero(segment.turn_T[turn.start : turn.stop] == CONTEXT)
        tokens = segment.tokens_T[turn.start : turn.stop][at].tolist()
        found.append((int(at[0]) if len(at) else -1, tokens))
    return found


def test_a_budget_that_no_thought_reaches_changes_nothing() -> None:
    short = 0
    for free, limited in zip(play(None), play(23), strict=True):
        if all(0 < turn.thinking < 23 for turn in free.turns):
            short += 1
            assert limited.segments == free.segments
            assert [turn.text for turn in limited.turns] == [turn.text for turn in free.turns]
    assert short > 2


@pytest.mark.parametrize("budget", [0, 1, 5])
def test_the_thought_is_closed_where_the_budget_is_used_up(budget: int) -> None:
    closing = chat().budget(chat().prompt([{"role": "user", "content": "x"}]), 0).close
    assert chat().tokenizer.decode(list(closing)) == "\n</think>\n\n"
    cut = 0
    for trajectory in play(budget):
        for turn, (start, tokens) in zip(trajectory.turns, forced_of(trajectory), strict=True):
            if start >= 0:
                cut += 1
                assert (start, tuple(tokens)) == (budget, closing)
                before = trajectory.segments[turn.segment].tokens_T[turn.start : turn.start + budget].tolist()
                assert turn.text.startswith(str(chat().tokenizer.decode(before)))
            else:
                assert turn.thinking <= budget + 1
            assert turn.text.count("</think>") >= 1
    assert cut > (3 if budget < 5 else 1)


def test_what_was_written_before_is_what_would_have_been_written_anyway() -> None:
    for free, limited in zip(play(None), play(5), strict=True):
        (turn, other), (start, _) = (free.turns[0], limited.turns[0]), forced_of(limited)[0]
        tokens, others = (one.segments[0].tokens_T[t.start : t.stop] for one, t in ((free, turn), (limited, other)))
        same = len(tokens) if start < 0 else start
        np.testing.assert_array_equal(tokens[:same], others[:same])


def test_what_was_chosen_is_what_a_forward_gives_and_forced_tokens_are_context() -> None:
    for trajectory in play(4):
        for segment in trajectory.segments:
            tokens_1_T = torch.from_numpy(segment.tokens_T.astype(np.int64))[None]
            with torch.no_grad():
                logprob_T_V = torch.log_softmax(model()(tokens_1_T, use_cache=False).logits[0], dim=-1)
            taken_T = logprob_T_V[:-1].gather(1, tokens_1_T[0, 1:, None])[:, 0].numpy()
            chosen_T = segment.turn_T[1:] != CONTEXT
            np.testing.assert_allclose(segment.logprob_T[1:][chosen_T], taken_T[chosen_T], atol=1e-4)
            for mark_T in (segment.actor_T != CONTEXT, segment.trainable_T):
                np.testing.assert_array_equal(mark_T, segment.turn_T != CONTEXT)
            assert not segment.logprob_T[segment.turn_T == CONTEXT].any()


def test_they_are_counted_and_kept(tmp_path: Path) -> None:
    played = play(2)
    metrics = rollout_metrics(played)
    cut = sum(start >= 0 for one in played for start, _ in forced_of(one))
    assert metrics["thinking_cut"] == cut / len(played) > 1
    assert metrics["thinking_tokens"] == sum(turn.thinking for one in played for turn in one.turns) / len(played) > 0
    assert "thinking_cut" not in rollout_metrics([replace(one, turns=()) for one in played])
    RecordWriter(tmp_path).write(0, [Record(one) for one in played])
    assert [record.trajectory for record in records.open(tmp_path)] == played


def test_no_teacher_says_anything_of_them() -> None:
    """So what it would say there cannot reach a loss."""
    played = play(2)
    places = {(s, int(t)) for s, segment in enumerate(played[0].segments) for t in np.flatnonzero(segment.turn_T >= 0)}
    turn = next(turn for turn, (start, _) in zip(played[0].turns, forced_of(played[0]), strict=True) if start >= 0)
    forced = turn.segment, turn.start + 2
    assert forced not in places
    teacher = LocalTeacher(
        name="teacher", reads=model(1), heads={"teacher": head_of(model(1))}, temperature=1.0, max_tokens=4096
    )
    [said, *_] = teacher.annotate(played)
    assert {(int(s), int(t)) for s, t in zip(said.segment_N, said.index_N, strict=True)} == places
    assert len(Rows.of([Record(one) for one in played]).index_A) == sum(
        int((segment.turn_T >= 0).sum()) for one in played for segment in one.segments
    )
    wrong = Annotation(
        "teacher", np.array([forced[0]], np.int32), np.array([forced[1]], np.int32), Sampled(), np.zeros(1, np.float32),
        np.zeros(1, np.float32), np.full(len(played[0].turns), np.nan, np.float32), np.zeros(len(played[0].turns), np.bool_),
    )  # fmt: skip
    with pytest.raises(ValueError, match="name no action token"):
        Rows.of([Record(played[0], (wrong,))])


@pytest.mark.parametrize("mixing", [Blended(0.5), Accepted(20)])
def test_two_models_that_write_one_turn_close_it_together(mixing: Blended | Accepted) -> None:
    settings = Rollout(max_new_tokens=24)
    prompts = [tuple(chat().prompt([{"role": "user", "content": f"Hello {i}"}])) for i in range(4)]
    budget = chat().budget(prompts[0], 3)
    both = [TransformersPolicy(model(seed), chat().ends_of_turn, settings) for seed in (0, 1)]
    asked = [Request(i, prompt, i, 24, guide=prompt, budget=budget) for i, prompt in enumerate(prompts)]
    generations = Joint(both[0], both[1], mixing).act(asked)
    assert any(one.forced for one in generations)
    for one in generations:
        if one.forced:
            assert one.forced == [3 <= t < 3 + len(budget.close) for t in range(len(one.tokens))]
            assert tuple(one.tokens[3 : 3 + len(budget.close)]) == budget.close


def due(watched: Chat, opened: bool, budget: int, text: str) -> list[int]:
    """After how many tokens of a text its thought is to be closed."""
    tokens: Sequence[int] = watched.tokenizer.encode(text, add_special_tokens=False)
    watch = Watch(replace(watched.budget((), budget), opened=opened))
    return [n for n in range(len(tokens) + 1) if watch.due(tokens[:n])]


@pytest.mark.parametrize("marks", [True, False])
def test_a_thought_that_the_model_opens_is_watched_from_its_mark_on(marks: bool) -> None:
    watched = Chat(tokenizer_of(KEEPS, marks))
    mark = len(watched.tokenizer.encode("<think>", add_special_tokens=False))
    assert (mark == 1) == marks
    assert due(watched, False, 2, "<think>pear pear pear pear pear") == [mark + 2]
    assert due(watched, False, 0, "<think>pear") == [mark]
    assert due(watched, False, 0, "pear pear <think>pear") == []
    assert due(watched, False, 50, "<think>pear</think>pear") == []
    assert due(watched, True, 0, "pear") == [0]
    assert due(watched, True, 20, "p</think>" + "pear " * 20) == []


def test_a_budget_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(ConfigError, match="knows no thinking"):
        Chat(tokenizer_of(PLAIN)).budget((), 3)
    with pytest.raises(ValueError, match="leaves no room for an answer in max_new_tokens=8"):
        Rollout(max_new_tokens=8, thinking_budget=8)


def test_past_thinking_is_kept_or_dropped_as_it_is_set() -> None:
    keeps, forgets = tokenizer_of(KEEPS), tokenizer_of(FORGETS)
    ask: list[Any] = [{"role": "user", "content": "Hello"}]
    for tokenizer, setting, drift in (
        (keeps, "kept", "clean"),
        (keeps, "template", "clean"),
        (keeps, "dropped", "forked"),
        (forgets, "template", "forked"),
    ):
        one = Chat(tokenizer, past_thinking=cast(Any, setting))
        action = one.read(one.write(ask, "So.", thought="<think>\nhm\n</think>\n\n"))
        extension = one.extend(ask, action, ask)
        assert (extension.drift, action.thought) == (drift, "<think>\nhm\n</think>\n\n")
        assert "hm" not in one.tokenizer.decode(extension.tokens)
        assert ("reasoning_content" in action.message or "hm" in action.message["content"]) == (setting != "dropped")
    with pytest.raises(
        ConfigError, match=r"past_thinking='kept': the chat template of .* forgets what was thought once a tool answers"
    ):
        Chat(forgets, past_thinking="kept")
    assert Chat(tokenizer_of(PLAIN), past_thinking="kept").past_thinking == "kept"
    with pytest.raises(ConfigError, match=r"past_thinking='dropped': the chat template of .* knows no thinking"):
        Chat(tokenizer_of(PLAIN), past_thinking="dropped")
