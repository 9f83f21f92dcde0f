"""Bytes of every part, by hand and beside real ones."""

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from model_cases import model_of
from planning_cases import SHAPE, STEP, setup
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Trainer, TrainingArguments

from agentopd.config import Config, load_config
from agentopd.objective import chunked, linear_divergence
from agentopd.objective.head import Head
from agentopd.planning.activations import Numbers, behind, of_token
from agentopd.planning.memory import CONTEXT, EVALUATED, GENERATE, LEARN, READ, TEACHERS, Device, during, parts, peak
from agentopd.planning.setup import Held, Setup, Trained, kept_by
from agentopd.training.checks.checkpointed import Checkpoints

CARD = Device(1e6, cpu=False)
EACH = Checkpoints()
TINY = {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 24, "max_positions": 1024, "vocab_size": 400}


def bytes_of(found: Any) -> dict[str, float]:
    return {part.name: part.bytes for part in found}


def test_every_part_by_hand() -> None:
    found = bytes_of(parts(setup(), STEP, CARD))
    cached = 2 * 2 * 4 * 4  # keys and values, in two layers, of 4 numbers, of 4 bytes
    assert found == {
        "student": 5600,
        "teachers.teacher": 5600,
        "gradients": 5600,
        "optimiser": 11200,
        "teachers.teacher hidden states": 4 * 40 * 8 * 4,  # of what was drawn
        "caches": 2 * 2 * 100 * cached,  # twice, of two episodes that live at once
        # 200 tokens pass through, what is cached of them, and logits of 512 rows
        "reading": 200 * 4 * (3 * 16 + 4 * 8) + 200 * cached + 512 * 50 * 4 * (1 + READ),
        "activations": 200 * of_token(SHAPE, Numbers(4), None),
        "logits": 10 * 50 * 4 * (2 + EVALUATED),
        "head's gradient": 50 * 8 * 4,
    }


def test_parts_are_there_in_their_stages_alone() -> None:
    found = parts(setup(), STEP, CARD)
    always = 5600 + 11200 + 5600
    of_each = bytes_of(found)
    assert during(found, GENERATE) == always + of_each["caches"]
    assert during(found, TEACHERS) == always + of_each["reading"] + of_each["teachers.teacher hidden states"]
    assert peak(found) == (TEACHERS, during(found, TEACHERS))
    assert peak([part for part in found if part.name != "reading"]) == (LEARN, during(found, LEARN))
    assert during(found, LEARN) == sum(of_each.values()) - of_each["caches"] - of_each["reading"]


def test_shards_divide_what_is_learned_and_gather_a_layer() -> None:
    whole, divided = (bytes_of(parts(setup(), STEP, Device(1e6, False, 4, one))) for one in (False, True))
    for name in ("gradients", "optimiser"):
        assert divided[name] == whole[name] / 4
    assert divided["gathered"] == (1000 / 2 + 400) * 4
    assert (divided["student"], divided["shards"]) == (
        whole["student"],
        5600 / 4,
    )  # the student itself acts, and stays whole
    assert {name: divided[name] for name in whole if name in ("activations", "logits", "caches")} == {
        name: whole[name] for name in ("activations", "logits", "caches")
    }


def test_a_student_that_acts_while_it_learns_has_a_copy_of_what_is_trained() -> None:
    assert bytes_of(parts(setup(follows=True), STEP, CARD))["acting copy"] == 5600
    assert "acting copy" not in bytes_of(parts(setup(), STEP, CARD))


def test_a_vllm_server_takes_its_share_and_the_teachers_play_panels_here() -> None:
    served = setup(engine="vllm", reserved=0.25)
    found = bytes_of(parts(served, STEP, CARD))
    assert found["vLLM server"] == 0.25e6
    assert found["caches of teacher's panel"] == bytes_of(parts(setup(), STEP, CARD))["caches"]
    mute = setup(engine="vllm", reserved=0.25, teachers=())
    assert not any(name.startswith("caches") for name in bytes_of(parts(mute, STEP, CARD)))


def test_a_vllm_server_that_sleeps_is_there_while_turns_are_written_alone() -> None:
    awake, sleeping = (parts(setup(engine="vllm", reserved=0.25, sleeps=one), STEP, CARD) for one in (False, True))
    assert all(during(awake, stage) >= 0.25e6 for stage in (GENERATE, TEACHERS, LEARN))
    assert "sleep: true" in next(part.remedy for part in awake if part.name == "vLLM server")
    assert "sleep" not in next(part.remedy for part in sleeping if part.name == "vLLM server")
    assert during(awake, LEARN) - during(sleeping, LEARN) == 0.25e6 - CONTEXT
    caches = bytes_of(awake)["caches of teacher's panel"]
    assert during(awake, GENERATE) - during(sleeping, GENERATE) == caches  # which is played while it sleeps
    assert during(sleeping, TEACHERS) - during(awake, TEACHERS) == caches + CONTEXT - 0.25e6


