"""The shapes of the models that a configuration names, as far as this machine knows them."""

from pathlib import Path

from rlserve.actors.start_model import model_at
from rlserve.config.run import RunConfig
from rlserve.config.tables.pretrain import PretrainConfig
from rlserve.config.tables.teacher import START, TeacherConfig
from rlserve.errors import RlserveError
from rlserve.memory.shape import KNOWN, ModelShape


def shape_of(config: RunConfig) -> ModelShape | None:
    """The shape of the policy; None where its ``config.json`` is not on this machine."""
    return _made(config.pretrain) if config.pretrain else shape_at(config.model.path)


def teacher_shape(teacher: TeacherConfig, policy: ModelShape) -> ModelShape | None:
    """The shape of a teacher's model; None where it is not known."""
    if teacher.model == START:
        return policy
    return _made(teacher.pretrain) if teacher.pretrain else shape_at(teacher.model)


def shape_at(path: str) -> ModelShape | None:
    """The shape of the model at ``path``: a checkpoint, a run, or a hub name that is known or was fetched."""
    if path in KNOWN:
        return KNOWN[path]
    try:
        given = model_at(path)
    except RlserveError:  # preflight says what is wrong with it
        return None
    if Path(given).exists():
        return ModelShape.read(Path(given))
    # Here: most models are paths, and this import takes a quarter of a second.
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(given, "config.json")
    except HFValidationError:
        return None
    return ModelShape.read(Path(cached)) if isinstance(cached, str) else None


def _made(stage: PretrainConfig) -> ModelShape:
    wanted = stage.architecture
    return ModelShape(
        hidden_size=wanted.hidden_size,
        intermediate_size=wanted.ffn_size,
        num_hidden_layers=wanted.num_layers,
        num_attention_heads=wanted.num_heads,
        num_key_value_heads=wanted.num_kv_heads,
        head_dim=wanted.head_dim,
        vocab_size=stage.tokenizer.vocab_size,
        tied=wanted.tie_embeddings,
        normed_heads=wanted.family == "qwen3",
    )
