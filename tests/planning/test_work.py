"""Operations beside those that torch counts; seconds by hand."""

from dataclasses import replace

import pytest
import torch
from planning_cases import DEVICE, SHAPE, STEP, setup
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from agentopd.forward import hidden_states
from agentopd.objective import linear_divergence
from agentopd.planning.seconds import ARITHMETIC, BANDWIDTH, ISSUING, LINK, stages, timed
from agentopd.planning.setup import Held, Trained
from agentopd.planning.shape import shape_of
from agentopd.planning.step import Reading, Step, read
from agentopd.planning.work import Work, attention, decoding, exchanged, forward, heads, learning, prefilling, reading
from agentopd.training.checks.checkpointed import Checkpoints

TOKENS = 48


def small() -> LlamaForCausalLM:
    sizes = LlamaConfig(
        hidden_size=64,
        intermediate_size=160,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=100,
        num_hidden_layers=3,
    )
    sizes._attn_implementation = "eager"
    return LlamaForCausalLM(sizes)  # type: ignore[no-untyped-call]


def test_a_forward_pass_has_the_operations_that_torch_counts() -> None:
    model = small()
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model(input_ids=torch.zeros(2, TOKENS, dtype=torch.long))
    # eager attention computes the whole matrix, what stands behind too
    assert counted.get_total_flops() == forward(shape_of(model), 2 * TOKENS, 2 * TOKENS * TOKENS, 2 * TOKENS)


@pytest.mark.parametrize("every", [None, 1, 2])
def test_a_step_of_learning_has_the_operations_that_torch_counts(every: int | None) -> None:
    model, teacher = small().train(), torch.randn(100, 64)
    if every is not None:
        model.gradient_checkpointing_enable({"use_reentrant": False}, every_n_layers=every)
    ids_B_T = torch.arange(2 * TOKENS).reshape(2, TOKENS)
    with FlopCounterMode(display=False) as counted:
        hidden_A_H = hidden_states(model, ids_B_T).flatten(0, 1)
        linear_divergence(hidden_A_H, model.lm_head.weight, hidden_A_H.detach(), teacher).loss.backward()  # type: ignore[no-untyped-call]
    shape = shape_of(model)
    held = Held("student", shape, 4)
    trained = Trained(shape.parameters, 4.0 * shape.parameters, 8.0 * shape.parameters)
    step = Step(2, 2, TOKENS, TOKENS, 1, TOKENS / 2)
    planned = setup(student=held, teachers=(held,), trained=trained, checkpoints=Checkpoints(every) if every else None)
    # eager attention computes the whole matrix, and keeps it: its backward pass has four matrix products rather than five
    tokens, again = 2 * TOKENS, {None: 0, 1: 1, 2: 2 / 3}[every]  # of 3 layers
    eager = (3 + again) * attention(shape, tokens * TOKENS) - (3.5 + again) * attention(shape, tokens * TOKENS / 2)
    # torch does not count addmm_, which sums the head's gradient, and counts logits that the forward pass gives of each last token
    unseen = 2 * shape.head * (tokens - 2)
    # a layer that is computed anew ends before its last matrix product, whose result nobody needs
    early = again * 2 * shape.layers * shape.feed_forward * shape.hidden * tokens
    assert learning(planned, step).flops + eager - unseen - early == counted.get_total_flops()


def test_an_adapter_saves_the_gradients_of_weights() -> None:
    whole, adapted = learning(setup(), STEP), learning(setup(trained=Trained(100, 400.0, 800.0, rank=2)), STEP)
    tokens, rows = 400, 160
    assert whole.flops - adapted.flops == 2 * 1000 * tokens + 2 * 400 * rows - 6 * 100 * tokens


def test_counts_by_hand() -> None:
    looked = 4 * 2 * 8 * 80  # two matrix products of 2 layers, 8 numbers of queries, over 80 tokens
    assert attention(SHAPE, 80) == looked
    one = decoding(setup().student, 3, 80, issued=True)
    assert one == Work(3 * (2000 + 800 + looked), 4 * 1400 + 3 * 80 * 64, 2)
    assert decoding(setup().student, 3, 80, issued=False).layers == 0
    assert prefilling(setup().student, STEP, 4, issued=True).flops == 240 * (2000 + looked) + 8 * 800
    assert reading(setup().teachers[0], STEP) == Work(400 * (2000 + 4 * 2 * 8 * 50) + 160 * 800, 2 * 5600, 2 * 2)


def test_what_is_exchanged() -> None:
    assert exchanged(setup(), STEP, 4, sharded=False) == 2 * 0.75 * 5600
    assert exchanged(setup(), STEP, 4, sharded=True) == 0.75 * (5600 + 2 * 2 * 5600)
    *_, last = stages(setup(), STEP, DEVICE, gpus=4)
    assert (last.name, last.seconds, last.bound) == ("exchange", 2 * 0.75 * 5600 / 1e5, LINK)


