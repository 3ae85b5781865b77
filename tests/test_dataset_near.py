"""Near duplicates: against the Jaccard index itself; then whole datasets, in any order and number of processes."""

from __future__ import annotations

import json
import math
import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afina.dataset.audit.audit import audit_dataset, audit_files
from afina.dataset.build.build import build_dataset
from afina.errors import AfinaError, DataError, RecipeError
from afina.recipe import Clean, Dataset, Datatrove, NearDuplicates, Recipe, Source
from afina.run import hash_folder
from afina.text.example import Example, read_examples
from afina.text.near_duplicates import Signatures, bands, clusters, shingles, signatures

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data, which is not here")

TEXT = " ".join(f"palavra{n}" for n in range(100))
CHANGED = TEXT.replace("palavra50", "outra")  # 5 of 96 shingles differ: 91 / 101 = 0.90
LONG = " ".join(f"w{n % 4999}" for n in range(9000))
FAR = TEXT.replace("palavra20", "a").replace("palavra40", "b").replace("palavra60", "c").replace("palavra80", "d")


def jaccard(one: str, other: str) -> float:
    left, right = (set(shingles([text])[0].tolist()) for text in (one, other))
    return len(left & right) / len(left | right)


def test_shingles_are_runs_of_five_words():
    assert jaccard(TEXT, CHANGED) == pytest.approx(91 / 101) and jaccard(TEXT, FAR) == pytest.approx(76 / 116)
    assert jaccard("a b c d e f", "A, b; c d e -- f!") == 1 and jaccard("a b c d e", "e d c b a") == 0
    assert len(shingles([" ".join(["a"] * 9)])[0]) == 5


def test_a_signature_estimates_the_jaccard_index():
    """Within the error that the formula gives: its mean is right and so is its spread."""
    random_words = random.Random(3)
    errors, expected = [], []
    for _ in range(400):
        words = [f"w{random_words.randrange(10**6)}" for _ in range(random_words.choice([20, 60, 150]))]
        other = [word if random_words.random() > 0.04 else "x" for word in words]
        true = jaccard(" ".join(words), " ".join(other))
        one, two = signatures([" ".join(words), " ".join(other)])
        errors.append(float((one == two).mean()) - true)
        expected.append(true * (1 - true) / 128)
    spread = math.sqrt(sum(expected) / len(expected))
    assert abs(np.mean(errors)) < 4 * spread / 20 and 0.85 < np.std(errors) / spread < 1.15


@given(st.lists(st.sampled_from(["", "...", "a", "a b c d", "a b c d e", "b c d e f g", LONG, TEXT]), max_size=9))
def test_a_text_has_one_signature_whatever_stands_beside_it(texts: list[str]):
    alone = [signatures([text])[0].tolist() for text in texts]
    assert signatures(texts).tolist() == alone


@given(st.floats(0.3, 1.0))
def test_a_pair_at_the_threshold_is_met(threshold: float):
    count, rows = bands(threshold)
    assert count * rows <= 128 and 1 - (1 - threshold**rows) ** count >= 0.99


def table(texts: list[str]) -> Any:
    kept = Signatures()
    for text in texts:
        kept.append(Example(text=text))
    return kept.table()


def test_clusters_by_hand():
    texts = [TEXT, FAR, "nada a ver com isto, nem de longe", CHANGED, "", "..."]
    assert clusters(table(texts), np.arange(6, dtype=np.uint64), 0.8).tolist() == [0, 1, 2, 0, 4, 5]
    assert clusters(table([]), np.zeros(0, np.uint64), 0.8).tolist() == []


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(12)))
def test_clusters_do_not_depend_on_the_order(order: list[int]):
    texts = [TEXT.replace(f"palavra{n * 9}", "outra") for n in range(6)] + [f"{n} " * 9 for n in range(6)]
    keys = np.arange(100, 112, dtype=np.uint64)
    label = clusters(table([texts[n] for n in order]), keys[order], 0.6)
    groups = {frozenset(order[n] for n in np.nonzero(label == each)[0]) for each in set(label.tolist())}
    assert groups == {frozenset(range(6)), *(frozenset([n]) for n in range(6, 12))}


def recipe(folder: Path, *sources: Source, **dataset: Any) -> Recipe:
    return Recipe(
        name="x", root=str(folder), base="b", sources=list(sources) or [Source(path=".")], dataset=Dataset(**dataset)
    )


