"""`kp gotcha|command|insight|decision|pattern`: what they refuse, print and end with."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

import pytest

from knowledge_persistence.credentials import CredentialStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Person, Printed

    Kp: TypeAlias = Callable[..., Printed]
    SignUp: TypeAlias = Callable[..., Person]

MAIN = "import sys; from knowledge_persistence.cli import main; sys.exit(main())"
TRACE = """Traceback (most recent call last):
  File "/home/ana/shop/main.py", line 12, in <module>
    connect()
ConnectionRefusedError: [Errno 111] Connection refused
"""


@pytest.fixture
def kp(command: Callable[..., Printed], sign_up: SignUp) -> Kp:
    """Run commands as one person."""
    return partial(command, sign_up("cli"))


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | bytes], None]:
    """Put a text on standard input."""

    def put(text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8"))

    return put


def in_order(text: str, *parts: str) -> None:
    """Expect the parts one after the other, wherever the lines break."""
    text = " ".join(text.split())
    end = 0
    for part in parts:
        place = text.find(part, end)
        assert place >= 0, f"{part!r} is not after what comes before it in\n{text}"
        end = place + len(part)


@pytest.mark.parametrize(
    "arguments",
    [
        ("gotcha",),
        ("gotcha", "record", " "),
        ("gotcha", "record", "x", "--tried", "y"),
        ("gotcha", "record", "x", "--outcome", "failed"),
        ("gotcha", "record", "x", "--tried", "y", "--outcome", "perhaps"),
        ("gotcha", "record", "x", "--severity", "11"),
        ("gotcha", "find", ""),
        ("gotcha", "find", "x", "-n", "0"),
        ("command", "run"),
        ("command", "run", " "),
        ("command", "record", "x"),
        ("command", "record", "-", "--failed", "--output", "-"),
        ("command", "suggest", " "),
        ("insight", "record", "x"),
        ("insight", "record", "x", "y", "--confidence", "0"),
        ("decision", "record", "x", " "),
        ("decision", "history", " "),
        ("pattern", "record", "x"),
        ("pattern", "match", ""),
    ],
)
def test_wrong_usage_is_2(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from knowledge_persistence.cli import main  # noqa: PLC0415

    monkeypatch.setattr(sys, "argv", ["kp", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr()
    # A group without a command shows its help.
    assert bool(said.err) != (arguments == ("gotcha",) and bool(said.out))


def test_what_the_database_refuses_is_told(kp: Kp) -> None:
    refused = kp("gotcha", "record", "It breaks", "--solution", "use postgresql://a:hunter2secret@h/d")
    assert (refused.code, refused.out) == (1, "")
    assert "credential" in refused.err or "password" in refused.err
    missing = kp("insight", "apply", "00000000-0000-4000-8000-000000000000")
    assert (missing.code, missing.out) == (1, "")
    assert "no such record" in missing.err
    assert kp("insight", "apply", "nonsense").code == 1


def test_a_pasted_stack_trace_finds_what_is_known(kp: Kp, say: Callable[[str | bytes], None]) -> None:
    nothing = kp("gotcha", "find", "It breaks")
    assert (nothing.code, nothing.out) == (0, "")
    assert "kp gotcha record" in nothing.err
    assert "No gotchas yet" in kp("gotcha", "list").err

    say(TRACE)
    first = kp("gotcha", "record", "-", "--tried", "Restart the laptop", "--outcome", "failed")
    item = str(UUID(first.out.strip()))
    assert "yours alone" in first.err
    say(TRACE.replace("line 12", "line 99").replace("/home/ana", "/srv"))
    again = kp("gotcha", "record", "-", "--tried", "Start the server", "--outcome", "worked",
               "--prevention", "Let systemd start it", "--pattern", "ECONNREFUSED")  # fmt: skip
    assert again.out.strip() == item
    assert "Met twice now." in again.err
    assert "What works: Start the server" in again.err
    say(TRACE)
    kp("gotcha", "record", "-", "--tried", "Restart the laptop", "--outcome", "failed")

    say(TRACE.replace("line 12", "line 3"))
    found = kp("gotcha", "find", "-")
    in_order(
        found.out,
        "connectionrefusederror",
        "What works: Start the server",
        "What failed: Restart the laptop (twice)",
        "To prevent it: Let systemd start it",
        "Also seen as: ECONNREFUSED",
        "How sure: ",
        "the same problem by its signature; the solution worked 1 of 1 times; met 3 times",
        item,
    )
    say(TRACE)
    [one] = kp("gotcha", "find", "-", "--json").json
    assert (one["knowledge_id"], one["exact_match"], one["frequency_encountered"]) == (item, True, 3)
    assert [attempt["outcome"] for attempt in one["failed"]] == ["failed", "failed"]
    listed = kp("gotcha", "list")
    in_order(listed.out, "3", "connectionrefusederror", "Start the server")
    assert [row["knowledge_id"] for row in kp("gotcha", "list", "--json").json] == [item]


def test_what_would_drive_a_terminal_is_not_printed(kp: Kp) -> None:
    kp("gotcha", "record", "It breaks \x1b[2J\u202e", "--solution", "Wait\x07 [red]and see[/red]")
    found = kp("gotcha", "find", "It breaks")
    assert "Wait [red]and see[/red]" in found.out
    assert not set(found.out) & {"\x1b", "\x07", "\u202e"}


def test_a_problem_without_a_solution_says_so(kp: Kp) -> None:
    kp("gotcha", "record", "The gateway drops uploads")
    in_order(
        kp("gotcha", "find", "gateway drops uploads").out, "The gateway drops", "No solution yet.", "How sure"
    )
    assert "not known" in kp("gotcha", "list").out


def test_runs_are_recorded_and_suggested(kp: Kp, say: Callable[[str | bytes], None]) -> None:
    done = kp("command", "record", "pg_ctl reload", "--worked", "--for", "Read the configuration again",
              "--needs", "a running server")  # fmt: skip
    item = str(UUID(done.out.strip()))
    assert "Worked in 1 of 1 run." in done.err
    say("pg_ctl: no server running\n")
    failed = kp("command", "record", "pg_ctl  reload", "--failed", "--output", "-", "--json").json
    assert (failed["knowledge_id"], failed["success_rate"]) == (item, 50.0)
    in_order(
        kp("command", "suggest", "read a changed configuration").out,
        "pg_ctl reload",
        "Read the configuration again",
        "Needs: a running server",
        "How it failed: pg_ctl: no server running",
        "worked 1 of 2 times",
        item,
    )
    assert kp("command", "suggest", "bake bread").out == ""


@pytest.fixture
def alone(sign_up: SignUp, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `kp` in a process of its own, for what has children of its own."""
    person = sign_up("cli")
    CredentialStore(tmp_path / "home").save(person.deployment.url, person.credential)

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        given = {
            "KP_HOME": str(tmp_path / "home"),
            "KP_URL": person.deployment.url,
            "KP_API_KEY": person.deployment.api_key,
            "COLUMNS": "200",
            **environment,
        }
        return subprocess.run(
            [sys.executable, "-c", MAIN, *arguments],
            env={**os.environ, **given},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


def test_a_command_is_run_and_its_end_passed_on(
    alone: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    failed = alone(
        "command",
        "run",
        "--for",
        "Say hello",
        "--",
        "sh",
        "-c",
        "echo hello; echo 'error: tired' >&2; exit 7",
    )
    assert (failed.returncode, failed.stdout) == (7, "hello\n")
    in_order(failed.stderr, "error: tired", "Recorded: worked in 0 of 1 run.")
    # Options after the command's name are the command's; with --json its output makes way.
    worked = alone("command", "run", "--json", "printf", "%s", "--version")
    assert worked.returncode == 0
    assert json.loads(worked.stdout)["command_signature"] == "printf %s --version"
    assert "--version" in worked.stderr
    line = alone("command", "run", "--json", "echo one | grep -c two")
    assert line.returncode == 1
    assert json.loads(line.stdout)["command_signature"] == "echo one | grep -c two"
    missing = alone("command", "run", "--json", "nonesuch-program", "--flag")
    assert missing.returncode == 127
    assert json.loads(missing.stdout)["success_count"] == 0
    killed = alone(
        "command", "run", "--json", "--", sys.executable, "-c", "import os; os.kill(os.getpid(), 15)"
    )
    assert killed.returncode == 128 + signal.SIGTERM
    suggested = alone("command", "suggest", "say hello", KP_EMBEDDER="none")
    assert "How it failed: tired" in suggested.stdout


def test_logs_of_any_encoding_are_taken(kp: Kp, say: Callable[[str | bytes], None]) -> None:
    log = "ERROR: die Röhre ist verstopft".encode("latin-1") + b"\0"
    say(log)
    kp("gotcha", "record", "-", "--solution", "Clean it.")
    say(log)
    assert "Clean it." in kp("gotcha", "find", "-").out
    say(b"caf\xe9 opens at nine")
    refused = kp("remember", "-")
    assert refused.code == 2
    assert "no UTF-8: byte 3" in refused.err
    say("café opens at nine")
    kp("remember", "-")
    say(b"when does the caf\xe9 open")
    assert "opens at nine" in kp("recall", "-").out


def test_a_command_does_not_wait_for_who_has_stopped_reading(sign_up: SignUp, tmp_path: Path) -> None:
    person = sign_up("cli")
    CredentialStore(tmp_path / "home").save(person.deployment.url, person.credential)
    reading, writing = os.pipe()
    noisy = "import sys; [sys.stderr.write('x' * 1000 + chr(10)) for _ in range(1000)]; sys.exit(3)"
    given = {
        "KP_HOME": str(tmp_path / "home"),
        "KP_URL": person.deployment.url,
        "KP_API_KEY": person.deployment.api_key,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "command", "run", "--json", "--", sys.executable, "-c", noisy],
        env={**os.environ, **given},
        stdout=subprocess.PIPE,
        stderr=writing,
    )
    os.close(writing)
    assert os.read(reading, 1)
    os.close(reading)
    told, _ = process.communicate(timeout=60)
    assert json.loads(told)["success_count"] == 0


def test_a_run_that_is_not_recorded_ends_as_the_command_does(
    alone: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    unreachable = alone("command", "run", "--", "sh", "-c", "echo done; exit 3", KP_URL="http://127.0.0.1:9")
    assert (unreachable.returncode, unreachable.stdout) == (3, "done\n")
    in_order(unreachable.stderr, "The run was not recorded.", "127.0.0.1:9")
    secret = alone("command", "run", "true postgresql://a:hunter2secret@h/d")
    assert secret.returncode == 0
    assert "The run was not recorded." in secret.stderr


def test_insights_are_recorded_and_applied(kp: Kp, say: Callable[[str | bytes], None]) -> None:
    say("Each can be undone by itself.\n")
    item = str(UUID(kp("insight", "record", "Small steps win", "-", "--confidence", "80").out.strip()))
    again = kp("insight", "record", "small STEPS win", "They are read.")
    assert again.out.strip() == item
    assert "Come to twice now." in again.err
    assert kp("insight", "apply", item, "--notes", "release 12").out == "applied once, worked once\n"
    assert kp("insight", "apply", item, "--failed").out == "applied twice, worked once\n"
    assert kp("insight", "apply", item, "--json").json["applied_successfully"] == 2


def test_a_decision_shows_how_it_came_about(kp: Kp) -> None:
    first = kp("decision", "record", "Partition key", "By month", "--because", "Queries ask for one",
               "--influence", "its size", "--alternative", "none", "--alternative", "by user",
               "--project", "shop")  # fmt: skip
    assert "Recorded, as stage 1." in first.err
    in_order(
        kp("decision", "history").out, "Partition key (shop)", "Open: By month", "1. ", "initial: By month"
    )
    final = kp("decision", "record", "partition KEY", "By id", "--final", "--breakthrough", "Ids carry time",
               "--project", "shop")  # fmt: skip
    assert final.out == first.out
    assert "Decided, as stage 2." in final.err
    in_order(
        kp("decision", "history", "how are tables partitioned?").out,
        "Partition key (shop)",
        "Decided: By id",
        "Because: Queries ask for one",
        "- none",
        "- by user",
        "initial: By month",
        "moved by: its size",
        "decided: By id",
        "breakthrough: Ids carry time",
        first.out.strip(),
    )
    [one] = kp("decision", "history", "--project", "shop", "--json").json
    assert [stage["event"] for stage in one["stages"]] == ["initial", "decided"]
    assert kp("validate", "item", one["knowledge_id"], "--status", "deprecated").code == 0
    assert "No longer in force." in kp("decision", "history").out
    assert "No decision on that yet" in kp("decision", "history", "--project", "other").err


def test_a_pattern_says_what_is_expected(kp: Kp) -> None:
    first = kp("pattern", "record", "Wants a plan", "--situation", "planning", "--behavior", "Asks for the steps",
               "--expected", "A short plan", "--success-sign", "says go", "--effectiveness", "80")  # fmt: skip
    again = kp(
        "pattern", "record", "wants a PLAN", "--situation", "Planning", "--effectiveness", "60", "--json"
    )
    assert (again.json["knowledge_id"], again.json["effectiveness_score"]) == (first.out.strip(), 70)
    in_order(
        kp("pattern", "match", "the user asks for steps").out,
        "Wants a plan (planning)",
        "Expected of you: A short plan",
        "The user: Asks for the steps",
        "Signs of success: says go",
        "effectiveness 70; seen 2 times",
    )
    assert "No pattern fits" in kp("pattern", "match", "asks for steps", "--type", "review").err


def test_the_page_does_what_it_says(do_page: Callable[[Person, str], str], sign_up: SignUp) -> None:
    said = do_page(sign_up("ana"), "record-what-you-met")
    in_order(
        said,
        "yours alone",
        "Met twice now.",
        "What works: pg_ctl start",
        "What failed: Restart the laptop",
        "To prevent it: Let systemd start the server.",
        "the same problem by its signature; the solution worked 1 of 1 times; met 2 times",
        "What works: pg_ctl start",
        "Recorded: worked in 1 of 1 run.",
        "ended with 2",
        "pg_ctl reload -D data",
        "worked 1 of 2 times",
        "applied once, worked once",
        "Decided: By time-ordered ids",
        "Expected of you: A short plan with the risks",
        "Partition key",
        "Upload in chunks",
    )
