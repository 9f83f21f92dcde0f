"""Hints of what is known once an episode is over, and of what is the same in all of them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from agentopd.chat import Chat, Hint
from agentopd.errors import ConfigError
from agentopd.forward import hidden_states
from agentopd.freezing import initial
from agentopd.models import NewModel, build_tokenizer, head_of, new_model
from agentopd.records import RecordWriter
from agentopd.rollout import Assignment, Request, Rollout, ScriptedPolicy, collect
from agentopd.settings.parts import OneOf
from agentopd.teachers import TEACHERS, Teacher, build_teachers
from agentopd.teachers.hindsight import Hindsight, feedback, transcript
from agentopd.teachers.hints import Shown, hint_of, shows_sibling
from agentopd.teachers.views import hinted_views, own_view
from agentopd.tooling import call
from agentopd.types import Key, Message, Outcome, Record, Task, Trajectory, Turn

ROLLOUT = Rollout(max_turns=4, max_new_tokens=40, max_length=900)
NEXT = "Next comes: {next_observation}"
WORDS = ["What do 3 pears and 2 plums cost? submit total calculate expression price item 0123456789 Next comes"]


@cache
def chat() -> Chat:
    return Chat(build_tokenizer(WORDS, 500))


@cache
def small() -> PreTrainedModel:
    shape = NewModel(hidden_size=16, layers=2, heads=2, intermediate_size=24, max_positions=2048)
    return new_model(shape, chat().tokenizer, 3)


def play(seeds: Sequence[int], settings: Rollout = ROLLOUT) -> list[Trajectory]:
    """Looks up something, says something odd, then calculates."""

    def act(request: Request) -> Sequence[int]:
        text = [call("price", item="pears"), "hm", call("calculate", expression="3*4")][len(request.tokens) % 3]
        return [*chat().tokenizer.encode(text, add_special_tokens=False), chat().end_of_turn]

    tasks = [Task("agentopd/Checkout-v0", seed=seed) for seed in seeds]
    assignments = [Assignment(task, Key("run", 0, i), "student", i, "fresh") for i, task in enumerate(tasks)]
    return collect(assignments, {"student": ScriptedPolicy(act)}, chat(), settings)


def won(trajectory: Trajectory, **changes: Any) -> Trajectory:
    return replace(trajectory, outcome=Outcome(1.0, True, "terminated"), **changes)


def built(hint: Any, **settings: Any) -> Teacher:
    choice = OneOf("teacher", TEACHERS).validate({"kind": "privileged", "hint": hint} | settings)
    return build_teachers({"t": choice}, chat(), lambda _: small(), 1.0, lambda: initial(small()))["t"]


def text(tokens: Any) -> str:
    return str(chat().tokenizer.decode(tokens))


def turn(index: int, action: str, *said: str, errors: tuple[str, ...] = ()) -> Turn:
    messages: list[Message] = [{"role": "tool", "content": one} for one in said]
    return Turn(index, "student", 0, 0, 0, action, action, observations=tuple(messages), errors=errors)


def by_hand(success: bool) -> Trajectory:
    turns = (
        turn(0, "look", "a door"),
        turn(1, "fly", "no such tool", errors=("unknown_tool",)),
        turn(2, "open", "1", "2"),
    )
    outcome = Outcome(float(success), success, "terminated")
    return Trajectory(Key("r", 0, 0), Task("e", 0), ("student",), (), turns, outcome)


def test_an_episode_as_text() -> None:
    assert transcript(by_hand(True)) == "look\na door\nfly\nno such tool\nopen\n1\n2"


def test_feedback_is_what_was_said_of_bad_actions_and_the_end() -> None:
    assert feedback(by_hand(True)) == "Turn 2: no such tool\n1\n2\nThe attempt succeeded."
    assert feedback(by_hand(False)).endswith("\nThe attempt failed.")


def test_of_each_turn_what_came_back_is_shown_behind_the_last_message_before_it_and_nowhere_else() -> None:
    [trajectory] = play([0])
    views = hinted_views(trajectory, 0, chat=chat(), hint=Hint(NEXT))
    own = own_view(trajectory, 0)
    assert len(views) == len(trajectory.turns) == 4
    for view, one in zip(views, trajectory.turns, strict=True):
        came = "\n".join(message["content"] for message in one.observations)
        shown = text(view.tokens_T)
        assert shown.count("Next comes: ") == 1
        np.testing.assert_array_equal(
            view.tokens_T[view.position_A], trajectory.segments[0].tokens_T[one.start : one.stop]
        )
        # without the hint it is what the student saw and did
        assert shown.replace(f"\n\nNext comes: {came}", "") == text(own.tokens_T[: one.stop])
        if one.index:  # what the student saw before its last observation is there token by token
            kept = trajectory.turns[one.index - 1].stop
            np.testing.assert_array_equal(view.tokens_T[:kept], own.tokens_T[:kept])
    covered = np.concatenate([view.index_A for view in views])
    np.testing.assert_array_equal(covered, own.index_A)


def test_a_forked_past_is_shown_likewise() -> None:
    length = max(turn.start for turn in play([0])[0].turns) + 30
    settings = ROLLOUT.model_copy(update={"on_overflow": "drop_oldest", "max_length": length})
    [trajectory] = play([0], settings)
    assert len(trajectory.segments) > 1
    for number, segment in enumerate(trajectory.segments):
        for view in hinted_views(trajectory, number, chat=chat(), hint=Hint(NEXT)):
            assert text(view.tokens_T).count("Next comes") == 1
            np.testing.assert_array_equal(view.tokens_T[view.position_A], segment.tokens_T[view.index_A])


def test_what_is_said_by_turn_is_the_models_distribution_there() -> None:
    [trajectory] = play([0])
    [said] = built(NEXT, where={"min_turn": 1}).annotate([trajectory])
    assert said.skip_S.tolist() == [True, False, False, False]
    expected = []
    for view in hinted_views(trajectory, 0, chat=chat(), hint=Hint(NEXT))[1:]:
        hidden_T_H = hidden_states(small(), torch.from_numpy(view.tokens_T[None].astype(np.int64)))[0]
        logq_A_V = head_of(small()).logits(hidden_T_H[view.position_A - 1]).log_softmax(-1)
        expected += logq_A_V[range(len(view.position_A)), view.tokens_T[view.position_A]].tolist()
    np.testing.assert_allclose(said.taken_logprob_N, expected, rtol=1e-4, atol=1e-5)


def test_a_turn_for_which_nothing_came_back_is_skipped() -> None:
    [trajectory] = play([0])
    last = replace(trajectory.turns[-1], observations=())
    [said] = built(NEXT).annotate([replace(trajectory, turns=(*trajectory.turns[:-1], last))])
    assert said.skip_S.tolist() == [False, False, False, True]


def test_a_turn_before_which_nothing_was_said_has_no_place_for_it() -> None:
    """The hint would stand among the student's own words."""
    [played] = play([0])
    first, *others = played.turns
    silent = replace(played, turns=(replace(first, observations=()), *others))
    said, whole = built(NEXT).annotate([silent, played])
    assert not whole.skip_S[:3].any()
    assert said.skip_S[:3].tolist() == [True, True, False]


