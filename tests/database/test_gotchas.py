"""Gotchas: who may write what, how sightings merge, how a pasted error text finds its solution."""

# ruff: noqa: E501 - pasted error texts stay on one line

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from teams import NOBODY, Team, assert_seen_with_its_item, forbid_forgeries, race
from world import refused

if TYPE_CHECKING:
    from world import Persona, Row, World

PROBLEM = (
    'psycopg.OperationalError: connection to server at "127.0.0.1", port 5432 failed: Connection refused'
)


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


def gotcha(persona: Persona, problem: str = PROBLEM, **arguments: object) -> Row:
    [row] = persona.rpc("record_gotcha", problem_description=problem, **arguments)
    return row


def whole(team: Team, item: uuid.UUID) -> Row:
    [row] = team.world.superuser("select * from public.technical_gotchas where knowledge_id = %s", item)
    return row


# -- what must fail --------------------------------------------------------------------------------------------


def test_nothing_can_be_forged(team: Team) -> None:
    mine = gotcha(team.author)
    session = team.colleague.start_session("hers").session
    forbid_forgeries(
        team,
        "technical_gotchas",
        {"problem_description": "KeyError: 'name'"},
        own={
            "discovery_session": session,
            "frequency_encountered": 9,
            "last_encountered": "2020-01-01",
            "attempted_solutions": [{"solution": "forged", "outcome": "worked"}],
        },
        item=mine["knowledge_id"],
    )
    with refused("42501"):
        team.author.sql("update public.technical_gotchas set problem_signature = 'x' where true")
    with refused("42501"):
        team.author.sql(
            "insert into public.technical_gotchas (problem_description, workspace_id) values ('p', %s)",
            NOBODY,
        )
    with refused("PT403", "readers"):
        gotcha(team.reader, "KeyError: 'name'")
    for related in (NOBODY, gotcha(team.colleague, "KeyError: 'hers'")["gotcha_id"], mine["gotcha_id"]):
        with refused("PT404", "related_gotchas"):
            team.author.sql("update public.technical_gotchas set related_gotchas = %s where true", [related])


def test_arguments_are_checked(team: Team) -> None:
    for arguments in (
        {"problem_description": " "},
        {"problem_description": "x", "attempted_solution": "restart"},
        {"problem_description": "x", "attempt_outcome": "worked"},
        {"problem_description": "x", "attempted_solution": "restart", "attempt_outcome": "maybe"},
    ):
        with refused("PT400"):
            team.author.rpc("record_gotcha", **arguments)
    with refused("23514", "severity_level_check"):
        gotcha(team.author, severity_level=11)
    for arguments in ({"problem": " "}, {"problem": "x", "max_results": 0}):
        with refused("PT400"):
            team.author.rpc("find_gotchas", **arguments)


def test_credentials_are_refused_unless_meant(team: Team) -> None:
    secret = "postgresql://kp:s3cr3t-w0rd@db.internal/kp"
    for arguments in (
        {"working_solution": secret},
        {"attempted_solution": secret, "attempt_outcome": "failed"},
    ):
        with refused("PT451"):
            gotcha(team.author, **arguments)
        assert gotcha(team.author, str(arguments), allow_credentials=True)["outcome"] == "created"


def test_a_gotcha_is_visible_exactly_when_its_item_is(team: Team) -> None:
    assert_seen_with_its_item(team, "technical_gotchas", gotcha(team.author)["knowledge_id"])


def test_a_merge_reveals_no_pending_gotcha(team: Team) -> None:
    secret = gotcha(team.author, working_solution="The passphrase is zanzibar.")
    hers = gotcha(team.colleague)
    assert hers["outcome"] == "created"
    assert hers["knowledge_id"] != secret["knowledge_id"]
    assert hers["working_solution"] is None
    assert team.colleague.rpc("find_gotchas", problem="zanzibar") == []
    assert [row["knowledge_id"] for row in team.colleague.rpc("find_gotchas", problem=PROBLEM)] == [
        hers["knowledge_id"]
    ]
    for item in (secret["knowledge_id"], NOBODY):
        with refused("PT404", "no such record"):
            team.colleague.sql("select private.count_gotcha(%s, '[]', true)", item)
    assert whole(team, secret["knowledge_id"])["frequency_encountered"] == 1


