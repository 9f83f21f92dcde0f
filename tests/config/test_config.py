"""The configuration: files, overrides, short forms, and what is said of mistakes."""

import re
from pathlib import Path
from typing import Any

import pytest

from agentopd.config import Config, build, dump, load_config
from agentopd.config.overrides import apply
from agentopd.config.shipped import load_recipe, load_yaml, recipes
from agentopd.errors import ConfigError

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
def test_every_recipe_says_where_it_comes_from_and_is_valid_or_says_what_it_needs(name: str) -> None:
    recipe = load_recipe(name)
    if needs := recipe.get("needs"):
        with pytest.raises(ConfigError, match=re.escape(f"this method needs {needs}")):
            load_config("quickstart", [f"method={name}"])
    else:
        assert load_config("quickstart", [f"method={name}"]).objective.title == recipe["title"]
    assert all(recipe["axes"][axis] for axis in ("signal", "access", "granularity"))
    assert recipe["formula"]
    assert name == "agentopd" or recipe["paper"]
    (path,) = (Path(__file__).parents[2] / "configs" / "methods").rglob(f"{name}.yaml")
    assert path.read_text().startswith(f"# agentopd train configs/quickstart.yaml method={name}\n")


def test_a_method_brings_teachers_that_the_configuration_may_replace() -> None:
    own = {"kind": "self"}
    method = {
        "terms": [{"target": {"kind": "distribution", "name": "mine"}}],
        "teachers": {"mine": {"kind": "privileged", "hint": "{facts}"}},
    }
    raw = {"env": "agentopd/Checkout-v0", "student": {"new": {}}, "method": method}
    assert load_config(raw).teachers["mine"].kind == "privileged"
    assert load_config({**raw, "teachers": {"mine": own}}).teachers["mine"].kind == "self"
    added = load_config(raw, ["teachers={other: {kind: expert}}"])
    assert {name: teacher.kind for name, teacher in added.teachers.items()} == {"mine": "privileged", "other": "expert"}
    assert load_config(raw, ["teachers={mine: {kind: self}}"]).teachers["mine"].kind == "self"
    with pytest.raises(ConfigError, match=r"method.teachers: expected teachers by name"):
        load_config({**raw, "method": {**method, "teachers": 3}})


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


def test_a_recipe_is_the_start_and_the_objective_comes_after_in_any_order() -> None:
    overrides = ["objective.divergence.beta=0.25", "objective.aggregate=turn", "method=gkd"]
    config = load_config("quickstart", overrides)
    assert config.objective.terms[0].divergence.plain() == {"kind": "jsd", "beta": 0.25, "clip": None}
    assert config.objective.aggregate.kind == "turn"
    assert set(config.objective.sources["fresh"].actors) == {"student", "teacher"}
    assert config == load_config("quickstart", overrides[::-1])


def test_the_last_method_wins_and_one_word_replaces_a_kind_whatever_the_order() -> None:
    overrides = ["objective.divergence.kind=reverse_kl", "method=grpo", "method=gkd"]
    config = load_config("quickstart", overrides)
    assert config.objective.terms[0].divergence.plain() == {"kind": "reverse_kl", "clip": None}
    assert config.objective.title == load_recipe("gkd")["title"]


def test_a_method_override_replaces_the_files_method_and_objective_alone(caplog: pytest.LogCaptureFixture) -> None:
    file = MINIMAL | {"method": "gkd", "objective": {"aggregate": "sequence", "divergence": "skew_forward_kl"}}
    merged = build(file).objective
    assert (merged.aggregate.kind, merged.terms[0].divergence.kind) == ("sequence", "skew_forward_kl")
    assert merged.title == load_recipe("gkd")["title"]
    plain = load_config(MINIMAL | {"method": "agentopd"})
    assert not caplog.messages
    assert load_config(file, ["method=agentopd"]) == plain
    [told] = caplog.messages
    assert told.startswith("method='agentopd' leaves out objective.aggregate, objective.divergence of")
    assert load_config(file, ["objective.rescale=true", "method=agentopd"]).objective.terms[0].rescale is True


def test_a_whole_objective_replaces_the_files_and_keeps_the_method() -> None:
    file = MINIMAL | {"method": "gkd", "objective": {"aggregate": "sequence"}}
    objective = load_config(file, ["objective={divergence: reverse_kl}"]).objective
    assert objective == load_config(MINIMAL | {"method": "gkd", "objective": {"divergence": "reverse_kl"}}).objective
    assert objective.aggregate.kind == "token"


