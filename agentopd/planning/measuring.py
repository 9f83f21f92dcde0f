"""The rates of this machine, measured in a few seconds."""

import time
from collections.abc import Callable

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agentopd.planning.hardware import Hardware
from agentopd.planning.room import available

REPEATS = 3
LAYERS = 4


def measured() -> Hardware:
    """This machine: its first graphics card where it has one, else its processor."""
    cpu = not torch.cuda.is_available()
    device = torch.device("cpu" if cpu else "cuda")
    size, copied = (1024, 2**25) if cpu else (8192, 2**30)
    source = torch.zeros(copied // 4, device=device)
    target = torch.empty_like(source)
    return Hardware(
        name="this processor" if cpu else torch.cuda.get_device_name(),
        memory=available(),
        bandwidth=2 * copied / seconds(lambda: target.copy_(source), device),  # read and written
        bfloat16=_products(size, torch.bfloat16, device),
        float32=_products(size, torch.float32, device),
        issue=_issuing(device),
        cpu=cpu,
    )


def seconds(do: Callable[[], object], device: torch.device) -> float:
    """The fewest seconds of a few tries, after one that does not count."""
    found = []
    for _ in range(1 + REPEATS):
        begin = time.perf_counter()
        do()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begin)
    return min(found[1:])


def _products(size: int, dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of the product of two square matrices."""
    left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    return 2.0 * size**3 / seconds(lambda: left @ right, device)


@torch.inference_mode()
def _issuing(device: torch.device) -> float:
    """Seconds of one layer too small for its numbers to matter."""
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=16,
        num_attention_heads=1,
        num_key_value_heads=1,
        vocab_size=16,
        num_hidden_layers=LAYERS,
    )
    with torch.random.fork_rng(devices=[]), device:
        model = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    ids_B_T = torch.zeros(1, 1, dtype=torch.long, device=device)
    return seconds(lambda: model(input_ids=ids_B_T), device) / LAYERS
