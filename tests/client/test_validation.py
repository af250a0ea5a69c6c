"""Validation tests through the client and the command line: who may, what a search must find, what a judge says."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from knowledge_persistence import (
    ConfigurationError,
    InvalidArgumentError,
    ModelError,
    NotFoundError,
    PermissionDeniedError,
    connect,
    make_judge,
)
from knowledge_persistence.judges import ChatModel
from knowledge_persistence.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from conftest import Person, Printed
    from knowledge_persistence import KnowledgeClient

    Enter = Callable[..., KnowledgeClient]
    SignUp = Callable[..., Person]
    Command = Callable[..., Printed]

NOBODY = UUID("00000000-0000-4000-8000-000000000000")
MODEL = "small-model"


def team(enter: Enter, owner: Person, **members: Person) -> UUID:
    client = enter(owner)
    workspace = client.create_workspace("team").workspace_id
    for role, person in members.items():
        client.add_workspace_member(workspace, person.id, role=role)
    return workspace


def fact(client: KnowledgeClient, title: str, **arguments: Any) -> UUID:
    return client.remember(f"About {title}. {uuid4().hex}", title=title, **arguments).knowledge_id


class ChatServer(ThreadingHTTPServer):
    """A server that speaks chat completions, and what was said to it.

    It answers with the first piece of knowledge it is given, and lets an answer pass that holds every word of the
    criteria: rules in the place of a model. `spoils` replaces its judgements.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Chat)
        self.asked: list[dict[str, Any]] = []
        self.spoils: str | None = None
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def reply(self, request: dict[str, Any]) -> str:
        system, user = (message["content"] for message in request["messages"])
        material = json.loads(user)
        if "You judge an answer" not in system:
            return material["knowledge"][0] if material["knowledge"] else "Nothing is known about that."
        if self.spoils is not None:
            return self.spoils
        wanted = f"{material['pass_criteria']} {material['expected_response']}".split()
        missing = [word for word in wanted if word.lower() not in material["answer"].lower()]
        verdict = {
            "passed": not missing,
            "score": 100 - 100 * len(missing) // len(wanted),
            "notes": f"lacks {missing}" if missing else "says it all",
            "improvement": f"say {' '.join(missing)}" if missing else "",
        }
        return f"Here you are:\n```json\n{json.dumps(verdict)}\n```"


