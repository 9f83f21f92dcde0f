"""Returns, baselines, whitening and couplings by hand, through prepare."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from objective_cases import Saying, episode, method, prepared, record

from agentopd.objective import LiveColumns, Rows, prepare
from agentopd.objective.advantages import returns
from agentopd.settings.clock import Clock
from agentopd.types import Record

REWARD = {"target": {"kind": "reward"}}


def advantages(
    records: list[Record], target: dict[str, Any] | None = None, per_task: int = 4, **estimator: Any
) -> NDArray[Any]:
    rest = estimator.pop("method", {})
    objective = method(
        sampler={"per_task": per_task}, estimator={"kind": "score_function", **estimator}, **(target or {}), **rest
    )
    return prepared(objective, records).terms[0].advantage_A


def test_return_to_go_discounts_inside_and_across_turns() -> None:
    rows = Rows.of([record(episode([2, 1])), record(episode([1], index=1))])
    found = returns(rows, np.array([0.0, 1.0, 2.0, 5.0]), gamma=0.5, turn_gamma=0.25)
    # 5 alone; 2; 1 + 0.25 * 2; 0 + 0.5 * 1.5
    assert found.tolist() == [0.75, 1.5, 2.0, 5.0]


def test_outcome_is_the_total_reward_at_every_token() -> None:
    records = [record(episode([2, 1], reward=3.0)), record(episode([1], index=1, reward=-1.0))]
    assert advantages(records, REWARD).tolist() == [3.0, 3.0, 3.0, -1.0]
    assert advantages(records, REWARD, gamma=0.5, turn_gamma=0.1).tolist() == pytest.approx([0.15, 0.3, 3.0, -1.0])
    # turn_gamma defaults to gamma
    assert advantages(records, REWARD, gamma=0.5).tolist() == [0.75, 1.5, 3.0, -1.0]


def test_log_ratio_is_local_unless_discounted() -> None:
    rows = Rows.of([record(episode([2, 1]), Saying())])
    ratio = rows.teachers["teacher"].taken_logprob_A - rows.logprob_A
    local = advantages([*rows.records])
    np.testing.assert_allclose(local, ratio)
    whole = advantages([*rows.records], gamma=1.0)
    np.testing.assert_allclose(whole, np.cumsum(ratio[::-1])[::-1])


def test_a_row_that_where_leaves_out_still_counts_in_the_returns_of_others() -> None:
    said = Saying(rewards={0: 1.0, 1: 2.0, 2: 4.0})
    only_first = {"target": {"kind": "reward", "name": "teacher"}, "where": {"actor": "student", "max_turn": 0}}
    found = advantages([record(episode([2, 1, 1]), said)], only_first)
    assert found.tolist() == [7.0, 7.0, 0.0, 0.0]
    alternate = {"target": {"kind": "reward"}, "where": {"every": 2}}
    found = advantages([record(episode([1, 1, 1], reward=8.0))], alternate, turn_gamma=0.5, gamma=1.0)
    assert found.tolist() == [2.0, 0.0, 8.0]


def test_rows_that_the_reward_does_not_cover_add_zero_to_the_return() -> None:
    said = Saying("judge", "none", skip=[1], rewards={0: 1.0, 1: 50.0, 3: 2.0})
    found = prepared(
        method(target={"kind": "reward", "name": "judge"}, estimator="score_function"),
        [record(episode([1, 1, 1, 1]), said)],
    ).terms[0]
    assert found.advantage_A.tolist() == [3.0, 0.0, 2.0, 2.0]
    # the skipped turn leaves the denominator
    assert found.coef_A.tolist() == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3])


def test_log_ratio_of_other_actors_adds_zero() -> None:
    trajectory = episode([1, 1, 1], acted_by={1: "expert"})
    rows = Rows.of([record(trajectory, Saying())])
    ratio = rows.teachers["teacher"].taken_logprob_A - rows.logprob_A
    found = advantages([*rows.records], gamma=1.0)
    np.testing.assert_allclose(found, [ratio[0] + ratio[2], 0.0, ratio[2]])


def test_corrected_segments_are_in_no_return() -> None:
    plain = record(episode([2, 1], reward=3.0), Saying(rewards={1: 2.0}))
    mended = record(
        episode([2, 1], reward=3.0),
        Saying(rewards={1: 2.0}, corrects={0: 2, 1: 1}, on_corrected=True),
        Saying("expert", "none", corrects={1: 4}),
    )
    targets: list[dict[str, Any]] = [REWARD, {"target": {"kind": "reward", "name": "teacher"}}, {"where": {}}]
    for target in targets:
        settings: dict[str, Any] = {"turn_gamma": 0.5, "gamma": 0.9, "baseline": "batch_mean"}
        alone, found = advantages([plain], target, **settings), advantages([mended], target, **settings)
        np.testing.assert_array_equal(found[:3], alone)
        assert not found[3:].any()


def test_group_baselines_count_episodes_not_rows() -> None:
    records = [
        record(episode([5, 5], index=0, reward=1.0)),
        record(episode([1], index=1, reward=0.0)),
        record(episode([1], index=2, reward=0.0)),
        record(episode([1], index=3, task=1, reward=7.0)),
        record(episode([1], index=4, reward=100.0, failed=True)),
    ]
    centred = advantages(records, REWARD, baseline="group_mean")
    np.testing.assert_allclose(centred, [2 / 3] * 10 + [-1 / 3] * 2 + [0.0, 0.0])
    deviation = np.std([1.0, 0.0, 0.0]) + 1e-6
    normalised = advantages(records, REWARD, baseline="group_normalised")
    np.testing.assert_allclose(normalised, [2 / 3 / deviation] * 10 + [-1 / 3 / deviation] * 2 + [0.0, 0.0])


def test_group_baseline_sees_episodes_that_the_term_does_not_train() -> None:
    records = [record(episode([1], index=i, reward=float(i == 0), success=i == 0)) for i in range(4)]
    only_failures = {**REWARD, "where": {"actor": "student", "success": False}}
    found = advantages(records, only_failures, baseline="group_mean")
    assert found.tolist() == [0.0, -0.25, -0.25, -0.25]


def test_group_baseline_is_of_the_terms_own_actors() -> None:
    records = [record(episode([1], index=i, reward=float(i < 1))) for i in range(2)]
    records.append(record(episode([1], index=2, reward=1.0, acted_by={0: "expert"})))
    assert advantages(records, REWARD, baseline="group_mean").tolist() == [0.5, -0.5, 0.0]
    assert advantages(records, {**REWARD, "where": {}}, baseline="group_mean").tolist() == pytest.approx(
        [1 / 3, -2 / 3, 1 / 3]
    )


def test_a_group_leaves_out_episodes_that_the_reward_says_nothing_of() -> None:
    said = [Saying(kind="none", rewards={0: 1.0}), Saying(kind="none", rewards={0: 0.0}), Saying(kind="none")]
    records = [record(episode([1], index=i), one) for i, one in enumerate(said)]
    target = {"target": {"kind": "reward", "name": "teacher"}}
    assert advantages(records, target, baseline="group_mean").tolist() == [0.5, -0.5, 0.0]


def test_batch_mean_and_whitening_look_at_the_rows_that_learn() -> None:
    records = [
        record(episode([3], reward=1.0)),
        record(episode([1], index=1, reward=5.0)),
        record(episode([1], index=2, reward=50.0, acted_by={0: "expert"})),
    ]
    assert advantages(records, REWARD, baseline="batch_mean").tolist() == [-1.0, -1.0, -1.0, 3.0, 0.0]
    white = advantages(records, REWARD, whitened=True)
    assert white[:4].mean() == pytest.approx(0.0)
    assert white[:4].std() == pytest.approx(1.0)
    same = [record(episode([2], reward=1.0)), record(episode([1], index=1, reward=1.0))]
    assert advantages(same, REWARD, whitened=True).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("settings", [{"baseline": "group_normalised"}, {"whitened": True}])
def test_large_rewards_that_agree_teach_nothing(settings: dict[str, Any]) -> None:
    """Their mean is off by a rounding, which is no deviation."""
    records = [record(episode([1], index=i, reward=1e12 + 0.1)) for i in range(7)]
    assert advantages(records, REWARD, per_task=7, **settings).tolist() == [0.0] * 7


def test_clip_comes_last() -> None:
    records = [record(episode([1], reward=9.0)), record(episode([1], index=1, reward=-1.0))]
    assert advantages(records, REWARD, clip=2.0).tolist() == [2.0, -1.0]
    assert advantages(records, REWARD, baseline="batch_mean", clip=2.0).tolist() == [2.0, -2.0]


def test_advantage_sum_adds_the_group_normalised_outcome() -> None:
    records = [record(episode([2], index=i, reward=float(i), success=i == 1), Saying()) for i in range(2)]
    coupling = {
        "kind": "advantage_sum",
        "distillation": 0.5,
        "reinforcement": {"kind": "linear", "start": 1.0, "end": 3.0},
    }
    objective = method(sampler={"per_task": 2}, estimator="score_function", coupling=coupling)
    rows = Rows.of(records)
    ratio = rows.teachers["teacher"].taken_logprob_A - rows.logprob_A
    reinforced = np.array([-1.0, -1.0, 1.0, 1.0]) * 0.5 / (0.5 + 1e-6)
    for step, strength in ((0, 1.0), (9, 3.0)):
        found = prepare(objective, rows, Clock(step, 10)).terms[0].advantage_A
        np.testing.assert_allclose(found, 0.5 * ratio + strength * reinforced)


def test_advantage_sum_takes_a_teachers_reward_too() -> None:
    said = (Saying(), Saying("judge", "none", rewards={0: 2.0, 1: 3.0}))
    coupling = {"kind": "advantage_sum", "reward_name": "judge", "baseline": "none"}
    objective = method(estimator="score_function", coupling=coupling)
    assert objective.teachers() == {"teacher", "judge"}
    rows = Rows.of([record(episode([1, 1]), *said)])
    ratio = rows.teachers["teacher"].taken_logprob_A - rows.logprob_A
    np.testing.assert_allclose(prepare(objective, rows, Clock(0, 1)).terms[0].advantage_A, ratio + np.array([5.0, 3.0]))


def test_two_terms_are_the_sum_of_their_advantages_and_may_be_weighed_each() -> None:
    """What couples in the advantage, as for MOPD, is the sum of two terms where no ratio is clipped."""
    records = [record(episode([2, 1], index=i, reward=float(i), success=i == 1), Saying()) for i in range(2)]
    rows, sampler = Rows.of(records), {"per_task": 2}
    coupling = {"kind": "advantage_sum", "distillation": 0.5, "reinforcement": 2.0}
    (joined,) = prepare(method(sampler=sampler, estimator="score_function", coupling=coupling), rows, Clock(0, 1)).terms
    reward = {"target": {"kind": "reward"}, "estimator": {"kind": "score_function", "baseline": "group_normalised"}}

    def apart(**distilled: Any) -> NDArray[Any]:
        """Minus the gradient in each row's log-probability."""
        terms = [{"name": "opd", "estimator": "score_function", "coefficient": 0.5, **distilled}]
        both = method(sampler=sampler, terms=[*terms, {"name": "rl", "coefficient": 2.0, **reward}])
        first, second = (t.coef_A * t.advantage_A for t in prepare(both, rows, Clock(0, 1)).terms)
        return first + second

    np.testing.assert_allclose(apart(), joined.coef_A * joined.advantage_A)
    ratio = rows.teachers["teacher"].taken_logprob_A - rows.logprob_A
    weight = np.exp(-rows.teachers["teacher"].entropy_A)
    np.testing.assert_allclose(apart(weight="teacher_entropy") - apart(), (weight - 1.0) * 0.5 * ratio / len(rows))


