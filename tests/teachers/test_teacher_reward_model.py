"""A teacher that is a classifier of conversations, against plain forwards over what its own template writes."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_cases import save_small
from teacher_cases import context, episode
from transformers import (
    BertConfig,
    BertForTokenClassification,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    PreTrainedTokenizerBase,
)

from agentopd.chat.tokenizer import build_tokenizer
from agentopd.errors import ConfigError, TeacherError
from agentopd.settings.parts import OneOf
from agentopd.teachers import TEACHERS, Examined, Teacher, annotate, traits_of
from agentopd.teachers.reward_model import RewardModel, _joined, reward_model
from agentopd.tooling import call
from agentopd.types import Message, Trajectory
from agentopd.where import Where

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
ACTIONS = ("Let me see.", call("add", x=1), "It is 3.")
OPENING: tuple[Message, ...] = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 2?"})
ANSWER: Message = {"role": "tool", "name": "add", "content": "3"}


def played(seed: int = 0, longer: str = "") -> Trajectory:
    made = episode("..0.1.2", seed=seed)
    turns = [
        replace(
            turn,
            action=ACTIONS[turn.index] + longer * (turn.index != 1),
            observations=(ANSWER,) if turn.index == 1 else (),
        )
        for turn in made.turns
    ]
    turns[0] = replace(turns[0], observations=({"role": "user", "content": f"Go on, {seed}."},))
    return replace(made, turns=tuple(turns), opening=OPENING, tools=(TOOL,))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return build_tokenizer(["Be brief. It is 3. Let me see."], 320)


@pytest.fixture(scope="module")
def folders(tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A classifier of sequences with one label, one of tokens with two, and a language model."""
    made: dict[str, Path] = {}
    kinds = (("sequences", LlamaForSequenceClassification, 1), ("tokens", LlamaForTokenClassification, 2))
    for name, kind, labels in (*kinds, ("language", LlamaForCausalLM, 1)):
        made[name] = save_small(kind, tokenizer, tmp_path_factory.mktemp(name), labels, seed=len(made))
    return made


