"""docs/reference/seed-map.md is true: what it names exists, has the seed's types and checks, and is tested."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, LiteralString

import psycopg
import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from databases import Database, DatabaseServer

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "seed-map.md"
NAME = re.compile(r"`([^`]+)`")
# How much of the seed there is, counted once: a row that goes missing is noticed.
SIZES = {
    "Tables": 13,
    "Columns": 134,
    "Keys and checks": 35,
    "Indexes": 17,
    "Functions": 3,
    "Row-level security, trigger, extension": 6,
    "Server settings": 9,
    "Services": 3,
    "Phases": 12,
}
EXISTS: LiteralString = """
select c.oid::regclass::text from pg_class c where c.relkind in ('r', 'p', 'v', 'i', 'I')
union select c.relname::text from pg_class c where c.relkind in ('i', 'I')
union select conname::text from pg_constraint
union select p.proname || '()' from pg_proc p where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)
union select polname::text from pg_policy
union select tgname::text from pg_trigger
union select extname::text from pg_extension
"""
COLUMNS: LiteralString = """
select format('%s.%s', a.attrelid::regclass, a.attname), format_type(a.atttypid, a.atttypmod), a.attnotnull
  from pg_attribute a join pg_class c on c.oid = a.attrelid
 where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and a.attnum > 0 and not a.attisdropped
"""


@dataclass(frozen=True)
class Row:
    """A line of one of the page's tables; in the section on columns the column comes first, then its type."""

    seed: str
    here: str
    difference: str
    test: str

    @property
    def names(self) -> list[str]:
        return NAME.findall(self.here)


@cache
def rows(section: str) -> tuple[Row, ...]:
    found: dict[str, list[Row]] = defaultdict(list)
    heading = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif line.startswith("|") and not line.startswith(("| Seed |", "| Column |", "|---")):
            first, second, difference, test = (cell.strip() for cell in line.strip("|").split("|"))
            seed, here = (second, first) if heading == "Columns" else (first, second)
            found[heading].append(Row(seed, here, difference, test))
    assert set(found) == set(SIZES)
    return tuple(found[section])


@pytest.fixture(scope="module")
def connection(server: DatabaseServer, template: Database) -> Generator[psycopg.Connection]:
    with server.clone(template) as database, psycopg.connect(database.dsn()) as connection:
        yield connection


@pytest.mark.parametrize("section", SIZES)
def test_nothing_of_the_seed_is_left_out(section: str) -> None:
    found = rows(section)
    assert len({(row.seed, row.here) for row in found}) == SIZES[section] == len(found)


def test_what_is_named_exists(connection: psycopg.Connection) -> None:
    connection.execute("set search_path = pg_catalog")
    exists = {name for (name,) in connection.execute(EXISTS)}
    exists |= {name for name, *_ in connection.execute(COLUMNS)}
    missing = [
        name
        for section in SIZES
        for row in rows(section)
        for name in row.names
        if name not in exists and not (ROOT / name).exists() and f"service `{name}`" not in row.here
    ]
    assert missing == []
    assert [row for section in SIZES for row in rows(section) if not row.names] == []


def test_services_exist() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    for row in rows("Services"):
        [service] = re.findall(r"service `([^`]+)`", row.here)
        assert f"\n  {service}:\n" in compose, service


def test_columns_have_the_seeds_types_unless_the_page_says_why_not(connection: psycopg.Connection) -> None:
    connection.execute("set search_path = pg_catalog")
    types = {name: (kind, is_not_null) for name, kind, is_not_null in connection.execute(COLUMNS)}
    short = {
        "uuid",
        "text",
        "integer",
        "jsonb",
        "boolean",
        "interval",
        "timestamp with time zone",
        "text[]",
        "uuid[]",
    }
    unexplained: list[str] = []
    for row in rows("Columns"):
        [name] = row.names
        kind, is_not_null = types[name]
        declared = row.seed.removesuffix(" not null")
        assert declared in short or re.match(r"(character varying|numeric|vector)\(", declared), row
        same = kind.removeprefix("extensions.") == declared and (is_not_null or " not null" not in row.seed)
        if not same and not row.difference:
            unexplained.append(f"{name}: {row.seed} in the seed, {kind} here")
    assert unexplained == []


def test_checks_say_what_the_seed_says(connection: psycopg.Connection) -> None:
    compared = 0
    for row in rows("Keys and checks"):
        given = re.search(r" (?:IN \((.*)\)|BETWEEN (\S+) AND (\S+))$", row.seed)
        if given is None:
            continue
        definition = connection.execute(
            "select pg_get_constraintdef(oid) from pg_constraint where conname = %s and conparentid = 0",
            row.names,
        ).fetchone()
        assert definition is not None, row
        words, low, high = given.groups()
        if words:
            assert set(re.findall(r"'(\w+)'", definition[0])) == set(re.findall(r"'(\w+)'", words)), row
        else:
            bounds = re.search(r">= \(?([\d.]+)\D.*<= \(?([\d.]+)\D", definition[0])
            assert bounds is not None, definition[0]
            assert [float(bound) for bound in bounds.groups()] == [float(low), float(high)], row
        compared += 1
    assert compared == 13


def test_foreign_keys_lead_where_the_seed_leads(connection: psycopg.Connection) -> None:
    compared = 0
    for row in rows("Keys and checks"):
        given = re.search(r"REFERENCES (\w+)\(id\)( ON DELETE CASCADE)?", row.seed)
        if given is None:
            continue
        found = connection.execute(
            "select confrelid::regclass::text, confdeltype = 'c' from pg_constraint"
            " where conname = %s and conparentid = 0",
            row.names,
        ).fetchone()
        assert found is not None, row
        assert found[0].removeprefix("public.") == given[1], row
        assert found[1] == bool(given[2]) or row.difference, row
        compared += 1
    assert compared == 10


@cache
def functions_in(path: str) -> dict[str, str]:
    """The functions of a module by name, with their text."""
    source = (ROOT / path).read_text()
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        node.name: ast.get_source_segment(source, node) or ""
        for node in ast.walk(ast.parse(source))
        if isinstance(node, functions)
    }


def test_every_test_that_is_named_exists() -> None:
    missing: list[str] = []
    for section in SIZES:
        for row in rows(section):
            [named] = NAME.findall(row.test)
            path, _, function = named.partition("::")
            if not (ROOT / path).is_file() or function not in functions_in(path):
                missing.append(named)
    assert sorted(set(missing)) == []


def test_the_test_of_a_column_names_it() -> None:
    for row in rows("Columns"):
        [named] = NAME.findall(row.test)
        path, _, function = named.partition("::")
        [column] = row.names
        assert re.search(rf"\b{column.rpartition('.')[2]}\b", functions_in(path)[function]), (column, named)
