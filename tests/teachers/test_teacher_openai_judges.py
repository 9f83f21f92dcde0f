"""Teachers behind an API that judge: scores and preferences, over real HTTP."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai_cases import Serve, of, played
from talking_cases import Reply, Talking, likely, said
from teacher_cases import episode

from agentopd.serving import Cap, SpentError
from agentopd.teachers import annotate, teaching_metrics
from agentopd.teachers.judging import Score, score_of
from agentopd.types import Trajectory


def asks(server: Talking, turn: int = 0) -> str:
    """The text of the last message of a request."""
    return str(server.asked[turn]["messages"][-1]["content"])


def slowly(asked: dict[str, Any]) -> dict[str, Any]:
    time.sleep(0.2)
    return said("7")


def test_what_was_sent_before_the_cap_is_answered_and_kept(serve: Serve, tmp_path: Path) -> None:
    """Of episodes that it was asked about, and of those that only began."""
    server, (one, other) = serve(slowly), played(episodes=2)
    settings: dict[str, Any] = {"ask": "score", "in_flight": 8}
    judge = of(server, tmp_path, cap=Cap(requests=5), **settings)
    judge.begin(other)
    with pytest.raises(SpentError):
        judge.annotate([one])
    assert len(server.asked) == 5
    of(server, tmp_path, **settings).annotate([one, other])
    assert len(server.asked) == len(one.turns) + len(other.turns)


# Scores.


def test_an_answer_that_was_cut_in_an_emoji_is_asked_for_again(serve: Serve) -> None:
    """As half a surrogate, which no request can hold."""
    server = serve(lambda asked: said("\ud83d 7", finish="length" if len(asked["messages"]) == 1 else "stop"))
    (record,) = annotate({"judge": of(server, ask="score", of="episode")}, played(episodes=1))
    assert record.annotations[0].reward_S[-1] == pytest.approx(0.7)
    assert server.asked[-1]["messages"][1]["content"] == "\ufffd 7"


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
        "\u20133",
        "\u20143",
        "10%",
        "8 %",
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


def test_scores_within_the_episodes_of_a_task_by_hand(serve: Serve) -> None:
    """8 and 4 are one deviation above and below their mean; 6 of another task is alone."""
    scores = {"a": "8", "b": "4", "c": "6"}
    server = serve(lambda asked: said(scores[asked["messages"][0]["content"].partition("MARK ")[2][0]]))
    one, two = rivals("MARK a", "MARK b")
    [three] = rivals("MARK c", task=1)
    teacher = of(server, ask="score", of="episode", normalised="group", scale=2.0)
    given = [float(said.reward_S[0]) for said in teacher.annotate([one, two, three])]
    assert given == pytest.approx([2.0, -2.0, 0.0], abs=1e-3)


@pytest.mark.parametrize("of_what", ["turn", "episode"])
def test_scores_may_be_compared_within_the_episodes_of_a_task(serve: Serve, of_what: str) -> None:
    """The first is given 9, the second 3, and a turn of the third no score at all."""
    first = replace(played()[0], turns=played()[0].turns[:2])
    others = [
        replace(first, key=replace(first.key, index=i), opening=(*first.opening[:1], {"role": "user", "content": text}))
        for i, text in ((7, "Second"), (8, "Third"))
    ]

    def reply(asked: dict[str, Any]) -> dict[str, Any]:
        text = str(asked["messages"][0]["content"])
        return said("3" if "Second" in text else "none" if "Third" in text else "9")

    teacher = of(serve(reply), ask="score", of=of_what, normalised="group")
    given = [record.annotations[0] for record in annotate({"judge": teacher}, [first, *others])]
    column = [1.0, 1.0] if of_what == "turn" else [np.nan, 1.0]
    np.testing.assert_allclose(given[0].reward_S, column, rtol=1e-4)
    np.testing.assert_allclose(given[1].reward_S, -np.array(column), rtol=1e-4)
    assert given[2].skip_S.all()


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
