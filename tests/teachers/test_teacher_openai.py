"""Teachers behind an API: what they ask, and what becomes of the answers, over real HTTP."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai_cases import Serve, chat, lent, of, played
from talking_cases import Talking, likely, said
from teacher_cases import context, episode

from agentopd import records
from agentopd.chat.token_bytes import TokenBytes
from agentopd.errors import ConfigError, TeacherError
from agentopd.objective import Objective, Rows, cut, prepare
from agentopd.serving import SpentError
from agentopd.settings.clock import Clock
from agentopd.settings.parts import OneOf
from agentopd.teachers import TEACHERS, Examined, Teacher, annotate, require_read, teaching_metrics, traits_of
from agentopd.teachers.openai import READ_BY
from agentopd.tooling.action import parse_action, render_action
from agentopd.types import Sparse, ToolCall
from agentopd.where import Where

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


def calling(call: Any) -> dict[str, Any]:
    """An answer that calls a tool in a form of its own."""
    answer = said(finish="tool_calls")
    answer["choices"][0]["message"]["tool_calls"] = [call]
    return answer


@pytest.mark.parametrize(
    "answer",
    [
        said(""),
        said(" \n"),
        said(None, ("no_such_tool", {})),
        said("cut", finish="length"),
        said("no", finish="content_filter"),
        said(None, ("pay", '{"amount": ')),
        *map(calling, [{"type": "custom", "custom": {"name": "pay"}}, {"type": "function", "function": None}, "pay"]),
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


def test_a_resumed_run_is_answered_by_the_model_that_answered_before(serve: Serve) -> None:
    server = serve(lambda _: said("17"))
    first = made(server)
    assert first.state() == {"model": None}
    first.annotate(played())
    again = made(server)
    again.restore(json.loads(json.dumps(first.state())))
    server.reply = lambda _: said("17") | {"model": "tiny-2"}
    with pytest.raises(TeacherError, match="answered as the model 'tiny-2', and before as 'tiny-1'"):
        again.annotate(played(seed=4, episodes=1))


def made(server: Talking, folder: Path | None = None, **settings: Any) -> Any:
    """As a configuration makes it, its settings checked."""
    choice = OneOf("teacher", TEACHERS).validate({"kind": "openai", "url": server.base, **settings})
    return choice.function(lent(folder), **choice.settings)


def test_what_fails_sends_nothing_more(serve: Serve) -> None:
    server = serve(lambda _: said("17"))
    teacher = of(server, in_flight=1)
    server.faults.extend([401] * 99)
    with pytest.raises(TeacherError, match="refused with 401"):
        teacher.annotate(played())
    assert teacher.threads.begin(int, "7").result() == 7  # the thread is free again
    assert len(server.asked) <= 2


# Soft labels.


def spelt(ids: list[int]) -> list[str]:
    table = TokenBytes(chat().tokenizer).of
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
        ({"url": "http://[::1/v1"}, r"^teachers\.judge\.url='http://\[::1/v1': give an address"),
        ({"options": {"x": float("nan")}}, r"^teachers\.judge\.options=\.\.\.: .*; give what JSON can hold"),
        ({"url": "https://me:s3cret@here/v1"}, r"^teachers\.judge\.url=\.\.\.: an address with a name or a key in it"),
        ({"url": "https://here/v1?api_key=s3cret"}, r"^teachers\.judge\.url=\.\.\.: an address with a name or a key in it"),
        ({"url": "https:/me:s3cret@here/v1"}, r"^teachers\.judge\.url=\.\.\.: an address with a name or a key in it"),
        ({"url": " https:///me:s3cret@here/v1"}, r"^teachers\.judge\.url=\.\.\.: an address with a name or a key in it"),
        ({"url": "https://me:s3c/s3cret@here/v1"}, r"^teachers\.judge\.url=\.\.\.: an address with a name or a key in it"),
        ({"url": "https://here/v1#s3cret"}, r"^teachers\.judge\.url=\.\.\.: an address with a name or a key in it"),
        ({"options": {"headers": "s3cret", "n": 2}}, r"^teachers\.judge\.options=\.\.\.: .* leave headers out, and give the key"),
        ({"options": {"Authorization": "s3cret"}}, r"^teachers\.judge\.options=\.\.\.: .* leave Authorization out, and give the key"),
        ({"options": {"metadata": [{"X-Api-Key": "s3cret"}], "n": 2}}, r"^teachers\.judge\.options=\.\.\.: .* leave X-Api-Key out, and give the key"),
        ({"url": "me:s3cret@here/v1"}, r"^teachers\.judge\.url=\.\.\.: an address with a name or a key in it"),
        ({"key_env": "sk-s3cret"}, r"^teachers\.judge\.key_env=\.\.\.: this is no environment variable .* not the key$"),
        ({"key_env": "gsk_s3cret"}, r"^teachers\.judge\.key_env=\.\.\.: this is no environment variable .* not the key$"),
        ({"options": {"extra_headers": {"Authorization": "s3cret"}}}, r"^teachers\.judge\.options=\.\.\.: .* leave extra_headers out, and give the key by key_env"),
        ({"key_env": "NO_SUCH_KEY"}, r"^teachers\.judge\.key_env=NO_SUCH_KEY: this environment variable is not set"),
        ({"prompt": "{conversatoin}", "ask": "score"}, r"^teachers\.judge\.prompt=.*there are: \{conversation\}, \{action\}"),
        ({"prompt": "How good is it?", "ask": "score"}, r"^teachers\.judge\.prompt=.*one score; name \{conversation\}, \{action\} or"),
        ({"prompt": "{first}?", "ask": "preference"}, r"^teachers\.judge\.prompt=.*name both \{first\} and \{second\}"),
        ({"options": {"n": 2}}, r"^teachers\.judge\.options=\.\.\.: n=2 is said by the teacher itself; leave n out"),
        ({"cap": {"cost": 1.0}}, r"^teachers\.judge\.cap=\{'cost': 1\.0\}: .* set prices: \{input: \.\.\., output: \.\.\.\}"),
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


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"of": "episode"}, "of=episode: only a score is given to an episode, and ask=correction"),
        ({"normalised": "group"}, "normalised=group: only scores are compared within a group, and ask=correction"),
        ({"ask": "score", "pairs": 2}, "pairs=2: only preferences have rivals, and ask=score"),
        ({"ask": "preference", "best": 5}, "best=5: only scores have a highest, and ask=preference"),
        ({"ask": "preference", "rescale": False}, "rescale=False: only scores are divided by the highest, and ask=preference"),
        ({"rubric": "Short."}, "rubric=Short.: only scores and preferences go by a rubric, and ask=correction"),
        ({"scale": 2.0}, "scale=2.0: only scores and preferences are rewards, and ask=correction"),
        ({"ask": "preference", "top_logprobs": 3}, "top_logprobs=3: only corrections and scores are made of log-probabilities, and ask=preference"),
        ({"ask": "score", "prompt": "{action}", "rubric": "Short."}, "rubric=Short.: the prompt does not show {rubric}"),
    ],
)  # fmt: skip
def test_what_a_question_does_not_read_is_refused(settings: dict[str, Any], wrong: str) -> None:
    choice = OneOf("teacher", TEACHERS).validate({"kind": "openai", "url": "http://127.0.0.1:9/v1", **settings})
    with pytest.raises(ConfigError, match=f"^{re.escape(f'teachers.judge.{wrong}; leave it out')}$"):
        require_read("judge", choice)


def test_which_question_reads_a_setting_is_on_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "teachers.md").read_text()
    table = page.partition("| setting | read by |\n|---|---|\n")[2].partition("\n\n")[0]
    named = [[re.findall("`(.*?)`", cell) for cell in row.strip("|").split("|")] for row in table.splitlines()]
    assert {name: tuple(by) for names, by in named for name in names} == {name: by for name, (by, _) in READ_BY.items()}


def test_what_is_read_or_is_the_default_is_taken() -> None:
    for ask in ("correction", "score", "preference"):
        own: dict[str, Any] = {name: value for name, value in OTHER.items() if ask in READ_BY[name][0]}
        given = {"kind": "openai", "url": "http://127.0.0.1:9/v1", "ask": ask, **own}
        require_read("judge", OneOf("teacher", TEACHERS).validate(given))


OTHER = {
    "of": "episode",
    "best": 5,
    "rescale": False,
    "normalised": "group",
    "rubric": "Short.",
    "scale": 2.0,
    "pairs": 2,
    "top_logprobs": 3,
}
"""A value of each setting that is not its default."""


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


@pytest.mark.parametrize(("arguments", "meant"), [({"total": 1}, {"total": 1}), (None, {})])
def test_arguments_may_be_an_object_or_missing(serve: Serve, arguments: Any, meant: dict[str, Any]) -> None:
    answer = calling({"function": {"name": "submit", "arguments": arguments}})
    given = of(serve(lambda _: answer), where=Where(max_turn=0)).annotate(played()[:1])[0]
    assert parse_action(str(given.corrected_S[0])).calls == (ToolCall("submit", meant),)


def test_it_is_a_teacher(serve: Serve) -> None:
    teacher: Teacher = of(serve(lambda _: said("7")))
    assert teacher.model is None
    assert teacher.state() == {"model": None}
    assert context().folder is None
