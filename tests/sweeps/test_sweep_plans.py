"""What a sweep is, and what it refuses to be, before anything runs."""

import json
from pathlib import Path

import pytest

from agentopd.config import load_config
from agentopd.config.differing import apart, settings_of
from agentopd.config.shipped import load_yaml
from agentopd.errors import ConfigError
from agentopd.sweeps.arms import Arm, grid, listed
from agentopd.sweeps.budget import Budget, read
from agentopd.sweeps.plan import Plan, keep, planned


def plan(*texts: str, budget: str | None = None, seeds: int = 1, also: tuple[str, ...] = ()) -> Plan:
    arms, fixed = grid(texts)
    return planned("quickstart", fixed, arms, seeds, None if budget is None else read(budget), also)


def test_lists_are_crossed_and_the_rest_is_of_all_arms() -> None:
    arms, fixed = grid(
        ["train.steps=5", "objective.divergence.kind=[jsd,forward_kl]", "train.learning_rate=[1e-3,0.01]"]
    )
    assert fixed == ["train.steps=5"]
    assert arms[0] == Arm(
        "kind=jsd,learning_rate=0.001", ('objective.divergence.kind="jsd"', "train.learning_rate=0.001")
    )
    assert [arm.name for arm in arms[1:]] == [
        "kind=jsd,learning_rate=0.01", "kind=forward_kl,learning_rate=0.001", "kind=forward_kl,learning_rate=0.01",
    ]  # fmt: skip


def test_names_are_told_apart_and_can_be_folders() -> None:
    arms, _ = grid(["objective.divergence.kind=[jsd]", "a.kind=[x/../y,z]", "b.kind=[1,2]"])
    assert [arm.name for arm in arms] == [
        "a.kind=x-..-y,b.kind=1", "a.kind=x-..-y,b.kind=2", "a.kind=z,b.kind=1", "a.kind=z,b.kind=2",
    ]  # fmt: skip
    assert all(arm.overrides[0] == 'objective.divergence.kind="jsd"' for arm in arms)
    assert [arm.name for arm in grid(["a=[{b: 1},{b: 1.0},[2]]"])[0]] == ["a=b-1", "a=b-1.0", "a=2"]
    assert [arm.name for arm in grid(["a=[[1],1]"])[0]] == ["a=1-1", "a=1-2"]


def test_names_are_cut_by_bytes_which_file_systems_count() -> None:
    hint = "先查询价格再计算总价" * 20
    names = [arm.name for arm in grid([f"teacher.hint=[{hint},{hint}最后]"])[0]]
    assert len(set(names)) == 2
    assert all(name.startswith("hint=先查询") and len(name.encode()) < 110 for name in names)


def test_a_setting_that_is_a_list_is_a_list_of_lists() -> None:
    found = plan("train.betas=[[0.9,0.95],[0.8,0.9]]")
    assert [config.train.betas for config in found.configs.values()] == [(0.9, 0.95), (0.8, 0.9)]


