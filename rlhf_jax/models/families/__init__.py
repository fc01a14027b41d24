"""Families of published models: how their config.json, names and layouts map to ours, both ways.

Nothing else in the package knows a family.
"""

from rlhf_jax.errors import UserError
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.families.family import Family, Published
from rlhf_jax.models.families.gemma import Gemma, Gemma2, Gemma3
from rlhf_jax.models.families.gpt2 import GPT2
from rlhf_jax.models.families.llama import Llama, Mistral
from rlhf_jax.models.families.neox import NeoX
from rlhf_jax.models.families.qwen import Qwen2, Qwen3

__all__ = ["FAMILIES", "Family", "Published", "of", "of_config", "of_gguf"]

# Where several families have a shape, the first one stands for it.
FAMILIES: tuple[Family, ...] = (
    GPT2(), NeoX(), Llama(), Mistral(), Qwen2(), Qwen3(), Gemma(), Gemma2(), Gemma3()
)  # fmt: skip


def of(model_type: str) -> Family:
    """The family of a config.json's model_type. Raises UserError where none has it."""
    known = {name: family for family in FAMILIES for name in family.model_types}
    if not isinstance(model_type, str) or model_type not in known:
        raise UserError(
            f"config.json: model_type = {model_type!r}: expected one of {', '.join(known)}"
        )
    return known[model_type]


def of_gguf(architecture: str) -> Family:
    """The family of a GGUF file's general.architecture. Raises UserError where none has it."""
    known = {f.gguf_architecture: f for f in FAMILIES if f.gguf_architecture is not None}
    if not isinstance(architecture, str) or architecture not in known:
        raise UserError(
            f"general.architecture = {architecture!r}: expected one of {', '.join(known)}"
        )
    return known[architecture]


def of_config(config: TransformerConfig) -> Family:
    """The first family that has a model of this shape.

    Raises UserError, which names the family that comes nearest and what it lacks, where none has.
    """
    lacking = [family.lacking(config) for family in FAMILIES]
    differ, family = min(zip(lacking, FAMILIES, strict=True), key=lambda pair: len(pair[0]))
    if differ:
        raise UserError(
            "no published family has a model of this shape; the nearest, "
            f"{family.model_types[0]}, has another {', '.join(differ)}"
        )
    return family
