"""Credentials: refused wherever they stand, unless it is meant; ordinary text about them is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from world import refused

if TYPE_CHECKING:
    from world import World

# Put together here, so that no scanner takes this file for a leak.
CREDENTIALS = {
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEow…",
    "an AWS access key": "AK" + "IAIOSFODNN7EXAMPLE",
    "a GitHub token": "gh" + "p_" + "a1B2" * 9,
    "a Slack token": "xo" + "xb-" + "1234567890-abcdefghij",
    "a Google API key": "AI" + "za" + "Sy4" * 11 + "ab",
    "a Stripe key": "sk_" + "live_" + "4eC39HqLyjWDarjt",
    "an API key": "sk-" + "proj-" + "Ab3" * 10,
    "a Supabase secret key": "sb_" + "secret_" + "Ab3" * 8,
    "a JSON web token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3.c2lnbmF0dXJlLXNpZw",
    "a URL with a password": "postgresql://app:" + "hunter2horse" + "@db.example.org/app",
    "a password or key": "password = " + "9fK2mQ7xTz4Lw8Ra",
}


@pytest.mark.parametrize(("kind", "text"), CREDENTIALS.items())
def test_what_looks_like_a_credential_is_refused(world: World, kind: str, text: str) -> None:
    ana = world.sign_up("ana")
    with refused("PT451", kind) as caught:
        ana.record("How to get in", f"Use {text} for it.")
    assert text not in str(caught.value), "the error does not repeat it"
    with refused("PT451", kind):
        ana.sql("insert into public.knowledge_items (title, content) values (%s, 'x')", text.splitlines()[0])
    assert ana.value("select count(*) from public.knowledge_items") == 0
    item = ana.record("How to get in", f"Use {text} for it.", allow_credentials=True)
    assert ana.sees(item)
    with refused("PT451", kind):
        ana.record("And again", f"Use {text} once more.")


def test_it_is_looked_for_in_every_field_and_at_every_edit(world: World) -> None:
    ana = world.sign_up("ana")
    token = CREDENTIALS["a GitHub token"]
    for arguments in ({"context_data": {"token": token}}, {"retrieval_triggers": [token]}):
        with refused("PT451"):
            ana.record("fine", "fine", **arguments)
    item = ana.record("fine", "fine")
    with refused("PT451"):
        ana.sql("update public.knowledge_items set content = %s where id = %s", token, item)


@pytest.mark.parametrize(
    "text",
    [
        "Set password = <your password> in .env.",
        "postgresql://app:$PASSWORD@localhost/app",
        "postgresql://postgres:postgres@127.0.0.1:54322/postgres",
        "The secret key begins with sb_secret_ and bypasses row-level security.",
        "A JWT has three parts: eyJ…, eyJ…, signature.",
        "token: the access token expires after 3600 seconds",
        "The task-force met; risk-averse people asked https://example.org:8443/path for it.",
        "api_key=os.environ['OPENAI_API_KEY']",
        "commit 3f786850e387550fdab836ed7e6dc881de23001b broke it",
    ],
)
def test_ordinary_text_about_credentials_is_not(world: World, text: str) -> None:
    ana = world.sign_up("ana")
    assert ana.sees(ana.record("About keys", text))