def write(folder: Path, **texts: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")


DROP = NearDuplicates(on="drop")


def test_the_longest_of_a_cluster_stays_and_the_others_can_be_read_back(tmp_path: Path):
    longer = CHANGED + " e mais"
    write(tmp_path / "in", a=TEXT, b=longer, c=FAR, d=TEXT)
    summary = build_dataset(recipe(tmp_path / "in", near_duplicates=DROP, validation=0.0), tmp_path / "out")
    assert {each.path for each in read_examples(tmp_path / "out/train.jsonl")} == {"b.txt", "c.txt"}
    assert summary["dropped"] == {"near_duplicate": 1, "duplicate": 1} and summary["balanced"]
    rows = [json.loads(line) for line in (tmp_path / "out/dropped.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["where"], row["same_as"], row["text"]) for row in rows] == [
        ("a.txt:1", "b.txt:1", TEXT),
        ("d.txt:1", "b.txt:1", TEXT),
    ]


def test_near_duplicates_can_be_refused(tmp_path: Path):
    write(tmp_path / "in", a=TEXT, b=CHANGED, c=FAR)
    with pytest.raises(
        DataError, match=r"1 examples are almost the same as another: b.txt:1 \(again a.txt:1\)|a.txt:1"
    ):
        build_dataset(recipe(tmp_path / "in", near_duplicates=NearDuplicates(on="error")), tmp_path / "out")
    loose = NearDuplicates(on="error", threshold=0.97)
    assert build_dataset(recipe(tmp_path / "in", near_duplicates=loose), tmp_path / "out")["dropped"] == {}


def test_private_data_stay_before_replay(tmp_path: Path):
    write(tmp_path / "in", a=CHANGED + " e mais", b=TEXT)
    sources = (Source(path="a.txt", replay=True), Source(path="b.txt"))
    build_dataset(recipe(tmp_path / "in", *sources, near_duplicates=DROP, validation=0.0), tmp_path / "out")
    assert [each.path for each in read_examples(tmp_path / "out/train.jsonl")] == ["b.txt"]


def test_the_audit_names_clusters_and_leaks(tmp_path: Path):
    write(tmp_path / "in", a=TEXT, b=CHANGED, c=FAR, d=TEXT)
    write(tmp_path / "held", e=CHANGED + " e mais", f=TEXT, g="Outra coisa, de que nunca se falou aqui.")
    audit = audit_files([tmp_path / "in"], tmp_path / "held")
    found = {item.name: item for item in audit.findings}
    assert (found["near_duplicate"].count, found["near_duplicate"].of) == (1, 4)
    (shown,) = found["near_duplicate"].examples
    assert shown["where"].endswith("a.txt:1") and shown["text"].endswith("b.txt:1")
    # f is the same as a: that is leakage, and is said once for a, and near b.
    leak = found["near_leakage"]
    assert (leak.split, leak.severity, leak.of) == ("validation", "warning", 3)
    assert leak.examples[0]["where"].endswith("e.txt:1") and "% the same as" in leak.examples[0]["text"]


def corpus(folder: Path, order: list[int]) -> None:
    """Forty texts, ten of them almost the same as another, under names in the order given."""
    words = random.Random(1)
    texts = [" ".join(f"w{words.randrange(999)}" for _ in range(80)) + "." for _ in range(30)]
    texts += [text.replace(text.split()[40], "nova", 1) for text in texts[:10]]
    write(folder, **{f"n{place:02}": texts[n] for place, n in enumerate(order)})


def contents(folder: Path) -> list[set[str]]:
    return [{each.text for each in read_examples(folder / f"{split}.jsonl")} for split in ("train", "validation")]


def test_the_same_dataset_whatever_the_order(tmp_path: Path):
    sides = []
    for name, order in (("one", list(range(40))), ("two", random.Random(2).sample(range(40), 40))):
        corpus(tmp_path / name, order)
        build_dataset(recipe(tmp_path / name, near_duplicates=DROP, validation=0.2), tmp_path / f"{name}-out")
        sides.append(contents(tmp_path / f"{name}-out"))
    assert sides[0] == sides[1] and len(sides[0][0]) + len(sides[0][1]) == 30 and sides[0][1]


@pytest.mark.long
def test_processes_and_datatrove_make_the_same_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    corpus(tmp_path / "in", list(range(40)))
    (tmp_path / "in" / "empty.txt").write_text(" \n", encoding="utf-8")
    monkeypatch.setattr("afina.dataset.build.part.BATCH_FILES", 9)  # five batches
    cleaning = Clean(preset="monograph", min_letters=0.1)
    wanted = recipe(tmp_path / "in", near_duplicates=DROP, clean=cleaning, validation=0.2)
    made = [build_dataset(wanted, tmp_path / "one", workers=1), build_dataset(wanted, tmp_path / "two", workers=2)]
    folders = ["one", "two"]
    engine = wanted.model_copy(update={"dataset": wanted.dataset.model_copy(update={"engine": "datatrove"})})
    made.append(build_dataset(engine, tmp_path / "three", workers=2))
    folders.append("three")
    assert all(each == made[0] for each in made) and made[0]["ledger"]["skipped"] == {"empty.txt": "empty file"}
    assert len({hash_folder(tmp_path / folder) for folder in folders}) == 1


def test_what_a_process_finds_wrong_is_reported_with_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("afina.dataset.build.part.BATCH_FILES", 1)
    for name, content in (("a", '{"prompt": "cut\n'), ("b", '{"prompt": "", "completion": "c"}\n'), ("c", "[1]\n")):
        (tmp_path / f"{name}.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as raised:
        build_dataset(recipe(tmp_path), tmp_path / "out", workers=2)
    assert {problem.where for problem in raised.value.problems} == {"a.jsonl:1", "b.jsonl:1", "c.jsonl:1"}
    assert not (tmp_path / "out").exists()


SLURM = {  # what datatrove asks of Slurm: run the script once per array task, with its number
    "sbatch": """for last; do :; done
tasks=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$last")
for task in $(seq 0 "$tasks"); do SLURM_ARRAY_TASK_ID=$task SLURM_NODELIST=one bash "$last" >&2; done
grep -q -- --partition=cpu "$last" && echo Submitted batch job 7""",
    "srun": """while [ "$1" != launch_pickled_pipeline ]; do shift; done; exec "$@\"""",
    "scontrol": "echo one",
    "squeue": "exit 0",
}


def slurm(folder: Path, monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
    """Slurm's programs, as short scripts that run everything here and at once."""
    folder.mkdir()
    for name, script in (SLURM | programs).items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{script}\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.mark.long
def test_slurm_makes_the_same_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    corpus(tmp_path / "in", list(range(40)))
    slurm(tmp_path / "slurm", monkeypatch)
    build_dataset(recipe(tmp_path / "in"), tmp_path / "here", workers=1)
    place = Datatrove(executor="slurm", partition="cpu")
    build_dataset(recipe(tmp_path / "in", engine="datatrove", datatrove=place), tmp_path / "there")
    assert hash_folder(tmp_path / "here") == hash_folder(tmp_path / "there")


def test_slurm_tasks_that_end_without_a_part_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "in", a=TEXT)
    slurm(tmp_path / "slurm", monkeypatch, srun="exit 1")
    wanted = recipe(
        tmp_path / "in", engine="datatrove", datatrove=Datatrove(executor="slurm", partition="cpu", memory_gb=1)
    )
    with pytest.raises(AfinaError, match="task 0 of 1 ended without its part"):
        build_dataset(wanted, tmp_path / "out")
    assert not (tmp_path / "out").exists() and list((tmp_path / "datatrove-logs").glob("slurm_logs"))


def test_slurm_that_is_not_here_or_refuses_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "in", a=TEXT)
    wanted = recipe(tmp_path / "in", engine="datatrove", datatrove=Datatrove(executor="slurm", partition="cpu"))
    with monkeypatch.context() as without, pytest.raises(RecipeError, match="needs Slurm's program sbatch"):
        without.setenv("PATH", str(tmp_path))  # Slurm may be installed where the tests run
        build_dataset(wanted, tmp_path / "out")
    slurm(tmp_path / "slurm", monkeypatch, sbatch="exit 1")
    with pytest.raises(RecipeError, match="refused the job"):
        build_dataset(wanted, tmp_path / "out")


def test_datatrove_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "in", a=TEXT)
    monkeypatch.setitem(__import__("sys").modules, "datatrove.executor", None)
    with pytest.raises(RecipeError, match=r"pip install 'afina\[datatrove\]'"):
        build_dataset(recipe(tmp_path / "in", engine="datatrove"), tmp_path / "out")


@needs_shared
@pytest.mark.long
def test_farense_near_duplicates_dropped_leave_none(tmp_path: Path):
    dataset: dict[str, Any] = {"near_duplicates": DROP, "on_empty_prompt": "text"}
    chosen = recipe(SHARED / "farense", Source(path="train_full.jsonl"), **dataset)
    summary = build_dataset(chosen, tmp_path / "out")
    assert summary["dropped"]["near_duplicate"] >= 1 and summary["balanced"]
    names = {item.name for item in audit_dataset(tmp_path / "out", chosen).findings}
    assert not names & {"near_duplicate", "near_leakage"}
