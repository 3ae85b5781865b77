"""Training speed on this machine's CPU: afina's loop beside TRL's trainer and beside the monograph's settings.

The same 31.8 M parameters (Llama shape), LoRA of rank 16 on seven modules, the same Canarim rows, one epoch, the
same trained tokens, float32. Every contestant runs in a process of its own, in turn, and says how many real tokens
(padding is not counted) it put through per second of training; loading and importing are left out for all.

    python benchmarks/train_cpu.py --data ../shared/data/ptbr/canarim --peer-python PATH/TO/python-with-trl

    afina          rows sorted by length within a window, padded micro-batches of about 1,024 tokens
    trl            SFTTrainer as it comes, batches of 8
    trl-packing    SFTTrainer with packing, 2 x 512
    monograph      micro-batches of 2 in order of arrival, padded to a multiple of 8, accumulation 8, all logits,
                   activation checkpointing
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RATE, RANK, ALPHA, MAX_LENGTH = 2e-4, 16, 32, 512
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def read_rows(file: Path, limit: int) -> list[dict[str, str]]:
    """Prompt and completion of the rows that have both."""
    rows = []
    for line in file.open(encoding="utf-8"):
        row = json.loads(line)
        if row["instruction"].strip() and row["output"].strip():
            prompt = row["instruction"] + (f"\n\nEntrada:\n{row['input']}" if row["input"] else "")
            rows.append({"prompt": prompt, "completion": row["output"]})
    return rows[:limit]


def make_base(folder: Path, data: Path) -> None:
    """The 31.8 M Llama shape with random weights and a 16k byte-level BPE trained on the rows."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    rows = read_rows(data / "train.jsonl", 8000)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=16000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator((f"{row['prompt']}\n{row['completion']}" for row in rows), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", eos_token="<|im_end|>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16000,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def encode(base: Path, rows: list[dict[str, str]]) -> tuple[list[Any], Any]:
    """Rows of token ids; those longer than MAX_LENGTH are left out for every contestant."""
    from afina.dataset.example import Example
    from afina.recipe import Chat, Recipe, Source, Train
    from afina.tokenizer.chat import Renderer
    from afina.tokenizer.encode import encode_examples
    from afina.tokenizer.load import load_tokenizer

    recipe = Recipe(
        name="bench",
        base=str(base),
        sources=[Source(path="x")],
        train=Train(max_length=MAX_LENGTH, learning_rate=RATE, epochs=1, batch_tokens=1024, checkpoint_seconds=1e9),
        dataset={"on_too_long": "drop"},  # type: ignore[arg-type]
    )
    renderer = Renderer(load_tokenizer(str(base), Chat()), Chat())
    examples = [
        Example(
            messages=(
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["completion"]},
            )
        )
        for row in rows
    ]
    return encode_examples(examples, renderer, recipe).rows, recipe


def load_with_adapter(base: Path) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(0)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=MODULES, task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def run_afina(base: Path, rows: list[dict[str, str]], out: Path) -> dict[str, Any]:
    import torch

    from afina.train.loop_torch import train

    encoded, recipe = encode(base, rows)
    model = load_with_adapter(base)
    started = time.perf_counter()
    state = train(
        model,
        encoded,
        [],
        recipe.train,
        seed=0,
        pad_id=0,
        device=torch.device("cpu"),
        checkpoints=out / "checkpoints",
        fingerprint="bench",
        log=lambda *_, **__: None,
        say=lambda _: None,
    )
    seconds = time.perf_counter() - started
    model.save_pretrained(out / "adapter")
    return {"seconds": seconds, "tokens": state.tokens, "targets": state.targets, "steps": state.step}


