"""The benchmarks of data and of starting up, in their smallest forms."""

from __future__ import annotations

import ast
import random
import re
from pathlib import Path
from typing import Any

import pytest
from benched import opened, started


@pytest.mark.long
def test_an_audit_is_timed_and_its_memory_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    started(opened("audit_speed", monkeypatch), monkeypatch, "--rows", 200, "--folder", tmp_path)
    said = capsys.readouterr().out
    (row,) = re.findall(r"^afina +([\d.]+) +(\d+) +(\d+)$", said, re.MULTILINE)
    assert float(row[0]) > 0 and int(row[2]) > 5, said
    assert "dropoutt and finelint are left out" in said
    assert "near" in (tmp_path / "afina.log").read_text(encoding="utf-8"), "one in a hundred is almost a copy"


def test_an_audit_that_fails_is_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exit code of 1 is one of the peers' verdicts, and of ours a defect."""
    bench = opened("audit_speed", monkeypatch)
    (tmp_path / "afina.log").write_text("a traceback")
    monkeypatch.setattr(bench, "watched", lambda *_: (1.0, 10**6, 1))
    with pytest.raises(SystemExit, match="a traceback"):
        started(bench, monkeypatch, "--rows", 2, "--folder", tmp_path)


@pytest.mark.long
def test_copies_are_found_and_the_rest_is_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Four copies of three texts: the third is almost the second, the fourth is the first."""
    pick, texts = random.Random(1), tmp_path / "texts/works"
    texts.mkdir(parents=True)
    words = ["".join(pick.choice("aeiou") + pick.choice("bcdlmnrst") for _ in range(3)) for _ in range(400)]
    for number in range(3):
        lines = [" ".join(pick.choice(words) for _ in range(16)).capitalize() + "." for _ in range(60)]
        (texts / f"{number}.txt").write_text("\n\n".join(lines), encoding="utf-8")
    bench = opened("clean_speed", monkeypatch)
    started(bench, monkeypatch, "--data", texts.parent, "--copies", 4, "--folder", tmp_path / "out")
    said = capsys.readouterr().out
    assert "datatrove is left out" in said
    counts = ast.literal_eval(re.search(r"^afina .*?(\{.*\})$", said, re.MULTILINE)[1])  # type: ignore[index]
    assert counts["duplicate"] == 3 and counts["near_duplicate"] == 3, counts
    assert counts["train"] + counts["validation"] == 6 and counts["tokens"] > 1000
    assert bench.cleaned("PREFÁCIO\n" + (texts / "0.txt").read_text(encoding="utf-8")).startswith(
        (texts / "0.txt").read_text(encoding="utf-8")[:40]
    )


@pytest.mark.long
def test_every_command_that_is_timed_goes_well(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    bench = opened("start_up", monkeypatch)
    started(bench, monkeypatch, "--tiny")
    said = capsys.readouterr().out
    for name in bench.LIMITS:
        assert re.search(rf"^{re.escape(name)} +as it comes( +[\d.]+){{5}}$", said, re.MULTILINE), said
