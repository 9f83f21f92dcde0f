"""A step of real size on a graphics card: whether a case runs, on a processor, and the tables by hand."""

import pytest

from agentopd.planning.hardware import hardware
from benchmarks import card
from benchmarks.rollout_kv import MODELS, prepared


def test_a_small_case_runs_and_is_foretold() -> None:
    found = card.measured(card.SMOKE, hardware("H200"), episodes=8, turns=2, steps=1)
    [step] = found["steps"]
    assert set(step) == {*card.STAGES, "step"} or {"tensors", "held"} < set(step)
    assert found["length"] == 200 + 32 + 60 + 32
    assert found["common"] >= 160
    # 8 episodes behind one beginning: 6 operations a weight of the layers, of the head a row that is trained, and the teacher's head
    common, weights = found["common"], 7 * 32 * 32
    products = 6 * weights * (8 * 324 - 7 * common) + (6 + 2) * 32 * len(prepared(MODELS["tokens"]).tokenizer) * 8 * 64
    attended = 3.5 * 4 * 32 * (8 * 324**2 - 7 * common**2) / 2
    assert found["flops"] == pytest.approx(products + attended, rel=1e-3)
    assert "| smoke |" in card.table({"smoke": found})


def test_what_checkpointed_layers_repeat_is_not_utilised() -> None:
    plain = card.measured(card.SMOKE, hardware("H200"), episodes=8, turns=2, steps=1)
    again = card.measured(
        card.SMOKE | {"arguments": {"gradient_checkpointing": True}}, hardware("H200"), episodes=8, turns=2, steps=1
    )
    each = again["flops"] - plain["flops"]  # rows are read each, and nothing twice
    assert each == pytest.approx(
        6 * 7 * 32 * 32 * 7 * plain["common"] + 3.5 * 4 * 32 * 7 * plain["common"] ** 2 / 2, rel=0.01
    )


def test_the_tables_by_hand() -> None:
    steps = [{"step": 4.0, "generate": 2.0, "teachers": 0.5, "learn": one, "held": 2.0**31} for one in (1.0, 9.0, 1.0)]
    found = {"steps": steps, "flops": 4e14, "rate": 1e15, "predicted": {"learn": 1.5, "held": 2.0**30, "tensors": 1.0}}
    lines = card.table({"a": found}).splitlines()
    assert "| a | 4.00 | 2.00 | 0.50 | 1.00 | 400 | 40% |" in lines
    assert "| a | learn | 1.5 s | 1 s | +50% |" in lines
    assert "| a | held | 1 GiB | 2 GiB | -50% |" in lines
    assert not any("tensors" in line for line in lines)


def test_without_a_card_nothing_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        card.main(["--results", "nowhere.json"])
    assert "give --hardware" in capsys.readouterr().err
