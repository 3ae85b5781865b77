"""The studio's playground, asked over HTTP: two answers with one seed, as the engine writes them by themselves."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from exported import SHAPE, make_run
from fastapi.testclient import TestClient
from test_studio_data import asking, problem
from tiny import make_base

from afina.studio.play_process import PlayProcess, PlayTarget
from afina.studio.settings import StudioSettings

QUESTION = "Onde nasceu Ana Faro?"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that learned a little, and its base beside the runs."""
    folder = tmp_path_factory.mktemp("playground")
    (folder / "runs").mkdir()
    return folder


@pytest.fixture(scope="module")
def studio(place: Path) -> Iterator[TestClient]:
    with asking(StudioSettings(place / "runs", (place / "root",))) as client:
        yield client


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    # Untied and drawn wide: it says something else to each prompt, where a tied one repeats the last token.
    base = make_base(place / "made/base", tie_word_embeddings=False, initializer_range=0.4, **SHAPE)
    made = make_run(place / "made/corrida", base, new=8)
    (place / "root").mkdir()
    shutil.copytree(made.parent / "base", place / "root/base")
    shutil.copytree(made, place / "runs/corrida")
    return place / "runs/corrida"


def events(client: TestClient, **asked: Any) -> list[tuple[str, dict[str, Any]]]:
    """What an answer tells, in order."""
    answer = client.post("/api/play/answer", json={"question": QUESTION, "max_new_tokens": 8} | asked)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    parts = [part.split("\n") for part in answer.text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in parts]


def joined(told: list[tuple[str, dict[str, Any]]], side: str) -> str:
    return "".join(values["text"] for name, values in told if name == "piece" and values["side"] == side)


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        ({}, 400),
        ({"run": "nothing"}, 404),
        ({"run": "../root"}, 404),
        ({"base": "/etc"}, 403),
        ({"base": "./nothing"}, 422),
        ({"base": "package:none", "temperature": 3}, 422),
        ({"base": "package:none", "question": ""}, 422),
        ({"base": "package:none", "max_new_tokens": 0}, 422),
    ],
)
def test_what_cannot_be_asked_is_refused(studio: TestClient, wanted: dict[str, Any], status: int):
    answer = studio.post("/api/play/answer", json={"question": QUESTION} | wanted)
    assert answer.status_code == status and problem(answer)["what"]


