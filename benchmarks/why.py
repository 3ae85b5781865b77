"""What `afina why` finds where the truth is known: rows that were planted, and rows that a training went without.

    python benchmarks/why.py --demo runs [--runs runs/bench-why] [--only planted|left-out] [--through 5] [--json]
    python benchmarks/why.py --demo FOLDER --tiny     # few rows and steps of a small world: shows that it runs

`--demo` is where `afina demo` left its base and its world. Two measurements, each with BM25 over the rows' words and
the cosine of plain gradients beside it:

planted     20 rows that contradict what the other rows say of a new player are put among the demo's. After the
            product's own walk each is asked for: in its own phrasing, and in one that was never trained. How often is
            the planted row the first of all?
left-out    an adapter is trained on questions about 8 players; 30 of its rows are left out one at a time, and it is
            trained again from the same start by the same steps. The scores of those rows for a question in another
            phrasing are held against what happened to its loss in that same training; of several seeds, each against
            its own. How far the truths of two seeds agree is said too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from afina.demo.demo import adapter_recipe
from afina.demo.world import QUESTIONS, Size, make_players
from afina.model.load_torch import attach_adapter, load_base
from afina.model.reader_torch import TorchReader
from afina.recipe import Adapter, Recipe, Train, check_recipe
from afina.run import Run, no_progress
from afina.score.paired import mean_and_sd, percentiles, resampled_sums
from afina.tokenizer.chat import Renderer
from afina.tokenizer.encode import Row
from afina.tokenizer.load import load_tokenizer
from afina.train.backend_torch import TorchBackend
from afina.train.snapshot_torch import Snapshot
from afina.walk.context import Context
from afina.walk.walk import walk_through
from afina.whole import remove, write_whole
from afina.why.ekfac_torch import Sketcher, fit_curvature, shapes_of, sketch_rows
from afina.why.unrolled_torch import UnrolledTraining

Pair = tuple[str, str]
"""A question and its answer."""
OURS, INNER, GRADIENT, WORDS = "EK-FAC, cosine (afina why)", "EK-FAC, inner product", "gradient cosine", "BM25"
THROUGH = "through the training (afina why --through-training)"
PLANTED, TRAINED_AS, ASKED_AS = 20, 2, 4
"""Rows that are planted, in which phrasing, and the one that nobody trains."""
LARGE, TINY = Size(), Size(old=4, new=3, unknown=2, replay_rows=20)
"""The demo's world, and one of a few rows."""
CPU = torch.device("cpu")


# ---- scores


def by_words(rows: Sequence[Pair], asked: Sequence[Pair]) -> Any:
    """BM25 of question and answer over the rows' questions and answers, queries x rows."""
    from bm25s import BM25

    def words(pair: Pair) -> list[str]:
        return re.findall(r"\w+", " ".join(pair).casefold())

    index = BM25()
    index.index([words(row) for row in rows], show_progress=False)
    found = []
    for each in asked:
        known = [word for word in words(each) if word in index.vocab_dict]
        found.append(index.get_scores(known) if known else np.zeros(len(rows)))
    return np.array(found)


def by_gradients(model: Any, rows: Sequence[Row], asked: Sequence[Row], fit: Sequence[Row] = ()) -> dict[str, Any]:
    """Queries x rows by each way of comparing gradients.

    Args:
        fit: what the curvature is taken over; the rows where not given.
    """
    found, sketcher = {}, Sketcher(shapes_of(model))
    curvature = fit_curvature(model, fit or rows)
    for name, taken in ((GRADIENT, None), (OURS, curvature)):
        query, each = (sketch_rows(model, part, taken, sketcher).double().numpy() for part in (asked, rows))
        product = query @ each.T
        lengths = np.linalg.norm(query, axis=1)[:, None] * np.linalg.norm(each, axis=1)
        found[name] = product / np.maximum(lengths, 1e-30)
        if taken is not None:
            found[INNER] = product
    return found


# ---- rows left out


