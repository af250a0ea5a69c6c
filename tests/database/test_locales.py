# ruff: noqa: RUF001, RUF003 - letters of other scripts look like Latin ones: that is the point
"""Nothing depends on the locale or the time zone of the server: the same play, in databases of other ones.

What is a letter, what its small form is, and which day it is: each of them is the database's to say, unless a function
says so itself. A database made elsewhere, restored or upgraded, must find what it was told.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Generator

import psycopg
import pytest
from psycopg import sql

from databases import Database, DatabaseServer
from knowledge_persistence.embedded.bootstrap import prepare_database
from knowledge_persistence.migrations import apply_migrations
from knowledge_persistence.resources import migrations_dir
from world import Persona, World, refused

# Of other habits than the stack's own cluster: C knows no letters but ASCII's; Turkish has a small ı for I; the fast
# Unicode provider maps one letter to several.
LOCALES = {
    "c": "locale_provider libc locale 'C'",
    "turkish": "locale_provider icu icu_locale 'tr-TR' locale 'C'",
    "unicode": "locale_provider builtin builtin_locale 'PG_UNICODE_FAST' locale 'C'",
}
# The day begins there when it ends elsewhere; and dates are read in another order.
ELSEWHERE = "?options=-ctimezone%3DPacific/Apia%20-cdatestyle%3DISO,DMY%20-cintervalstyle%3Dsql_standard"


@pytest.fixture(scope="module", params=list(LOCALES))
def foreign_template(request: pytest.FixtureRequest, server: DatabaseServer) -> Database:
    """Give a migrated database of another locale; to be cloned, never connected to."""
    name = f"locale_{request.param}"
    with server.cluster.connect() as connection:
        try:
            connection.execute(
                sql.SQL("create database {} template template0 encoding 'UTF8' {}").format(
                    sql.Identifier(name), sql.SQL(LOCALES[request.param])
                )
            )
        except (psycopg.errors.FeatureNotSupported, psycopg.errors.WrongObjectType) as error:
            pytest.skip(f"this server has no such locale: {error}")
    prepare_database(server.cluster, name, server.config)
    database = Database(server, name)
    apply_migrations(database.dsn(), migrations_dir())
    return database


@pytest.fixture
def foreign(server: DatabaseServer, foreign_template: Database) -> Generator[World]:
    """Set the stage in a database of another locale, whose sessions are in another time zone."""
    with server.clone(foreign_template) as database:
        world = World(lambda role: database.dsn(role) + ELSEWHERE)
        yield world
        world.close()


def play(world: World) -> dict[str, object]:
    """Record texts in several scripts and cases, and return what became of them."""
    ana = world.sign_up("ana")
    for title, content, triggers in TEXTS:
        ana.record(title, content, retrieval_triggers=triggers, valid_from="2026-03-01T02:00:00Z")
    return {
        "hashes": world.superuser(
            "select title, content_hash from public.knowledge_items order by content_hash"
        ),
        "documents": world.superuser(
            "select k.content_hash, d.config, d.triggers, d.document::text, d.document_length"
            "  from private.search_documents d join public.knowledge_items k on k.id = d.knowledge_id order by 1"
        ),
        "found": {query: found(ana, query) for query in QUERIES},
        "merged": merged(ana),
        "folded": [folded(world, one) == folded(world, other) for one, other in FOLDED],
        "junk": [world.superuser("select private.junk_reason(%s) as why", text)[0]["why"] for text in JUNK],
        "credentials": [
            world.superuser("select private.find_credential(%s) as what", text)[0]["what"]
            for text in CREDENTIALS
        ],
        "contradictions": [
            world.superuser("select private.contradiction(%s, %s, true) as why", one, other)[0]["why"]
            for one, other in CONTRADICTIONS
        ],
        "dates": ana.value(
            "select valid_from = '2026-03-01T02:00:00+00'::timestamptz from knowledge_items limit 1"
        ),
        "exported": {
            moment
            for row in ana.rpc("export_records", section="item")
            for moment in re.findall(r'"valid_from": ?"([^"]+)"', row["line"])
        },
    }


def found(ana: Persona, query: str) -> list[tuple[str, float | None]]:
    return [
        (row["title"], row["trigger_score"] and round(row["trigger_score"], 6))
        for row in ana.rpc("search_knowledge", query_text=query, max_results=3)
    ]


def folded(world: World, text: str) -> str:
    return world.superuser("select private.folded_text_hash('', %s) as hash", text)[0]["hash"]


def merged(ana: Persona) -> list[int]:
    """Meet everything twice, written in small and in capital letters, and return how many there are of each."""
    for text in ("ФАЙЛ НЕ НАЙДЕН: INDEX.TXT", "файл не найден: index.txt"):
        ana.rpc("record_gotcha", problem_description=text)
    for text in ("ÜBUNG IM HAFEN", "übung im hafen"):
        ana.rpc("record_decision_stage", decision_topic=text, understanding="Jeden Dienstag.")
        ana.rpc("record_insight", insight_title=text, insight_description="Sie hilft.")
        ana.rpc(
            "record_interaction_pattern", pattern_name=text, situation_type="ÉTÉ" if text.isupper() else "été"
        )
    return [
        ana.value(f"select count(*) from public.{table}")
        for table in (
            "technical_gotchas",
            "decision_evolution",
            "experiential_knowledge",
            "interaction_patterns",
        )
    ]


TEXTS = [
    ("Ärger mit der Straße", "ÄRGER IM HAFEN: die Straße nach Øst ist gesperrt.", ["ÄRGER", "Straße"]),
    ("INDEX TITLES", "The INDEX of TITLES is KEPT IN Istanbul.", ["TITLE LIST", "IIS"]),
    ("Гавань", "КРАН НОМЕР ДВА стоит у пирса.", ["КРАН"]),
    ("港の地図", "地図は事務所にある。", ["地図"]),
    ("no\u00a0break", "A text\u00a0with  spaces\u2003of many kinds.", None),
]
QUERIES = [
    "ärger",
    "title list",
    "iis",
    "index titles",
    "istanbul",
    "кран",
    "стоит",
    "地図",
    "march 2026",
    "ISTANBUL",
]
FOLDED = [
    ("КРАН НОМЕР ДВА!", "кран, номер два"),
    ("TITLE I", "title i"),
    ("Привет, мир", "Другой текст"),
    ("版本 1.2", "版本 1.3"),
]
TRYING = "looks like text to try something out"
JUNK = ["TEST TESTING", "жжжжжжжж", "Кран у пирса", "lorem IPSUM dolor"]
CREDENTIALS = [
    "AUTHORIZATION: BEARER 3f9aT7c1e5b8d2046aQ1",
    "MY API_KEY = 7f3Kq9TzX2mVb8LrW4c1",
    "the API_KEY of the crane is in the safe",
]
CONTRADICTIONS = [
    ("The light IS ENABLED at night.", "The light is disabled at night."),
    ("КРАН поднимает 40 тонн", "кран поднимает 12 тонн"),
]


def test_a_credential_is_refused_in_every_locale(foreign: World) -> None:
    ana = foreign.sign_up("ana")
    for text in CREDENTIALS[:2]:
        with refused("PT451"):
            ana.record("Crane", text)


def test_the_same_is_found_and_merged_in_every_locale(world: World, foreign: World) -> None:
    here, there = play(world), play(foreign)
    for what, answer in here.items():
        assert there[what] == answer, what
    # Not the same by being nothing.
    assert here["merged"] == [1, 1, 1, 1]
    assert here["folded"] == [True, True, False, False]
    assert here["junk"] == [TRYING, "one character again and again", None, TRYING]
    assert here["credentials"] == ["an authorization header", "a password or key", None]
    assert all(here["contradictions"]), here["contradictions"]
    assert here["dates"]
    assert here["exported"] == {"2026-03-01T02:00:00+00:00"}
    answers = here["found"]
    assert isinstance(answers, dict)
    assert {query for query, answer in answers.items() if not answer} == set()
    assert answers["ärger"][0][1], "found by its trigger"


def test_which_month_it_is_does_not_depend_on_the_time_zone(foreign: World) -> None:
    """Sessions lie in the partition of their month in UTC, wherever whoever makes the partitions is."""
    ana = foreign.sign_up("ana").start_session("pier")
    [row] = foreign.superuser(
        "select tableoid::regclass::text as part, to_char(start_time at time zone 'UTC', 'YYYYMM') as month"
        "  from public.ai_sessions where id = %s",
        uuid.UUID(str(ana.session)),
    )
    assert row["part"] == f"private.ai_sessions_{row['month']}"
