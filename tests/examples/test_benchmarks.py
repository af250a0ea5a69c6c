"""The retrieval benchmark's yardsticks: metrics, intervals, BM25, and how the corpora are read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from benchmarks.plots import Scale, retrieval_plot, speed_plot
from benchmarks.rankings import BM25, Question, best_first, figure, fused, judge, without_question_words
from benchmarks.retrieval import Board, differences, figures, read_commands, read_locomo, write_questions


def outcome(ranked: list[str], *gold: str) -> dict[str, float]:
    return judge(Question("?", gold), ranked).metrics


def test_metrics_are_strict_and_loose() -> None:
    found = outcome(["x", "a", *"wvutsr", "b", "q", "c"], "a", "b", "c")
    assert (found["recall@5"], found["any@5"], found["all@5"]) == (pytest.approx(1 / 3), 1, 0)
    assert (found["recall@10"], found["any@10"], found["all@10"]) == (pytest.approx(2 / 3), 1, 0)
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert found["NDCG@10"] == pytest.approx((1 / math.log2(3) + 1 / math.log2(10)) / ideal), "of all gold"
    assert outcome(["a", "b"], "a", "b") == dict.fromkeys(found, 1.0)
    assert outcome(["x"], "a") == dict.fromkeys(found, 0.0)
    assert outcome([], "a") == dict.fromkeys(found, 0.0)


def test_what_stands_twice_counts_once() -> None:
    assert outcome(["s", "s", "s", "s", "s", "a"], "a")["recall@5"] == 1, "it has the place of the first"
    assert outcome(["a"], "a", "a")["recall@10"] == 1


def test_bm25_is_the_formula() -> None:
    documents = [["cat", "cat", "dog"], ["dog"], ["fish", "cat", "bird", "tree", "sky"]]
    mean = sum(map(len, documents)) / 3
    expected: list[float] = []
    for document in documents:
        total = 0.0
        for word in ("cat", "sky"):
            holding = sum(word in other for other in documents)
            idf = math.log(1 + (3 - holding + 0.5) / (holding + 0.5))
            count = document.count(word)
            total += idf * count * 1.9 / (count + 0.9 * (1 - 0.4 + 0.4 * len(document) / mean))
        expected.append(total)
    assert BM25(documents).scores(["cat", "sky", "cat", "unheard-of"]).tolist() == pytest.approx(expected)


def test_rankings() -> None:
    assert without_question_words("What did Ana do in Lisbon?") == "Ana in Lisbon"
    scores = BM25([["a"], ["b"], ["a", "a"]]).scores(["a"])
    assert best_first(["one", "two", "three"], scores) == ["three", "one", "two"]
    assert fused([["a", "b", "c"], ["c", "b"]])[:2] == ["c", "b"], "c: 1/63 + 1/61, b: 2/62"


def test_intervals_hold_the_mean_and_are_the_same_each_time() -> None:
    values = [0.0] * 30 + [1.0] * 70
    one = figure(values)
    assert one == figure(values)
    assert one.mean == pytest.approx(0.7)
    # The binomial's own: 0.7 ± 1.96 · sqrt(0.7 · 0.3 / 100)
    assert (one.low, one.high) == (pytest.approx(0.61, abs=0.02), pytest.approx(0.79, abs=0.02))
    assert figure([0.5]).low == figure([0.5]).high == 0.5


def test_differences_are_taken_question_by_question(tmp_path: Path) -> None:
    board = Board()
    for name, answers in {"BM25": ["a", "x", "c"], "ours": ["a", "b", "c"]}.items():
        for wanted, answer in zip("abc", answers, strict=True):
            board.outcomes["corpus, small"][name].append(judge(Question(f"{wanted}?", (wanted,)), [answer]))
    assert figures(board)["corpus, small"]["BM25"]["recall@10"].mean == pytest.approx(2 / 3)
    told = differences(board)["corpus, small"]
    assert list(told) == ["BM25"]
    assert told["BM25"]["recall@10"].mean == pytest.approx(1 / 3)
    assert told["BM25"]["recall@10"].low == 0

    write_questions(board, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "corpus-small.jsonl").read_text().splitlines()]
    assert [line["question"] for line in lines] == ["a?", "b?", "c?"]
    assert lines[1]["systems"]["BM25"]["top"] == ["x"]
    assert lines[1]["systems"]["ours"]["recall@10"] == 1


def test_conversations_are_read_with_what_is_wrong_in_them(tmp_path: Path) -> None:
    def turn(number: int, **more: str) -> dict[str, str]:
        return {"speaker": "Ana", "dia_id": f"D1:{number}", "text": f"turn {number}", **more}

    sample = {
        "sample_id": "c1",
        "conversation": {
            "session_2": [turn(9)],
            "session_2_date_time": "1 pm on 9 May, 2023",
            "session_10": [turn(10)],
            "session_10_date_time": "1 pm on 10 May, 2023",
            "session_1": [turn(1), turn(2, blip_caption="a dog")],
            "session_1_date_time": "1 pm on 8 May, 2023",
        },
        "qa": [
            {"question": "both?", "evidence": ["D1:1; D1:2", "D1:1"], "category": 1},
            {"question": "unknown?", "evidence": ["D9:9"], "category": 2},
            {"question": "none?", "evidence": ["D1:1"], "category": 5},
        ],
    }
    path = tmp_path / "locomo.json"
    path.write_text(json.dumps([sample]))
    [conversation] = read_locomo(path)
    assert [one.session for one in conversation.turns] == [
        "c1/session_1", "c1/session_1", "c1/session_2", "c1/session_10",
    ]  # fmt: skip
    assert conversation.turns[1].text == "turn 2 [shares a picture: a dog]"
    assert conversation.questions == [Question("both?", ("c1/D1:1", "c1/D1:2"), "category 1")]


def test_commands_are_read_with_their_queries(tmp_path: Path) -> None:
    (tmp_path / "c").write_text('{"id": 7, "description": "list files", "command": "ls"}\n\n')
    (tmp_path / "q").write_text('{"query": "show what is here", "command_id": 7}\n')
    [command], [question] = read_commands(tmp_path / "c", tmp_path / "q")
    assert (command.id, command.command) == ("7", "ls")
    assert question == Question("show what is here", ("7",))


def test_plots_show_each_figure_where_it_belongs() -> None:
    def metrics(mean: float) -> dict[str, dict[str, float]]:
        return {"recall@10": {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}}

    told = {"figures": {"turns <all>": {"BM25": metrics(0.4), "ours": metrics(0.8)}}}
    plot = retrieval_plot(told)
    assert retrieval_plot(told) == plot, "the same figures, the same file"
    root = ET.fromstring(plot)  # noqa: S314 - of our own making
    texts = [one.text for one in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"turns <all>", "BM25", "0.400", "ours", "0.800"} <= set(texts)
    theirs, ours = root.iter("{http://www.w3.org/2000/svg}circle")
    left, right = Scale([0, 1], logarithmic=False, unit="").place(0), Scale([0, 1], False, "").place(1)
    assert float(ours.attrib["cx"]) == pytest.approx(left + 0.8 * (right - left), abs=0.1)
    assert (theirs.attrib["class"], ours.attrib["class"]) == ("others", "ours")

    one = {"p50_ms": 1.0, "p95_ms": 10.0}
    many = {"p50_ms": 10.0, "p95_ms": 100.0}
    speed = {
        "single": [{"items": 1000, "contestants": {"bare pgvector SQL": one, "search_knowledge": many}}],
        "tenants": {"items": 1000, "contestants": {"search_knowledge": many}},
    }
    root = ET.fromstring(speed_plot(speed))  # noqa: S314 - of our own making
    first, second, third = root.iter("{http://www.w3.org/2000/svg}circle")
    places = [float(circle.attrib["cx"]) for circle in (first, second, third)]
    assert places[0] < places[1] == places[2]
    assert [circle.attrib["class"] for circle in (first, second, third)] == ["others", "ours", "ours"]
    assert places[1] == pytest.approx((left + right) / 2, abs=0.1), (
        "of 1, 10 and 100 the second is the middle"
    )
