"""Agent tokens through the client, the command line and the pages."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from knowledge_persistence import InvalidArgumentError, NotFoundError, PermissionDeniedError
from stacks import request

if TYPE_CHECKING:
    from conftest import Person, Printed
    from knowledge_persistence import KnowledgeClient

SignUp: TypeAlias = "Callable[..., Person]"
Enter: TypeAlias = "Callable[..., KnowledgeClient]"


def test_the_contract(sign_up: SignUp, enter: Enter, service: KnowledgeClient) -> None:
    ana, ben = enter(sign_up("ana")), enter(sign_up("ben"))
    team = ana.create_workspace("team").workspace_id
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    made = ana.create_agent_token("reviewer", workspace_id=team, expires_at=end)
    assert made.token not in repr(made)

    with pytest.raises(NotFoundError):
        ben.create_agent_token("spy", workspace_id=team)
    with pytest.raises(NotFoundError):
        ben.revoke_agent_token(made.token_id)
    with pytest.raises(PermissionDeniedError):
        ben.authenticate_agent_token(made.token)
    with pytest.raises(InvalidArgumentError):
        ana.create_agent_token(" ")
    assert ben.list_agent_tokens() == []

    holder = service.authenticate_agent_token(made.token)
    assert holder is not None
    assert (holder.token_id, holder.workspace_id, holder.expires_at) == (made.token_id, team, end)
    [listed] = ana.list_agent_tokens(workspace_id=team)
    assert (listed.name, listed.revoked_at, listed.expires_at) == ("reviewer", None, end)
    assert listed.last_used_at is not None
    assert ana.revoke_agent_token(made.token_id).revoked_at is not None
    assert service.authenticate_agent_token(made.token) is None


def test_the_commands(sign_up: SignUp, command: Callable[..., Printed]) -> None:
    ana = sign_up("ana")

    def kp(*arguments: str) -> Printed:
        return command(ana, *arguments)

    assert kp("tokens", "create", "x", "--days", "-1").code == 2
    assert kp("tokens", "create", " ").code == 1
    assert kp("tokens", "revoke", ana.credential.user_id).code == 1
    assert kp("tokens", "list").out == ""

    made = kp("tokens", "create", "nightly build", "--days", "30")
    token = made.out.strip()
    assert token.startswith("kpt_")
    assert token not in made.err
    [listed] = kp("tokens", "list", "--json").json
    assert (listed["name"], listed["last_used_at"]) == ("nightly build", None)
    assert listed["token_id"] in made.err
    assert "good until" in kp("tokens", "list").out
    assert kp("tokens", "create", "for ever", "--days", "0", "--json").json["expires_at"] is None

    def recall() -> Any:
        headers = {"authorization": f"Bearer {token}"}
        url = f"{ana.deployment.url}/functions/v1/recall"
        return request(url, headers=headers, body={"query": "anything"})

    assert recall().status == 200
    assert "Revoked: nightly build" in kp("tokens", "revoke", listed["token_id"]).err
    assert recall().status == 401
    assert "revoked" in kp("tokens", "list").out


def test_the_page_on_tokens_does_what_it_says(do_page: Callable[[Person, str], str], sign_up: SignUp) -> None:
    said = do_page(sign_up("ana"), "give-agents-tokens")
    assert said.count("kpt_") == 2
    assert "good until" in said
    assert "Revoked: reviewer" in said


def test_the_page_on_languages_does_what_it_says(
    do_page: Callable[[Person, str], str], sign_up: SignUp
) -> None:
    said = do_page(sign_up("ana"), "call-from-any-language")
    assert "created" in said
    assert "Lock rows in one order" in said.splitlines()[-1]
