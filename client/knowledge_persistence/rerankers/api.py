"""Reranking by any server that speaks the usual API: Cohere, Jina, Voyage, vLLM, Infinity, one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from knowledge_persistence.errors import RerankError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import httpx


class RerankApi:
    """Ask a server: `POST {url}/rerank` with query and documents, answered with results of index and relevance_score.

    The server is sent the query and the texts that were found for it.

    Args:
        url: the server's base URL, such as ``https://api.example.org/v2``; a path that ends in ``/rerank`` is taken as
            it is.
        model: the server's name for the model.
        api_key: sent as a bearer token; None for a server of one's own that wants none.
    """

    def __init__(self, url: str, *, model: str, api_key: str | None = None) -> None:
        trimmed = url.rstrip("/")
        self._url = trimmed if trimmed.endswith("/rerank") else f"{trimmed}/rerank"
        self._model = model
        self._api_key = api_key

    @property
    def name(self) -> str:
        """The server and its model."""
        return f"the rerank server at {self._url} ({self._model})"

    def rerank(self, query: str, documents: Sequence[str], *, timeout: float) -> list[float]:
        """Score texts; see `Reranker.rerank`."""
        import httpx  # noqa: PLC0415 - not needed by commands that rerank nothing

        headers = {} if self._api_key is None else {"authorization": f"Bearer {self._api_key}"}
        body = {"model": self._model, "query": query, "documents": list(documents), "top_n": len(documents)}
        try:
            answer = httpx.post(self._url, json=body, headers=headers, timeout=timeout)
        except httpx.TimeoutException as error:
            raise RerankError(f"{self.name} gave no answer within {timeout:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RerankError(f"{self.name} can't be reached: {error}") from error
        if not answer.is_success:
            raise RerankError(f"{self.name} answered {answer.status_code}: {answer.text[:200]}")
        return self._read(answer, len(documents))

    def _read(self, answer: httpx.Response, expected: int) -> list[float]:
        # A server is a stranger: shape, count and numbering are checked, not assumed.
        scores: dict[int, float] = {}
        try:
            told = cast("dict[str, list[dict[str, object]]]", answer.json())
            for result in told["results"]:
                index, score = result["index"], result["relevance_score"]
                if (
                    not isinstance(index, int)
                    or isinstance(score, bool)
                    or not isinstance(score, (int, float))
                ):
                    raise TypeError(f"{result!r} is no result")  # noqa: TRY301 - read below, like the others
                scores[index] = float(score)
        except (ValueError, KeyError, TypeError) as error:
            raise RerankError(f"{self.name} gave an answer that can't be read: {error!r}") from error
        if sorted(scores) != list(range(expected)):
            raise RerankError(
                f"{self.name} was sent {expected} texts and scored {len(scores)}, numbered {sorted(scores)[:10]}"
            )
        return [scores[index] for index in range(expected)]
