"""Rerankers: what reads a query and what was found for it together, and puts the best first.

Off unless somebody asks for one. Two kinds stand behind one interface: a cross-encoder of one's own, offline, and any
server that speaks the usual /rerank API.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from knowledge_persistence.errors import ConfigurationError

from .base import BoundedReranker, Reranker

if TYPE_CHECKING:
    from knowledge_persistence.settings import Settings

__all__ = ["BoundedReranker", "Reranker", "make_reranker"]


def make_reranker(settings: Settings) -> Reranker | None:
    """Make the reranker that the settings ask for; None without `KP_RERANKER`.

    Args:
        settings: what the environment says.

    Raises:
        ConfigurationError: the local one is asked for without a model, or the api one without a server.
    """
    if settings.reranker == "local":
        from .cross_encoder import CrossEncoder  # noqa: PLC0415

        if settings.rerank_model_path is None:
            raise ConfigurationError(
                "KP_RERANKER is local: KP_RERANK_MODEL_PATH has to name a cross-encoder's ONNX file"
            )
        return CrossEncoder(settings.rerank_model_path)
    if settings.reranker == "api":
        from .api import RerankApi  # noqa: PLC0415

        if settings.rerank_url is None or settings.rerank_model is None:
            raise ConfigurationError(
                "KP_RERANKER is api: KP_RERANK_URL has to name the server, KP_RERANK_MODEL its model"
            )
        return RerankApi(settings.rerank_url, model=settings.rerank_model, api_key=settings.rerank_api_key)
    return None
