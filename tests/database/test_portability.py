"""A workspace as lines of text, and back: who may take what along, and that all of it comes back."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from memories import Cast, contents, exported, furnish, imported, vector_of
from teams import Team
from world import World, call, refused

if TYPE_CHECKING:
    from collections.abc import Generator

    from databases import Database, DatabaseServer


@pytest.fixture
def elsewhere(server: DatabaseServer, template: Database) -> Generator[World]:
    """Set a second stage: an empty database."""
    with server.clone(template) as database:
        world = World(database.dsn)
        yield world
        world.close()


@pytest.fixture(scope="module")
def furnished(server: DatabaseServer, template: Database) -> Generator[tuple[Database, Cast]]:
    """Furnish a database once; the tests get copies."""
    with server.clone(template) as database:
        world = World(database.dsn)
        try:
            cast = Cast.of(furnish(world))
        finally:
            world.close()
        yield database, cast


@pytest.fixture
def memory(server: DatabaseServer, furnished: tuple[Database, Cast]) -> Generator[tuple[World, Cast]]:
    """Lend a copy of a memory that has everything in it."""
    with server.clone(furnished[0]) as database:
        world = World(database.dsn)
        yield world, furnished[1]
        world.close()


def move_accounts(source: World, target: World) -> None:
    for row in source.superuser("select id, email from auth.users"):
        target.superuser("insert into auth.users (id, email) values (%s, %s)", row["id"], row["email"])


def outcomes(done: list[dict[str, Any]]) -> dict[str, int]:
    return dict(Counter(row["outcome"] for row in done))


def item_line(item: uuid.UUID | str, **values: object) -> str:
    """Write a line by hand, as somebody does who wants more than an export gives."""
    fields = {"title": "Forged", "content": "A line written by hand.", "validation_status": "pending"}
    return json.dumps({"kind": "item", "id": str(item), "item": fields | values}, default=str)


def test_nobody_is_made_an_author_by_an_import(world: World) -> None:
    team = Team(world)
    lines = [
        item_line(uuid.uuid4(), owner_id=team.maintainer.id, created_by=str(team.maintainer.id)),
        item_line(
            uuid.uuid4(),
            title="B",
            owner_id=None,
            validated_by=team.owner.id,
            access_count=99,
            rating_sum=100,
            rating_count=10,
            validation_status="validated",
        ),
    ]

    # Neither by naming the other in the line, nor by claiming that it was the other's export, nor by a map of people.
    imported(
        team.author,
        lines,
        exported_by=team.maintainer.id,
        people={str(team.maintainer.id): str(team.owner.id)},
    )

    rows = world.superuser("select * from knowledge_items order by title")
    assert {row["owner_id"] for row in rows} == {team.author.id}
    assert {row["created_by"] for row in rows} == {str(team.author.id)}
    # And a contributor's import is pending and uncounted, whatever it says.
    assert {row["validation_status"] for row in rows} == {"pending"}
    assert {(row["access_count"], row["rating_sum"], row["rating_count"]) for row in rows} == {(0, 0, 0)}
    assert {row["validated_by"] for row in rows} == {None}

    # A maintainer's keeps its status; who decided it is not for the maintainer to say.
    imported(
        team.maintainer,
        [
            item_line(
                uuid.uuid4(),
                title="C",
                validation_status="validated",
                validated_by=team.owner.id,
                owner_id=team.author.id,
            )
        ],
    )
    [row] = world.superuser("select * from knowledge_items where title = 'C'")
    assert (row["owner_id"], row["validation_status"], row["validated_by"]) == (
        team.maintainer.id,
        "validated",
        None,
    )


def test_who_may_not_record_may_not_import(world: World) -> None:
    team = Team(world)
    with refused("PT403"):
        imported(team.reader, [item_line(uuid.uuid4())])
    with refused("PT403"):
        imported(team.stranger.inside(team.id), [item_line(uuid.uuid4())])
    with refused("42501"):
        world.anon().rpc("import_records", lines=[item_line(uuid.uuid4())])
    with refused("42501"):
        team.owner.rpc("import_workspace", header={"workspace": {"id": str(uuid.uuid4()), "name": "x"}})
    with refused("42501"):
        team.owner.sql("select private.import_item(null, null)")
    with refused("42501"):
        team.owner.sql("select * from private.imported_items")
    with refused("PT400", "sessions"):
        imported(team.author.start_session("s"), [item_line(uuid.uuid4())])
    assert world.superuser("select from knowledge_items") == []


def test_a_foreign_id_and_one_that_is_nobodys_give_the_same_answer(world: World) -> None:
    team = Team(world)
    hidden = team.maintainer.record("The maintainer's own")
    foreign = team.stranger.record("The stranger's own")
    mine = team.author.record("The author's own")
    told = []
    for item in (hidden, foreign, uuid.uuid4()):
        [made] = imported(team.author, [item_line(item, title="Probe", content=f"for {item}")])
        assert made["target_id"] not in (hidden, foreign)
        ends = {
            "source_knowledge_id": str(item),
            "target_knowledge_id": str(mine),
            "relationship_type": "enhances",
        }
        # What refers to it: by now it is the probe, whichever it was.
        [related] = imported(
            team.author,
            [
                json.dumps(
                    {
                        "kind": "relationship",
                        "id": str(uuid.uuid4()),
                        "relationship": ends | {"strength": 1, "status": "accepted"},
                    }
                )
            ],
        )
        told.append((made["outcome"], made["reason"], related["outcome"], related["reason"]))
    assert len(set(told)) == 1
    assert told[0][0] == "created"

    # Without a line for the item: the same refusal.
    for kind, body in (
        (
            "relationship",
            lambda x: {
                "source_knowledge_id": x,
                "target_knowledge_id": str(mine),
                "relationship_type": "depends_on",
                "strength": 1,
                "status": "accepted",
            },
        ),
        (
            "link",
            lambda x: {"knowledge_id": x, "owner_id": str(team.colleague.id), "interaction_type": "applied"},
        ),
        (
            "duplicate",
            lambda x: {"keep_id": x, "duplicate_id": str(mine), "status": "proposed", "strength": 1},
        ),
    ):
        answers = {
            (row["outcome"], row["reason"])
            for item in (hidden, foreign, uuid.uuid4())
            for row in imported(
                team.colleague, [json.dumps({"kind": kind, "id": str(uuid.uuid4()), kind: body(str(item))})]
            )
        }
        assert [outcome for outcome, _ in answers] == ["failed"], answers
    for item in (hidden, foreign):
        [row] = world.superuser("select title, owner_id from knowledge_items where id = %s", item)
        assert row["title"].endswith("own")
        assert row["owner_id"] != team.author.id


def test_an_import_changes_nothing_that_is_there(world: World) -> None:
    team = Team(world)
    shared = team.shared("Shared", "What the workspace trusts.")
    before = contents(world)
    done = imported(team.author, [item_line(shared, title="Shared", content="Something else entirely.")])
    done += imported(
        team.maintainer,
        [
            item_line(shared, content="Something else entirely."),
            json.dumps(
                {
                    "kind": "history",
                    "id": str(shared),
                    "entries": [],
                    "item": {"validation_status": "deprecated"},
                }
            ),
        ],
    )
    assert {row["outcome"] for row in done} == {"unchanged"}
    assert contents(world) == before
    # A record of somebody's session, which is no session of the importer's, is not entered.
    ben = team.colleague.start_session("ben's")
    [made] = imported(
        team.author, [item_line(uuid.uuid4(), title="In ben's session", created_in_session=ben.session)]
    )
    [row] = world.superuser("select created_in_session from knowledge_items where id = %s", made["target_id"])
    assert row["created_in_session"] is None


def test_the_setting_of_the_import_gives_a_caller_no_id_of_choice(world: World) -> None:
    team = Team(world)
    wanted = uuid.uuid4()
    with team.author.transaction() as cursor:
        cursor.execute("select set_config('app.imported_item', %s, true)", [str(wanted)])
        [made] = call(cursor, "record_knowledge", title="An item", content="Of its own id.")
        [gotcha] = call(
            cursor,
            "record_gotcha",
            problem_description="2026-01-01 10:00:00 ERROR: it broke",
            problem_signature="ERROR   2026-01-01 10:00:00: chosen",
        )
        [row] = call(cursor, "import_records", lines=[item_line(uuid.uuid4(), title="Imported")])
    assert row["outcome"] == "created"
    assert wanted not in (made["knowledge_id"], gotcha["knowledge_id"], row["target_id"])
    assert "2026" not in gotcha["problem_signature"]


def test_bad_lines_are_told_and_the_others_go_in(world: World) -> None:
    team = Team(world)
    good = [item_line(uuid.uuid4(), title=f"Good {n}", content=f"Text {n}") for n in range(3)]
    token = "ghp_" + "a1B2" * 9
    bad = {
        "{not json": "json",
        '{"kind": "weather"}': "no line of an export",
        '{"kind": "item", "id": "not-a-uuid", "item": {}}': "uuid",
        item_line(uuid.uuid4(), title=None): "title",
        item_line(uuid.uuid4(), title="T", content=""): "content",
        item_line(uuid.uuid4(), title="T", knowledge_type="rumour"): "type_check",
        item_line(uuid.uuid4(), title="T", content=f"use {token}"): "GitHub",
        item_line(uuid.uuid4(), title="T" * 600): "too long",
        json.dumps(
            {
                "kind": "session",
                "id": str(uuid.uuid4()),
                "session": {"session_identifier": "x", "start_time": "2026-01-01T00:00:00Z"},
            }
        ): "id_check",
    }
    mixed = [
        line
        for pair in zip(
            bad, [*good, *[item_line(uuid.uuid4(), title=f"More {n}") for n in range(6)]], strict=True
        )
        for line in pair
    ]
    done = imported(team.author, mixed, size=100)
    assert [row["line_index"] for row in done] == list(range(len(mixed)))
    for place, reason in enumerate(bad.values()):
        assert done[2 * place]["outcome"] == "failed", done[2 * place]
        assert reason in done[2 * place]["reason"]
        assert token not in done[2 * place]["reason"]
        assert done[2 * place + 1]["outcome"] == "created", done[2 * place + 1]
    done = imported(
        team.author, [item_line(uuid.uuid4(), title="T", content=f"use {token}")], allow_credentials=True
    )
    assert outcomes(done) == {"created": 1}
    with refused("PT451"):
        team.author.record("afterwards", f"the door is shut again for {token}")


def test_what_only_functions_append_is_checked_as_they_do(world: World) -> None:
    team = Team(world)
    token = "ghp_" + "a1B2" * 9
    attempt = {"solution": "turn it", "outcome": "failed", "at": "2026-01-01T00:00:00Z", "session": None}
    stage = {"stage": 1, "understanding": "so", "at": "2026-01-01T00:00:00Z", "session": None}
    event = {"stage": 1, "event": "initial", "at": "2026-01-01T00:00:00Z", "session": None}

    team.owner.rpc("record_gotcha", problem_description="It leaks.")
    team.owner.rpc("record_command_run", command="run", succeeded=True)
    team.owner.rpc("record_decision_stage", decision_topic="valve", understanding="so")
    kept = {
        line["record_kind"]: line
        for line in map(json.loads, exported(team.owner)[1])
        if line.get("record_kind")
    }

    def record(kind: str, **values: object) -> str:
        return json.dumps(kept[kind] | {"id": str(uuid.uuid4()), "record": kept[kind]["record"] | values})

    bad = {
        item_line(uuid.uuid4(), access_count=2_000_000_000): "counts nothing",
        item_line(uuid.uuid4(), session_position="9223372036854775807"): "counts nothing",
        record("gotcha", frequency_encountered=2_000_000_000): "counts nothing",
        record("gotcha", attempted_solutions=[attempt | {"solution": f"use {token}"}]): "GitHub",
        record("gotcha", attempted_solutions=[attempt | {"outcome": "wondrous"}]): "attempted_solutions holds",
        record("gotcha", attempted_solutions=[attempt | {"at": "infinity"}]): "attempted_solutions holds",
        record("gotcha", attempted_solutions=["turn it"]): "attempted_solutions holds",
        record("command", failure_patterns=[f"refused {token}"]): "GitHub",
        record("decision", evolution_stages=[stage | {"understanding": 7}], evolution_timeline=[event]): "stages holds",
        record("decision", evolution_stages=[stage | {"lessons": token}], evolution_timeline=[event]): "GitHub",
        record("decision", evolution_stages=[stage], evolution_timeline=[event | {"stage": 1e99}]): "timeline holds",
    }  # fmt: skip
    done = imported(team.author, list(bad), size=100)
    for row, reason in zip(done, bad.values(), strict=True):
        assert row["outcome"] == "failed", (reason, row)
        assert reason in row["reason"]
    good = [
        record("gotcha", attempted_solutions=[attempt]),
        record("command", failure_patterns=["refused"]),
        record("decision", evolution_stages=[stage], evolution_timeline=[event]),
    ]
    done = imported(team.author, good)
    assert outcomes(done) == {"created": 3}, done
    [tries] = team.author.sql("select attempted_solutions as made from public.technical_gotchas")
    assert [made["solution"] for made in tries["made"]] == ["turn it"]

    item = uuid.uuid4()
    told = {"change": "status", "to_status": "pending", "note": f"see {token}"}
    lines = [
        item_line(item, title="Told"),
        json.dumps({"kind": "history", "id": str(item), "item": {}, "entries": [told]}),
    ]
    assert [row["outcome"] for row in imported(team.maintainer, lines)] == ["created", "failed"]
    assert outcomes(imported(team.maintainer, lines, allow_credentials=True)) == {
        "unchanged": 1,
        "created": 1,
    }


def test_an_old_item_spoils_no_search(world: World) -> None:
    team = Team(world)
    ancient = item_line(
        uuid.uuid4(), title="Ancient", content="the shared valve", updated_at="1200-01-01T00:00:00Z"
    )
    assert outcomes(imported(team.author, [ancient])) == {"created": 1}
    for asking in (team.author, team.maintainer):
        assert [row["title"] for row in asking.rpc("search_knowledge", query_text="shared valve")] == [
            "Ancient"
        ]
    for moment in ("-infinity", "0001-01-01 BC"):
        line = item_line(uuid.uuid4(), title="No time", created_at=moment)
        [row] = imported(team.author, [line])
        assert (row["outcome"], "no time" in row["reason"]) == ("failed", True), row


def test_an_id_of_what_is_hidden_is_answered_like_one_of_nothing(world: World) -> None:
    team = Team(world)
    one, other = team.maintainer.record("one"), team.maintainer.record("other")
    [stated] = team.maintainer.rpc(
        "relate_knowledge", source_knowledge_id=one, target_knowledge_id=other, relationship_type="enhances"
    )
    shown = team.shared("shown")
    session = team.maintainer.start_session("private")
    session.rpc("rate_knowledge", knowledge_id=shown, effectiveness_rating=9)
    [link] = world.superuser("select id from session_knowledge_links where knowledge_id = %s and owner_id = %s",
                             shown, team.maintainer.id)  # fmt: skip
    bodies: dict[str, dict[str, object]] = {
        "relationship": {"source_knowledge_id": str(one), "target_knowledge_id": str(other)},
        "link": {"knowledge_id": str(uuid.uuid4())},
        "duplicate": {"keep_id": str(one), "duplicate_id": str(other)},
    }
    for kind, hidden in (("relationship", stated["relationship_id"]), ("link", link["id"])):
        answers = [
            imported(team.author, [json.dumps({"kind": kind, "id": str(known), kind: bodies[kind]})])[0]
            for known in (hidden, uuid.uuid4())
        ]
        assert [answer["outcome"] for answer in answers] == ["failed"] * 2, answers
        assert answers[0]["reason"] == answers[1]["reason"]
        assert answers[0]["target_id"] == answers[1]["target_id"]
        [mine] = imported(
            team.maintainer, [json.dumps({"kind": kind, "id": str(hidden), kind: bodies[kind]})]
        )
        assert mine["outcome"] == "unchanged"


def test_a_merge_that_could_not_be_taken_back_is_not_imported(
    memory: tuple[World, Cast], elsewhere: World
) -> None:
    source, _ = memory
    move_accounts(source, elsewhere)
    [team] = source.superuser(
        "select workspace_id from private.merged_items join knowledge_items k on k.id = keep_id"
    )
    header, lines = exported(source.service().inside(team["workspace_id"]))
    service = elsewhere.service()
    service.rpc("import_workspace", header=header)
    service = service.inside(team["workspace_id"])
    merges = [line for line in lines if json.loads(line)["kind"] == "merge"]
    assert merges
    imported(service, [line for line in lines if json.loads(line)["kind"] not in ("merge", "test", "result")])
    for spoilt in ({"counters": {}}, {"counters": {"access_count": 9, "rating_sum": 99, "rating_count": 9,
                                                   "success_count": 9, "failure_count": 9}}):  # fmt: skip
        line = json.loads(merges[0])
        [row] = imported(service, [json.dumps(line | {"merge": line["merge"] | spoilt})])
        assert (row["outcome"], "taken back" in row["reason"]) == ("failed", True), row
    assert outcomes(imported(service, merges)) == {"created": len(merges)}


def test_history_makes_no_circle_and_waits_for_its_item(world: World) -> None:
    team = Team(world)
    one, two = uuid.uuid4(), uuid.uuid4()
    lines = [item_line(one, title="One", superseded_by=two), item_line(two, title="Two", superseded_by=one)]
    lines += [
        json.dumps(
            {
                "kind": "history",
                "id": str(x),
                "entries": [],
                "item": {"validation_status": "validated", "superseded_by": str(y)},
            }
        )
        for x, y in ((one, two), (two, one))
    ]
    done = imported(team.owner, lines)
    assert [row["outcome"] for row in done] == ["created", "created", "created", "failed"]
    assert "supersed" in done[3]["reason"]
    [row] = world.superuser(
        "select validation_status, superseded_by from knowledge_items where title = 'Two'"
    )
    assert (row["validation_status"], row["superseded_by"]) == ("deprecated", None)


def test_what_happens_to_an_item_between_two_halves_of_an_import_stays(
    world: World, elsewhere: World
) -> None:
    team = Team(world)
    item = team.shared("A fact", "It holds.")
    _, lines = exported(team.owner)
    owner = elsewhere.sign_up("owner")
    home = owner.inside(elsewhere.workspace("home", owner=owner))
    first = [line for line in lines if '"kind": "item"' in line]
    [made] = imported(home, first)
    home.rpc(
        "validate_knowledge", knowledge_id=made["target_id"], validation_status="needs_update", note="stale"
    )
    done = imported(home, lines)
    assert outcomes(done) == {"unchanged": 1, "created": len(lines) - 1}
    trail = home.sql("select to_status, note from knowledge_status_history order by id")
    assert [(row["to_status"], row["note"]) for row in trail] == [
        ("validated", None),
        ("needs_update", "stale"),
    ]
    assert home.value("select validation_status from knowledge_items") == "needs_update"
    assert item != made["target_id"]


@pytest.mark.parametrize("embeddings", [True, False])
def test_a_restored_workspace_is_what_it_was(
    memory: tuple[World, Cast], elsewhere: World, embeddings: bool
) -> None:
    world, cast = memory
    header, lines = exported(world.service().inside(cast.workspace), embeddings=embeddings)
    move_accounts(world, elsewhere)
    [made] = elsewhere.service().rpc("import_workspace", header=header)
    service = elsewhere.service().inside(made["id"])

    tried = imported(service, lines[:40], dry_run=True)
    assert outcomes(tried) == {"created": 40}
    assert elsewhere.superuser("select from knowledge_items") == []
    # Cut off in the middle, and done again from the beginning.
    imported(service, lines[: len(lines) // 2], size=17)
    done = imported(service, lines)

    assert set(outcomes(done)) == {"created", "unchanged"}, [row for row in done if row["reason"]]
    before, after = contents(world, embeddings=embeddings), contents(elsewhere, embeddings=embeddings)
    for aspect in before:
        assert after[aspect] == before[aspect], aspect
        assert before[aspect] or (aspect in ("vectors", "waiting") and not embeddings), (
            f"nothing there: {aspect}"
        )
    # Each sees, and finds, what they saw and found.
    for name in cast.people:
        here, there = cast.enter(world, name), cast.enter(elsewhere, name)
        if name != "stranger":
            question = "select id from knowledge_items order by id"
            assert there.sql(question) == here.sql(question), name
            for query in (
                "which port does the origin listen on",
                "EADDRINUSE",
                "naïve café",
                "tenancy",
                "Überraschung",
            ):
                query_vector = vector_of(3) if embeddings else None
                [found, kept] = [
                    [
                        (row["knowledge_id"], row["relevance_reason"], round(row["score"], 4))
                        for row in person.rpc(
                            "search_knowledge", query_text=query, query_embedding=query_vector, max_results=30
                        )
                    ]
                    for person in (there, here)
                ]
                assert found, (name, query)
                assert found == kept, (name, query)
    # And again: nothing changes, nor does the export.
    assert set(outcomes(imported(service, lines))) == {"unchanged"}
    assert contents(elsewhere, embeddings=embeddings) == after
    again, lines_again = exported(service, embeddings=embeddings)
    assert again["counts"] == header["counts"]
    stable = [line for line in lines if '"kind": "history"' not in line]
    assert [line for line in lines_again if '"kind": "history"' not in line] == stable


def test_an_owner_brings_a_memory_home(memory: tuple[World, Cast], elsewhere: World) -> None:
    """A user's own import: other ids, one author, and otherwise the same."""
    world, cast = memory
    owner = cast.enter(world, "owner")
    header, lines = exported(owner)
    assert header["exported_by"] == str(owner.id)
    person = elsewhere.sign_up("home")
    home = person.inside(elsewhere.workspace("home", owner=person))
    # Somebody who is here already, and has the same in a workspace of their own.
    other = elsewhere.sign_up("other")
    other.record("Everything given", "An item with every field.", project_context="apollo")

    done = imported(home, lines, exported_by=owner.id)
    failed = [row for row in done if row["outcome"] == "failed"]
    assert failed == []
    skipped = {(row["kind"], row["reason"]) for row in done if row["outcome"] == "skipped"}
    assert {kind for kind, _ in skipped} == {"link"}, skipped
    assert {row["owner_id"] for row in home.sql("select owner_id from knowledge_items")} == {person.id}
    for table in (
        "knowledge_relationships",
        "technical_gotchas",
        "decision_evolution",
        "knowledge_validation_tests",
    ):
        here, there = (
            who.value(f"select count(*) from {table} where workspace_id = %s", place)
            for who, place in ((owner, cast.workspace), (home, home.workspace))
        )
        assert here == there, table
    hashes = (
        "select array_agg(content_hash order by content_hash) from knowledge_items where workspace_id = %s"
    )
    twins = {row["source_id"] for row in done if row["outcome"] == "duplicate"}
    assert len(twins) == 1  # two people's insight of one title
    assert len(home.value(hashes, home.workspace)) == len(owner.value(hashes, cast.workspace)) - len(twins)
    assert set(home.value(hashes, home.workspace)) <= set(owner.value(hashes, cast.workspace))
    found, kept = (
        [
            row["title"]
            for row in who.rpc("search_knowledge", query_text="which port does the origin listen on")
        ]
        for who in (home, owner)
    )
    assert found == kept

    before = contents(elsewhere)
    assert {row["outcome"] for row in imported(home, lines, exported_by=owner.id)} <= {
        "unchanged",
        "skipped",
        "duplicate",
    }
    assert contents(elsewhere) == before
    # A merge can still be undone.
    [merged] = home.sql("select k.id from knowledge_items k where k.title = 'Use tabs!'")
    assert home.rpc("unmerge_knowledge", duplicate_id=merged["id"])[0]["outcome"] == "undone"


