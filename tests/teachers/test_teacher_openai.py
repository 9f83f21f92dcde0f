"""Teachers behind an API: what they ask, and what becomes of the answers, over real HTTP."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from talking_cases import Talking, likely, said, talking
from teacher_cases import context, episode

from agentopd import records
from agentopd.chat import Chat
from agentopd.chat.spelling import spelling
from agentopd.chat.tokenizer import build_tokenizer
from agentopd.errors import ConfigError, TeacherError
from agentopd.objective import Objective, Rows, cut, prepare
from agentopd.rollout import EnvConfig, Rollout, TaskStream, assign, collect
from agentopd.serving import SpentError
from agentopd.settings.clock import Clock
from agentopd.settings.parts import OneOf
from agentopd.teachers import TEACHERS, Examined, Teacher, TeacherContext, annotate, teaching_metrics, traits_of
from agentopd.teachers.judging import Score, score_of
from agentopd.teachers.openai import openai
from agentopd.tooling.action import parse_action, render_action
from agentopd.types import EXPERT, Sparse, ToolCall, Trajectory
from agentopd.where import Where

Reply = Callable[[dict[str, Any]], dict[str, Any]]


@cache
def chat() -> Chat:
    return Chat(build_tokenizer(["Buy two pears, then pay. The total is 17.", "price stock pay submit answer"], 500))


@cache
def played(seed: int = 3, episodes: int = 2) -> tuple[Trajectory, ...]:
    """Episodes with tools, as the environment's expert plays them."""
    stream = TaskStream([EnvConfig(id="agentopd/Checkout-v0")], seed, "train")
    assignments = assign(stream, range(episodes), "fresh", {EXPERT: 1.0}, 1, "run", 0, seed)
    return tuple(collect(assignments, {}, chat(), Rollout(max_length=2048, max_new_tokens=128)))


def lent(folder: Path | None = None, temperature: float = 1.0) -> TeacherContext:
    return TeacherContext("judge", chat(), lambda _: pytest.fail("it loads nothing"), temperature, folder=folder)


def of(server: Talking, folder: Path | None = None, temperature: float = 1.0, **settings: Any) -> Any:
    return openai(lent(folder, temperature), url=server.base, **{"patience": 5.0, **settings})


@pytest.fixture
def serve() -> Iterator[Callable[[Reply], Talking]]:
    opened = []

    def start(reply: Reply) -> Talking:
        opened.append(talking(reply))
        return opened[-1].__enter__()

    yield start
    for one in opened:
        one.__exit__(None, None, None)


Serve = Callable[[Reply], Talking]


def asks(server: Talking, turn: int = 0) -> str:
    """The text of the last message of a request."""
    return str(server.asked[turn]["messages"][-1]["content"])


# Corrections.


def test_a_correction_is_the_answer_at_the_students_state(serve: Serve) -> None:
    server = serve(lambda asked: said("", ("submit", {"total": len(asked["messages"])}), finish="tool_calls"))
    trajectories = played()
    first = trajectories[0]
    given = of(server, options={"temperature": 0}).annotate(trajectories)[0]
    turns = len(first.turns)
    assert given.corrected_S == tuple(
        render_action("", [ToolCall("submit", {"total": 2 + 2 * turn})]) for turn in range(turns)
    )
    assert not given.skip_S.any()
    by_length = {
        len(asked["messages"]): asked
        for asked in server.asked
        if asked["messages"][1]["content"] == first.opening[1]["content"]
    }
    whole = by_length[2 * turns]
    assert whole["tools"] == [dict(tool) for tool in first.tools]
    assert whole["temperature"] == 0
    assert whole["messages"][0] == dict(first.opening[0])
    call, answer = whole["messages"][2:4]
    assert call["tool_calls"][0]["id"] == answer["tool_call_id"]
    assert json.loads(call["tool_calls"][0]["function"]["arguments"]) == first.turns[0].calls[0].arguments
    for turn, segment in zip(first.turns, given.segments, strict=True):
        written = segment.tokens_T[segment.turn_T >= 0].tolist()
        assert chat().read(written, first.tools).canonical == given.corrected_S[turn.index]
        own = first.segments[turn.segment].tokens_T[: turn.start]
        np.testing.assert_array_equal(segment.tokens_T[: turn.start], own)