def test_a_repeat_by_a_colleague_adds_counts_and_attempts_never_text(team: Team) -> None:
    item = gotcha(team.author, working_solution="Start the server.")["knowledge_id"]
    team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    before = whole(team, item)
    merged = gotcha(
        team.colleague,
        attempted_solution="Pray",
        attempt_outcome="failed",
        working_solution="Something else",
        failure_patterns=["other words"],
        prevention_guidance="Don't.",
        problem_category="network",
    )
    assert (merged["outcome"], merged["knowledge_id"], merged["frequency_encountered"]) == ("merged", item, 2)
    assert merged["validation_status"] == "validated"
    after = whole(team, item)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"frequency_encountered", "attempted_solutions", "last_encountered"}
    assert [(a["solution"], a["outcome"]) for a in after["attempted_solutions"]] == [
        ("Pray", "failed"),
        ("Something else", "worked"),
    ]
    assert (
        team.colleague.sql(
            "update public.technical_gotchas set working_solution = 'x' where true returning 1"
        )
        == []
    )


# -- what must work --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", ["rpc", "table", "service", "studio"])
def test_the_companion_is_made_and_follows(team: Team, door: str) -> None:
    if door == "rpc":
        item = gotcha(team.author, severity_level=5)["knowledge_id"]
    elif door == "table":
        item = team.author.value(
            "insert into public.technical_gotchas (problem_description, severity_level) values (%s, 5)"
            " returning knowledge_id",
            PROBLEM,
        )
    else:
        write = team.world.service().sql if door == "service" else team.world.superuser
        [row] = write(
            "insert into public.technical_gotchas (problem_description, severity_level, workspace_id, owner_id)"
            " values (%s, 5, %s, %s) returning knowledge_id",
            PROBLEM,
            team.id,
            team.author.id,
        )
        item = row["knowledge_id"]
    team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    [found] = team.author.sql("select * from public.knowledge_items where id = %s", item)
    assert found["knowledge_type"] == "technical_discovery"
    assert found["importance_score"] == 60
    assert found["context_data"] == {"kind": "gotcha"}
    assert "Connection refused" in found["content"]
    team.author.sql(
        "update public.technical_gotchas set working_solution = 'Start it.' where knowledge_id = %s", item
    )
    [found] = team.author.sql("select * from public.knowledge_items where id = %s", item)
    assert "Solution: Start it." in found["content"]
    assert found["validation_status"] == "pending", "the workspace trusted the old text"
    with refused("PT409", "already"):
        team.author.sql("insert into public.technical_gotchas (problem_description) values (%s)", PROBLEM)


def test_a_sighting_alone_renders_and_embeds_nothing(team: Team) -> None:
    item = gotcha(team.author, working_solution="Start the server.")["knowledge_id"]
    team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    team.world.superuser("delete from private.embedding_jobs where true")
    [before] = team.world.superuser("select xmin, * from public.knowledge_items where id = %s", item)
    gotcha(team.author, attempted_solution="Wait", attempt_outcome="failed")
    gotcha(team.colleague)
    [after] = team.world.superuser("select xmin, * from public.knowledge_items where id = %s", item)
    assert before == after
    assert team.world.superuser("select 1 from private.embedding_jobs") == []


def test_an_editor_fills_gaps_and_replaces_the_solution(team: Team) -> None:
    first = gotcha(team.author, failure_patterns=["a"], problem_context={"os": "linux"})
    assert first["working_solution"] is None
    second = gotcha(
        team.author,
        attempted_solution="Start the server.",
        attempt_outcome="worked",
        failure_patterns=["b", "a"],
        problem_context={"os": "mac", "port": 5432},
        severity_level=7,
    )
    assert (second["outcome"], second["working_solution"]) == ("merged", "Start the server.")
    kept = gotcha(team.author, attempted_solution="Reboot", attempt_outcome="worked", severity_level=1)
    assert kept["working_solution"] == "Start the server.", "an attempt that worked too doesn't replace it"
    replaced = gotcha(team.author, working_solution="systemctl start postgresql")
    assert replaced["working_solution"] == "systemctl start postgresql"
    row = whole(team, first["knowledge_id"])
    assert row["failure_patterns"] == ["a", "b"]
    assert row["problem_context"] == {"os": "linux", "port": 5432}
    assert (row["severity_level"], row["frequency_encountered"]) == (7, 4)
    assert [a["solution"] for a in row["attempted_solutions"]] == [
        "Start the server.",
        "Reboot",
        "Start the server.",
    ]


