"""A teacher that answers well, badly, late, not at all; every section and every token accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from taking import columns_of
from teacher_server import TOWNS, FakeTeacher, always_good, build, recipe, town_of, write_pages

from afina.dataset.audit.describe import describe_summary
from afina.dataset.build.build import estimate_teacher
from afina.dataset.build.split import split_keys
from afina.endpoint import batches
from afina.errors import RecipeError
from afina.recipe import Source
from afina.run import hash_folder
from afina.text.example import Example, read_examples

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(batches, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def rows_of(folder: Path) -> list[Example]:
    return [*read_examples(folder / "train.jsonl"), *read_examples(folder / "validation.jsonl")]


def dropped_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "dropped.jsonl").read_text(encoding="utf-8").splitlines()]


# ---- answered well


def test_every_section_becomes_questions_that_lead_back_to_it(tmp_path):
    write_pages(tmp_path)
    with FakeTeacher() as server:
        summary, said = build(recipe(tmp_path, server.url, price_per_million=10.0), tmp_path)
    assert summary["asking"]["requests"] == 10 and summary["teacher"]["tokens"] == 1500
    assert summary["teacher"]["questions"] == {"given": 20, "kept": 20}
    made = [example for example in rows_of(tmp_path / "a") if example.made]
    assert len(made) == 40 and {example.teacher for example in made} == {"m"}
    first = next(example for example in made if "Lagos" in example.prompt)
    row = first.as_json()
    assert row["from"]["path"] == "towns.md" and row["from"]["line"] == 5 and row["from"]["heading"] == "Lagos"
    assert row["from"]["teacher"] == "m" and row["made"]["kind"] == "teacher"
    assert Example.from_json(json.loads(json.dumps(row))) == first
    # The texts stay, and the plan came before the first request.
    assert summary["train"]["texts"] + summary["validation"]["texts"] == 10
    assert said[0].startswith("teacher: 10 sections, 0 answered before, 10 to ask of m at http://127.0.0.1:")
    assert "about EUR 0." in said[0] and "budget: none set" in said[0]
    assert "1500 tokens, EUR 0.01 in" in said[1].replace("1.50 k", "1500")
    assert "40 examples of 20 of 20 questions by m: 10 of 10 sections answered" in describe_summary(summary)


def test_all_phrasings_of_a_question_are_held_out_together(tmp_path):
    write_pages(tmp_path)
    with FakeTeacher() as server:
        build(recipe(tmp_path, server.url, validation=0.3), tmp_path)
    sides = [
        {example.group for example in read_examples(tmp_path / "a" / f"{name}.jsonl") if example.made}
        for name in ("train", "validation")
    ]
    assert sides[0] and sides[1] and not sides[0] & sides[1]


def test_a_question_asked_in_two_sections_joins_their_groups():
    def ask(prompt: str, group: str) -> Example:
        return Example(
            messages=({"role": "user", "content": prompt}, {"role": "assistant", "content": "a"}),
            made="teacher",
            group=group,
        )

    rows = [ask("Who?", "1"), ask("By whom?", "1"), ask("by  whom?", "2"), ask("Whose?", "2"), ask("x", "3")]
    columns = columns_of(rows)
    joined = [(int(group, 16), columns.group[row]) for row, (_, group) in columns.made.items()]
    keys = split_keys(np.array(columns.group), joined).tolist()
    assert len(set(keys[:4])) == 1 and keys[4] != keys[0]


def test_the_dataset_is_the_same_whatever_answers_first_and_costs_nothing_again(tmp_path):
    write_pages(tmp_path)
    with FakeTeacher(lambda section, times: "slow") as server:
        build(recipe(tmp_path, server.url, concurrency=8), tmp_path, "a", "one")
        build(recipe(tmp_path, server.url, concurrency=1), tmp_path, "b", "two")
        assert server.asked.total() == 20 and 2 <= server.most_at_once <= 8
        summary, said = build(recipe(tmp_path, server.url), tmp_path, "c", "two")
        assert server.asked.total() == 20
    assert said == ["teacher: 10 sections, 10 answered before, 0 to ask"]
    assert (summary["asking"]["cached"], summary["asking"]["requests"]) == (10, 0)
    assert len({hash_folder(tmp_path / name) for name in "abc"}) == 1
    # The server is not needed any more.
    build(recipe(tmp_path, "http://127.0.0.1:1/v1"), tmp_path, "d", "two")
    assert hash_folder(tmp_path / "d") == hash_folder(tmp_path / "a")


def test_the_same_section_twice_and_one_without_words_are_not_paid_for(tmp_path):
    (tmp_path / "towns.md").write_text("# Faro\n\nFaro has 20 gates.\n", encoding="utf-8")
    (tmp_path / "again.md").write_text("# Lagos\n\nHi.\n", encoding="utf-8")
    made = recipe(tmp_path, "http://127.0.0.1:1/v1", validation=0.0)
    made = made.model_copy(
        update={"sources": [Source(path="towns.md"), Source(path="again.md"), Source(path="towns.md")]}
    )
    made = made.model_copy(update={"dataset": made.dataset.model_copy(update={"on_duplicate": "keep"})})
    found = estimate_teacher(made, tmp_path / "cache")
    assert (found.sections, found.too_short, found.repeated, found.to_ask) == (3, 1, 1, 1)


def test_fences_are_tolerated_and_a_section_may_have_nothing_to_ask(tmp_path):
    write_pages(tmp_path, TOWNS[:3])
    with FakeTeacher(lambda section, times: "nothing_to_ask" if "Faro" in section else "fenced") as server:
        summary, _ = build(recipe(tmp_path, server.url), tmp_path)
    assert summary["teacher"]["without_questions"] == 1 and summary["teacher"]["questions"]["kept"] == 4


def test_settings_that_an_endpoint_does_not_know_are_left_out(tmp_path):
    write_pages(tmp_path, TOWNS[:3])

    class Old(FakeTeacher):
        def answer(self, request, how, section, payload):
            if "response_format" in payload:
                how = "400 response_format is not supported"
            elif "max_tokens" in payload:
                how = "422 use max_completion_tokens instead of max_tokens"
            return super().answer(request, how, section, payload)

    with Old() as server:
        summary, _ = build(recipe(tmp_path, server.url, concurrency=1, max_tokens=77), tmp_path)
        assert summary["asking"]["failed_tries"] == {} and server.asked.total() == 5
        assert server.payloads[-1]["max_completion_tokens"] == 77


def test_a_section_that_is_too_long_for_the_endpoint_changes_nothing_for_the_others(tmp_path):
    write_pages(tmp_path, TOWNS[:3])
    with FakeTeacher(lambda section, times: "400 context length exceeded" if "Faro" in section else "good") as server:
        summary, _ = build(recipe(tmp_path, server.url, concurrency=1), tmp_path)
        assert "response_format" in server.payloads[-1]
    assert summary["asking"]["failed"] == {"rejected": 1}


def test_tokens_are_estimated_where_the_endpoint_reports_none(tmp_path):
    write_pages(tmp_path, TOWNS[:3])
    with FakeTeacher(usage=False) as server:
        summary, said = build(recipe(tmp_path, server.url), tmp_path)
    assert summary["teacher"]["answers_with_estimated_tokens"] == 3 and summary["teacher"]["tokens"] > 900
    assert "the endpoint reports no usage: tokens of 3 answers by characters" in said[1]


# ---- answered badly


BAD = {
    "Faro": ("429 Retry-After=0.05", "rate_limited"),
    "Lagos": ("500 overloaded", "server_error"),
    "Tavira": ("half", "half_answer"),
    "Loule": ("silent", "timeout"),
    "Silves": ("wrong", "wrong_content"),
    "Olhao": ("empty", "empty_answer"),
    "Portimao": ("short_body", "half_answer"),
    "Albufeira": ("drop", "connection_lost"),
    "Aljezur": ("trickle", "timeout"),
}


def test_what_fails_once_is_tried_again(tmp_path):
    write_pages(tmp_path)
    with FakeTeacher(
        lambda section, times: BAD.get(town_of(section), ("good",))[0] if times == 1 else "good"
    ) as server:
        summary, _ = build(recipe(tmp_path, server.url, timeout_seconds=1.0), tmp_path)
        assert set(server.asked.values()) == {1, 2}
    kinds = [kind for _, kind in BAD.values()]
    assert summary["asking"]["failed_tries"] == {kind: kinds.count(kind) for kind in kinds}
    assert summary["asking"]["answered"] == 10 and summary["teacher"]["failed"] == []


def test_what_fails_for_good_is_named_and_counted_by_kind(tmp_path):
    write_pages(tmp_path)
    with FakeTeacher(lambda section, times: BAD.get(town_of(section), ("good",))[0]) as server:
        summary, said = build(recipe(tmp_path, server.url, timeout_seconds=1.0, retries=1), tmp_path)
        assert all(server.asked[section] == (2 if town_of(section) in BAD else 1) for section in server.asked)
    kinds = [kind for _, kind in BAD.values()]
    assert summary["asking"]["failed"] == {kind: kinds.count(kind) for kind in kinds}
    assert summary["asking"]["failed_tries"] == {kind: 2 * kinds.count(kind) for kind in kinds}
    named = {item["heading"]: item["reason"] for item in summary["teacher"]["failed"]}
    assert named == {town: kind for town, (_, kind) in BAD.items()}
    assert "no answer for towns.md:5: server_error (HTTP 500: overloaded" in said[1]
    assert "9 sections without an answer" in describe_summary(summary)
    # Asked again, it goes on from there.
    with FakeTeacher() as server:
        summary, _ = build(recipe(tmp_path, server.url), tmp_path)
        assert server.asked.total() == 9 and summary["teacher"]["failed"] == []


def test_an_answer_cut_at_max_tokens_is_not_paid_for_again(tmp_path):
    write_pages(tmp_path, TOWNS[:3])
    with FakeTeacher(lambda section, times: "cut" if "Faro" in section else "good") as server:
        summary, _ = build(recipe(tmp_path, server.url), tmp_path)
        assert server.asked.total() == 3
    assert summary["asking"]["failed"] == {"cut_off": 1}


def test_retry_after_holds_every_request_back(tmp_path):
    write_pages(tmp_path, TOWNS[:4])
    with FakeTeacher(
        lambda section, times: "429 Retry-After=0.4" if "Faro" in section and times == 1 else "good"
    ) as server:
        build(recipe(tmp_path, server.url, concurrency=1), tmp_path)
        assert server.times[1] - server.times[0] >= 0.4


def test_a_pause_without_end_is_not_waited_for(tmp_path):
    write_pages(tmp_path, TOWNS[:2])
    with FakeTeacher(lambda section, times: "429 Retry-After=86400" if "Lagos" in section else "good") as server:
        summary, _ = build(recipe(tmp_path, server.url), tmp_path)
    assert summary["asking"]["failed"] == {"rate_limited": 1}


@pytest.mark.parametrize(
    ("status", "what", "fix"),
    [
        ("401", "the key in $TEACHER_KEY is not set", "set the environment variable TEACHER_KEY"),
        ("404", "HTTP 404", "check `url`"),
        ("302 Location=http://127.0.0.1:1/", "HTTP 302", "check `url`"),
    ],
)
def test_a_wrong_key_or_address_is_one_error_at_once(tmp_path, status, what, fix):
    write_pages(tmp_path)
    with FakeTeacher(lambda section, times: status) as server:
        with pytest.raises(RecipeError) as raised:
            build(recipe(tmp_path, server.url, api_key_env="TEACHER_KEY"), tmp_path)
        assert server.asked.total() == 1
    (problem,) = raised.value.problems
    assert what in problem.what and fix in problem.fix


def test_nobody_there_is_one_error_at_once(tmp_path, monkeypatch):
    write_pages(tmp_path)
    monkeypatch.setattr(batches, "_pause", lambda _: pytest.fail("it is tried again"))
    with pytest.raises(RecipeError, match="cannot be reached: Connection refused") as raised:
        build(recipe(tmp_path, "http://127.0.0.1:1/v1", retries=9), tmp_path)
    assert len(raised.value.problems) == 1


def test_a_teacher_that_answers_nothing_stops_the_build_early(tmp_path):
    towns = [f"Town{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(60)]
    write_pages(tmp_path, towns)
    with FakeTeacher(lambda section, times: "wrong") as server:
        with pytest.raises(RecipeError, match="answered none of") as raised:
            build(recipe(tmp_path, server.url, retries=0), tmp_path)
        assert server.asked.total() < 30
    assert "wrong_content: not JSON" in str(raised.value)


# ---- checked against the section


def test_unsupported_answers_are_dropped_and_can_be_read_back(tmp_path):
    write_pages(tmp_path, TOWNS[:4])
    with FakeTeacher(lambda section, times: "unsupported" if "Faro" in section else "good") as server:
        summary, _ = build(recipe(tmp_path, server.url), tmp_path)
    assert summary["teacher"]["dropped"] == {"teacher_unsupported": 2} == summary["dropped"]
    row = dropped_of(tmp_path / "a")[0]
    assert row["messages"][1]["content"] == "Something wholly invented elsewhere." and row["where"] == "towns.md:1"
    assert "Faro has 20 gates" in row["section"] and row["quote"] and row["note"].startswith("0 of ")


class Scripted(FakeTeacher):
    """Answers every section with the same rows."""

    rows: list[dict[str, Any]]

    def questions(self, section: str, payload: dict[str, Any], how: str) -> dict[str, Any]:  # type: ignore[override]
        return {"questions": self.rows}


def test_each_reason_to_drop(tmp_path):
    write_pages(tmp_path, ["Faro"])
    good = {"question": "How many gates has Faro?", "answer": "Faro has 20 gates.", "quote": "faro  HAS 20 gates"}
    with Scripted() as server:
        server.rows = [
            good | {"paraphrases": ["", "How many gates has Faro?", "Gates of Faro, how many?", "One more?"]},
            good | {"question": "a?", "answer": "Faro has 21 gates."},
            good | {"question": "b?", "answer": "The gates of Lagos."},
            good | {"question": "c?", "quote": "Faro has many gates"},
            good | {"question": "d?", "quote": ""},
            good | {"question": "e?", "answer": " "},
            good | {"question": "f?", "answer": "Faro has 20 gates. " * 200},
            good | {"question": "g?", "answer": "Yes."},
            good | {"question": "h?"},
        ]
        build(recipe(tmp_path, server.url, questions_per_section=8, paraphrases=3, validation=0), tmp_path)
    made = [example.prompt for example in rows_of(tmp_path / "a") if example.made]
    assert made == ["How many gates has Faro?", "Gates of Faro, how many?"]
    drops = [(row["reason"], row["messages"][0]["content"]) for row in dropped_of(tmp_path / "a")]
    assert drops == [
        ("teacher_empty", ""),
        ("teacher_duplicate", "How many gates has Faro?"),
        ("teacher_not_asked_for", "One more?"),
        ("teacher_unsupported", "a?"),
        ("teacher_unsupported", "b?"),
        ("teacher_quote_missing", "c?"),
        ("teacher_quote_missing", "d?"),
        ("teacher_empty", "e?"),
        ("teacher_too_long", "f?"),
        ("teacher_unsupported", "g?"),
        ("teacher_not_asked_for", "h?"),
    ]


# ---- money


def test_a_budget_of_tokens_is_never_exceeded_and_stops_cleanly(tmp_path):
    write_pages(tmp_path)
    with FakeTeacher(tokens=(300, 100)) as server:
        made = recipe(tmp_path, server.url, budget_tokens=2600, max_tokens=600, concurrency=8)
        summary, said = build(made, tmp_path)
        taught = summary["teacher"]
        assert taught["tokens"] == 400 * taught["answered"] <= 2600
        # A request may take its question (about 360 tokens) and 600: after five answers 2000 + 960 > 2600.
        assert (taught["answered"], len(taught["not_asked"])) == (5, 5)
        assert taught["not_asked_because"] == summary["asking"]["stopped"] == "budget_tokens"
        assert "stopped: `budget_tokens` is used up" in said[1]
        # What was paid for counts in the next run too: nothing more is asked, and the dataset is the same.
        again, _ = build(made, tmp_path, "b")
        assert again["asking"]["requests"] == 0 and hash_folder(tmp_path / "a") == hash_folder(tmp_path / "b")
        # More money, and it goes on.
        more, _ = build(recipe(tmp_path, server.url, budget_tokens=9000, max_tokens=600), tmp_path)
        assert more["teacher"]["answered"] == 10 and server.asked.total() == 10


def test_a_budget_of_money(tmp_path):
    write_pages(tmp_path)
    with FakeTeacher(tokens=(300, 100)) as server:
        settings = {"price_per_million": 100.0, "budget_money": 0.26, "max_tokens": 600}
        summary, _ = build(recipe(tmp_path, server.url, **settings), tmp_path)
    assert summary["teacher"]["not_asked_because"] == "budget_money"
    assert summary["teacher"]["answered"] == 5 and summary["teacher"]["money"] == pytest.approx(0.20)


def test_wrong_answers_count_against_the_budget(tmp_path):
    write_pages(tmp_path)
    with FakeTeacher(lambda section, times: "good" if "Faro" in section else "wrong", tokens=(300, 100)) as server:
        summary, _ = build(recipe(tmp_path, server.url, budget_tokens=2600, max_tokens=600, retries=9), tmp_path)
        assert server.asked.total() * 400 == summary["asking"]["tokens"] <= 2600


def test_the_estimate_asks_nothing(tmp_path):
    write_pages(tmp_path)
    with FakeTeacher() as server:
        made = recipe(tmp_path, server.url, price_per_million=1.0)
        found = estimate_teacher(made, tmp_path / "cache")
        assert server.asked.total() == 0
    assert (found.sections, found.to_ask) == (10, 10) and found.tokens_read > 2000 and found.tokens_written == 10 * 390
    assert found.money == pytest.approx((found.tokens_read + found.tokens_written) / 1e6)
    without = made.model_copy(update={"dataset": made.dataset.model_copy(update={"teacher": None})})
    with pytest.raises(RecipeError, match="has no teacher"):
        estimate_teacher(without, tmp_path / "cache")


# ---- real pages


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data, which is not here")
@pytest.mark.long
def test_the_zig_release_notes(tmp_path):
    with FakeTeacher(always_good) as server:
        made = recipe(SHARED / "zig", server.url, questions_per_section=3, paraphrases=2, concurrency=8)
        made = made.model_copy(update={"sources": [Source(path="release-notes-0.14.0.html")]})
        made = made.model_copy(update={"dataset": made.dataset.model_copy(update={"section_chars": 2048})})
        summary, _ = build(made, tmp_path)
        assert server.asked.total() == summary["asking"]["answered"] > 90
    taught = summary["teacher"]
    # The server answers with sentences of the section, so nearly all stand in it.
    assert taught["questions"]["kept"] > 0.9 * taught["questions"]["given"] > 250
    assert taught["examples"] + sum(taught["dropped"].values()) >= 3 * taught["questions"]["kept"]
