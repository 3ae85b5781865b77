"""What `afina why` finds where the truth is known: rows that were planted, and rows that a training went without.

    python benchmarks/why.py --demo runs [--runs runs/bench-why] [--only planted|left-out] [--json]

`--demo` is where `afina demo` left its base and its world. Two measurements, each with BM25 over the rows' words and
the cosine of plain gradients beside it:

planted     20 rows that contradict what the other rows say of a new player are put among the demo's. After the
            product's own walk each is asked for: in its own phrasing, and in one that was never trained. How often is
            the planted row the first of all?
left-out    an adapter is trained on questions about 8 players; 30 of its rows are left out one at a time, and it is
            trained again. The scores of those rows for a question in another phrasing are held against what happened
            to its loss.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from afina.demo.demo import adapter_recipe
from afina.demo.world import QUESTIONS, make_players
from afina.model.load_torch import attach_adapter, load_base
from afina.model.loss_torch import make_batch, target_loss
from afina.model.reader_torch import TorchReader
from afina.recipe import Adapter, Recipe, check_recipe
from afina.run import Run, no_progress, remove, write_whole
from afina.score.paired import mean_and_sd, percentiles, resampled_sums
from afina.tokenizer.chat import Renderer
from afina.tokenizer.encode import Row
from afina.tokenizer.load import load_tokenizer
from afina.walk.context import Context
from afina.walk.walk import walk_through
from afina.why.ekfac_torch import Sketcher, fit_curvature, shapes_of, sketch_rows

Pair = tuple[str, str]
"""A question and its answer."""
OURS, INNER, GRADIENT, WORDS = "EK-FAC, cosine (afina why)", "EK-FAC, inner product", "gradient cosine", "BM25"
PLANTED, TRAINED_AS, ASKED_AS = 20, 2, 4
"""Rows that are planted, in which phrasing, and the one that nobody trains."""
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
    """A training short enough to be done again without each row: fixed batches in a fixed order."""

    base: Path
    recipe: Recipe
    rank: int = 8
    epochs: int = 6
    rate: float = 1e-3
    batch: int = 8

    def renderer(self) -> Renderer:
        return Renderer(load_tokenizer(str(self.base), self.recipe.chat), self.recipe.chat)

    def model(self, seed: int) -> Any:
        adapter = Adapter(rank=self.rank, alpha=2 * self.rank)
        return attach_adapter(load_base(self.base, self.recipe, CPU), adapter, seed)

    def train(
        self, model: Any, start: dict[str, torch.Tensor], rows: Sequence[Row], seed: int, without: int | None
    ) -> Any:
        """The model, trained from `start` on all rows but one; in evaluation mode."""
        weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(start[name])
        optimizer = torch.optim.AdamW(weights.values(), lr=self.rate, weight_decay=0.0)
        for epoch in range(self.epochs):
            order = random.Random(f"{seed} {epoch}").sample(range(len(rows)), len(rows))
            for at in range(0, len(order), self.batch):
                chosen = [rows[number] for number in order[at : at + self.batch] if number != without]
                if not chosen:
                    continue
                batch = make_batch(chosen, 0, CPU)
                optimizer.zero_grad()
                (target_loss(model, batch) / batch.targets).backward()
                optimizer.step()
        return model.eval()


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
        seeds: of trainings whose changes are averaged; the scores are those of the first.
    """
    renderer = training.renderer()
    rows, queries = rows_of(renderer, pairs), rows_of(renderer, asked)
    chosen = sorted(random.Random(0).sample(range(len(rows)), count))
    changes = np.zeros((len(queries), count))
    scores: dict[str, Any] = {}
    for seed in seeds:
        model = training.model(seed)
        start = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}

        def losses(without: int | None, model: Any = model, start: Any = start, seed: int = seed) -> Any:
            trained = TorchReader(training.train(model, start, rows, seed, without))
            return -np.array([each.nats for each in trained.log_probs(queries, 0)])

        whole = losses(None)
        if not scores:
            scores = {**by_gradients(model, rows, queries), WORDS: by_words(pairs, asked)}
        for column, number in enumerate(chosen):
            changes[:, column] += (losses(number) - whole) / len(seeds)
    return compare(changes, {name: values[:, chosen] for name, values in scores.items()}) | {
        "loss": float(whole.mean())
    }