@pytest.mark.long
def test_both_sides_stream_what_the_run_stored(studio: TestClient, run: Path):
    stored = json.loads((run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()[0])
    told = events(studio, run="corrida", question=stored["prompt"])
    names = [name for name, _ in told if name != "say"]
    assert names[0] == "opened" and names[-1] == "done" and set(names[1:-1]) == {"piece"}
    about, done = dict(told)["opened"], told[-1][1]
    assert [each["side"] for each in about["sides"]] == ["base", "adapter"] and about["memory_bytes"] > 1e6
    for side in ("base", "adapter"):
        assert joined(told, side) == done["texts"][side]
        assert done["texts"][side].strip() == stored[side]
        assert "".join(text for text, _ in done["pieces"][side]) == done["texts"][side]
    assert done["texts"]["base"] != done["texts"]["adapter"]
    assert studio.get("/api/play").json()["open"]["sides"] == about["sides"]


@pytest.mark.long
def test_a_conversation_goes_on_from_each_sides_own_answers(studio: TestClient, run: Path):
    first = {"question": QUESTION, "base": "Lagos", "adapter": "Faro"}
    other = first | {"base": "Faro"}
    one, two = (dict(events(studio, run="corrida", turns=[turn]))["done"]["texts"] for turn in (first, other))
    assert one["adapter"] == two["adapter"] and one["base"] != two["base"]
    long = [{"question": QUESTION * 30, "base": "x", "adapter": "x"}]
    told = events(studio, run="corrida", turns=long)
    assert told[-1][0] == "error" and "the model sees" in told[-1][1]["error"]["what"]
    assert dict(events(studio, run="corrida"))["done"], "and it goes on"


@pytest.mark.long
def test_the_same_seed_draws_the_same_on_both_sides_and_another_one_otherwise(studio: TestClient, run: Path):
    drawn = [dict(events(studio, run="corrida", temperature=1.5, seed=seed))["done"]["texts"] for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]
    alone = dict(events(studio, base=str(run.parents[1] / "root/base"), temperature=1.5, seed=3))
    assert alone["done"]["texts"] == {"base": drawn[0]["base"]}
    assert [each["side"] for each in alone["opened"]["sides"]] == ["base"]


@pytest.mark.long
def test_a_base_that_is_gone_is_said_and_another_place_may_be_named(studio: TestClient, run: Path):
    moved = run.parent / "moved"
    shutil.copytree(run, moved)
    text = (moved / "recipe.yaml").read_text(encoding="utf-8")
    there = str(run.parents[1] / "made/base")
    assert there in text
    (moved / "recipe.yaml").write_text(text.replace(there, "/gone/base"), encoding="utf-8")
    told = events(studio, run="moved")
    assert told[-1][0] == "error" and "no such folder or file" in told[-1][1]["error"]["what"]
    assert "base=PATH" in told[-1][1]["error"]["fix"]
    assert studio.get("/api/play").json() == {"open": None, "busy": False}
    assert dict(events(studio, run="moved", base="base"))["done"]["texts"]["adapter"]


@pytest.mark.long
def test_models_close_when_nobody_asks_and_an_answer_can_be_left(run: Path):
    async def use() -> None:
        playground = PlayProcess(idle_seconds=0.2)
        target = PlayTarget(str(run), None)
        asked = {"question": QUESTION, "turns": [], "temperature": 0.0, "max_new_tokens": 40, "seed": 0}
        told = playground.answer(target, asked)
        assert [event["event"] async for event in told][-1] == "done"
        assert playground.about is not None
        while playground.about is not None:
            await asyncio.sleep(0.05)
        left = playground.answer(target, asked)
        async for event in left:
            if event["event"] == "piece":
                break
        await left.aclose()
        while playground.busy:
            await asyncio.sleep(0.05)
        await playground.close()

    asyncio.run(use())


TOLD = {"open": ("say", "opened"), "answer": ("done",)}


class Scripted(PlayProcess):
    """Its child tells what it is asked for, without models; what was ordered is noted."""

    def __init__(self, idle_seconds: float = 600.0) -> None:
        super().__init__(idle_seconds)
        self.orders: list[str] = []
        self.told: deque[str] = deque()

    async def _order(self, order: Mapping[str, Any]) -> None:
        await asyncio.sleep(0)
        self.orders.append(order["do"])
        self.told.extend(TOLD.get(order["do"], ()))

    async def _event(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"event": self.told.popleft()}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that waits to be ended."""
    monkeypatch.setattr(
        "afina.studio.play_process.WORKER", (sys.executable, "-S", "-c", "import sys; sys.stdin.read()")
    )


ASKED = {"question": QUESTION, "turns": [], "temperature": 0.0, "max_new_tokens": 40, "seed": 0}
HERE, THERE = PlayTarget("here", None), PlayTarget("there", None)


def test_stop_while_the_models_are_opened_stops_the_answer(scripted: None):
    """It was dropped without a word, and the answer written to its end."""

    async def use() -> None:
        playground = Scripted()
        async for event in playground.answer(HERE, ASKED):
            if event["event"] == "say":
                await playground.stop()
        assert playground.orders == ["open", "answer", "stop"]
        async for _ in playground.answer(HERE, ASKED):
            pass
        assert playground.orders[3:] == ["answer"], "the next one is wanted"
        await playground.close()

    asyncio.run(use())


def test_a_question_that_comes_as_the_time_is_up_is_answered(scripted: None):
    """The models were closed under it, and memory was said to have run out."""

    async def use() -> None:
        playground = Scripted(idle_seconds=0.0)
        await playground.open(HERE)
        for _ in range(2):
            await asyncio.sleep(0)  # the time is up, and what closes the models is about to begin
        events = [event["event"] async for event in playground.answer(HERE, ASKED)]
        assert events == ["opened", "done"] and playground.about is not None
        await playground.close()

    asyncio.run(use())


def test_what_is_opened_while_others_are_closed_keeps_what_it_says(scripted: None):
    """The last remark of a child is why it ended."""

    async def use() -> None:
        playground = Scripted()
        await playground.open(HERE)
        closing = asyncio.create_task(playground.close())
        await asyncio.sleep(0)
        await playground.open(THERE)
        await closing
        assert playground.target == THERE
        assert playground._remarks is not None and not playground._remarks.closed
        await playground.close()

    asyncio.run(use())
