"""The studio's playground: the training rows behind an answer, by the verb `afina why` in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient
from test_studio_data import asking, problem
from waiting import until

from afina.errors import AfinaError
from afina.studio import jobs
from afina.studio.play_routes import LONGEST_WORD
from afina.studio.settings import StudioSettings
from afina.studio.why_jobs import Explained, WhyJobs

ROW = {"score": 0.8, "path": "rows.jsonl", "line": 7, "source": 0, "kind": "messages", "repeat": 1, "replay": False}
TOLD = {
    "run": "runs/a",
    "effects": {},
    "method": "EK-FAC",
    "asked": {"question": "Onde?", "answer": "Faro", "own": False, "stopped": True, "before": 3.5, "after": 0.2},
    "for": [ROW | {"text": "Onde? → Faro"}],
    "against": [ROW | {"score": -0.3, "line": 9, "text": "<script>alert(1)</script>"}],
    "rows": {"indexed": 12, "left_out": 0},
}
ASKED = {"run": "a", "question": "Onde?", "answer": "Faro"}


class Verb:
    """Stands for `afina why`: notes how it is called, and answers when it may."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.may_answer = True
        self.error: AfinaError | None = None
        self.working = self.most_at_once = 0

    async def __call__(self, verb: str, *words: str, behind: Any = (), said: Any = None, **_: Any) -> dict[str, Any]:
        self.calls.append((verb, *words, *behind))
        self.working += 1
        self.most_at_once = max(self.most_at_once, self.working)
        try:
            said("rows in the index 5 of 12")
            while not self.may_answer:
                await asyncio.sleep(0.01)
            if self.error:
                raise self.error
            return TOLD
        finally:
            self.working -= 1


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Verb:
    made = Verb()
    monkeypatch.setattr("afina.studio.why_jobs.ask", made)
    return made


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    (tmp_path / "runs/a/adapter").mkdir(parents=True)
    (tmp_path / "runs/a/adapter/adapter_model.safetensors").write_bytes(b"weights")
    return tmp_path / "runs"


@pytest.fixture
def studio(runs: Path) -> Iterator[TestClient]:
    with asking(StudioSettings(runs, (runs.parent / "root",))) as client:
        yield client


def explained(client: TestClient, **wanted: Any) -> dict[str, Any]:
    """An explanation when it is done or has failed."""
    answer = client.post("/api/play/why", json=ASKED | wanted)
    assert answer.status_code == 200, answer.text
    first: dict[str, Any] = answer.json()
    if first["state"] not in ("waiting", "running"):
        return first

    def over() -> dict[str, Any]:
        told: dict[str, Any] = client.get(f"/api/play/why/{first['job']}").json()
        return {} if told["state"] in ("waiting", "running") else told

    return until(over, every=0.02)


def test_rows_come_with_file_line_sign_and_method(studio: TestClient, verb: Verb, runs: Path) -> None:
    told = explained(studio, answer=" Faro\n")  # as models write it
    assert told["state"] == "done" and told["why"]["method"] == "EK-FAC"
    (one,), (other,) = told["why"]["for"], told["why"]["against"]
    assert (one["path"], one["line"], one["score"]) == ("rows.jsonl", 7, 0.8) and other["score"] < 0
    assert "effects" not in told["why"], "what each source did is no part of one answer"
    assert verb.calls == [("why", "--answer=Faro", "--top=5", str(runs / "a"), "Onde?")]


def test_nothing_is_computed_twice_until_the_run_is_another(studio: TestClient, verb: Verb, runs: Path) -> None:
    verb.may_answer = False
    first = studio.post("/api/play/why", json=ASKED).json()
    assert studio.post("/api/play/why", json=ASKED).json()["job"] == first["job"], "while it is being computed"
    verb.may_answer = True
    assert explained(studio)["job"] == first["job"] == explained(studio)["job"] and len(verb.calls) == 1
    assert explained(studio, answer="Lagos")["job"] != first["job"] and len(verb.calls) == 2
    os.utime(runs / "a/adapter/adapter_model.safetensors", ns=(1, 1))
    assert explained(studio)["job"] != first["job"] and len(verb.calls) == 3