def test_a_deprecated_gotcha_is_met_anew(team: Team) -> None:
    old = gotcha(team.author)
    team.maintainer.rpc(
        "validate_knowledge", knowledge_id=old["knowledge_id"], validation_status="deprecated"
    )
    new = gotcha(team.author)
    assert new["outcome"] == "created"
    gotcha(team.author, working_solution="Start it.")
    with refused("PT409", "anew meanwhile"):
        team.maintainer.rpc("validate_knowledge", knowledge_id=old["knowledge_id"])


def test_validation_merges_twins_and_their_repeats(team: Team) -> None:
    mine, hers = gotcha(team.author), gotcha(team.colleague)
    [done] = team.maintainer.rpc("validate_knowledge", knowledge_id=mine["knowledge_id"])
    assert done["merged_ids"] == [hers["knowledge_id"]]
    again = gotcha(team.colleague, attempted_solution="Wait", attempt_outcome="partial")
    assert (again["outcome"], again["gotcha_id"]) == ("merged", mine["gotcha_id"])
    assert [row["gotcha_id"] for row in team.colleague.rpc("find_gotchas", problem=PROBLEM)] == [
        mine["gotcha_id"]
    ]


def test_a_long_stack_trace_finds_its_problem_by_words(team: Team) -> None:
    gotcha(team.author, "The uploader reports a gateway timeout", working_solution="Raise it.")
    frames = "".join(
        f'  File "/srv/app/{chr(97 + i)}lpha{i}.py", line {i}, in beta{i}\n    gamma{i}()\n'
        for i in range(60)
    )
    trace = f"Traceback (most recent call last):\n{frames}UploadError: gateway timeout in the uploader"
    [found] = team.author.rpc("find_gotchas", problem=trace)
    assert found["working_solution"] == "Raise it."
    assert not found["exact_match"]


def test_a_deleted_users_gotcha_stays_and_merges(team: Team) -> None:
    item = gotcha(team.author.start_session("work"))["knowledge_id"]
    team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    team.world.superuser("delete from auth.users where id = %s", team.author.id)
    assert gotcha(team.colleague)["knowledge_id"] == item
    row = whole(team, item)
    assert (row["owner_id"], row["discovery_session"], row["frequency_encountered"]) == (None, None, 2)


def test_erasing_the_item_erases_the_gotcha(team: Team) -> None:
    first = gotcha(team.author)
    second = gotcha(team.author, "KeyError: 'other'")
    team.author.sql(
        "update public.technical_gotchas set related_gotchas = %s where id = %s",
        [first["gotcha_id"]],
        second["gotcha_id"],
    )
    team.world.superuser("delete from public.knowledge_items where id = %s", first["knowledge_id"])
    assert (
        team.world.superuser("select id, related_gotchas from public.technical_gotchas")
        == [{"id": second["gotcha_id"], "related_gotchas": None}]
        or whole(team, second["knowledge_id"])["related_gotchas"] == []
    )
    team.world.superuser("delete from public.workspaces where id = %s", team.id)
    for table in ("public.technical_gotchas", "private.companions"):
        assert team.world.superuser(f"select 1 from {table}") == []


