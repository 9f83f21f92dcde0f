"""Weights in four bits: NF4, its scales quantised once more (QLoRA, arXiv 2305.14314), by bitsandbytes.

The linear layers of a model's body are packed; embeddings, norms and the output head stay as they are. A packed weight is unpacked each
time that it is read, and is never trained: adapters stand beside it.
"""

import logging
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module
from transformers.utils.import_utils import is_bitsandbytes_available

from agentopd.errors import ConfigError

Quantization = Literal["nf4"]
BLOCK, SCALES = 64, 256
"""Weights that share a scale, a byte; and scales that share one, in float32: what bitsandbytes takes where it is not told."""
BYTES = 0.5 + 1 / BLOCK + 4 / (BLOCK * SCALES)
"""Of a packed weight, its share of both scales included: 4.127 bits."""

# The faster kernel that it misses has no gradient, so it is never used here: see settled.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(lambda told: "gemm_4bit_forward" not in str(told.msg))


def require_packable(quantization: str, model: str | None, dtype: str, is_gguf: bool) -> None:
    """Looks at what is to be packed, by its settings alone.

    Raises:
        ConfigError: It is nothing that bitsandbytes packs.
    """
    key = f"quantization={quantization}"
    if model is None:
        raise ConfigError(
            f"{key}: weights from random numbers are not packed; leave it out, or give model instead of new"
        )
    if is_gguf:
        raise ConfigError(
            f"{key}: model={model!r} is a GGUF file, whose weights are unpacked to dtype; give the model's own folder or hub id, or leave "
            "quantization out"
        )
    if dtype == "float64":
        raise ConfigError(f"{key}: dtype=float64 cannot be packed; set dtype: float32, bfloat16 or float16")


def require_installed(quantization: str | None) -> None:
    """Raises ConfigError where what packs weights is not installed."""
    if quantization is not None and not is_bitsandbytes_available():
        raise ConfigError(
            f'quantization={quantization}: it takes the package bitsandbytes; pip install "agentopd[qlora]", or leave quantization out'
        )


def asked(quantization: str | None, dtype: torch.dtype) -> dict[str, Any]:
    """What ``from_pretrained`` is told; with it weights are packed one by one as they are read, on a GPU where there is one.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    if quantization is None:
        return {}
    require_installed(quantization)
    config = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config}


def apart(engine: str) -> str:
    """Why the engine ``engine``, which holds a copy of the weights, does not act for a student in four bits."""
    return (
        f"rollout.engine.kind={engine}: vLLM would hold the student's weights unpacked or packed in its own way, and what it draws, with its "
        "log-probabilities, would be another model's than the one in four bits that learns; choose rollout.engine.kind: transformers, or leave "
        "student.quantization out"
    )


def is_quantized(model: nn.Module) -> bool:
    """Whether weights of ``model``, in an adapter or not, are packed in four bits."""
    return any(map(is_packed, model.modules()))


def is_packed(module: nn.Module) -> bool:
    """Whether ``module`` is a linear layer whose weights are."""
    # by its name: bitsandbytes takes a second to import, and need not be there
    return type(module).__name__ == "Linear4bit" and type(module).__module__.startswith("bitsandbytes")


def settled(model: PreTrainedModel) -> PreTrainedModel:
    """``model`` itself, whose packed layers from now on give the same numbers, and gradients, whether it acts or learns.

    Where a CPU has AVX512-BF16, bitsandbytes packs weights anew for inference, in place: their scales are rounded to bfloat16, products
    are bfloat16's, and as nothing packs them back, later training passes through them without a gradient.

    Raises:
        ConfigError: A layer is a transposed one (``Conv1D``), which adapters and merging would take the wrong way round.
    """
    for module in filter(is_packed, model.modules()):
        layer: Any = module
        if getattr(layer, "source_cls", nn.Linear) is Conv1D:
            raise ConfigError(
                f"quantization: the layers of {type(model).__name__} are transformers' Conv1D, and only those of torch.nn.Linear are packed; "
                "leave quantization out, or choose another architecture"
            )
        layer.support_avx512bf16_for_cpu = False
    return model


@torch.no_grad()
def unpack(model: PreTrainedModel) -> PreTrainedModel:
    """``model`` itself, each packed layer now a plain one that has the same weights, in the model's dtype, on the CPU."""
    from bitsandbytes.functional import dequantize_4bit  # as above

    dtype = model.dtype
    nn.Module.to(model, "cpu")
    for name, module in [(name, one) for name, one in model.named_modules() if is_packed(one)]:
        packed: Any = module
        plain = nn.Linear(packed.in_features, packed.out_features, packed.bias is not None, device="meta")
        plain.weight = nn.Parameter(dequantize_4bit(packed.weight.data, packed.weight.quant_state).to(dtype), False)
        plain.bias = packed.bias
        model.set_submodule(name, plain)
    made: Any = model
    made.hf_quantizer.remove_quantization_config(made)  # what transformers writes on a packed model, and saves with it
    made.is_loaded_in_4bit = made.is_4bit_serializable = False
    model.train(model.training)  # the new layers too
    return model


def packable(model: PreTrainedModel) -> Iterator[torch.Tensor]:
    """The weights of ``model``, which may be without values, that quantisation packs, by transformers' own rule."""
    kept = HfQuantizer.get_modules_to_not_convert(model, None, [*(model._keep_in_fp32_modules or ())])
    for name, module in model.named_modules():
        if type(module) is nn.Linear and should_convert_module(name, kept):
            yield module.weight
