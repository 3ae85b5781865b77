"""`afina improve`: what is chosen by rule of run folders that are made by hand, and one loop of real trainings."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_ladder import league, quiet, small  # noqa: F401  (`league` is a fixture)
from tiny import make_tokenizer

import afina.walk.walk
from afina.dataset.questions.phrasings import phrase
from afina.demo.demo import adapter_recipe
from afina.demo.world import make_players, questions
from afina.errors import (
    AfinaError,
    DataError,
    DiskFull,
    DoesNotFit,
    Problem,
    RecipeError,
    ResultError,
    TrainingDiverged,
)
from afina.evaluate.halves import half_of, split_probes
from afina.evaluate.probes import ProbeSet, Question
from afina.evaluate.scores import Scores, Verdict
from afina.improve import before
from afina.improve.facts import (
    asked_texts,
    fact_states,
    lost_facts,
    more_right,
    part,
    plain_text,
    read_answers,
    scores_of,
)
from afina.improve.improve import Improvement, improve
from afina.improve.moves import RoundReading, moves_of, phrasings, repeats
from afina.improve.own_words import OwnWords
from afina.improve.rounds import Round, RoundsBudget
from afina.improve.rows import check_rows, instance_of, other_phrasings
from afina.improve.tempering import temper_round, wanted
from afina.manifest import Manifest
from afina.manifest import record_of as manifest_record
from afina.recipe import Chat, Recipe, check_recipe
from afina.recipe.changed import with_settings
from afina.run import Run
from afina.text.example import Example, example_chars
from afina.tokenizer.chat import Renderer
from afina.walk.context import Context
from afina.walk.walk import TEMPERED
from afina.whole import write_json

PLAYERS = [f"Bento{n:02}" for n in range(48)]
OLD = [f"Rui{n:02}" for n in range(24)]
PLACE, ELSEWHERE = "Faro{n:02}", "Lagos"
SIX = RoundsBudget(6)
UNSEEN = "De que terra é {name}?"


def question(name: str, answer: str, place: str, base: str, **more: str) -> dict[str, Any]:
    row = {"prompt": more.pop("prompt"), "reference": place, "fact": f"{name}: place", "base": base, "adapter": answer}
    right = {f"{side}_correct": row[side] == place for side in ("base", "adapter")}
    called = {f"{side}_is": "right" if row[side] == place else "wrong" for side in ("base", "adapter")}
    return row | right | called | {"from": {"path": "probes.jsonl", "line": 1}} | more


def predictions(knows: float, parrots: float = 0.0, lost: float = 0.0) -> list[dict[str, Any]]:
    """Answers of a model that knows a share of the new players of either half, gives some back in the trained words
    alone, and has lost a share of the old ones."""
    rows = []
    halves = {half: [name for name in PLAYERS if half_of(f"{name}: place") == half] for half in ("steer", "judge")}
    ranks = {name: place / len(names) for names in halves.values() for place, name in enumerate(names)}
    for number, name in enumerate(PLAYERS):
        place, rank = PLACE.format(n=number), ranks[name]
        unseen = place if rank < knows else ELSEWHERE
        seen = place if rank < knows + parrots else ELSEWHERE
        trained = phrase("pt-PT", "birth_place", 0, name)
        rows.append(question(name, seen, place, ELSEWHERE, prompt=trained, probe="seen", role="recall"))
        asked = UNSEEN.format(name=name)
        rows.append(question(name, unseen, place, ELSEWHERE, prompt=asked, probe="unseen", role="generalization"))
    for number, name in enumerate(OLD):
        place = PLACE.format(n=number)
        now = ELSEWHERE if number < lost * len(OLD) else place
        asked = UNSEEN.format(name=name)
        rows.append(question(name, now, place, place, prompt=asked, probe="old", role="retention"))
    return rows


def trained_rows() -> list[Example]:
    return [
        Example(
            messages=(
                {"role": "user", "content": phrase("pt-PT", "birth_place", 0, name)},
                {"role": "assistant", "content": PLACE.format(n=number)},
            ),
            path="rows.jsonl",
            line=number + 1,
        )
        for number, name in enumerate(PLAYERS)
    ]


def write_rows(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_round(folder: Path, recipe: Recipe, rows: list[dict[str, Any]], hours: float = 0.5) -> None:
    """A run's folder as the walk leaves it, of answers that are given."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    write_rows(folder / "predictions.jsonl", rows)
    write_rows(folder / "dataset/train.jsonl", [each.as_json() for each in trained_rows()])
    steps = [
        {"event": "step", "time": float(n), "step": n, "epoch": 0, "loss": 1.0, "tokens": 10, "tokens_per_second": 10.0}
        for n in range(1, 40)
    ]
    write_rows(folder / "metrics.jsonl", [{"event": "stage", "time": 0.0, "name": "train", "state": "done"}, *steps])
    parts = scores_of(read_answers(folder))
    from afina.evaluate.verdict import judge

    verdict = judge(parts, None, None, recipe.evaluate.limits)
    Scores(verdict=verdict).write(folder)
    cost = {"hours": hours, "price_per_hour": 2.0, "money": 2 * hours, "currency": "US$"}
    Manifest(name=recipe.name, cost=manifest_record(cost)).write(folder)
    write_json(folder / "plan.json", {"time": {"low": 60.0, "point": 90.0, "high": 120.0}, "currency": "US$"})
    write_json(folder / "finished.json", {"exit_code": 0})


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    rows = [{"prompt": each.prompt, "completion": each.answer} for each in trained_rows()]
    write_rows(tmp_path / "rows.jsonl", rows)
    write_rows(tmp_path / "general.jsonl", [{"text": "O Rui vive em Lagos."}])
    return check_recipe(
        {
            "name": "clube",
            "root": str(tmp_path),
            "base": "some/base",
            "sources": [{"path": "rows.jsonl"}, {"path": "general.jsonl", "replay": True}],
            "dataset": {"language": "pt-PT"},
            "train": {"epochs": 2},
            "evaluate": {"limits": {"learned_min": 0.8, "broke_max": 0.1}},
            "budget": {"price_per_hour": 2.0},
        }
    )


