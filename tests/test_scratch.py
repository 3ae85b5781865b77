"""The ladder of `make scratch`: its recipes, its page, and the whole of it in a few steps."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from afina.evaluate.prompts import read_prompts
from afina.recipe import Recipe
from afina.recipe.yaml_text import parse_yaml
from afina.report.published import read_published

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.scratch.__main__ import EXPERIMENT, RECIPES, main  # noqa: E402
from benchmarks.scratch.page import TITLES, page_of  # noqa: E402
from benchmarks.scratch.prepare import ASKED, LEARNED, short_answers  # noqa: E402

SHARED = ROOT.parent / "shared/data/ptbr"
VERSIONS = [name for name in TITLES if name != "adapter"]


def recipe(name: str) -> Recipe:
    return Recipe.model_validate(parse_yaml((RECIPES / f"{name}.yaml").read_text(encoding="utf-8")))


# ---- the recipes


def test_every_version_has_a_recipe_and_all_are_measured_alike() -> None:
    assert sorted(path.stem for path in RECIPES.glob("*.yaml")) == sorted([*TITLES, "published"])
    first = recipe("v1")
    for name in TITLES:
        head = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").partition("\nname:")[0]
        assert f"afina run recipes/ptbr-scratch/{name}.yaml" in head and "root=FOLDER" in head
        assert "github.com/" in head and recipe(name).name == f"ptbr-scratch-{name}"
    for name in VERSIONS:
        found = recipe(name)
        assert (found.sources, found.dataset, found.root) == (first.sources, first.dataset, first.root)
        assert found.evaluate == first.evaluate and found.train.method == "scratch"
        assert found.dataset.split_by == "file" and found.dataset.validation == 0.1
    assert recipe("v6").train.max_length >= recipe("adapter").train.max_length, "v6 can see what the adapter learns"


def test_the_versions_are_the_monographs() -> None:
    kinds = [(recipe(name).scratch.kind, recipe(name).scratch.tokenizer) for name in VERSIONS]
    assert kinds == [
        *3 * [("lstm", "character")],
        ("gru", "bpe"),
        ("lstm", "bpe"),
        *3 * [("llama", "unigram")],
    ]
    for name in ("v5b", "v6"):
        shape = recipe(name).scratch
        assert (shape.hidden, shape.layers, shape.heads, shape.intermediate) == (320, 6, 8, 1280)
    assert (recipe("v1").scratch.hidden, recipe("v1").scratch.embedding) == (256, 128)


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data, which is not here")
def test_the_prompts_are_the_monographs_five() -> None:
    assert recipe("v1").evaluate.prompts == "monograph/prompts.txt"
    prompts = read_prompts(SHARED / "monograph/prompts.txt")
    assert len(prompts) == 5 and prompts[0].startswith("O setor de infraestrutura logística")


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data, which is not here")
def test_the_published_figures_are_those_of_the_monographs_logs() -> None:
    logs, theirs = (
        SHARED / "monograph/logs",
        {each.name: each for each in read_published(RECIPES / "published.yaml").results},
    )

    def log(name: str) -> Any:
        return json.loads((logs / f"{name}.json").read_text(encoding="utf-8"))

    for name, file in (("v2 CharLM", "v2_20k"), ("v3 stacked LSTM", "v3_20k"), ("v4 subword GRU", "v4_subword")):
        told, found = log(f"train_brwac_{file}"), theirs[name]
        assert found.hours == pytest.approx(told["performance"]["elapsed_sec"] / 3600, abs=1e-3)
        assert found.tokens == told["performance"]["tokens_total_est"] and found.parameters == told["model"]["params"]
    assert theirs["v1 CharRNN"].tokens == log("train_brwac_v1_20k")["performance"]["train_windows_total"]
    for name, file in (("v5 Transformer", "v5_main"), ("v6 Transformer", "v6_rc16k_v5b_aligned")):
        told = log(f"train_{file}")
        assert theirs[name].hours == pytest.approx(told["total_time_sec"] / 3600, abs=1e-3)
        assert theirs[name].tokens == told["history"][-1]["tokens_seen_total"]
    loss = log("train_v6_rc16k_v5b_aligned")["history"][-1]["val_loss"]
    assert theirs["v6 Transformer"].bits_per_byte == pytest.approx(loss / 0.6931 / 3.35, abs=0.01)
    for name, file in (("CPT, QLoRA over Llama 3.1 8B", "cpt"), ("SFT, QLoRA over Llama 3.1 8B", "sft")):
        told, found = log(f"train_{file}_qlora"), theirs[name]
        assert found.hours == pytest.approx(told["timers"]["duration_sec"] / 3600, abs=1e-3)
        assert found.money == pytest.approx(told["cost"]["total_cost_usd"], abs=1e-3)
    told = json.loads((SHARED / "monograph/results/extrinsic_seed123.json").read_text(encoding="utf-8"))
    metrics = told["tasks"]["qa"]["metrics"]
    published = {
        each.metric: each for each in theirs["SFT, QLoRA over Llama 3.1 8B"].scores if "published" in each.label
    }
    for metric, key in (("exact match", "em"), ("f1", "f1")):
        assert published[metric].before == pytest.approx(metrics["base"][key], abs=5e-4)
        assert published[metric].after == pytest.approx(metrics["sft"][key], abs=5e-4)


# ---- the adapter's rows


def test_short_answers_are_taken_and_the_others_counted() -> None:
    rows = [("Certo?", "", "Sim."), ("É?", "", ""), ("Qual?", "", "um dois três quatro"), ("Mail?", "", "s" * 40)]
    rows += [("x" * 500, "", "Não"), ("Texto:", "Bom.", "Positivo")]
    text = "".join(json.dumps(dict(zip(("instruction", "input", "output"), row, strict=True))) + "\n" for row in rows)
    counted: Counter[str] = Counter()
    taken = list(short_answers(text, counted))
    assert taken == [{"prompt": "Certo?", "completion": "Sim."}, {"prompt": "Texto:\nBom.", "completion": "Positivo"}]
    assert sorted(counted.values()) == [1, 1, 1, 1]


# ---- the page


def version(bits: float, **more: Any) -> dict[str, Any]:
    side = {"bits_per_byte": bits, "low": bits - 0.1, "high": bits + 0.1}
    cut = {"kind": "Unigram", "vocabulary": 16000, "used_share": 0.9, "characters_per_token": 4.2}
    cut |= {"tokens_per_word": 1.4, "fallback_ratio": 0.0, "short_ratio": 0.03}
    run = {
        "windows": {"windows": 32, "bytes": 131072, "after": side},
        "tokenizer": cut,
        "flaws": {"loops": 2, "empty": 0},
    }
    run |= {"parameters": 4e6, "tokens": 5e5, "flops": 1.5e13, "train_seconds": 301.0, "hours": 0.1, "money": 0.009}
    run |= {"currency": "US$", "texts": 10, "control": 0.02, "broken": {"share": 0.1, "low": 0.05, "high": 0.2}}
    return run | {"hours_with_base": None, "money_with_base": None, "loss": None, "base": None, "scores": []} | more


FIGURES: dict[str, Any] = {
    "measured": "2026-11-29",
    "device": "a CPU",
    "threads": 2,
    "runs": {
        "v1": version(2.5),
        "v6": version(2.0),
        "adapter": version(
            0.0,
            windows=None,
            base="ptbr-scratch-v6",
            loss={"before": 5.0, "after": 3.0},
            scores=[{"task": "qa", "metric": "exact match", "before": 0.0, "after": 0.125}],
            gains={
                "loss": {"value": -2.0, "low": -2.25, "high": -1.75},
                "qa, exact match": {"value": 0.125, "low": 0.05, "high": 0.2},
            },
            hours=0.05,
            hours_with_base=0.15,
            money=0.005,
            money_with_base=0.014,
        ),
    },
    "samples": [{"prompt": "O trem", "seed": 101, "v1": "de `ferro`", "v6": ""}],
}


def test_the_table_by_hand() -> None:
    text = page_of(FIGURES)
    rows = [
        [each.strip() for each in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("|")
    ]
    assert rows[2] == [
        *(
            "v1",
            TITLES["v1"],
            "2.500 [2.400, 2.600]",
            "4.00 M",
            "500 k",
            "1.5e+13",
            "5 min 01 s",
            "6 min 00 s",
            "US$ 0.009",
        )
    ]
    assert "From the best to the worst: v6, v1." in text
    close = page_of(FIGURES | {"runs": FIGURES["runs"] | {"v5": version(2.15), "v5b": version(2.45)}})
    assert "From the best to the worst: v6, v5, v5b, v1. The intervals of v6 and v5, v5b and v1 overlap." in close
    assert ["v6", "Unigram", "16,000", "90 %", "4.20", "1.40", "0.0000", "0.0300"] in rows
    assert ["v1", "10 % [5 %, 20 %]", "2 loops of 10"] in rows and "of the held-out works 2 % are such words" in text
    assert ["ptbr-scratch-v6", "5.000", "0.000", "6 min 00 s", "US$ 0.009"] in rows
    assert ["with the adapter", "3.000", "0.125", "9 min 00 s", "US$ 0.01"] in rows
    assert ["difference, row by row", "-2.000 [-2.250, -1.750]", "+0.125 [+0.050, +0.200]", "", ""] in rows
    assert "> O trem ..." in text and "- v1: `` de `ferro` ``" in text and "- v6: (nothing)" in text


def test_a_version_that_folds_has_no_place_in_the_order() -> None:
    """Its tokens hold less of the same windows: fewer bits for another text."""
    folded = version(1.5)
    folded["windows"]["lost"] = 4210
    text = page_of(FIGURES | {"runs": FIGURES["runs"] | {"v5": folded}})
    assert "From the best to the worst: v6, v1." in text
    assert "Not ranked, since no token holds what they fold and nobody predicts it: v5 (4,210 characters)." in text


def test_the_page_shows_the_stored_figures() -> None:
    """Nobody types a figure into docs/scratch.md: `make scratch PUBLISH=1` writes it."""
    assert EXPERIMENT.page.read_text(encoding="utf-8") == EXPERIMENT.shown(EXPERIMENT.measured_last())


def test_published_versions_computed_the_same() -> None:
    """Equal compute, as the log counted it: within a twentieth."""
    figures = EXPERIMENT.measured_last()
    if figures is None:
        pytest.skip("`make scratch` has not been published yet")
    flops = [figures["runs"][name]["flops"] for name in VERSIONS]
    assert max(flops) <= 1.05 * min(flops)


# ---- the whole of it


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Works of a genre, and rows with short answers."""
    root = tmp_path / "ptbr"
    for part in ("machado/crítica", "canarim", "monograph"):
        (root / part).mkdir(parents=True)
    (root / "monograph/prompts.txt").write_text("\n".join(f"O trem da obra {n}" for n in range(5)), encoding="utf-8")
    for work in range(12):
        lines = [
            f"O trem da obra {work} parou no dia {day}? Sim, disse ela; Não, disse quem desceu na estação." * 2
            for day in range(40)
        ]
        (root / f"machado/crítica/{'abcdefg'[work % 7]}{work:02}.txt").write_text("\n".join(lines), encoding="utf-8")
    for part, first in (("train", 0), ("test", 100)):
        rows = [
            {"instruction": f"O trem {n} parou?", "input": "", "output": ("Sim", "Não")[n % 2]}
            for n in range(first, first + 30)
        ]
        (root / f"canarim/{part}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return root


SMALL = ("scratch.hidden=32", "scratch.layers=1", "scratch.vocab=400")


def try_it(runs: Path, root: Path, *more: str) -> int:
    return main(["--tiny", "--root", str(root), "--runs", str(runs), *SMALL, *more])


@pytest.mark.long
@pytest.mark.training
def test_the_first_version_the_last_and_the_adapter(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained first, measured at a second start, which trains nothing again; both roads on one page."""
    runs, three = tmp_path / "runs", ("--only", "v1", "v6", "adapter")
    assert try_it(runs, texts, *three, "--until", "train") == 0
    assert not (runs / "ptbr-scratch-v6/scores.json").exists()
    weights = [runs / "ptbr-scratch-v1/model", runs / "ptbr-scratch-v6/model", runs / "ptbr-scratch-adapter/adapter"]
    trained = [file.stat().st_mtime_ns for each in weights for file in each.glob("*.safetensors")]
    assert len(trained) == 3
    capsys.readouterr()
    assert try_it(runs, texts, *three) == 0
    assert trained == [file.stat().st_mtime_ns for each in weights for file in each.glob("*.safetensors")]
    table = (runs / "scratch-table.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == table.strip()
    figures = json.loads((runs / "scratch-figures.json").read_text(encoding="utf-8"))
    assert list(figures["runs"]) == ["v1", "v6", "adapter"]
    assert len({figures["runs"][name]["windows"]["sha256"] for name in ("v1", "v6")}) == 1, "the same windows"
    assert figures["runs"]["adapter"]["base"] == "ptbr-scratch-v6" and figures["runs"]["adapter"]["scores"]
    assert all(figures["runs"][name]["flops"] for name in figures["runs"])
    gains = figures["runs"]["adapter"]["gains"]
    assert {"loss", "qa, exact match", "qa, f1"} <= gains.keys() and gains["loss"]["low"] <= gains["loss"]["value"]
    assert len(figures["samples"]) == 5 and all({"v1", "v6"} <= each.keys() for each in figures["samples"])
    page = (runs / "scratch-compare.html").read_text(encoding="utf-8")
    assert "v6 Transformer" in page and "ptbr-scratch-adapter" in page


def test_texts_that_are_not_there_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(tmp_path), "--runs", str(tmp_path / "runs")]) == 2
    assert re.search(r"machado, canarim/train\.jsonl(.|\n)*make scratch ROOT=FOLDER", capsys.readouterr().err)


@pytest.mark.long
@pytest.mark.training
@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data, which is not here")
def test_all_versions_and_the_adapter_on_the_real_texts(tmp_path: Path) -> None:
    """`make scratch FAST=1`."""
    assert main(["--tiny", "--runs", str(tmp_path)]) == 0
    figures = json.loads((tmp_path / "scratch-figures.json").read_text(encoding="utf-8"))
    assert list(figures["runs"]) == list(TITLES)
    assert (tmp_path / f"ptbr-scratch-data/{LEARNED}").is_file() and (tmp_path / f"ptbr-scratch-data/{ASKED}").is_file()
    bits = {name: figures["runs"][name]["windows"]["after"]["bits_per_byte"] for name in VERSIONS}
    assert all(0.5 < value < 8 for value in bits.values()), bits
