"""Retrieval: each arm can nominate, fusion ranks, reasons are given, filters filter, plans use their indexes."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

import pytest

from teams import Team
from world import refused, vector

if TYPE_CHECKING:
    from world import Persona, World

DIMENSIONS = 384


def towards(axis: int, share: float = 1.0) -> list[float]:
    """A unit vector that has this cosine similarity with an axis (and the rest on an axis of nobody's)."""
    values = [0.0] * DIMENSIONS
    values[axis] = share
    values[-1] = (1 - share**2) ** 0.5
    return values


def titles(rows: list[dict[str, object]]) -> list[object]:
    return [row["title"] for row in rows]


@pytest.fixture
def ana(world: World) -> Persona:
    ana = world.sign_up("ana")
    ana.record("Row security and GIN", "A GIN index is not used under row-level security.")
    ana.record("Vector index", "HNSW wants iterative scans when a filter is selective.")
    ana.record("Deadlocks", "Lock rows in one order.", retrieval_triggers=["40P01", "deadlock detected"])
    ana.record("Semantics only", "Completely other words.", content_embedding=vector(towards(7)))
    return ana


def test_nothing_to_search_for_is_an_error(ana: Persona) -> None:
    for arguments in ({}, {"query_text": "  "}, {"query_text": "x", "max_results": 0}):
        with refused("PT400"):
            ana.rpc("search_knowledge", **arguments)


def test_a_question_finds_by_any_of_its_words(ana: Persona) -> None:
    rows = ana.rpc(
        "search_knowledge", query_text="Why on earth is my GIN index being ignored by the planner?"
    )
    assert titles(rows)[0] == "Row security and GIN"
    assert "GIN" in rows[0]["relevance_reason"]
    assert rows[0]["keyword_score"] == 1
    assert rows[0]["vector_score"] is None


def relate(persona: Persona, source: str, kind: str, target: str, **arguments: object) -> None:
    ids = {row["title"]: row["id"] for row in persona.sql("select id, title from public.knowledge_items")}
    persona.rpc(
        "relate_knowledge",
        source_knowledge_id=ids[source],
        target_knowledge_id=ids[target],
        relationship_type=kind,
        **arguments,
    )


def test_what_is_related_to_the_best_is_found_though_it_shares_nothing_with_the_query(ana: Persona) -> None:
    question = {"query_text": "How do I avoid deadlocks?"}
    assert "Semantics only" not in titles(ana.rpc("search_knowledge", **question))
    relate(ana, "Semantics only", "required_for", "Deadlocks")
    relate(ana, "Vector index", "similar_to", "Row security and GIN")
    rows = ana.rpc("search_knowledge", **question, explain=True)
    assert titles(rows) == ["Deadlocks", "Semantics only"]
    assert rows[1]["relevance_reason"] == 'related (required for) to "Deadlocks"'
    assert rows[0]["score"] > rows[1]["score"] > 0
    links = rows[1]["explanation"]["relationships"]
    assert (links["type"], links["to"]) == ("required_for", str(rows[0]["knowledge_id"]))
    # A filter holds for what is nominated this way, too, and a weight of 0 leaves nothing of the arm but the row.
    assert titles(ana.rpc("search_knowledge", **question, tags=["40P01"])) == ["Deadlocks"]
    ana.rpc("configure_retrieval", retrieval_weights={"relationships": 0})
    assert ana.rpc("search_knowledge", **question)[1]["score"] < 0.01


def test_a_proposal_relates_nothing_and_a_hidden_end_is_not_told(world: World) -> None:
    team = Team(world)
    shared = team.author.record("Deadlocks", "Lock rows in one order.")
    hidden = team.author.record("Unrelated", "Quite other words.")
    team.maintainer.rpc("validate_knowledge", knowledge_id=shared)
    columns = "source_knowledge_id, target_knowledge_id, relationship_type, status"
    team.author.sql(
        f"insert into public.knowledge_relationships ({columns}) values (%s, %s, 'enhances', 'proposed')",
        hidden,
        shared,
    )
    assert titles(team.author.rpc("search_knowledge", query_text="deadlocks")) == ["Deadlocks"]
    [proposal] = team.author.sql("select id from public.knowledge_relationships")
    team.maintainer.rpc("decide_relationship", relationship_id=proposal["id"], accept=True)
    assert titles(team.author.rpc("search_knowledge", query_text="deadlocks")) == ["Deadlocks", "Unrelated"]
    assert titles(team.colleague.rpc("search_knowledge", query_text="deadlocks")) == ["Deadlocks"]


def test_a_trigger_finds_as_a_word_and_as_a_phrase(ana: Persona) -> None:
    for question in ("error 40P01?", "ERROR:  deadlock detected"):
        [row, *_] = ana.rpc("search_knowledge", query_text=question)
        assert row["title"] == "Deadlocks"
        assert "trigger" in row["relevance_reason"]
        assert row["trigger_score"] == pytest.approx(0.5)


def test_a_trigger_that_everything_has_does_not_hide_a_telling_one(world: World) -> None:
    ana = world.sign_up("ana")
    for batch in range(3):
        items = [
            {"title": f"{batch} {i}", "content": f"step {batch} {i}", "retrieval_triggers": ["run"]}
            for i in range(100)
        ]
        ana.rpc("record_knowledge_batch", items=items)
    ana.record("Refused", "Start the server first.", retrieval_triggers=["ECONNREFUSED", "run"])
    rows = ana.rpc("search_knowledge", query_text="run says ECONNREFUSED")
    assert titles(rows)[0] == "Refused"
    assert rows[0]["trigger_score"] == pytest.approx(0.5)
    assert all(row["trigger_score"] is None for row in rows[1:])


def test_meaning_alone_finds(ana: Persona) -> None:
    [row, *_] = ana.rpc(
        "search_knowledge", query_text="unheard-of vocabulary", query_embedding=towards(7, 0.8)
    )
    assert row["title"] == "Semantics only"
    assert row["vector_score"] == pytest.approx(0.8, abs=1e-3)
    assert "close in meaning (0.80)" in row["relevance_reason"]
    assert titles(ana.rpc("search_knowledge", query_embedding=towards(7)))[0] == "Semantics only"


def test_a_word_hit_surfaces_although_the_vectors_disagree(world: World) -> None:
    ana = world.sign_up("ana")
    for i in range(150):
        ana.record(f"noise {i}", f"noise number {i}", content_embedding=vector(towards(1, 0.9)))
    ana.record("The needle", "ECONNRESET while uploading", content_embedding=vector(towards(2)))
    rows = ana.rpc("search_knowledge", query_text="ECONNRESET", query_embedding=towards(1), max_results=3)
    assert "The needle" in titles(rows)


def test_what_matches_nothing_is_not_returned(ana: Persona) -> None:
    assert ana.rpc("search_knowledge", query_text="qwertyuiop") == []
    assert ana.rpc("find_similar_knowledge", query_embedding=towards(9)) == []


def test_similarity_has_a_threshold_of_the_models_own(ana: Persona) -> None:
    assert titles(ana.rpc("find_similar_knowledge", query_embedding=towards(7, 0.35))) == ["Semantics only"]
    assert ana.rpc("find_similar_knowledge", query_embedding=towards(7, 0.25)) == []
    assert ana.rpc("find_similar_knowledge", query_embedding=towards(7, 0.6), similarity_threshold=0.7) == []
    for limit in (0, 1001):
        with refused("PT400"):
            ana.rpc("find_similar_knowledge", query_embedding=towards(7), limit_results=limit)


def test_trust_settles_near_ties(world: World) -> None:
    ana = world.sign_up("ana")
    for name in ("first", "second", "third"):
        ana.record(f"{name} timeout", "Raise the timeout of the gateway.")
    ids = {
        row["title"]: row["knowledge_id"] for row in ana.rpc("search_knowledge", query_text="gateway timeout")
    }
    for _ in range(3):
        ana.rpc(
            "rate_knowledge",
            knowledge_id=ids["second timeout"],
            effectiveness_rating=10,
            application_success=True,
        )
        ana.rpc(
            "rate_knowledge",
            knowledge_id=ids["third timeout"],
            effectiveness_rating=1,
            application_success=False,
        )
    rows = ana.rpc("search_knowledge", query_text="gateway timeout")
    assert titles(rows) == ["second timeout", "first timeout", "third timeout"]
    assert "worked 3 of 3 times" in rows[0]["relevance_reason"]


def test_filters(world: World) -> None:
    ana = world.sign_up("ana")
    ana.record("a", "shared words", knowledge_type="procedural", category="ops", importance_score=90)
    ana.record("b", "shared words", project_context="kp", retrieval_triggers=["tagged"])
    found = {
        row["title"]: row["knowledge_id"] for row in ana.rpc("search_knowledge", query_text="shared words")
    }
    assert set(found) == {"a", "b"}
    for filters, expected in (
        ({"knowledge_types": ["procedural"]}, ["a"]),
        ({"categories": ["ops"]}, ["a"]),
        ({"min_importance": 60}, ["a"]),
        ({"project_context": "kp"}, ["b"]),
        ({"tags": ["tagged"]}, ["b"]),
        ({"exclude_ids": [found["a"]]}, ["b"]),
        ({"validation_statuses": ["validated"]}, []),
        ({"created_after": "2100-01-01"}, []),
        ({"created_before": "2000-01-01"}, []),
    ):
        assert titles(ana.rpc("search_knowledge", query_text="shared words", **filters)) == expected, filters
    limited = ana.rpc("search_knowledge", query_text="shared words", max_results=1)
    assert len(limited) == 1


def test_filters_by_author_session_context_and_change(world: World) -> None:
    ana, ben = world.sign_up("ana"), world.sign_up("ben")
    team = world.workspace("team", owner=ana, maintainer=ben)
    ana, ben = ana.inside(team), ben.inside(team)
    in_session = ana.start_session("s")
    in_session.record("a", "shared words", context_data={"service": {"name": "api"}, "tier": 1})
    ben.record("b", "shared words too")
    ana.rpc("validate_knowledge", knowledge_id=ben.record("c", "more shared words"))
    for filters, expected in (
        ({"author_id": ana.id}, {"a"}),
        ({"author_id": ben.id}, {"b", "c"}),
        ({"session_id": in_session.session}, {"a"}),
        ({"context_data": {"service": {"name": "api"}}}, {"a"}),
        ({"context_data": {"service": {"name": "web"}}}, set()),
        ({"updated_after": "2100-01-01"}, set()),
        ({"updated_before": "2100-01-01"}, {"a", "b", "c"}),
    ):
        found = titles(ana.rpc("search_knowledge", query_text="shared words", **filters))
        assert (set(found), len(found)) == (expected, len(expected)), filters


def test_pages_follow_each_other_without_gap_or_repeat(world: World) -> None:
    ana = world.sign_up("ana")
    for number in range(7):
        ana.record(f"item {number}", "same words", content_embedding=vector(towards(number)))
    asked = {"query_text": "same words", "query_embedding": towards(3, 0.9)}
    whole = ana.rpc("search_knowledge", **asked)
    pages: list[dict[str, object]] = []
    for _ in range(4):
        cursor = pages[-1]["cursor"] if pages else None
        pages += ana.rpc("search_knowledge", **asked, max_results=2, after_cursor=cursor)
    assert len(whole) == 7
    assert titles(pages) == titles(whole)
    assert ana.rpc("search_knowledge", **asked, after_cursor=pages[-1]["cursor"]) == []
    for forged in ("", "x", "1_2_3", f"{pages[0]['knowledge_id']}_0.5_x"):
        with refused("PT400"):
            ana.rpc("search_knowledge", **asked, after_cursor=forged)


def test_each_arm_tells_its_say(ana: Persona) -> None:
    [row, *_] = ana.rpc(
        "search_knowledge", query_text="deadlock detected", query_embedding=towards(7), explain=True
    )
    told = row["explanation"]
    assert told["words"]["rank"] == 1
    assert told["triggers"]["score"] == row["trigger_score"]
    assert told["meaning"] is None, "it has no vector"
    assert set(told["milliseconds"]) == {"meaning", "words", "triggers", "relationships"}
    assert ana.rpc("search_knowledge", query_text="deadlock")[0]["explanation"] is None


def test_as_of_a_moment_it_answers_as_it_would_have_then(world: World) -> None:
    ana = world.sign_up("ana")

    def now() -> object:
        return ana.value("select clock_timestamp()")

    def known(moment: object) -> set[object]:
        return set(titles(ana.rpc("search_knowledge", query_text="gateway port", as_of=moment)))

    before = now()
    old = ana.record("old", "The gateway port is 80.")
    ana.record("from tomorrow", "The gateway port is 90.", valid_from="2100-01-01")
    with_old = now()
    new = ana.record("new", "The gateway port is 443.")
    ana.rpc("supersede_knowledge", knowledge_id=old, replacement_id=new)
    with_new = now()
    ana.rpc("validate_knowledge", knowledge_id=new, validation_status="deprecated")
    after = now()
    ana.rpc("supersede_knowledge", knowledge_id=old, replacement_id=None)
    restored = now()
    assert [known(moment) for moment in (before, with_old, with_new, after, restored)] == [
        set(),
        {"old"},
        {"new"},
        set(),
        {"old"},
    ]


def test_expired_items_are_left_out(world: World) -> None:
    ana = world.sign_up("ana")
    ana.record("old", "shared words", valid_to="2020-01-01")
    ana.record("new", "shared words", valid_to="2100-01-01")
    assert titles(ana.rpc("search_knowledge", query_text="shared words")) == ["new"]


def test_what_does_not_hold_yet_is_left_out(world: World) -> None:
    ana = world.sign_up("ana")
    ana.record("later", "shared words", valid_from="2100-01-01")
    ana.record("now", "shared words", valid_from="2020-01-01")
    assert titles(ana.rpc("search_knowledge", query_text="shared words")) == ["now"]
    then = ana.rpc("search_knowledge", query_text="shared words", as_of="2100-06-01")
    assert set(titles(then)) == {"later", "now"}
    [gotcha] = ana.rpc("record_gotcha", problem_description="The shared valve leaks")

    def brief() -> str:
        return str(ana.rpc("resume_brief"))

    assert "later" not in brief()
    assert "valve" in brief()
    ana.sql(
        "update public.knowledge_items set valid_from = '2100-01-01' where id = %s", gotcha["knowledge_id"]
    )
    assert ana.rpc("find_gotchas", problem="The shared valve leaks") == []
    assert "valve" not in brief()


def test_what_was_said_before_and_after_finds_an_item(world: World) -> None:
    ana = world.sign_up("ana").start_session("talk")
    ana.record("Ana", "Where did you go in Lisbon?")
    ana.record("Ben", "To the aquarium.")
    ana.record("Ana", "How were the penguins?")
    found = titles(ana.rpc("search_knowledge", query_text="Lisbon penguins"))
    assert len(found) == 3
    outside = world.sign_up("ben")
    outside.record("Ana", "Where did you go in Lisbon?")
    outside.record("Ben", "To the aquarium.")
    assert len(outside.rpc("search_knowledge", query_text="Lisbon")) == 1, "neighbours are of one session"


def test_the_date_finds_an_item(world: World) -> None:
    ana = world.sign_up("ana")
    ana.record("Outage", "The gateway was down.", valid_from="2023-05-08")
    ana.record("Party", "We celebrated.", valid_from="2023-08-01")
    assert titles(ana.rpc("search_knowledge", query_text="What happened on 8 May 2023?"))[0] == "Outage"


def test_the_project_comes_first_in_context(world: World) -> None:
    ana = world.sign_up("ana")
    ana.record("other project", "Raise the gateway timeout.", project_context="other")
    ana.record("this project", "Raise the gateway timeout.", project_context="kp")
    rows = ana.rpc("get_contextual_knowledge", current_situation="gateway timeout", project_context="kp")
    assert titles(rows) == ["this project", "other project"]
    assert "same project" in rows[0]["relevance_reason"]
    in_session = ana.start_session("s", project_context="other")
    rows = in_session.rpc("get_contextual_knowledge", current_situation="gateway timeout")
    assert titles(rows)[0] == "other project"


@pytest.mark.parametrize(
    "text", ["'", "\\", "a & b | !c", "<->", "((", ":*", "'; drop table x; --", "\U0001f600", "ü" * 3000]
)
def test_any_text_can_be_asked(ana: Persona, text: str) -> None:
    ana.rpc("search_knowledge", query_text=text)
    ana.record(f"Title {text[:400]}", text, retrieval_triggers=[text])
    assert ana.rpc("search_knowledge", query_text=f"Title {text[:400]}")


def test_a_small_workspace_among_large_ones_gets_its_rows(world: World) -> None:
    """Row-level security is a filter after the index: without iterative scans a small tenant gets nothing."""
    crowd, ana = world.sign_up("crowd"), world.sign_up("ana")
    generator = random.Random(1)  # noqa: S311
    for batch in range(6):
        crowd.rpc(
            "record_knowledge_batch",
            items=[
                {
                    "title": f"{batch} {i}",
                    "content": f"crowd {batch} {i}",
                    "content_embedding": vector([generator.gauss(0, 1) for _ in range(DIMENSIONS)]),
                }
                for i in range(200)
            ],
        )
    world.superuser("insert into private.large_workspaces select distinct workspace_id from knowledge_items")
    vectors = {f"mine {i}": [generator.gauss(0, 1) for _ in range(DIMENSIONS)] for i in range(40)}
    for title, values in vectors.items():
        ana.record(title, content_embedding=vector(values))
    query = [generator.gauss(0, 1) for _ in range(DIMENSIONS)]

    def cosine(values: list[float]) -> float:
        dot = sum(a * b for a, b in zip(values, query, strict=True))
        return dot / (sum(a * a for a in values) * sum(b * b for b in query)) ** 0.5

    best = sorted(vectors, key=lambda title: -cosine(vectors[title]))[:10]
    rows = ana.rpc("find_similar_knowledge", query_embedding=query, similarity_threshold=-1)
    assert titles(rows) == best
    rows = crowd.rpc("find_similar_knowledge", query_embedding=query, similarity_threshold=-1)
    assert len(rows) == 10
    assert all(str(row["content"]).startswith("crowd") for row in rows)


# Identifiers, misspelt words, languages: no vector is involved

#: What a developer's memory holds; each has rivals that share its plain words, and say them more often.
NOTES = {
    "error code": ("E0308 while building", "error[E0308]: mismatched types, convert with into()."),
    "error code's neighbour": ("E0309 while building", "error[E0309] while building, building, building."),
    "constant": ("Chrome gave up", "The page showed ERR_CONNECTION_REFUSED until the proxy was up."),
    "constant's words": ("Connection refused", "err: connection refused; the connection is refused again."),
    "path": ("Web server", "The limit is set in /etc/nginx/conf.d/limits.conf and wants a reload."),
    "path's words": ("Limits conf", "etc: nginx conf limits; conf of nginx, conf d."),
    "symbol": ("Shared ownership", "Take std::shared_ptr where two owners live on."),
    "symbol's words": ("Shared ptr", "std shared ptr, shared ptr std, ptr."),
    "camel case": ("Users by key", "Use getUserById, not the list, to look somebody up."),
    "flag": ("Hooks in a hurry", "git commit --no-verify leaves the hooks out."),
    "flag's words": ("Verify", "Verify, no verify, verify: verify commits with hooks."),
    "plain": ("Cluster upgrade", "Kubernetes nodes are drained one at a time."),
    "plain's rival": ("Cluster size", "Twelve nodes at a time are upgraded."),
}


@pytest.fixture
def notes(world: World) -> Persona:
    ana = world.sign_up("ana")
    ana.rpc(
        "record_knowledge_batch",
        items=[{"title": title, "content": content} for title, content in NOTES.values()],
    )
    return ana


def test_an_identifier_is_found_as_it_stands(notes: Persona) -> None:
    for query, expected, identifier in (
        ("E0308", "error code", None),
        ("what does error E0308 mean while building?", "error code", "E0308"),
        ("ERR_CONNECTION_REFUSED", "constant", "err_connection_refused"),
        ("the browser says ERR_CONNECTION_REFUSED.", "constant", "err_connection_refused"),
        ("/etc/nginx/conf.d/limits.conf", "path", "/etc/nginx/conf.d/limits.conf"),
        ("where is limits.conf", "path", "limits.conf"),
        ("std::shared_ptr", "symbol", "std::shared_ptr"),
        ("getUserById", "camel case", None),
        ("what does getUserById do", "camel case", "getUserById"),
        ("user by id", "camel case", None),
        ("--no-verify", "flag", "--no-verify"),
        ("what does `git commit --no-verify` do", "flag", "--no-verify"),
    ):
        [row, *_] = notes.rpc("search_knowledge", query_text=query)
        assert row["title"] == NOTES[expected][0], query
        if identifier:
            assert f'has the identifier "{identifier}"' in row["relevance_reason"], query


def test_a_misspelt_word_finds_what_is_nearly_it(notes: Persona) -> None:
    for query in (
        *("kuberntes", "kubernates", "Kubernetse", "kubernetees"),
        "how are the nodes of kubernats upgraded?",
    ):
        [row, *_] = notes.rpc("search_knowledge", query_text=query)
        assert row["title"] == NOTES["plain"][0], query
        assert re.search(r'near match: "Kubernetes" for "\w+"', row["relevance_reason"]), query


def test_a_word_that_is_there_is_not_corrected(notes: Persona) -> None:
    notes.record("Clusters of stars", "A kubernete is not a word, but it stands here.")
    for row in notes.rpc("search_knowledge", query_text="kubernete"):
        assert "near match" not in row["relevance_reason"]


def test_what_may_not_be_seen_is_no_near_match(world: World) -> None:
    ana, ben = world.sign_up("ana"), world.sign_up("ben")
    team = world.workspace("team", owner=ana, contributor=ben)
    ana.inside(team).record("Secret", "The project is called Nightingale.")
    assert ben.inside(team).rpc("search_knowledge", query_text="nightingal nightingalle") == []
    assert ana.inside(team).rpc("search_knowledge", query_text="nightingalle") != []


#: Items in languages that their queries share no whole word with, as the parser sees words.
LANGUAGES = {
    "Chinese": (
        "数据库连接池耗尽时。请增加最大连接数并重启服务。",
        ["连接池", "数据库连接", "最大连接数是多少。"],
    ),
    "Japanese": ("デプロイの前にマイグレーションを実行してください。", ["マイグレーション", "デプロイの前"]),
    "Korean": ("배포하기 전에 데이터베이스를 백업해야 합니다.", ["데이터베이스 백업", "배포"]),
    "Thai": ("ต้องสำรองฐานข้อมูลก่อนอัปเกรด", ["สำรองฐานข้อมูล"]),
    "German": (
        "Die Verbindungen zur Datenbank werden nach zehn Minuten geschlossen, wenn nichts über sie läuft.",
        ["Wann wird eine Verbindung geschlossen?", "Verbindung schließen", "DATENBANKEN"],
    ),
    "Arabic": (
        "يجب إعادة تشغيل الخوادم بعد تغيير كلمات المرور في قاعدة البيانات.",
        ["كلمة المرور", "إعادة تشغيل الخادم", "قواعد البيانات"],
    ),
    "Russian": ("Перед обновлением сервера сохраните резервные копии базы данных.", ["обновления серверов"]),
}


def test_an_item_is_found_in_its_language_without_vectors(world: World) -> None:
    ana = world.sign_up("ana")
    ana.record("English", "Restart the server after the password of the database was changed.")
    for other, (content, _) in LANGUAGES.items():
        ana.record(f"note {other}", content)
    for language, (_, queries) in LANGUAGES.items():
        for query in queries:
            found = ana.rpc("search_knowledge", query_text=query)
            assert titles(found)[:1] == [f"note {language}"], query


def test_an_item_may_carry_its_own_configuration(world: World) -> None:
    ana = world.sign_up("ana")
    for config in ("klingon", "german; drop table x"):
        with refused("PT400", "not a text search configuration"):
            ana.record("x", "x", text_search_config=config)
    ana.record("as German", "Verbindungen", text_search_config="german")
    ana.record("as it stands", "Verbindungen", text_search_config="simple", project_context="p")
    assert titles(ana.rpc("search_knowledge", query_text="Verbindung")) == ["as German"]
    assert set(titles(ana.rpc("search_knowledge", query_text="Verbindungen"))) == {
        "as German",
        "as it stands",
    }
    [item] = ana.sql(
        "update knowledge_items set text_search_config = 'german' where project_context = 'p' returning id"
    )
    assert item["id"] in [r["knowledge_id"] for r in ana.rpc("search_knowledge", query_text="Verbindung")]


def test_a_workspace_sets_its_configuration(world: World) -> None:
    ana, ben = world.sign_up("ana"), world.sign_up("ben")
    team = world.workspace("team", owner=ana, maintainer=ben)
    ana, ben = ana.inside(team), ben.inside(team)
    with refused("PT403"):
        ben.rpc("configure_retrieval", text_search_config="german")
    for refusal in (
        {"text_search_config": "klingon"},
        {"retrieval_weights": {"meaning": 2}},
        {"retrieval_weights": {"x": 1}},
    ):
        with refused("PT400"):
            ana.rpc("configure_retrieval", **refusal)
    ana.record("note", "Verbindungen")
    assert ana.rpc("search_knowledge", query_text="Verbindung gesucht") == []
    [settings] = ana.rpc(
        "configure_retrieval", text_search_config="german", retrieval_weights={"meaning": 0.5}
    )
    assert (settings["text_search_config"], settings["retrieval_weights"]) == ("german", {"meaning": 0.5})
    assert ben.rpc("configure_retrieval") == [settings], "members may read what is set"
    ana.rpc("validate_knowledge", knowledge_id=ana.value("select id from knowledge_items"))
    assert titles(ben.rpc("search_knowledge", query_text="Verbindung gesucht")) == ["note"]
