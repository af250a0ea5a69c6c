"""The starter pack: every line can be recorded as it stands, and the questions find their lessons."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from knowledge_persistence.embedders.local import LocalEmbedder

if TYPE_CHECKING:
    from world import Persona, World

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PACK = EXAMPLES / "starter-pack.jsonl"
QUESTIONS = EXAMPLES / "questions.jsonl"

KEYS = {
    "title",
    "content",
    "knowledge_type",
    "category",
    "subcategory",
    "importance_score",
    "retrieval_triggers",
    "project_context",
    "context_data",
}
KNOWLEDGE_TYPES = {
    "factual",
    "procedural",
    "contextual",
    "relational",
    "experiential",
    "technical_discovery",
}
EVIDENCE = {"measured", "documented", "source"}

# What would be a secret if it were real. A lesson may name a key's kind, never show one.
CREDENTIALS = {
    "private key": re.compile(r"-----BEGIN"),
    "JSON web token": re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}"),
    "API key": re.compile(r"\b(?:sb_(?:secret|publishable)_|sk-|gh[pousr]_|xox[abp]-|AKIA)[\w-]{6,}"),
    "password in a URL": re.compile(r"\w+://[^\s/:@]+:[^\s/@]+@"),
    "assigned secret": re.compile(r"(?i)\b(?:password|passwd|secret|token|api_?key)\s*[=:]\s*['\"]?\w{6,}"),
    "long opaque string": re.compile(r"\b(?=\w*\d)(?=\w*[A-Za-z])[A-Za-z0-9]{32,}\b"),
}


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


LESSONS = read(PACK)
ASKED = read(QUESTIONS)
TITLES = [lesson["title"] for lesson in LESSONS]


@pytest.mark.parametrize("path", [PACK, QUESTIONS], ids=["pack", "questions"])
def test_file_is_plain_ascii_json_lines(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.isascii()  # straight quotes only: people paste SQL out of lessons
    assert text.endswith("\n")
    assert all(isinstance(json.loads(line), dict) for line in text.splitlines())


def test_pack_is_large_and_varied() -> None:
    assert len(LESSONS) >= 60
    kinds = Counter(lesson["knowledge_type"] for lesson in LESSONS)
    assert set(kinds) == KNOWLEDGE_TYPES
    assert len({lesson["category"] for lesson in LESSONS}) >= 8
    importance = [lesson["importance_score"] for lesson in LESSONS]
    assert max(importance) - min(importance) >= 50


@pytest.mark.parametrize("key", ["title", "content"])
def test_nothing_is_said_twice(key: str) -> None:
    counts = Counter(" ".join(lesson[key].lower().split()) for lesson in LESSONS)
    assert [text for text, count in counts.items() if count > 1] == []


def test_each_lesson_has_the_arguments_of_record_knowledge() -> None:
    for lesson in LESSONS:
        title = lesson["title"]
        assert set(lesson) == KEYS, title
        assert lesson["knowledge_type"] in KNOWLEDGE_TYPES, title
        assert lesson["project_context"] == "starter-pack", title
        assert type(lesson["importance_score"]) is int, title
        assert 1 <= lesson["importance_score"] <= 100, title
        for key, longest in {"title": 90, "category": 100, "subcategory": 100}.items():
            assert lesson[key] == lesson[key].strip(), title
            assert 0 < len(lesson[key]) <= longest, title
        assert set(lesson["context_data"]) == {"applies_to", "evidence"}, title
        assert lesson["context_data"]["applies_to"].strip(), title
        assert lesson["context_data"]["evidence"] in EVIDENCE, title


def test_each_lesson_is_neither_a_note_nor_an_essay() -> None:
    lengths = {lesson["title"]: len(lesson["content"].split()) for lesson in LESSONS}
    assert {title: length for title, length in lengths.items() if not 25 <= length <= 110} == {}


def test_triggers_are_lower_case_or_symbols_the_lesson_speaks_of() -> None:
    for lesson in LESSONS:
        triggers = lesson["retrieval_triggers"]
        assert 3 <= len(triggers) <= 7, lesson["title"]
        assert len(set(triggers)) == len(triggers), lesson["title"]
        text = lesson["title"] + " " + lesson["content"]
        for trigger in triggers:
            assert trigger == trigger.strip() != "", lesson["title"]
            assert trigger == trigger.lower() or trigger in text, trigger


def test_no_lesson_shows_a_credential() -> None:
    shown = [
        (kind, lesson["title"])
        for lesson in LESSONS
        for kind, pattern in CREDENTIALS.items()
        if pattern.search(json.dumps(lesson))
    ]
    assert shown == []


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("private key", "-----BEGIN " + "PRIVATE KEY-----"),
        ("JSON web token", "ey" + "JhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYW5vbiJ9.x"),
        ("API key", "sb_" + "secret_0123456789abcdef"),
        ("password in a URL", "postgresql://" + "ana:hunter22@db.example.org/postgres"),
        ("assigned secret", "pass" + "word=hunter22"),
        ("long opaque string", "9f86d081" * 5),
    ],
)
def test_credential_patterns_recognise_their_kind(kind: str, text: str) -> None:
    assert CREDENTIALS[kind].search(text)


def test_each_question_names_lessons_of_the_pack() -> None:
    for asked in ASKED:
        assert set(asked) == {"question", "expected", "quickstart"}, asked
        assert asked["expected"], asked
        assert set(asked["expected"]) <= set(TITLES), asked
        assert asked["question"] not in TITLES  # it would find its lesson without any search worth the name


def test_there_are_questions_enough_and_five_for_the_quickstart() -> None:
    assert len(ASKED) >= 40
    assert len({asked["question"] for asked in ASKED}) == len(ASKED)
    assert sum(asked["quickstart"] for asked in ASKED) == 5


def embed_everything(service: Persona, embedder: LocalEmbedder) -> int:
    """Do the worker's job through the worker's functions, and return how many embeddings were stored."""
    stored = 0
    while jobs := service.rpc("claim_embedding_jobs", max_jobs=64, embedding_models=[embedder.name]):
        vectors = embedder.embed_documents([job["embedding_text"] for job in jobs])
        outcomes = service.rpc(
            "store_embeddings",
            embeddings=[
                {
                    "knowledge_id": str(job["knowledge_id"]),
                    "embedding_model": job["embedding_model"],
                    "content_hash": job["content_hash"],
                    "embedding": json.dumps([float(x) for x in vector]),
                }
                for job, vector in zip(jobs, vectors, strict=True)
            ],
        )
        assert {row["outcome"] for row in outcomes} == {"stored"}
        stored += len(outcomes)
    return stored


def test_questions_find_their_lessons(world: World) -> None:
    ana = world.sign_up("ana")
    recorded = ana.start_session("starter-pack").rpc("record_knowledge_batch", items=LESSONS)
    assert [row["outcome"] for row in recorded] == ["created"] * len(LESSONS)
    embedder = LocalEmbedder()
    assert embed_everything(world.service(), embedder) == len(LESSONS)

    ana = ana.start_session("questions")
    first: list[str] = []
    among_three: list[str] = []
    for asked in ASKED:
        found = ana.rpc(
            "search_knowledge",
            query_text=asked["question"],
            query_embedding=[float(x) for x in embedder.embed_query(asked["question"])],
            embedding_model=embedder.name,
            max_results=3,
        )
        titles = [row["title"] for row in found]
        if set(titles[:1]) & set(asked["expected"]):
            first.append(asked["question"])
        if set(titles) & set(asked["expected"]):
            among_three.append(asked["question"])
        assert all(row["relevance_reason"] for row in found)

    missed = [asked["question"] for asked in ASKED if asked["question"] not in among_three]
    assert len(among_three) >= 0.85 * len(ASKED), missed
    shown = {asked["question"] for asked in ASKED if asked["quickstart"]}
    assert shown <= set(first), shown - set(first)
