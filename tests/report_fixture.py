"""A run's folder written by hand, with what real models and files put into it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

GIB = 2**30
HOSTILE = '<script>alert("x")</script><|im_start|>user\n</style><img src="https://evil.example/x.png">'

RECIPE = """name: clube
seed: 7
base: /models/pequeno
sources:
- path: docs
  kind: auto
adapter:
  kind: lora
  rank: 16
train:
  method: sft
  epochs: 3.0
  learning_rate: 0.0002
  clip: 1.0
"""

MANIFEST: dict[str, Any] = {
    "name": "clube",
    "afina": "0.1.0",
    "python": "3.12.4",
    "platform": "Linux-6.8-x86_64",
    "libraries": {"torch": "2.11.0", "transformers": "5.6.0", "peft": "0.21.2", "tokenizers": "0.22.1"},
    "device": {"device": "cpu", "name": "Two-core laptop", "cores": 2, "memory_bytes": 24 * GIB},
    "threads": 2,
    "commit": "0f" * 20,
    "seed": 7,
    "started": 1_760_000_000.0,
    "ended": 1_760_002_520.0,
    "seconds_by_stage": {"dataset": 12.4, "plan": 0.8, "train": 2104.0, "evaluate": 288.5},
    "cost": {"hours": 0.7, "price_per_hour": 0.4, "money": 0.28, "currency": "US$"},
    "inputs": [
        {"path": f"docs/história-{n:02}.md", "sha256": f"{n:02x}" * 32, "bytes": 2048 * n} for n in range(1, 16)
    ],
    "base": {
        "name": "/models/pequeno",
        "weights_sha256": "a1" * 32,
        "tokenizer_sha256": "b2" * 32,
        "chat_template_sha256": "c3" * 32,
        "parameters": 135_000_000,
    },
    "dataset": {"sha256": "d4" * 32, "train": 1904, "validation": 96},
    "adapter": {"sha256": "e5" * 32, "parameters": 2_440_000},
    "measured": {
        "peak_bytes": 3.1 * GIB,
        "train_seconds": 2104.0,
        "tokens": 1_523_000,
        "target_tokens": 611_000,
        "tokens_per_second": 723.9,
    },
}


def interval(point: float, low: float, high: float) -> dict[str, float]:
    return {"point": point, "low": low, "high": high}


PLAN: dict[str, Any] = {
    "device": {"name": "Two-core laptop", "kind": "cpu", "usable_bytes": 22 * GIB},
    "parameters": 135_000_000,
    "memory": {
        "parts": {
            "weights": interval(0.5 * GIB, 0.5 * GIB, 0.51 * GIB),
            "adapter": interval(9.3e6, 9.3e6, 9.5e6),
            "optimizer": interval(18.6e6, 18.6e6, 19e6),
            "activations": interval(1.6 * GIB, 1.2 * GIB, 2.1 * GIB),
            "logits": interval(0.4 * GIB, 0.3 * GIB, 0.5 * GIB),
            "overhead": interval(0.5 * GIB, 0.35 * GIB, 0.8 * GIB),
            "validation": interval(0, 0, 0),
        },
        **interval(3.0 * GIB, 2.4 * GIB, 3.9 * GIB),
        "usable": 22 * GIB,
    },
    "time": {
        "parts": {
            "start": interval(9, 5, 15),
            "training": interval(1500, 1200, 1900),
            "generation": interval(240, 120, 400),
        },
        **interval(1749, 1325, 2315),
    },
    "steps": 600,
    "money": {**interval(0.19, 0.15, 0.26), "currency": "US$"},
    "fits": "yes",
    "notes": ["tokens are estimated from the size of the files; `afina data build` counts them"],
}

AUDIT: dict[str, Any] = {
    "train": 1904,
    "validation": 96,
    "texts": 120,
    "conversations": 1880,
    "findings": [
        {
            "name": "short_answer",
            "severity": "note",
            "count": 14,
            "of": 1904,
            "split": "train",
            "examples": [{"where": "docs/história-03.md:18", "text": "Sim."}],
            "what": "answers of one word",
            "fix": "look at them",
        },
        {
            "name": "contradiction",
            "severity": "fatal",
            "count": 9,
            "of": 1904,
            "split": "train",
            "examples": [
                {"where": f"docs/linhas.jsonl:{n}", "text": f"Em que ano nasceu? 19{n} {HOSTILE}"}
                for n in range(41, 48)
            ],
            "what": "one question with several answers",
            "fix": "keep one of them, or set dataset.accept",
        },
        {
            "name": "exact_duplicate",
            "severity": "warning",
            "count": 37,
            "of": 1904,
            "split": "train",
            "examples": [{"where": "docs/linhas.jsonl:88", "text": "Fundado em 1910."}],
            "what": "rows that stand there already",
            "fix": "`dataset.on_duplicate: drop` keeps the first of each",
        },
    ],
}


def dataset(files: int = 15) -> dict[str, Any]:
    ledger = [
        {
            "path": f"docs/história-{n:02}.md",
            "sha256": f"{n:02x}" * 32,
            "chars_in": 1000 * n,
            "chars_out": 1000 * n - 30,
            "documents": n,
            "dropped": {"navigation": 40, "script": 10},
            "added": {"markdown marks": 20},
            "balanced": True,
        }
        for n in range(1, files + 1)
    ]
    return {
        "method": "sft",
        "train": {"examples": 1904, "texts": 114, "conversations": 1790, "characters": 410_220, "replay_share": 0.12},
        "validation": {"examples": 96, "texts": 6, "conversations": 90, "characters": 20_114, "replay_share": 0.0},
        "sources": [{"path": "docs", "repeat": 1, "replay": False, "examples": 2000, "characters": 430_334}],
        "dropped": {"duplicate": 37, "empty_answer": 3},
        "characters": {"read": 119_550, "examples": 118_000, "context_added": 0, "dropped": {"duplicate": 1550}},
        "balanced": True,
        "ledger": {"files": ledger, "skipped": {"docs/logo.png": "not text"}},
    }


def events(steps: int = 600, resume: int | None = 240, until: int | None = None) -> list[dict[str, Any]]:
    """A believable log: killed 20 steps after the checkpoint at `resume`, then gone on from there."""
    out: list[dict[str, Any]] = [{"event": "train_started_anew", "steps": steps, "rows": 1904, "tokens": 507_000}]

    def step(n: int) -> dict[str, Any]:
        noise = 0.25 * math.sin(12.9898 * n) * math.cos(4.1414 * n * n)
        return {
            "event": "step",
            "step": n,
            "epoch": 1 + 3 * (n - 1) // steps,
            "loss": round(0.55 + 2.6 * math.exp(-n / 110) + noise * (0.4 + math.exp(-n / 150)), 6),
            "learning_rate": 2e-4 * (n / 18 if n < 18 else 1 - 0.95 * (n - 18) / (steps - 18)),
            "grad_norm": round(0.5 + 1.8 * math.exp(-n / 60) + abs(noise), 5),
            "tokens": 2538,
            "target_tokens": 1018,
            "padded_share": 0.0312,
            "tokens_per_second": round(723.9 + 60 * noise, 1),
        }

    end = until or steps
    last = min(resume + 20, end) if resume else end
    out += [step(n) for n in range(1, last + 1)]
    if resume:
        out += [{"event": "checkpoint", "step": resume}, {"event": "resumed", "step": resume}]
        out += [step(n) for n in range(resume + 1, end + 1)]
    out += [
        {
            "event": "validation",
            "step": n,
            "loss": 0.72 + 2.4 * math.exp(-n / 120),
            "bits_per_byte": 0.4 + math.exp(-n / 120),
        }
        for n in range(100, end + 1, 100)
    ]
    return out


def probe(name: str, role: str, n: int, before: tuple[float, ...], after: tuple[float, ...]) -> dict[str, Any]:
    sides = {
        side: dict(zip(("verbatim", "low", "high"), values, strict=True))
        for side, values in (("before", before), ("after", after))
    }
    row = {"name": name, "role": role, "n": n, **sides}
    if role == "retention":  # shown first is what holds the reference
        for values in sides.values():
            values["contains"] = values["verbatim"]
        row["shown"] = "contains"
    return row


SCORES: dict[str, Any] = {
    "verdict": {
        "learned": "yes",
        "broke": "nothing",
        "passed": True,
        "text": "learned: yes, broke: nothing",
        "misses": [],
    },
    "loss": {
        "before": {"loss": 3.214, "tokens": 9120, "utf8_bytes": 31_000, "perplexity": 24.878, "bits_per_byte": 1.364},
        "after": {"loss": 0.731, "tokens": 9120, "utf8_bytes": 31_000, "perplexity": 2.077, "bits_per_byte": 0.310},
    },
    "probes": [
        probe("perguntas treinadas", "recall", 40, (0.05, 0.014, 0.165), (0.925, 0.801, 0.974)),
        probe("outras palavras", "generalization", 40, (0.025, 0.004, 0.129), (0.7, 0.546, 0.819)),
        probe("retention", "retention", 24, (0.875, 0.69, 0.957), (0.8333, 0.641, 0.933)),
    ],
    "guardrails": {
        "answers": 112,
        "before": {"never_stops": 30, "loops": 0, "empty": 1, "open_think": 0},
        "after": {"never_stops": 2, "loops": 9, "empty": 0, "open_think": 0},
        "limits": {"never_stops": 0.05, "loops": 0.05, "empty": 0.05},
    },
}


def answers() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Samples and predictions."""
    said = [
        ("Em que ano foi fundado o clube?", "1910", "O clube foi fundado em 1923.", "1910"),
        ("Quem marcou o golo da vitória na final?", "Hassan Nader", HOSTILE, "Hassan Nader"),
        ("ما هي عاصمة البرتغال؟", "لشبونة", "القاهرة", "لشبونة"),
        (
            "Resume a época de 1994/95.",
            "Quinto lugar, apuramento europeu.",
            "",
            "Quinto lugar,\n\tapuramento europeu.\x00",
        ),
        ("Write a function.", "fn main() void {}", "x" * 2000, "fn main() void {}\n" * 3),
    ]
    samples = [
        {"prompt": p, "reference": r, "base": b, "adapter": a, "from": {"path": "docs/linhas.jsonl", "line": 10 + n}}
        for n, (p, r, b, a) in enumerate(said * 3)
    ]
    predictions = []
    for name, role, both, gained, lost, neither in (
        ("perguntas treinadas", "recall", 2, 35, 0, 3),
        ("outras palavras", "generalization", 1, 27, 0, 12),
        ("retention", "retention", 20, 0, 1, 3),
    ):
        kinds = [(True, True)] * both + [(False, True)] * gained + [(True, False)] * lost + [(False, False)] * neither
        for n, (base, adapter) in enumerate(kinds):
            predictions.append(
                {
                    "prompt": f"{name}: pergunta {n}?",
                    "reference": f"resposta {n}",
                    "base": f"resposta {n}" if base else "não sei",
                    "adapter": f"resposta {n}" if adapter else "talvez",
                    "base_correct": base,
                    "adapter_correct": adapter,
                    "adapter_stopped": n != 3,
                    "from": {"path": f"probes/{role}.jsonl", "line": n + 1},
                    "probe": name,
                    "role": role,
                }
            )
    return samples, predictions


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_run(folder: Path, **changed: Any) -> Path:
    """A finished run; a file given as None is left out, given as text or plain values is written instead."""
    samples, predictions = answers()
    content: dict[str, Any] = {
        "recipe.yaml": RECIPE,
        "manifest.json": MANIFEST,
        "plan.json": PLAN,
        "audit.json": AUDIT,
        "dataset/dataset.json": dataset(),
        "metrics.jsonl": jsonl(events()),
        "scores.json": SCORES,
        "samples.jsonl": jsonl(samples),
        "predictions.jsonl": jsonl(predictions),
        "finished.json": {"exit_code": 0, "verdict": "learned: yes, broke: nothing"},
    }
    short = {name.rpartition("/")[2].partition(".")[0]: name for name in content}
    for key, value in changed.items():
        content[short[key]] = value
    for name, value in content.items():
        if value is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            (folder / name).write_text(text, encoding="utf-8")
    return folder
