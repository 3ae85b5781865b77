"""The benchmark of training from scratch, with tiny shapes: everybody starts alike and learns the same."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
from benched import BENCHMARKS, opened

TEXT = "O rio corre para o mar, e a vila fica onde o rio corre. " * 60


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return opened("scratch_cpu", monkeypatch)


@pytest.fixture
def texts(tmp_path) -> Path:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/rio.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path / "texts"


def test_both_loops_learn_the_same_from_the_same_start(bench, texts, tmp_path):
    """afina's loop and the one written by hand, of which neither shares a line with the other."""
    bench.make_start(tmp_path, texts, bench.TINY)
    ours = bench.run_afina(tmp_path, bench.TINY)
    plain = bench.run_plain(tmp_path, bench.TINY, compiled=False)
    assert ours["held_out"] == pytest.approx(plain["held_out"], rel=1e-4)
    assert len(ours["seconds"]) == len(plain["seconds"]) == bench.TINY.steps
    shape, vocab = bench.TINY, json.loads((tmp_path / "model/config.json").read_text())["vocab_size"]
    matrices = shape.layers * (4 * shape.hidden**2 + 3 * shape.hidden * shape.intermediate)
    by_hand = 6 * shape.rows * (shape.length * matrices + (shape.length - 1) * shape.hidden * vocab)
    assert ours["flops_of_a_step"] == by_hand


@pytest.mark.long
def test_contestants_run_in_processes_of_their_own(bench, texts, capsys):
    bench.main(["--tiny", "--data", str(texts), "--threads", "1", "--only", "plain-torch", "afina-compiled"])
    said = capsys.readouterr().out
    assert float(said.partition("losses lie within ")[2].split()[0]) < 1e-5  # compiled, it learns the same
    assert "litgpt is left out" in said and "| plain-torch |" in said and "| product |" in said and "GFLOP/s" in said


def test_a_ratio_is_of_pairs_of_steps(bench):
    """Slow minutes of the machine, which both feel, do not widen it; steps that differ on their own do."""
    ours = [1.0, 2.0, 4.0, 1.0, 2.0, 4.0]
    assert bench.ratio_interval([2 * second for second in ours], ours) == pytest.approx((2.0, 2.0, 2.0))
    ratio, low, high = bench.ratio_interval([2.0, 4.0, 8.0, 3.0, 4.0, 8.0], ours)
    assert ratio == pytest.approx(29 / 14)
    assert low < ratio < high


COUNTS = """
import sys
sys.path.insert(0, {benchmarks!r})
from pathlib import Path
from contestants import print_result, wait_for_turn
said = Path(sys.argv[1])
for number in range(int(sys.argv[3])):
    wait_for_turn()
    with said.open("a") as file:
        file.write(sys.argv[2])
if sys.argv[3] == "9":
    sys.exit("the ninth is too many")
print_result({{"name": sys.argv[2]}})
"""


def test_contestants_work_one_at_a_time_in_an_order_that_rotates(bench, tmp_path):
    from contestants import run_in_turns

    said, program = tmp_path / "said.txt", tmp_path / "counts.py"
    program.write_text(COUNTS.format(benchmarks=str(BENCHMARKS)), encoding="utf-8")

    def one(name: str, steps: int) -> list[object]:
        return [sys.executable, program, said, name, steps]

    assert run_in_turns({name: one(name, 3) for name in "abc"}) == {name: {"name": name} for name in "abc"}
    assert said.read_text() == "abc" + "bca" + "cab"
    with pytest.raises(SystemExit, match="b failed:\nthe ninth is too many"):
        run_in_turns({"a": one("a", 20), "b": one("b", 9)})


@pytest.mark.long
def test_the_stream_and_the_windows_are_asked_the_same(bench, tmp_path, capsys):
    """Both have as many parameters, and say what they predict of the same held-out characters."""
    pytest.importorskip("afina.train.stream_torch")
    pick, words = random.Random(0), ["rio", "mar", "vila", "ponte", "casa", "barco", "vento", "noite", "manhã", "sol"]
    for number in range(40):
        lines = ["O " + " ".join(pick.choice(words) for _ in range(12)) + "." for _ in range(25)]
        (tmp_path / f"{number}.txt").write_text("\n\n".join(lines), encoding="utf-8")
    bench.main(["--part", "streams", "--tiny", "--data", str(tmp_path), "--threads", "1"])
    windows, stream = (line.split("|") for line in capsys.readouterr().out.splitlines() if "| 4127 |" in line)
    assert "windows of 16, the last one predicted" in windows[1] and "afina, a stream" in stream[1]
