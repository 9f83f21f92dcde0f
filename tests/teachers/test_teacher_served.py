import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from serving_cases import Served, serving
from teacher_cases import VOCAB, context, episode, tiny_llama

from agentopd import records
from agentopd.errors import ConfigError, TeacherError
from agentopd.objective.floor import FLOOR
from agentopd.serving.waiting import Patience, Waiting
from agentopd.teachers import annotate
from agentopd.teachers.local import local
from agentopd.teachers.served import ServedTeacher, served
from agentopd.types import Sampled, Sparse
from agentopd.where import Where

MODEL = tiny_llama(0)
EPISODES = [
    episode("...00..1", seed=1),
    episode("..0000.1", "....22", seed=2),
    episode("..00.11", seed=3, failed=True),
    episode(".0", seed=4),
]


@pytest.fixture
def server() -> Iterator[Served]:
    with serving(MODEL) as one:
        yield one


def teacher_of(server: Served, t: float = 1.0, **settings: Any) -> ServedTeacher:
    given: dict[str, Any] = {"url": server.url, "patience": 5.0, **settings}
    made = served(context(temperature=t), **given)
    assert isinstance(made, ServedTeacher)
    return made


@pytest.mark.parametrize("top_k", [0, 5, -1])
def test_it_says_what_a_local_model_says(server: Served, top_k: int) -> None:
    wanted = local(context(model=MODEL), model="a-folder")
    for trajectory, own, other in zip(
        EPISODES, teacher_of(server, top_k=top_k).annotate(EPISODES), wanted.annotate(EPISODES), strict=True
    ):
        np.testing.assert_array_equal(own.segment_N, other.segment_N)
        np.testing.assert_array_equal(own.index_N, other.index_N)
        np.testing.assert_array_equal(own.skip_S, other.skip_S)
        np.testing.assert_allclose(own.taken_logprob_N, other.taken_logprob_N, atol=1e-5)
        if top_k == 0:
            assert isinstance(own.block, Sampled)
            assert np.isnan(own.entropy_N).all()
            continue
        assert isinstance(own.block, Sparse)
        logq_N_V = torch.log_softmax(wanted.heads["teacher"].logits(other.block.hidden_N_H), -1)  # type: ignore[union-attr]
        best = logq_N_V.topk(VOCAB if top_k < 0 else top_k)
        if trajectory.failure is None:
            np.testing.assert_array_equal(own.block.ids_N_K, best.indices.numpy())
            np.testing.assert_allclose(own.block.logprob_N_K, best.values.numpy(), atol=1e-5)
        if top_k < 0:
            assert (own.block.logtail_N == FLOOR).all()
            np.testing.assert_allclose(own.entropy_N, other.entropy_N, atol=1e-4)
        else:
            assert (own.entropy_N <= other.entropy_N + 1e-5).all()
            tail_N = 1.0 - best.values.exp().sum(-1).numpy()
            np.testing.assert_allclose(np.exp(own.block.logtail_N), np.maximum(tail_N, 1e-7), atol=1e-5)


def test_the_whole_vocabulary_is_put_to_any_temperature(server: Served) -> None:
    own = teacher_of(server, t=0.7, top_k=-1).annotate(EPISODES)[0]
    other = local(context(model=MODEL, temperature=0.7), model="a-folder").annotate(EPISODES)[0]
    np.testing.assert_allclose(own.taken_logprob_N, other.taken_logprob_N, atol=1e-5)
    np.testing.assert_allclose(own.entropy_N, other.entropy_N, atol=1e-4)


def test_a_few_ids_at_another_temperature_are_refused(server: Served) -> None:
    with pytest.raises(ConfigError, match=r"teachers\.teacher\.temperature=1: .* at 0\.7; set top_k: -1"):
        teacher_of(server, t=0.7)
    teacher_of(server, t=0.7, temperature=0.7)


def test_where_saves_requests_and_rows(server: Served) -> None:
    teacher = teacher_of(server, where=Where(min_turn=2))
    said = teacher.annotate(EPISODES)
    assert len(server.questions) == 1
    assert said[1].segment_N.tolist() == [1, 1]
    assert said[1].skip_S.tolist() == [True, True, False]


