"""Embeddings from any server that speaks OpenAI's API: OpenAI itself, or one's own at another base URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from knowledge_persistence.errors import ConfigurationError, EmbeddingError

from .base import BaseEmbedder, Vectors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import openai

DEFAULT_MODEL: Final = "text-embedding-3-small"
#: What these models give when no other number of dimensions is asked for.
NATIVE_DIMENSIONS: Final = {
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
    "text-embedding-ada-002": 1536,
}
_BATCH_TEXTS: Final = 128
# OpenAI refuses a request of more than 300,000 tokens; a token is at least a character of most texts.
_BATCH_CHARACTERS: Final = 250_000


class OpenAICompatibleEmbedder(BaseEmbedder):
    """Embed with a model behind an OpenAI-compatible server.

    Args:
        model: the server's name for the model.
        api_key: the server's key; may be None for a server of one's own that wants none.
        base_url: the server, such as ``http://127.0.0.1:11434/v1``. None: OpenAI.
        dimensions: ask for vectors of this length (only some models can).
        expected_dimensions: the length that the model is registered with, where that is known: not asked for, but
            an answer of another length is refused, also the first.
        name: the name under which the model is registered. None: the model's, with ``@dimensions`` appended
            when a length other than its own was asked for.
        timeout: seconds until a request is given up.
        max_retries: how often a request is repeated after 408, 409, 429, 5xx, a timeout or a lost connection.
        cache_size: number of query embeddings kept.

    Raises:
        ConfigurationError: neither a key nor a server of one's own.
    """

    def __init__(
        self,
        *,
        model: str = DEFAULT_MODEL,
        api_key: str | None = None,
        base_url: str | None = None,
        dimensions: int | None = None,
        expected_dimensions: int | None = None,
        name: str | None = None,
        timeout: float = 30.0,
        max_retries: int = 4,
        cache_size: int = 1024,
    ) -> None:
        native = NATIVE_DIMENSIONS.get(model)
        if name is None:
            name = model if dimensions in {None, native} else f"{model}@{dimensions}"
        super().__init__(
            name=name, dimensions=dimensions or native or expected_dimensions, cache_size=cache_size
        )
        if api_key is None and base_url is None:
            raise ConfigurationError(
                "the openai embedder needs OPENAI_API_KEY, or OPENAI_BASE_URL for a server of your own"
            )
        self._model = model
        self._asked_dimensions = dimensions if dimensions != native else None
        self._base_url = base_url
        self._api_key = api_key
        self._timeout = timeout
        self._max_retries = max_retries
        self._client: openai.OpenAI | None = None

    def _connect(self) -> openai.OpenAI:
        if self._client is None:
            import openai  # noqa: PLC0415 - most of a second that most commands don't need

            self._client = openai.OpenAI(
                # The package insists on a key; a server that wants none ignores this one.
                api_key=self._api_key or "none",
                base_url=self._base_url,
                timeout=self._timeout,
                max_retries=self._max_retries,
            )
        return self._client

    def close(self) -> None:
        """Let go of the connections, see `BaseEmbedder.close`."""
        super().close()
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _batches(self, texts: Sequence[str]) -> Iterator[list[str]]:
        batch: list[str] = []
        characters = 0
        for text in texts:
            if batch and (len(batch) >= _BATCH_TEXTS or characters + len(text) > _BATCH_CHARACTERS):
                yield batch
                batch, characters = [], 0
            batch.append(text)
            characters += len(text)
        if batch:
            yield batch

    def _embed(self, texts: Sequence[str]) -> Vectors:
        import numpy as np  # noqa: PLC0415

        parts = [self._request(batch) for batch in self._batches(texts)]
        widths = {part.shape[1] for part in parts}
        if len(widths) > 1:
            raise EmbeddingError(
                f"{self._where()} answered with vectors of different lengths: {sorted(widths)}"
            )
        return np.concatenate(parts)

    def _where(self) -> str:
        return f"the embedding server at {self._base_url or 'OpenAI'} ({self._model})"

    def _request(self, texts: list[str]) -> Vectors:
        import numpy as np  # noqa: PLC0415
        import openai  # noqa: PLC0415

        client = self._connect()
        try:
            answer = client.embeddings.create(
                model=self._model,
                input=texts,
                encoding_format="float",
                dimensions=openai.omit if self._asked_dimensions is None else self._asked_dimensions,
            )
        except openai.APIStatusError as error:
            raise EmbeddingError(f"{self._where()} answered {error.status_code}: {_reason(error)}") from error
        except openai.APITimeoutError as error:
            raise EmbeddingError(
                f"{self._where()} gave no answer within {self._timeout:g} s", unanswered=True
            ) from error
        except openai.APIConnectionError as error:
            raise EmbeddingError(
                f"{self._where()} can't be reached: {error.__cause__ or error}", unanswered=True
            ) from error
        except (openai.OpenAIError, ValueError) as error:
            raise EmbeddingError(f"{self._where()} gave an answer that can't be read: {error}") from error
        # A server is a stranger: count, order and shape are checked, not assumed.
        rows: list[list[float] | None] = [None] * len(texts)
        data = answer.data or []
        if len(data) != len(texts):
            raise EmbeddingError(
                f"{self._where()} was sent {len(texts)} texts and answered with {len(data)} vectors"
            )
        for position, item in enumerate(data):
            index = position if item.index is None else item.index  # pyright: ignore[reportUnnecessaryComparison]
            if not 0 <= index < len(texts) or rows[index] is not None:
                raise EmbeddingError(
                    f"{self._where()} numbered its vectors wrongly ({index} of {len(texts)})"
                )
            rows[index] = item.embedding
        try:
            vectors = np.asarray(rows, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise EmbeddingError(
                f"{self._where()} answered with something other than vectors of one length"
            ) from error
        if vectors.ndim != 2:  # noqa: PLR2004
            raise EmbeddingError(f"{self._where()} answered with something other than vectors")
        return vectors


def _reason(error: openai.APIStatusError) -> str:
    body = error.body
    if isinstance(body, dict) and isinstance(message := body.get("message"), str):  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        return message
    return error.message