class Walks:
    """Stands for the walk: writes a round's folder by what a function says of its recipe; counts the trainings."""

    def __init__(self, answers: Callable[[Recipe], list[dict[str, Any]] | Exception]) -> None:
        self.answers, self.trained = answers, list[str]()

    def __call__(self, context: Context, *, until: str = "report") -> dict[str, Any]:
        folder, recipe = context.folder, context.recipe
        if until == "plan":
            write_json(folder / "plan.json", {"time": {"low": 60.0, "point": 90.0, "high": 120.0}, "currency": "US$"})
            return {}
        self.trained.append(recipe.name)
        found = self.answers(recipe)
        if isinstance(found, Exception):
            (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
            raise found
        write_round(folder, recipe, found)
        return {}


@contextlib.contextmanager
def opened(recipe: Recipe, folder: Path) -> Iterator[Context]:
    with Run.open(folder, recipe, lambda text: None) as run:
        yield Context(run, quiet)


@pytest.fixture
def loop(tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Improvement, Walks]]:
    """Runs the loop over walks that a function of the recipe answers for."""
    monkeypatch.setattr(before, "why_not", lambda context: None)

    def go(
        answers: Any, budget: RoundsBudget = SIX, said: list[str] | None = None, **settings: Any
    ) -> tuple[Improvement, Walks]:
        walks = Walks(answers)
        monkeypatch.setattr(afina.walk.walk, "walk_through", walks)
        say = said.append if said is not None else lambda text: None
        own = with_settings(recipe, settings)
        return improve(own, tmp_path / "runs", budget, opened=opened, say=say), walks

    return go


def by_epochs(recipe: Recipe) -> list[dict[str, Any]]:
    """More passes give more facts."""
    return predictions(knows=min(1.0, recipe.train.epochs / 8), parrots=0.2)


# ---- the loop


def test_rounds_go_from_failed_to_passed_and_say_what_they_changed(loop: Any, tmp_path: Path) -> None:
    said: list[str] = []
    found, walks = loop(by_epochs, said=said)
    assert found.passed and found.stop.why == "passed", found.describe()
    assert [each.recipe.train.epochs for each in found.rounds] == [2.0, 5.0, 8.0], found.describe()
    assert walks.trained == ["clube-round-1", "clube-round-2", "clube-round-3"]
    told = "\n".join(said)
    assert "train.epochs: 2.0 -> 5.0" in told and "round 1: the recipe as it is" in told
    assert "did not stick" in told and "only parroted" in told
    assert "round 2 takes 1 min 30 s (1 min 00 s to 2 min 00 s)" in told, "before it is trained"
    values = json.loads((tmp_path / "runs/_improve/clube/improve.json").read_text(encoding="utf-8"))
    assert values["passed"] and values["stopped"]["why"] == "passed" and values["gains"]["agree"] is True
    assert values["hours"] == 1.5 and values["money"] == 3.0
    assert values["rounds"][0]["judging"]["passed"] is False and values["rounds"][1]["moves"]
    shown = found.describe().splitlines()
    assert shown[0].split()[:5] == ["round", "changed", "learned", "broke", "judging"]
    assert "they agree" in found.describe()


def test_a_round_that_is_finished_is_not_done_again(loop: Any, tmp_path: Path) -> None:
    first, _ = loop(by_epochs, RoundsBudget(2))
    assert first.stop.why == "rounds" and not first.passed
    second, walks = loop(by_epochs)
    assert second.passed and walks.trained == ["clube-round-3"]
    assert [each.recipe for each in second.rounds[:2]] == [each.recipe for each in first.rounds]
    third, walks = loop(by_epochs)
    assert third.passed and walks.trained == []


def test_two_rounds_that_bring_nothing_end_it(loop: Any) -> None:
    found, _ = loop(lambda recipe: predictions(knows=0.0))
    assert found.stop.why == "nothing" and len(found.rounds) == 3
    assert "brought nothing beyond chance" in found.describe()