def test_a_sibling_is_another_episode_of_the_task_that_succeeded() -> None:
    first, second, other, failed = play([0, 0, 1, 0])
    batch = [first, won(second), won(other), failed]
    told = Hindsight(Hint("It was done so:\n{sibling}")).tell(batch)
    assert ["sibling" in one.privileged for one in told] == [True, False, False, True]
    assert told[0].privileged["sibling"] == told[3].privileged["sibling"] == transcript(second)
    assert [one.privileged for one in batch] == [one.privileged for one in play([0, 0, 1, 0])]


@pytest.mark.parametrize(
    ("hint", "shows"),
    [("{sibling}", True), ("{{{sibling}}}", True), ("{{sibling}} {answer}", False), ("{sibling", False)],
)
def test_a_sibling_is_named_as_the_hint_reads_it(hint: str, shows: bool) -> None:
    assert shows_sibling(hint) == shows == shows_sibling(Shown(text=hint))


def test_without_a_sibling_nothing_is_said_and_nothing_is_wrong() -> None:
    teacher = built("It was done so:\n{sibling}")
    episodes = play([0, 0])
    assert all(said.skip_S.all() for said in teacher.annotate(episodes))
    first, second = teacher.annotate([episodes[0], won(episodes[1])])
    assert not first.skip_S.any()
    assert second.skip_S.all()