def test_episodes_are_sent_when_they_are_over_and_once(server: Served) -> None:
    teacher = teacher_of(server)
    for trajectory in EPISODES[:2]:
        teacher.begin(trajectory)
    said = teacher.annotate(EPISODES)
    assert len(server.questions) == 4  # a view a segment, none of the failed episode
    assert not teacher.begun
    assert said == teacher_of(server).annotate(EPISODES)


def test_many_are_in_flight_and_never_more_than_allowed(server: Served) -> None:
    many = [episode("..0000.1", seed=seed) for seed in range(20)]
    teacher_of(server, in_flight=4).annotate(many)
    assert 2 <= server.most_at_once <= 4


@pytest.mark.parametrize(
    ("status", "settings", "remedy"),
    [
        (401, {}, "; set key_env to the name of an environment variable that holds the server's key$"),
        (403, {"key_env": "A_KEY"}, "; look at the key that the environment variable A_KEY holds$"),
    ],
)
def test_a_server_that_does_not_know_who_asks_is_told_from_one_that_gives_fewer_ids(
    status: int, settings: dict[str, Any], remedy: str, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "s3cret")
    server.faults.append(status)
    with pytest.raises(TeacherError, match=rf"refused with {status}: .*as told.*{remedy}"):
        teacher_of(server, **settings)


