"""Rows become the same results whichever door they came through."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowledge_persistence import models
from knowledge_persistence.models import (
    EndedSession,
    KnowledgeItem,
    Session,
    ValidatedKnowledge,
    from_row,
    parse_interval,
    title_from,
    to_json,
)

ID = UUID("0198c0de-0000-7000-8000-000000000001")
START = datetime(2026, 11, 22, 10, 30, 5, 250000, tzinfo=UTC)


def test_a_row_of_json_and_a_row_of_values_make_the_same_result() -> None:
    values = {
        "session_id": ID,
        "session_identifier": "monday",
        "project_context": None,
        "start_time": START,
        "end_time": START + timedelta(hours=30, seconds=1.5),
        "session_duration": timedelta(hours=30, seconds=1.5),
        "knowledge_items_accessed": 3,
        "knowledge_items_created": 2,
        "breakthrough_moments": 0,
        "session_quality_score": None,
        "a column of a later version": 1,
    }
    as_json = values | {
        "session_id": str(ID),
        "start_time": "2026-11-22T10:30:05.25+00:00",
        "end_time": "2026-11-23T16:30:06.75+00:00",
        "session_duration": "1 day 06:00:01.5",
    }
    assert from_row(EndedSession, as_json) == from_row(EndedSession, values)
    assert from_row(EndedSession, as_json).session_id == ID


def test_lists_of_ids_are_ids() -> None:
    row = {"knowledge_id": str(ID), "validation_status": "validated", "merged_ids": [str(ID)]}
    assert from_row(ValidatedKnowledge, row).merged_ids == [ID]


def test_a_row_without_a_needed_column_is_an_error() -> None:
    with pytest.raises(TypeError):
        from_row(ValidatedKnowledge, {"knowledge_id": str(ID)})


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("00:00:01.5", timedelta(seconds=1.5)),
        ("102:00:00", timedelta(hours=102)),
        ("-1 days +02:03:00", timedelta(days=-1, hours=2, minutes=3)),
        ("3 days", timedelta(days=3)),
        ("-00:00:00.25", timedelta(seconds=-0.25)),
        ({"hours": 1, "milliseconds": 500}, timedelta(hours=1, milliseconds=500)),
        ({}, timedelta()),
    ],
)
def test_intervals_are_read(written: object, meant: timedelta) -> None:
    assert parse_interval(written) == meant


@pytest.mark.parametrize("written", ["1 mon", "1 year 2 days", "soon", "10:00"])
def test_what_is_no_fixed_interval_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=written):
        parse_interval(written)


def test_results_print_as_json() -> None:
    session = Session(
        id=ID,
        workspace_id=ID,
        owner_id=ID,
        session_identifier="s",
        start_time=START,
        knowledge_items_accessed=0,
        knowledge_items_created=1,
        breakthrough_moments=0,
        session_duration=timedelta(seconds=2.5),
        session_metadata={"summary": "went well", "n": [1, None]},
    )
    printed = json.loads(json.dumps(to_json([session])))
    assert printed[0]["id"] == str(ID)
    assert printed[0]["start_time"] == "2026-11-22T10:30:05.250000+00:00"
    assert printed[0]["session_duration"] == 2.5
    assert printed[0]["session_metadata"]["n"] == [1, None]
    assert session.summary == "went well"


RESULTS = [kind for kind in vars(models).values() if dataclasses.is_dataclass(kind)]


@pytest.mark.parametrize("kind", RESULTS)
def test_results_are_frozen_and_slotted(kind: type) -> None:
    assert kind.__dataclass_params__.frozen
    assert "__slots__" in vars(kind)


def test_items_leave_the_vector_in_the_database() -> None:
    assert "content_embedding" not in {field.name for field in dataclasses.fields(KnowledgeItem)}


@pytest.mark.parametrize(
    ("content", "title"),
    [
        ("Set hnsw.iterative_scan. Then small tenants find their rows.", "Set hnsw.iterative_scan"),
        ("PostgREST 14.17 ignores it! Why?", "PostgREST 14.17 ignores it!"),
        ("# Heading\n\nText below.", "Heading"),
        ("  one\n  two", "one"),
        ("東京は首都です。次の文。", "東京は首都です"),
        ("word " * 60, "word " * 22 + "word…"),
        ("x" * 300, "x" * 119 + "…"),
        ("...", "..."),
        ("  ", ""),
    ],
)
def test_a_title_is_the_first_sentence(content: str, title: str) -> None:
    assert title_from(content) == title


@given(st.text())
def test_any_text_has_a_short_title(content: str) -> None:
    title = title_from(content)
    assert len(title) <= 120
    assert "\n" not in title
    assert bool(title) == bool(content.strip())