def test_a_demonstration_is_a_recorded_episode_of_the_task_that_succeeded_and_never_the_episode_itself(
    tmp_path: Path,
) -> None:
    good, bad, elsewhere = play([0, 1, 2])
    RecordWriter(tmp_path / "records").write(0, [Record(won(good)), Record(bad), Record(won(elsewhere))])
    shown = Hindsight(hint_of(Shown(text="See: {demonstration}", demonstrations=str(tmp_path))))
    again = [replace(one, key=Key("later", 1, i)) for i, one in enumerate(play([0, 1, 2, 3]))]
    told = shown.tell(again)
    assert ["demonstration" in one.privileged for one in told] == [True, False, True, False]
    assert told[0].privileged["demonstration"] == transcript(good)
    [itself] = shown.tell([replace(again[0], origin=good.key)])
    assert "demonstration" not in itself.privileged


def test_records_without_a_success_or_none_at_all_are_told(tmp_path: Path) -> None:
    lost = hint_of(Shown(text="{demonstration}", demonstrations=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match=r"hint.demonstrations=.*none.*give a run folder"):
        Hindsight(lost).tell(play([0]))
    RecordWriter(tmp_path / "records").write(0, [Record(play([0])[0])])
    with pytest.raises(ConfigError, match="no episode there succeeded; give records of an expert"):
        Hindsight(hint_of(Shown(text="{demonstration}", demonstrations=str(tmp_path)))).tell(play([0]))


def test_an_experience_stands_in_the_system_message(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("Look up prices first.\n", encoding="utf-8")
    text, files = "{who}. Learned before: {notes}", {"notes": str(tmp_path / "notes.md")}
    hint = hint_of(Shown(text=text, place="system", facts={"who": "An expert"}, files=files))
    asked: list[Message] = [{"role": "user", "content": "Begin."}]
    system: Message = {"role": "system", "content": "An expert. Learned before: Look up prices first."}
    assert hint.shown(asked, {}) == [system, *asked]
    given: Message = {"role": "system", "content": "Be brief."}
    assert hint.shown([given, *asked], {})[0]["content"] == f"Be brief.\n\n{system['content']}"
    assert Hint("Think twice.", place="system").shown(asked, {})[0]["content"] == "Think twice."


def test_all_facts_leave_hindsight_out() -> None:
    assert Hint("{facts} {sibling}").filled({"a": 1, "sibling": "so"}) == "a: 1 so"


def test_a_hint_of_hindsight_lets_nobody_act() -> None:
    assert built("{episode_feedback}").model is None
    assert built({"text": "{answer}"}).model is not None


@pytest.mark.parametrize(
    ("hint", "message"),
    [
        ({"text": "{a}", "facts": {"b": "x"}}, r"hint.facts.b: hint='{a}' does not show it; write {b}"),
        ({"text": "{sibling}", "facts": {"sibling": "x"}}, "hint.facts.sibling: this name already has a meaning"),
        (
            {"text": "{a}", "facts": {"a": "x"}, "files": {"a": "y"}},
            "hint.files.a: hint.facts has a fact of this name too",
        ),
        ({"text": "{a}", "files": {"a": "/none/there"}}, "hint.files.a=/none/there: it cannot be read"),
        ({"text": "{demonstration}"}, r"shows {demonstration} and names no records of them; set hint.demonstrations"),
        ({"text": "{a}", "demonstrations": "x"}, "does not show what hint.demonstrations=x holds"),
        ({"text": "nothing"}, "hint='nothing': it shows no fact"),
        (
            {"text": "{next_observation}", "place": "system"},
            r"^teachers\.\w+\.hint\.place=system: {next_observation} is another",
        ),
    ],
)
def test_what_does_not_go_together_is_told(hint: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        built(hint)


def test_an_unknown_key_of_a_hint_is_told_with_those_that_are_known() -> None:
    with pytest.raises(Exception, match="palce: unknown key"):
        OneOf("teacher", TEACHERS).validate({"kind": "privileged", "hint": {"text": "{a}", "palce": "system"}})
