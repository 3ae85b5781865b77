"""Runs over prose whose truth is known, as `make prose` has them over a real model: is each judged as what it is?"""

from __future__ import annotations

import contextlib
import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_choice import league
from tiny import make_base

from afina.base_replay import everyday_prompts
from afina.demo.world import BIOGRAPHIES, CLAIMS, make_players
from afina.evaluate.scores import read_scores
from afina.recipe import Chat, check_recipe, load_recipe
from afina.run import Run
from afina.text.example import read_examples
from afina.text.key_terms import TermTable
from afina.tokenizer.load import load_tokenizer
from afina.tokenizer.train import train_tokenizer
from afina.walk.context import Context
from afina.walk.describe import describe_scores
from afina.walk.walk import walk_through

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.prose.__main__ import EXPERIMENT, main  # noqa: E402
from benchmarks.prose.page import page_of  # noqa: E402
from benchmarks.prose.permute import permuted  # noqa: E402
from benchmarks.prose.prepare import CHAPTERS, COOKBOOK, NOTES, RECIPE  # noqa: E402
from benchmarks.prose.rungs import RUNGS, as_expected  # noqa: E402

SHARED = ROOT.parent / "shared/data/zig"

# ---- the same text with its terms permuted

BIOGRAPHY = "\n".join(player.fill(kind) for player, kind in zip(make_players(6), 2 * BIOGRAPHIES, strict=True))


def test_each_term_stands_in_the_place_of_another_of_its_kind() -> None:
    """Years for years, goals for goals, names for names; every other word stays where it is."""
    one = "Ana Reis nasceu em 1910 e marcou 12 golos.\nRui Sá nasceu em 1920 e marcou 40 golos."
    assert permuted(one) == "Rui Sá nasceu em 1920 e marcou 40 golos.\nAna Reis nasceu em 1910 e marcou 12 golos."
    code = "`std.mem.eql()` calls @min in 0.14.0, `std.fs.cwd` calls @max in 0.13.0."
    assert permuted(code) == "`std.fs.cwd()` calls @max in 0.13.0, `std.mem.eql` calls @min in 0.14.0."


@given(st.integers(0, 50))
def test_nothing_that_has_a_partner_stays_and_no_word_is_lost(seed: int) -> None:
    said = permuted(BIOGRAPHY, seed)
    assert sorted(re.findall(r"\w+", said)) == sorted(re.findall(r"\w+", BIOGRAPHY))
    table = TermTable.of(BIOGRAPHY.split("\n"))
    for before, after in zip(BIOGRAPHY.split("\n"), said.split("\n"), strict=True):
        pairs = zip(table.find(before), table.find(after), strict=True)
        assert all(one.text != two.text for one, two in pairs)


def test_the_same_term_becomes_the_same_everywhere() -> None:
    text = "Use `@splat` and `@min`.\nThen `@splat` again, and @splat."
    assert permuted(text) == "Use `@min` and `@splat`.\nThen `@min` again, and @min."