@dataclass(frozen=True)
class SmallTraining:
    """A training short enough to be done again without each row, by the product's own plan of steps."""

    base: Path
    recipe: Recipe
    rank: int = 8
    epochs: int = 6
    rate: float = 1e-3
    batch_tokens: int = 256
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further settings of ``train``."""

    def renderer(self) -> Renderer:
        return Renderer(load_tokenizer(str(self.base), self.recipe.chat), self.recipe.chat)

    def model(self, seed: int) -> Any:
        adapter = Adapter(rank=self.rank, alpha=2 * self.rank)
        return attach_adapter(load_base(self.base, self.recipe, CPU), adapter, seed)

    def opened(self, model: Any, rows: Sequence[Row], seed: int, without: int | None = None) -> WithoutRow:
        given: dict[str, Any] = {
            "epochs": self.epochs,
            "learning_rate": self.rate,
            "batch_tokens": self.batch_tokens,
            **self.more,
        }
        settings = Train(precision="fp32", **given)
        backend = TorchBackend(model, settings, pad_id=0, device=CPU, say=lambda _: None)
        training = WithoutRow(backend, rows, settings, seed)
        training.without = without
        return training


class WithoutRow(UnrolledTraining):
    """The same steps, in which one row has no weight. A step of that row alone stays: its gradient, divided by its
    weight, is the same however small that is."""

    without: int | None = None

    def micro_batches(self, number: int) -> Any:
        every = super().micro_batches(number)
        parts = [[each for each in numbers if each != self.without] for numbers in every]
        return [part for part in parts if part] or every


def rows_of(renderer: Renderer, pairs: Sequence[Pair]) -> list[Row]:
    found = []
    for question, answer in pairs:
        turns: Any = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        encoded = renderer.conversation(turns)
        found.append(Row(encoded.ids, encoded.mask, None))  # type: ignore[arg-type]
    return found


def left_out(
    training: SmallTraining, pairs: Sequence[Pair], asked: Sequence[Pair], count: int = 30, seeds: Sequence[int] = (0,)
) -> dict[str, Any]:
    """Rank correlation, over the rows left out, of each score with the true change of each question's loss.

    Args:
        pairs: what is trained.
        asked: whose losses are looked at.
        count: rows that are left out, one at a time; drawn.
        seeds: of the trainings; the scores of each are held against its own changes.
    """
    renderer = training.renderer()
    rows, queries = rows_of(renderer, pairs), rows_of(renderer, asked)
    chosen = sorted(random.Random(0).sample(range(len(rows)), count))
    truths, scores, seconds = [], defaultdict[str, list[Any]](list), dict[str, float]()
    for seed in seeds:
        model = training.model(seed)
        start = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}

        def losses(model: Any = model) -> Any:
            return -np.array([each.nats for each in TorchReader(model).log_probs(queries, 0)])

        kept: dict[int, Snapshot] = {}
        unrolled = training.opened(model, rows, seed)
        begun = time.monotonic()
        unrolled.again(kept.__setitem__)
        seconds["training"] = time.monotonic() - begun
        whole = losses()
        for name, values in {**by_gradients(model, rows, queries), WORDS: by_words(pairs, asked)}.items():
            scores[name].append(values[:, chosen])
        model.zero_grad()
        begun = time.monotonic()
        scores[THROUGH].append(-unrolled.effects(queries, kept.__getitem__).numpy()[:, chosen])
        seconds["way back, all questions at once"] = time.monotonic() - begun
        changes = []
        for number in chosen:
            with torch.no_grad():
                for name, weight in model.named_parameters():
                    if name in start:
                        weight.copy_(start[name])
            training.opened(model, rows, seed, number).again(lambda *_: None)
            changes.append(losses() - whole)
        truths.append(np.array(changes).T)
    found = compare(np.concatenate(truths), {name: np.concatenate(values) for name, values in scores.items()})
    agree = [spearman(*pair) for one, two in combinations(truths, 2) for pair in zip(one, two, strict=True)]
    return found | {
        "loss": float(whole.mean()),
        "change": float(np.abs(np.concatenate(truths)).mean()),
        "truths_agree": float(np.mean(agree)) if agree else None,
        "steps": unrolled.steps,
        "seconds": seconds,
    }


def spearman(one: Any, two: Any) -> float:
    """Spearman's correlation; 0 where one of both is constant."""
    from scipy.stats import spearmanr

    found = float(spearmanr(one, two).statistic)
    return 0.0 if np.isnan(found) else found


def compare(changes: Any, scores: dict[str, Any]) -> dict[str, Any]:
    """Spearman's correlation of each score with the changes (queries x rows), a mean over the queries with an interval
    over them; and of each its lead over BM25 on the same queries."""
    each = {name: [spearman(*pair) for pair in zip(values, changes, strict=True)] for name, values in scores.items()}
    found: dict[str, Any] = {}
    for name, values in each.items():
        sums = resampled_sums([[a, a - b] for a, b in zip(values, each[WORDS], strict=True)]) / len(values)
        found[name] = {
            "spearman": float(sums[0, 0]),
            "interval": percentiles(sums[1:, 0]),
            "ahead_of_bm25": float(sums[0, 1]),
            "ahead_interval": percentiles(sums[1:, 1]),
        }
    return {"queries": len(changes), "rows": len(changes[0]), "scores": found}


# ---- rows planted


def new_players(size: Size) -> list[Any]:
    """Those of whom the documents tell."""
    return make_players(size.old + size.new)[size.old :]