@pytest.mark.parametrize(
    "answer",
    [
        said(""),
        said(None, ("no_such_tool", {})),
        said("cut", finish="length"),
        said("no", finish="content_filter"),
        said(None, ("pay", '{"amount": ')),
    ],
)
def test_an_answer_that_is_no_action_skips_the_turn_and_is_counted(serve: Serve, answer: dict[str, Any]) -> None:
    server = serve(lambda asked: answer if len(asked["messages"]) == 2 else said("17"))
    teacher = of(server)
    given = teacher.annotate(played()[:1])[0]
    assert given.skip_S.tolist() == [True] + [False] * (len(played()[0].turns) - 1)
    assert given.corrected_S[0] is None
    told = teacher.metrics()
    assert told["skipped"] == 1
    assert told["requests"] == len(played()[0].turns)
    assert teacher.metrics()["skipped"] == teacher.metrics()["requests"] == 0


def test_a_question_that_is_refused_for_what_it_holds_is_skipped(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(lambda _: said("17"))
    server.faults.append(400)
    teacher = of(server, in_flight=1)
    given = teacher.annotate(played()[:1])[0]
    assert given.skip_S.tolist() == [True] + [False] * (len(played()[0].turns) - 1)
    assert "refused with 400" in caplog.text
    assert "this is skipped" in caplog.text
    server.faults.extend([400] * 99)
    with pytest.raises(TeacherError, match="refused with 400"):
        of(server).annotate(played()[:1])


def test_a_prompt_replaces_the_system_message(serve: Serve) -> None:
    server = serve(lambda _: said("17"))
    of(server, prompt="{instructions}\nYou know: {facts}").annotate(
        [replace(played()[0], privileged={"total": 17, "why": "so"})]
    )
    system = server.asked[0]["messages"][0]
    assert system == {"role": "system", "content": f"{played()[0].opening[0]['content']}\nYou know: total: 17\nwhy: so"}
    bare = replace(played()[0], opening=played()[0].opening[1:])
    of(server).annotate([bare])
    assert server.asked[-1]["messages"][0]["role"] == "user"


def test_where_saves_requests_and_failed_episodes_cost_nothing(serve: Serve) -> None:
    server = serve(lambda _: said("17"))
    given = of(server, where=Where(max_turn=0)).annotate([played()[0], episode("..0.1", failed=True)])
    assert len(server.asked) == 1
    assert given[0].skip_S.tolist() == [False] + [True] * (len(played()[0].turns) - 1)
    assert given[1].skip_S.all()


def test_episodes_are_asked_about_when_they_are_over_and_once(serve: Serve) -> None:
    server = serve(lambda _: said("17"))
    teacher = of(server)
    for trajectory in played():
        teacher.begin(trajectory)
    given = teacher.annotate(played())
    assert len(server.asked) == sum(len(one.turns) for one in played())
    assert not teacher.begun
    assert given == of(server).annotate(played())


def test_a_run_that_goes_on_pays_for_nothing_twice(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda _: said("17"))
    prices = {"input": 1.0, "output": 10.0}
    first = made(server, folder=tmp_path, prices=prices)
    given = first.annotate(played())
    count = len(server.asked)
    again = made(server, folder=tmp_path, prices=prices, cap={"requests": count})
    assert again.annotate(played()) == given
    assert len(server.asked) == count
    assert (
        again.spending()
        == first.spending()
        == (
            f"{count} requests, {100 * count} prompt and {10 * count} completion tokens, cost {2e-4 * count:.4g} by the prices given"
        )
    )
    assert again.metrics()["requests"] == 0
    with pytest.raises(SpentError, match=rf"^teachers\.judge\.cap\.requests={count}: reached by {count} requests, "):
        annotate({"judge": again}, played(seed=4, episodes=1))
    assert len(server.asked) == count


def made(server: Talking, folder: Path | None = None, **settings: Any) -> Any:
    """As a configuration makes it, its settings checked."""
    choice = OneOf("teacher", TEACHERS).validate({"kind": "openai", "url": server.base, **settings})
    return choice.function(lent(folder), **choice.settings)


# Soft labels.


def spelt(ids: list[int]) -> list[str]:
    table = spelling(chat().tokenizer)
    return [(table[i] or b"").decode() for i in ids]


def soft_reply(action: str, **odd: str) -> dict[str, Any]:
    """An answer whose tokens are the student's, each with one alternative."""
    tokens = [odd.get(one, one) for one in spelt(chat().write(played()[0].opening, action, ()))]
    return said(
        action,
        logprobs=likely(*((one, {one: math.log(0.5), "a": math.log(0.25), "€": math.log(0.2)}) for one in tokens)),
    )


@pytest.mark.parametrize("ends", [True, False])
def test_soft_labels_stand_where_the_tokens_are_the_students(serve: Serve, ends: bool, tmp_path: Path) -> None:
    answer = soft_reply("Pay 17.")
    if not ends:
        answer["choices"][0]["logprobs"]["content"].pop()
    server = serve(lambda _: answer)
    teacher = of(server, top_logprobs=3, where=Where(max_turn=0))
    (record,) = annotate({"judge": teacher}, played()[:1])
    (given,) = record.annotations
    assert server.asked[0]["top_logprobs"] == 3
    assert server.asked[0]["logprobs"] is True
    (segment,) = given.segments
    acted = np.flatnonzero(segment.turn_T >= 0)
    acted = acted if ends else acted[:-1]
    np.testing.assert_array_equal(given.index_N, acted)
    assert set(given.segment_N.tolist()) == {len(played()[0].segments)}
    assert isinstance(given.block, Sparse)
    alternative = chat().tokenizer.convert_tokens_to_ids("a")
    assert given.block.ids_N_K.tolist() == [[int(i), alternative, -1] for i in segment.tokens_T[acted]]
    np.testing.assert_allclose(np.exp(given.block.logprob_N_K), [[0.5, 0.25, 0.0]] * len(acted), atol=1e-6)
    np.testing.assert_allclose(np.exp(given.block.logtail_N), 0.25, rtol=1e-6)
    np.testing.assert_allclose(given.taken_logprob_N, math.log(0.5), rtol=1e-6)
    entropy = -0.5 * math.log(0.5) - 2 * 0.25 * math.log(0.25)
    np.testing.assert_allclose(given.entropy_N, entropy, rtol=1e-6)
    method = {"target": {"kind": "distribution", "name": "judge"}, "where": {"source": "corrected", "actor": []}, "support": {"kind": "top_k", "k": 3}}  # fmt: skip
    rows = Rows.of([record])
    assert np.array_equal(
        np.flatnonzero(rows.teachers["judge"].covered_A), np.flatnonzero(rows.corrected_A)[: len(acted)]
    )
    (batch,) = cut(prepare(Objective.model_validate(method), rows, Clock(0, 1)), max_tokens=10_000)
    assert len(batch.row_A) == len(acted)
    records.RecordWriter(tmp_path / "records").write(0, [record])
    assert list(records.open(tmp_path / "records")) == [record]
    told = teaching_metrics({"judge": teacher}, [record])
    assert told["teacher/judge/corrected"] == 1
    assert told["teacher/judge/turns"] == 1 / len(played()[0].turns)
    assert told["teacher/judge/unmapped"] == 0
    assert 0 < told["teacher/judge/tokens"] < 1


def test_other_tokens_leave_a_hard_correction(serve: Serve) -> None:
    server = serve(lambda _: soft_reply("Pay 17.", **{"1": "17", "7": ""}))
    teacher = of(server, top_logprobs=2, where=Where(max_turn=0))
    given = teacher.annotate(played()[:1])[0]
    assert given.corrected_S[0] == "Pay 17."
    assert len(given.segments) == 1
    assert len(given.segment_N) == 0
    assert teacher.metrics()["unmapped"] == 1


def test_a_soft_correction_that_is_too_long_goes_with_its_rows(serve: Serve) -> None:
    server = serve(lambda asked: soft_reply("Pay 17." if len(asked["messages"]) == 2 else "Pay."))
    teacher = of(server, top_logprobs=2, where=Where(max_turn=1))
    limit = len(chat().write(played()[0].opening, "Pay 17.", ())) - 1
    (record,) = annotate({"judge": teacher}, played()[:1], limit)
    (given,) = record.annotations
    assert given.skip_S[:2].tolist() == [True, False]
    (segment,) = given.segments
    np.testing.assert_array_equal(given.index_N, np.flatnonzero(segment.turn_T >= 0))
    assert set(given.segment_N.tolist()) == {len(played()[0].segments)}
    assert len(given.block.ids_N_K) == len(given.entropy_N) == len(given.index_N)  # type: ignore[union-attr]
    Rows.of([record])


# Scores.


@pytest.mark.parametrize(
    ("content", "score"),
    [("7", 7), (" 7.\n", 7), ("**8**", 8), ("10/10", 10), ("Score: 3", 3), ("7 out of 10", 7), ("7.5", 7.5), ("0", 0),
     ("It does little.\nScore: 4/10", 4), ("<think>9 or 2\n</think>\n\n6", 6)],
)  # fmt: skip
def test_a_number_is_a_score(content: str, score: float) -> None:
    assert score_of(of_text(content)) == Score(score)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "good",
        "11",
        "-3",
        "\u22123",
        "7 or 8",
        "8/100",
        "1. fine\n2.",
        "10 is too much",
        "seven",
        "100",
        "3-4",
        "1e1",
    ],
)
def test_anything_else_is_none(content: str) -> None:
    assert score_of(of_text(content)) is None
    assert score_of(of_text("10"), best=9) is None
    assert score_of(of_text("7/10"), best=9) is None
    assert score_of(of_text("7/9"), best=9) == Score(7)


