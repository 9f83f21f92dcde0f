"""What happens before training: experts are bounded and judged, tasks are the stages' own, caches know what decides them."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import training_cases as cases
from transformers import PreTrainedModel

from agentopd import records
from agentopd.chat import Chat
from agentopd.config import Config, Fit
from agentopd.errors import ConfigError, EnvError
from agentopd.models import ModelConfig
from agentopd.rollout import TaskStream
from agentopd.teachers import Stateless, Teacher, TeacherContext, corrections
from agentopd.teachers.rewards import reward
from agentopd.training.checks.preflight import check_prompts, check_teachers
from agentopd.training.checks.roles import used_teachers
from agentopd.training.loop.river import Drawn, River
from agentopd.training.run import stages, traces
from agentopd.training.run.whole import train
from agentopd.training.show.display import say
from agentopd.types import Annotation, Trajectory


def errands(*overrides: str, **kwargs: float) -> Config:
    return cases.tiny(f"env={{id: 'stage_envs:tests/Errand-v0', kwargs: {json.dumps(kwargs)}}}", *overrides)


def texts(env: str, *overrides: str) -> list[str]:
    return traces.corpus(cases.tiny(f"env.id={env}", *overrides), say)


def test_a_corpus_holds_what_was_said_in_the_order_of_the_tasks() -> None:
    said = traces.corpus(errands(solves=0.5), say)
    assert said[:3] in (["Please say yes", "yes", "Thank you"], ["Please say yes", "no", "Thank you"])
    assert Counter(said)["Thank you"] == Counter(said)["yes"] + Counter(said)["no"] == traces.CORPUS_EPISODES
    assert said == traces.corpus(errands("rollout.concurrency=3", solves=0.5), say)


def test_a_corpus_without_an_expert_holds_first_observations_alone() -> None:
    assert texts("training_envs:tests/Lengthy-v0") == ["Say something"] * traces.CORPUS_EPISODES


def test_an_expert_that_never_ends_is_stopped_at_the_turn_limit_and_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []

    class Meter:
        def __init__(self, title: str, total: int) -> None:
            self.total = total

        def show(self, done: int) -> None:
            shown.append((done, self.total))

        def close(self, silent: bool) -> None:
            pass

    monkeypatch.setattr(traces, "Meter", Meter)
    monkeypatch.setattr(traces, "CORPUS_EPISODES", 4)
    said = Counter(texts("stage_envs:tests/Endless-v0", "rollout.max_turns=3", "rollout.concurrency=2"))
    assert said == {"Go on": 4, "more": 4 * 3, "And then": 4 * 3}
    assert shown == [(0, 4)] * 3 + [(2, 4)] * 4 + [(4, 4)]


def test_an_expert_that_hangs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        EnvError, match=r"tests/Stuck-v0 with seed \d+, turn 0: reset took longer than time_limit=0\.05 s"
    ):
        texts("stage_envs:tests/Stuck-v0", "rollout.time_limit=0.05")


def test_an_environment_that_raises_is_one_clear_error_before_anything_is_made(tmp_path: Path) -> None:
    run = tmp_path / "run"
    cache = f"stages.cache={tmp_path / 'cache'}"
    seed = TaskStream(errands(breaks=1.0).envs, 0, "stages")[0].seed
    with pytest.raises(EnvError, match=rf"Errand-v0 with seed {seed}, turn 0: RuntimeError: the shop is closed"):
        train(errands(cache, breaks=1.0), run)
    with pytest.raises(EnvError, match=r"Errand-v0 cannot be made: RuntimeError: no expert is that good"):
        train(errands(cache, solves=2.0), run)
    assert not run.exists()


def test_a_tokenizer_learns_from_the_beginning_of_a_long_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "CORPUS_CHARACTERS", 6)
    assert set(texts("stage_envs:tests/Errand-v0")) == {"Please", "yes", "Thank "}


def test_an_expert_whose_action_no_turn_can_hold_is_refused_before_training() -> None:
    tight = errands("rollout.max_new_tokens=1", "rollout.max_failures=1.0")
    with pytest.raises(
        ConfigError, match=r"^rollout\.max_new_tokens=1 is too small: .* tokens; set it to \d+ or more$"
    ):
        _judged(tight)


def test_every_environment_is_started_before_a_run_and_may_fail_now_and_then() -> None:
    rare = "envs=[{id: agentopd/Checkout-v0}, {id: 'stage_envs:tests/Errand-v0', weight: 0.0001, kwargs: {breaks: %s}}]"
    check_prompts(cases.tiny("env=null", rare % 0.5), cases.tokenizer())
    with pytest.raises(EnvError, match=r"Errand-v0 cannot be started: 4 of 4 tasks failed; .*the shop is closed"):
        check_prompts(cases.tiny("env=null", rare % 1.0), cases.tokenizer())


def test_a_rare_failure_is_told_and_passed_over() -> None:
    said: list[str] = []
    spoken = Counter(traces.corpus(errands(breaks=0.1), said.append))
    failed = traces.CORPUS_EPISODES - spoken["yes"]
    assert 0 < failed < 40
    (line,) = said
    assert line.startswith(
        f"tokenizer: {failed} of 200 episodes failed; the first: stage_envs:tests/Errand-v0 with seed"
    )


def _judged(config: Config) -> list[str]:
    said: list[str] = []
    played = traces.traces(config, 20, Chat(cases.tokenizer()), "cold start", said.append)
    assert len(played) == 20
    return said


def test_a_good_expert_needs_no_word_and_a_poor_one_gets_one() -> None:
    assert _judged(errands(solves=1.0)) == []
    (line,) = _judged(errands(solves=0.5))
    played = traces.traces(errands(solves=0.5), 20, Chat(cases.tokenizer()), "cold start", say)
    won = sum(trajectory.outcome.success for trajectory in played)
    assert 0 < won < 18
    assert (
        f"cold start: the expert of stage_envs:tests/Errand-v0 succeeds in {won / 20:.0%} of its own 20 episodes"
        in line
    )
    assert f"terminated: {20 - won}" in line


@pytest.mark.parametrize(
    ("config", "ends"),
    [(errands(solves=0.0), "terminated: 20"), (cases.tiny("env.id=stage_envs:tests/Endless-v0"), "turn_limit: 20")],
)
def test_an_expert_that_never_succeeds_is_refused(config: Config, ends: str) -> None:
    with pytest.raises(ConfigError, match=rf"succeeds in 0% of its own 20 episodes \(.*{ends}\).*check_text_env"):
        _judged(config)


def test_a_corpus_of_failures_is_refused() -> None:
    with pytest.raises(
        EnvError, match=r"tokenizer: .* more than rollout\.max_failures=0\.2 allows; .*the shop is closed"
    ):
        traces.corpus(errands(breaks=1.0), say)


def test_traces_that_all_failed_are_refused() -> None:
    with pytest.raises(EnvError, match=r"more than rollout\.max_failures=0\.2"):
        _judged(errands(breaks=1.0))
    with pytest.raises(
        EnvError, match=r"cold start: all 20 episodes failed; the first: .* with seed \d+: .*the shop is closed"
    ):
        _judged(errands("rollout.max_failures=1.0", breaks=1.0))


def test_a_stage_learns_from_tasks_that_training_never_meets(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, draw = list[Drawn](), River.draw

    def watched(self: River, step: int) -> Drawn:
        drawn.append(draw(self, step))
        return drawn[-1]

    monkeypatch.setattr(River, "draw", watched)
    student = cases.model(0)
    before = cases.weights(student)
    stage = Fit(episodes=4, steps=2, episodes_per_step=4)
    stages.fit(cases.tiny(), stage, student, cases.tokenizer(), say, "cold start")
    assert not cases.same_weights(before, cases.weights(student))
    played = [record.trajectory for step in drawn for record in step.records]
    assert len(played) == 8
    assert {(t.task.split, t.actors) for t in played} == {("stages", ("expert",))}
    met = {TaskStream(cases.tiny().envs, 0, "train")[i].id for i in range(100)}
    assert not met & {trajectory.task.id for trajectory in played}


class AskedError(Exception):
    """What a stage's cache was asked for."""


