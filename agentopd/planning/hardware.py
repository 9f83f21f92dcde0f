"""Devices and their rates: a small table, a file of one's own, or this machine measured."""

from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from agentopd.config.shipped import load_yaml
from agentopd.errors import ConfigError
from agentopd.settings.base import Settings
from agentopd.settings.problems import explain, nearest


class Efficiency(Settings):
    """The share of a device's rates that a stage reaches."""

    generate: float = Field(0.6, gt=0.0, le=1.0)
    teachers: float = Field(0.5, gt=0.0, le=1.0)
    learn: float = Field(0.4, gt=0.0, le=1.0)


class Hardware(Settings):
    """One device. A file of one's own has these keys, but for ``name``."""

    name: str
    memory: float = Field(gt=0.0)
    """Bytes."""
    bandwidth: float = Field(gt=0.0)
    """Bytes that are read from memory a second."""
    bfloat16: float = Field(gt=0.0)
    """FLOP/s of dense matrix products, also of float16."""
    float32: float = Field(gt=0.0)
    """The same of float32, which PyTorch computes in full unless it is told otherwise."""
    link: float | None = Field(None, gt=0.0)
    """Bytes a second to another such device; ``null``: not known, and what is exchanged costs no time here."""
    issue: float = Field(8e-4, ge=0.0)
    """Seconds in which Python issues one layer's forward pass, operation by operation: the least that a layer takes, however small."""
    efficiency: Efficiency = Efficiency()
    cpu: bool = False
    """Whether it is a processor rather than a graphics card."""

    def rate(self, itemsize: int) -> float:
        """FLOP/s of numbers of so many bytes."""
        return self.bfloat16 if itemsize <= 2 else self.float32

    def gains(self, itemsize: int) -> bool:
        """Whether half precision would be faster than numbers of so many bytes; the Trainer asks for a graphics card then."""
        return itemsize > 2 and self.bfloat16 > self.float32 and not self.cpu


def table() -> dict[str, Hardware]:
    """The devices that are known by name."""
    raw = load_yaml(Path(str(resources.files("agentopd.planning"))) / "hardware.yaml")
    return {name: _read(name, one) for name, one in raw.items()}


def hardware(name: str) -> Hardware:
    """The device of that name, or the one that a YAML file describes.

    Raises:
        ConfigError: There is neither, or a key of the file is wrong.
    """
    if name.endswith((".yaml", ".yml")):
        return _read(name, load_yaml(Path(name)))
    known = table()
    if name not in known:
        raise ConfigError(
            f"hardware={name!r}: no device is called so{nearest(name, known)}; give one of {', '.join(known)}, a YAML file with the keys "
            f"{', '.join(key for key in Hardware.model_fields if key != 'name')}, or measure this machine"
        )
    return known[name]


def _read(name: str, raw: Any) -> Hardware:
    try:
        return Hardware.model_validate({"name": name, **raw})
    except ValidationError as error:
        raise ConfigError(f"{name}: {explain(error, Hardware)}") from None