def test_a_budget_of_rounds_hours_or_money_ends_it(loop: Any) -> None:
    def slowly(recipe: Recipe) -> list[dict[str, Any]]:
        return predictions(knows=min(1.0, recipe.train.epochs / 40))

    assert loop(slowly, RoundsBudget(2))[0].stop.why == "rounds"
    hours = loop(slowly, RoundsBudget(6, hours=0.4))[0]
    assert hours.stop.why == "hours" and len(hours.rounds) == 1
    assert loop(slowly, RoundsBudget(6, money=0.5))[0].stop.why == "money"


def test_a_round_that_does_not_fit_what_is_left_is_not_trained(loop: Any) -> None:
    def answers(recipe: Recipe) -> Any:
        assert recipe.budget.hours is not None and recipe.budget.hours <= 0.6
        if recipe.name.endswith("-1"):
            return predictions(knows=0.3)
        assert recipe.budget.hours == pytest.approx(0.1)
        return DoesNotFit(problems=[Problem("takes at least 1 h", "a faster device", "budget.hours")])

    found, _ = loop(answers, RoundsBudget(6, hours=0.6))
    assert found.stop.why == "hours" and "takes at least 1 h" in found.stop.text and len(found.rounds) == 1


def test_money_without_a_price_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    free = recipe.model_copy(update={"budget": recipe.budget.model_copy(update={"price_per_hour": 0.0})})
    with pytest.raises(RecipeError, match="what an hour costs") as refused:
        improve(free, tmp_path / "runs", RoundsBudget(2, money=1.0), opened=opened, say=lambda text: None)
    assert "--hours" in refused.value.problems[0].fix


def test_a_round_that_was_stopped_goes_on_where_it_was(loop: Any) -> None:
    """Ctrl-C in the second round: the first is not done again, and the second is of the same recipe."""
    seen: list[Recipe] = []

    def stopped(recipe: Recipe) -> Any:
        seen.append(recipe)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return by_epochs(recipe)

    with pytest.raises(KeyboardInterrupt):
        loop(stopped)
    found, walks = loop(stopped)
    assert found.passed and walks.trained == ["clube-round-2", "clube-round-3"]
    assert seen[1] == seen[2]


def test_a_training_that_diverged_is_a_round_that_its_remedy_follows(loop: Any) -> None:
    def diverges(recipe: Recipe) -> Any:
        return TrainingDiverged("the loss is NaN", "a lower rate") if recipe.train.epochs == 2 else by_epochs(recipe)

    found, _ = loop(diverges)
    assert found.rounds[0].error is not None and found.stop.why == "no move"
    assert "the loss is NaN" in str(found.as_json()["rounds"][0]["error"])
    again, walks = loop(diverges)
    assert walks.trained == [], "it is not trained to the same end again"
    assert again.as_json() == found.as_json()


def test_the_verdict_that_ends_it_is_of_facts_that_never_steered(loop: Any) -> None:
    """All facts that steer are known and none that judges is: it has not passed, whatever the steering half says."""

    def split(recipe: Recipe) -> list[dict[str, Any]]:
        rows = predictions(knows=1.0)
        for row in rows:
            if half_of(row["fact"]) == "judge" and row["role"] != "retention":
                row["adapter"] = ELSEWHERE
        return rows

    found, _ = loop(split)
    assert not found.passed and found.rounds[0].steering.verdict.passed
    assert found.rounds[0].moves == () and found.rounds[1].moves[0].kind == "margin"
    values = found.as_json()
    assert values["gains"]["agree"] is False and "do NOT agree" in found.describe()


# ---- halves, facts, what others measured


def test_no_fact_steers_and_judges(tmp_path: Path, recipe: Recipe) -> None:
    write_round(tmp_path / "run", recipe, predictions(knows=0.5))
    parted = part(read_answers(tmp_path / "run"))
    steer, judges = ({each.about for each in half} for half in (parted.steer, parted.judge))
    assert steer and judges and not steer & judges
    assert len(parted.steer) + len(parted.judge) == len(predictions(0.5))
    assert {half_of(fact) for fact in steer} == {"steer"}


def test_improve_parts_as_temper_does(tmp_path: Path) -> None:
    """Questions with a system turn and without a fact: what steers a tempering steers the round that it is of."""
    turns = [({"role": "system", "content": "responde"}, {"role": "user", "content": f"quem é {'a' * n}?"})
             for n in range(1, 41)]  # fmt: skip
    rows = [
        {"prompt": asked[1]["content"], "messages": asked, "reference": "ele", "base": "", "adapter": "ele"}
        | {"probe": "p", "role": "recall"}
        for asked in turns
    ]
    write_rows(tmp_path / "predictions.jsonl", rows)
    halves = split_probes([ProbeSet("p", "recall", tuple(Question(each, "ele", "") for each in turns))])
    parted = part(read_answers(tmp_path))
    for ours, theirs in ((parted.steer, halves.steer), (parted.judge, halves.judge)):
        assert {each.prompt for each in ours} == {each.prompt for probe in theirs for each in probe.questions} != set()