def test_a_stage_takes_as_long_as_what_bounds_it() -> None:
    rate, efficiency = 1e8, 0.5
    assert timed(Work(1e8, 1e5, 100), rate, efficiency, DEVICE) == (2.0, ARITHMETIC)
    assert timed(Work(1e7, 1e6, 100), rate, efficiency, DEVICE) == (2.0, BANDWIDTH)
    assert timed(Work(1e7, 1e5, 3000), rate, efficiency, DEVICE) == (3.0, ISSUING)


def test_generation_by_hand() -> None:
    # two of four episodes at a time: two waves of 40 tokens, each bound by two layers of a millisecond
    generate, *_ = stages(setup(), STEP, DEVICE)
    prefilled = timed(prefilling(setup().student, STEP, 4, True), DEVICE.float32, 0.5, DEVICE)[0]
    read = (4 * 1400 + 2 * 80 * 64) / (0.5 * 1e6)
    assert read > 0.002
    assert generate.seconds == pytest.approx(80 * read + prefilled)
    assert (generate.bound, generate.remedy) == (
        BANDWIDTH, "lower rollout.max_length: caches are most of what is read for a token"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "device", "bound", "remedy"),
    [
        ({}, {"issue": 1.0}, ISSUING, "set rollout.engine.kind: vllm"),
        ({"engine": "vllm"}, {"bandwidth": 1e12, "float32": 1e3}, ARITHMETIC, "set student.dtype: bfloat16"),
        ({"engine": "vllm"}, {"bandwidth": 1e12, "float32": 1e3, "bfloat16": 1e3}, ARITHMETIC, "share the step"),
        ({"engine": "vllm", "concurrency": 1}, {}, BANDWIDTH, "raise rollout.concurrency"),
    ],
)
def test_what_makes_generation_faster(
    changes: dict[str, object], device: dict[str, float], bound: str, remedy: str
) -> None:
    short = replace(STEP, context=10)
    generate, *_ = stages(setup(**changes), short, DEVICE.model_copy(update=device))
    assert generate.bound == bound
    assert generate.remedy.startswith(remedy)


def test_a_server_without_room_for_all_episodes_plays_them_in_turns() -> None:
    served, wide = setup(engine="vllm", concurrency=4), replace(STEP, context=1)
    generate, *_ = stages(served, wide, DEVICE, room=1)
    assert generate.remedy.startswith("raise --gpu-memory-utilization")
    assert generate.seconds > stages(served, wide, DEVICE)[0].seconds


def test_each_device_decodes_its_share_by_a_server_of_its_own() -> None:
    served = setup(engine="vllm", concurrency=4)
    whole, half = (stages(served, STEP.shared(gpus), DEVICE, gpus=gpus)[0] for gpus in (1, 2))
    weights, caches = 4 * 1400, 80 * 64  # bytes; of one episode
    decoded = [40 * (weights + living * caches) / (0.5 * 1e6) for living in (4, 2)]
    prefilled = [timed(prefilling(served.student, STEP.shared(gpus), 2, False), 1e8, 0.5, DEVICE)[0] for gpus in (1, 2)]
    assert [whole.seconds, half.seconds] == pytest.approx([a + b for a, b in zip(decoded, prefilled, strict=True)])


def test_episodes_of_experts_and_steps_without_teachers_take_no_such_stage() -> None:
    mute = setup(student=Held("student", SHAPE, 4), teachers=())
    assert [one.name for one in stages(mute, STEP, DEVICE)] == ["learn"]


def test_autocast_does_not_reach_the_heads() -> None:
    planned = setup(autocast=True)
    *_, learn = stages(planned, STEP, DEVICE.model_copy(update={"bandwidth": 1e12, "issue": 0.0}))
    inside = learning(planned, STEP).flops - heads(planned, STEP)
    assert learn.seconds == pytest.approx(inside / (0.5 * 1e9) + heads(planned, STEP) / (0.5 * 1e8))


def test_what_all_episodes_begin_with_is_read_once_a_pass() -> None:
    alike = replace(STEP, common=30)  # of four episodes of 100 tokens, two in each of two passes
    assert read(alike, 200) == Reading(passes=2, tokens=400 - 2 * 30, saved=60, pairs=4 * 100**2 / 2 - 2 * 30**2 / 2)
    assert read(alike, 200, once=False) == read(STEP, 200) == Reading(2, 400, 0, 20000)
    assert read(alike, 1) == Reading(4, 400, 0, 20000)
    assert alike.shared(2).common == 0
    fewer = prefilling(setup().student, alike, 4, True).flops - prefilling(setup().student, STEP, 4, True).flops
    assert fewer == -(4 - 2) * 30 * (2000 + attention(SHAPE, 80))  # two waves begin