class Chat(BaseHTTPRequestHandler):
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append({**body, "path": self.path, "key": self.headers["authorization"]})
        answer = {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": self.server.reply(body)},
                }
            ],
        }
        said = json.dumps(
            answer if self.server.status == 200 else {"error": {"message": "too warm"}}
        ).encode()
        self.send_response(self.server.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def chat() -> Generator[ChatServer]:
    with ChatServer() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def judge(chat: ChatServer) -> ChatModel:
    return ChatModel(model=MODEL, base_url=chat.url, api_key="k", max_retries=0)


# Forbidden acts


def test_a_stranger_sees_runs_and_reports_nothing(enter: Enter, sign_up: SignUp) -> None:
    ana = enter(sign_up("ana"))
    vault = fact(ana, "The vault opens with a paper clip")
    test = ana.record_validation_test("vault", "how does the vault open?", expected_knowledge_ids=[vault])
    [run] = ana.run_validation_tests()
    eve = enter(sign_up("eve"))
    assert eve.list_validation_tests() == []
    assert eve.validation_report() == []
    assert eve.validation_history(test.test_id) == []
    assert eve.run_validation_tests() == []
    for foreign, unknown in (
        (lambda: eve.run_validation_tests([test.test_id]), lambda: eve.run_validation_tests([NOBODY])),
        (
            lambda: eve.record_validation_result(test.test_id, True),
            lambda: eve.record_validation_result(NOBODY, True),
        ),
        (lambda: eve.remove_validation_test(test.test_id), lambda: eve.remove_validation_test(NOBODY)),
        (
            lambda: eve.record_validation_test("x", "y", pass_criteria="z", test_id=test.test_id),
            lambda: eve.record_validation_test("x", "y", pass_criteria="z", test_id=NOBODY),
        ),
        (
            lambda: eve.record_validation_test("x", "y", expected_knowledge_ids=[vault]),
            lambda: eve.record_validation_test("x", "y", expected_knowledge_ids=[NOBODY]),
        ),
    ):
        with pytest.raises(NotFoundError) as first:
            foreign()
        with pytest.raises(NotFoundError) as second:
            unknown()
        assert str(first.value).replace(str(test.test_id), str(NOBODY)) == str(second.value)
    assert [one.id for one in ana.validation_history(test.test_id)] == [run.result_id]


def test_readers_look_and_colleagues_keep_their_hands_off(enter: Enter, sign_up: SignUp) -> None:
    owner, reader, colleague = sign_up("owner"), sign_up("reader"), sign_up("colleague")
    workspace = team(enter, owner, reader=reader, contributor=colleague)
    ana, ben, cleo = (enter(person, workspace=workspace) for person in (owner, reader, colleague))
    item = fact(ana, "The moon is made of basalt")
    ana.validate(item)
    test = ana.record_validation_test("moon", "what is the moon made of?", expected_knowledge_ids=[item])
    ana.run_validation_tests()
    for looking in (ben, cleo):
        assert [one.test_name for one in looking.list_validation_tests()] == ["moon"]
        assert [one.last_pass for one in looking.validation_report()] == [True]
        with pytest.raises(PermissionDeniedError):
            looking.remove_validation_test(test.test_id)
        with pytest.raises(PermissionDeniedError):
            looking.record_validation_test("moon", "x", pass_criteria="y", test_id=test.test_id)
    for act in (
        ben.run_validation_tests,
        lambda: ben.record_validation_result(test.test_id, True),
        lambda: ben.record_validation_test("mine", "x", pass_criteria="y"),
    ):
        with pytest.raises(PermissionDeniedError):
            act()
    assert [one.outcome for one in cleo.run_validation_tests()] == ["passed"]
    hers = cleo.record_validation_test("moon", "x", pass_criteria="y")
    assert (hers.outcome, hers.test_id != test.test_id) == ("created", True), (
        "the name alone takes nothing over"
    )


def test_a_test_that_cannot_fail_is_refused(enter: Enter, sign_up: SignUp) -> None:
    ana = enter(sign_up("ana"))
    item = fact(ana, "one")
    for wrong, message in (
        ({}, "nothing could make this test fail"),
        ({"pass_criteria": " "}, "nothing could make this test fail"),
        ({"pass_criteria": "x", "test_scenario": " "}, "test_scenario is blank"),
        ({"pass_criteria": "x", "test_name": " "}, "test_name"),
        ({"pass_criteria": "x", "within_top": 0}, "within_top"),
        ({"pass_criteria": "x", "difficulty_level": 11}, "difficulty_level"),
        ({"pass_criteria": "x", "knowledge_types_tested": ["rumour"]}, "unknown type"),
        (
            {"expected_knowledge_ids": [item], "forbidden_knowledge_ids": [item]},
            "expected and forbidden at once",
        ),
    ):
        arguments: dict[str, Any] = {"test_name": "t", "test_scenario": "s"} | wrong
        with pytest.raises(InvalidArgumentError, match=message):
            ana.record_validation_test(**arguments)
    assert ana.list_validation_tests() == []


def test_a_model_is_asked_only_where_it_is_named(tmp_path: Path) -> None:
    assert (
        make_judge(Settings(home=tmp_path, openai_api_key="k", openai_base_url="http://127.0.0.1:9")) is None
    )
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        make_judge(Settings(home=tmp_path, chat_model=MODEL))


# Retrieval


def test_what_must_be_found_and_what_must_not(enter: Enter, sign_up: SignUp) -> None:
    ana = enter(sign_up("ana"))
    tea = fact(ana, "The samovar boils at eight")
    coffee = fact(ana, "The percolator gurgles at nine")
    question = "when does the samovar boil?"
    ana.record_validation_test("finds tea", question, expected_knowledge_ids=[tea], within_top=1)
    ana.record_validation_test("no coffee", question, forbidden_knowledge_ids=[coffee], within_top=1)
    ana.record_validation_test(
        "wrong", question, expected_knowledge_ids=[coffee], forbidden_knowledge_ids=[tea], within_top=1
    )
    told: list[str] = []
    finds, no_coffee, wrong = ana.run_validation_tests(progress=lambda run: told.append(run.test_name))
    assert told == ["finds tea", "no coffee", "wrong"]
    assert [run.outcome for run in (finds, no_coffee, wrong)] == ["passed", "passed", "failed"]
    assert (finds.performance_score, wrong.performance_score) == (100, 0)
    assert [(rank.knowledge_id, rank.rank) for rank in finds.expected] == [(tea, 1)]
    assert finds.retrieved_ids == [tea]
    assert finds.response_time_seconds is not None
    assert finds.ai_response is None
    assert wrong.forbidden[0].rank == 1
    assert wrong.improvement_needed == (
        "1 of 1 expected items are not in the top 1; 1 of 1 forbidden items are in the top 1"
    )
    assert [run.test_name for run in ana.run_validation_tests(["no coffee"])] == ["no coffee"]
    with pytest.raises(NotFoundError, match="no validation test 'tea'"):
        ana.run_validation_tests(["tea"])


def test_the_kinds_tested_are_honoured(enter: Enter, sign_up: SignUp) -> None:
    ana = enter(sign_up("ana"))
    item = fact(ana, "Descale the samovar with vinegar", knowledge_type="procedural")
    for name, kinds in (("facts", ["factual"]), ("procedures", ["procedural"]), ("whatever", None)):
        ana.record_validation_test(
            name,
            "how do I descale the samovar?",
            expected_knowledge_ids=[item],
            knowledge_types_tested=kinds,  # type: ignore[arg-type]
        )
    assert [run.outcome for run in ana.run_validation_tests()] == ["failed", "passed", "passed"]


def test_what_got_worse_is_reported_first_and_its_history_kept(enter: Enter, sign_up: SignUp) -> None:
    ana = enter(sign_up("ana"))
    kept, lost = fact(ana, "The samovar boils at eight"), fact(ana, "The percolator gurgles at nine")
    ana.record_validation_test("a steady one", "samovar", expected_knowledge_ids=[kept])
    test = ana.record_validation_test("falling", "percolator", expected_knowledge_ids=[lost])
    ana.run_validation_tests()
    assert [line.got_worse for line in ana.validation_report()] == [False, False]
    other = fact(ana, "The percolator is gone")
    assert (
        ana.record_validation_test("falling", "percolator", forbidden_knowledge_ids=[other]).outcome
        == "updated"
    )
    ana.run_validation_tests()
    falling, steady = ana.validation_report()
    assert (falling.test_name, falling.got_worse, falling.recent) == ("falling", True, [True, False])
    assert (falling.previous_pass, falling.last_pass, falling.run_count, falling.pass_rate) == (
        True,
        False,
        2,
        0.5,
    )
    assert (steady.test_name, steady.got_worse, steady.recent) == ("a steady one", False, [True, True])
    latest, first = ana.validation_history(test.test_id)
    assert (latest.pass_status, first.pass_status) == (False, True)
    assert latest.retrieved is not None
    assert latest.retrieved["forbidden"] == [{"knowledge_id": str(other), "rank": 1}]
    ana.remove_validation_test(test.test_id)
    assert [line.test_name for line in ana.validation_report()] == ["a steady one"]
    assert ana.validation_history(test.test_id) == []


def test_somebody_elses_judgement_is_kept(enter: Enter, sign_up: SignUp) -> None:
    ana = enter(sign_up("ana"))
    test = ana.record_validation_test(
        "poem", "write one", pass_criteria="it rhymes", test_metadata={"by": "me"}
    )
    with ana.session("judging") as session:
        kept = session.record_validation_result(
            test.test_id, False, performance_score=40, ai_response="prose", evaluator_notes="no rhyme",
            improvement_needed="rhyme", response_time_seconds=1.5,
        )  # fmt: skip
        session_id = session.id
    assert (kept.pass_status, kept.performance_score) == (False, 40)
    [result] = ana.validation_history(test.test_id)
    assert (result.ai_response, result.evaluator_notes, result.session_id) == (
        "prose",
        "no rhyme",
        session_id,
    )
    [listed] = ana.list_validation_tests()
    assert (listed.test_metadata, listed.wants_answer, listed.wants_items) == ({"by": "me"}, True, False)


# Answers, judged


def test_an_answer_is_given_from_memory_and_judged(
    enter: Enter, sign_up: SignUp, chat: ChatServer, judge: ChatModel
) -> None:
    ana = enter(sign_up("ana"))
    item = fact(ana, "The samovar boils at eight")
    fact(ana, "Samovars boil in a recipe", knowledge_type="procedural")
    question = "does the samovar boil at eight?"
    ana.record_validation_test(
        "answers",
        question,
        pass_criteria="eight",
        expected_response="samovar",
        knowledge_types_tested=["factual"],
    )
    ana.record_validation_test("both", question, expected_knowledge_ids=[item], pass_criteria="eight oclock")
    ana.record_validation_test("finds", question, expected_knowledge_ids=[item])
    assert [run.outcome for run in ana.run_validation_tests()] == ["skipped", "passed", "passed"]
    assert chat.asked == []

    answers, both, finds = ana.run_validation_tests(judge=judge)
    assert (answers.outcome, answers.performance_score, answers.evaluator_notes) == (
        "passed",
        100,
        "says it all",
    )
    assert answers.ai_response is not None
    assert answers.ai_response.startswith("The samovar boils at eight")
    assert answers.retrieved_ids == [item], "what the answer was made from"
    # Found, but not answered: one result, half the score.
    assert (both.outcome, both.performance_score, both.improvement_needed) == ("failed", 75, "say oclock")
    assert both.expected[0].rank == 1
    assert (finds.outcome, finds.ai_response) == ("passed", None)
    answering, judging = (json.loads(request["messages"][1]["content"]) for request in chat.asked[:2])
    assert answering["situation"] == question
    assert len(answering["knowledge"]) == 1, "of the kinds tested alone"
    assert judging["pass_criteria"] == "eight"
    assert {(request["path"], request["model"], request["key"]) for request in chat.asked} == {
        ("/v1/chat/completions", MODEL, "Bearer k")
    }
    assert len(chat.asked) == 4

    history = ana.validation_history(both.test_id)
    assert [(one.pass_status, one.ai_response is not None) for one in history] == [
        (False, True),
        (True, False),
    ]
    report = {line.test_name: line for line in ana.validation_report()}
    assert report["both"].got_worse is False, "the run before asked for no answer"
    assert (report["both"].previous_pass, report["both"].answer_judged) == (None, True)
    assert report["finds"].previous_pass is True


@pytest.mark.parametrize("door", ["http"])
@pytest.mark.parametrize(
    "judgement",
    [
        "It passed.",
        '{"passed": "yes", "score": 1}',
        '{"passed": true}',
        '{"passed": true, "score": 101}',
        "[1]",
        " ",
    ],
)
def test_a_judgement_that_cannot_be_read_is_no_result(
    enter: Enter, sign_up: SignUp, chat: ChatServer, judge: ChatModel, judgement: str
) -> None:
    ana = enter(sign_up("ana"))
    test = ana.record_validation_test("t", "what?", pass_criteria="anything")
    chat.spoils = judgement
    with pytest.raises(ModelError, match=f"{MODEL} at http://127.0.0.1"):
        ana.run_validation_tests(judge=judge)
    assert ana.validation_history(test.test_id) == []


@pytest.mark.parametrize("door", ["http"])
def test_a_failing_server_is_told(enter: Enter, sign_up: SignUp, chat: ChatServer, judge: ChatModel) -> None:
    ana = enter(sign_up("ana"))
    ana.record_validation_test("t", "what?", pass_criteria="anything")
    chat.status = 503
    with pytest.raises(ModelError, match="answered 503"):
        ana.run_validation_tests(judge=judge)
    unreachable = ChatModel(model=MODEL, base_url="http://127.0.0.1:9/v1", max_retries=0)
    with pytest.raises(ModelError, match="can't be reached"):
        ana.run_validation_tests(judge=unreachable)


# The command line


def test_the_command_tests_and_says_so_by_its_exit_code(
    sign_up: SignUp, command: Command, opened: list[KnowledgeClient], chat: ChatServer
) -> None:
    ana, eve = sign_up("ana"), sign_up("eve")
    opened.append(connect(**ana.arguments("http"), embedder=None))
    item = fact(opened[0], "The samovar boils at eight")
    question = "when does the samovar boil?"
    nothing = command(ana, "validate", "run")
    assert (nothing.code, nothing.out) == (1, "")
    assert "nothing was tested" in nothing.err
    assert command(ana, "validate", "add", "tea", question).code == 2
    foreign = command(eve, "validate", "add", "tea", question, "--expect", str(item))
    assert (foreign.code, "no such knowledge item" in foreign.err) == (1, True)

    added = command(ana, "validate", "add", "tea", question, "--expect", str(item), "--top", "1")
    assert (added.code, added.err) == (0, "Added. `kp validate run` runs it.\n")
    passed = command(ana, "validate", "run")
    assert passed.code == 0
    assert passed.out.startswith("passed  tea  100 of 100")
    assert "1 passed in" in passed.err
    assert command(eve, "validate", "run").code == 1
    assert command(eve, "validate", "report").out == ""
    assert command(eve, "validate", "report", "tea").code == 1

    assert (
        command(ana, "validate", "add", "tea", question, "--forbid", str(item), "--json").json["outcome"]
        == "updated"
    )
    failed = command(ana, "validate", "run")
    assert failed.code == 1
    assert failed.out.splitlines()[0].startswith("failed  tea  0 of 100")
    assert "got worse" in failed.out
    assert f"forbidden  {item}  rank 1" in failed.out
    again = command(ana, "validate", "run", "tea", "--json")
    [run] = json.loads(again.out)
    assert (again.code, run["outcome"], run["got_worse"], run["forbidden"][0]["rank"]) == (
        1,
        "failed",
        False,
        1,
    )

    report = command(ana, "validate", "report")
    assert report.code == 0
    assert "✓✗✗" in report.out
    assert "1 of 3" in report.out
    history = command(ana, "validate", "report", "tea")
    assert [line.split()[2] for line in history.out.splitlines()[1:]] == ["failed", "failed", "passed"]

    test_id = added.out.strip()
    assert command(eve, "validate", "remove", test_id).code == 1
    assert command(ana, "validate", "remove", test_id).code == 0
    assert command(ana, "validate", "list", "--json").json == []

    command(ana, "validate", "add", "answers", question, "--criteria", "eight")
    skipped = command(ana, "validate", "run")
    assert (skipped.code, "KP_CHAT_MODEL" in skipped.err) == (1, True)
    model = {"KP_CHAT_MODEL": MODEL, "OPENAI_BASE_URL": chat.url}
    assert command(ana, "validate", "run", "--no-model", **model).code == 1
    assert chat.asked == []
    answered = command(ana, "validate", "run", **model)
    assert answered.code == 0, answered.err
    command(ana, "validate", "add", "answers", question, "--criteria", "nine")
    wrong = command(ana, "validate", "run", **model)
    assert (wrong.code, "judge: lacks ['nine']" in wrong.out) == (1, True)


def test_the_how_to_does_what_it_says(do_page: Callable[[Person, str], str], sign_up: SignUp) -> None:
    said = do_page(sign_up("ana"), "test-your-memory")
    assert "failed  no stale advice" in said
    assert "one failed" in said
    assert "2 passed" in said
    assert "✗✓" in said
    assert "passed explains the freeze 100" in said


def test_the_command_schedules_and_says_when(sign_up: SignUp, command: Command, enter: Enter) -> None:
    ana, eve = sign_up("ana"), sign_up("eve")
    client = enter(ana)
    client.record_validation_test(
        "tea", "samovar", expected_knowledge_ids=[fact(client, "It boils at eight")]
    )
    for wrong in ([], ["--every", "1d", "--never"], ["--every", "often"], ["--every", "3m"]):
        for what in (["validate", "schedule", "tea"], ["graph", "schedule"]):
            assert command(ana, *what, *wrong).code == 2, wrong
    assert command(ana, "validate", "schedule", "tea", "--every", "400d").code == 1
    assert command(eve, "validate", "schedule", "tea", "--every", "1d").code == 1
    assert (
        "runs it every 12 hours, next " in command(ana, "validate", "schedule", "tea", "--every", "12h").err
    )
    assert "every 12 hours" in command(ana, "validate", "list").out
    assert command(ana, "validate", "schedule", "tea", "--never").err == "The worker runs it no more.\n"
    assert "looks every 14 days, next " in command(ana, "graph", "schedule", "--every", "2w").err
    assert command(ana, "graph", "schedule", "--never", "--json").json["run_every"] is None