def test_one_is_explained_after_the_other_and_the_page_waits_for_neither(studio: TestClient, verb: Verb) -> None:
    """Two at once would hold two models, and the run's lock would refuse the second."""
    verb.may_answer = False
    one, two = (studio.post("/api/play/why", json=ASKED | {"answer": text}).json() for text in ("Faro", "Lagos"))
    states = [studio.get(f"/api/play/why/{each['job']}").json() for each in (one, two)]
    assert [each["state"] for each in states] == ["running", "waiting"]
    assert states[0]["said"] == "rows in the index 5 of 12"
    assert studio.get("/playground").status_code == 200
    assert studio.post(f"/api/play/why/{one['job']}/end", json={}).status_code == 200
    assert studio.get(f"/api/play/why/{one['job']}").status_code == 404
    verb.may_answer = True
    assert explained(studio, answer="Lagos")["job"] == two["job"] and verb.most_at_once == 1


def test_an_error_says_what_to_do_and_is_no_answer(studio: TestClient, verb: Verb) -> None:
    verb.error = AfinaError("another process works in this run", "wait for it, or stop it", "runs/a")
    told = explained(studio)
    assert told["state"] == "failed" and told["problems"][0]["fix"] == "wait for it, or stop it"
    verb.error = None
    assert explained(studio)["state"] == "done" and len(verb.calls) == 2


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        ({"run": ""}, 422),
        ({"run": "nothing"}, 404),
        ({"run": "../root"}, 404),
        ({"base": "/etc"}, 403),
        ({"question": " "}, 400),
        ({"answer": ""}, 400),
        ({"answer": "a\0b"}, 400),
        ({"answer": "é" * (LONGEST_WORD // 2 + 1)}, 400),
        ({"turns": []}, 422),
    ],
)
def test_what_cannot_be_explained_is_refused(
    studio: TestClient, verb: Verb, wanted: dict[str, Any], status: int
) -> None:
    answer = studio.post("/api/play/why", json=ASKED | wanted)
    assert answer.status_code == status and problem(answer)["what"]
    assert not verb.calls
    if status == 400:
        assert problem(answer)["fix"]


def test_a_question_that_looks_like_an_option_is_a_question() -> None:
    """What a person wrote stands behind `--`, whatever it begins with."""
    given = Explained(Path("runs/a"), "base", "--misses", "--json")
    assert given.options == ["--answer=--json", "--top=5"] and given.arguments == ["runs/a", "--misses", "base=base"]
    with pytest.raises(AfinaError, match="no such folder") as caught:
        asyncio.run(jobs.ask("watch", behind=["--none"]))
    assert caught.value.problems[0].where == "--none"


def test_only_so_many_are_kept(verb: Verb, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("afina.studio.why_jobs.KEPT", 2)

    async def use() -> None:
        kept, verb.may_answer = WhyJobs(), False
        names = [await kept.start(Explained(tmp_path, None, "Onde?", text)) for text in ("a", "b", "c")]
        with pytest.raises(AfinaError, match="not kept any more"):
            kept.job(names[0])
        assert kept.job(names[2]).as_json(names[2])["state"] in ("waiting", "running")
        await kept.close()

    asyncio.run(use())


@pytest.mark.long
def test_of_a_real_run_it_is_what_the_verb_says(tmp_path: Path) -> None:
    """And a second question of the same is answered at once."""
    from called import call_afina
    from exported import make_run
    from test_why import LEARNED, with_rows

    run = with_rows(make_run(tmp_path / "runs/corrida", learned=LEARNED, steps=60, asked=1))
    question, answer = LEARNED[3]
    with asking(StudioSettings(tmp_path / "runs", (tmp_path,))) as client:
        told = explained(client, run="corrida", question=question, answer=answer)
        assert told["state"] == "done", told
        again = client.post("/api/play/why", json={"run": "corrida", "question": question, "answer": answer}).json()
        assert again == told, "nothing was computed again"
    said = json.loads(call_afina("why", run, question, "--answer", answer, "--top", 5, "--json").stdout)
    why = told["why"]
    assert [(each["path"], each["line"]) for each in why["for"]] == [
        (each["path"], each["line"]) for each in said["for"]
    ]
    assert why["for"][0]["line"] == 4 and why["method"] == said["method"] == "EK-FAC"
    assert why["asked"]["after"] < why["asked"]["before"] and why["rows"]["indexed"] == len(LEARNED)
