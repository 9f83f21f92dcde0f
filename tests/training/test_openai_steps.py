"""Runs that a server of chat completions teaches: what they cost, and what becomes of them at the cap."""

import json
from pathlib import Path
from typing import Any

import pytest
import training_cases as cases
from talking_cases import Talking, likely, said, talking

from agentopd.chat import Chat
from agentopd.chat.token_bytes import TokenBytes
from agentopd.config import dump, load_config
from agentopd.config.watched import is_measured, known_metrics
from agentopd.errors import ConfigError, TeacherError
from agentopd.serving import SpentError
from agentopd.teachers import traits_of
from agentopd.training.loop.checkpoints import binding
from agentopd.training.run.whole import check, train


def judged(asked: dict[str, Any]) -> dict[str, Any]:
    """A score that depends on what is shown."""
    return said(str(len(asked["messages"][0]["content"]) % 10))


def scored(server: Talking, *overrides: str, **settings: Any) -> Any:
    judge = {
        "kind": "openai",
        "url": server.base,
        "ask": "score",
        "of": "episode",
        "prices": {"input": 1.0, "output": 2.0},
        **settings,
    }
    method = {
        "sampler": {"per_task": 2},
        "target": {"kind": "reward", "name": "judge"},
        "estimator": {"kind": "score_function", "baseline": "group_normalised"},
        "support": "sampled",
    }
    return cases.tiny(f"teachers.judge={json.dumps(judge)}", *overrides, method=method, save_every=1)


def test_a_run_stops_at_its_cap_and_goes_on_where_it_is_raised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "s3cret")
    with talking(judged) as server:
        whole = train(scored(server, key_env="A_KEY"), tmp_path / "whole" / "run")
        asked = len(server.asked)
        assert asked == 8  # two steps of two tasks of two episodes
        assert (
            f"judge took {asked} requests, {100 * asked} prompt and {10 * asked} completion tokens"
            in capsys.readouterr().err
        )
        told = whole.metrics
        assert {
            "teacher/judge/turns",
            "teacher/judge/reward",
            "teacher/judge/requests",
            "teacher/judge/cost",
        } <= told.keys()
        assert told["teacher/judge/turns"] == 1.0
        cut = tmp_path / "cut" / "run"
        with pytest.raises(SpentError, match=r"^teachers\.judge\.cap\.requests=5: reached by 5 requests"):
            train(scored(server, cap={"requests": 5}), cut)
        with pytest.raises(SpentError, match=r"cap\.requests=5: reached by 5 requests"):
            train(scored(server, cap={"requests": 5}), cut, resume=True)
        with pytest.raises(ConfigError, match=r"was made with teachers\.judge\.best=10"):
            train(scored(server, best=9, cap={"requests": 9}), cut, resume=True)
        train(scored(server, cap={"requests": 8}), cut, resume=True)
        assert len(server.asked) == 2 * asked  # nothing was paid for twice
    assert cases.same_weights(cases.saved(cut), cases.saved(tmp_path / "whole" / "run"))
    assert cases.kept(cut) == cases.kept(tmp_path / "whole" / "run")
    assert all(b"s3cret" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_its_corrections_are_learned_and_every_metric_is_known(tmp_path: Path) -> None:
    with talking(lambda _: said("I pay 17.")) as server:
        config = cases.tiny(f"teachers.writer={{kind: openai, url: '{server.base}'}}", method="dagger", steps=1)
        trainer = cases.trainer(config, tmp_path)
        before = cases.weights(trainer.student)
        trainer.train()
    assert not cases.same_weights(before, cases.weights(trainer.student))
    told = trainer.step_metrics
    assert told["teacher/writer/corrected"] == told["rollout/turns"]
    assert told["teacher/expert/corrected"] == told["rollout/turns"]
    assert told["teacher/writer/turns"] == 1.0
    known = list(known_metrics(config.objective, {name: traits_of(choice) for name, choice in config.teachers.items()}))
    assert [name for name in told if not is_measured(name, known)] == []


def test_a_schedule_may_watch_what_a_teacher_tells() -> None:
    def watching(metric: str) -> Any:
        return cases.tiny(
            "teachers.writer={kind: openai, url: 'http://here', ask: score}",
            f"objective.coefficient={{kind: retire, metric: {metric}}}",
        )

    for metric in ("teacher/writer/reward", "teacher/writer/skipped", "teacher/teacher/tokens"):
        watching(metric)
    for metric in (
        "teacher/writer/tokens",
        "teacher/writer/corrected",
        "teacher/teacher/reward",
        "teacher/nobody/turns",
    ):
        with pytest.raises(ConfigError, match=r"no step of this method measures that.*teacher/writer/turns"):
            watching(metric)


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"ask": "score"}, r"teachers\.judge\.kind=openai, as it is set, gives no distribution over tokens; .* set target: \{kind: reward, name: judge\}"),
        ({}, r"teachers\.judge\.kind=openai, as it is set, gives no distribution .* learn from its corrections"),
    ],
)  # fmt: skip
def test_what_it_does_not_give_is_refused_before_anything_starts(settings: dict[str, Any], wrong: str) -> None:
    judge = {"kind": "openai", "url": "http://here", **settings}
    with pytest.raises(ConfigError, match=wrong):
        cases.tiny(f"teachers.judge={json.dumps(judge)}", "objective.target={kind: distribution, name: judge}")
    with pytest.raises(ConfigError, match=r"teachers\.judge\.kind=openai, as it is set, gives no rewards"):
        cases.tiny("teachers.judge={kind: openai, url: 'http://here'}", method="ovd")