def test_an_override_of_a_resolved_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(dump(load_config("quickstart")))
    again = load_config(
        tmp_path / "config.yaml",
        ["objective.aggregate=turn", "method=gkd", "env.id=agentopd/Calculator-v0", "teacher.where.every=2"],
    )
    assert again.objective == load_config("quickstart", ["method=gkd", "objective.aggregate=turn"]).objective
    assert again.envs[0].id == "agentopd/Calculator-v0"
    assert again.teachers["teacher"].settings["where"].every == 2


def test_the_long_form_overrides_the_short_one() -> None:
    overrides = ["envs.0.weight=2", "teachers.teacher.max_tokens=7"]
    config = load_config(MINIMAL, overrides)
    assert (config.envs[0].id, config.envs[0].weight) == ("agentopd/Checkout-v0", 2.0)
    assert config.teachers["teacher"].settings["max_tokens"] == 7
    assert config == load_config(MINIMAL, ["env.weight=2", "teacher.max_tokens=7"])
    assert len(load_config(MINIMAL, ["envs=[a/B-v0, c/D-v0]"]).envs) == 2


@pytest.mark.parametrize("written", ["1e-3", "1E-3", "1.e-3", ".1e-2", "0.001", "1.0e-3"])
def test_numbers_with_an_exponent_are_numbers(written: str, tmp_path: Path) -> None:
    assert load_config("quickstart", [f"train.learning_rate={written}"]).train.learning_rate == 0.001
    config = load_config("quickstart", [f"env.kwargs={{failure_rate: {written}, name: '1e3'}}"])
    assert config.envs[0].kwargs == {"failure_rate": 0.001, "name": "1e3"}
    (tmp_path / "again.yaml").write_text(dump(config))
    assert load_config(tmp_path / "again.yaml") == config


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
        (["objective.target.name=techer"], ["objective.target.name=techer: ", "did you mean 'teacher'"]),
        (["train.steps"], ["key=value"]),
        (["objective.terms.7.weight=uniform"], ["objective.terms", "7"]),
        (["rollout.temperature.x=1"], ["rollout.temperature"]),
        (["student.dtype=int8"], ["student.dtype", "int8"]),
        (["objective.divergance.kind=jsd"], ["objective.divergance", "did you mean 'divergence'"]),
        (["teacher.kind=os:getcwd"], ["teacher: ", "'os:getcwd' takes ()", "(context, *, setting"]),
        (
            ["objective.coefficient={kind: step, values: [1], boundaries: [1]}"],
            ["objective.coefficient: ", "0 boundaries"],
        ),
        (["metod=gkd"], ["metod", "did you mean 'method'"]),
        (["teacher.new={hidden: 3}"], ["teacher", "new.hidden", "did you mean 'hidden_size'"]),
        (["method.beta=1"], ["method.beta", "objective.beta=1"]),
        (["train..steps=1"], ["train..steps=1", "key=value"]),
        (["train.steps=2001-99-99"], ["train.steps", "not valid YAML"]),
        (["env.kwargs.x=[1"], ["env.kwargs.x", "not valid YAML"]),
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


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """YAML's own readers take the last, so that a teacher would be lost without a word."""
    file = tmp_path / "twice.yaml"
    file.write_text("teachers:\n  judge: {kind: reward}\n  other: {kind: expert}\n  'judge': {kind: expert}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert str(caught.value) == f"{file}: 'judge' stands twice in one mapping, in lines 2 and 4; leave one of them out"
    with pytest.raises(ConfigError, match=r"^teachers\.judge: 'kind' stands twice in one mapping, in lines 1 and 1; "):
        load_config("quickstart", ["teachers.judge={kind: reward, kind: expert}"])
    file.write_text("x: {y: &a {<<: &b {k: 1}, k: 2}}\nz: {<<: [*a, *b], k: 3}\n")
    assert load_yaml(file) == {"x": {"y": {"k": 2}}, "z": {"k": 3}}


def test_a_teacher_in_both_forms_is_refused() -> None:
    both = MINIMAL | {"teachers": {"teacher": {"kind": "self"}}}
    with pytest.raises(
        ConfigError, match=r"^give either teacher \(the teacher of that name\) or teachers\.teacher, not both$"
    ):
        load_config(both)
    recipe = {
        "teachers": {"teacher": {"kind": "self"}},
        "terms": [{"target": {"kind": "distribution", "name": "teacher"}}],
    }
    assert (
        load_config(MINIMAL | {"method": recipe}).teachers["teacher"].kind == "local"
    )  # a file's, before its method's
    assert load_config(MINIMAL, ["teachers.teacher.model=y"]).teachers["teacher"].settings["model"] == "y"


def test_there_is_a_json_schema() -> None:
    schema = Config.model_json_schema()
    assert schema["properties"].keys() >= {"envs", "student", "teachers", "objective"}