def test_weights_may_multiply_the_distilled_part_of_a_sum_alone() -> None:
    records = [record(episode([2, 1], index=i, reward=float(i), success=i == 1), Saying()) for i in range(2)]
    rows, sampler = Rows.of(records), {"per_task": 2}
    coupling = {"kind": "advantage_sum", "distillation": 0.5, "reinforcement": 2.0}

    def prepared_with(**more: Any) -> Any:
        given = {"sampler": sampler, "estimator": "score_function", "weight": "teacher_entropy"}
        return prepare(method(**given, coupling={**coupling, **more}), rows, Clock(0, 1)).terms[0]

    weight = np.exp(-rows.teachers["teacher"].entropy_A)
    ratio = rows.teachers["teacher"].taken_logprob_A - rows.logprob_A
    outcome = np.array([-1.0] * 3 + [1.0] * 3) * 0.5 / (0.5 + 1e-6)
    both, alone = prepared_with(), prepared_with(weighted="distillation")
    np.testing.assert_allclose(both.coef_A * both.advantage_A, weight * (0.5 * ratio + 2.0 * outcome) / 6)
    np.testing.assert_allclose(alone.advantage_A, 0.5 * weight * ratio + 2.0 * outcome)
    np.testing.assert_allclose(alone.coef_A, [1 / 6] * 6)
    np.testing.assert_allclose(alone.weight_A, weight)