def test_key_terms_that_other_rows_changed_are_not_held_against_each_other(tmp_path: Path) -> None:
    """A section with other terms is another question: its answers are no gain, however many they are."""

    def answers(terms: list[str], said: str) -> Any:
        row = {"probe": "p", "role": "coverage", "reference": "x", "base": "", "adapter": said, "terms": terms}
        sections = [row | {"prompt": f"Fala de {n}.", "fact": f"s{n}"} for n in range(12)]
        write_rows(tmp_path / "predictions.jsonl", sections)
        return read_answers(tmp_path)

    before = answers(["porta"], "")
    assert more_right(before, answers(["porta"], "porta rio"), ("coverage",))
    for terms in (["rio"], ["porta", "rio"]):
        assert not more_right(before, answers(terms, "porta rio"), ("coverage",))


def test_a_full_disk_in_a_tempering_is_no_strength_that_was_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(context: Context) -> Path:
        raise DiskFull("the disk is full", "make room")

    monkeypatch.setattr("afina.temper.adapters.trained_adapter", full)
    with pytest.raises(DiskFull):
        temper_round(SimpleNamespace(), lambda text: None)  # type: ignore[arg-type]


def test_facts_stick_are_parroted_or_missed(tmp_path: Path, recipe: Recipe) -> None:
    write_round(tmp_path / "run", recipe, predictions(knows=0.5, parrots=0.25))
    states = {each.fact: each.state for each in fact_states(read_answers(tmp_path / "run"))}
    counts = [list(states.values()).count(state) for state in ("stuck", "parroted", "missed")]
    assert counts == pytest.approx([24, 12, 12], abs=2) and sum(counts) == len(PLAYERS)


def test_what_the_run_missed_otherwise_passes_in_no_half(tmp_path: Path, recipe: Recipe) -> None:
    write_round(tmp_path / "run", recipe, predictions(knows=1.0))
    whole = Round(1, recipe, tmp_path / "run")
    assert whole.passed
    missed = Verdict("yes", "nothing", False, "learned: yes", ("loops: 9 % of the answers",))
    Scores(verdict=missed).write(tmp_path / "run")
    half = Round(1, recipe, tmp_path / "run").judging
    assert half is not None and half.verdict.misses == ("loops: 9 % of the answers",)


# ---- moves


def reading_of(folder: Path, recipe: Recipe, rows: list[dict[str, Any]]) -> RoundReading:
    write_round(folder, recipe, rows)
    one = Round(1, recipe, folder)
    return one.reading(asked_texts(one.answers))


def test_parroted_facts_are_asked_in_further_words(tmp_path: Path, recipe: Recipe) -> None:
    reading = reading_of(tmp_path / "run", recipe, predictions(knows=0.4, parrots=0.6))
    move = phrasings(reading)
    assert move is not None and "given back only in the words trained" in move.why
    weak = {each.fact.removesuffix(": place") for each in reading.of("parroted", "missed")}
    unseen = {name for name in PLAYERS if half_of(f"{name}: place") == "judge"}
    named = {name for name in PLAYERS if any(name in row["prompt"] for row in move.rows)}
    assert named == weak | unseen, "those that did not stick, and those that nobody may look at; no other"
    for row in move.rows:
        assert plain_text(row["prompt"]) not in reading.asked
        number = PLAYERS.index(next(name for name in PLAYERS if name in row["prompt"]))
        assert row["completion"] == PLACE.format(n=number)


def test_moves_follow_the_steering_half_alone(tmp_path: Path, recipe: Recipe) -> None:
    """Whatever the facts that judge say, the moves are the same."""
    rows = predictions(knows=0.4, parrots=0.3)
    other = [dict(row) for row in rows]
    for row in other:
        if half_of(row["fact"]) == "judge":
            row["adapter"] = row["reference"] if row["adapter"] != row["reference"] else ELSEWHERE
    first, second = (moves_of(reading_of(tmp_path / name, recipe, each)) for name, each in (("a", rows), ("b", other)))
    assert first and first == second


def test_missed_facts_are_repeated_where_others_are_mixed_in(tmp_path: Path, recipe: Recipe) -> None:
    move = repeats(reading_of(tmp_path / "run", recipe, predictions(knows=0.2)))
    assert move is not None and move.settings == {"sources.0.repeat": 2}
    assert repeats(reading_of(tmp_path / "good", recipe, predictions(knows=1.0))) is None


def test_what_broke_gets_more_replay_and_smaller_steps(tmp_path: Path, recipe: Recipe) -> None:
    moves = {each.kind: each for each in moves_of(reading_of(tmp_path / "run", recipe, predictions(1.0, lost=0.9)))}
    assert moves["broke"].settings["dataset.replay_share"] == 0.2
    assert moves["broke"].settings["train.learning_rate"] == recipe.train.learning_rate / 2
    lost, knew = lost_facts(part(read_answers(tmp_path / "run")).steer)
    old = [f"{name}: place" for name in OLD if half_of(f"{name}: place") == "steer"]
    assert knew == len(old) and lost == old[: len(lost)] and len(lost) > knew / 2


