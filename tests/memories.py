"""A memory that has everything in it, and the telling whether another one is the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from teams import Team

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    from world import Persona, World

#: Text of every sort: scripts, right to left, combining, beyond the basic plane, quotes, what JSON escapes.
ODD_TEXTS = (
    "Überraschung: naïve café — “quotes” and 'apostrophes'",
    "日本語のテキストと한국어、中文。",
    "العربية وعبرית mixed with English",
    "combining e\u0301 and o\u0308, zero width \u200d joiner, \U0001f469\u200d\U0001f680 and \U0001d54a",
    'tabs\tand "double quotes" and back\\slashes and \u2028 line separators',
    "line one\nline two\r\nline three\n\n    indented `code` # not a heading\n---\nafter a rule",
)
#: More digits than a float has, and values that JSON readers like to change.
ODD_CONTEXT = (
    '{"exact": 12345678901234567890.123456789012345678901, "zero": 1.500, "nothing": null, "list": []}'
)


def vector_of(seed: int) -> str:
    """Write a vector of the local model's size that no other seed gives."""
    values = [((seed * 7919 + place * 104729) % 2000 - 1000) / 1000 for place in range(384)]
    return "[" + ",".join(str(value) for value in values) + "]"


def furnish(world: World) -> Team:
    """Fill a team's workspace with every kind of thing in every state, by the doors that people use."""
    team = Team(world)
    author, maintainer = (
        team.author.start_session("the author's day", project_context="apollo"),
        team.maintainer,
    )
    maintainer = maintainer.start_session(
        "the maintainer's day", session_metadata={"agent": "cm", "n": [1, 2]}
    )
    bare = team.author
    team.owner.rpc("configure_retrieval", retrieval_weights={"meaning": 0.7, "triggers": 0.5})

    items: list[uuid.UUID] = []
    for number, text in enumerate(ODD_TEXTS):
        person = author if number % 2 else maintainer
        items.append(
            person.record(text.splitlines()[0][:80], f"{text}\nNumber {number}.", category=f"kind {number}")
        )
    items.append(
        bare.record(
            "Everything given",
            "An item with every field.",
            knowledge_type="procedural",
            category="deploy",
            subcategory="ports",
            context_data={"a": {"b": [1, 2.5, None, "x"]}},
            importance_score=91,
            retrieval_triggers=["EADDRINUSE", "port 54321", "Ünïcode trigger"],
            project_context="apollo",
            valid_from="2026-01-01T00:00:00Z",
            valid_to="2031-01-01T00:00:00.123456Z",
        )
    )
    items.append(bare.record("Nothing given", "Only what must be."))
    world.superuser(
        "update public.knowledge_items set context_data = %s::jsonb where id = %s", ODD_CONTEXT, items[-1]
    )
    # All statuses; the note of a decision.
    for item, status in zip(
        items, ("validated", "needs_update", "deprecated", "validated", "pending"), strict=False
    ):
        maintainer.rpc(
            "validate_knowledge", knowledge_id=item, validation_status=status, note=f"because {status}"
        )
    validated, other = items[0], items[3]

    # A chain, one link of it undone and done again; and the same text anew after it was superseded.
    chain = [team.shared(f"Port, version {n}", f"The origin listens on {54320 + n}.") for n in range(4)]
    for old, new in pairwise(chain):
        team.maintainer.rpc("supersede_knowledge", knowledge_id=old, replacement_id=new)
    team.maintainer.rpc("supersede_knowledge", knowledge_id=chain[2], replacement_id=None)
    team.maintainer.rpc("supersede_knowledge", knowledge_id=chain[2], replacement_id=chain[3])
    again = bare.record("Port, version 0", "The origin listens on 54320.")

    # Records of every kind, met more than once, by two people.
    for solution in (None, {"solution": "wait", "outcome": "failed"}):
        author.rpc(
            "record_gotcha",
            problem_description="2026-01-02 10:11:12 ERROR: could not bind /var/run/socket.7: EADDRINUSE (0x7ffe)",
            **({"attempted_solution": solution["solution"], "attempt_outcome": "failed"} if solution else {}),
        )
    [gotcha] = author.rpc(
        "record_gotcha",
        problem_description="2026-01-03 10:11:12 ERROR: could not bind /var/run/socket.9: EADDRINUSE (0x7fff)",
        working_solution="Stop the other one first.",
        failure_patterns=["address in use"],
        prevention_guidance="Ask `ss -ltnp`.",
        severity_level=7,
        problem_category="network",
        resolution_time_minutes=12,
        problem_context={"os": "linux"},
    )
    [related] = bare.rpc(
        "record_gotcha", problem_description="TypeError: 'NoneType' object is not subscriptable"
    )
    author.sql(
        "update technical_gotchas set related_gotchas = %s where id = %s",
        [related["gotcha_id"]],
        gotcha["gotcha_id"],
    )
    # Retired, and recorded anew by the same person: two with one signature.
    [old_gotcha] = bare.rpc("record_gotcha", problem_description='FATAL: role "nobody" does not exist')
    team.maintainer.rpc(
        "validate_knowledge", knowledge_id=old_gotcha["knowledge_id"], validation_status="deprecated"
    )
    bare.rpc(
        "record_gotcha",
        problem_description='FATAL: role "nobody" does not exist',
        working_solution="create role",
    )
    for worked in (True, False, True):
        author.rpc(
            "record_command_run",
            command="docker compose  up -d",
            succeeded=worked,
            failure_output=None if worked else "Error: network apollo_default not found",
            parameter_notes={"-d": "in the background"},
            command_description="Start everything.",
        )
    for score in (80, 61):
        author.rpc(
            "record_interaction_pattern",
            pattern_name="Terse answers",
            situation_type="debugging",
            user_behavior_description="Pastes an error and nothing else.",
            ai_response_expected="The fix first.",
            effectiveness_score=score,
            example={"said": "it broke"},
        )
    [insight] = author.rpc(
        "record_insight",
        insight_title="Small steps",
        insight_description="Small steps are found faulty sooner.",
        confidence_level=88,
        validation_examples=["the migration of May"],
        applicability_scope="everywhere",
        insight_metadata={"x": 1},
    )
    team.colleague.rpc(
        "record_insight", insight_title="Small steps", insight_description="Said in other words."
    )
    author.rpc("apply_insight", insight_id=insight["insight_id"], success=True)
    for stage in (
        {"understanding": "One database for all."},
        {"understanding": "One per tenant?", "influences": ["a leak"], "breakthrough": "RLS can do it"},
        {
            "understanding": "One, with RLS.",
            "rationale": "less to run",
            "is_final": True,
            "lessons_learned": "measure",
        },
    ):
        [decision] = author.rpc("record_decision_stage", decision_topic="Tenancy", **stage)
    maintainer.rpc("validate_knowledge", knowledge_id=decision["knowledge_id"])
    maintainer.rpc("validate_knowledge", knowledge_id=gotcha["knowledge_id"])

    # Relationships of all statuses, a proposal of a duplicate, a merge, a rejected pair.
    for source, target, kind in (
        (validated, other, "depends_on"),
        (other, items[5], "similar_to"),
        (gotcha["knowledge_id"], validated, "builds_upon"),
        (items[6], items[7], "contradicts"),
    ):
        bare.rpc(
            "relate_knowledge",
            source_knowledge_id=source,
            target_knowledge_id=target,
            relationship_type=kind,
            strength=0.75,
            relationship_context="as it is",
        )
    for status in ("proposed", "rejected"):
        world.superuser(
            "insert into knowledge_relationships (workspace_id, owner_id, source_knowledge_id, target_knowledge_id,"
            " relationship_type, status, reason) values (%s, %s, %s, %s, 'enhances', %s, 'found')",
            team.id,
            author.id,
            items[0] if status == "proposed" else items[3],
            items[1],
            status,
        )
    one, two = team.shared("Use tabs", "Indent with tabs."), bare.record("Use tabs!", "Indent with: tabs.")
    author.rpc("recall_knowledge", query_text="indent with tabs")
    author.rpc(
        "rate_knowledge", knowledge_id=two, effectiveness_rating=9, application_success=True, notes="it did"
    )
    bare.rpc("discover_duplicates", knowledge_id=two)
    author.rpc(
        "relate_knowledge",
        source_knowledge_id=two,
        target_knowledge_id=items[5],
        relationship_type="enhances",
    )
    team.maintainer.rpc("merge_knowledge", keep_id=one, duplicate_id=two)
    pair = [
        bare.record("Sort imports", "Sort the imports."),
        bare.record("Sort imports.", "Sort the imports!"),
    ]
    [proposal] = bare.rpc("discover_duplicates", knowledge_id=pair[1])
    bare.rpc("decide_duplicate", proposal_id=proposal["proposal_id"], accept=False)

    # Use: recalls, ratings, breakthroughs; a test with results; sessions ended and open.
    for person in (author, maintainer, team.reader):
        person.rpc("recall_knowledge", query_text="which port does the origin listen on")
    author.rpc("rate_knowledge", knowledge_id=validated, effectiveness_rating=7, application_success=False)
    author.rpc("mark_breakthrough", knowledge_id=validated, learning_context="it dawned on me")
    [test] = bare.rpc(
        "record_validation_test",
        test_name="the port",
        test_scenario="Which port does the origin listen on?",
        expected_knowledge_ids=[chain[3]],
        forbidden_knowledge_ids=[chain[0]],
        within_top=3,
        difficulty_level=4,
        knowledge_types_tested=["factual"],
        test_metadata={"run": "daily"},
    )
    bare.rpc("schedule_validation_test", test_id=test["test_id"], run_every="36 hours")
    bare.rpc("run_retrieval_test", test_id=test["test_id"])
    author.rpc(
        "record_validation_result",
        test_id=test["test_id"],
        pass_status=False,
        performance_score=40,
        ai_response="54323",
        evaluator_notes="close",
        improvement_needed="say why",
    )
    author.rpc("end_session", session_quality_score=77, user_feedback="gut gemacht ✓", summary="ports")
    assert again != chain[0]

    # Some have their vector, some wait for it.
    ids = [row["id"] for row in world.superuser("select id from knowledge_items order by created_at, id")]
    for number, item in enumerate(ids):
        if number % 5:
            world.superuser(
                "update knowledge_items set content_embedding = %s::extensions.vector,"
                " embedding_model = 'all-MiniLM-L6-v2' where id = %s",
                vector_of(number),
                item,
            )
    world.superuser(
        "delete from private.embedding_jobs j using knowledge_items k"
        " where k.id = j.knowledge_id and k.content_embedding is not null"
    )
    return team


