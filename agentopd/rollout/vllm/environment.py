"""What a vLLM server is told by its environment: what this process is told, but for its place among the processes of a run."""

import os

import torch
from torch import distributed

SETTINGS = {
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
LAUNCHED = frozenset(
    {
        "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_NAME",
        "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    }
)  # fmt: skip
"""What a launcher tells a process by: a server is launched by none, and alone."""
ELASTIC = "TORCHELASTIC_"
"""How the rest of it begins. One of these has torch take the launcher's store for that of any group which meets at a TCP address."""
CARDS = "CUDA_VISIBLE_DEVICES"


def environment(device: torch.device) -> dict[str, str]:
    """The environment of a server that plays for a student on ``device``.

    Where several processes train, each has a server, which sees the card of its process alone; that of a single one sees what it sees.
    """
    told = {name: value for name, value in os.environ.items() if name not in LAUNCHED and not name.startswith(ELASTIC)}
    return told | SETTINGS | ({CARDS: _card(device)} if device.type == "cuda" and _several() else {})


def _card(device: torch.device) -> str:
    """The name of ``device`` among all of the machine: CUDA counts those that this process sees."""
    seen, number = os.environ.get(CARDS), device.index or 0
    return str(number) if seen is None else seen.split(",")[number].strip()


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
