"""Embedders: what turns text into vectors.

Three kinds stand behind one interface: local (offline, the default; of two models), OpenAI-compatible, none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import BaseEmbedder, Embedder, Vector, Vectors, dimension_error

if TYPE_CHECKING:
    from knowledge_persistence.settings import Settings

__all__ = [
    "BaseEmbedder",
    "Embedder",
    "Vector",
    "Vectors",
    "dimension_error",
    "make_embedder",
    "make_embedder_for",
]


def make_embedder(settings: Settings) -> Embedder | None:
    """Make the embedder that the settings ask for; None when they ask for none.

    Without `KP_EMBEDDER` it is the local one, also where `OPENAI_API_KEY` is set: a key that lies about for
    another purpose must not send anybody's memory to a third party.

    Args:
        settings: what the environment says.

    Raises:
        ConfigurationError: the openai embedder is asked for, without a key or a server.
    """
    embedder = _configured(settings)
    if embedder is not None and settings.embedding_model is None and settings.embedding_model_path is None:
        # Nobody chose a model: where the deployment serves another by now, that one is asked.
        embedder.follow(lambda name, dimensions: make_embedder_for(settings, name, dimensions=dimensions))
    return embedder


def _configured(settings: Settings) -> BaseEmbedder | None:
    if settings.embedder == "none":
        return None
    if settings.embedder == "openai":
        from .openai_compatible import DEFAULT_MODEL, OpenAICompatibleEmbedder  # noqa: PLC0415

        return OpenAICompatibleEmbedder(
            model=settings.embedding_model or DEFAULT_MODEL,
            api_key=settings.openai_api_key,
            base_url=settings.openai_base_url,
            dimensions=settings.embedding_dimensions,
        )
    from .local import MODEL_NAME, LocalEmbedder  # noqa: PLC0415
    from .static import MODEL_NAME as STATIC_MODEL_NAME  # noqa: PLC0415
    from .static import StaticEmbedder  # noqa: PLC0415

    if settings.embedding_model == STATIC_MODEL_NAME and settings.embedding_model_path is None:
        return StaticEmbedder()

    return LocalEmbedder(
        name=settings.embedding_model or MODEL_NAME, model_path=settings.embedding_model_path
    )


def make_embedder_for(settings: Settings, name: str, *, dimensions: int | None = None) -> Embedder | None:
    """Make the embedder of one registered model, whatever model the settings name; None when that can't be done.

    The local models are made wherever embedding is not off: they send nothing anywhere. A model that only a server
    has is made where the settings choose the openai embedder.

    Args:
        settings: what the environment says.
        name: the model's registered name.
        dimensions: length of its vectors as registered, where that is known.

    Raises:
        ConfigurationError: the openai embedder is chosen, without a key or a server.
    """
    if settings.embedder == "none":
        return None
    configured = _configured(settings)
    if configured is not None and configured.name == name:
        return configured
    from .local import MODEL_NAME, LocalEmbedder  # noqa: PLC0415
    from .static import MODEL_NAME as STATIC_MODEL_NAME  # noqa: PLC0415
    from .static import StaticEmbedder, is_installed  # noqa: PLC0415

    if name == MODEL_NAME:
        return LocalEmbedder()
    if name == STATIC_MODEL_NAME and is_installed():
        return StaticEmbedder()
    if settings.embedder != "openai":
        return None
    from .openai_compatible import OpenAICompatibleEmbedder  # noqa: PLC0415

    model, _, asked = name.rpartition("@")
    return OpenAICompatibleEmbedder(
        model=model if model and asked.isdecimal() else name,
        api_key=settings.openai_api_key,
        base_url=settings.openai_base_url,
        dimensions=int(asked) if model and asked.isdecimal() else None,
        expected_dimensions=dimensions,
        name=name,
    )
