"""Credentials: refused wherever they stand, unless it is meant; ordinary text about them is not."""

from __future__ import annotations

import random
import string
from typing import TYPE_CHECKING

import pytest

from world import refused

if TYPE_CHECKING:
    from world import World

# Put together here, so that no scanner takes this file for a leak.
REFUSED = {
    "a private key": [
        "-----BEGIN RSA " + "PRIVATE KEY-----\nMII",
        "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
        "-----BEGIN PRIVATE" + " KEY-----",
        "AGE-SECRET-" + "KEY-1" + "QZ9" * 17,
    ],
    "an AWS access key": ["AK" + "IAIOSFODNN7EXAMPLE"],
    "a GitHub token": ["gh" + "p_" + "a1B2" * 9, "github_" + "pat_" + "a1B2c" * 12],
    "a Slack token": [
        "xo" + "xb-" + "1234567890-abcdefghij",
        "https://hooks.sl" + "ack.com/services/T00000000/B00000000/abcdefghij1234567890ABCD",
    ],
    "a Google API key": ["AI" + "za" + "Sy4" * 11 + "ab"],
    "a Stripe key": ["sk_" + "live_" + "4eC39HqLyjWDarjt"],
    "a Supabase secret key": ["sb_" + "secret_" + "9fK2mQ7xTz4Lw8Ra9fK2mQ_7xTz4Lw"],
    "an agent's token": ["kpt" + "_" + "0a1b2c3d" * 8],
    "an API key": [
        "sk-" + "proj-" + "Ab3" * 10,
        "sk-" + "ant-api03-" + "Ab3" * 10,
        "sk-" + "or-v1-" + "0a1b2c3d" * 8,
    ],
    "a JSON web token": ["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3.c2lnbmF0dXJlLXNpZw"],
    "a URL with a password": [
        "postgresql://app:" + "hunter2horse" + "@db.example.org/app",
        "redis://:" + "s3cr3tpw99@cache:6379",
        "https://me:" + "Tr0ub4dor@git.example.org/x.git",
    ],
    "an authorization header": [
        "Authorization: Bearer " + "9fK2mQ7xTz4Lw8Ra",
        "curl -H 'Authorization: Basic " + "dXNlcjpodW50ZXIy'",
        "Bearer " + "9fK2mQ7xTz4Lw8Ra9fK2mQ7x",
    ],
    "a password or key": [
        "password = " + "9fK2mQ7xTz4Lw8Ra",
        "PGPASSWORD=" + "correcthorse psql",
        "machine h login me password " + "correcthorse",
        "DB_PASSWORD=" + "hunter2horse",
        "OPENAI_API_KEY: " + "9fK2mQ7xTz4Lw8Ra",
        "AccountKey=" + "9fK2mQ7xTz4Lw8Ra9fK2mQ7xTz4Lw8Ra==",
        '{"client_secret": "' + '9fK2mQ7xTz4Lw8Ra"}',
        "curl -u me:" + "hunter2horse https://x",
        "tool --password " + "Hunter2horse",
        "Server=h;Password=" + "Hunter2horse;",
    ],
}

# The tables of text that callers write, and the columns that hold none.
NO_TEXT = {
    "relationship_type",
    "status",
    "validation_status",
    "knowledge_type",
    "knowledge_types_tested",
    "retrieved",
    "embedding_model",
    "interaction_type",
    "text_search_config",
}
ORDINARY = [
    "Set password = <your password> in .env.",
    "postgresql://app:$PASSWORD@localhost/app",
    "postgresql://app:${DB_PASSWORD}@localhost/app",
    "postgresql://user@host/db",
    "postgresql://postgres:postgres@127.0.0.1:54322/postgres",
    "postgresql://user:password@host/db",
    "postgresql://app:***@db/app",
    "postgresql://app:<password>@db/app",
    "postgresql://app:[YOUR-PASSWORD]@db/app",
    "The secret key begins with sb_secret_ and bypasses row-level security.",
    "An agent's token begins with kpt_ and has 64 hexadecimal digits.",
    "A JWT has three parts: eyJ…, eyJ…, signature.",
    "token: the access token expires after 3600 seconds",
    "The task-force met; risk-averse people asked https://example.org:8443/path for it.",
    "api_key=os.environ['OPENAI_API_KEY']",
    "api_key = settings.openai_key2",
    "password = config.db2_password",
    "commit 3f786850e387550fdab836ed7e6dc881de23001b broke it",
    "id 123e4567-e89b-12d3-a456-426614174000",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "PGPASSWORD=$SECRET psql",
    "PGPASSWORD=postgres psql",
    "PGPASSWORD=<password> psql",
    "password=***",
    "password=xxxxxxxxxxxx1x",
    "password: ********",
    "DB_PASSWORD=changeme123",
    "Authorization: Bearer <token>",
    "Authorization: Bearer $TOKEN",
    "Authorization: Bearer ...",
    "Bearer tokens in the Authorization header expire after an hour",
    "machine host login me password <password>",
    "max_tokens=4096 and password length >= 12characters",
    "password: base64-encoded in the secret",
    "The gotcha: a GitHub token that begins with ghp_ needs the repo scope",
    "sk-" + "learn-2023-experiments-and-results-of-trees",
    "Set OPENAI_API_KEY=your-key-here-1234",
    "secret: see vault/path2/db",
    "password_hash = 5f4dcc3b5aa765d61d8327deb882cf99",
    "hunter2 is a joke",
    "git@github.com:org/repo.git",
    "the token_type is bearer",
    "passwords: at least 8 characters",
    "password=sha256(salt + input1)",
    "curl -u user:password https://x",
    "ssh://git@host:2222/x",
    "secret_name: projects/p1/secrets/s1/versions/2 latest",
    "access_key: arn:aws:iam::123456789012:user/x",
]