def test_the_story_of_a_gotcha(team: Team) -> None:
    """Met in one session, again in another, found in words in a third, rated, ranked higher after."""
    monday = team.author.start_session("monday", project_context="kp")
    first = gotcha(
        monday,
        "Traceback (most recent call last):\n"
        '  File "/home/ana/kp/main.py", line 12, in <module>\n'
        "    connect()\n"
        "TimeoutError: gateway timeout after 30 seconds while uploading",
        attempted_solution="Retry the upload",
        attempt_outcome="failed",
    )
    assert first["outcome"] == "created"
    tuesday = team.author.start_session("tuesday")
    again = gotcha(
        tuesday,
        'Traceback (most recent call last):\n  File "/srv/app/main.py", line 99, in <module>\n    connect()\n'
        "TimeoutError: gateway timeout after 60 seconds while uploading",
        attempted_solution="Raise the gateway timeout",
        attempt_outcome="worked",
        prevention_guidance="Upload in chunks.",
    )
    assert again["gotcha_id"] == first["gotcha_id"]
    assert (again["outcome"], again["frequency_encountered"], again["attempt_count"]) == ("merged", 2, 2)
    rival = gotcha(tuesday, "The gateway upload reports a timeout.", working_solution="Ask the operator.")
    for item in (again, rival):
        team.maintainer.rpc("validate_knowledge", knowledge_id=item["knowledge_id"])

    wednesday = team.colleague.start_session("wednesday")
    question = "why do my uploads run into a gateway timeout?"
    found = wednesday.rpc("find_gotchas", problem=question)
    assert {row["gotcha_id"] for row in found} == {first["gotcha_id"], rival["gotcha_id"]}
    [answer] = [row for row in found if row["gotcha_id"] == first["gotcha_id"]]
    assert answer["working_solution"] == "Raise the gateway timeout"
    assert [a["solution"] for a in answer["worked"]] == ["Raise the gateway timeout"]
    assert [a["solution"] for a in answer["failed"]] == ["Retry the upload"]
    assert answer["prevention_guidance"] == "Upload in chunks."
    assert not answer["exact_match"]
    assert 0 < answer["confidence"] < 1
    assert "worked 1 of 1 times" in answer["match_reason"]
    assert "met 2 times" in answer["match_reason"]

    ranked = wednesday.rpc("search_knowledge", query_text=question)
    first_item, last_item = ranked[0]["knowledge_id"], ranked[1]["knowledge_id"]
    for _ in range(6):
        for item, rating in ((last_item, 10), (first_item, 1)):
            wednesday.rpc(
                "rate_knowledge",
                knowledge_id=item,
                effectiveness_rating=rating,
                application_success=rating > 5,
            )
    after = [row["knowledge_id"] for row in wednesday.rpc("search_knowledge", query_text=question)]
    assert after == [last_item, first_item]

    [exact, *_] = wednesday.rpc(
        "find_gotchas",
        problem="2026-11-22 10:00:01 TimeoutError: gateway timeout after 5 seconds while uploading",
    )
    assert exact["exact_match"]
    assert exact["gotcha_id"] == first["gotcha_id"]


def test_who_is_removed_while_waiting_records_nothing(team: Team) -> None:
    [known] = team.author.rpc("record_gotcha", problem_description="It leaks")
    with ThreadPoolExecutor() as pool:
        with team.maintainer.transaction() as cursor:
            cursor.execute(
                "update public.knowledge_items set importance_score = 60 where id = %s",
                (known["knowledge_id"],),
            )
            assert team.author.connection
            met = pool.submit(team.author.rpc, "record_gotcha", problem_description="It leaks")
            team.world.wait_until_blocked(team.author)
            team.world.superuser("delete from public.workspace_members where user_id = %s", team.author.id)
        with refused("PT403"):
            met.result(10)


def test_repeats_at_once_lose_nothing(team: Team) -> None:
    """Eight writers, twenty problems: four on their own records, four on what the workspace shares."""
    problems = [f"ValueError: problem {name} is bad" for name in (f"p{chr(97 + i)}" for i in range(20))]
    for problem in problems[:10]:
        item = gotcha(team.maintainer, problem)["knowledge_id"]
        team.maintainer.rpc("validate_knowledge", knowledge_id=item)
    people = [p.inside(team.id) for p in (team.author, team.colleague, team.author, team.colleague) * 2]
    rounds = 4

    def act(me: Persona, key: int) -> object:
        attempt = str(uuid.uuid4())
        return (
            attempt,
            gotcha(
                me,
                problems[key],
                attempted_solution=attempt,
                attempt_outcome="failed",
                failure_patterns=[f"pattern {key}"],
            )["outcome"],
        )

    answers = race(people, act, keys=20, rounds=rounds)
    assert len(answers) == 8 * 20 * rounds
    rows = team.world.superuser("select * from public.technical_gotchas")
    assert len(rows) == 10 + 2 * 10
    for row in rows:
        shared = row["owner_id"] == team.maintainer.id
        sightings = 1 + 8 * rounds if shared else 4 * rounds
        assert row["frequency_encountered"] == sightings
        assert len(row["attempted_solutions"]) == sightings - shared
    kept = {attempt["solution"] for row in rows for attempt in row["attempted_solutions"]}
    assert kept == {answer[0] for answer in answers}  # type: ignore[index]