def _key(config: Config, monkeypatch: pytest.MonkeyPatch, stage: str = "cold start") -> str:
    def ask(cache: str, name: str, content: Any, *rest: Any) -> Path:
        raise AskedError(json.dumps(content, sort_keys=True, default=str))

    monkeypatch.setattr(stages, "cached", ask)
    with pytest.raises(AskedError) as asked:
        _make(config, stage)
    return str(asked.value)


def _make(config: Config, stage: str) -> None:
    if stage == "teacher":
        wanted = ModelConfig(new=config.teachers["teacher"].settings["new"])
        stages.teacher_of(config, wanted, cases.tokenizer(), say)
    else:
        stages.student_of(config, cases.tokenizer(), say)


COLD = "stages.cold_start={episodes: 4, steps: 2}"


@pytest.mark.parametrize("stage", ["cold start", "teacher"])
def test_a_cached_stage_is_known_by_all_that_decides_it(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = _key(cases.tiny(COLD), monkeypatch, stage)
    for other in (
        "rollout.max_new_tokens=23", "rollout.max_length=639", "rollout.max_turns=5", "rollout.on_overflow=drop_oldest",
        "rollout.temperature=0.5", "template_kwargs={polite: true}", "train.max_tokens=512", "train.layout=packed",
        "env.kwargs={items: 3}", "seed=1",
    ):  # fmt: skip
        assert _key(cases.tiny(COLD, other), monkeypatch, stage) != known, other
    for other in ("rollout.time_limit=9", "rollout.concurrency=3", "train.learning_rate=0.5", "evaluation.tasks=9"):
        assert _key(cases.tiny(COLD, other), monkeypatch, stage) == known, other
    monkeypatch.setattr(cases.tokenizer(), "chat_template", "another")
    assert _key(cases.tiny(COLD), monkeypatch, stage) != known


def test_editing_an_environment_or_what_it_imports_makes_its_stages_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    module, helper = tmp_path / "edited_env.py", tmp_path / "edited_words.py"
    helper.write_text("WORD = 'yes'\n")
    module.write_text(
        "import gymnasium, stage_envs\nfrom edited_words import WORD\n\nclass Mine(stage_envs.Errand):\n    '''Mine.'''\n\n"
        "gymnasium.register('tests/Mine-v0', entry_point=Mine)\n"
    )
    config = cases.tiny(COLD, "env.id=edited_env:tests/Mine-v0")
    known = _key(config, monkeypatch)
    assert _key(config, monkeypatch) == known
    for edited, text in ((module, "Mine."), (helper, "yes")):
        before = edited.read_text()
        edited.write_text(before.replace(text, f"{text}!"))
        assert _key(config, monkeypatch) != known
        edited.write_text(before)
    assert _key(config, monkeypatch) == known


def test_a_stage_is_made_once_and_its_model_keeps_the_type_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits, said = list[str](), list[str]()

    def fit(*args: Any) -> PreTrainedModel:
        fits.append(args[-1])
        return args[2]  # type: ignore[no-any-return]

    monkeypatch.setattr(stages, "fit", fit)
    folder = tmp_path / "model"
    cases.model(0).save_pretrained(folder)
    overrides = [COLD, f"stages.cache={tmp_path / 'cache'}", f"student={{model: {folder}, dtype: bfloat16}}"]
    for _ in range(2):
        student = stages.student_of(cases.tiny(*overrides), cases.tokenizer(), said.append)
        assert next(student.parameters()).dtype == torch.bfloat16
    assert fits == ["cold start"]
    assert len(said) == 1
    assert said[0].startswith(f"cold-start: taken from {tmp_path / 'cache'}/cold-start-")


@pytest.mark.parametrize("stage", [COLD, "stages.cold_start=null"])
def test_new_weights_are_fitted_in_float32_and_trained_in_the_type_that_was_asked_for(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted_as = []

    def fit(*args: Any) -> PreTrainedModel:
        fitted_as.append(args[2].dtype)
        return args[2]  # type: ignore[no-any-return]

    monkeypatch.setattr(stages, "fit", fit)
    overrides = [stage, f"stages.cache={tmp_path / 'cache'}", "student.dtype=bfloat16", "student.attention=eager"]
    student = stages.student_of(cases.tiny(*overrides), cases.tokenizer(), print)
    assert student.dtype == torch.bfloat16
    assert student.config._attn_implementation == "eager"
    assert fitted_as == ([torch.float32] if stage == COLD else [])


@pytest.mark.parametrize(
    ("method", "used"),
    [("agentopd", {"teacher"}), ("gkd", {"teacher"}), ("dagger", {"expert"}), ("grpo", set()), ("sft", set())],
)
def test_only_teachers_that_the_method_uses_are_built_and_need_a_stage(method: str, used: set[str]) -> None:
    config = cases.tiny("stages.teacher=null", method=method)
    assert used_teachers(config).keys() == used
    if "teacher" in used:
        with pytest.raises(
            ConfigError, match=r"stages\.teacher=null: the method uses teachers\.teacher, whose weights are new"
        ):
            check_teachers(config)
    else:
        check_teachers(config)
    check_teachers(cases.tiny(method=method))


def test_a_teacher_that_only_acts_is_used() -> None:
    acts = cases.tiny("objective.sampler={kind: frozen, actors: {teacher: 1.0}, episodes: 8}", method="sft")
    assert used_teachers(acts).keys() == {"teacher"}


def test_a_method_that_learns_from_corrections_needs_somebody_who_corrects(tmp_path: Path) -> None:
    silent = ["teachers={teacher: {kind: local, model: nowhere}, judge: {kind: reward}}"]
    with pytest.raises(ConfigError, match=r"^objective: a term learns from corrected actions, and no teacher corrects"):
        check_teachers(cases.tiny(*silent, method="dagger"))
    own = cases.tiny("teachers={judge: {kind: reward}, own: {kind: 'test_stages:uncorrecting'}}", method="dagger")
    assert used_teachers(own).keys() == {"own"}
    with pytest.raises(ConfigError, match="no teacher corrects"):  # known once it is made
        cases.trainer(own, tmp_path)


def writing(context: TeacherContext) -> Teacher:
    """A kind of one's own that writes better actions itself."""
    return Writing(name=context.name, corrects=True, chat=context.chat)


@dataclass(frozen=True, eq=False, kw_only=True)
class Writing(Stateless):
    chat: Chat
    text: str = "Hello"

    def annotate(self, trajectories: Sequence[Trajectory]) -> list[Annotation]:
        return [corrections(self.name, self.chat, one, [self.text] * len(one.turns)) for one in trajectories]


def test_a_teacher_that_writes_text_corrects_where_no_environment_has_an_expert(tmp_path: Path) -> None:
    own = [
        "env.id=training_envs:tests/Lengthy-v0",
        "teachers={own: {kind: 'test_stages:writing'}}",
        "stages.teacher=null",
    ]
    result = train(cases.tiny(*own, method="dagger"), tmp_path / "run")
    assert result.metrics["objective/loss/rows"] > 0
    assert math.isfinite(result.metrics["train/loss"])
    (segment,) = {record.annotations[0].corrected_S for record in records.open(tmp_path / "run")}
    assert set(segment) == {"Hello"}


def test_a_corrected_action_that_no_turn_could_hold_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = [
        "env.id=training_envs:tests/Lengthy-v0",
        "teachers={own: {kind: 'test_stages:rambling'}}",
        "stages.teacher=null",
    ]
    records_ = cases.trainer(cases.tiny(*own, method="dagger", tasks_per_step=4), tmp_path).river.draw(0).records
    for record in records_:
        (annotation,) = record.annotations
        assert set(annotation.corrected_S) == {None}
        assert annotation.skip_S.all()
        assert annotation.segments == ()
    assert "is left out, since rollout.max_new_tokens=24" in caplog.text


def rambling(context: TeacherContext) -> Teacher:
    """A kind of one's own that cannot stop."""
    return Writing(name=context.name, corrects=True, chat=context.chat, text="Hello " * 100)


def uncorrecting(context: TeacherContext) -> Teacher:
    """A kind of one's own that gives rewards alone."""
    return reward(context)


def test_a_run_whose_method_reads_no_teacher_fits_and_plays_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "fit", lambda *_: pytest.fail("a teacher was fitted that nobody reads"))
    too_short = "teachers.teacher.new.max_positions=512"  # nobody minds: it is never made
    result = train(cases.tiny(too_short, steps=1, method="sft"), tmp_path / "run")
    assert result.panels.keys() == {"student_before", "student_after"}


def test_a_resumed_run_reads_the_tokenizer_of_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage's own may be another one by then: the environment's texts may have changed."""
    config, run = cases.tiny(steps=1, save_every=1, method="sft"), tmp_path / "run"
    train(config, run)
    (run / "panels.json").unlink()
    monkeypatch.setattr(
        "agentopd.training.run.whole.tokenizer_of", lambda *_: pytest.fail("another tokenizer was made")
    )
    assert train(config, run, resume=True).tokenizer.get_vocab() == cases.tokenizer().get_vocab()