TOKEN = REFUSED["a GitHub token"][0]


def kinds(world: World, texts: list[str]) -> list[str | None]:
    """Say of each text which credential the database takes it for."""
    rows = world.service().sql(
        "select private.find_credential(t) as kind from unnest(%s::text[]) with ordinality u (t, o) order by o",
        texts,
    )
    return [row["kind"] for row in rows]


@pytest.mark.parametrize("kind", REFUSED)
def test_what_looks_like_a_credential_is_refused(world: World, kind: str) -> None:
    ana = world.sign_up("ana")
    for number, text in enumerate(REFUSED[kind]):
        with refused("PT451", kind) as caught:
            ana.record("How to get in", f"Use {text} for it.")
        assert text not in str(caught.value), "the error does not repeat it"
        with refused("PT451", kind):
            ana.sql(
                "insert into public.knowledge_items (title, content) values (%s, 'x')",
                f"{text.splitlines()[0]} ",
            )
        assert ana.value("select count(*) from public.knowledge_items") == number
        item = ana.record("How to get in", f"Use {text} for it.", allow_credentials=True)
        assert ana.sees(item)
        with refused("PT451", kind):
            ana.record("And again", f"Use {text} once more.")


def test_generated_secrets_are_found_wherever_they_stand(world: World) -> None:
    """Random ones of each shape, at the beginning, in the middle and at the end of a text, in code and in JSON."""
    random_ = random.Random(3)  # noqa: S311
    letters = string.ascii_letters + string.digits

    def some(length: int, alphabet: str = letters) -> str:
        return "aB3" + "".join(random_.choice(alphabet) for _ in range(length - 3))

    shapes = {
        "a GitHub token": lambda: "gh" + random_.choice("pousr") + "_" + some(36),
        "an AWS access key": lambda: (
            "AK" + "IA" + "".join(random_.choices(string.ascii_uppercase + string.digits, k=16))
        ),
        "an API key": lambda: "sk-" + random_.choice(["", "proj-", "ant-api03-"]) + some(48),
        "a Stripe key": lambda: random_.choice("rs") + "k_live_" + some(24),
        "a URL with a password": lambda: (
            f"postgresql://app:{some(random_.randint(8, 30))}@db.example.org:5432/app"
        ),
        "a password or key": lambda: (
            random_.choice(["DB_PASSWORD=", "api_key: ", "secret = "]) + some(32) + "7q8"
        ),
    }
    frames = ("{}", "{} is it", "use {} today", "(`{}`)", '{{"value": "{}"}}', "a\n{}\nb", "export X; {} ;")
    for kind, shape in shapes.items():
        texts = [frame.format(shape()) for frame in frames for _ in range(20)]
        missed = [text for text, found in zip(texts, kinds(world, texts), strict=True) if found is None]
        assert missed == [], kind


def test_hashes_ids_and_words_are_not(world: World) -> None:
    random_ = random.Random(4)  # noqa: S311
    words = [
        "deploy",
        "gateway",
        "token",
        "secret",
        "password",
        "port",
        "rotate",
        "before",
        "after",
        "key",
        "service",
        "never",
        "reset",
        "header",
    ]
    texts = []
    for _ in range(300):
        hexes = "".join(random_.choices("0123456789abcdef", k=random_.choice([7, 12, 32, 40, 64])))
        sentence = " ".join(random_.choices(words, k=12))
        texts += [
            f"{sentence} {hexes}",
            f"commit {hexes}: {sentence}",
            "-".join(random_.choices(words, k=6)),
            sentence,
        ]
    assert [text for text, kind in zip(texts, kinds(world, texts), strict=True) if kind is not None] == []


def test_it_is_looked_for_in_every_field_and_at_every_edit(world: World) -> None:
    ana = world.sign_up("ana")
    for arguments in (
        {"context_data": {"token": TOKEN}}, {"retrieval_triggers": [TOKEN]}, {"category": TOKEN},
        {"subcategory": TOKEN}, {"project_context": TOKEN},
    ):  # fmt: skip
        with refused("PT451"):
            ana.record("fine", "fine", **arguments)
    item = ana.record("fine", "fine")
    for column in ("content", "title", "category", "subcategory", "project_context", "validation_note"):
        with refused("PT451"):
            ana.sql(f"update public.knowledge_items set {column} = %s where id = %s", TOKEN, item)
    with refused("PT451"):
        ana.rpc(
            "record_knowledge_batch", items=[{"title": "t", "content": "c"}, {"title": "t", "content": TOKEN}]
        )
    with refused("PT451"):
        ana.rpc("validate_knowledge", knowledge_id=item, note=TOKEN)