def compare(changes: Any, scores: dict[str, Any]) -> dict[str, Any]:
    """Spearman's correlation of each score with the changes (queries x rows), a mean over the queries with an interval
    over them; and of each its lead over BM25 on the same queries."""
    from scipy.stats import spearmanr

    each = {
        name: [float(spearmanr(*pair).statistic) for pair in zip(values, changes, strict=True)]
        for name, values in scores.items()
    }
    each = {name: [0.0 if np.isnan(value) else value for value in values] for name, values in each.items()}
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


def planted_pairs(world_seed: int = 0) -> tuple[list[Pair], list[Pair]]:
    """Planted rows, of each new player a wrong fact; and the same asked in a phrasing that is not trained."""
    players = make_players(140, world_seed)[120:]
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


def planted(demo: Path, runs: Path) -> dict[str, Any]:
    """How often the planted row is the first of all, and where it stands."""
    from afina.why.why import explain

    world = (demo / "demo-world").resolve()
    rows, asked = planted_pairs()
    lines = "".join(json.dumps({"prompt": ask, "completion": said}, ensure_ascii=False) + "\n" for ask, said in rows)
    write_whole(runs / "planted.jsonl", lines)
    recipe = adapter_recipe(world, (demo / "demo-base/model").resolve(), "planted")
    values = recipe.model_dump(mode="json")
    values["sources"].append({"path": str((runs / "planted.jsonl").resolve()), "repeat": 4})
    values["evaluate"] |= {"probes": [], "questions": 0, "samples": 0}
    recipe = check_recipe(values)
    with Run.open(runs / "planted", recipe, print) as run:
        context = Context(run, lambda _: contextlib.nullcontext(no_progress))
        walk_through(context)
        learned, ours, first_seconds, seconds = 0, {"own": [], "other": []}, 0.0, []
        for number, (own, other) in enumerate(zip(rows, asked, strict=True), start=1):
            for which, (question, answer) in (("own", own), ("other", other)):
                begun = time.monotonic()
                why = explain(context, question, answer, top=2000)
                took = time.monotonic() - begun
                first_seconds, seconds = (first_seconds or took), [*seconds, took]
                places = [each.row.path.endswith("planted.jsonl") and each.row.line == number for each in why.spoke_for]
                ours[which].append(places.index(True) + 1 if any(places) else len(places) + 1)
            learned += explain(context, own[0], None, top=1).asked.answer == own[1]  # type: ignore[union-attr]
        others = _rivals_of_planted(context, rows, asked)
    table = {OURS: ours} | others
    return {
        "learned": learned,
        "rows": why.indexed,
        "first_question_seconds": first_seconds,
        "question_seconds": mean_and_sd(seconds[1:])[0],
        "scores": {
            name: {
                which: {"first": sum(place == 1 for place in places) / len(places), "worst": max(places)}
                for which, places in by.items()
            }
            for name, by in table.items()
        },
    }


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


def demo_pairs(players: int = 8) -> tuple[list[Pair], list[Pair]]:
    """Questions about some of the new players as they are trained (two phrasings), and in a third one."""
    chosen = make_players(140)[120 : 120 + players]

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
        lines += [f"planted: {part['learned']} of {PLANTED} learned, {part['rows']} rows in the index"]
        lines += [
            f"first question {part['first_question_seconds']:.1f} s, each further {part['question_seconds']:.2f} s"
        ]
        lines += ["", "| | first, own phrasing | first, another phrasing | worst place |", "|---|---|---|---|"]
        for name, by in part["scores"].items():
            worst = max(by["own"]["worst"], by["other"]["worst"])
            lines += [f"| {name} | {by['own']['first']:.0%} | {by['other']['first']:.0%} | {worst} |"]
    if "left_out" in found:
        part = found["left_out"]
        lines += [
            "",
            f"left out: {part['rows']} rows, {part['queries']} questions, loss {part['loss']:.3f} nats an answer",
        ]
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
    parser.add_argument("--seeds", type=int, default=2, help="trainings whose changes are averaged")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    base = given.demo / "demo-base/model"
    if not base.is_dir():
        parser.error(f"there is no {base}: run `afina demo --runs {given.demo}` first")
    found: dict[str, Any] = {}
    if given.only != "left-out":
        remove(given.runs / "planted/why")
        found["planted"] = planted(given.demo, given.runs)
    if given.only != "planted":
        recipe = adapter_recipe((given.demo / "demo-world").resolve(), base.resolve(), "left-out")
        found["left_out"] = left_out(SmallTraining(base, recipe), *demo_pairs(), seeds=range(given.seeds))
    print(json.dumps(found, indent=2) if given.json else describe(found))


if __name__ == "__main__":
    main()
