"""Embedders: what turns text into vectors.

Three kinds stand behind one interface: local (offline, the default), OpenAI-compatible, none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import BaseEmbedder, Embedder, Vector, Vectors, dimension_error

if TYPE_CHECKING:
    from knowledge_persistence.settings import Settings

__all__ = ["BaseEmbedder", "Embedder", "Vector", "Vectors", "dimension_error", "make_embedder"]


def make_embedder(settings: Settings) -> Embedder | None:
    """Make the embedder that the settings ask for; None when they ask for none.

    Without `KP_EMBEDDER` it is the local one, also where `OPENAI_API_KEY` is set: a key that lies about for
    another purpose must not send anybody's memory to a third party.

    Args:
        settings: what the environment says.

    Raises:
        ConfigurationError: the openai embedder is asked for, without a key or a server.
    """
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

    return LocalEmbedder(
        name=settings.embedding_model or MODEL_NAME, model_path=settings.embedding_model_path
    )
