"""What a teacher leaves on the disk: answers before all else, a kill survived, the key never; the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from teacher_server import TOWNS, FakeTeacher, build, recipe, town_of, write_pages

from afina.dataset.build.build import dataset_inputs
from afina.endpoint import batches
from afina.endpoint.cache import AnswerCache
from afina.endpoint.client import Reply
from afina.errors import RecipeError
from afina.recipe import check_recipe
from afina.run import hash_folder

ROOT = Path(__file__).resolve().parent.parent
KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(batches, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


# ---- the key


def test_the_key_is_sent_and_written_nowhere(tmp_path, monkeypatch):
    write_pages(tmp_path)
    monkeypatch.setenv("TEACHER_KEY", KEY + "\n")
    how = {"Faro": "500", "Lagos": "echo", "Tavira": "400"}
    with FakeTeacher(lambda section, times: how.get(town_of(section), "good")) as server:
        summary, said = build(recipe(tmp_path, server.url, api_key_env="TEACHER_KEY", retries=1), tmp_path)
        assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert KEY not in json.dumps([summary, said])
    assert "[key]" in json.dumps(summary) and "[key]" in (tmp_path / "cache/answers.jsonl").read_text()
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file
    with FakeTeacher(lambda section, times: "401") as server, pytest.raises(RecipeError) as raised:
        build(recipe(tmp_path, server.url, api_key_env="TEACHER_KEY", max_tokens=9), tmp_path)
    assert KEY not in str(raised.value) and "$TEACHER_KEY is refused" in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"api_key_env": KEY}, "name of an environment variable"),
        ({"url": f"https://user:{KEY}@example.org/v1"}, "no password"),
        ({"url": f"https://example.org/v1?key={KEY}"}, "no password"),
        ({"url": "localhost:8000/v1"}, "must be an address"),
        ({"url": "http://127.0.0.1:99999/v1"}, "must be an address"),
        ({"budget_money": 1.0}, "needs `price_per_million`"),
    ],
)
def test_a_recipe_that_would_hold_a_key_is_refused_without_repeating_it(tmp_path, settings, what):
    raw = json.loads(recipe(write_pages(tmp_path), "http://127.0.0.1:1/v1").model_dump_json())
    raw["dataset"]["teacher"] |= settings
    with pytest.raises(RecipeError) as raised:
        check_recipe(raw)
    assert what in str(raised.value) and KEY not in str(raised.value)


def test_a_key_with_a_line_break_inside_is_refused(tmp_path, monkeypatch):
    write_pages(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one\nsk-two")
    with pytest.raises(RecipeError, match="line break") as raised:
        build(recipe(tmp_path, "http://127.0.0.1:1/v1"), tmp_path)
    assert "sk-one" not in str(raised.value)


# ---- the cache


@given(st.lists(st.text(max_size=30), min_size=1, max_size=4), st.data())
def test_a_cache_cut_anywhere_keeps_every_whole_answer(tmp_path_factory, contents, data):
    folder = tmp_path_factory.mktemp("cache")
    cache = AnswerCache(folder)
    for number, content in enumerate(contents):
        cache.put(f"k{number}", Reply(content, 1, 2), "a.md:1", "m")
    whole = cache.file.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    cache.file.write_bytes(whole[:cut])
    opened = AnswerCache(folder)
    complete = whole[:cut].count(b"\n")
    for number, content in enumerate(contents):
        found = [reply.content for reply in opened.replies(f"k{number}")]
        # A line that lacks nothing but its end is whole too.
        assert found == [content] if number < complete else found in ([], [content])
    assert opened.damaged <= 1
    opened.put("new", Reply("ü", 5, 6), "a.md:1", "m")
    again = AnswerCache(folder)
    assert [reply.content for reply in again.replies("new")] == ["ü"] and again.tokens("new") == 11
    assert again.damaged == opened.damaged


def test_damaged_lines_are_told_and_asked_again(tmp_path):
    write_pages(tmp_path, TOWNS[:4])
    with FakeTeacher() as server:
        made = recipe(tmp_path, server.url)
        build(made, tmp_path, "a")
        file = tmp_path / "cache/answers.jsonl"
        lines = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(b"\xff\n[1]\n" + b"".join(lines[1:])[:-20])
        summary, said = build(made, tmp_path, "b")
        assert summary["asking"]["damaged_lines"] == 3
        assert said[0].startswith("teacher: 3 damaged lines in ") and server.asked.total() == 6
    assert hash_folder(tmp_path / "a") == hash_folder(tmp_path / "b")


def test_the_stage_depends_on_the_teacher(tmp_path):
    write_pages(tmp_path)
    one = dataset_inputs(recipe(tmp_path, "http://127.0.0.1:1/v1"))
    assert one["teacher_prompts"] and one["dataset"]["teacher"]["model"] == "m"
    assert one != dataset_inputs(recipe(tmp_path, "http://127.0.0.1:1/v1", support=0.7))


# ---- the command


def write_recipe(folder: Path, url: str, more: str = "") -> Path:
    file = folder / "towns.yaml"
    file.write_text(
        f"""name: towns
