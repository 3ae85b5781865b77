"""The benchmark of corpora: copies that MinHash keeps, and its own checks, which have to be able to fail."""

from __future__ import annotations

import json
import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from afina.page_marks import put_between
from afina.text.near_duplicates import signatures

ROOT = Path(__file__).resolve().parent.parent
MACHADO = ROOT.parent / "shared/data/ptbr/machado"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import corpus_cpu

    return corpus_cpu


def test_copies_are_as_long_as_the_works_and_no_near_duplicates_of_each_other(bench: Any, tmp_path: Path) -> None:
    pick = random.Random(3)
    (tmp_path / "works").mkdir()
    for work in range(3):
        lines = [" ".join(f"w{int(pick.expovariate(0.02))}" for _ in range(12)) for _ in range(150)]
        (tmp_path / f"works/{work}.txt").write_text("\n".join(lines), encoding="utf-8")
    counts = bench.write_corpus(tmp_path / "corpus", tmp_path / "works", 20)
    assert counts["words"] == 20 * 3 * 150 * 12 and counts["documents"] == 20 * 3 * 3
    files = sorted((tmp_path / "corpus/whole").rglob("*.jsonl"))
    assert len(files) == 20 == counts["files"] and len(list((tmp_path / "corpus/tenth").rglob("*.jsonl"))) == 2
    texts = [[json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()] for file in files]
    assert len({tuple(len(text.split()) for text in each) for each in texts}) == 1
    first = signatures([each[0] for each in texts])
    alike = max((one == other).mean() for place, one in enumerate(first) for other in first[:place])
    assert alike < 0.3, "0.8 is left out"


def test_figures_that_are_not_as_they_have_to_be_are_said(bench: Any) -> None:
    hashes = dict.fromkeys(bench.SAME, "0" * 64)
    seconds = {"read": 10.0, "duplicates": 1.0, "whole": 12.0}
    side = {"sha256": hashes, "read_again": {}, "read_twice": [], "killed_over": None, "batches": 4, "dropped": {}}
    side |= {"seconds": seconds, "documents": 1000, "resident_bytes": 3e8, "anonymous_bytes": 2e8}
    killed = side | {"killed_over": 2, "read_twice": [2], "read_again": {"a": 1}}
    tenth = side | {"documents": 100, "anonymous_bytes": 2e8 - 900 * 100}
    sides = {"one": side, "two": side, "tenth": tenth, "killed": killed}
    corpus = {"documents": 1000, "words": 770_000, "bytes": 5_000_000, "files": 4}
    good = {"engine": "own", "copies": 10, "corpus": corpus, "sides": sides}
    assert bench.wrong_with(good) == []
    page = bench.shown(good)
    assert "1 of 4 batches was read twice" in page
    # r = 1000 / 10 s / 2 workers = 50; N / 50 = 19.4 h; 1 + 1 ms each: 1.9 h; 900 documents hold 90 kB, 100 B each
    assert "| BrWaC, 2.7 billion tokens | 3.5e+06 | 19.4 | 0.30 | 1.9 | 0.55 | 1.8 |" in page

    def said(where: str, **values: Any) -> str:
        other = json.loads(json.dumps(good))  # `one` and `two` are no longer the same
        other["sides"][where].update(values)
        assert "NOT AS IT HAS TO BE" in bench.shown(other)
        return " ".join(bench.wrong_with(other))

    assert "two: train.jsonl not as by one worker" in said("two", sha256=hashes | {"train.jsonl": "1" * 64})
    assert "no worker was caught" in said("killed", killed_over=None)
    assert "read twice [1, 2]" in said("killed", read_twice=[1, 2])
    assert "said {}" in said("killed", read_again={})
    assert "nobody was killed" in said("two", read_twice=[0])
    assert "11 documents were left out" in said("one", dropped={"near_duplicate": 11})


def test_the_page_takes_the_figures_between_its_marks(bench: Any) -> None:
    page = bench.PAGE.read_text(encoding="utf-8")
    written = put_between(put_between(page, bench.MARKS, "x"), bench.MARKS, bench.NOT_MEASURED)
    assert written.count(bench.NOT_MEASURED) == 1 and written != page


@pytest.mark.long
@pytest.mark.skipif(not MACHADO.is_dir(), reason="../shared/data/ptbr/machado is not here")
@pytest.mark.parametrize("engine", ["own", "datatrove"])
def test_one_copy_is_built_alike_by_one_two_and_a_killed_worker(
    bench: Any, engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """11 MB, three batches; a worker that writes the second one is killed."""
    if engine == "datatrove" and find_spec("datatrove") is None:
        pytest.skip("needs the extra datatrove, which is not installed")
    assert bench.main(["--copies", "1", "--engine", engine, "--folder", str(tmp_path), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    killed = figures["sides"]["killed"]
    assert killed["batches"] == 3 and killed["read_twice"] == [killed["killed_over"]]
    assert killed["killed_over"] in (1, 2)
    assert list(killed["read_again"].values()) == [1]
    assert 0 < killed["anonymous_bytes"] <= killed["resident_bytes"]