def of_text(content: str, *tokens: tuple[str, dict[str, float]], finish: str = "stop") -> Any:
    from agentopd.serving.chat import _answer_of

    return _answer_of(said(content, finish=finish, logprobs=likely(*tokens) if tokens else None))


def logs(**p: float) -> dict[str, float]:
    return {name.strip("_"): math.log(value) for name, value in p.items()}


def test_the_mean_and_spread_of_a_score_by_hand() -> None:
    seven = of_text("7", ("7", logs(_7=0.6, _9=0.2, _a=0.1)), ("<end>", {}))
    mean = (7 * 0.6 + 9 * 0.2) / 0.8
    spread = math.sqrt((0.6 * (7 - mean) ** 2 + 0.2 * (9 - mean) ** 2) / 0.8)
    assert score_of(seven) == Score(pytest.approx(mean), pytest.approx(spread))  # type: ignore[arg-type]
    labelled = of_text(
        "Score: 7", ("Score", {}), (":", {}), (" 7", logs(_7=0.1) | {" 7": math.log(0.4), " 8": math.log(0.5)})
    )
    assert score_of(labelled) == Score(pytest.approx(7.5), pytest.approx(0.5))  # type: ignore[arg-type]


@pytest.mark.parametrize(("content", "second"), [("10", "0"), ("1", "<end>")])
def test_a_ten_in_two_tokens_shares_the_mass_of_the_one(content: str, second: str) -> None:
    answer = of_text(content, ("1", logs(_1=0.5, _9=0.5)), (second, {"0": math.log(0.8), "<end>": math.log(0.2)}))
    mean = 0.5 * 9 + 0.4 * 10 + 0.1 * 1
    found = score_of(answer)
    assert found is not None
    assert found.value == pytest.approx(mean)
    assert found.spread == pytest.approx(
        math.sqrt(0.5 * (9 - mean) ** 2 + 0.4 * (10 - mean) ** 2 + 0.1 * (1 - mean) ** 2)
    )


