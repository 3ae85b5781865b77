"""The judge against a server on the loopback: both orders, seeds, cost, cache, what goes wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from teacher_server import FakeTeacher

from afina.errors import RecipeError
from afina.evaluate.judge import judge_answers
from afina.evaluate.task_table import describe_judge
from afina.recipe import Judge

ROWS = [{"prompt": f"{n}+1?", "reference": str(n + 1), "base": "não sei", "adapter": str(n + 1)} for n in range(8)]


class FakeJudge(FakeTeacher):
    """Answers as `decide(answer A, answer B)` says."""

    def __init__(self, decide: Any) -> None:
        super().__init__()
        self.decide = decide

    def handle(self, request: Any) -> None:
        payload = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        said = payload["messages"][1]["content"]
        answers = [re.search(rf"<answer_{name}>\n(.*)\n</answer_{name}>", said)[1] for name in "AB"]  # type: ignore[index]
        with self.lock:
            self.payloads.append(payload)
        content = self.decide(*answers)
        body = {
            "choices": [{"message": {"content": content}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 90, "completion_tokens": 10},
        }
        self.send(request, 200, json.dumps(body).encode(), {})


def better(name: str) -> str:
    return json.dumps({"reason": "so", "better": name})


def knows(first: str, second: str) -> str:
    return better("B" if first == "não sei" else "A")


def ask(server: FakeJudge, folder: Path, rows: list[dict] = ROWS, **settings: Any) -> dict[str, Any]:
    judge = Judge(url=server.url, model="judge", retries=1, price_per_million=10.0, **settings)
    return judge_answers(rows, judge, folder, currency="EUR")


def test_each_pair_is_asked_in_both_orders_and_paid_for_once(tmp_path: Path) -> None:
    with FakeJudge(knows) as server:
        found = ask(server, tmp_path, seed=5)
        assert (found["n"], found["better"], found["ties"], found["order"]) == (8, 8, 0, 0)
        assert found["preference"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 8}
        assert (found["requests"], found["tokens"]) == (16, 1600)
        assert found["money"] == pytest.approx(0.016) and found["currency"] == "EUR"
        assert {(each["seed"], each["temperature"]) for each in server.payloads} == {(5, 0.0)}
        again = ask(server, tmp_path, seed=5)
        assert again["requests"] == 0 and again["better"] == 8 and again["asking"]["cached"] == 16
        assert ask(server, tmp_path, seed=6, sample=3)["requests"] == 6, "another seed is another question"
    assert "8 better, 0 worse" in describe_judge(found)[0]


def test_a_judge_that_follows_the_order_decides_nothing(tmp_path: Path) -> None:
    with FakeJudge(lambda first, second: better("A")) as server:
        found = ask(server, tmp_path)
    assert (found["better"], found["worse"], found["ties"], found["order"]) == (0, 0, 8, 8)
    assert found["preference"]["value"] == 0.0


def test_the_same_words_are_a_tie_without_a_request(tmp_path: Path) -> None:
    rows = [*ROWS[:2], {"prompt": "x", "base": "Sim.", "adapter": " Sim. "}]
    with FakeJudge(lambda first, second: better("A" if first == "não sei" else "B")) as server:
        found = ask(server, tmp_path, rows)
        assert len(server.payloads) == 4
    assert (found["worse"], found["ties"], found["same"]) == (2, 1, 1)


def test_answers_that_are_none_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("afina.endpoint.batches.FIRST_WAIT_SECONDS", 0.01)

    def decide(first: str, second: str) -> str:
        return "I like both." if "3" in (first, second) else better("tie")

    with FakeJudge(decide) as server:
        found = ask(server, tmp_path)
    assert (found["n"], found["failed"], found["ties"], found["order"]) == (7, 1, 7, 0)
    assert "1 pair not judged" in "\n".join(describe_judge(found))


def test_a_judge_that_is_not_there_is_an_error_of_the_recipe(tmp_path: Path) -> None:
    judge = Judge(url="http://127.0.0.1:9/v1", model="judge", retries=0)
    with pytest.raises(RecipeError, match=r"evaluate\.judge\.url.*the judge at"):
        judge_answers(ROWS, judge, tmp_path)


def test_what_a_judge_says_never_speaks_of_a_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Account, progress and errors: the advice was the teacher's, which no verb for a judge can follow."""
    monkeypatch.setattr("afina.endpoint.batches.FIRST_WAIT_SECONDS", 0.01)
    said: list[str] = []
    rows = [{"prompt": f"{n}?", "base": "a", "adapter": f"b{n}"} for n in range(12)]
    judge = Judge(url="http://127.0.0.1:1/v1", model="judge", retries=0).model_copy

    def failing(first: str, second: str) -> str:
        return better("tie") if "b3" in (first, second) else "I like both."

    with FakeJudge(failing) as server:
        made = judge(update={"url": server.url})
        found = judge_answers(
            rows, made, tmp_path, say=said.append, progress=lambda done, total, what: said.append(what)
        )
    said.append(json.dumps(found["asking"]))
    with FakeJudge(lambda first, second: "I like both.") as server, pytest.raises(RecipeError) as raised:
        judge_answers(rows, judge(update={"url": server.url, "seed": 1}), tmp_path, say=said.append)
    said.append(str(raised.value))
    assert found["failed"] == 11 and "and for 12 more questions" in "\n".join(said)
    assert "`afina run` with another `evaluate.judge.retries`" in "\n".join(said)
    for text in said:
        assert not re.search("section|teacher|data build|dataset", text), text