def plain_ids(tokenizer: PreTrainedTokenizerBase, trajectory: Trajectory, turn: int) -> list[int]:
    """The conversation up to an action, by the tokenizer's own template."""
    messages: list[Any] = list(OPENING)
    for one in trajectory.turns[: turn + 1]:
        if one.index == 1:
            function = {"name": "add", "arguments": {"x": 1}}
            messages.append(
                {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
            )
        else:
            messages.append({"role": "assistant", "content": one.action})
        messages += one.observations if one.index < turn else ()
    text = tokenizer.apply_chat_template(messages, tools=[TOOL], tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@torch.no_grad()
def plain(kind: Any, folder: Path, ids: list[int]) -> torch.Tensor:
    """The logits of one conversation by itself, [L] or [T, L]."""
    logits: torch.Tensor = kind.from_pretrained(folder)(torch.tensor([ids])).logits[0]
    return logits.double()


def of(folder: Path, **settings: Any) -> Teacher:
    return reward_model(context("judge"), model=str(folder), **settings)


def rewards(teacher: Teacher, *trajectories: Trajectory) -> list[list[float]]:
    return [record.annotations[0].reward_S.tolist() for record in annotate({"judge": teacher}, trajectories)]


@pytest.mark.parametrize("max_tokens", [1, 300, 16384])
def test_a_turn_is_scored_by_the_conversation_up_to_it(
    folders: dict[str, Path], tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> None:
    both = (played(0), played(1))
    found = rewards(of(folders["sequences"], of="turn", max_tokens=max_tokens), *both)
    for trajectory, scores in zip(both, found, strict=True):
        wanted = [
            float(plain(LlamaForSequenceClassification, folders["sequences"], plain_ids(tokenizer, trajectory, turn)))
            for turn in range(3)
        ]
        np.testing.assert_allclose(scores, wanted, rtol=1e-4, atol=1e-5)
    assert found[0] != found[1]


def test_an_episode_is_scored_by_all_of_it(folders: dict[str, Path], tokenizer: PreTrainedTokenizerBase) -> None:
    logit = plain(LlamaForSequenceClassification, folders["sequences"], plain_ids(tokenizer, played(), 2))
    first, last = of(folders["sequences"], activation="sigmoid", where=Where(max_turn=1)), of(folders["sequences"])
    np.testing.assert_allclose(rewards(first, played()), [[np.nan, float(logit.sigmoid()), np.nan]], rtol=1e-4)
    np.testing.assert_allclose(rewards(last, played()), [[np.nan, np.nan, float(logit)]], rtol=1e-4)


@pytest.mark.parametrize("activation", ["none", "sigmoid", "softmax"])
def test_a_classifier_of_tokens_is_read_at_the_last_token_of_each_action(
    folders: dict[str, Path], tokenizer: PreTrainedTokenizerBase, activation: Any
) -> None:
    both = (played(0), played(1, longer=" Or so."))
    judge = of(folders["tokens"], of="turn", classifies="tokens", label=1, activation=activation, where=Where(every=2))
    readings = [len(batch) for batch in _watched(judge, both)]
    assert readings == [2]  # one reading an episode
    for trajectory, scores in zip(both, rewards(judge, *both), strict=True):
        ends = [len(plain_ids(tokenizer, trajectory, turn)) - 1 for turn in (0, 2)]
        logits_N_L = plain(LlamaForTokenClassification, folders["tokens"], plain_ids(tokenizer, trajectory, 2))[ends]
        wanted = {
            "none": logits_N_L[:, 1],
            "sigmoid": logits_N_L[:, 1].sigmoid(),
            "softmax": logits_N_L.softmax(-1)[:, 1],
        }[activation]
        np.testing.assert_allclose([scores[0], scores[2]], wanted.numpy(), rtol=1e-4, atol=1e-5)
        assert np.isnan(scores[1])


def test_an_encoder_reads_no_turn_beside_what_came_after_it(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
    )
    config.num_labels = 2
    untyped: Any = BertForTokenClassification
    untyped(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    [scores] = rewards(of(tmp_path, of="turn", classifies="tokens", label=1), played())
    wanted = [
        float(plain(BertForTokenClassification, tmp_path, plain_ids(tokenizer, played(), turn))[-1, 1])
        for turn in range(3)
    ]
    np.testing.assert_allclose(scores, wanted, rtol=1e-4, atol=1e-5)


def _watched(judge: Teacher, trajectories: tuple[Trajectory, ...]) -> list[Any]:
    """The batches that it reads."""
    assert isinstance(judge, RewardModel)
    seen: list[Any] = []
    judge.classifier.register_forward_pre_hook(lambda _, __, given: seen.append(given["input_ids"]), with_kwargs=True)
    judge.annotate(trajectories)
    return seen


def test_what_is_too_long_is_skipped_and_counted(
    folders: dict[str, Path], tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
) -> None:
    judge = of(folders["sequences"], of="turn")
    assert isinstance(judge, RewardModel)
    judge.chat.tokenizer.model_max_length = len(plain_ids(tokenizer, played(), 1))
    with caplog.at_level(logging.WARNING):
        (said,) = annotate({"judge": judge}, [played()])[0].annotations
    assert said.skip_S.tolist() == [False, False, True]
    assert np.isnan(said.reward_S).tolist() == [False, False, True]
    assert "teacher 'judge', trajectory test/0/0/0: a conversation has" in caplog.text
    assert [judge.metrics(), judge.metrics()] == [{"skipped": 1.0}, {"skipped": 0.0}]
    whole = replace(judge, of="episode")
    assert annotate({"judge": whole}, [played()])[0].annotations[0].skip_S.all()


def test_one_that_knows_no_padding_reads_each_by_itself(folders: dict[str, Path]) -> None:
    judge = of(folders["sequences"], of="turn")
    assert isinstance(judge, RewardModel)
    wanted = rewards(judge, played())
    judge.classifier.config.pad_token_id = None
    np.testing.assert_allclose(rewards(judge, played()), wanted, rtol=1e-4, atol=1e-6)


def test_tools_are_read_and_a_failed_episode_is_not(folders: dict[str, Path]) -> None:
    judge = of(folders["sequences"])
    assert rewards(judge, played()) != rewards(judge, replace(played(), tools=()))
    failed = replace(played(), failure=episode("..0", failed=True).failure)
    assert annotate({"judge": judge}, [failed])[0].annotations[0].skip_S.all()


def test_the_thinking_before_a_malformed_call_is_not_read_either(folders: dict[str, Path]) -> None:
    judge, bad = of(folders["sequences"], of="turn"), 'So: <tool_call>\n{"name": "add", "arg\n</tool_call>'
    first, *others = played().turns

    def written(text: str) -> Trajectory:
        return replace(played(), turns=(replace(first, text=text, action=bad), *others))

    thinking = written(f"<think>\nIt is hard.\n</think>\n\n{bad}")
    assert rewards(judge, thinking) == rewards(judge, written(bad)) != rewards(judge, played())


def test_an_episode_without_its_opening_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(TeacherError, match=r"^teacher 'judge', trajectory test/0/0/0: it has no opening"):
        rewards(of(folders["sequences"]), replace(played(), opening=()))


def test_nan_is_no_score(folders: dict[str, Path]) -> None:
    judge = of(folders["sequences"])
    assert isinstance(judge, RewardModel)
    judge.classifier.score.weight.data.fill_(float("nan"))  # type: ignore[union-attr,operator]
    with pytest.raises(TeacherError, match=r"^teacher 'judge': its model gave NaN"):
        rewards(judge, played())


@pytest.mark.parametrize(
    ("folder", "settings", "said"),
    [
        (
            "language",
            {},
            r"model='.*' lacks weights .* 'score\.weight' \(a language model is no classifier of sequences\); give the",
        ),
        ("tokens", {"classifies": "tokens"}, r"label=null: .* has several labels; give one of 0 \(LABEL_0\), 1 "),
        (
            "tokens",
            {"classifies": "tokens", "label": 2},
            r"label=2: .* has no such label; give one of 0 \(LABEL_0\), 1 ",
        ),
        ("silent", {}, r"model='.*': tokenizer '.*' has no chat template; use an instruction-tuned model"),
        ("nowhere", {}, r"model='.*nowhere': there is no such folder"),
        (
            "sequences",
            {"activation": "softmax"},
            r"activation=softmax: .* has one label alone, 0 \(LABEL_0\), whose probability is always 1; take sigmoid",
        ),
        (
            "few",
            {},
            r"model='.*': it knows 100 token ids, and the tokenizer beside it makes \d+; put the classifier's own",
        ),
        (
            "tokens",
            {"label": 0},
            r"model='.*' was trained to classify tokens \(LlamaForTokenClassification\), .*; set classifies: tokens",
        ),
    ],
)
def test_what_is_wrong_is_found_before_anything_is_fitted(
    folders: dict[str, Path], tmp_path: Path, folder: str, settings: dict[str, Any], said: str
) -> None:
    place = folders.get(folder, tmp_path / folder)
    if folder == "silent":
        LlamaForSequenceClassification.from_pretrained(folders["sequences"]).save_pretrained(place)
        mute = build_tokenizer(["a"], 320)
        mute.chat_template = None
        mute.save_pretrained(place)
    if folder == "few":
        large = LlamaForSequenceClassification.from_pretrained(folders["sequences"])
        large.resize_token_embeddings(100)
        large.save_pretrained(place)
        build_tokenizer(["a"], 320).save_pretrained(place)
    with pytest.raises(ConfigError, match=rf"^teachers\.judge\.{said}"):
        of(place, **settings)
    choice = OneOf("teacher", TEACHERS).validate({"kind": "reward_model", "model": str(place), **settings})
    examine = traits_of(choice).examine
    assert examine is not None
    with pytest.raises(ConfigError, match=rf"^{said}"):
        examine(Examined("judge", choice.settings, 100, 1.0))


def test_a_sound_one_passes(folders: dict[str, Path]) -> None:
    choice = OneOf("teacher", TEACHERS).validate({"kind": "reward_model", "model": str(folders["sequences"])})
    examine = traits_of(choice).examine
    assert examine is not None
    examine(Examined("judge", choice.settings, 100, 1.0))


def test_conversations_that_continue_each_other_are_read_once() -> None:
    """A template that rewrites what was said starts a reading anew."""
    found = list(_joined([(0, [1, 2]), (1, [1, 2, 3]), (2, [1, 9, 3, 4]), (4, [1, 9, 3, 4, 5])]))
    assert [(one.tokens_T, one.turns, one.ends) for one in found] == [
        ([1, 2, 3], [0, 1], [1, 2]),
        ([1, 9, 3, 4, 5], [2, 4], [3, 4]),
    ]
    assert list(_joined([])) == []