@dataclass(frozen=True)
class Cast:
    """Who is who in a furnished database, so that a copy of it can be entered."""

    workspace: uuid.UUID
    people: dict[str, uuid.UUID]

    @classmethod
    def of(cls, team: Team) -> Cast:
        names = ("owner", "maintainer", "author", "colleague", "reader", "stranger")
        return cls(team.id, {name: getattr(team, name).id for name in names})

    def enter(self, world: World, name: str) -> Persona:
        """Let somebody in: the members into the team's workspace, the stranger into none."""
        return world.as_user(self.people[name], None if name == "stranger" else self.workspace, name=name)


#: What there is of a workspace, and what of it counts. Numbers of rows of history are the database's own.
_ASPECTS = {
    "sessions": "select to_jsonb(t) from ai_sessions t",
    "session keys": "select to_jsonb(t) from private.session_keys t",
    "items": "select to_jsonb(t){no_vectors} from knowledge_items t",
    "gotchas": "select to_jsonb(t) from technical_gotchas t",
    "commands": "select to_jsonb(t) from command_patterns t",
    "patterns": "select to_jsonb(t) from interaction_patterns t",
    "insights": "select to_jsonb(t){no_mirror} from experiential_knowledge t",
    "decisions": "select to_jsonb(t) from decision_evolution t",
    "companions": "select to_jsonb(t) from private.companions t",
    "history": "select to_jsonb(t) - 'id' || jsonb_build_object('place', row_number() over"
    " (partition by t.knowledge_id order by t.id)) from knowledge_status_history t",
    "relationships": "select to_jsonb(t) from knowledge_relationships t",
    "links": "select to_jsonb(t) from session_knowledge_links t",
    "duplicates": "select to_jsonb(t) from knowledge_duplicates t",
    "merges": "select to_jsonb(t) - '{{link_ids,source_relationship_ids,target_relationship_ids}}'::text[]"
    " || jsonb_build_object('moved', (select array_agg(x order by x) from unnest("
    "t.link_ids || t.source_relationship_ids || t.target_relationship_ids) x)) from private.merged_items t",
    "tests": "select to_jsonb(t) - 'next_run_at' from knowledge_validation_tests t",
    "results": "select to_jsonb(t) from validation_test_results t",
    "search documents": "select to_jsonb(t) from private.search_documents t",
    "vectors": "select to_jsonb(t) from private.item_vectors t where {with_vectors}",
    "waiting": "select to_jsonb(t.knowledge_id) from private.embedding_jobs t where {with_vectors}",
    "workspaces": "select to_jsonb(t) from workspaces t where t.name <> 'elsewhere'",
    "members": "select to_jsonb(t) - 'created_at' from workspace_members t"
    " join workspaces w on w.id = t.workspace_id and w.name <> 'elsewhere'",
}