def test_what_is_wrong_with_it_is_found_before_anything_is_fitted(tmp_path: Path) -> None:
    judge = {"kind": "openai", "url": "http://here", "ask": "score", "of": "episode", "key_env": "NO_SUCH_KEY"}
    config = cases.tiny(f"teachers.judge={json.dumps(judge)}", method="ovd")
    with pytest.raises(
        ConfigError, match=r"^teachers\.judge\.key_env=NO_SUCH_KEY: this environment variable is not set"
    ):
        check(config, tmp_path / "run")
    away = cases.tiny(
        f"teachers.judge={json.dumps(judge | {'url': 'http://127.0.0.1:9', 'key_env': None, 'patience': 0.1})}",
        method="ovd",
    )
    with pytest.raises(
        TeacherError, match=r"^teacher 'judge': http://127\.0\.0\.1:9/models did not answer .*; start the server"
    ):
        check(away, tmp_path / "run")
    with talking(judged, models=("one", "two")) as server:
        several = scored(server)
        with pytest.raises(ConfigError, match=r"^teachers\.judge\.model=null: .* serves one, two; name one model"):
            check(several, tmp_path / "run")
        assert not server.asked
    assert not (tmp_path / "run").exists()


def test_a_configuration_with_a_cap_is_read_back_equal_and_a_cap_may_be_raised_on_the_command_line(
    tmp_path: Path,
) -> None:
    judge = {
        "kind": "openai",
        "url": "http://here",
        "prices": {"input": 1, "output": 0.5},
        "cap": {"cost": 2},
        "options": {"temperature": 0},
    }
    config = cases.tiny(f"teachers.judge={json.dumps(judge)}")
    (tmp_path / "config.yaml").write_text(dump(config))
    again = load_config(tmp_path / "config.yaml")
    assert dump(again) == dump(config)
    raised = load_config(tmp_path / "config.yaml", ["teachers.judge.cap.cost=4", "teachers.judge.cap.tokens=9"])
    assert raised.teachers["judge"].settings["cap"].cost == 4
    river = json.loads(dump_json(config))
    assert binding(river, raised) == binding(json.loads(dump_json(raised)), raised)


def dump_json(config: Any) -> str:
    return str(config.model_dump_json())


def test_soft_labels_are_learned(tmp_path: Path) -> None:
    """With the student's own tokens, and alternatives to each."""
    table = [(one or b"").decode(errors="replace") for one in TokenBytes(cases.tokenizer()).of]
    written = [table[i] for i in Chat(cases.tokenizer()).write([{"role": "user", "content": "Go."}], "I pay 17.", ())]
    answer = said("I pay 17.", logprobs=likely(*((one, {one: -0.5, " a": -1.5}) for one in written)))
    method = {
        "where": {"source": "corrected", "actor": []},
        "target": {"kind": "distribution", "name": "writer"},
        "support": {"kind": "top_k", "k": 2},
    }
    with talking(lambda _: answer) as server:
        writer = f"teachers.writer={{kind: openai, url: '{server.base}', top_logprobs: 2}}"
        trainer = cases.trainer(cases.tiny(writer, method=method, steps=1), tmp_path)
        before = cases.weights(trainer.student)
        trainer.train()
    assert not cases.same_weights(before, cases.weights(trainer.student))
    told = trainer.step_metrics
    assert told["objective/loss/rows"] == told["teacher/writer/corrected"] * 2 * len(written)
    assert told["teacher/writer/unmapped"] == 0
    assert 0 < told["teacher/writer/tokens"] < 1