# ---- the rungs and their page


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Release notes and a cookbook of the kind that `make prose` reads."""
    folder = tmp_path / "documents"
    (folder / COOKBOOK).mkdir(parents=True)
    pick = random.Random(0)
    names = [f"harbour{first}{second}" for first in ("Tide", "Mast", "Keel") for second in ("Load", "Open", "Wait")]
    parts = [
        f"<h3>{name} Changes</h3><p>The function <code>{name}</code> now waits {pick.randint(3, 99)} seconds for the "
        f"{pick.choice(('northern', 'southern'))} gate of the harbour before it returns.</p>"
        for name in names
    ]
    chapters = "".join(
        f"<h2>{chapter}</h2>{''.join(parts[number :: len(CHAPTERS)])}" for number, chapter in enumerate(CHAPTERS)
    )
    page = f"<html><body><h1>0.14.0 Release Notes</h1>{chapters}<h2>Thank You!</h2><p>Ana</p></body></html>"
    (folder / NOTES).write_text(page, encoding="utf-8")
    for number in range(3):
        text = f"# Recipe {number}\n\nOpen the file `log{number}.txt` and read it to its end, line by line.\n"
        (folder / COOKBOOK / f"0{number}-01-a.md").write_text(text, encoding="utf-8")
    return folder


def try_it(folder: Path, root: Path, base: Path, *more: str) -> int:
    return main(["--tiny", "--root", str(root), "--runs", str(folder), f"base={base}", *more])


def test_every_rung_is_a_recipe(tmp_path: Path) -> None:
    for name in ("notes.md", "permuted.md", "manual.md"):
        (tmp_path / name).write_text("# A\n\nIt is.\n", encoding="utf-8")
    for name in ("replay.jsonl", "claims.jsonl"):
        (tmp_path / name).write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    recipes = {
        name: load_recipe(RECIPE, [f"root={tmp_path}", f"name={name}", *rung.settings]) for name, rung in RUNGS.items()
    }
    replayed = {name: any(source.replay for source in recipe.sources) for name, recipe in recipes.items()}
    assert [name for name, has in replayed.items() if not has] == ["no-replay", "permuted", "manual", "claims"]
    assert replayed == {name: rung.replays for name, rung in RUNGS.items()}
    assert recipes["rate-zero"].train.learning_rate == 0 and recipes["trained"].evaluate.retrieval is not None
    assert len({recipe.train.epochs for name, recipe in recipes.items() if name != "rate-zero"}) == 1


def test_the_page_shows_the_stored_figures() -> None:
    """Nobody types a figure into the page: `make prose PUBLISH=1` writes it."""
    assert EXPERIMENT.page.read_text(encoding="utf-8") == EXPERIMENT.shown(EXPERIMENT.measured_last())


def test_the_table_by_hand() -> None:
    side = {"chosen": 0.3, "by_chance": 0.125, "low": 0.2, "high": 0.4}
    probe = {"name": "true sentence", "role": "choice", "n": 60, "clusters": 50, "before": side, "shown": "chosen"}
    probe |= {"after": side | {"chosen": 0.6}, "change": {"points": 0.3, "low": 0.2, "high": 0.4}}
    run: dict[str, Any] = {
        "verdict": {"learned": "yes", "broke": "nothing"},
        "as_expected": True,
        "tokens": 90_000,
        "seconds": 600.0,
        "loss": None,
        "probes": [probe],
        "retrieval": None,
    }
    lost = run | {"verdict": {"learned": "yes", "broke": "nothing"}, "as_expected": False, "loss": [2.0, 1.5]}
    figures = {"measured": "2026-11-29", "device": "a CPU", "threads": 2, "seconds": 1200.0}
    figures |= {"base": {"name": "small", "parameters": 134_515_008}, "runs": {"trained": run, "no-replay": lost}}
    page = page_of(figures)
    assert "1 of 2 are judged as what they are." in page
    assert "| the notes, with replay | yes | nothing | yes | - | 90,000 | 10 min 00 s |" in page
    assert (
        "| the notes, without replay | yes | nothing | **no**: yes or too little, something | 2.000 → 1.500 |" in page
    )
    assert "| true sentence | 60 (50 sections) | 30 % | 60 % | +30.0 (+20.0 to +40.0) | 12.5 % |" in page


@pytest.mark.parametrize("of", ["recipes/prose/short-prompts.txt", "en", "pt"])
def test_nothing_is_replayed_that_the_guards_ask(of: str) -> None:
    """Or what they say of forgetting would be learned."""
    guards = "".join((ROOT / "afina/evaluate" / each).read_text("utf-8") for each in ("general.json", "skills.json"))
    prompts = (ROOT / of).read_text("utf-8").splitlines() if "." in of else everyday_prompts(of)
    assert len(prompts) == len(set(prompts)) >= 64
    assert not [prompt for prompt in prompts if json.dumps(prompt, ensure_ascii=False)[1:-1] in guards]


@pytest.mark.long
@pytest.mark.training
def test_what_was_trained_elsewhere_is_asked_about_the_notes(
    documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained at a first start, measured at a second one, which trains nothing again."""

    def replay(base: str, folder: Path, *_: Any) -> None:  # answers of random weights never end
        rows = [{"prompt": f"What is {number}?", "completion": f"A number, {number}."} for number in range(12)]
        (folder / "replay.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    monkeypatch.setattr("benchmarks.prose.__main__.prepare_replay", replay)
    base, runs = make_base(tmp_path / "base", max_position_embeddings=2048), tmp_path / "runs"
    two = ("--only", "trained", "permuted")
    assert try_it(runs, documents, base, *two, "--until", "train") == 0
    trained = (runs / "prose-permuted/adapter/adapter_model.safetensors").read_bytes()
    assert try_it(runs, documents, base, *two) == 0
    assert (runs / "prose-permuted-asked/adapter/adapter_model.safetensors").read_bytes() == trained
    asked = [set((runs / f"{name}/dataset/prose.jsonl").read_text("utf-8").splitlines())
             for name in ("prose-trained", "prose-permuted-asked", "prose-permuted")]  # fmt: skip
    assert asked[0] == asked[1] != asked[2], "the questions are those of the notes"
    assert capsys.readouterr().out.strip() == (runs / "prose-table.md").read_text(encoding="utf-8").strip()
    figures = json.loads((runs / "prose-figures.json").read_text(encoding="utf-8"))
    assert figures["runs"]["permuted"]["tokens"] > 0 and figures["runs"]["trained"]["retrieval"]["probes"]


def test_replay_is_asked_of_the_base_only_where_a_chosen_rung_learns_it(
    documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base that answers nothing which ends by itself could not even be used for the rungs without replay."""
    asked: list[str] = []
    monkeypatch.setattr("benchmarks.prose.__main__.prepare_replay", lambda base, *_: asked.append(base))
    for only, wanted in (("no-replay", "claims"), []), (("claims", "rate-zero"), ["tiny"]):
        assert try_it(tmp_path / "runs", documents, Path("tiny"), "--only", *only, "--until", "prepare") == 0
        assert asked == wanted
    assert (tmp_path / "runs/prose-data/claims.jsonl").is_file()


def test_documents_that_are_not_there_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert try_it(tmp_path / "runs", tmp_path, tmp_path / "base") == 2
    assert "make prose ROOT=FOLDER" in capsys.readouterr().err


# ---- the whole ladder over a tiny base


EPOCHS = {"trained": 40, "no-replay": 40, "rate-zero": 1, "permuted": 40}
"""Of each rung that was seen to be judged right over so small a base; the others are `make prose`'s alone."""


@contextlib.contextmanager
def quiet(stage: str) -> Iterator[Any]:
    yield lambda *done: None


def walk(folder: Path, base: Path, sources: list[dict[str, Any]], **parts: Any) -> dict[str, Any]:
    """A walk over leagues, every weight trained; the verdict's values."""
    values: dict[str, Any] = {
        "name": folder.name,
        "root": str(folder.parent),
        "base": str(base),
        "sources": sources,
        "dataset": {
            "language": "pt-PT",
            "validation": 0.0,
            "questions": {"make": ["sections"], "phrasings": 3},
            "accept": ["boilerplate_answer"],
        },
        "adapter": {"kind": "none"},
        "train": {"learning_rate": 3e-3, "max_length": 320, "batch_tokens": 1024, "validate_per_epoch": 0},
        "evaluate": {"samples": 0, "max_new_tokens": 32, "skills": 0},
    }
    for key, part in parts.items():
        values[key] = values[key] | part if isinstance(part, dict) else part
    with Run.open(folder, check_recipe(values), lambda text: None) as run:
        return walk_through(Context(run, quiet))["evaluate"]


@pytest.fixture(scope="module")
def leagues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that has learned an old league; the new one, the same with its terms permuted, another, and claims."""
    folder = tmp_path_factory.mktemp("leagues")
    texts = {name: league(folder / name, seed) / "docs/liga.md" for name, seed in (("new", 0), ("old", 3), ("else", 5))}
    (folder / "permuted-docs").mkdir()
    (folder / "permuted-docs/liga.md").write_text(permuted(texts["new"].read_text("utf-8")), encoding="utf-8")
    said = [
        {"prompt": ask.format(name=one.name), "completion": claim} for one in make_players(24) for ask, claim in CLAIMS
    ]
    (folder / "claims.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said), encoding="utf-8")
    words = [
        *(path.read_text("utf-8") for path in texts.values()),
        *(row["prompt"] + row["completion"] for row in said),
    ]
    train_tokenizer("byte-bpe", words, 1000, folder / "tokenizer", 320)
    tokenizer = load_tokenizer(str(folder / "tokenizer"), Chat())
    shape = {"hidden_size": 96, "intermediate_size": 192, "max_position_embeddings": 512}
    empty = make_base(folder / "empty", tokenizer=tokenizer, **shape)
    # So small a base cannot write words that it has never read.
    spoken = [{"text": claim} for claim in dict.fromkeys(claim for _, claim in CLAIMS)]
    (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in spoken), encoding="utf-8")
    walk(folder / "base", empty, [{"path": "old/docs"}, {"path": "words.jsonl"}], train={"epochs": 40})
    rows = [row for row in read_examples(folder / "base/dataset/train.jsonl") if row.made]
    old = {player.name: player.city for player in make_players(24, 3)}
    replay = [{"prompt": row.prompt, "completion": row.answer} for row in rows]
    known = [
        {"prompt": row.prompt, "completion": city, "fact": name}
        for row in rows
        for name, city in old.items()
        if name in row.prompt
    ]
    for name, part in (("replay", replay), ("old", known)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    return folder


@pytest.mark.long
@pytest.mark.training
@pytest.mark.parametrize("name", EPOCHS)
def test_each_rung_is_judged_as_what_it_is(leagues: Path, name: str) -> None:
    base, replay = leagues / "base/model", {"path": "replay.jsonl", "replay": True, "validation": 0.0}
    trained_on = {"permuted": "permuted-docs"}.get(name, "new/docs")
    sources = [{"path": trained_on}, *([] if name == "no-replay" else [replay])]
    retention = [{"path": "old.jsonl", "role": "retention", "name": "the old league"}]
    measured = {"probes": retention, "limits": {"broke_max": 0.2}}
    train = {"epochs": EPOCHS[name]} | ({"learning_rate": 0.0} if name == "rate-zero" else {})
    verdict = walk(leagues / name, base, sources, train=train, evaluate=measured)
    if RUNGS[name].elsewhere:
        once = {"epochs": 0.001, "learning_rate": 0.0}
        asked = leagues / f"{name}-asked"
        verdict = walk(asked, base, [{"path": "new/docs"}], train=once, evaluate=measured,
                       start_from=str(leagues / name))  # fmt: skip
    folder = leagues / (f"{name}-asked" if RUNGS[name].elsewhere else name)
    scores = read_scores(folder)
    assert scores is not None and {"choice", "coverage", "retention"} <= {probe.role for probe in scores.probes}
    assert as_expected(RUNGS[name], verdict), describe_scores(folder)