def test_terms_are_routed_by_outcome_and_annealed_as_a_pair() -> None:
    records = [record(episode([2], index=i, success=i == 1), Saying()) for i in range(2)]
    fading = {"kind": "linear", "start": 1.0, "end": 0.0}
    terms = [
        {
            "name": "keep",
            "where": {"actor": "student", "success": True},
            "target": {"kind": "taken"},
            "coefficient": fading,
        },
        {
            "name": "mend",
            "where": {"actor": "student", "success": False},
            "coefficient": {**fading, "start": 0.0, "end": 2.0},
        },
    ]
    for step, (keep, mend) in ((0, (0.5, 0.0)), (2, (0.25, 0.5)), (4, (0.0, 1.0))):
        found = prepare(method(terms=terms), Rows.of(records), Clock(step, 5)).terms
        assert [term.coef_A.tolist() for term in found] == [[0.0, 0.0, keep, keep], [mend, mend, 0.0, 0.0]]


def test_which_log_probability_is_explicit() -> None:
    rows = Rows.of([record(episode([2]), Saying())])
    live = LiveColumns(np.array([-0.5, -0.25]), np.zeros(2))
    objective = method(estimator={"kind": "score_function", "logprobs": "recomputed"})
    assert objective.needs_live
    term = prepare(objective, rows.with_live(live), Clock(0, 1)).terms[0]
    np.testing.assert_allclose(term.advantage_A, rows.teachers["teacher"].taken_logprob_A - live.logprob_A)
    np.testing.assert_allclose(term.old_A, live.logprob_A)
    with pytest.raises(ValueError, match="needs the live pass"):
        prepare(objective, rows, Clock(0, 1))


def test_an_infinite_log_ratio_is_refused() -> None:
    rows = Rows.of([record(episode([2]), Saying())])
    rows.teachers["teacher"].taken_logprob_A[0] = -np.inf
    with pytest.raises(
        ValueError, match=r"finite log-probabilities of the taken tokens from teacher 'teacher'.*1 of 2 rows"
    ):
        prepare(method(estimator="score_function"), rows, Clock(0, 1))