def test_an_export_holds_what_its_reader_sees(memory: tuple[World, Cast]) -> None:
    world, cast = memory
    hidden = cast.enter(world, "maintainer").record("Between maintainers", "Not for everybody.")
    for person in (cast.enter(world, name) for name in ("reader", "colleague", "author")):
        _, lines = exported(person)
        told = {json.loads(line)["id"] for line in lines if '"kind": "item"' in line}
        seen = {str(row["id"]) for row in person.sql("select id from knowledge_items")}
        assert told == seen
        assert not any(str(hidden) in line for line in lines if '"kind": "test"' not in line)
        assert not any(json.loads(line)["kind"] == "merge" for line in lines)
    with refused("PT403"):
        exported(cast.enter(world, "stranger").inside(cast.workspace))
    with refused("42501"):
        world.anon().rpc("export_records", section="item")
    for wrong in ({"section": "weather"}, {"section": "item", "max_rows": 0}):
        with refused("PT400"):
            cast.enter(world, "owner").rpc("export_records", **wrong)


def test_people_without_an_account_are_nobody(memory: tuple[World, Cast], elsewhere: World) -> None:
    world, cast = memory
    author = cast.people["author"]
    service = world.service().inside(cast.workspace)
    header, lines = exported(service)
    new_author = elsewhere.sign_up("new author")
    people = {str(author): str(new_author.id)}
    [made] = elsewhere.service().rpc("import_workspace", header=header, people=people)
    done = imported(elsewhere.service().inside(made["id"]), lines, people=people)
    assert {row["kind"] for row in done if row["outcome"] == "skipped"} == {"session", "link"}
    assert [row for row in done if row["outcome"] == "failed"] == []
    owned = (
        "select count(*) from knowledge_items where workspace_id = %s and owner_id is not distinct from %s"
    )
    authors = world.superuser(owned, cast.workspace, author)[0]["count"]
    everybodys = world.superuser(
        "select count(*) from knowledge_items where workspace_id = %s", cast.workspace
    )
    assert elsewhere.superuser(owned, made["id"], new_author.id)[0]["count"] == authors
    assert elsewhere.superuser(owned, made["id"], None)[0]["count"] == everybodys[0]["count"] - authors