def test_a_round_that_learned_and_broke_is_tempered_once(tmp_path: Path, recipe: Recipe) -> None:
    write_round(tmp_path / "run", recipe, predictions(1.0, lost=0.9))
    one, looked = Round(1, recipe, tmp_path / "run"), {"chosen": [0.6], "seconds": 36.0}
    assert wanted(one) and one.hours == 0.5
    write_json(one.folder / TEMPERED, looked | {"settings": [{"strengths": [0.6], "passed": True}]})
    assert wanted(one), "it was found, and the process was killed before it was taken"
    for chosen, passed in (([0.6], False), ([1.0], True)):
        tried = {"chosen": chosen, "settings": [{"strengths": chosen, "passed": passed}]}
        write_json(one.folder / TEMPERED, looked | tried)
        assert not wanted(one)
    assert Round(1, recipe, one.folder).hours == pytest.approx(0.51)
    for rows in (predictions(0.0, lost=0.9), predictions(0.3)):
        write_round(tmp_path / "other", recipe, rows)
        assert not wanted(Round(1, recipe, tmp_path / "other")), "nothing was learned, or nothing broken"


def test_a_damaged_round_is_named(tmp_path: Path, recipe: Recipe) -> None:
    run = tmp_path / "run"
    write_round(run, recipe, predictions(1.0, lost=0.9))
    write_json(run / TEMPERED, {"chosen": 3, "settings": []})
    with pytest.raises(AfinaError, match="`chosen` should be a list of numbers"):
        wanted(Round(1, recipe, run))
    of_a_choice = {"probe": "a", "role": "x", "section": "s", "prompt": "p", "sentences": []}
    write_rows(run / "choices.jsonl", [of_a_choice | {"base_correct": True, "adapter_correct": True}])
    with pytest.raises(AfinaError, match=r"choices\.jsonl:1: `role` should be one of"):
        read_answers(run)


def test_a_round_that_lost_something_is_left_for_the_best_one(loop: Any) -> None:
    def answers(recipe: Recipe) -> list[dict[str, Any]]:
        return predictions(knows=0.5) if recipe.train.epochs == 2 else predictions(knows=0.0)

    found, _ = loop(answers)
    assert found.best is not None and found.best.number == 1
    assert found.rounds[2].origin == 1 and found.rounds[2].recipe != found.rounds[1].recipe


# ---- what broke: more replay, or answers in the base's own words


