"""Imported conversations are learned from as a frozen source, and refused where somebody must have drawn the tokens."""

import json
from pathlib import Path

import pytest
import training_cases as cases

from agentopd import records
from agentopd.chat import Chat
from agentopd.errors import ConfigError
from agentopd.sharing import Wanted, Wish, export, take_in
from agentopd.training.checks.recorded import check_recorded
from agentopd.types import Record, Trajectory


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> list[Trajectory]:
    """Experts' episodes that went through a file of chat messages, metadata and all."""
    folder = tmp_path_factory.mktemp("imported")
    played = cases.trainer(cases.tiny(method="sft"), folder / "played").river.draw(0).records
    records.RecordWriter(folder / "run").write(0, played)
    export(records.open(folder / "run"), folder / "chats.jsonl", Wish("openai", metadata=True))
    take_in(str(folder / "chats.jsonl"), folder / "again", Wanted(Chat(cases.tokenizer())))
    again = [record.trajectory for record in records.open(folder / "again")]
    for one, two in zip(played, again, strict=True):
        assert [segment.tokens_T.tolist() for segment in two.segments] == [
            s.tokens_T.tolist() for s in one.trajectory.segments
        ]
        assert two.outcome == one.trajectory.outcome
    return again


def test_imported_episodes_are_learned_from(imported: list[Trajectory], tmp_path: Path) -> None:
    trainer = cases.trainer(cases.tiny(method="sft"), tmp_path, train_dataset=imported)
    before = cases.weights(trainer.student)
    trainer.train()
    rows = sum(turn.stop - turn.start for one in imported for turn in one.turns)
    assert trainer.step_metrics["objective/loss/rows"] == rows
    assert all(abs(value) < 1e9 for value in trainer.step_metrics.values()), json.dumps(dict(trainer.step_metrics))
    assert not cases.same_weights(before, cases.weights(trainer.student))


NEEDS_DRAWS = pytest.mark.parametrize(
    ("term", "said"),
    [
        (
            "support: sampled, divergence: reverse_kl, estimator: {kind: score_function, logprobs: recomputed}, weight: [{kind: importance}]",
            "estimator.kind=score_function",
        ),
        (
            "target: {kind: taken}, weight: [{kind: importance}]",
            "it divides by the probability that the token was sampled with",
        ),
    ],
)


@NEEDS_DRAWS
def test_a_loss_that_needs_draws_refuses_them(term: str, said: str, imported: list[Trajectory], tmp_path: Path) -> None:
    method = "method={sources: {old: {kind: frozen}}, where: {}, " + term + "}"
    with pytest.raises(
        ConfigError, match="train_dataset holds text that was imported, whose tokens nobody drew"
    ) as refused:
        cases.trainer(cases.tiny(method), tmp_path, train_dataset=imported)
    assert said in str(refused.value)


@NEEDS_DRAWS
def test_a_loss_that_needs_draws_refuses_records_of_them(
    term: str, said: str, imported: list[Trajectory], tmp_path: Path
) -> None:
    records.RecordWriter(tmp_path).write(0, [Record(one) for one in imported])
    method = f"method={{sources: {{old: {{kind: recorded, records: {tmp_path}}}}}, where: {{}}, {term}}}"
    with pytest.raises(ConfigError, match="where selects actions of imported in 'old'") as refused:
        check_recorded(cases.tiny(method), Chat(cases.tokenizer()))
    assert said in str(refused.value)


def test_a_term_that_does_not_select_them_may_need_draws(imported: list[Trajectory], tmp_path: Path) -> None:
    terms = (
        "method={sources: {old: {kind: frozen}, new: {kind: fresh}}, terms: [{where: {source: old}, target: {kind: taken}}, "
        "{where: {source: new}, support: sampled, divergence: reverse_kl, estimator: {kind: score_function}}]}"
    )
    trainer = cases.trainer(cases.tiny(terms), tmp_path, train_dataset=imported)
    assert len(trainer.river.draw(0).records) == 2