def planted_pairs(size: Size) -> tuple[list[Pair], list[Pair]]:
    """Planted rows, of each new player a wrong fact; and the same asked in a phrasing that is not trained."""
    players = new_players(size)
    rows, asked = [], []
    for number, player in enumerate(players[:PLANTED]):
        fact = list(QUESTIONS)[number % len(QUESTIONS)]
        wrong = next(
            getattr(other, fact)
            for other in players[number + 1 :] + players
            if getattr(other, fact) != getattr(player, fact)
        )
        rows.append((player.fill(QUESTIONS[fact][TRAINED_AS]), wrong))
        asked.append((player.fill(QUESTIONS[fact][ASKED_AS]), wrong))
    return rows, asked


def planted(demo: Path, runs: Path, through: int = 0, *, tiny: bool = False) -> dict[str, Any]:
    """How often the planted row is the first of all, and where it stands.

    Args:
        through: of so many planted rows the way through the training is taken too, which is slow.
        tiny: of a small world, trained for one epoch.
    """
    from afina.why.why import explain

    world = (demo / "demo-world").resolve()
    rows, asked = planted_pairs(TINY if tiny else LARGE)
    lines = "".join(json.dumps({"prompt": ask, "completion": said}, ensure_ascii=False) + "\n" for ask, said in rows)
    write_whole(runs / "planted.jsonl", lines)
    recipe = adapter_recipe(world, (demo / "demo-base/model").resolve(), "planted")
    values = recipe.model_dump(mode="json")
    values["sources"].append({"path": str((runs / "planted.jsonl").resolve()), "repeat": 4})
    values["evaluate"] |= {"probes": [], "questions": 0, "samples": 0}
    values["train"] |= {"epochs": 1} if tiny else {}
    recipe = check_recipe(values)
    with Run.open(runs / "planted", recipe, print) as run:
        context = Context(run, lambda _: contextlib.nullcontext(no_progress))
        walk_through(context)
        ours, first_seconds, seconds = {"own": [], "other": []}, 0.0, []
        for number, (own, other) in enumerate(zip(rows, asked, strict=True), start=1):
            for which, (question, answer) in (("own", own), ("other", other)):
                begun = time.monotonic()
                why = explain(context, question, answer, top=2000)
                took = time.monotonic() - begun
                first_seconds, seconds = (first_seconds or took), [*seconds, took]
                places = [each.row.path.endswith("planted.jsonl") and each.row.line == number for each in why.spoke_for]
                ours[which].append(places.index(True) + 1 if any(places) else len(places) + 1)
        learned, others = _learned(context, rows), _rivals_of_planted(context, rows, asked)
        if through:
            others[THROUGH] = {
                "own": _places_through(context, rows[:through]),
                "other": _places_through(context, asked[:through]),
            }
    table = {OURS: ours} | others
    return {
        "planted": len(rows),
        "learned": learned,
        "rows": why.indexed,
        "first_question_seconds": first_seconds,
        "question_seconds": mean_and_sd(seconds[1:])[0],
        "scores": {
            name: {
                which: {"first": sum(place == 1 for place in places), "of": len(places), "worst": max(places)}
                for which, places in by.items()
            }
            for name, by in table.items()
        },
    }


def _learned(context: Context, rows: Sequence[Pair]) -> int:
    """How many the run's model answers as they say."""
    from afina.model.generate.generate_torch import generate
    from afina.walk.base import renderer
    from afina.walk.models import open_trained

    chat, most = renderer(context), context.recipe.evaluate.max_new_tokens
    prompts = [chat.prompt([{"role": "user", "content": question}]) for question, _ in rows]
    answers = generate(open_trained(context)[0], chat, prompts, max_new_tokens=most)
    return sum(found.text == answer for found, (_, answer) in zip(answers, rows, strict=True))


def _places_through(context: Context, pairs: Sequence[Pair]) -> list[int]:
    """Places of the first planted rows for these questions, by the way through the training."""
    from afina.why.effects import question_row
    from afina.why.through_training_torch import effects_of_rows

    queries = [question_row(context, [{"role": "user", "content": ask}], said) for ask, said in pairs]
    told, scores_QE = effects_of_rows(context, queries)
    at = {row.line: number for number, row in enumerate(told) if row.path.endswith("planted.jsonl")}
    return [int((scores > scores[at[number]]).sum()) + 1 for number, scores in enumerate(scores_QE.numpy(), start=1)]