def contents(world: World, *, embeddings: bool = True) -> dict[str, list[Any]]:
    """Return all that a memory holds, aspect by aspect, in an order of its own."""
    blanks = {
        "no_vectors": "" if embeddings else " - '{content_embedding,embedding_model}'::text[]",
        "no_mirror": "" if embeddings else " - 'insight_embedding'",
        "with_vectors": "true" if embeddings else "false",
    }
    return {
        name: sorted(
            (next(iter(row.values())) for row in world.superuser(query.format(**blanks))),
            key=lambda value: json.dumps(value, sort_keys=True),
        )
        for name, query in _ASPECTS.items()
    }


def exported(person: Persona, *, embeddings: bool = True, page: int = 7) -> tuple[dict[str, Any], list[str]]:
    """Export a workspace by the two functions, in one transaction; return the header and the lines."""
    with person.transaction() as cursor:
        cursor.execute("select header from export_header(%s)", [embeddings])
        [found] = cursor.fetchall()
        lines: list[str] = []
        for section in SECTIONS:
            after = None
            while True:
                cursor.execute(
                    "select key, line from export_records(%s, %s, %s, %s)", [section, after, page, embeddings]
                )
                rows = cursor.fetchall()
                lines += [row["line"] for row in rows]
                if len(rows) < page:
                    break
                after = rows[-1]["key"]
    return found["header"], lines


SECTIONS = ("session", "item", "history", "relationship", "link", "duplicate", "merge", "test", "result")


def imported(
    person: Persona, lines: Sequence[str], *, size: int = 50, **arguments: object
) -> list[dict[str, Any]]:
    """Import lines, so many a call, and return what became of each."""
    done: list[dict[str, Any]] = []
    for start in range(0, len(lines), size):
        done += person.rpc("import_records", lines=list(lines[start : start + size]), **arguments)
    return done