sources: [{{path: towns.md}}]
base: {folder}
dataset:
  section_chars: 120
  teacher: {{url: "{url}", model: m, questions_per_section: 2, paraphrases: 1, concurrency: 3, retries: 1{more}}}
""",
        encoding="utf-8",
    )
    return file


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "afina.cli", *map(str, words)]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def afina(folder: Path, *words: str | Path, check: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(*words), cwd=folder, capture_output=True, text=True, env=environment(**more), check=False
    )
    assert done.returncode == check, done.stderr
    return done


@pytest.mark.long
def test_killed_in_the_middle_nothing_is_paid_for_twice(tmp_path):
    towns = [f"Town{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(30)]
    write_pages(tmp_path, towns)
    with FakeTeacher(lambda section, times: "slow") as server:
        file = write_recipe(tmp_path, server.url)
        for enough in (7, 15):
            process = subprocess.Popen(
                command("data", "build", file),
                cwd=tmp_path,
                env=environment(),
                stderr=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            while server.answered.total() < enough and process.poll() is None:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            time.sleep(0.3)
        done = afina(tmp_path, "data", "build", file, "--json")
        asked_twice = [count for count in server.answered.values() if count > 1]
        assert len(server.answered) == 30 and sum(asked_twice) - len(asked_twice) <= 2 * 3
        total = server.asked.total()
        summary = json.loads(done.stdout)
        assert summary["asking"]["cached"] >= 15 - 2 * 3 and summary["teacher"]["answered"] == 30
        # Redone from nothing but the cache: free, and the same bytes.
        before = hash_folder(tmp_path / "runs/towns/dataset")
        done = afina(tmp_path, "data", "build", file, "seed=0", "dataset.teacher.concurrency=1")
        assert "redone, because of dataset.teacher.concurrency: 3 -> 1" in done.stderr
        assert server.asked.total() == total and hash_folder(tmp_path / "runs/towns/dataset") == before


@pytest.mark.long
def test_the_command_shows_the_plan_and_asks_again_for_what_failed(tmp_path):
    write_pages(tmp_path, TOWNS[:5])
    with FakeTeacher(lambda section, times: "500" if "Lagos" in section and times <= 2 else "good") as server:
        file = write_recipe(tmp_path, server.url, ", price_per_million: 2, api_key_env: TEACHER_KEY")
        shown = afina(tmp_path, "data", "build", file, "--estimate")
        assert shown.stdout.startswith("teacher: 5 sections, 0 answered before, 5 to ask of m at ")
        assert server.asked.total() == 0 and not (tmp_path / "runs").exists()
        first = afina(tmp_path, "data", "build", file, TEACHER_KEY=KEY)
        assert "teacher: 5 sections" in first.stderr and "US$" in first.stderr and "\nteacher: 0." in first.stderr
        assert "no answer for towns.md:5: server_error" in first.stderr
        changed = afina(tmp_path, "data", "build", file, "seed=1", "--estimate", TEACHER_KEY=KEY)
        assert "4 answered before, 1 to ask" in changed.stdout
        second = afina(tmp_path, "data", "build", file, TEACHER_KEY=KEY)
        assert "the teacher left 1 sections unanswered; asked again" in second.stderr
        assert "5 of 5 sections answered" in second.stdout
        third = afina(tmp_path, "data", "build", file, TEACHER_KEY=KEY)
        assert "dataset: done before, unchanged, kept" in third.stderr and server.asked.total() == 7
    for done in (first, second, third):
        assert KEY not in done.stdout + done.stderr
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
