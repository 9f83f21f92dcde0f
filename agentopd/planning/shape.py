"""The sizes of a model that its costs are counted from."""

from dataclasses import dataclass

from transformers import PreTrainedModel

from agentopd.models import head_of
from agentopd.quantization import packable


@dataclass(frozen=True, slots=True)
class Shape:
    """A causal language model in numbers."""

    parameters: int
    """All weights; embeddings that are the output head too count once."""
    body: int
    """Weights that a token is multiplied with between its embedding and the output head; of experts those that it is sent to."""
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    """Of queries."""
    cached_heads: int
    """Of keys and values."""
    head_size: int
    feed_forward: int
    normed_heads: bool = False
    """Whether queries and keys are normalised, as Qwen3's are."""
    packable: int = 0
    """Weights that ``quantization`` packs."""
    layered: int = 0
    """Weights of its layers, of which ``offload`` has most wait."""
    largest: int = 0
    """The most numbers that one of these holds."""

    @property
    def queries(self) -> int:
        """Numbers in the queries of one token and layer."""
        return self.heads * self.head_size

    @property
    def cached(self) -> int:
        """Numbers in the keys, or in the values, of one token and layer."""
        return self.cached_heads * self.head_size

    @property
    def head(self) -> int:
        """Weights of the output head."""
        return self.vocabulary * self.hidden


def shape_of(model: PreTrainedModel) -> Shape:
    """The shape of a model, which may be without weights."""
    config, head = model.config.get_text_config(), head_of(model).weight_V_H
    heads = config.num_attention_heads
    outside = {id(head), id(model.get_input_embeddings().weight)}
    inside = [(name, p) for name, p in model.named_parameters() if id(p) not in outside]
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None) or 1
    used = getattr(config, "num_experts_per_tok", None) or experts
    of_experts = sum(p.numel() for _, p in inside if p.dim() == 3)
    return Shape(
        parameters=sum(p.numel() for p in model.parameters()),
        body=sum(p.numel() for _, p in inside if p.dim() == 2) + of_experts * used // experts,
        vocabulary=head.shape[0],
        hidden=head.shape[1],
        layers=config.num_hidden_layers,
        heads=heads,
        cached_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
        feed_forward=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        normed_heads=any(name.endswith("q_norm.weight") for name, _ in inside),
        packable=sum(p.numel() for p in packable(model)),
        layered=sum(p.numel() for _, p in inside),
        largest=max((p.numel() for _, p in inside), default=0),
    )