def test_tokens_of_another_text_say_nothing() -> None:
    assert score_of(of_text("7", ("thinking", {}), ("7", logs(_7=1.0)))) == Score(7.0)


def test_every_turn_has_a_score_and_an_answer_that_is_none_is_asked_again_once(serve: Serve) -> None:
    trajectory = played()[0]

    def reply(asked: dict[str, Any]) -> dict[str, Any]:
        if trajectory.turns[0].action not in asked["messages"][0]["content"].partition("Its next action is:")[2]:
            return said("5")
        return said("fine" if len(asked["messages"]) == 1 else "8")

    server = serve(reply)
    teacher = of(server, ask="score", rubric="Be kind.")
    given = teacher.annotate([trajectory])[0]
    np.testing.assert_allclose(given.reward_S, [0.8] + [0.5] * (len(trajectory.turns) - 1), rtol=1e-6)
    assert not given.skip_S.any()
    assert not teacher.corrects
    assert len(server.asked) == len(trajectory.turns) + 1
    again = next(one["messages"] for one in server.asked if len(one["messages"]) == 3)
    assert again[1] == {"role": "assistant", "content": "fine"}
    assert "Be kind." in again[0]["content"]
    assert trajectory.opening[1]["content"] in again[0]["content"]
    assert "tools" not in server.asked[0]


