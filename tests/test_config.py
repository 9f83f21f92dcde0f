"""The configuration: files, overrides, short forms, and what is said of mistakes."""

from pathlib import Path
from typing import Any

import pytest

from agentopd.config import Config, build, dump, load_config, load_recipe, recipes
from agentopd.errors import ConfigError
from agentopd.overrides import apply

MINIMAL: dict[str, Any] = {
    "env": "agentopd/Checkout-v0",
    "student": {"model": "somewhere"},
    "teacher": {"kind": "local", "model": "x"},
}


def test_quickstart_round_trips(tmp_path: Path) -> None:
    config = load_config("quickstart")
    (tmp_path / "again.yaml").write_text(dump(config))
    assert dump(load_config(tmp_path / "again.yaml")) == dump(config)


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_valid_and_says_where_it_comes_from(name: str) -> None:
    config = load_config("quickstart", [f"method={name}"])
    assert config.objective.title
    assert load_recipe(name)["axes"].keys() == {"signal", "access", "granularity"}
    path = Path(__file__).parents[1] / "configs" / "methods" / f"{name}.yaml"
    assert path.read_text().startswith(f"# agentopd train configs/quickstart.yaml method={name}\n")


def test_short_forms() -> None:
    config = build(MINIMAL)
    assert config.envs[0].id == "agentopd/Checkout-v0"
    assert list(config.teachers) == ["teacher"]


def test_a_path_given_as_in_the_repository_finds_the_shipped_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("configs/quickstart.yaml") == load_config("quickstart")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("train.steps", 3, {"train": {"steps": 3, "lr": 1}}),
        ("objective.divergence.kind", "jsd", {"objective": {"divergence": {"kind": "jsd"}}}),
        ("objective.divergence.beta", 0.3, {"objective": {"divergence": {"kind": "skew", "alpha": 0.1, "beta": 0.3}}}),
        ("env.id", "a/B-v0", {"env": {"id": "a/B-v0"}}),
        ("env", {"id": "c"}, {"env": {"id": "c"}}),
        ("student.model", "hub/x", {"student": {"model": "hub/x", "dtype": "float32"}}),
        ("objective.terms.0.coefficient", 2, {"objective": {"terms": [{"coefficient": 2, "name": "a"}]}}),
    ],
)
def test_overrides(key: str, value: Any, expected: dict[str, Any]) -> None:
    raw = {
        "train": {"steps": 1, "lr": 1},
        "env": {"id": "a", "kwargs": {"depth": 2}},
        "student": {"new": {}, "dtype": "float32"},
        "objective": {"divergence": {"kind": "skew", "alpha": 0.1}, "terms": [{"name": "a"}]},
    }
    changed = apply(raw, key, value)
    for root in expected:
        kept = expected[root]
        got = {name: changed[root][name] for name in kept} if isinstance(kept, dict) else changed[root]
        assert got == kept
    if key.endswith((".kind", ".id", ".model")):
        parent = key.rsplit(".", 1)[0].split(".")
        node: Any = changed
        for part in parent:
            node = node[part]
        assert not {"alpha", "kwargs", "new"} & set(node)


def test_a_recipe_is_the_start_and_the_objective_comes_after() -> None:
    config = load_config("quickstart", ["method=gkd", "objective.divergence.beta=0.25"])
    assert config.objective.terms[0].divergence.plain() == {"kind": "jsd", "beta": 0.25}


def test_an_override_of_a_resolved_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(dump(load_config("quickstart")))
    again = load_config(
        tmp_path / "config.yaml", ["method=gkd", "env.id=agentopd/Calculator-v0", "teacher.where.every=2"]
    )
    assert again.objective.terms[0].divergence.kind == "jsd"
    assert again.envs[0].id == "agentopd/Calculator-v0"
    assert again.teachers["teacher"].settings["where"].every == 2


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.stepz=3"], ["train.stepz", "did you mean 'steps'"]),
        (["studnt.model=x"], ["studnt", "did you mean 'student'"]),
        (["train.steps=many"], ["train.steps", "many"]),
        (["train.steps=0"], ["train.steps", "greater than or equal to 1"]),
        (["objective.divergence.kind=jds"], ["divergence", "'jds'", "did you mean 'jsd'", "forward_kl"]),
        (["objective.divergence.kind=jsd", "objective.divergence.betta=0.1"], ["betta", "did you mean 'beta'"]),
        (["objective.divergence.kind=jsd", "objective.divergence.beta=1.5"], ["beta", "1.5"]),
        (["teachers.teacher.kind=locl"], ["teacher", "'locl'", "did you mean 'local'"]),
        (["objective.divergence.kind=nowhere.at:all"], ["nowhere.at:all", "package.module:name"]),
        (["method=gdk"], ["'gdk'", "did you mean 'gkd'"]),
        (["objective.target.name=techer"], ["'techer'", "did you mean 'teacher'"]),
        (["train.steps"], ["key=value"]),
        (["objective.terms.7.weight=uniform"], ["objective.terms", "7"]),
        (["rollout.temperature.x=1"], ["rollout.temperature"]),
        (["student.dtype=int8"], ["student.dtype", "int8"]),
    ],
)
def test_bad_input_names_the_path_and_the_remedy(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("quickstart", overrides)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_file_lists_those_that_are_shipped(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="shipped ones are: quickstart"):
        load_config(tmp_path / "nothing.yaml")


def test_broken_yaml_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match=r"broken\.yaml is not valid YAML"):
        load_config(tmp_path / "broken.yaml")


def test_there_is_a_json_schema() -> None:
    schema = Config.model_json_schema()
    assert schema["properties"].keys() >= {"envs", "student", "teachers", "objective"}
