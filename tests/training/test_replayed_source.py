"""A replayed source: what the run itself played earlier, and shares that move."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import training_cases as cases

from agentopd import records
from agentopd.config import Config
from agentopd.errors import ConfigError
from agentopd.objective import Rows
from agentopd.objective.weights.named import ask
from agentopd.settings.adaptive import distillm
from agentopd.settings.choice import at
from agentopd.settings.clock import Clock
from agentopd.training.run import whole as running
from agentopd.training.run.whole import train
from agentopd.types import Key

LINEAR = "{kind: linear, start: 3.0, end: 1.0}"
RISING = "{kind: linear, start: 1.0, end: 3.0}"
STEPS = 6


def config(*overrides: str, own: str = "1.0", again: str = "1.0", capacity: int | None = 4, **train: Any) -> Config:
    sources = f"{{own: {{share: {own}}}, again: {{kind: replayed, of: own, share: {again}, capacity: {json.dumps(capacity)}}}}}"
    settings = {"steps": STEPS, "tasks_per_step": 4} | train
    return cases.tiny(f"method={{sources: {sources}, where: {{}}}}", *overrides, **settings)


def sources_by_step(run: Path) -> list[Counter[str]]:
    opened = records.open(run)
    return [Counter(r.trajectory.segments[0].source for r in opened.step(step)) for step in opened.steps]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replayed") / "run"
    train(config(own=LINEAR, again=RISING, save_every=2), folder)
    return folder


def test_until_the_memory_is_full_its_tasks_are_fresh_ones(run: Path) -> None:
    # shares 3:1, 2.6:1.4, 2.2:1.8, 1.8:2.2, 1.4:2.6, 1:3 of four tasks; the first step alone fills a memory of four
    replays = [counts["again"] for counts in sources_by_step(run)]
    assert replays == [0, 1, 2, 2, 3, 3]
    assert all(sum(counts.values()) == 4 for counts in sources_by_step(run))


def test_what_is_replayed_is_among_the_latest_and_was_fresh(run: Path) -> None:
    fresh: list[tuple[int, Key]] = []
    for record in records.open(run):
        one = record.trajectory
        if one.origin is None:
            fresh.append((one.key.step, one.key))
            continue
        before = [key for step, key in fresh if step < one.key.step]
        groups = {key.step for key in before[-4:]}
        assert one.origin in before
        assert one.origin.step >= min(groups)
    seeds = [r.trajectory.task.seed for r in records.open(run) if r.trajectory.origin is None]
    assert len(seeds) == len(set(seeds))


def test_a_resumed_run_replays_what_the_uninterrupted_one_does(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config(own=LINEAR, again=RISING, save_every=2)
    keep = running.AgentOPDTrainer.training_step

    def killed(self: Any, model: Any, inputs: Any, *rest: Any) -> Any:
        done = keep(self, model, inputs, *rest)
        if inputs.step == 4:  # behind the records of the step, before its checkpoint: it is superseded
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(running.AgentOPDTrainer, "training_step", killed)
    target = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(made, target)
    monkeypatch.undo()
    train(made, target, resume=True)
    assert cases.same_weights(cases.saved(run), cases.saved(target))
    assert cases.kept(run) == cases.kept(target)
    assert len(list((target / "records").glob("*superseded*"))) > 0


def test_a_frozen_source_beside_moving_shares_still_deals_each_once(tmp_path: Path) -> None:
    sources = (
        f"{{own: {{share: {RISING}}}, shown: {{kind: frozen, actors: {{expert: 1}}, episodes: 7, share: {LINEAR}}}}}"
    )
    made = cases.tiny(f"method={{sources: {sources}, where: {{}}}}", steps=4, tasks_per_step=4)
    trainer = cases.trainer(made, tmp_path)
    river, drawn = trainer.river, []
    for step in range(4):
        drawn += [r.trajectory.origin for r in river.draw(step).records if r.trajectory.origin is not None]
        river.learned(step, {})
    assert max(Counter(drawn[:7]).values()) == 1
    again = cases.trainer(made, tmp_path / "again").river
    again.restore(json.loads(json.dumps(river.state())), cases.model(0))
    assert again.state()["begun"] == river.state()["begun"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["objective.sources.again.of=shown"], r"^objective\.sources\.again\.of=shown: no fresh source is called that.*; there are: own"),
        (["records.keep=false"], r"^objective\.sources\.again\.kind=replayed: it draws from the run's own records; set records\.keep: true"),
        (["objective.sources.own.per_task=2"], r"again\.per_task=1: the episodes of own come in groups of 2; set both alike"),
        (["objective.sources.again.max_turns=2"], r"max_turns: the episodes of a replayed source are over, so nobody acts"),
        (["objective.estimator.kind=score_function"], r"of the replayed source 'again' are drawn by the student of earlier steps"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together(overrides: Sequence[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(*overrides)


def test_a_trainer_without_a_folder_has_nothing_to_replay(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"again\.kind=replayed: .* without a folder none are kept; give the trainer a"
    ):
        cases.trainer(config(), tmp_path)


def test_shares_that_all_end_at_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"objective\.sources\.fresh\.share: 0 at step 5, and the shares are"):
        cases.tiny("objective.sampler={share: {kind: linear, start: 1.0, end: 0.0}}", method="gkd", steps=STEPS)


def test_distillms_three_parts_are_whole_and_its_threshold_remembers() -> None:
    losses, state, phis = [1.0, 1.0, 1.05, 1.05, 1.3, 1.3, 2.0, 1.0, 0.5, 0.5], None, []
    settings: dict[str, Any] = {"metric": "m", "every": 2, "threshold": 0.0, "by": 0.1, "margin": 0.1}
    for step, loss in enumerate(losses):
        clock = Clock(step, 10, {"m": loss}, state=state)
        parts = {part: distillm(clock, part=part, **settings) for part in ("fresh", "replayed", "shown")}  # type: ignore[arg-type]
        assert sum(parts.values()) == pytest.approx(1.0)
        phi = 1.0 - parts["shown"]
        assert parts["replayed"] == pytest.approx(phi * step / 10)
        phis.append(round(phi, 6))
        state = distillm.advance(state, clock, part="shown", **settings)  # type: ignore[attr-defined]
    # means 1, 1.05, 1.3, 1.5, 0.5: two of them are 0.1 or more above the one before
    assert phis == [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.1, 0.1, 0.2, 0.2]


def test_distillm_is_a_recipe_that_runs(tmp_path: Path) -> None:
    made = cases.tiny("objective.sources.again.capacity=2", method="distillm", steps=3, tasks_per_step=4)
    for source in made.objective.sources.values():
        share = source.share
        assert at(share, Clock(0, 3), "share") in (0.0, 1.0)
    train(made, tmp_path / "run")
    assert sources_by_step(tmp_path / "run") == [Counter({"shown": 4})] * 3  # the loss has to rise first


def test_staleness_is_the_steps_since_an_episode_was_played(run: Path) -> None:
    kept = list(records.open(run).step(5))
    rows = Rows.of(kept)
    stale_A = ask(rows, None, "staleness")
    for place, record in enumerate(kept):
        one = record.trajectory
        expected = 0 if one.origin is None else 5 - one.origin.step
        assert set(stale_A[rows.trajectory_A == place].tolist()) <= {float(expected)}
    assert stale_A.max() >= 1.0
