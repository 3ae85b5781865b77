"""How far the planner is from published, measured runs.

    python benchmarks/plan_accuracy.py [--rows]

Reads ``../shared/planner/cases.json``: training cases of quality A (settings complete, length
really fixed) of a known shape on one device. Prints the median absolute error of the point, how
often the measurement lies in the interval, and what was left out and why. The cases come from
other programs than afina, each with its own kernels; nothing here is fitted to them one by one.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from afina.errors import RecipeError
from afina.model.shape import Shape
from afina.plan.device import find_device
from afina.plan.interval import Interval
from afina.plan.memory import CUDA_CONTEXT_BYTES, Setup, training_memory
from afina.plan.time import flops_per_token, training_rate

SHARED = Path(__file__).parents[2] / "shared" / "planner"
DEVICES = {
    "NVIDIA A100-SXM4-80GB": "A100 80GB",
    "NVIDIA A100-SXM4-40GB": "A100 40GB",
    "NVIDIA A10G": "A10G",
    "NVIDIA GeForce RTX 4090": "RTX 4090",
    "RTX 4090": "RTX 4090",
    "Tesla T4": "T4",
}
TARGETS = {"q": ("q_proj",), "k": ("k_proj",), "v": ("v_proj",), "o": ("o_proj",), "lm_head": ("lm_head",)}


def published_shape(facts: dict[str, Any]) -> Shape:
    """A row of ``architectures.json``; biases and norms are left out of those, and so here."""
    return Shape(
        model_type="llama",
        layers=facts["num_layers"],
        hidden=facts["hidden"],
        intermediate=facts["intermediate"],
        heads=facts["heads"],
        kv_heads=facts["kv_heads"],
        head_dim=facts["head_dim"],
        vocab=facts["vocab"],
        tied_embeddings=facts["tied_embeddings"],
        max_positions=0,
        mlp_matrices=facts["mlp_matrices"],
    )


def setup_of(case: dict[str, Any], shape: Shape) -> Setup:
    """What the case says about its memory. Logits at every position, as its program computes them."""
    targets: str | tuple[str, ...] = "all-linear"
    if case["method"] in ("lora", "qlora") and "c_attn" not in case["target_modules"]:
        mlp = tuple(linear.name for linear in shape.linears if linear.name.startswith("mlp."))
        table = TARGETS | {"mlp(all)": mlp}
        targets = tuple(name for target in case["target_modules"] for name in table.get(target, (target,)))
    sixteen_bits = case["framework"].startswith(("litgpt", "lit-gpt", "torchtune"))
    weight, gradient, state = (2.0, 2.0, 4.0) if sixteen_bits else (4.0, 4.0, 8.0)
    tokens = case["micro_batch"] * case["seq_len"]
    return Setup(
        kind=case["method"] if case["method"] in ("lora", "qlora") else "none",
        batch_tokens=tokens,
        target_tokens=tokens,
        rank=case["lora_rank"] or 0,
        targets=targets,
        place="cuda",
        arithmetic="lean",
        rest_bytes=2.0,
        checkpointing=bool(case["gradient_checkpointing"]),
        trained_bytes=(weight, gradient, 2.0 if "8bit" in (case["optimizer"] or "") else state),
    )


def why_left_out(case: dict[str, Any], shapes: dict[str, Any]) -> str | None:
    """The reason why a case cannot be compared, if there is one."""
    if case["model"] not in shapes:
        return "shape not known (a mixture of experts)"
    if case["device"]["count"] != 1:
        return "several devices: sharded"
    if case["method"] in ("lora", "qlora") and not case["target_modules"]:
        return "adapter targets not stated"
    if "wte(full)" in (case["target_modules"] or []):
        return "embeddings trained beside the adapter, which afina does not do"
    return None


def predicted_bytes(case: dict[str, Any], shape: Shape) -> Interval:
    """The total; without the driver's context where the case's number comes from torch's allocator."""
    total = Interval.total(training_memory(shape, setup_of(case, shape)).values())
    if (case["mem_metric"] or "").startswith("torch"):
        context = CUDA_CONTEXT_BYTES
        return Interval(total.point - context.point, total.low - context.low, total.high - context.high)
    return total


def predicted_tokens_per_second(case: dict[str, Any], shape: Shape) -> Interval:
    """From the rate that training reaches, padding left out: these runs have full blocks."""
    setup = setup_of(case, shape)
    device = find_device(DEVICES[case["device"]["name"]])
    return training_rate(shape, setup, device) * (1 / flops_per_token(shape, setup, case["seq_len"], 1.0))


def main() -> None:
    """Print the tables."""
    if not SHARED.exists():
        sys.exit(f"needs {SHARED}, which is not here")
    shapes = json.loads((SHARED / "architectures.json").read_text(encoding="utf-8"))
    cases = json.loads((SHARED / "cases.json").read_text(encoding="utf-8"))
    cases = [case for case in cases if case["kind"] == "train" and case["quality"] == "A"]
    left_out: Counter[str] = Counter()
    results: dict[tuple[str, str, str], list[tuple[float, bool, str]]] = defaultdict(list)
    for case in cases:
        if reason := why_left_out(case, shapes):
            left_out[reason] += 1
            continue
        shape, measured = published_shape(shapes[case["model"]]), case["measured"]
        program = case["framework"].split()[0]
        comparisons = []
        if "peak_memory_gb" in measured:
            comparisons.append(("memory", measured["peak_memory_gb"] * 1e9, predicted_bytes))
        if "tokens_per_s" in measured and case["seq_len_is"].startswith("fixed"):
            comparisons.append(("tokens/s", measured["tokens_per_s"], predicted_tokens_per_second))
        if not comparisons:
            left_out["nothing measured that is predicted (fits or not, or time with unknown lengths)"] += 1
        for what, value, predict in comparisons:
            try:
                guess = predict(case, shape)
            except RecipeError as error:
                left_out[f"{what}: {error.problems[0].what}"] += 1
                continue
            error_share = guess.point / value - 1
            inside = guess.low <= value <= guess.high
            results[what, case["method"], program].append((error_share, inside, case["id"]))
            results[what, case["method"], "all"].append((error_share, inside, case["id"]))
    print(f"{'what':<10}{'method':<9}{'program':<12}{'cases':>6}{'median |error|':>16}{'worst':>16}{'in interval':>13}")
    for (what, method, program), rows in sorted(results.items()):
        errors = [row[0] for row in rows]
        worst = max(errors, key=abs)
        share = sum(row[1] for row in rows) / len(rows)
        median = statistics.median(map(abs, errors))
        print(f"{what:<10}{method:<9}{program:<12}{len(rows):>6}{median:>15.1%} {worst:>+15.1%}{share:>13.0%}")
        if "--rows" in sys.argv and program != "all":
            for error_share, inside, name in rows:
                print(f"    {error_share:>+8.1%} {'in ' if inside else 'OUT'} {name}")
    print("\nleft out:")
    for reason, count in left_out.most_common():
        print(f"{count:>4}  {reason}")


if __name__ == "__main__":
    main()