# -- signatures ------------------------------------------------------------------------------------------------

PY = 'Traceback (most recent call last):\n  File "{path}", line {line}, in {name}\n    {code}\n{error}'

SAME = [
    (PY.format(path="/home/ana/a/main.py", line=3, name="<module>", code="import numpy", error="ModuleNotFoundError: No module named 'numpy'"),
     PY.format(path="C:\\Users\\ben\\x.py", line=77, name="load", code="import numpy as np", error="ModuleNotFoundError: No module named 'numpy'")),
    ("ModuleNotFoundError: No module named 'numpy'", "E       ModuleNotFoundError: No module named 'numpy'"),
    ('\x1b[31mERROR:\x1b[0m relation "users" does not exist', 'ERROR:  relation "users" does not exist\nLINE 1: select * from users\n                      ^'),
    ("2026-11-22 10:11:12.123 UTC [4711] ERROR:  deadlock detected", "2025-01-02 00:00:00.001 UTC [99] ERROR:  deadlock detected"),
    ("java.lang.NullPointerException: name is null\n\tat com.acme.Foo.bar(Foo.java:12)\n\tat com.acme.Main.main(Main.java:3)",
     'Exception in thread "main" java.lang.NullPointerException: name is null\n\tat com.acme.Foo.bar(Foo.java:99)'),
    ("java.lang.RuntimeException: wrapped\n\tat a.B.c(B.java:1)\nCaused by: java.sql.SQLException: no connection\n\tat d.E.f(E.java:2)",
     "java.lang.IllegalStateException: other\n\tat x.Y.z(Y.java:5)\nCaused by: java.sql.SQLException: no connection\n\tat d.E.f(E.java:7)\n\t... 12 more"),
    ("TypeError: x.map is not a function\n    at render (/app/src/list.js:10:5)\n    at main (/app/index.js:1:1)",
     "Uncaught TypeError: x.map is not a function\n    at render (webpack://ui/src/list.js:99:7)"),
    ("Segmentation fault at address 0x7ffdeadbeef0", "Segmentation fault at address 0x55d0c0ffee10"),
    ('psycopg.OperationalError: connection to server at "127.0.0.1", port 5432 failed: Connection refused',
     'psycopg.OperationalError: connection to server at "10.0.0.7", port 5432 failed: Connection refused'),
    ("/usr/src/app/main.c:12:5: error: 'foo' undeclared", "main.c:340:17: error: 'foo' undeclared"),
    ("src/main.ts(12,5): error TS2304: Cannot find name 'foo'.", "lib/main.ts(1,99): error TS2304: Cannot find name 'foo'."),
    ("thread 'main' panicked at src/main.rs:4:5:\ncalled `Option::unwrap()` on a `None` value",
     "thread 'main' panicked at src/lib.rs:40:9:\ncalled `Option::unwrap()` on a `None` value\nnote: run with `RUST_BACKTRACE=1`"),
    ("panic: runtime error: index out of range [5] with length 3\n\ngoroutine 1 [running]:\nmain.main()\n\t/tmp/x.go:8 +0x1b",
     "panic: runtime error: index out of range [9] with length 2\n\ngoroutine 7 [running]:\nmain.main()"),
    ("npm ERR! code ERESOLVE\nnpm ERR! ERESOLVE unable to resolve dependency tree", "npm error code ERESOLVE\nnpm error ERESOLVE could not resolve"),
    ("FileNotFoundError: [Errno 2] No such file or directory: '/home/ana/data/config.yaml'",
     "FileNotFoundError: [Errno 2] No such file or directory: '/srv/x/config.yaml'"),
    ('invalid input syntax for type uuid: "abc"', 'invalid input syntax for type uuid: "not one"'),
    ("Key error for 6ba7b810-9dad-11d1-80b4-00c04fd430c8 in cache", "Key error for 123e4567-e89b-12d3-a456-426614174000 in cache"),
    ("TimeoutError: timed out after 30s", "TimeoutError: timed out after 1.5s"),
    ("Nov 22 10:00:00 host sshd[123]: error: maximum authentication attempts exceeded for root",
     "Nov  3 23:59:59 host sshd[9]: error: maximum authentication attempts exceeded for root"),
    ("bash: line 3: pg_ctl: command not found", "bash: line 42: pg_ctl: command not found"),
    ("requests.exceptions.HTTPError: 404 Client Error: Not Found for url: https://api.example.org/v1/a?x=1",
     "requests.exceptions.HTTPError: 404 Client Error: Not Found for url: https://api.example.org/v2/other"),
    ("fatal: bad object 3f2a9c1d7e", "fatal: bad object 77aa01b9c3d4e5f60718293a4b5c6d7e8f901234"),
    ("CUDA out of memory. Tried to allocate 2.00 GiB", "CUDA out of memory. Tried to allocate 512.50 MiB"),
    ("json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
     "json.decoder.JSONDecodeError: Expecting value: line 20 column 7 (char 311)"),
    ('  duplicate key value violates unique constraint "users_email_key"\nDETAIL:  Key (email)=(a@x) already exists.',
     'ERROR:  duplicate key value violates unique constraint "users_email_key"'),
]  # fmt: skip