def run_monograph(base: Path, rows: list[dict[str, str]], out: Path) -> dict[str, Any]:
    """The published loop's settings, as plain as they can be written."""
    import torch

    encoded, _ = encode(base, rows)
    model = load_with_adapter(base)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=RATE)
    started = time.perf_counter()
    for start in range(0, len(encoded), 16):
        for pair in range(start, min(start + 16, len(encoded)), 2):
            micro = encoded[pair : pair + 2]
            length = -(-max(len(row) for row in micro) // 8) * 8
            ids = torch.zeros(len(micro), length, dtype=torch.long)
            mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
            for number, row in enumerate(micro):
                ids[number, : len(row)] = torch.tensor(row.ids)
                mask[number, : len(row)] = 1
                learned = torch.tensor(row.mask)
                labels[number, : len(row)][learned] = torch.tensor(row.ids)[learned]
            loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
            (loss / 8).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - started
    model.save_pretrained(out / "adapter")
    tokens, targets = sum(len(row) for row in encoded), sum(sum(row.mask) for row in encoded)
    return {"seconds": seconds, "tokens": tokens, "targets": targets, "steps": -(-len(encoded) // 16)}


def run_trl(base: Path, rows: list[dict[str, str]], out: Path, *, packing: bool) -> dict[str, Any]:
    """TRL's trainer on the same rows, as conversations of prompt and completion."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(base)
    turns = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["completion"]}],
        }
        for row in rows
    ]
    ids = [tokenizer.apply_chat_template(t["prompt"] + t["completion"], return_dict=False) for t in turns]
    prompts = [tokenizer.apply_chat_template(t["prompt"], add_generation_prompt=True, return_dict=False) for t in turns]
    kept = [number for number, row in enumerate(ids) if len(row) <= MAX_LENGTH]
    arguments = SFTConfig(
        output_dir=str(out / "trainer"),
        num_train_epochs=1,
        packing=packing,
        max_length=MAX_LENGTH,
        per_device_train_batch_size=2 if packing else 8,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        learning_rate=RATE,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        args=arguments,
        train_dataset=Dataset.from_list([turns[number] for number in kept]),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=MODULES, task_type="CAUSAL_LM"),
    )
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    trainer.model.save_pretrained(out / "adapter")
    return {
        "seconds": seconds,
        "tokens": sum(len(ids[number]) for number in kept),
        "targets": sum(len(ids[number]) - len(prompts[number]) for number in kept),
        "steps": trainer.state.global_step,
    }


def held_out(base: Path, adapter: Path, rows: list[dict[str, str]]) -> float:
    """Held-out loss of an adapter, measured for all contestants by the same function."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from afina.evaluate.loss import held_out_loss

    encoded, _ = encode(base, rows)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter).eval()
    return held_out_loss(model, encoded, pad_id=0, device=torch.device("cpu"), batch_tokens=4096).loss


def matmul_flops() -> float:
    """Floating-point operations per second of a float32 matrix product of the size that the layers have."""
    import torch

    a, b = torch.randn(1024, 512), torch.randn(512, 1408)
    for _ in range(20):
        a @ b
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(100):
            a @ b
        best = max(best, 100 * 2 * 1024 * 512 * 1408 / (time.perf_counter() - started))
    return best


def required_flops(result: dict[str, Any]) -> float:
    """4 per body weight and token, 4 per logit weight and answer token, 6 per adapter weight and token."""
    body = 8 * (512 * 512 * 2 + 512 * 256 * 2 + 3 * 512 * 1408)
    adapter = 8 * RANK * ((512 + 512) * 2 + (512 + 256) * 2 + 3 * (512 + 1408))
    return 4 * body * result["tokens"] + 4 * 512 * 16000 * result["targets"] + 6 * adapter * result["tokens"]


def contestant(name: str, arguments: argparse.Namespace) -> None:
    """One contestant in this process; prints one line of JSON."""
    out = Path(arguments.out)
    rows = read_rows(arguments.data / "train.jsonl", arguments.rows)
    if name == "afina":
        result = run_afina(arguments.base, rows, out)
    elif name == "monograph":
        result = run_monograph(arguments.base, rows, out)
    else:
        result = run_trl(arguments.base, rows, out, packing=name == "trl-packing")
    result["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("RESULT " + json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent.parent
    parser.add_argument("--data", type=Path, default=here.parent / "shared/data/ptbr/canarim")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-python", help="a Python that has trl, transformers, peft and datasets")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contestant:
        contestant(arguments.contestant, arguments)
        return
    if not arguments.data.is_dir():
        print(f"left out: the rows are not here ({arguments.data}); name them with --data")
        return
    names = ["afina", "monograph"] + (["trl", "trl-packing"] if arguments.peer_python else [])
    if not arguments.peer_python:
        print("trl is left out: name a Python that has it with --peer-python")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        make_base(base, arguments.data)
        flops = matmul_flops()
        print(f"float32 matrix product: {flops / 1e9:.0f} GFLOP/s")
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for turn in range(arguments.rounds):
            for name in names:
                python = arguments.peer_python if name.startswith("trl") else sys.executable
                out = Path(folder) / f"{name}-{turn}"
                command = [python, __file__, "--contestant", name, "--base", base, "--out", out]
                command += ["--data", arguments.data, "--rows", arguments.rows]
                done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
                line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
                if line is None:
                    sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
                results[name].append(json.loads(line.removeprefix("RESULT ")))
                print(f"  round {turn + 1} {name}: {results[name][-1]}", flush=True)
        rows = read_rows(arguments.data / "val.jsonl", 200)
        speeds = {
            name: statistics.median(each["tokens"] / each["seconds"] for each in done) for name, done in results.items()
        }
        heads = (("tokens/s", 10), ("afina is", 11), ("loss", 9), ("peak MiB", 10), ("tokens", 9), ("learned", 9))
        print("\n" + " " * 14 + "".join(f"{head:>{wide}}" for head, wide in heads) + f"{'steps':>7}")
        for name, done in results.items():
            loss = held_out(base, Path(folder) / f"{name}-0/adapter", rows)
            print(
                f"{name:14}{speeds[name]:>10.0f}{speeds['afina'] / speeds[name]:>9.2f}x{loss:>9.4f}"
                f"{max(each['peak_mib'] for each in done):>10.0f}{done[0]['tokens']:>9}{done[0]['targets']:>9}"
                f"{done[0]['steps']:>7}"
            )
        best = min(results["afina"], key=lambda each: each["seconds"])
        share = required_flops(best) / best["seconds"] / flops
        print(f"\nafina's required operations per second: {share:.2f} of the matrix product's")


if __name__ == "__main__":
    main()
