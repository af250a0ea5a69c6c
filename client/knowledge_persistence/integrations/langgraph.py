"""A LangGraph store in this memory: `pip install 'knowledge-persistence[langgraph]'`.

    with connect() as client:
        graph = builder.compile(store=KnowledgeStore(client))

Each stored item is a knowledge item of the client's user: `kp recall` and every other client find it, too.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - from_row looks at it
from typing import TYPE_CHECKING, Any, Final, cast

try:
    from langgraph.store.base import (
        BaseStore,
        GetOp,
        Item,
        ListNamespacesOp,
        MatchCondition,
        Op,
        PutOp,
        Result,
        SearchItem,
        SearchOp,
        validate_op_namespace,
    )
    from langgraph.store.base.embed import get_text_at_path, tokenize_path
except ImportError as error:  # pragma: no cover - said where it is missing
    raise ImportError("LangGraph is not installed: pip install 'knowledge-persistence[langgraph]'") from error

from knowledge_persistence._values import Argument, JsonArgument
from knowledge_persistence.errors import EmbeddingError
from knowledge_persistence.models import JSON, from_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from knowledge_persistence import KnowledgeClient
    from knowledge_persistence._values import CallMode, Row

log = logging.getLogger("knowledge_persistence.langgraph")

#: What an item is searched by is cut here, in characters; its value is kept whole.
_MAX_TEXT: Final = 16_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    namespace: list[str]
    key: str
    value: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    score: float | None = None


class KnowledgeStore(BaseStore):
    """A LangGraph `BaseStore` in the workspace that a client works in, for the client's user.

    Written as LangGraph documents it: `put` replaces, a search goes by namespace prefix, `filter` (equality, $eq, $ne,
    $gt, $gte, $lt, $lte) and, with a query, by meaning; without an embedder, by words. The asynchronous methods run the
    synchronous ones in a thread. Items don't expire: `ttl` is refused.

    Args:
        client: the client; it stays open for as long as the store is used, and isn't closed by it.
        fields: which parts of a value an item is searched by, as paths; `$` is all of it.
        allow_credentials: keep values though they look like they hold a credential; else CredentialError.
    """

    supports_ttl = False

    def __init__(
        self, client: KnowledgeClient, *, fields: Sequence[str] = ("$",), allow_credentials: bool = False
    ) -> None:
        self._client = client
        self._fields = tuple(fields)
        self._allow_credentials = allow_credentials

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do several operations; reads see what was there before the batch, of several writes of a key the last holds.

        Raises:
            CredentialError: a value looks like it holds a credential; then nothing is written.
            InvalidArgumentError: a key is too long, or a filter not understood.
        """
        given = list(ops)
        for op in given:
            validate_op_namespace(op)
        results: list[Result] = [None] * len(given)
        found = self._get([op for op in given if isinstance(op, GetOp)])
        puts: dict[tuple[tuple[str, ...], str], PutOp] = {}
        for place, op in enumerate(given):
            if isinstance(op, GetOp):
                results[place] = found.get((op.namespace, op.key))
            elif isinstance(op, SearchOp):
                results[place] = self._search(op)
            elif isinstance(op, ListNamespacesOp):
                results[place] = self._namespaces(op)
            else:
                # The last one of a key is written, in its own place among the others.
                puts.pop((op.namespace, op.key), None)
                puts[op.namespace, op.key] = op
        self._put(list(puts.values()))
        return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Do several operations in a thread; see `batch`."""
        return await asyncio.to_thread(self.batch, list(ops))

    def _call(self, function: str, arguments: Mapping[str, Argument], mode: CallMode) -> list[Row]:
        core = self._client.core
        return core.call(function, arguments, core.context(), mode=mode)

    def _get(self, ops: Sequence[GetOp]) -> dict[tuple[tuple[str, ...], str], Item]:
        if not ops:
            return {}
        keys: JSON = [{"namespace": list(op.namespace), "key": op.key} for op in ops]
        rows = self._call("get_store_items", {"keys": JsonArgument(keys)}, "read")
        found = from_rows(_Stored, rows)
        return {
            (tuple(one.namespace), one.key): Item(
                value=one.value,
                key=one.key,
                namespace=tuple(one.namespace),
                created_at=one.created_at,
                updated_at=one.updated_at,
            )
            for one in found
        }

    def _search(self, op: SearchOp) -> list[SearchItem]:
        arguments: dict[str, Argument] = {
            "namespace_prefix": list(op.namespace_prefix),
            "filter": JsonArgument(cast("JSON", op.filter)) if op.filter else None,
            "max_results": op.limit,
            "skip": op.offset,
        }
        if op.query:
            arguments["query_text"] = op.query
            arguments |= self._client.core.embed_query(op.query)
        return [
            SearchItem(
                namespace=tuple(one.namespace),
                key=one.key,
                value=one.value,
                created_at=one.created_at,
                updated_at=one.updated_at,
                score=one.score,
            )
            for one in from_rows(_Stored, self._call("search_store_items", arguments, "read"))
        ]

    def _namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        rows = self._call("list_store_namespaces", {}, "read")
        namespaces = [tuple(cast("list[str]", row["namespace"])) for row in rows]
        matching = {
            namespace[: op.max_depth]
            for namespace in namespaces
            if all(_matches(namespace, condition) for condition in op.match_conditions or ())
        }
        return sorted(matching)[op.offset : op.offset + op.limit]

    def _put(self, ops: Sequence[PutOp]) -> None:
        if not ops:
            return
        items: list[dict[str, JSON]] = [{"namespace": list(op.namespace), "key": op.key} for op in ops]
        texts: dict[int, str] = {}
        for place, (op, item) in enumerate(zip(ops, items, strict=True)):
            if op.value is None:
                continue
            text = self._text(op)
            item |= {
                "value": cast("JSON", dict(op.value)),
                "content": text,
                "is_indexed": op.index is not False,
            }
            if op.index is not False and text:
                # As the worker does it: what it is called, and what it says.
                texts[place] = "/".join((*op.namespace, op.key)) + "\n" + text
        core = self._client.core
        if core.embedder is not None and texts:
            try:
                model, vectors = core.embed_documents(list(texts.values()))
            except EmbeddingError as error:
                # Nothing is refused for want of a vector: the worker makes it.
                log.warning("stored without vectors for now: %s", error)
            else:
                for place, vector in zip(texts, vectors, strict=True):
                    items[place] |= {"content_embedding": vector.text(), "embedding_model": model}
        self._call(
            "put_store_items",
            {
                "items": JsonArgument(cast("JSON", items)),
                "allow_credentials": True if self._allow_credentials else None,
            },
            "repeatable",
        )

    def _text(self, op: PutOp) -> str:
        paths = self._fields if op.index is None or op.index is False else op.index
        parts = [text for path in paths for text in get_text_at_path(op.value, _tokens(path))]
        return "\n".join(parts)[:_MAX_TEXT]


def _tokens(path: str) -> str | list[str]:
    return path if path == "$" else tokenize_path(path)


def _matches(namespace: tuple[str, ...], condition: MatchCondition) -> bool:
    """Tell whether a namespace begins, or ends, as the condition says; `*` stands for any word."""
    path = tuple(condition.path)
    if len(namespace) < len(path):
        return False
    part = (
        namespace[: len(path)]
        if condition.match_type == "prefix"
        else namespace[len(namespace) - len(path) :]
    )
    return all(wanted in ("*", word) for word, wanted in zip(part, path, strict=True))