@pytest.mark.parametrize("fault", [429, 500, 503, "half", "hang"])
def test_a_server_that_comes_back_is_waited_for(
    server: Served, fault: int | str, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = teacher_of(server)
    server.faults.extend([fault, fault])
    with caplog.at_level(logging.WARNING):
        said = teacher.annotate(EPISODES)
    assert said == teacher_of(server).annotate(EPISODES)
    assert server.url in caplog.text


def test_a_late_answer_is_asked_for_again(server: Served) -> None:
    teacher = teacher_of(server, timeout=0.2)
    server.faults.append("late")
    assert teacher.annotate(EPISODES) == teacher_of(server).annotate(EPISODES)


@pytest.mark.parametrize(("fault", "said"), [("nan", "log-probability of nan"), ("drop", "without the token")])
def test_an_answer_that_cannot_be_is_an_error_that_names_the_server(server: Served, fault: str, said: str) -> None:
    teacher = teacher_of(server)
    server.faults.extend([fault] * 9)
    with pytest.raises(TeacherError, match=rf"teacher 'teacher': http://127.*{said}"):
        teacher.annotate(EPISODES)


def test_a_server_that_stays_away_is_an_error_that_names_it(server: Served) -> None:
    teacher = teacher_of(server, patience=0.3)
    server.faults.extend([503] * 99)
    with pytest.raises(
        TeacherError, match=r"teacher 'teacher': http://127.*answered 503.*over 0\.3 seconds; start the server"
    ):
        annotate({"teacher": teacher}, EPISODES)


def test_nobody_who_leaves_waits_for_a_server(server: Served) -> None:
    before = set(threading.enumerate())
    teacher = teacher_of(server)
    server.faults.append("late")
    teacher.begin(EPISODES[0])
    own = {thread for thread in set(threading.enumerate()) - before if "process_request" not in thread.name}
    assert len(own) >= 32
    assert all(thread.daemon for thread in own)


def test_what_refuses_is_not_asked_again(server: Served) -> None:
    teacher = teacher_of(server)
    server.faults.append(400)
    with pytest.raises(TeacherError, match="refused with 400"):
        teacher.annotate(EPISODES[:1])


def test_a_restarted_server_with_other_weights_is_found_out(server: Served) -> None:
    teacher = teacher_of(server)
    server.model = tiny_llama(1)
    server.faults.append(503)
    with pytest.raises(TeacherError, match="is another model than before"):
        teacher.scorer.score([1, 2, 3], [2])


def test_one_that_was_restarted_while_nobody_asked_is_found_out_too(server: Served) -> None:
    teacher = teacher_of(server)
    teacher.annotate(EPISODES)
    server.model = tiny_llama(1)
    with pytest.raises(TeacherError, match=r"teacher 'teacher': http://127.* is another model than before.* differ by"):
        teacher.annotate(EPISODES)


def test_a_resumed_run_asks_the_model_that_it_asked_before(server: Served) -> None:
    state = teacher_of(server).state()
    teacher_of(server).restore(json.loads(json.dumps(state)))
    teacher_of(server).restore({})  # of a checkpoint that kept nothing
    server.model = tiny_llama(1)
    with pytest.raises(TeacherError, match=r"is another model than before.* or begin a new run"):
        teacher_of(server).restore(state)
    with pytest.raises(TeacherError, match="differ by inf"):
        teacher_of(server).restore({"answer": state["answer"][1:]})


def test_a_server_that_answers_differently_the_second_time_is_refused_before_anything_is_learned(
    server: Served,
) -> None:
    server.faults.extend(["as it is", "shift"])
    with pytest.raises(TeacherError, match=r"answers the same question differently: .* differ by 0\.1 on average"):
        teacher_of(server)


def test_the_key_is_sent_and_never_told(
    server: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("A_KEY", "s3cret")
    teacher = teacher_of(server, key_env="A_KEY", patience=0.2)
    server.faults.extend([503] * 99)
    with pytest.raises(TeacherError) as error:
        teacher.annotate(EPISODES)
    assert set(server.authorized) == {"Bearer s3cret"}
    assert "s3cret" not in str(error.value) + caplog.text + repr(teacher)
    with pytest.raises(ConfigError, match=r"teachers\.teacher\.key_env=NO_KEY: this environment variable is not set"):
        teacher_of(server, key_env="NO_KEY")
    places: list[dict[str, Any]] = [
        {"key_env": "sk-s3cret"},
        {"url": "http://me:s3cret@here"},
        {"url": "http://here/?key=s3cret"},
    ]
    for settings in places:
        with pytest.raises(ConfigError, match=r"=\.\.\.: .* key") as refused:
            teacher_of(server, **settings)
        assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("said", ["a/{}", '{{"key": "a\\/{}"}}', "/?key=a%2F{}&more", '"a/{}\\\\'])
def test_a_server_that_repeats_the_key_in_another_form_is_not_repeated(
    said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "a/s3cret")
    waiting = Waiting("teacher", "http://here", Patience(1.0, 0.0), "A_KEY")
    told = waiting.hidden(said.format("s3cret"))
    assert "s3cret" not in told
    assert "***" in told


def test_another_name_than_it_serves_is_refused(server: Served) -> None:
    with pytest.raises(ConfigError, match=r"teachers\.teacher\.model='tinny': .*did you mean 'tiny'.*it serves: tiny"):
        teacher_of(server, model="tinny")


def test_more_ids_than_the_server_gives_are_refused(server: Served) -> None:
    server.faults.append(400)
    with pytest.raises(ConfigError, match=r"^teachers\.teacher\.top_k=5: .*refused with 400.*--max-logprobs 5$"):
        teacher_of(server, top_k=5)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"teachers\.teacher\.url='localhost:8000'"):
        served(context(), url="localhost:8000")
    with pytest.raises(ConfigError, match=r"teachers\.teacher\.url=http://localhost:8000/v1/?: leave /v1 out"):
        served(context(), url="http://localhost:8000/v1")


def test_episodes_longer_than_it_reads_are_skipped(server: Served, caplog: pytest.LogCaptureFixture) -> None:
    long = episode("." * 130 + "0", seed=9)
    short, skipped = teacher_of(server).annotate([EPISODES[0], long])
    assert len(short.segment_N)
    assert skipped.skip_S.all()
    assert "reads at most 127" in caplog.text


def test_a_record_of_it_is_read_back_equal(server: Served, tmp_path: Path) -> None:
    kept = annotate({"teacher": teacher_of(server)}, EPISODES)
    records.RecordWriter(tmp_path / "records").write(0, kept)
    assert list(records.open(tmp_path / "records")) == kept