def test_a_turn_without_a_score_is_skipped_never_made_up(serve: Serve) -> None:
    server = serve(lambda _: said("7", finish="length"))
    teacher = of(server, ask="score")
    given = teacher.annotate(played()[:1])[0]
    assert given.skip_S.all()
    assert np.isnan(given.reward_S).all()
    assert teacher.metrics()["skipped"] == len(played()[0].turns)


def test_the_score_of_an_episode_stands_on_its_last_turn(serve: Serve) -> None:
    server = serve(lambda _: said("7", logprobs=likely(("7", logs(_7=0.4, _8=0.4) | {"10": math.log(0.2)}))))
    trajectory = played()[0]
    teacher = of(server, ask="score", of="episode", rescale=False, top_logprobs=5, best=9)
    given = teacher.annotate([trajectory])[0]
    assert given.reward_S[-1] == 7.5
    assert np.isnan(given.reward_S[:-1]).all()
    assert not given.skip_S.any()
    assert len(server.asked) == 1
    assert trajectory.turns[-1].action in asks(server)
    assert teacher.metrics()["spread"] == pytest.approx(0.5)
    assert "spread" not in teacher.metrics()
    told = teaching_metrics({"judge": teacher}, annotate({"judge": teacher}, [trajectory]))
    assert told["teacher/judge/reward"] == 7.5
    assert told["teacher/judge/turns"] == 1.0


# Preferences.


def rivals(*actions: str, task: int = 0) -> list[Trajectory]:
    """Episodes of one task, each of one turn."""
    plain = [episode("..0", seed=i) for i in range(len(actions))]
    return [
        replace(one, task=replace(one.task, seed=task), turns=(replace(one.turns[0], text=action, action=action),))
        for one, action in zip(plain, actions, strict=True)
    ]


def preferring(first_wins: Callable[[str, str], str]) -> Reply:
    def reply(asked: dict[str, Any]) -> dict[str, Any]:
        text = asked["messages"][0]["content"]
        first = text.partition("A:\n")[2].partition("\n\nB:")[0]
        second = text.partition("B:\n")[2].partition("\n\nWhich")[0]
        return said(first_wins(first, second))

    return reply


def test_the_better_action_wins_in_both_orders(serve: Serve) -> None:
    server = serve(preferring(lambda first, second: "A" if first > second else "B."))
    batch = [*rivals("1", "2", "3", "2"), *rivals("9", task=7)]
    given = of(server, ask="preference").annotate(batch)
    np.testing.assert_allclose([one.reward_S[0] for one in given], [-1.0, 0.0, 1.0, 0.0, np.nan], atol=1e-6)
    assert [bool(one.skip_S[0]) for one in given] == [False, False, False, False, True]
    assert len(server.asked) == 6  # three pairs of different actions, in both orders


def test_a_preference_for_a_place_is_a_tie(serve: Serve) -> None:
    given = of(serve(preferring(lambda first, second: "A")), ask="preference").annotate(rivals("1", "2"))
    assert [one.reward_S[0] for one in given] == [0.0, 0.0]


def test_an_answer_that_is_neither_drops_the_pair(serve: Serve) -> None:
    teacher = of(serve(preferring(lambda first, second: "Both are bad")), ask="preference")
    given = teacher.annotate(rivals("1", "2"))
    assert all(one.skip_S.all() for one in given)
    assert teacher.metrics()["skipped"] == 2