def test_vllm_in_this_process_takes_the_share_of_a_server_and_sleeps_without_a_process_of_its_own() -> None:
    served, here = (
        parts(setup(engine=one, reserved=0.25, sleeps=True), STEP, CARD) for one in ("vllm", "vllm_in_process")
    )
    assert bytes_of(here)["vLLM"] == bytes_of(served)["vLLM server"]
    assert during(here, GENERATE) == during(served, GENERATE)
    assert during(here, LEARN) == during(served, LEARN) - CONTEXT


def test_a_server_on_a_cpu_has_nothing_to_give_back() -> None:
    here = Device(1e6, cpu=True)
    found = [parts(setup(engine="vllm", reserved=0.25, sleeps=one), STEP, here) for one in (False, True)]
    assert found[0] == found[1]


def test_a_remedy_is_not_what_is_done_already() -> None:
    halves = setup(student=Held("student", SHAPE, 2), teachers=(Held("teacher", SHAPE, 2, max_tokens=200),))
    for planned, says in ((setup(), True), (halves, False)):
        remedies = {part.name: part.remedy for part in parts(planned, STEP, CARD)}
        assert all(("dtype" in remedies[name]) is says for name in ("student", "teachers.teacher"))


def test_more_tasks_of_a_panel_live_at_once_than_of_a_step() -> None:
    found = bytes_of(parts(setup(panel=8, concurrency=8), STEP, CARD))
    assert found["caches of teacher's panel"] == 2 * 8 * 100 * 64


def test_actors_cache_together() -> None:
    both = setup(teachers=(Held("teacher", SHAPE, 4, acts=True, max_tokens=200),))
    assert bytes_of(parts(both, STEP, CARD))["caches"] == 2 * bytes_of(parts(setup(), STEP, CARD))["caches"]


def test_an_adapter_autocast_and_a_teacher_that_is_the_student() -> None:
    adapted = setup(
        trained=Trained(100, 400.0, 800.0, rank=2),
        teachers=(Held("teacher", SHAPE, 4, max_tokens=200, borrowed=True),),
        autocast=True,
    )
    found = bytes_of(parts(adapted, STEP, CARD))
    assert "teachers.teacher" not in found
    assert "head's gradient" not in found
    assert found["weights cast"] == 1000 * 2
    assert found["activations"] == 200 * of_token(SHAPE, Numbers(4, True, 2), None)


def test_weights_that_wait_by_hand() -> None:
    """Of 1400 weights 900 are the layers', the largest of them 120."""
    shape = replace(SHAPE, layered=900, largest=120)

    def taught(offload: bool | None) -> Setup:
        return setup(teachers=(Held("teacher", shape, 2, max_tokens=200, offload=offload),))

    found = parts(taught(True), STEP, CARD)
    sizes = bytes_of(found)
    assert (sizes["teachers.teacher"], sizes["weight that waited"]) == (500 * 2, 120 * 2)
    assert during(found, LEARN) == sum(sizes.values()) - sizes["caches"] - sizes["reading"] - 120 * 2
    on_cpu = bytes_of(parts(taught(True), STEP, Device(1e6, cpu=True)))  # whose memory is the host's
    assert (on_cpu["teachers.teacher"], "weight that waited" in on_cpu) == (1400 * 2, False)
    for offload, told in ((False, True), (None, False), (True, False)):
        [part] = [one for one in parts(taught(offload), STEP, CARD) if one.name == "teachers.teacher"]
        assert ("set teachers.teacher.offload: true" in part.remedy) == told


