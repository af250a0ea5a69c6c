"""Recording and retrieving: the methods that the client and a session have in common."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Final, cast

from knowledge_persistence._values import JsonArgument, check_argument, invalid, to_id
from knowledge_persistence._waiting import async_run
from knowledge_persistence.errors import NotFoundError
from knowledge_persistence.models import (
    ContextualKnowledge,
    KnowledgeItem,
    NewKnowledge,
    RatedKnowledge,
    RecalledKnowledge,
    RecordedKnowledge,
    RetrievalSettings,
    SimilarKnowledge,
    ValidatedKnowledge,
    from_row,
    from_rows,
    title_from,
    to_json,
)

from .methods import AsyncMethods

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    import numpy as np
    from numpy.typing import NDArray

    from knowledge_persistence._values import Argument, CallMode
    from knowledge_persistence.models import JSON, JSONObject, KnowledgeType, ValidationStatus
    from knowledge_persistence.rerankers import BoundedReranker

_BATCH: Final = 1000
# What tokenizers make of English prose, about; of code and other languages they make more tokens.
_CHARACTERS_A_TOKEN: Final = 4
#: So many are read together with the query by a reranker.
_RERANKED: Final = 30


class AsyncKnowledgeMethods(AsyncMethods):
    """Record, recall, validate, rate: the same under the client and under one of its sessions."""

    async def remember(
        self,
        content: str,
        *,
        title: str | None = None,
        knowledge_type: KnowledgeType = "factual",
        category: str = "general",
        subcategory: str | None = None,
        context_data: JSONObject | None = None,
        importance_score: int = 50,
        retrieval_triggers: Sequence[str] | None = None,
        project_context: str | None = None,
        valid_from: datetime | None = None,
        valid_to: datetime | None = None,
        text_search_config: str | None = None,
        embed: bool = False,
        allow_credentials: bool = False,
    ) -> RecordedKnowledge:
        """Record one piece of knowledge.

        It is there, and found by its words, when this returns; its vector follows from the worker. The same
        text is kept once: recorded again, the answer says duplicate. So it also does when an answer was lost
        and the call was repeated.

        Args:
            content: the knowledge itself, up to 64 KiB; a few sentences are found best.
            title: one line that says what it is about; None: the first sentence of the content.
            knowledge_type: what kind of knowledge it is.
            category: a word to sort by.
            subcategory: a finer one.
            context_data: structured context.
            importance_score: 1 to 100.
            retrieval_triggers: words, codes or phrases that should bring it up.
            project_context: the project it belongs to; None: the session's.
            valid_from: from when it holds.
            valid_to: until when it held.
            text_search_config: how PostgreSQL stems its words (german, simple); None: by the language that it is
                plainly written in, else as its workspace's.
            embed: make the vector now, instead of leaving that to the worker.
            allow_credentials: take the text though it looks like it holds a credential.

        Raises:
            InvalidArgumentError: the text is blank, or an argument is outside its range.
            CredentialError: the text looks like it holds a credential.
            EmbeddingError: the vector was asked for and can't be made.
        """
        item = NewKnowledge(
            content=content,
            title=title,
            knowledge_type=knowledge_type,
            category=category,
            subcategory=subcategory,
            context_data=context_data,
            importance_score=importance_score,
            retrieval_triggers=retrieval_triggers,
            project_context=project_context,
            valid_from=valid_from,
            valid_to=valid_to,
            text_search_config=text_search_config,
        )
        [recorded] = await self.remember_many([item], embed=embed, allow_credentials=allow_credentials)
        return recorded

    async def remember_many(
        self, items: Iterable[NewKnowledge | str], *, embed: bool = False, allow_credentials: bool = False
    ) -> list[RecordedKnowledge]:
        """Record many pieces, a thousand in a transaction.

        Each thousand is recorded whole or not at all. After an error the call may simply be made again: what
        is there already is answered as a duplicate.

        Args:
            items: pieces, or texts.
            embed: make the vectors now, instead of leaving that to the worker.
            allow_credentials: take texts though they look like they hold credentials.

        Returns:
            one answer an item, in the order of the items.

        Raises:
            InvalidArgumentError: a text is blank, or an argument is outside its range; the message names the
                item.
            CredentialError: a text looks like it holds a credential.
            EmbeddingError: the vectors were asked for and can't be made.
        """
        pieces = [NewKnowledge(content=item) if isinstance(item, str) else item for item in items]
        context = await self._request_context()
        recorded: list[RecordedKnowledge] = []
        for start in range(0, len(pieces), _BATCH):
            batch = [
                self._prepared(start + index, piece)
                for index, piece in enumerate(pieces[start : start + _BATCH])
            ]
            if embed:
                texts = [f"{item['title']}\n{item['content']}" for item in batch]
                model, vectors = await self._core.embed_documents(texts)
                for item, vector in zip(batch, vectors, strict=True):
                    item["content_embedding"] = vector.text()
                    item["embedding_model"] = model
            rows = await self._core.call(
                "record_knowledge_batch",
                {"items": JsonArgument(cast("JSON", batch)), "allow_credentials": allow_credentials or None},
                context,
                mode="repeatable",
            )
            answers = from_rows(RecordedKnowledge, rows)
            recorded.extend(replace(answer, item_index=start + answer.item_index) for answer in answers)
        return recorded

    def _prepared(self, index: int, piece: NewKnowledge) -> dict[str, JSON]:
        if not piece.content.strip():
            raise invalid(f"item {index}: content is blank")
        if piece.context_data is not None:
            check_argument(f"item {index}: context_data", JsonArgument(piece.context_data))
        values = {field.name: to_json(getattr(piece, field.name)) for field in fields(piece)}
        values["title"] = (piece.title or "").strip() or title_from(piece.content)
        if piece.project_context is None:
            values["project_context"] = self._project
        return {name: value for name, value in values.items() if value is not None}

    async def recall(
        self,
        query: str,
        *,
        max_results: int = 10,
        knowledge_types: Sequence[KnowledgeType] | None = None,
        categories: Sequence[str] | None = None,
        project_context: str | None = None,
        tags: Sequence[str] | None = None,
        min_importance: int | None = None,
        validation_statuses: Sequence[ValidationStatus] | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        updated_after: datetime | None = None,
        updated_before: datetime | None = None,
        author: UUID | str | None = None,
        recorded_in: UUID | str | None = None,
        context_data: JSONObject | None = None,
        as_of: datetime | None = None,
        exclude_ids: Sequence[UUID | str] | None = None,
        after_cursor: str | None = None,
        max_tokens: int | None = None,
        rerank: bool | None = None,
        explain: bool = False,
    ) -> list[RecalledKnowledge]:
        """Find what is known about something, and log that it was looked up.

        Args:
            query: a question, keywords, an error message.
            max_results: so many at most.
            knowledge_types: only these types.
            categories: only these categories.
            project_context: the project at hand.
            tags: only items with one of these triggers.
            min_importance: only items at least this important, 1 to 100.
            validation_statuses: only items of these statuses; None: all that are not deprecated.
            created_after: only items recorded after.
            created_before: only items recorded before.
            updated_after: only items whose text or status changed after.
            updated_before: only items whose text or status changed before.
            author: only items of this user.
            recorded_in: only items recorded in this session.
            context_data: only items whose context holds this.
            as_of: answer as it would have been then: what had been recorded, was in force and not superseded.
            exclude_ids: not these items.
            after_cursor: continue after the result with this cursor, with all else the same.
            max_tokens: leave out what doesn't fit into so many tokens, at four characters a token.
            rerank: let the client's reranker put the best thirty into its order; None: where there is one, on the
                first page. In vain waits are bounded: then the order stays, a warning is logged, and no result has a
                `rerank_score`.
            explain: let each result tell every arm's rank, score and milliseconds.

        Returns:
            the best first, each with its scores and the reason in words.

        Raises:
            EmbeddingError: the query can't be embedded.
            TransportError: no answer came; the call is not repeated once it may have been logged.
        """
        return await self._find(
            "recall_knowledge",
            "once",
            query,
            {
                "knowledge_types": knowledge_types,
                "categories": categories,
                "project_context": project_context,
                "tags": tags,
                "min_importance": min_importance,
                "validation_statuses": validation_statuses,
                "created_after": created_after,
                "created_before": created_before,
                "updated_after": updated_after,
                "updated_before": updated_before,
                "author_id": _id(author, "user"),
                "session_id": _id(recorded_in, "session"),
                "context_data": None if context_data is None else JsonArgument(context_data),
                "as_of": as_of,
                "exclude_ids": _ids(exclude_ids),
                "after_cursor": after_cursor,
                "explain": explain or None,
            },
            max_results=max_results,
            max_tokens=max_tokens,
            rerank=rerank,
        )

    async def search(
        self,
        query: str,
        *,
        max_results: int = 10,
        knowledge_types: Sequence[KnowledgeType] | None = None,
        categories: Sequence[str] | None = None,
        project_context: str | None = None,
        tags: Sequence[str] | None = None,
        min_importance: int | None = None,
        validation_statuses: Sequence[ValidationStatus] | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        updated_after: datetime | None = None,
        updated_before: datetime | None = None,
        author: UUID | str | None = None,
        recorded_in: UUID | str | None = None,
        context_data: JSONObject | None = None,
        as_of: datetime | None = None,
        exclude_ids: Sequence[UUID | str] | None = None,
        after_cursor: str | None = None,
        max_tokens: int | None = None,
        rerank: bool | None = None,
        explain: bool = False,
    ) -> list[RecalledKnowledge]:
        """Find the same as `recall`, without logging it; the arguments are the same.

        Raises:
            InvalidArgumentError: an argument is outside its range, or there is no reranker and one is asked for.
            EmbeddingError: the query can't be embedded.
        """
        return await self._find(
            "search_knowledge",
            "read",
            query,
            {
                "knowledge_types": knowledge_types,
                "categories": categories,
                "project_context": project_context,
                "tags": tags,
                "min_importance": min_importance,
                "validation_statuses": validation_statuses,
                "created_after": created_after,
                "created_before": created_before,
                "updated_after": updated_after,
                "updated_before": updated_before,
                "author_id": _id(author, "user"),
                "session_id": _id(recorded_in, "session"),
                "context_data": None if context_data is None else JsonArgument(context_data),
                "as_of": as_of,
                "exclude_ids": _ids(exclude_ids),
                "after_cursor": after_cursor,
                "explain": explain or None,
            },
            max_results=max_results,
            max_tokens=max_tokens,
            rerank=rerank,
        )

    async def _find(
        self,
        function: str,
        mode: CallMode,
        query: str,
        filters: dict[str, Argument],
        *,
        max_results: int,
        max_tokens: int | None,
        rerank: bool | None,
    ) -> list[RecalledKnowledge]:
        if max_tokens is not None and max_tokens < 1:
            raise invalid("max_tokens is at least 1")
        reranker = self._chosen_reranker(rerank, paging=filters["after_cursor"] is not None)
        context = await self._request_context()
        arguments = {"query_text": query, **await self._core.embed_query(query), **filters}
        if reranker is None:
            rows = await self._core.call(
                function, {**arguments, "max_results": max_results}, context, mode=mode
            )
            return _packed(from_rows(RecalledKnowledge, rows), max_tokens)
        # More is looked at than handed on, and only what is handed on counts as recalled.
        rows = await self._core.call(
            "search_knowledge",
            {**arguments, "max_results": max(max_results, _RERANKED)},
            context,
            mode="read",
        )
        found = from_rows(RecalledKnowledge, rows)
        found = _packed((await self._reranked(reranker, query, found))[:max_results], max_tokens)
        if function == "recall_knowledge" and found:
            ids = [item.knowledge_id for item in found]
            await self._core.call("log_recall", {"knowledge_ids": ids}, context, mode="once")
        return found

    def _chosen_reranker(self, rerank: bool | None, *, paging: bool) -> BoundedReranker | None:
        if rerank is False or (rerank is None and paging):
            return None
        if rerank and self._core.reranker is None:
            raise invalid(
                "there is no reranker here", "KP_RERANKER chooses one; leave rerank out to search without"
            )
        if paging:
            raise invalid(
                "what a reranker ordered has no next page",
                "leave rerank out to page through the search's own order",
            )
        return self._core.reranker

    async def _reranked(
        self, reranker: BoundedReranker, query: str, found: list[RecalledKnowledge]
    ) -> list[RecalledKnowledge]:
        head = found[:_RERANKED]
        if not head:
            return found
        texts = [f"{item.title}\n{item.content}" for item in head]
        scores = await async_run(reranker.scores, query, texts)
        if scores is None:
            return found
        # What leads by an exact trigger or identifier stays there: models that read prose are blind to codes.
        pinned = next((place for place, item in enumerate(head) if item.trigger_score is None), len(head))
        # Another order's cursors would lead astray.
        scored = [
            replace(item, rerank_score=score, cursor="") for item, score in zip(head, scores, strict=True)
        ]
        ordered = sorted(scored[pinned:], key=lambda item: -(item.rerank_score or 0.0))
        return [*scored[:pinned], *ordered, *(replace(item, cursor="") for item in found[_RERANKED:])]

    async def find_similar(
        self,
        text_or_vector: str | Sequence[float] | NDArray[np.float32],
        *,
        knowledge_type: KnowledgeType | None = None,
        max_results: int = 10,
        similarity_threshold: float | None = None,
        embedding_model: str | None = None,
    ) -> list[SimilarKnowledge]:
        """Find the items nearest in meaning.

        Args:
            text_or_vector: a text, or a vector of the model's dimensions.
            knowledge_type: only this type.
            max_results: so many at most.
            similarity_threshold: cosine similarity from which an item counts; None: the model's registered
                one.
            embedding_model: the model of a given vector; None: the embedder's, else the deployment's default.

        Raises:
            EmbeddingError: the text can't be embedded.
            EmbeddingDimensionError: the vector has not the length of its model.
        """
        if isinstance(text_or_vector, str):
            if not text_or_vector.strip():
                raise invalid("the text is blank")
            self._core.require_embedder()
            embedded = await self._core.embed_query(text_or_vector)
        else:
            embedded = await self._core.given_vector(text_or_vector, embedding_model)
        rows = await self._core.call(
            "find_similar_knowledge",
            {
                **embedded,
                "knowledge_type_filter": knowledge_type,
                "limit_results": max_results,
                "similarity_threshold": similarity_threshold,
            },
            await self._request_context(),
            mode="read",
        )
        return from_rows(SimilarKnowledge, rows)

    async def context(
        self, situation: str, *, project_context: str | None = None, max_results: int = 20
    ) -> list[ContextualKnowledge]:
        """Find what bears on the situation at hand.

        Args:
            situation: what is going on, in words.
            project_context: the project at hand.
            max_results: so many at most.

        Raises:
            EmbeddingError: the situation can't be embedded.
        """
        embedded = await self._core.embed_query(situation)
        arguments: dict[str, Argument] = {
            "current_situation": situation,
            "project_context": project_context,
            "max_results": max_results,
            "situation_embedding": embedded.get("query_embedding"),
            "embedding_model": embedded.get("embedding_model"),
        }
        rows = await self._core.call(
            "get_contextual_knowledge", arguments, await self._request_context(), mode="read"
        )
        return from_rows(ContextualKnowledge, rows)

    async def get(self, knowledge_id: UUID | str) -> KnowledgeItem:
        """Read one item.

        Args:
            knowledge_id: the item.

        Raises:
            NotFoundError: there is none, or none that the caller may see.
        """
        rows = await self._core.select(
            "knowledge_items",
            [field.name for field in fields(KnowledgeItem)],
            await self._request_context(),
            equal={"id": to_id(knowledge_id, "knowledge item")},
        )
        if not rows:
            raise NotFoundError("no such knowledge item", code="PT404", status=404)
        return from_row(KnowledgeItem, rows[0])

    async def validate(
        self,
        knowledge_id: UUID | str,
        status: ValidationStatus = "validated",
        *,
        note: str | None = None,
        unchanged_since: datetime | str | None = None,
    ) -> ValidatedKnowledge:
        """Decide on an item, as a maintainer or owner of its workspace.

        Args:
            knowledge_id: the item.
            status: validated shows it to the workspace, deprecated takes it out of retrieval.
            note: why.
            unchanged_since: the updated_at that was read: nothing is decided on a text that was changed since.

        Raises:
            NotFoundError: there is no such item, or none that the caller may see.
            PermissionDeniedError: the caller is neither maintainer nor owner.
            ConflictError: it has changed since, or its owner has recorded the same text anew.
        """
        rows = await self._core.call(
            "validate_knowledge",
            {
                "knowledge_id": to_id(knowledge_id, "knowledge item"),
                "validation_status": status,
                "note": note,
                "unchanged_since": unchanged_since,
            },
            await self._request_context(),
            mode="once",
        )
        return from_row(ValidatedKnowledge, rows[0])

    async def rate(
        self,
        knowledge_id: UUID | str,
        *,
        effectiveness_rating: int | None = None,
        application_success: bool | None = None,
        notes: str | None = None,
    ) -> RatedKnowledge:
        """Say how much an item helped.

        Args:
            knowledge_id: the item.
            effectiveness_rating: 1 to 10.
            application_success: whether applying it worked.
            notes: what there is to add.

        Raises:
            NotFoundError: there is no such item, or none that the caller may see.
        """
        rows = await self._core.call(
            "rate_knowledge",
            {
                "knowledge_id": to_id(knowledge_id, "knowledge item"),
                "effectiveness_rating": effectiveness_rating,
                "application_success": application_success,
                "notes": notes,
            },
            await self._request_context(),
            mode="once",
        )
        return from_row(RatedKnowledge, rows[0])

    async def configure_retrieval(
        self, *, text_search_config: str | None = None, retrieval_weights: Mapping[str, float] | None = None
    ) -> RetrievalSettings:
        """Say how the workspace's searches read and weigh; without arguments only tell.

        Args:
            text_search_config: how PostgreSQL stems the words of items that have no language of their own; a
                change reads all items of the workspace anew.
            retrieval_weights: meaning, triggers, neighbours and relationships, 0 to 1 each, instead of all that
                are set; {} sets the defaults.

        Raises:
            InvalidArgumentError: there is no such configuration, or a weight is unknown or outside its range.
            PermissionDeniedError: the caller is not an owner of the workspace.
        """
        rows = await self._core.call(
            "configure_retrieval",
            {
                "text_search_config": text_search_config,
                "retrieval_weights": None
                if retrieval_weights is None
                else JsonArgument(dict(retrieval_weights)),
            },
            await self._request_context(),
            mode="repeatable",
        )
        return from_row(RetrievalSettings, rows[0])


def _ids(values: Sequence[UUID | str] | None) -> list[UUID] | None:
    return None if values is None else [to_id(value, "knowledge item") for value in values]


def _id(value: UUID | str | None, what: str) -> UUID | None:
    return None if value is None else to_id(value, what)


def _packed(found: list[RecalledKnowledge], max_tokens: int | None) -> list[RecalledKnowledge]:
    """Keep the best that fit together; a long one that doesn't makes room for shorter ones after it."""
    if max_tokens is None:
        return found
    kept: list[RecalledKnowledge] = []
    left = max_tokens
    for item in found:
        tokens = -(-(len(item.title) + len(item.content)) // _CHARACTERS_A_TOKEN)
        if tokens <= left:
            kept.append(item)
            left -= tokens
    return kept