def _rivals_of_planted(context: Context, rows: Sequence[Pair], asked: Sequence[Pair]) -> dict[str, Any]:
    """Places of the planted rows by words and by plain gradients."""
    from afina.walk.models import open_trained
    from afina.why.effects import question_row
    from afina.why.rows import encoded_rows

    model, _ = open_trained(context)
    encoded = encoded_rows(context, "train")[0]
    texts = [
        (each.rows[0].example.prompt, each.rows[0].example.answer or each.rows[0].example.text) for each in encoded
    ]
    at = {
        each.described.line: number
        for number, each in enumerate(encoded)
        if each.described.path.endswith("planted.jsonl")
    }
    sketcher = Sketcher(shapes_of(model))
    flat = [(row, number) for number, each in enumerate(encoded) for row in each.rows]
    trained = sketch_rows(model, [row for row, _ in flat], None, sketcher, [number for _, number in flat]).numpy()
    trained /= np.maximum(np.linalg.norm(trained, axis=1), 1e-30)[:, None]
    found: dict[str, Any] = {GRADIENT: {}, WORDS: {}}
    for which, pairs in (("own", rows), ("other", asked)):
        queries = [question_row(context, [{"role": "user", "content": ask}], said) for ask, said in pairs]
        scores = {
            GRADIENT: sketch_rows(model, queries, None, sketcher).numpy() @ trained.T,
            WORDS: by_words(texts, pairs),
        }
        for name, values in scores.items():
            found[name][which] = [
                int((values[number] > values[number][at[number + 1]]).sum()) + 1 for number in range(len(pairs))
            ]
    return found


# ---- the command


def demo_pairs(players: int, size: Size) -> tuple[list[Pair], list[Pair]]:
    """Questions about some of the new players as they are trained (two phrasings), and in a third one."""
    chosen = new_players(size)[:players]

    def pairs(*phrasings: int) -> list[Pair]:
        return [
            (player.fill(QUESTIONS[fact][number]), getattr(player, fact))
            for player in chosen
            for fact in QUESTIONS
            for number in phrasings
        ]

    return pairs(0, 1), pairs(2)


def describe(found: dict[str, Any]) -> str:
    lines = []
    if "planted" in found:
        part = found["planted"]
        lines += [f"planted: {part['learned']} of {part['planted']} learned, {part['rows']} rows in the index"]
        lines += [
            f"first question {part['first_question_seconds']:.1f} s, each further {part['question_seconds']:.2f} s"
        ]
        lines += ["", "| | first, own phrasing | first, another phrasing | worst place |", "|---|---|---|---|"]
        for name, by in part["scores"].items():
            worst = max(by["own"]["worst"], by["other"]["worst"])
            own, other = (f"{by[which]['first']} of {by[which]['of']}" for which in ("own", "other"))
            lines += [f"| {name} | {own} | {other} | {worst} |"]
    if "left_out" in found:
        part = found["left_out"]
        lines += [
            "",
            f"left out: {part['rows']} rows, {part['queries']} questions (of each seed), {part['steps']} steps, "
            f"loss {part['loss']:.3f} nats an answer, changed by {part['change']:.4f}",
            ", ".join(f"{what} {took:.1f} s" for what, took in part["seconds"].items()),
        ]
        if part["truths_agree"] is not None:
            lines += [f"what leaving a row out does in two seeds agrees by {part['truths_agree']:.3f}"]
        lines += ["", "| | rank correlation | ahead of BM25 |", "|---|---|---|"]
        for name, each in part["scores"].items():
            (low, high), (ahead_low, ahead_high) = each["interval"], each["ahead_interval"]
            lines += [
                f"| {name} | {each['spearman']:.3f} ({low:.3f} to {high:.3f}) "
                f"| {each['ahead_of_bm25']:+.3f} ({ahead_low:+.3f} to {ahead_high:+.3f}) |"
            ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--demo", type=Path, default=Path("runs"), help="where `afina demo` wrote demo-base and demo-world"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/bench-why"))
    parser.add_argument("--only", choices=("planted", "left-out"))
    parser.add_argument("--seeds", type=int, default=2, help="trainings, each from a start and by an order of its own")
    parser.add_argument(
        "--through", type=int, default=0, help="planted rows for which the way through the training is taken too"
    )
    parser.add_argument("--tiny", action="store_true", help="a small world, few rows and steps: shows that it runs")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    base = given.demo / "demo-base/model"
    if not base.is_dir():
        print(f"left out: there is no {base}; `afina demo --runs {given.demo}` leaves one")
        return
    found: dict[str, Any] = {}
    if given.only != "left-out":
        remove(given.runs / "planted/why")
        found["planted"] = planted(given.demo, given.runs, given.through, tiny=given.tiny)
    if given.only != "planted":
        recipe = adapter_recipe((given.demo / "demo-world").resolve(), base.resolve(), "left-out")
        training, pairs, count = SmallTraining(base, recipe), demo_pairs(8, LARGE), 30
        if given.tiny:
            training, pairs, count = replace(training, epochs=1), demo_pairs(2, TINY), 3
        found["left_out"] = left_out(training, *pairs, count, seeds=range(given.seeds))
    print(json.dumps(found, indent=2) if given.json else describe(found))


if __name__ == "__main__":
    main()