def test_weights_in_four_bits_by_hand() -> None:
    """A byte for 64 weights, and four for 256 of those."""
    four = Held("student", replace(SHAPE, packable=900), 2, acts=True, quantized=True)
    assert four.bytes == 500 * 2 + 900 * (0.5 + 1 / 64 + 4 / (64 * 256))
    assert four.moved == four.products == four.bytes + 900 * (2 + 2)  # written in its dtype, and read again
    adapter = Trained(100, 400.0, 800.0, rank=2)
    found = bytes_of(parts(setup(student=four, trained=adapter, teachers=()), STEP, CARD))
    assert (found["student"], found["layer unpacked"]) == (four.bytes, 8 * 16 * 2)
    plain = Held("student", replace(SHAPE, packable=900), 2, acts=True)
    assert (plain.bytes, plain.moved, plain.products) == (2800, 2800, 2800)
    assert "layer unpacked" not in bytes_of(parts(setup(student=plain, trained=adapter, teachers=()), STEP, CARD))
    taught = setup(teachers=(replace(four, name="teacher", itemsize=4, max_tokens=200),))
    assert bytes_of(parts(taught, STEP, CARD))["layer unpacked"] == 8 * 16 * 4


def test_episodes_that_begin_alike_keep_their_beginning_once() -> None:
    alike, token = replace(STEP, common=80), of_token(SHAPE, Numbers(4), None)
    found = bytes_of(parts(setup(), alike, CARD))
    assert found["activations"] == (200 - 80) * token + 2 * behind(SHAPE, Numbers(4), 100, 80)
    assert bytes_of(parts(setup(checkpoints=EACH), alike, CARD))["activations"] == 200 * of_token(
        SHAPE, Numbers(4), EACH
    )


def test_inputs_that_wait_in_the_hosts_memory_are_on_no_card() -> None:
    away = setup(checkpoints=Checkpoints(offload=True))
    on_card, on_host = (bytes_of(parts(away, STEP, on))["activations"] for on in (CARD, Device(1e6, True)))
    kept = bytes_of(parts(setup(checkpoints=EACH), STEP, CARD))["activations"]
    assert on_host == kept == on_card + 200 * 2 * SHAPE.hidden * 4


def test_layers_that_keep_less_are_a_remedy_until_nothing_is_left_to_keep() -> None:
    def remedy(checkpoints: Checkpoints | None, cpu: bool = False) -> str:
        found = parts(setup(checkpoints=checkpoints), STEP, Device(1e6, cpu))
        return next(part.remedy for part in found if part.name == "activations")

    assert "gradient_checkpointing: true" in remedy(None)
    assert "offload: true" in remedy(EACH)
    assert "checkpointing" not in remedy(EACH, cpu=True) + remedy(Checkpoints(offload=True))


def test_no_batch_is_larger_than_the_step() -> None:
    found = bytes_of(parts(setup(max_tokens=10**6), STEP, CARD))
    assert found["activations"] == 400 * of_token(SHAPE, Numbers(4), None)


class Living(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes that tensors hold at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._seen: dict[int, int] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), more: Any = None) -> Any:
        made = operation(*arguments, **(more or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        self.most = max(self.most, self.now)
        return made

    def _note(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self._seen[key] = size
            self.now += size
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._seen.pop(key)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_of_logits_that_live_at_once(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a graphics card, where a tile is a whole chunk."""
    monkeypatch.setattr(chunked, "TILE", 2**40)
    rows, vocabulary, hidden = 64, 5000, 8
    student, teacher = (torch.randn(2 * rows, hidden, dtype=dtype) for _ in range(2))
    one, other = (torch.randn(vocabulary, hidden, dtype=dtype) for _ in range(2))
    student.requires_grad_()
    with Living() as living:
        linear_divergence(student, one, teacher, other, kind="forward_kl", chunk_rows=rows)
    numbers = rows * vocabulary
    assert 0.85 < living.most / (numbers * (2 * dtype.itemsize + 4 * EVALUATED)) < 1.05
    with Living() as living:
        chunked.statistics(teacher, Head(other), torch.zeros(2 * rows, dtype=torch.long), chunk_rows=rows)
    assert 0.8 < living.most / (numbers * (dtype.itemsize + 4 * READ)) < 1.05


def config_of(*overrides: str) -> Config:
    raw = {
        "env": "agentopd/Checkout-v0",
        "student": {"new": TINY},
        "teachers": {"teacher": {"kind": "self"}},
        "method": "agentopd",
    }
    return load_config(raw, overrides)


@pytest.mark.parametrize("name", ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad"])
def test_what_optimisers_keep_is_what_real_ones_keep(name: str) -> None:
    model = model_of("qwen3", torch.float32)
    args = TrainingArguments("unused", optim=name, use_cpu=True, report_to=[])
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(args)
    optimizer = kind(model.parameters(), **settings)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    real = sum(v.nbytes for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor))
    meta = [torch.nn.Parameter(p.detach().to("meta")) for p in model.parameters()]
    assert kept_by(config_of(f"train.optimizer={name}"), meta, pytest.fail) == real
