"""History, duplicates, erasure and the audit, behind both doors and from the command line."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from knowledge_persistence import (
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Person, Printed
    from knowledge_persistence import AsyncKnowledgeClient, KnowledgeClient

    Enter = Callable[..., KnowledgeClient]
    SignUp = Callable[..., Person]
    Kp = Callable[..., Printed]


def unique(text: str) -> str:
    return f"{text} {uuid4().hex}"


# Forbidden acts


def test_nothing_of_somebody_elses_is_changed(enter: Enter, sign_up: SignUp) -> None:
    ana, eve = enter(sign_up("ana")), enter(sign_up("eve"))
    mine, hers = ana.remember(unique("mine")).knowledge_id, eve.remember(unique("hers")).knowledge_id
    for item in (mine, uuid4()):
        for act in (
            lambda one: eve.supersede(one, hers),
            lambda one: eve.supersede(hers, one),
            eve.undo_supersede,
            eve.forget,
            lambda one: eve.forget(one, dry_run=True),
            lambda one: eve.merge(hers, one),
            lambda one: eve.merge(one, hers),
            eve.undo_merge,
            eve.discover_duplicates,
            lambda one: eve.decide_duplicate(one, accept=True),
        ):
            with pytest.raises(NotFoundError):
                act(item)
        assert eve.history(item) == []
    assert ana.get(mine).superseded_by is None


def test_colleagues_decide_nothing_about_what_the_workspace_trusts(enter: Enter, sign_up: SignUp) -> None:
    ana, ben, cleo = sign_up("ana"), sign_up("ben"), sign_up("cleo")
    owner = enter(ana)
    workspace = owner.create_workspace("team").workspace_id
    owner.add_workspace_member(workspace, ben.id, role="contributor")
    owner.add_workspace_member(workspace, cleo.id, role="reader")
    owner = enter(ana, workspace=workspace)
    one, other = (owner.remember(unique(text)).knowledge_id for text in ("one", "other"))
    for item in (one, other):
        owner.validate(item)
    for person in (ben, cleo):
        client = enter(person, workspace=workspace)
        for act in (
            lambda c: c.supersede(one, other),
            lambda c: c.forget(one),
            lambda c: c.forget(one, dry_run=True),
            lambda c: c.merge(one, other),
        ):
            with pytest.raises(PermissionDeniedError):
                act(client)
    with pytest.raises(PermissionDeniedError):
        enter(cleo, workspace=workspace).discover_duplicates()


def test_arguments_are_checked(enter: Enter, sign_up: SignUp) -> None:
    ana = enter(sign_up("ana"))
    item = ana.remember(unique("one")).knowledge_id
    with pytest.raises(InvalidArgumentError):
        ana.supersede(item, item)
    with pytest.raises(ConflictError):
        ana.undo_merge(item)
    with pytest.raises(InvalidArgumentError):
        ana.audit(max_findings=0)
    with pytest.raises(InvalidArgumentError):
        ana.audit(checks=["rumour"])  # type: ignore[list-item]


# What is promised


def test_an_item_is_superseded_and_comes_back(enter: Enter, sign_up: SignUp) -> None:
    person = sign_up("ana")
    ana = enter(person)
    old, new = (ana.remember(unique(text)).knowledge_id for text in ("The port is 1", "The port is 2"))
    ana.validate(old, note="checked")
    ana.validate(new)
    done = ana.supersede(old, new)
    assert (done.outcome, done.superseded_by) == ("superseded", new)
    assert [found.knowledge_id for found in ana.search("port")] == [new]
    assert ana.undo_supersede(old).outcome == "restored"
    assert ana.undo_supersede(old).outcome == "unchanged"
    changes = ana.history(old)
    assert [change.change for change in changes] == ["status", "superseded", "restored"]
    assert (changes[0].from_status, changes[0].to_status, changes[0].note) == (
        "pending",
        "validated",
        "checked",
    )
    assert changes[1].superseded_by == new
    assert {change.changed_by for change in changes} == {person.id}
    assert changes[0].changed_at <= changes[1].changed_at <= changes[2].changed_at


def test_duplicates_are_proposed_merged_and_taken_apart(enter: Enter, sign_up: SignUp) -> None:
    ana = enter(sign_up("ana"))
    keep = ana.remember("Restart the gateway after a change of routes.", title="Gateway").knowledge_id
    with ana.session(unique("s")) as session:
        other = session.remember(
            "Restart the gateway, after a change of routes!", title="gateway", retrieval_triggers=["routes"]
        ).knowledge_id
        session.rate(other, effectiveness_rating=9)
    [pair] = ana.discover_duplicates()
    assert {pair.keep_id, pair.duplicate_id} == {keep, other}
    assert (pair.strength, pair.status) == (1.0, "proposed")
    assert ana.discover_duplicates(keep) == []
    assert [one.proposal_id for one in ana.list_duplicates()] == [pair.proposal_id]
    done = ana.decide_duplicate(pair.proposal_id, accept=True, keep_id=keep)
    assert (done.outcome, done.keep_id, done.links_moved, done.triggers_added) == (
        "merged",
        keep,
        1,
        ["routes"],
    )
    assert ana.get(keep).rating_count == 1
    assert ana.get(other).superseded_by == keep
    assert ana.undo_merge(other).outcome == "undone"
    assert (ana.get(keep).rating_count, ana.get(other).rating_count) == (0, 1)
    assert ana.merge(keep, other).outcome == "merged"
    assert ana.merge(keep, other).outcome == "unchanged"
    ana.undo_merge(other)
    assert ana.decide_duplicate(pair.proposal_id, accept=False).outcome == "rejected"


def test_what_is_forgotten_is_gone(enter: Enter, sign_up: SignUp) -> None:
    ana = enter(sign_up("ana"))
    old, new = (ana.remember(unique(text)).knowledge_id for text in ("zanzibar one", "zanzibar two"))
    ana.supersede(old, new)
    going = ana.forget(new, dry_run=True)
    assert (going.knowledge_id, going.restored_ids) == (new, [old])
    assert ana.get(old).superseded_by == new, "nothing went"
    assert ana.forget(new).restored_ids == [old]
    with pytest.raises(NotFoundError):
        ana.get(new)
    assert [found.knowledge_id for found in ana.search("zanzibar")] == [old]


def test_the_audit_names_what_wants_attention(enter: Enter, sign_up: SignUp) -> None:
    ana = enter(sign_up("ana"))
    junk = ana.remember("test test test").knowledge_id
    waiting = ana.remember(unique("Deploys happen on Tuesdays"), project_context="alpha").knowledge_id
    findings = ana.audit(unvalidated_after_days=0, unused_after_days=0)
    assert {(one.check_name, one.knowledge_id) for one in findings} == {
        ("junk", junk),
        ("unvalidated", junk),
        ("unvalidated", waiting),
        ("unused", junk),
        ("unused", waiting),
    }
    assert all(one.reason and one.suggestion for one in findings)
    [only] = ana.audit(checks=["unused"], unused_after_days=0, project_context="alpha")
    assert (only.knowledge_id, only.total) == (waiting, 1)
    assert ana.audit(checks=["contradictory"]) == []


async def test_a_session_and_the_async_client_have_the_same_methods(
    enter_async: Callable[..., AsyncKnowledgeClient], sign_up: SignUp
) -> None:
    async with enter_async(sign_up("ana")) as client, client.session(unique("s")) as session:
        item = (await session.remember(unique("one"))).knowledge_id
        assert await session.history(item) == []
        assert (await session.forget(item, dry_run=True)).links_removed == 1
        assert (await client.forget(item)).links_removed == 1


# The command line


@pytest.fixture
def kp(command: Callable[..., Printed], sign_up: SignUp) -> Callable[..., Printed]:
    """Run commands as one person."""
    return partial(command, sign_up("cli"))


def remember(kp: Kp, text: str) -> str:
    return str(UUID(kp("remember", text).out.strip()))


def test_forget_asks_and_shows_what_goes(kp: Kp) -> None:
    old, new = remember(kp, "zanzibar one"), remember(kp, "zanzibar two")
    assert kp("supersede", old, new).out.startswith(f"{old} superseded by {new}")
    assert kp("supersede", old).code == 2
    refused = kp("forget", new)
    assert (refused.code, refused.out) == (2, "")
    assert "--yes" in refused.err
    tried = kp("forget", new, "--dry-run")
    assert tried.code == 0
    assert "zanzibar two" in tried.err
    assert old in tried.err
    assert "Nothing was erased" in tried.err
    assert kp("forget", new, "--yes", "--json").json["restored_ids"] == [old]
    missing = kp("forget", new, "--yes")
    assert (missing.code, missing.out) == (1, "")
    assert "in force again" in kp("history", old).out


def test_duplicates_from_the_command_line(kp: Kp) -> None:
    assert "None" in kp("duplicates", "list").err
    remember(kp, "Restart the gateway after a change.")
    remember(kp, "restart the gateway after a change")
    [pair] = kp("duplicates", "propose", "--json").json
    assert pair["proposal_id"] in kp("duplicates", "list").out
    done = kp("duplicates", "accept", pair["proposal_id"])
    assert done.out.strip() == f"{pair['duplicate_id']} merged"
    assert kp("duplicates", "undo", pair["duplicate_id"]).code == 0
    assert kp("duplicates", "reject", pair["proposal_id"], "--json").json["status"] == "rejected"
    assert kp("duplicates", "merge", pair["keep_id"], pair["duplicate_id"]).code == 0
    assert kp("duplicates", "undo", str(uuid4())).code == 1


def test_the_audit_can_fail_a_pipeline(kp: Kp) -> None:
    clean = kp("audit", "--fail-on", "junk")
    assert (clean.code, clean.out) == (0, "")
    assert "Nothing wants attention" in clean.err
    item = remember(kp, "asdf asdf")
    found = kp("audit")
    assert found.code == 0
    for expected in ("junk", item, "why:", "do:"):
        assert expected in found.out
    assert kp("audit", "--fail-on", "junk").code == 1
    assert kp("audit", "--fail-on", "stale", "--check", "stale").code == 0
    [finding] = kp("audit", "--check", "junk", "--json").json
    assert finding["knowledge_id"] == item
    assert kp("audit", "--check", "rumour").code == 2


def test_correct_and_forget_does_what_it_says(do_page: Callable[[Person, str], str], sign_up: SignUp) -> None:
    said = do_page(sign_up("ana"), "correct-and-forget")
    for expected in ("superseded by", "restored", "in force again", "Nothing was erased.", "Erased."):
        assert expected in said


def test_keep_it_clean_does_what_it_says(do_page: Callable[[Person, str], str], sign_up: SignUp) -> None:
    said = do_page(sign_up("ana"), "keep-it-clean")
    for expected in (
        "one word again and again",
        "there is junk",
        "the same text but for case",
        " merged",
        " undone",
        "refused",
    ):
        assert expected in said
    assert "1 triggers went over" in said
