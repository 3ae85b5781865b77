"""The benchmarks that walk whole runs, in their smallest forms, over a base that has learned nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from benched import ROOT, opened, started
from forked import Forked
from tiny import make_base

from afina.demo.world import write_world

pytestmark = pytest.mark.training
SHAPE = {"max_position_embeddings": 2048}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("bench") / "base", **SHAPE)


@pytest.mark.long
def test_the_guard_over_skills_is_asked_of_three_trainings(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("afina.evaluate.intervals.FEWEST_TURNED", 0)  # random weights do none of them as asked
    started(opened("skills_guard", monkeypatch), monkeypatch, "--base", base, "--runs", tmp_path, "--questions", 2)
    said = capsys.readouterr().out
    for name in ("broken", "kept", "kept-again"):
        assert re.search(rf"^{name}: \d+ s$", said, re.MULTILINE), said
    assert re.search(r"^kept and kept-again: \d and \d of 2 as asked, \d differ, apart: False$", said, re.MULTILINE)


@pytest.mark.long
def test_rounds_where_they_can_help_and_where_they_cannot(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    bench = opened("improve_rounds", monkeypatch)

    def afina(*words: str) -> int:
        done = Forked(list(words), ROOT).done()
        assert done.returncode in (0, 5), done.stdout + done.stderr
        return done.returncode

    monkeypatch.setattr(bench, "afina", afina)
    started(bench, monkeypatch, "--tiny", "--base", base, "--runs", tmp_path)
    said = capsys.readouterr().out
    assert "mended: exit code 5\nhopeless: exit code 5\n" in said


def test_a_verb_that_ends_without_a_verdict_ends_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = opened("improve_rounds", monkeypatch)
    monkeypatch.setattr(bench, "ROOT", Path("/"))
    monkeypatch.setattr(bench.sys, "executable", "false")
    with pytest.raises(SystemExit, match="`afina improve x` ended with exit code 1"):
        bench.afina("improve", "x")


@pytest.mark.long
def test_planted_rows_are_looked_for_and_others_left_out(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("scipy", reason="needs the extra scaling")
    bench = opened("why", monkeypatch)
    (tmp_path / "demo-base").mkdir()
    (tmp_path / "demo-base/model").symlink_to(base)
    write_world(tmp_path / "demo-world", size=bench.TINY)
    words = ("--demo", tmp_path, "--runs", tmp_path / "runs", "--tiny", "--seeds", 1, "--through", 1, "--json")
    started(bench, monkeypatch, *words)
    said = capsys.readouterr().out
    found = json.loads(said[said.index('{\n  "planted"') :])
    ours, both = found["planted"]["scores"], {bench.OURS, bench.GRADIENT, bench.WORDS, bench.THROUGH}
    assert set(ours) == both and found["planted"]["planted"] == 3
    assert {each["own"]["of"] for name, each in ours.items() if name != bench.THROUGH} == {3}
    assert set(found["left_out"]["scores"]) == both | {bench.INNER} and found["left_out"]["rows"] == 3
    assert "| rank correlation | ahead of BM25 |" in bench.describe(found)