def test_a_turn_meets_as_many_rivals_as_it_may(serve: Serve) -> None:
    server = serve(preferring(lambda first, second: "A" if first > second else "B"))
    given = of(server, ask="preference", pairs=1).annotate(rivals("1", "2", "3"))
    assert [one.reward_S[0] for one in given] == [-1.0, -1.0, 1.0]  # each against the next
    assert len(server.asked) == 6


def test_only_turns_at_the_same_state_are_rivals(serve: Serve) -> None:
    server = serve(preferring(lambda first, second: "A"))
    one, other = played()[0], played()[1]
    shared = replace(one, key=replace(one.key, index=9))
    given = of(server, ask="preference").annotate([one, other, shared])
    assert given[1].skip_S.all()
    assert given[0].reward_S.tolist() == given[2].reward_S.tolist() == [0.0] * len(one.turns)
    assert not server.asked  # the same action is a tie


# What it is, before it is made.


@pytest.mark.parametrize(
    ("settings", "corrects", "distributes", "rewards"),
    [
        ({}, True, False, False),
        ({"top_logprobs": 5}, True, True, False),
        ({"ask": "score", "top_logprobs": 5}, False, False, True),
        ({"ask": "preference"}, False, False, True),
    ],
)
def test_its_traits_are_those_of_its_question(
    settings: dict[str, Any], corrects: bool, distributes: bool, rewards: bool
) -> None:
    traits = traits_of(OneOf("teacher", TEACHERS).validate({"kind": "openai", "url": "http://here", **settings}))
    assert (traits.corrects, traits.distributes, traits.rewards) == (corrects, distributes, rewards)


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"url": "here:8000"}, r"^teachers\.judge\.url='here:8000': give an address"),
        ({"url": "https://me:s3cret@here/v1"}, r"^teachers\.judge\.url=\.\.\.: an address with a name or a key in it"),
        ({"key_env": "NO_SUCH_KEY"}, r"^teachers\.judge\.key_env=NO_SUCH_KEY: this environment variable is not set"),
        ({"prompt": "{conversatoin}", "ask": "score"}, r"^teachers\.judge\.prompt=.*there are: \{conversation\}, \{action\}"),
        ({"options": {"n": 2}}, r"^teachers\.judge\.options=.*: n is said by the teacher itself; leave it out"),
        ({"cap": {"cost": 1.0}}, r"^teachers\.judge\.cap=\{'cost': 1\.0\}: .* set prices: \{input: \.\.\., output: \.\.\.\}"),
        ({"of": "episode"}, r"^teachers\.judge\.of=episode: only a score is given to an episode, and ask=correction"),
        ({"top_logprobs": 3, "temperature": 0.7}, r"^teachers\.judge\.top_logprobs=3: .* compared at 0\.7; set rollout\.temp"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], wrong: str) -> None:
    temperature = settings.pop("temperature", 1.0)
    choice = OneOf("teacher", TEACHERS).validate({"kind": "openai", "url": "http://127.0.0.1:9/v1", **settings})
    with pytest.raises(ConfigError, match=wrong) as error:
        choice.function(lent(temperature=temperature), **choice.settings)
    assert "s3cret" not in str(error.value)
    examine = traits_of(choice).examine
    assert examine is not None
    with pytest.raises(ConfigError, match=wrong.replace(r"^teachers\.judge\.", "^")):  # before anything is fitted
        examine(Examined("judge", choice.settings, 100, temperature))


def test_a_wrong_key_is_told_before_anything_is_asked(serve: Serve) -> None:
    server = serve(lambda _: said("7"))
    server.faults.append(401)
    with pytest.raises(TeacherError, match="refused with 401"):
        of(server).annotate(played()[:1])


def test_calls_may_stand_in_blocks(serve: Serve) -> None:
    """What a server writes in blocks, without a parser, is as good."""
    text = 'So.\n<tool_call>\n{"name": "submit", "arguments": {"total": 1}}\n</tool_call>'
    given = of(serve(lambda _: said(text)), where=Where(max_turn=0)).annotate(played()[:1])[0]
    assert parse_action(str(given.corrected_S[0])).calls == (ToolCall("submit", {"total": 1}),)


def test_it_is_a_teacher(serve: Serve) -> None:
    teacher: Teacher = of(serve(lambda _: said("7")))
    assert teacher.model is None
    assert teacher.state() == {}
    assert context().folder is None