DIFFERENT = [
    ("ModuleNotFoundError: No module named 'numpy'", "ModuleNotFoundError: No module named 'pandas'"),
    ("KeyError: 'user_id'", "KeyError: 'name'"),
    ("HTTP 404", "HTTP 500"),
    ("exit code 137", "exit code 1"),
    ("OSError: [Errno 2] x", "OSError: [Errno 13] x"),
    ("connection to localhost:5432 refused", "connection to localhost:6379 refused"),
    ("connect ECONNREFUSED 127.0.0.1:5432", "connect ECONNREFUSED 127.0.0.1:6379"),
    ('ERROR:  relation "users" does not exist', 'ERROR:  relation "orders" does not exist'),
    ('ERROR:  relation "users" does not exist', 'ERROR:  column "users" does not exist'),
    ("error[E0382]: borrow of moved value: `x`", "error[E0499]: borrow of moved value: `x`"),
    ("error TS2304: Cannot find name 'foo'.", "error TS2304: Cannot find name 'bar'."),
    ("No such file or directory: '/a/config.yaml'", "No such file or directory: '/a/settings.yaml'"),
    ("https://api.example.org/v1 timed out", "https://api.other.org/v1 timed out"),
    ("server closed the connection", "server refused the connection"),
]  # fmt: skip


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str, bool]]:
    return [(a, b, True) for a, b in SAME] + [(a, b, False) for a, b in DIFFERENT]


def test_signatures_tell_problems_apart(world: World, pairs: list[tuple[str, str, bool]]) -> None:
    wrong: list[tuple[str, str]] = []
    for first, second, same in pairs:
        [row] = world.superuser(
            "select private.problem_signature(%s) as a, private.problem_signature(%s) as b", first, second
        )
        assert row["a"].strip(), first
        if (row["a"] == row["b"]) is not same:
            wrong.append((row["a"], row["b"]))
    assert wrong == []


@pytest.mark.parametrize(
    "text", ["'", "\\", "42", "…", "é" * 3000, "x" * 70000, "\n\n", "at /:1\n^^^", "((((", "' \" `"]
)
def test_any_text_has_a_signature(team: Team, text: str) -> None:
    signature = team.world.superuser("select private.problem_signature(%s) as s", text)[0]["s"]
    assert len(signature) <= 500
    if text.strip():
        row = gotcha(team.author, text[:20000])
        assert row["outcome"] == "created"
        assert gotcha(team.author, text[:20000])["gotcha_id"] == row["gotcha_id"]
        assert team.author.rpc("find_gotchas", problem=text[:20000])[0]["exact_match"]