def test_arms_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "arms.yaml"
    file.write_text("plain: {}\nslow: {train.learning_rate: 1e-4}\njsd: [objective.divergence.kind=jsd]\n")
    assert listed(file) == [
        Arm("plain", ()), Arm("slow", ("train.learning_rate=0.0001",)), Arm("jsd", ("objective.divergence.kind=jsd",)),
    ]  # fmt: skip
    for text, why in (
        ("a: {}\n", "there are 1 arms"),
        ("a: {}\n../b: {}\n", "cannot be the name of a folder"),
        ("a: {}\n'': {}\n", "'' cannot be the name of a folder"),
        (f"a: {{}}\n{'b' * 101}: {{}}\n", "no more than 100 bytes"),
        ("a: {}\nb: 3\n", "b: expected settings"),
        ("a: {}\nb: [train.steps]\n", "is not an override"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=why):
            listed(file)


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (["train.steps=3"], "there is one arm"),
        (["train.steps=[]"], r"train.steps=\[\]: the list holds no value"),
        (["train.steps=[1,2]", "train.steps=3"], "train.steps is given twice"),
        (["seed=[1,2]"], "seed: arms play the same tasks with the same seeds"),
        (["env.kwargs.failure_rate=[0.1,0.2]"], "arms play the same tasks"),
        (["evaluation.tasks=[1,2]"], "arms play the same tasks"),
        (["train.lr=[1,2]"], "^train.lr: unknown key .did you mean 'lora'"),
        (
            ["train.learning_rate=[1,-1,x]"],
            r"arm learning_rate=-1: train.learning_rate: .*; arm learning_rate=x: train",
        ),
        (["train.learning_rate=[1e-3,0.001]"], "learning_rate=0.001-1 and learning_rate=0.001-2 are the same config"),
        (["train.tasks_per_step=[8,16]"], r"tasks_per_step=8 2400, tasks_per_step=16 4800.*--budget episodes=N"),
        (["method=[agentopd,grpo]"], "different numbers of episodes"),
        (["method=[gkd,sdft]"], r"more than was asked: teachers.shown \(method=gkd: null, .*--also teachers.shown"),
    ],
)
def test_what_is_refused(texts: list[str], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        plan(*texts)


def test_what_follows_from_what_is_asked_can_be_asked_for_too() -> None:
    assert len(plan("method=[gkd,sdft]", also=("teachers",)).arms) == 2
    assert len(plan("objective.divergence=[{kind: jsd, beta: 0.3},{kind: forward_kl}]").arms) == 2


def test_a_kind_is_asked_for_with_what_belongs_to_it() -> None:
    found = plan("objective.divergence.kind=[forward_kl,jsd]")
    plain = [config.model_dump(mode="json") for config in found.configs.values()]
    assert apart(plain) == ["objective.terms.0.divergence.kind", "objective.terms.0.divergence.beta"]
    assert settings_of(apart(plain)) == ["objective.terms.0.divergence"]


def test_a_budget_in_episodes_decides_the_steps() -> None:
    found = plan("train.tasks_per_step=[8,16]", budget="episodes=1000")
    assert [config.train.steps for config in found.configs.values()] == [125, 63]
    found = plan("method=[agentopd,grpo]", budget="episodes=1600")
    assert [config.train.steps for config in found.configs.values()] == [100, 13]  # 16, and 16 tasks by 8


def test_a_budget_in_episodes_is_the_only_one() -> None:
    found = plan("train.learning_rate=[0.1,0.2]", "train.budget={tokens: 50}", budget="episodes=1000")
    assert {config.train.budget for config in found.configs.values()} == {None}


def test_a_budget_in_tokens_or_seconds_ends_a_run() -> None:
    tokens, seconds = (plan("train.tasks_per_step=[8,16]", budget=text) for text in ("tokens=1e5", "seconds=2.5"))
    assert {config.train.budget.tokens for config in tokens.configs.values() if config.train.budget} == {100_000}
    assert {config.train.budget.seconds for config in seconds.configs.values() if config.train.budget} == {2.5}
    assert {config.train.steps for config in tokens.configs.values()} == {300}


def test_a_budget_is_of_all_arms_alike() -> None:
    assert [config.train.steps for config in plan("train.steps=[8,16]").configs.values()] == [8, 16]
    with pytest.raises(ConfigError, match=r"train\.steps differs from arm to arm, and --budget"):
        plan("train.steps=[8,16]", budget="episodes=100")
    for text in ("episodes", "turns=3", "tokens=0", "seconds=nan", "episodes=many"):
        with pytest.raises(ConfigError, match="expected episodes=N"):
            read(text)
    assert read("tokens=1e5") == Budget("tokens", 1e5)


def test_a_sweep_of_a_version_that_had_fewer_settings_goes_on(tmp_path: Path) -> None:
    keep(plan("train.learning_rate=[0.1,0.2]"), tmp_path)
    file = tmp_path / "learning_rate=0.1" / "config.yaml"
    plain = load_yaml(file)
    del plain["rollout"]["max_failures"], plain["train"]["profile"]
    file.write_text(json.dumps(plain))
    keep(plan("train.learning_rate=[0.1,0.2]", seeds=3), tmp_path)


def test_a_folder_is_added_to_and_never_changed(tmp_path: Path) -> None:
    keep(plan("train.learning_rate=[0.1,0.2]"), tmp_path)
    (tmp_path / "learning_rate=0.2" / "config.yaml").unlink()  # as a kill in the middle leaves it
    keep(plan("train.learning_rate=[0.1,0.3]", seeds=3), tmp_path)
    keep(plan("train.learning_rate=[0.1,0.2]", seeds=3), tmp_path)
    kept = json.loads((tmp_path / "sweep.json").read_text())
    assert [*kept["arms"]] == ["learning_rate=0.1", "learning_rate=0.2", "learning_rate=0.3"]
    assert kept["seeds"] == [0, 1, 2]
    assert kept["config"] == "quickstart"
    assert load_config(tmp_path / "learning_rate=0.2" / "config.yaml").train.learning_rate == 0.2
    with pytest.raises(ConfigError, match=r"learning_rate=0.1 was begun with train.steps=300, and this asks for 7"):
        keep(plan("train.learning_rate=[0.1,0.2]", "train.steps=7"), tmp_path)
    with pytest.raises(ConfigError, match=r"have the budget None, and this asks for .*tokens"):
        keep(plan("train.learning_rate=[0.4,0.5]", budget="tokens=100"), tmp_path)
    with pytest.raises(ConfigError, match=r"more than was asked: train.weight_decay"):
        keep(plan("train.learning_rate=[0.4,0.5]", "train.weight_decay=0.1"), tmp_path)
    keep(plan("train.weight_decay=[0.1,0.2]", "train.learning_rate=0.1"), tmp_path)
    with pytest.raises(
        ConfigError, match=r"different numbers of episodes \(learning_rate=0.1 4800, .*learning_rate=0.4 2400"
    ):
        keep(plan("train.learning_rate=[0.4,0.5]", "train.tasks_per_step=[8]"), tmp_path)
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(ConfigError, match=r"sweep.json cannot be read"):
        keep(plan("train.learning_rate=[0.1,0.2]"), tmp_path)
