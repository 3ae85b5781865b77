"""Measure the peak memory of whole trainings, each in a process of its own; run by ``test_plan_measured.py``.

    python tests/measure_training.py FOLDER [NAME...] [METHOD...]

The libraries are loaded once, and so is what the first training loads of afina; every training runs in a fork, whose
high-water mark starts at what was loaded: what `afina train` has in a fresh process too. Prints one JSON object per
training.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "vocab_size": 8000},
    "mistral": {"hidden_size": 384, "intermediate_size": 512, "num_hidden_layers": 3, "vocab_size": 2000},
    "qwen2": {"hidden_size": 128, "intermediate_size": 1024, "num_hidden_layers": 8, "vocab_size": 4000},
    "qwen3": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 5, "vocab_size": 16000},
    "gemma": {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "vocab_size": 32000},
    "phi3": {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2, "vocab_size": 1000},
}
ROUTED = {"moe_intermediate_size": 128, "num_experts_per_tok": 2}
LATENT = {"q_lora_rank": 64, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 48, "v_head_dim": 64}
WALKED: dict[str, dict[str, Any]] = {
    "qwen3_moe": ROUTED | {"hidden_size": 256, "num_hidden_layers": 4, "vocab_size": 8000, "num_experts": 16},
    "gemma3_text": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "vocab_size": 32000}
    | {"sliding_window": 64},
    "qwen3_5_text": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "vocab_size": 8000}
    | {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 64, "linear_value_head_dim": 64},
    "deepseek_v3": ROUTED
    | LATENT
    | {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4}
    | {"vocab_size": 8000, "n_routed_experts": 16, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
    "smollm3": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "vocab_size": 8000},
    "olmo3": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "vocab_size": 8000}
    | {"sliding_window": 64},
    "lfm2": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "vocab_size": 8000}
    | {"layer_types": ["conv", "conv", "full_attention"] * 2},
    "gpt_neox": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "vocab_size": 8000},
    "granitemoe": {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 4, "vocab_size": 8000}
    | {"num_local_experts": 8, "num_experts_per_tok": 2},
}
"""Families whose shape is read from the model itself."""
SHAPES |= WALKED
METHODS = ("lora", "qlora", "none")
BOUND = 0.15
"""How far the predicted peak may be from the measured one: the interval that a plan on a CPU gives."""
MAX_LENGTH, BATCH_TOKENS = 256, 1024
SENTENCES = 110
"""Of the text that is learned: three steps; with fewer, the averages are not there at the peak."""


def make_base(kind: str, folder: Path) -> None:
    """Random weights of a real architecture, and a tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.tiny import make_tokenizer

    tokenizer = make_tokenizer(folder)
    sizes = SHAPES[kind] | {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    sizes |= {"head_dim": 64} if kind in ("gemma", "qwen3", *WALKED) and kind != "deepseek_v3" else {}
    ids = {"pad_token_id": 0, "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **ids)).save_pretrained(folder)


def write_recipe(folder: Path, kind: str, method: str) -> Path:
    """Two steps over four full blocks each."""
    (folder / "data").mkdir(exist_ok=True)
    text = " ".join(f"Faro {number} marcou contra Tavira {number * 7 % 100}." for number in range(SENTENCES))
    (folder / "data/a.txt").write_text(text, encoding="utf-8")
    file = folder / f"{kind}-{method}.yaml"
    file.write_text(
        f"name: {kind}-{method}\nroot: {folder}/data\nbase: {folder}/{kind}\nsources: [{{path: a.txt}}]\n"
        f"dataset: {{validation: 0}}\nadapter: {{kind: {method}, rank: 8}}\nevaluate: {{samples: 0}}\n"
        f"train: {{method: cpt, epochs: 1, max_length: {MAX_LENGTH}, batch_tokens: {BATCH_TOKENS}}}\n",
        encoding="utf-8",
    )
    return file


def train(folder: Path, kind: str, method: str) -> dict[str, Any]:
    """`afina train` of one recipe; what was predicted and what was measured."""
    from afina.recipe import load_recipe
    from afina.run import Run, no_progress, read_json
    from afina.walk.context import Context
    from afina.walk.walk import do_stages

    recipe = load_recipe(write_recipe(folder, kind, method))
    run = folder / "runs" / recipe.name
    with Run.open(run, recipe, lambda _: None) as opened:
        context = Context(opened, lambda _: contextlib.nullcontext(no_progress))
        result = do_stages(context, "dataset", "tokens", "plan", "train")
    plan = read_json(run / "plan.json")
    return {
        "kind": kind,
        "method": method,
        "predicted": plan["memory"]["point"],
        "parts": {name: part["point"] for name, part in plan["memory"]["parts"].items()},
        "measured": result["peak_bytes"],
        "steps": result["steps"],
        "seconds": result["train_seconds"],
        "predicted_seconds": plan["time"]["parts"]["training"]["point"],
    }


def probe(folder: Path, kind: str, method: str) -> dict[str, Any]:
    """`afina plan --trial` of one recipe: seconds of training, predicted before and after the three steps."""
    from afina.recipe import load_recipe
    from afina.run import Run, no_progress
    from afina.walk.context import Context
    from afina.walk.planning import trial_plan
    from afina.walk.walk import do_stages

    recipe = load_recipe(write_recipe(folder, kind, method))
    with Run.open(folder / "probed" / recipe.name, recipe, lambda _: None) as opened:
        context = Context(opened, lambda _: contextlib.nullcontext(no_progress))
        do_stages(context, "dataset", "tokens")
        plan = trial_plan(context)
        do_stages(context, "plan")
    from afina.run import read_json

    before = read_json(folder / "probed" / recipe.name / "plan.json")
    return {
        "before": before["time"]["parts"]["training"]["point"],
        "after": plan.time_parts["training"].as_json(),
        "memory": plan.memory.as_json(),
    }


def in_a_fork(work: Callable[[], None]) -> None:
    """Run it in a child of its own, so that its memory and its high-water mark are its own."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            sys.stdout.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(f"a training failed with status {status}")


def load_libraries() -> None:
    """Everything that a training imports, and one thread."""
    import bitsandbytes
    import peft
    import torch
    import transformers.models.auto.modeling_auto
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    import afina.train.backend_torch  # noqa: F401

    _ = bitsandbytes, peft, transformers
    torch.set_num_threads(1)


def on_disk() -> list[str]:
    """A shape trained whole, in so many short steps that its state to go back to would be held with the moments, where
    none is small enough for that: as with half a billion parameters."""
    from afina.model import footprint

    global MAX_LENGTH, BATCH_TOKENS, SENTENCES
    footprint.MEMORY_BYTES, MAX_LENGTH, BATCH_TOKENS, SENTENCES = 0, 64, 64, 75
    SHAPES["llama"] = {"hidden_size": 384, "intermediate_size": 1056, "num_hidden_layers": 6, "vocab_size": 4000}
    return ["llama"]


def main() -> None:
    """Every shape with every method, or those named; `--on-disk`: see :func:`on_disk`."""
    folder, names = Path(sys.argv[1]), [name for name in sys.argv[2:] if name not in METHODS]
    methods = tuple(name for name in METHODS if name in sys.argv[2:]) or METHODS
    if names == ["--on-disk"]:
        names, methods = on_disk(), ("none",)
    from afina.train.flops_torch import process_peak_bytes

    load_libraries()
    loaded, modules = process_peak_bytes(), folder / "modules"
    for kind in SHAPES:
        if names and kind not in names:
            continue
        in_a_fork(lambda kind=kind: make_base(kind, folder / kind))  # type: ignore[misc]
        for method in methods:

            def work(kind: str = kind, method: str = method) -> None:
                started = time.time()
                found = train(folder, kind, method) | {"loaded": loaded}
                sys.stdout.write(json.dumps(found | {"wall": round(time.time() - started, 2)}) + "\n")
                sys.stdout.flush()
                modules.write_text("\n".join(name for name in sys.modules if name.startswith("afina.")))

            in_a_fork(work)
            for name in modules.read_text().splitlines():
                importlib.import_module(name)
            gc.freeze()  # or each training would look through all of that for cycles


if __name__ == "__main__":
    main()