def test_what_was_let_in_does_not_refuse_other_changes(world: World) -> None:
    ana = world.sign_up("ana")
    item = ana.record("On purpose", f"Use {TOKEN}.", allow_credentials=True)
    ana.sql("update public.knowledge_items set title = 'New', content = content where id = %s", item)
    with refused("PT451"):
        ana.sql("update public.knowledge_items set content = content || '!' where id = %s", item)
    gotcha = ana.rpc("record_gotcha", problem_description=f"{TOKEN} is refused", allow_credentials=True)[0]
    ana.rpc(
        "record_gotcha",
        problem_description="x",
        problem_signature=gotcha["problem_signature"],
        severity_level=3,
    )


def test_it_is_refused_at_every_other_door(world: World) -> None:
    ana = world.sign_up("ana").start_session("s")
    item, other = ana.record("one"), ana.record("other")
    test = ana.value(
        "insert into public.knowledge_validation_tests (test_name, test_scenario) values ('t', 's') returning id"
    )
    for function, arguments in (
        ("start_session", {"session_identifier": TOKEN}),
        ("start_session", {"session_metadata": {"a": [TOKEN]}}),
        ("end_session", {"summary": TOKEN}),
        ("end_session", {"user_feedback": TOKEN}),
        ("create_workspace", {"name": "w", "description": TOKEN}),
        ("rate_knowledge", {"knowledge_id": item, "effectiveness_rating": 5, "notes": TOKEN}),
        ("relate_knowledge", {"source_knowledge_id": item, "target_knowledge_id": other,
                              "relationship_type": "enhances", "relationship_context": TOKEN}),
        ("record_gotcha", {"problem_description": "x", "attempted_solution": TOKEN, "attempt_outcome": "failed"}),
        ("record_gotcha", {"problem_description": "x", "problem_context": {"a": TOKEN}}),
        ("record_command_run", {"command": f"curl {TOKEN}", "succeeded": True}),
        ("record_command_run", {"command": "x", "succeeded": False, "failure_output": TOKEN}),
        ("record_insight", {"insight_title": "t", "insight_description": TOKEN}),
        ("record_decision_stage", {"decision_topic": "t", "understanding": TOKEN}),
        ("record_interaction_pattern", {"pattern_name": "n", "situation_type": "s", "example": {"a": TOKEN}}),
        ("record_validation_result", {"test_id": test, "pass_status": True, "ai_response": TOKEN}),
        ("record_validation_result", {"test_id": test, "pass_status": True, "evaluator_notes": TOKEN}),
    ):  # fmt: skip
        with refused("PT451") as caught:
            ana.rpc(function, **arguments)
        assert TOKEN not in str(caught.value)
    for statement in (
        "insert into public.technical_gotchas (problem_description, prevention_guidance) values ('x', %s)",
        "insert into public.knowledge_validation_tests (test_name, test_scenario) values ('t', %s)",
        "update public.knowledge_validation_tests set expected_response = %s",
        "update public.ai_sessions set user_feedback = %s",
    ):
        with refused("PT451"):
            ana.sql(statement, TOKEN)


def test_no_column_of_text_is_forgotten(world: World) -> None:
    """Each that a signed-in user may write is an argument of a refusing trigger, on tables and not in views."""
    written = world.superuser(
        "select c.relname as name, a.attname as field from pg_class c"
        " join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped"
        " where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')"
        " and a.atttypid = any ('{text,varchar,jsonb,text[],varchar[]}'::regtype[])"
        " and (has_column_privilege('authenticated', c.oid, a.attnum, 'insert')"
        "      or has_column_privilege('authenticated', c.oid, a.attnum, 'update'))"
    )
    guards = world.superuser(
        "select c.relname as name, pg_get_triggerdef(t.oid) as definition from pg_trigger t"
        " join pg_class c on c.oid = t.tgrelid where t.tgname like '%%_refuse_credentials%%'"
    )
    assert len(written) > 50
    forgotten = [
        f"{row['name']}.{row['field']}"
        for row in written
        if row["field"] not in NO_TEXT
        and not any(row["name"] == guard["name"] and row["field"] in guard["definition"] for guard in guards)
    ]
    assert forgotten == []


def test_ordinary_text_about_credentials_is_not(world: World) -> None:
    found = dict(zip(ORDINARY, kinds(world, ORDINARY), strict=True))
    assert {text: kind for text, kind in found.items() if kind is not None} == {}
    ana = world.sign_up("ana")
    assert ana.sees(ana.record("About keys", "\n".join(ORDINARY)))