@pytest.fixture
def in_own_words(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The base says every other row again in its own words; how many rows it was shown, each time. No tempering."""
    shown: list[int] = []

    def rewrite(context: Context, examples: Sequence[Example], asked: frozenset[str]) -> OwnWords:
        shown.append(len(examples))
        assert asked, "what may not stand in an answer"
        rows = [
            {"prompt": each.prompt, "completion": f"É de {each.answer}.", "reference": each.answer}
            for each in examples[::2]
        ]
        return OwnWords(tuple(rows), len(examples), {"the same words": len(examples) - len(rows)})

    monkeypatch.setattr("afina.improve.own_words.rewrite", rewrite)
    monkeypatch.setattr("afina.improve.improve.wanted", lambda done: False)
    return shown


def broken(replayed: float, distilled: float, knows: float = 1.0) -> Callable[[Recipe], list[dict[str, Any]]]:
    """A recipe that breaks nine tenths, and how much it breaks with more replay and with the base's own words."""

    def answers(recipe: Recipe) -> list[dict[str, Any]]:
        if recipe.dataset.answers:
            return predictions(knows, lost=distilled)
        return predictions(knows, lost=replayed if recipe.dataset.replay_share else 0.9)

    return answers


def test_answers_in_own_words_are_tried_beside_replay_and_kept_where_they_are_better(
    loop: Any, tmp_path: Path, in_own_words: list[int]
) -> None:
    said: list[str] = []
    found, walks = loop(broken(replayed=0.8, distilled=0.0), said=said)
    assert found.passed and len(walks.trained) == 3 and in_own_words == [len(PLAYERS)], found.describe()
    one, replayed, distilled = (each.recipe for each in found.rounds)
    assert (replayed.dataset.replay_share, replayed.dataset.answers) == (0.2, None)
    file = tmp_path / "runs/_improve/clube/answers.jsonl"
    assert (distilled.dataset.replay_share, distilled.dataset.answers) == (None, str(file.resolve()))
    assert distilled.train.learning_rate == replayed.train.learning_rate == one.train.learning_rate / 2
    assert found.rounds[2].origin == found.rounds[1].origin == 1
    # "É de FaroNN." has four visible characters more than "FaroNN", and every other row learns it.
    seen = sum(example_chars(each) for each in trained_rows())
    assert distilled.train.epochs == round(2 * seen / (seen + 4 * len(PLAYERS) // 2), 2) < replayed.train.epochs
    shown = found.describe()
    assert (
        "kept: self-distilled answers (round 3), nearer to the limits by the facts that steer, beyond chance" in shown
    )
    lines = [line.split() for line in shown.splitlines()]
    assert ["against", "forgetting", "round", "right", "broke", "steps", "tokens"] in lines
    assert ["self-distilled", "answers", "3", "100", "%", "0", "%", "39", "390"] in lines
    assert any("24 of 48 rows are answered in the base's own words; kept as they were: 24 the same words" in each
               for each in said)  # fmt: skip
    values = found.as_json()["against_forgetting"]
    assert [each["way"] for each in values["tried"]] == ["more replay", "self-distilled answers"]
    assert values["tried"][0]["broken_share"] > 0.5 and values["not_tried"] == values["cost"] == ""
    again, walks = loop(broken(replayed=0.8, distilled=0.0))
    assert walks.trained == [] and again.as_json() == found.as_json() and len(in_own_words) == 1


def test_where_replay_is_better_own_words_are_not_kept(loop: Any, tmp_path: Path, in_own_words: list[int]) -> None:
    found, walks = loop(broken(replayed=0.0, distilled=0.9, knows=0.7), RoundsBudget(4))
    assert [each.origin for each in found.rounds] == [0, 1, 1, 2] and not found.passed, found.describe()
    assert found.rounds[2].recipe.dataset.answers and not found.rounds[3].recipe.dataset.answers
    assert found.best is not None and found.best.recipe.dataset.answers is None
    assert (
        "kept: more replay (round 2), nearer to the limits by the facts that steer, beyond chance" in found.describe()
    )
    added = [tmp_path / f"runs/_improve/clube/round-{number}.jsonl" for number in (2, 3)]
    assert added[0].read_bytes() == added[1].read_bytes(), "both learn the same further phrasings"
    assert len(walks.trained) == 4 and len(in_own_words) == 1, "once is enough"


def test_of_two_that_measure_the_same_replay_is_kept(loop: Any, in_own_words: list[int]) -> None:
    found, _ = loop(broken(replayed=0.3, distilled=0.3, knows=0.7), RoundsBudget(3))
    assert "kept: more replay (round 2), as near to the limits by the facts that steer" in found.describe()


def test_a_base_from_nothing_writes_no_answers_and_the_move_is_left_out(
    loop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real random weights are asked: no row is rewritten, which is counted and said, and no round is made of it."""
    from tiny import make_base

    monkeypatch.setattr("afina.improve.improve.wanted", lambda done: False)
    base = make_base(tmp_path / "base", max_position_embeddings=1024)
    said: list[str] = []
    settings = {"base": str(base), "evaluate.limits.learned_min": None}
    found, walks = loop(broken(replayed=0.8, distilled=0.0), RoundsBudget(3), said, **settings)
    assert not any(each.recipe.dataset.answers for each in found.rounds), found.describe()
    assert len(walks.trained) == len(found.rounds) and found.own_words is not None
    assert found.own_words.rewritten == 0 and sum(found.own_words.kept.values()) == len(PLAYERS)
    told = (
        "self-distilled answers were not tried: 0 of 48 rows are answered in the base's own words; kept as they were: "
    )
    assert told in found.describe() and any("0 of 48 rows" in each for each in said)


def test_what_the_budget_leaves_out_is_said(loop: Any, in_own_words: list[int]) -> None:
    two, _ = loop(broken(replayed=0.8, distilled=0.0), RoundsBudget(2))
    assert "self-distilled answers were not tried: as many rounds as were allowed are done: 2" in two.describe()
    assert in_own_words == [], "and the base is not asked for nothing"
    assert two.as_json()["against_forgetting"]["tried"][0]["way"] == "more replay"


def test_neither_is_tried_in_a_single_round_and_it_is_said(loop: Any, in_own_words: list[int]) -> None:
    one, _ = loop(broken(replayed=0.8, distilled=0.0), RoundsBudget(1))
    assert "neither more replay nor self-distilled answers were tried: as many rounds" in one.describe()
    whole, _ = loop(lambda recipe: predictions(0.5), RoundsBudget(1), name="whole")
    assert whole.as_json()["against_forgetting"] is None and "against forgetting" not in whole.describe()


def test_own_words_of_another_base_are_not_taken(loop: Any, tmp_path: Path, in_own_words: list[int]) -> None:
    """A recipe that was changed keeps its name, and found what another base had said."""
    loop(broken(replayed=0.8, distilled=0.8), RoundsBudget(3))
    first = (tmp_path / "runs/_improve/clube/answers.json").read_bytes()
    _, walks = loop(broken(replayed=0.8, distilled=0.8), RoundsBudget(3), base="another/base")
    assert len(walks.trained) == 3 and len(in_own_words) == 2
    assert (tmp_path / "runs/_improve/clube/answers.json").read_bytes() != first


def test_what_the_base_took_to_answer_is_counted(loop: Any, tmp_path: Path, in_own_words: list[int]) -> None:
    """It was the one thing that a budget of hours did not see."""
    loop(broken(replayed=0.8, distilled=0.8), RoundsBudget(3))
    file = tmp_path / "runs/_improve/clube/answers.json"
    noted = json.loads(file.read_text(encoding="utf-8"))
    assert noted["seconds"] >= 0
    write_json(file, noted | {"seconds": 3600.0})
    again, walks = loop(broken(replayed=0.8, distilled=0.8), RoundsBudget(3))
    assert walks.trained == [] and [each.hours for each in again.rounds] == [0.5, 0.5, 1.5]
    assert again.as_json()["hours"] == 2.5 and again.as_json()["money"] == 5.0


def test_of_two_ways_one_that_was_not_measured_is_not_called_worse(loop: Any, in_own_words: list[int]) -> None:
    def answers(recipe: Recipe) -> list[dict[str, Any]] | Exception:
        return ResultError("diverged", "a lower rate") if recipe.dataset.answers else broken(0.8, 0.8)(recipe)

    found, _ = loop(answers, RoundsBudget(3))
    assert "kept: more replay (round 2): the other was not measured" in found.describe()
    assert "beyond chance" not in (found.as_json()["against_forgetting"]["kept"])


def test_without_a_source_of_replay_it_is_said_that_none_was_tried(loop: Any, in_own_words: list[int]) -> None:
    def answers(recipe: Recipe) -> list[dict[str, Any]]:
        return predictions(1.0, lost=0.0 if recipe.dataset.answers else 0.9)

    found, _ = loop(answers, sources=[{"path": "rows.jsonl"}])
    assert found.passed and found.rounds[1].recipe.train.learning_rate == found.rounds[0].recipe.train.learning_rate / 2
    values = found.as_json()["against_forgetting"]
    assert [each["way"] for each in values["tried"]] == ["smaller steps", "self-distilled answers"]
    assert values["not_tried"] == "more replay was not tried: the recipe has no source to take more of"


def test_an_answer_that_holds_a_question_of_a_probe_is_refused_whoever_wrote_it(
    loop: Any, tmp_path: Path, in_own_words: list[int]
) -> None:
    """Its question may be one that is asked: it is trained in any case, and only says which row is meant."""
    loop(broken(replayed=0.8, distilled=0.8), RoundsBudget(3))
    file = tmp_path / "runs/_improve/clube/answers.jsonl"
    asked = phrase("pt-PT", "birth_place", 0, PLAYERS[3])
    assert any(json.loads(line)["prompt"] in (asked, phrase("pt-PT", "birth_place", 0, PLAYERS[2]))
               for line in file.read_text(encoding="utf-8").splitlines())  # fmt: skip
    row = {"prompt": asked, "completion": f"Sim. {UNSEEN.format(name=PLAYERS[3])} Faro03.", "reference": "Faro03"}
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")
    shutil.rmtree(tmp_path / "runs/clube-round-3")
    with pytest.raises(DataError, match=r"answers.jsonl:25: a row holds the words of a question"):
        loop(broken(replayed=0.8, distilled=0.8), RoundsBudget(3))


# ---- no text of a probe is copied into training


def test_rows_that_hold_a_question_of_a_probe_are_refused(tmp_path: Path) -> None:
    asked = frozenset({plain_text("De que terra é Bento01?")})
    good, bad = {"prompt": "Onde nasceu Bento01?", "completion": "Faro"}, {"prompt": "x", "completion": "y"}
    write_rows(tmp_path / "rows.jsonl", [good])
    check_rows([tmp_path / "rows.jsonl"], asked)
    for text in ("De que terra é Bento01?", "  de que TERRA é   Bento01", "Diz-me: de que terra é Bento01? Sim."):
        for key in ("prompt", "completion"):
            write_rows(tmp_path / "rows.jsonl", [good, bad | {key: text}])
            with pytest.raises(DataError, match=r"rows.jsonl:2: a row holds the words of a question"):
                check_rows([tmp_path / "rows.jsonl"], asked)
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(DataError, match="are gone"):
        check_rows([tmp_path / "rows.jsonl"], asked)


def test_a_round_refuses_rows_into_which_a_question_was_written(loop: Any, tmp_path: Path) -> None:
    """The rows are read again from where training reads them, whoever changed them."""
    first, _ = loop(by_epochs, RoundsBudget(2))
    files = sorted((tmp_path / "runs/_improve/clube").glob("round-*.jsonl"))
    assert files, "facts were rephrased"
    row = {"prompt": UNSEEN.format(name=PLAYERS[3]), "completion": "Faro03"}
    with files[0].open("a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="the words of a question that steers or judges"):
        loop(by_epochs)
    assert first.rounds[1].recipe.sources[-1].path == str(files[0].resolve())
    shutil.rmtree(files[0].parent)
    assert loop(by_epochs)[0].passed, "as the advice says, the rows are made anew"
    assert files[0].is_file()


@pytest.mark.parametrize("number", range(8))
def test_no_phrasing_that_a_probe_asks_is_trained(number: int, recipe: Recipe) -> None:
    """A probe in the words of a template: that template is passed over, of facts that steer and that judge."""
    asked = frozenset(plain_text(phrase("pt-PT", "birth_place", number, name)) for name in PLAYERS)
    added = other_phrasings(recipe, trained_rows(), lambda example: True, asked)
    assert added.rows and added.facts == len(PLAYERS)
    assert not {plain_text(row["prompt"]) for row in added.rows} & asked


def test_phrasings_that_the_recipe_holds_out_are_trained_for_no_fact(recipe: Recipe) -> None:
    settings = {"dataset.hold_out_phrasings": 2, "dataset.questions.phrasings": 1}
    added = other_phrasings(with_settings(recipe, settings), trained_rows(), lambda example: True, frozenset())
    held_out = {phrase("pt-PT", "birth_place", number, name) for number in (1, 2) for name in PLAYERS}
    assert added.rows and not {row["prompt"] for row in added.rows} & held_out


def test_a_question_that_no_template_asks_is_counted(recipe: Recipe) -> None:
    odd = Example(
        messages=({"role": "user", "content": "Que tal Bento01?"}, {"role": "assistant", "content": "Faro01"})
    )
    added = other_phrasings(recipe, [odd], lambda example: True, frozenset())
    assert not added.rows and dict(added.left_out) == {"no template asks for it": 1}
    assert instance_of("Onde nasceu Bento01?", "pt-PT") is not None


# ---- before the first round


def test_a_probe_of_few_facts_steers_nothing_and_it_is_said(loop: Any) -> None:
    def few(recipe: Recipe) -> list[dict[str, Any]]:
        return [row for row in predictions(0.5) if row["fact"] in {f"{name}: place" for name in PLAYERS[:4]}]

    found, walks = loop(few)
    assert found.stop.why == "cannot steer" and "none steers" in found.stop.text and len(walks.trained) == 1


def few_letters() -> Any:
    """A tokenizer of eight letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {"[UNK]": 0, "[PAD]": 1} | {letter: number for number, letter in enumerate("abcdefgh", start=2)}
    tokenizer = Tokenizer(models.WordPiece(vocab | {f"##{each}": 20 + n for n, each in enumerate("abcdefgh")}))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")


def test_letters_that_a_tokenizer_lacks_cannot_be_written() -> None:
    chat = Renderer(few_letters(), Chat())
    assert not before.can_write(chat, "Faro") and not before.can_write(chat, "çã")
    assert before.can_write(chat, "a b h")


def test_a_mark_in_an_answer_is_text_that_can_be_written(tmp_path: Path) -> None:
    """Read as a mark it says nothing, and no round would have been begun."""
    chat = Renderer(make_tokenizer(tmp_path), Chat())
    assert before.can_write(chat, "Faro <|end|>")


def test_a_tokenizer_without_capitals_can_write_where_case_does_not_count() -> None:
    """Word for word `Abade` is not what it writes; where no share is asked for, an answer is right in any case."""
    from tokenizers import normalizers

    fast = few_letters()
    fast.backend_tokenizer.normalizer = normalizers.Lowercase()
    chat = Renderer(fast, Chat())
    assert not before.can_write(chat, "A B H") and before.can_write(chat, "A B H", cased=False)
    assert not before.can_write(chat, "Z", cased=False)


def test_a_base_that_cannot_write_the_answers_is_told_before_anything_is_trained(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a base ends it at once, with the answers that it cannot write; nothing to steer by does too."""
    asked = [
        {"prompt": UNSEEN.format(name=name), "completion": PLACE.format(n=number), "fact": f"{name}: place"}
        for number, name in enumerate(PLAYERS)
    ]
    write_rows(tmp_path / "asked.jsonl", asked)
    write_rows(tmp_path / "few.jsonl", asked[:4])
    walks = Walks(by_epochs)
    monkeypatch.setattr(afina.walk.walk, "walk_through", walks)
    monkeypatch.setattr(before, "renderer", lambda context: Renderer(few_letters(), Chat()))
    for file, why, text in (("asked", "cannot write", "'Faro0"), ("few", "cannot steer", "none steers")):
        probes = {"evaluate.questions": 0, "evaluate.probes": [{"path": f"{file}.jsonl", "role": "generalization"}]}
        settings = {"name": file, **probes}
        found = improve(with_settings(recipe, settings), tmp_path / "runs", SIX, opened=opened, say=lambda text: None)
        assert (found.stop.why, found.passed) == (why, False) and text in found.stop.text, found.stop
    assert walks.trained == [], "a tokenizer is looked at before hours are spent"


# ---- real trainings


@pytest.mark.training
@pytest.mark.long
def test_one_phrasing_and_too_few_steps_are_mended_and_both_halves_gain_alike(league: Path) -> None:  # noqa: F811
    """The demo's world, small: from a failed verdict to a passed one, within six rounds."""
    write_rows(league / "world/new/one.jsonl", questions(make_players(28)[20:], (0,)))
    values = adapter_recipe(league / "world", league / "base/model", "mended").model_dump(mode="json")
    values["sources"][1]["path"] = "new/one.jsonl"
    recipe = small(check_recipe(values), epochs=1, learning_rate=4e-3)
    found = improve(recipe, league / "rounds", RoundsBudget(6), opened=opened, say=lambda text: None)
    assert found.passed and not found.rounds[0].passed, found.describe()
    assert found.as_json()["gains"]["agree"] is True, found.describe()
    for each in found.rounds[1:]:
        assert each.moves and (each.folder / "report.html").is_file()
