"""Export, import, Markdown, documents and transcripts through both doors, and from the command line."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from knowledge_persistence import ConflictError, KnowledgeClient, NewKnowledge
from knowledge_persistence.portability import DamagedExportError, export_jsonl, import_jsonl
from knowledge_persistence.portability.claude_code import import_claude_code
from knowledge_persistence.portability.documents import ingest
from knowledge_persistence.portability.jsonl import check_jsonl, read_header
from knowledge_persistence.portability.markdown import export_markdown, import_markdown

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Person, Printed


def fill(client: KnowledgeClient) -> None:
    pieces = [NewKnowledge(content=f"Fact {n}: the answer is {n}.", title=f"Fact {n}") for n in range(130)]
    client.remember_many(pieces)
    with client.session("a day", project="apollo") as session:
        session.remember("Überraschung: 日本語 \u2028 “quoted”", retrieval_triggers=["EADDRINUSE"])
        session.record_gotcha("ERROR: it broke", working_solution="mend it")
        session.recall("the answer")
    items = client.search("fact", max_results=2)
    client.relate(items[0].knowledge_id, items[1].knowledge_id, "enhances")


def test_a_file_holds_the_memory_and_gives_it_back(
    sign_up: Callable[..., Person], enter: Callable[..., KnowledgeClient], tmp_path: Path
) -> None:
    ana, ben = sign_up("ana"), sign_up("ben")
    source = enter(ana)
    fill(source)
    file = tmp_path / "memory.jsonl"
    told: list[tuple[int, int]] = []
    summary = export_jsonl(source, file, progress=lambda done, of: told.append((done, of)))
    assert (file.stat().st_mode & 0o777) == 0o600
    assert told[-1][0] == told[-1][1]
    assert summary.counts["item"] == 132
    assert check_jsonl(file)[1] == summary

    target = enter(ben)
    tried = import_jsonl(target, file, dry_run=True)
    assert (tried.failed, tried.total("created")) == (0, summary.lines)
    with pytest.raises(Exception, match="nothing to export"):
        enter(sign_up()).export_header()

    done = import_jsonl(target, file)
    assert (done.failed, done.troubles) == (0, [])
    assert {kind: of["created"] for kind, of in done.counts.items()} == summary.counts
    again = import_jsonl(target, file)
    assert {outcome for of in again.counts.values() for outcome in of} == {"unchanged"}
    found, kept = (
        [client.search(words)[0].title for words in ("EADDRINUSE", "it broke", "Fact 77", "日本語 quoted")]
        for client in (target, source)
    )
    assert found == kept


def test_a_file_that_was_cut_off_or_altered_is_refused(
    sign_up: Callable[..., Person], enter: Callable[..., KnowledgeClient], tmp_path: Path
) -> None:
    client = enter(sign_up())
    client.remember("One.")
    client.remember("Two.")
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    export_jsonl(client, whole)
    lines = whole.read_bytes().splitlines(keepends=True)
    for damaged, why in (
        (b"".join(lines[:-1]), "cut off"),
        (b"".join(lines)[:-40], "digest|cut off"),
        (b"".join([*lines[:1], *lines[2:]]), "not what was exported"),
        (b"".join(lines).replace(b"Two.", b"Ten."), "not what was exported"),
        (b"".join(lines) + lines[1], "more after the end"),
        (b"", "empty"),
        (b'{"some": "json"}\n', "no export"),
        (lines[0].replace(b'"version": 1', b'"version": 2'), "version 2"),
    ):
        part.write_bytes(damaged)
        with pytest.raises((DamagedExportError, ValueError), match=why):
            import_jsonl(client, part)
    target = enter(sign_up())
    part.write_bytes(b"".join([*lines[:2], b"{half a li"]))
    report = import_jsonl(target, part, damaged=True)
    assert (report.total("created"), report.failed) == (1, 1)
    assert report.troubles[0].where == "part.jsonl:3"
    assert read_header(part)["kind"] == "header"
    part.write_bytes(b"no header\n")
    with pytest.raises((DamagedExportError, ValueError)):
        read_header(part)


def test_an_export_that_is_overtaken_is_begun_again_or_refused(
    sign_up: Callable[..., Person], enter: Callable[..., KnowledgeClient], door: str, tmp_path: Path
) -> None:
    person = sign_up()
    client, other = enter(person), enter(person)
    client.remember("There before.")
    recorded = 0

    def meanwhile(_done: int, _of: int) -> None:
        nonlocal recorded
        if recorded < meddling:
            recorded += 1
            other.remember(f"Recorded meanwhile: {recorded}.")

    for meddling in (1, 100):
        recorded = 0
        file = tmp_path / f"{meddling}.jsonl"
        if door == "http" and meddling == 100:
            with pytest.raises(ConflictError, match="changed while it was read"):
                export_jsonl(client, file, progress=meanwhile)
            assert not file.exists()
            assert list(tmp_path.glob(".*")) == []
        else:
            summary = export_jsonl(client, file, progress=meanwhile)
            # Over HTTP what came meanwhile is in the second attempt; a direct connection sees one moment.
            assert summary.counts["item"] >= (2 if door == "http" else 1)
            assert check_jsonl(file)[1] == summary


def test_edits_of_a_folder_do_what_they_say(
    sign_up: Callable[..., Person], enter: Callable[..., KnowledgeClient], tmp_path: Path
) -> None:
    client = enter(sign_up())
    texts = {
        "Ports": "The origin listens on 54321.\n\n---\n\nnot: front matter",
        "Yes: a title, 'quoted'": "  indented\n\n```\ncode\n```",
        "2026-01-01": "A title that looks like a date.",
        "日本語": "Überraschung \u2028 and \U0001f680.",
        "Left": "Left alone.",
        "Gone": "Its file will be deleted.",
        "Both": "Changed on both sides.",
    }
    ids = {
        title: client.remember(
            text, title=title, retrieval_triggers=["yes", "1.0"], context_data={"n": 1.5, "none": None}
        ).knowledge_id
        for title, text in texts.items()
    }
    gotcha = client.record_gotcha("ERROR: it broke", working_solution="mend it")
    folder = tmp_path / "memory"
    report = export_markdown(client, folder)
    assert report.counts == {"item": {"written": 8}}
    # Written and read again, nothing has changed: neither here nor in the files.
    before = {path: path.read_bytes() for path in folder.rglob("*.md")}
    assert import_markdown(client, folder).counts == {"item": {"unchanged": 8}}
    assert export_markdown(client, folder).counts == {"item": {"unchanged": 8}}
    assert {path: path.read_bytes() for path in folder.rglob("*.md")} == before

    def file_of(title: str) -> Path:
        [path] = folder.rglob(f"*-{str(ids[title])[:8]}.md")
        return path

    ports = file_of("Ports")
    ports.write_text(
        ports.read_text()
        .replace("54321", "55000")
        .replace("importance: 50", "importance: 80\nsubcategory: net")
    )
    moved = folder / "elsewhere" / "moved.md"
    moved.parent.mkdir()
    file_of("日本語").rename(moved)
    file_of("Gone").unlink()
    both = file_of("Both")
    both.write_text(both.read_text().replace("both sides", "this side"))
    client.edit(ids["Both"], {"content": "Changed on the other side."})
    left = file_of("Left")
    client.edit(ids["Left"], {"content": "Changed here alone."})
    (folder / "new.md").write_text("# A new one\n\nWritten by hand.\n")
    (folder / "copy.md").write_text(ports.read_text())
    (folder / "broken.md").write_text("---\ntitle: [unclosed\n---\ntext\n")
    (folder / "wrong.md").write_text("---\nimportance: high\n---\ntext\n")
    [record] = folder.rglob(f"*-{str(gotcha.knowledge_id)[:8]}.md")
    record.write_text(record.read_text().replace("mend it", "mend it well"))

    tried = import_markdown(client, folder, dry_run=True)
    done = import_markdown(client, folder)
    assert tried.counts == done.counts
    assert done.counts["item"] == {
        "failed": 4,  # broken, wrong, the copy, the gotcha's text
        "edited": 1,
        "conflict": 1,
        "outdated": 1,
        "created": 1,
        "unchanged": 3,
        "missing": 1,
    }
    reasons = {trouble.where.rsplit("/", 1)[-1]: trouble.reason for trouble in done.troubles}
    assert "same id" in reasons["copy.md"]
    assert "edit that" in reasons[record.name]
    item = client.get(ids["Ports"])
    assert "55000" in item.content
    assert (item.importance_score, item.subcategory) == (80, "net")
    assert client.get(ids["Both"]).content == "Changed on the other side."
    assert "id: " in (folder / "new.md").read_text()
    for path in (folder / "copy.md", folder / "broken.md", folder / "wrong.md"):
        path.unlink()
    record.write_bytes(before[record])

    # The same again creates nothing; forced, the file wins; a deleted file deprecates when that is asked for.
    done = import_markdown(client, folder, force=True, deprecate_missing=True)
    assert done.counts["item"] == {"edited": 1, "outdated": 1, "unchanged": 6, "deprecated": 1}
    assert "this side" in client.get(ids["Both"]).content
    assert client.get(ids["Gone"]).validation_status == "deprecated"
    assert export_markdown(client, folder).counts == {"item": {"written": 1, "unchanged": 7}}
    assert "here alone" in left.read_text()
    assert moved.exists()
    # A status is an edit like any other.
    left.write_text(left.read_text().replace("status: pending", "status: validated"))
    assert import_markdown(client, folder).counts["item"]["edited"] == 1
    assert client.get(ids["Left"]).validation_status == "validated"


def test_what_can_not_be_read_is_not_gone(
    sign_up: Callable[..., Person],
    enter: Callable[..., KnowledgeClient],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = enter(sign_up())
    docs, folder = tmp_path / "docs", tmp_path / "memory"
    for name in ("here", "there"):
        (docs / name).mkdir(parents=True)
        (docs / name / "page.md").write_text(f"# {name}\n\nWords of {name}.\n")
    assert ingest(client, [docs]).counts["part"] == {"created": 2}
    export_markdown(client, folder)
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path in (str(docs / "there"), str(folder / "document")):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = ingest(client, [docs])
    assert report.counts == {
        "directory": {"failed": 1},
        "file": {"read": 1},
        "part": {"unchanged": 1},
    }
    report = import_markdown(client, folder, deprecate_missing=True)
    assert report.counts == {"item": {"failed": 1}}
    monkeypatch.undo()
    assert import_markdown(client, folder).counts == {"item": {"unchanged": 2}}
    # A directory that becomes a link, and one that is really gone.
    (docs / "there").rename(tmp_path / "moved")
    (docs / "there").symlink_to(tmp_path / "moved")
    assert ingest(client, [docs]).counts["part"] == {"unchanged": 1}
    (docs / "there").unlink()
    assert ingest(client, [docs]).counts["part"] == {"unchanged": 1, "deprecated": 1}


def test_a_folder_leads_to_no_file_outside_of_it(
    sign_up: Callable[..., Person], enter: Callable[..., KnowledgeClient], tmp_path: Path
) -> None:
    client, folder, precious = enter(sign_up()), tmp_path / "memory", tmp_path / "precious"
    folder.mkdir()
    precious.write_text("precious")
    (folder / "x.md").write_text("---\ntitle: X\n---\n\nPlanted.\n")
    (folder / ".x.md.new").symlink_to(precious)
    (folder / ".kp-export.json").symlink_to(tmp_path / "nothing")
    assert import_markdown(client, folder).counts == {"item": {"created": 1}}
    assert precious.read_text() == "precious"
    assert not (tmp_path / "nothing").exists()
    assert "id: " in (folder / "x.md").read_text()


def test_two_files_of_one_path_are_told(
    sign_up: Callable[..., Person], enter: Callable[..., KnowledgeClient], tmp_path: Path
) -> None:
    client = enter(sign_up())
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(f"# {name}\n\nWords of {name}.\n")
    report = ingest(client, [tmp_path / "a", tmp_path / "b"], root="docs")
    assert report.counts == {"file": {"failed": 1, "read": 1}, "part": {"created": 1}}


def test_documents_are_kept_up_with(
    sign_up: Callable[..., Person], enter: Callable[..., KnowledgeClient], tmp_path: Path
) -> None:
    client = enter(sign_up())
    docs = tmp_path / "docs"
    (docs / "sub").mkdir(parents=True)
    (docs / "ports.md").write_text(
        "# Ports\n\nThe origin.\n\n## Why\n\nBecause.\n\n## Old\n\nTo be removed.\n"
    )
    (docs / "sub" / "page.html").write_text("<h1>Page</h1><p>Words.")
    (docs / "notes.txt").write_text("Plain words.")
    (docs / "image.png").write_bytes(b"\x89PNG\x00")
    (docs / "link.md").symlink_to(docs / "ports.md")
    (docs / "loop").symlink_to(docs)
    (docs / "key.md").write_text("# Key\n\nexport GITHUB_TOKEN=ghp_" + "a1B2" * 9 + "\n")
    first = ingest(client, [docs])
    assert first.counts == {
        "directory": {"skipped": 1},
        "file": {"read": 4, "skipped": 2},
        "part": {"created": 5, "failed": 1},
    }
    assert any("GitHub" in trouble.reason for trouble in first.troubles)
    (docs / "key.md").unlink()
    items = {one.title: one for one in client.search("ports origin because", max_results=50)}
    source = items["Ports > Why"].context_data
    assert source is not None
    assert source["source"] == {
        "kind": "document",
        "root": str(docs),
        "path": "ports.md",
        "heading": ["Ports", "Why"],
        "part": 1,
        "parts": 1,
    }
    assert ingest(client, [docs]).counts["part"] == {"unchanged": 5}

    (docs / "ports.md").write_text(
        "# Ports\n\nThe origin.\n\n## Why\n\nBecause it is so.\n\n## New\n\nWords.\n"
    )
    (docs / "notes.txt").unlink()
    changed = {"unchanged": 2, "edited": 1, "created": 1, "deprecated": 2}
    assert ingest(client, [docs], dry_run=True).counts["part"] == changed
    assert ingest(client, [docs]).counts["part"] == changed
    edited = client.get(items["Ports > Why"].knowledge_id)
    assert edited.content == "Because it is so."
    assert client.get(items["Ports"].knowledge_id).updated_at == items["Ports"].created_at
    # Of a single file only that file is compared.
    assert ingest(client, [docs / "ports.md"]).counts == {"file": {"read": 1}, "part": {"unchanged": 3}}


def test_what_claude_code_has_kept_is_taken_in_once(
    sign_up: Callable[..., Person], enter: Callable[..., KnowledgeClient], tmp_path: Path
) -> None:
    client = enter(sign_up())
    (tmp_path / "CLAUDE.md").write_text("# Rules\n\nRun the tests first.\n")
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "ports.md").write_text("---\nname: The ports\n---\nThe origin is 54321.\n")

    def entry(number: int, command: str, error: str | None) -> str:
        asked = {"type": "tool_use", "id": f"t{number}", "name": "Bash", "input": {"command": command}}
        told = {
            "type": "tool_result",
            "tool_use_id": f"t{number}",
            "is_error": error is not None,
            "content": error or "fine",
        }
        lines = [{"message": {"content": [asked]}}, {"message": {"content": [told]}}]
        return "".join(
            json.dumps(line | {"cwd": "/home/me/apollo", "sessionId": "abc"}) + "\n" for line in lines
        )

    transcript = tmp_path / "abc.jsonl"
    transcript.write_text(
        entry(1, "make deploy", "Error: bind: permission denied")
        + entry(2, "sudo setcap cap_net_bind_service=+ep app", None)
        + entry(3, "make deploy", None)
        + entry(4, "curl -u admin:hunter2secret http://x/", None)
    )
    first = import_claude_code(client, tmp_path)
    assert first.counts == {
        "file": {"read": 2},
        "part": {"created": 2},
        "transcript": {"created": 1},
        "command": {"recorded": 3, "failed": 1},
        "gotcha": {"recorded": 1},
    }
    [gotcha] = client.find_gotchas("bind: permission denied")
    assert gotcha.validation_status == "pending"
    assert gotcha.working_solution is None
    assert any("setcap" in str(attempt) for attempt in [*gotcha.worked, *gotcha.failed, gotcha])
    [command] = [one for one in client.suggest_commands("make deploy") if one.command == "make deploy"]
    assert (command.usage_count, command.success_count) == (2, 1)
    again = import_claude_code(client, tmp_path)
    assert again.counts["transcript"] == {"unchanged": 1}
    assert again.counts["part"] == {"unchanged": 2}
    with transcript.open("a") as file:
        file.write(entry(5, "make deploy", None))
    more = import_claude_code(client, tmp_path)
    assert (more.counts["transcript"], more.counts["command"]) == ({"continued": 1}, {"recorded": 1})


def test_the_command_line_moves_a_memory(
    sign_up: Callable[..., Person], command: Callable[..., Printed], tmp_path: Path
) -> None:
    ana, ben = sign_up("ana"), sign_up("ben")
    file, folder = str(tmp_path / "m.jsonl"), tmp_path / "md"
    assert command(ana, "export", file).code == 1
    command(ana, "remember", "The origin listens on 54321.")
    told = command(ana, "export", file, "--json").json
    assert (told["lines"], told["counts"]) == (1, {"item": 1})
    assert command(ana, "export", file).code == 2
    assert command(ana, "export", file, "--force", "--embeddings").code == 0
    assert command(ben, "import", str(tmp_path / "nothing.jsonl")).code == 2
    assert command(ben, "import", file, "--dry-run").out == "item: 1 created\n"
    report: dict[str, Any] = command(ben, "import", file, "--json").json
    assert report == {"dry_run": False, "counts": {"item": {"created": 1}}, "failed": 0, "troubles": []}
    assert command(ben, "export", str(folder), "--format", "markdown").out == "item: 1 written\n"
    assert command(ben, "import", str(folder)).out == "item: 1 unchanged\n"
    (folder / "bad.md").write_text("---\n- a list\n---\n")
    printed = command(ben, "import", str(folder))
    assert printed.code == 1
    assert "bad.md: failed" in printed.err
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# A\n\nWords.\n")
    assert "part: 1 created" in command(ben, "ingest", str(tmp_path / "docs")).out
    # Only an operator restores in other people's names.
    assert command(ben, "import", file, "--as-service").code in {1, 3, 4}


def test_the_pages_do_what_they_say(
    do_page: Callable[[Person, str], str], sign_up: Callable[..., Person]
) -> None:
    said = do_page(sign_up("ana"), "move-your-memory")
    for outcome in ("A dry run: nothing has changed.", "item: 1 unchanged", "items: 1 created, 1 edited"):
        assert outcome in said, said
    said = do_page(sign_up("ben"), "import-documents")
    for outcome in ("parts: 2 created", "parts: 1 edited, 1 unchanged", "54321"):
        assert outcome in said, said
