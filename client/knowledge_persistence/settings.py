"""Settings: the one module that reads the environment.

Order of precedence: arguments, the process environment, `.env` in the working directory or above it, what the
embedded stack of this data directory (`KP_HOME`) says of itself, defaults. Reading happens when
`Settings.load` is called, never at import.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import platformdirs
from dotenv import dotenv_values, find_dotenv

from .errors import ConfigurationError

EmbedderName = Literal["local", "openai", "none"]
RerankerName = Literal["local", "api", "none"]


def default_home() -> Path:
    """Return the data directory used where `KP_HOME` is not set.

    For root it is below /var/lib: the database runs under an account of its own, which can't enter /root.
    """
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/knowledge-persistence")
    return platformdirs.user_data_path("knowledge-persistence")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the environment says. None means: not said.

    Attributes:
        home: the embedded stack's data directory (`KP_HOME`).
        url: the deployment: an HTTP origin, or a PostgreSQL URL for the direct transport (`KP_URL`).
        api_key: publishable or secret key for the HTTP origin (`KP_API_KEY`).
        access_token: a user's access token (`KP_ACCESS_TOKEN`).
        user_id: whom a direct connection acts for (`KP_USER_ID`).
        jwt_secret: what access tokens are verified with on a direct connection (`KP_JWT_SECRET`): the shared
            secret, or a JSON Web Key Set.
        database_url: a PostgreSQL URL for `kp migrate` and operations (`KP_DATABASE_URL`).
        replica_url: a PostgreSQL URL of a read replica, for direct connections (`KP_REPLICA_URL`).
        workspace: workspace id to work in (`KP_WORKSPACE`).
        project: project context for sessions and records (`KP_PROJECT`).
        session: session identifier to work in (`KP_SESSION`).
        embedder: which embedder to use (`KP_EMBEDDER`): local, openai or none.
        embedding_model: the embedder's model (`KP_EMBEDDING_MODEL`).
        embedding_dimensions: ask the OpenAI-compatible model for vectors of this length
            (`KP_EMBEDDING_DIMENSIONS`).
        embedding_model_path: an ONNX file to use instead of the packaged one (`KP_EMBEDDING_MODEL_PATH`).
        reranker: what reorders what a search finds (`KP_RERANKER`): local, api or none; None: nothing does.
        rerank_model_path: the ONNX file of the local reranker (`KP_RERANK_MODEL_PATH`).
        rerank_url: the api reranker's server (`KP_RERANK_URL`); it is sent queries and what is found for them.
        rerank_model: its model (`KP_RERANK_MODEL`).
        rerank_api_key: its key (`KP_RERANK_API_KEY`).
        rerank_seconds: how long a search waits for its reranker (`KP_RERANK_SECONDS`).
        chat_model: what answers and judges validation tests (`KP_CHAT_MODEL`); it is sent what memory holds.
        edge_requests_per_minute: what one user may ask of the edge functions (`KP_EDGE_REQUESTS_PER_MINUTE`).
        metrics_port: where the worker serves metrics and health (`KP_METRICS_PORT`); None: nowhere.
        metrics_host: the address that it serves them on (`KP_METRICS_HOST`).
        openai_api_key: `OPENAI_API_KEY`.
        openai_base_url: `OPENAI_BASE_URL`.
    """

    home: Path
    url: str | None = None
    api_key: str | None = None
    access_token: str | None = None
    user_id: str | None = None
    jwt_secret: str | None = None
    database_url: str | None = None
    replica_url: str | None = None
    workspace: str | None = None
    project: str | None = None
    session: str | None = None
    embedder: EmbedderName | None = None
    embedding_model: str | None = None
    embedding_dimensions: int | None = None
    embedding_model_path: Path | None = None
    reranker: RerankerName | None = None
    rerank_model_path: Path | None = None
    rerank_url: str | None = None
    rerank_model: str | None = None
    rerank_api_key: str | None = None
    rerank_seconds: float = 2.0
    chat_model: str | None = None
    edge_requests_per_minute: int | None = None
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    openai_api_key: str | None = None
    openai_base_url: str | None = None

    @classmethod
    def load(cls, *, dotenv_path: Path | None = None) -> Settings:
        """Read the environment and the nearest `.env`.

        Args:
            dotenv_path: this file instead of the nearest `.env` at or above the working directory.

        Raises:
            ConfigurationError: a value is not one of those allowed.
        """
        found = str(dotenv_path) if dotenv_path is not None else find_dotenv(usecwd=True)
        values: dict[str, str | None] = {**(dotenv_values(found) if found else {}), **os.environ}

        def get(name: str) -> str | None:
            return values.get(name) or None

        embedder = get("KP_EMBEDDER")
        if embedder not in {None, "local", "openai", "none"}:
            raise ConfigurationError(f"KP_EMBEDDER is {embedder!r}; it can be local, openai or none")
        reranker = get("KP_RERANKER")
        if reranker not in {None, "local", "api", "none"}:
            raise ConfigurationError(f"KP_RERANKER is {reranker!r}; it can be local, api or none")
        home = get("KP_HOME")
        rerank_path = get("KP_RERANK_MODEL_PATH")
        model_path = get("KP_EMBEDDING_MODEL_PATH")
        return cls(
            home=Path(home).expanduser().absolute() if home else default_home(),
            url=get("KP_URL"),
            api_key=get("KP_API_KEY"),
            access_token=get("KP_ACCESS_TOKEN"),
            user_id=get("KP_USER_ID"),
            jwt_secret=get("KP_JWT_SECRET"),
            database_url=get("KP_DATABASE_URL"),
            replica_url=get("KP_REPLICA_URL"),
            workspace=get("KP_WORKSPACE"),
            project=get("KP_PROJECT"),
            session=get("KP_SESSION"),
            embedder=cast("EmbedderName | None", embedder),
            embedding_model=get("KP_EMBEDDING_MODEL"),
            embedding_dimensions=_positive("KP_EMBEDDING_DIMENSIONS", get("KP_EMBEDDING_DIMENSIONS")),
            embedding_model_path=Path(model_path).expanduser() if model_path else None,
            reranker=cast("RerankerName | None", reranker),
            rerank_model_path=Path(rerank_path).expanduser() if rerank_path else None,
            rerank_url=get("KP_RERANK_URL"),
            rerank_model=get("KP_RERANK_MODEL"),
            rerank_api_key=get("KP_RERANK_API_KEY"),
            rerank_seconds=_seconds("KP_RERANK_SECONDS", get("KP_RERANK_SECONDS")) or 2.0,
            chat_model=get("KP_CHAT_MODEL"),
            edge_requests_per_minute=_positive(
                "KP_EDGE_REQUESTS_PER_MINUTE", get("KP_EDGE_REQUESTS_PER_MINUTE")
            ),
            metrics_port=_positive("KP_METRICS_PORT", get("KP_METRICS_PORT")),
            metrics_host=get("KP_METRICS_HOST") or "127.0.0.1",
            openai_api_key=get("OPENAI_API_KEY"),
            openai_base_url=get("OPENAI_BASE_URL"),
        )


def _positive(name: str, value: str | None) -> int | None:
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal() and int(value) > 0):
        raise ConfigurationError(f"{name} is {value!r}; it should be a whole number above 0")
    return int(value)


def _seconds(name: str, value: str | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 60:  # noqa: PLR2004
        raise ConfigurationError(f"{name} is {value!r}; it should be seconds, above 0 and up to 60")
    return seconds
