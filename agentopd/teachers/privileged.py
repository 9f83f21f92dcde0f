"""A teacher that sees more: a model whose prompt holds privileged facts about the episode, such as worked steps."""

from typing import Annotated

from pydantic import Field

from agentopd.errors import under
from agentopd.freezing import frozen
from agentopd.models import Dtype, FrozenModel, NewModel
from agentopd.quantization import Quantization
from agentopd.teachers.base import EVERYWHERE, Teacher, TeacherContext
from agentopd.teachers.hints import Told, hint_of
from agentopd.teachers.local import reader
from agentopd.teachers.traits import Traits, unloaded
from agentopd.where import Where


@Traits(
    model=True,
    initial=True,
    hint=True,
    corrects=False,
    rewards=False,
    statistics=("coverage",),
    idle=unloaded("dtype", "attention", "quantization", "offload"),
)
def privileged(
    context: TeacherContext,
    *,
    hint: Told,
    model: str | None = None,
    new: NewModel | None = None,
    dtype: Dtype = "float32",
    attention: str = "sdpa",
    quantization: Quantization | None = None,
    offload: bool = False,
    where: Where = EVERYWHERE,
    max_tokens: Annotated[int, Field(ge=1)] = 16384,
) -> Teacher:
    """A frozen model that reads the student's tokens behind a prompt with privileged facts (self-distillation: OPSD, arXiv 2601.18734).

    Without ``model`` and ``new`` it is the student as it was before training: under LoRA the same weights with the adapter off,
    which cost nothing, else a copy. For the student as it was a few steps ago, or an average of it, there is the kind ``self``.
    Nothing of the hint reaches the student's tokens.

    Args:
        context: What the run lends.
        hint: What the prompt says behind the first observation, such as ``"Worked steps:\\n{steps}"``; ``{name}`` is a fact of the
            environment's ``privileged()``, ``{facts}`` all of them. Environments that ``where`` leaves out show none.
        model: A hub id or a folder. It must share the student's tokenizer.
        new: A model from random weights instead.
        dtype: The type of its weights.
        attention: The attention implementation, by its name in transformers.
        quantization: ``nf4`` holds its linear layers in four bits, as the student's ``quantization`` does.
        offload: Whether the weights of its layers wait in the host's memory: each comes to the device for the moment in which it is read.
        where: The turns and tokens that it teaches; the others cost nothing.
        max_tokens: The largest number of tokens in one forward, padding included. A longer view is read alone.

    Raises:
        ConfigError: The hint is malformed, or the model's vocabulary is smaller than the tokenizer's.
    """
    with under(f"teachers.{context.name}"):
        shown = hint_of(hint, where.env)
        if model is None and new is None:
            loaded = context.initial()
        else:
            loaded = frozen(
                context.load(
                    FrozenModel(
                        model=model,
                        new=new,
                        dtype=dtype,
                        attention=attention,
                        quantization=quantization,
                        offload=offload,
                    )
                )
            )
    return reader(context, loaded, where, max_tokens, shown)
