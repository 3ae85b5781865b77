"""Generation speed on this machine's CPU: afina's engine beside the two ways that scripts use transformers.

31.8 M parameters (Llama shape, random weights; or a model's folder, `--base`), 200 Canarim prompts as they come,
greedy, 64 new tokens, float32. Every contestant runs in a process of its own, in turn; loading is left out, reading
the prompts is not. Counted are the new tokens of each answer up to and with its end token, never what a batch writes
after it.

    OMP_NUM_THREADS=2 python benchmarks/generate_cpu.py --data ../shared/data/ptbr/canarim

    afina        the engine as evaluation calls it
    one by one   model.generate for each prompt; every fifth prompt only, as it takes minutes (`--all` for all of them)
    batches      model.generate for 16 prompts at a time, in order of arrival, padded on the left

The engine's answers are compared with those written one by one, token by token.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from contestants import print_result, run_contestant
from train_cpu import make_base, read_rows

BATCH = 16


def load(base: Path, rows: list[dict[str, str]]) -> tuple[Any, Any, list[list[int]]]:
    """The model, its tokenizer, and the prompts' ids."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    turns = [[{"role": "user", "content": row["prompt"]}] for row in rows]
    prompts = [tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False) for turn in turns]
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval(), tokenizer, prompts


def run_afina(model: Any, tokenizer: Any, prompts: list[list[int]], new: int, end: int) -> list[list[int]]:
    from afina.model.generate.engine_torch import Engine
    from afina.model.generate.request import Request

    engine = Engine(model, tokenizer, [end])
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))  # as `generate` does
    number_of = {engine.submit(Request(prompt=prompts[number], max_new_tokens=new)): number for number in order}
    written: list[list[int]] = [[] for _ in prompts]
    while engine.busy:
        for produced in engine.step():
            if produced.done:
                ended = [end] if produced.done.finish == "stop" else []
                written[number_of[produced.id]] = produced.done.tokens + ended
    print(engine.stats, file=sys.stderr)
    return written


def run_transformers(model: Any, prompts: list[list[int]], new: int, batch: int, end: int) -> list[list[int]]:
    import torch

    written = []
    for start in range(0, len(prompts), batch):
        some = prompts[start : start + batch]
        length = max(map(len, some))
        ids = torch.tensor([[0] * (length - len(prompt)) + prompt for prompt in some])
        mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in some])
        arguments = {"max_new_tokens": new, "do_sample": False, "pad_token_id": 0, "eos_token_id": end}
        with torch.inference_mode():
            output = model.generate(input_ids=ids, attention_mask=mask, **arguments)
        for answer in output[:, length:].tolist():
            written.append(answer[: answer.index(end) + 1] if end in answer else answer)
    return written


def contestant(arguments: argparse.Namespace) -> None:
    """One contestant in this process; prints one line of JSON."""
    import torch

    model, tokenizer, prompts = load(arguments.base, read_rows(arguments.data / "test.jsonl", arguments.rows))
    if arguments.contestant == "one by one" and not arguments.all:
        prompts = prompts[::5]
    end = tokenizer.eos_token_id
    run_transformers(model, prompts[:1], 4, 1, end)  # the first call of a process is slower for everybody
    started = time.perf_counter()
    if arguments.contestant == "afina":
        written = run_afina(model, tokenizer, prompts, arguments.new, end)
    else:
        batch = BATCH if arguments.contestant == "batches" else 1
        written = run_transformers(model, prompts, arguments.new, batch, end)
    seconds = time.perf_counter() - started
    result = {"seconds": seconds, "tokens": sum(map(len, written)), "threads": torch.get_num_threads()}
    print_result(result | {"prompts": len(prompts), "written": written})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent.parent
    parser.add_argument("--data", type=Path, default=here.parent / "shared/data/ptbr/canarim")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--all", action="store_true", help="all prompts one by one, too")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--base", type=Path, help="a model's folder; one of random weights is made where not given")
    arguments = parser.parse_args()
    if arguments.contestant:
        contestant(arguments)
        return
    if not arguments.data.is_dir():
        print(f"left out: the prompts are not here ({arguments.data}); name them with --data")
        return
    names = ["afina", "one by one", "batches"]
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        base = arguments.base or Path(folder) / "base"
        if arguments.base is None:
            make_base(base, arguments.data, slice(0, 0))
        for _ in range(arguments.rounds):
            for name in names:
                command = [sys.executable, __file__, "--contestant", name, "--base", base, "--data", arguments.data]
                command += ["--rows", arguments.rows, "--new", arguments.new, *(["--all"] if arguments.all else [])]
                done, said = run_contestant(command)
                if done is None:
                    sys.exit(f"{name} failed:\n{said}")
                results[name].append(done)
    speeds = {name: statistics.median(one["tokens"] / one["seconds"] for one in each) for name, each in results.items()}
    print(f"{'':12}{'tokens/s':>10}{'afina is':>11}{'prompts':>9}{'tokens':>9}{'seconds':>9}{'threads':>9}")
    for name, each in results.items():
        first, seconds = each[0], statistics.median(one["seconds"] for one in each)
        print(
            f"{name:12}{speeds[name]:>10.0f}{speeds['afina'] / speeds[name]:>10.2f}x{first['prompts']:>9}"
            f"{first['tokens']:>9}{seconds:>9.1f}{first['threads']:>9}"
        )
    ours, alone = results["afina"][0]["written"], results["one by one"][0]["written"]
    ours = ours if arguments.all else ours[::5]
    same = sum(one == other for one, other in zip(ours, alone, strict=True))
    print(f"answers the same as one by one: {same} of {len(alone)}")
    together = results["batches"][0]["written"]
    together = together if arguments.all else together[::5]
    same = sum(one == other for one, other in zip(together, alone, strict=True))
    print(f"(transformers' own batches: {same} of {len(alone)})")


if __name__ == "__main__":
    main()
