"""Training from scratch on this machine's CPU: a step of a small Transformer, and an LSTM over characters.

Every contestant runs in a process of its own, with as many threads, and starts from the same weights.

**--part step**: a Llama-shaped Transformer of 320 x 6 (8 heads, feed-forward 1280, 16,000 subwords; Machado's text by a
BPE trained on it) learns the same batches in the same order at the same rate. Rows are full: nothing is padding. All
are made ready, then each does a step while the others wait, in an order that rotates. Said are real tokens per second
after the first steps, the ratio with its interval over the pairs of steps, and the held-out loss at the end.

    afina            its loop, as `method: scratch` runs it
    afina-compiled   the same with `train.compile: on`
    plain-torch      a plain GPT loop: torch modules, scaled_dot_product_attention, all logits, fused AdamW
    plain-compiled   the same through torch.compile
    litgpt           litgpt's model and its loss, compiled as its `pretrain` does (--peer-python: a Python that has it)
    litgpt-eager     the same, not compiled
    product          as many operations as afina's step requires, in matrix products alone: what the machine gives

**--part optimizers**: AdamW and Muon at several rates, a Transformer of 128 x 4 over the same 0.6 million tokens.

**--part streams**: an LSTM of 256 over characters (embedding 128) to the same held-out bits per byte: `afina train`
over continuous streams, beside the published way, windows of 160 characters at every character, of which only the last
one is predicted, 256 at a time. That one gets --seconds; asked is when ours was as low.

    python benchmarks/scratch_cpu.py --part step --peer-python VENV/bin/python
    python benchmarks/scratch_cpu.py --part streams --seconds 900
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from contestants import peak_bytes, print_result, run_contestant, run_in_turns, wait_for_turn

HERE = Path(__file__).resolve().parent
OURS = ("afina", "afina-compiled", "plain-torch", "plain-compiled")
PEERS = ("litgpt", "litgpt-eager")
PRODUCT = "product"
RATE, CLIP = 1e-3, 1.0
WARM = 3
"""First steps that are not counted: compiling, and memory that is fetched for the first time."""


@dataclass(frozen=True)
class Work:
    """What the contestants of a step do."""

    hidden: int = 320
    layers: int = 6
    heads: int = 8
    intermediate: int = 1280
    vocab: int = 16_000
    length: int = 256
    rows: int = 16
    """Of a batch."""
    steps: int = 43
    held_out: int = 64
    """Rows that nobody learns."""


TINY = Work(hidden=16, layers=1, heads=2, intermediate=32, vocab=400, length=32, rows=2, steps=WARM + 2, held_out=2)


# ---- the same start for everybody


def make_start(folder: Path, data: Path, work: Work) -> None:
    """Write the weights (``model/``, as transformers saves them) and the batches (``ids.npy``, rows x length)."""
    import numpy as np
    import torch

    from afina.model.load_torch import make_model
    from afina.recipe import Chat, Recipe, Scratch, Source, Train
    from afina.tokenizer.load import load_tokenizer
    from afina.tokenizer.train import train_tokenizer

    rows = work.steps * work.rows + work.held_out
    files = sorted(data.rglob("*.txt"))
    texts = [file.read_text(encoding="utf-8") for file in files[: 3 if work.hidden == TINY.hidden else None]]
    train_tokenizer("byte-bpe", iter(texts), work.vocab, folder / "tokenizer", work.length)
    tokenizer = load_tokenizer(str(folder / "tokenizer"), Chat())
    ids: list[int] = []
    for text in texts:
        ids += [*tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], tokenizer.eos_token_id]
        if len(ids) >= rows * work.length:
            break
    else:
        sys.exit(f"{data} holds {len(ids)} tokens, and {rows * work.length} are needed: fewer steps")
    cut = np.array(ids[: rows * work.length], np.int64).reshape(rows, work.length)
    np.random.default_rng(0).shuffle(cut[: -work.held_out])  # those held out stand behind all others
    np.save(folder / "ids.npy", cut)
    scratch = Scratch(
        hidden=work.hidden,
        layers=work.layers,
        heads=work.heads,
        intermediate=work.intermediate,
        vocab=max(work.vocab, len(tokenizer)),
    )
    train = Train(method="scratch", max_length=work.length)
    recipe = Recipe(name="start", sources=[Source(path="x")], scratch=scratch, train=train)
    make_model(recipe, len(tokenizer), tokenizer, torch.device("cpu")).save_pretrained(folder / "model")


def read_batches(folder: Path, work: Work) -> tuple[Any, Any]:
    """Batches, steps x rows x length, and the rows that are held out."""
    import numpy as np
    import torch

    ids = torch.from_numpy(np.load(folder / "ids.npy"))
    learned = work.steps * work.rows
    return ids[:learned].view(work.steps, work.rows, work.length), ids[learned:]


# ---- a step


def run_afina(folder: Path, work: Work, turn: Callable[[], None] = lambda: None, **changes: Any) -> dict[str, Any]:
    """The loop over rows of one length; it takes them in the order of `read_batches`.

    Args:
        turn: called before each step; its time is nobody's.
        changes: of the settings of training.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from afina.evaluate.loss import held_out_loss
    from afina.model.reader_torch import TorchReader
    from afina.plan.matrix_rate_torch import measured_flops
    from afina.recipe import Chat, Train
    from afina.text.example import Example
    from afina.tokenizer.encode import Row
    from afina.tokenizer.load import load_tokenizer
    from afina.train.backend_torch import TorchBackend
    from afina.train.batches import plan_epoch
    from afina.train.loop import TrainingJob, train

    plain = Train(
        method="scratch",
        max_length=work.length,
        batch_tokens=work.rows * work.length,
        epochs=1,
        learning_rate=RATE,
        schedule="constant",
        warmup=0.0,
        clip=CLIP,
        optimizer="adamw",
        precision="fp32",
        kernels="torch",
        compile="off",
        checkpoint_seconds=1e9,
    )
    settings = plain.model_copy(update=changes)
    batches, held_out = read_batches(folder, work)
    in_order = [row for batch in batches.tolist() for row in batch]
    plan = plan_epoch([work.length] * len(in_order), batch_tokens=settings.batch_tokens, seed=0, epoch=0)
    rows: list[Any] = [None] * len(in_order)
    for ids, place in zip(in_order, [number for batch in plan for number in batch], strict=True):
        rows[place] = Row(ids, [False] + [True] * (work.length - 1), Example())
    began, seconds = 0.0, list[float]()

    def log(event: str, **_: Any) -> None:
        nonlocal began
        if event == "step":
            seconds.append(time.perf_counter() - began)
            if len(seconds) < work.steps:
                turn()
            began = time.perf_counter()

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    backend = TorchBackend(model, settings, pad_id=0, device=torch.device("cpu"), say=lambda _: None)
    peak = measured_flops(2.0 if work.hidden != TINY.hidden else 0.1)
    with tempfile.TemporaryDirectory() as beside:
        turn()
        began = time.perf_counter()  # what is timed is all that the loop does
        train(backend, rows, [], settings, TrainingJob(Path(beside), "bench"), log=log, say=lambda _: None)
    tokenizer = load_tokenizer(str(folder / "tokenizer"), Chat())
    left = [
        Row(ids, [False] + [True] * (work.length - 1), Example(), len(tokenizer.decode(ids[1:]).encode()))
        for ids in held_out.tolist()
    ]
    score = held_out_loss(TorchReader(model.eval()), left, pad_id=0, batch_tokens=settings.batch_tokens)
    measured = {"seconds": seconds, "flops_of_a_step": flops_of_a_step(model, work), "peak_flops": peak}
    return measured | {"held_out": score.loss, "bits_per_byte": score.bits_per_byte}


def flops_of_a_step(model: Any, work: Work) -> float:
    """Floating-point operations that a step requires."""
    from afina.train.flops_torch import flops_per_token

    per_token, per_target = flops_per_token(model)
    return work.rows * (work.length * per_token + (work.length - 1) * per_target)


def run_product(folder: Path, work: Work, turn: Callable[[], None]) -> dict[str, Any]:
    """As many operations as a step requires, in one matrix product after the other."""
    import torch
    from transformers import AutoModelForCausalLM

    from afina.plan.matrix_rate_torch import COLUMNS, INNER, ROWS

    flops = flops_of_a_step(AutoModelForCausalLM.from_pretrained(folder / "model"), work)
    a, b, into = torch.ones(ROWS, INNER), torch.ones(INNER, COLUMNS), torch.empty(ROWS, COLUMNS)
    of_one = 2 * ROWS * INNER * COLUMNS
    times = max(1, round(flops / of_one))
    seconds = []
    for _ in range(work.steps):
        turn()
        started = time.perf_counter()
        for _ in range(times):
            torch.mm(a, b, out=into)
        seconds.append((time.perf_counter() - started) * flops / (times * of_one))
    return {"seconds": seconds}


def run_plain(folder: Path, work: Work, turn: Callable[[], None] = lambda: None, *, compiled: bool) -> dict[str, Any]:
    """A GPT loop as one writes it by hand."""
    import torch
    import torch.nn.functional as F
    from safetensors.torch import load_file

    model = plain_model(json.loads((folder / "model/config.json").read_text()))
    weights = load_file(folder / "model/model.safetensors")
    model.load_state_dict({name.removeprefix("model."): weight for name, weight in weights.items()}, strict=True)
    forward = torch.compile(model) if compiled else model

    def loss_of(ids_BL: Any) -> Any:
        logits_BLV = forward(ids_BL[:, :-1])
        return F.cross_entropy(logits_BLV.flatten(0, 1), ids_BL[:, 1:].flatten())

    return learn(model, loss_of, folder, work, turn)


def plain_model(config: dict[str, Any]) -> Any:
    """The same shape in torch's own modules, under transformers' names."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    h, heads, eps = config["hidden_size"], config["num_attention_heads"], config["rms_norm_eps"]
    size = h // heads
    angles = 10_000.0 ** (-torch.arange(0, size, 2) / size)
    angle_LS = torch.outer(torch.arange(config["max_position_embeddings"]), angles).repeat(1, 2)
    cos_LS, sin_LS = angle_LS.cos(), angle_LS.sin()

    def turned(x_BHLS: Any) -> Any:
        """Rotary positions, halves side by side."""
        length = x_BHLS.shape[2]
        one, other = x_BHLS.chunk(2, -1)
        return x_BHLS * cos_LS[:length] + torch.cat([-other, one], -1) * sin_LS[:length]

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(h, h, bias=False) for _ in range(4))

        def forward(self, x_BLD: Any) -> Any:
            q, k, v = (
                part(x_BLD).unflatten(-1, (heads, size)).transpose(1, 2)
                for part in (self.q_proj, self.k_proj, self.v_proj)
            )
            mixed = F.scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True)
            return self.o_proj(mixed.transpose(1, 2).flatten(2))

    class Mlp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            m = config["intermediate_size"]
            self.gate_proj, self.up_proj = (nn.Linear(h, m, bias=False) for _ in range(2))
            self.down_proj = nn.Linear(m, h, bias=False)

        def forward(self, x: Any) -> Any:
            return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn, self.mlp = Attention(), Mlp()
            self.input_layernorm, self.post_attention_layernorm = (nn.RMSNorm(h, eps) for _ in range(2))

        def forward(self, x: Any) -> Any:
            x = x + self.self_attn(self.input_layernorm(x))
            return x + self.mlp(self.post_attention_layernorm(x))

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed_tokens = nn.Embedding(config["vocab_size"], h)
            self.layers = nn.ModuleList(Block() for _ in range(config["num_hidden_layers"]))
            self.norm = nn.RMSNorm(h, eps)

        def forward(self, ids_BL: Any) -> Any:
            x = self.embed_tokens(ids_BL)
            for layer in self.layers:
                x = layer(x)
            return F.linear(self.norm(x), self.embed_tokens.weight)

    return Plain()


def run_litgpt(folder: Path, work: Work, turn: Callable[[], None], *, compiled: bool) -> dict[str, Any]:
    """litgpt's model, its conversion of the weights and its loss, in the order of its `pretrain.fit`."""
    import torch
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
    from litgpt.utils import chunked_cross_entropy
    from safetensors.torch import load_file

    shape = json.loads((folder / "model/config.json").read_text())
    model = GPT(
        Config(
            name="same",
            block_size=work.length,
            vocab_size=shape["vocab_size"],
            padded_vocab_size=shape["vocab_size"],
            n_layer=work.layers,
            n_head=work.heads,
            n_embd=work.hidden,
            n_query_groups=work.heads,
            rotary_percentage=1.0,
            parallel_residual=False,
            bias=False,
            norm_class_name="RMSNorm",
            norm_eps=shape["rms_norm_eps"],
            mlp_class_name="LLaMAMLP",
            intermediate_size=work.intermediate,
        )
    )
    weights: dict[str, Any] = {}
    copy_weights_hf_llama(model.config, {}, weights, load_file(folder / "model/model.safetensors"))
    weights.setdefault("lm_head.weight", weights["transformer.wte.weight"])
    model.load_state_dict(weights, strict=True)
    model.lm_head.weight = model.transformer.wte.weight
    forward = torch.compile(model) if compiled else model

    def loss_of(ids_BL: Any) -> Any:
        return chunked_cross_entropy(forward(ids_BL[:, :-1]), ids_BL[:, 1:])

    return learn(model, loss_of, folder, work, turn)


def learn(model: Any, loss_of: Any, folder: Path, work: Work, turn: Callable[[], None]) -> dict[str, Any]:
    """The steps of whoever has no loop of its own."""
    import torch

    batches, held_out = read_batches(folder, work)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0, fused=True)
    seconds = []
    for ids_BL in batches:
        turn()
        started = time.perf_counter()
        loss = loss_of(ids_BL)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        seconds.append(time.perf_counter() - started)
    with torch.no_grad():
        losses = [loss_of(row[None]).item() for row in held_out]
    return {"seconds": seconds, "held_out": statistics.fmean(losses)}


def compare_steps(arguments: argparse.Namespace, work: Work) -> dict[str, Any]:
    """All contestants, a step of each in turn; the table in Markdown."""
    names = [name for name in (*OURS, *(PEERS if arguments.peer_python else ()), PRODUCT) if chosen(arguments, name)]
    if not arguments.peer_python:
        print("litgpt is left out: name a Python that has it with --peer-python")
    with tempfile.TemporaryDirectory() as folder:
        make_start(Path(folder), arguments.data, work)
        options = ["--start", folder, "--steps", work.steps, *(["--tiny"] if arguments.tiny else [])]
        pythons = {name: arguments.peer_python if name in PEERS else sys.executable for name in names}
        ended = run_in_turns({name: [pythons[name], __file__, "--contestant", name, *options] for name in names})
    tokens, seconds = work.rows * work.length, {name: ended[name]["seconds"][WARM:] for name in names}
    speeds = {name: tokens / statistics.fmean(each) for name, each in seconds.items()}
    ratios = {name: ratio_interval(seconds[name], seconds["afina"]) for name in names if name != "afina"}
    print("\n| | tokens/s | afina is | held-out loss | peak MiB |\n|---|---|---|---|---|")
    for name in names:
        ratio = "{:.3f} x ({:.3f} to {:.3f})".format(*ratios[name]) if name in ratios else ""
        loss = f"{ended[name]['held_out']:.4f}" if name != PRODUCT else ""
        print(f"| {name} | {speeds[name]:.0f} | {ratio} | {loss} | {ended[name]['peak_bytes'] / 2**20:.0f} |")
    flops, peak = ended["afina"]["flops_of_a_step"], ended["afina"]["peak_flops"]
    share = flops / statistics.fmean(seconds["afina"]) / peak
    print(f"\nthe fastest product, before the first step: {peak / 1e9:.0f} GFLOP/s; afina's step is {share:.2f} of it")
    losses = {name: done["held_out"] for name, done in ended.items() if name != PRODUCT}
    print(f"the held-out losses lie within {max(losses.values()) - min(losses.values()):.1e} nats a token")
    return {"tokens_per_second": speeds, "afina_is": ratios, "share_of_fastest": share, "held_out": losses}


def ratio_interval(theirs: list[float], ours: list[float]) -> tuple[float, float, float]:
    """How many times ours is as fast, and its 95 % interval, by drawing the pairs of steps done side by side."""
    import numpy as np

    drawn = np.random.default_rng(0).integers(len(ours), size=(2000, len(ours)))
    ratios = np.array(theirs)[drawn].sum(1) / np.array(ours)[drawn].sum(1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return sum(theirs) / sum(ours), float(low), float(high)


def chosen(arguments: argparse.Namespace, name: str) -> bool:
    return arguments.only is None or name in ("afina", PRODUCT, *arguments.only)


def contestant(name: str, folder: Path, work: Work, what: Characters, seconds: float, until: float) -> None:
    """One contestant's part, in this process."""
    if name == "streams":
        done = run_streams(folder, what, until)
    elif name == "windows":
        done = run_windows(folder, what, seconds)
    elif name == "afina":
        done = run_afina(folder, work, wait_for_turn)
    elif name == "afina-compiled":
        done = run_afina(folder, work, wait_for_turn, compile="on")
    elif name == PRODUCT:
        done = run_product(folder, work, wait_for_turn)
    elif name.startswith("plain"):
        done = run_plain(folder, work, wait_for_turn, compiled=name == "plain-compiled")
    else:
        done = run_litgpt(folder, work, wait_for_turn, compiled=name == "litgpt")
    print_result(done | {"peak_bytes": peak_bytes()})


# ---- optimizers

SMALL = Work(hidden=128, layers=4, heads=4, intermediate=384, vocab=2000, length=128, rows=8, steps=600)
RATES = (1e-3, 3e-3, 6e-3)


def compare_optimizers(arguments: argparse.Namespace, work: Work) -> None:
    """Held-out bits per byte of each optimizer at several rates, after the same tokens."""
    print("| optimizer | rate | held-out bits per byte | nats per token |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        make_start(Path(folder), arguments.data, work)
        for rate in arguments.rates:
            for optimizer in ("adamw", "muon"):
                changes = {"optimizer": optimizer, "learning_rate": rate, "schedule": "wsd", "warmup": 0.05}
                done = run_afina(Path(folder), work, **changes)
                print(f"| {optimizer} | {rate:g} | {done['bits_per_byte']:.4f} | {done['held_out']:.4f} |", flush=True)


# ---- an LSTM over characters


@dataclass(frozen=True)
class Characters:
    """The LSTM, and what it reads."""

    hidden: int = 256
    embedding: int = 128
    context: int = 160
    """Characters of a window, and steps of truncated back-propagation."""
    lanes: int = 32
    windows: int = 256
    """Of the published way, in a batch."""
    rate: float = 3e-3
    published_rate: float = 1e-3
    """Keras' Adam, as it comes."""
    epochs: float = 1.0
    asked: int = 4096
    """Characters of held-out text that are predicted, each after a whole context."""
    measured: int = 40
    """Times along the published way."""


FEW = Characters(hidden=8, embedding=4, context=16, lanes=4, windows=8, asked=20, measured=4)


def streams_recipe(data: Path, what: Characters) -> dict[str, Any]:
    """v1 of the ladder, in one epoch at most."""
    return {
        "name": "streams",
        "sources": [{"path": str(data.resolve())}],
        "dataset": {"language": "pt-BR", "split_by": "file", "validation": 0.1},
        "scratch": {
            "kind": "lstm",
            "hidden": what.hidden,
            "embedding": what.embedding,
            "layers": 1,
            "tokenizer": "character",
            "vocab": 400,
        },
        "train": {
            "method": "scratch",
            "epochs": what.epochs,
            "learning_rate": what.rate,
            "schedule": "cosine",
            "max_length": what.context,
            "batch_tokens": what.context * what.lanes,
            "validate_per_epoch": 0,
            "checkpoint_seconds": 1e9,
        },
    }


@contextlib.contextmanager
def streams_walk(folder: Path) -> Iterator[Any]:
    """The run of the recipe in a folder, as far as its tokens."""
    from afina.cli.opened import walk_of
    from afina.walk.walk import do_stages

    with walk_of(folder / "recipe.yaml", None, folder / "runs") as walk:
        do_stages(walk, "recipe", "dataset", "tokenizer", "tokens")
        yield walk


def read_characters(walk: Any, split: str) -> Any:
    """Token ids of all texts of a split, one behind the other, each with its end token; and their bytes."""
    import torch

    from afina.text.example import read_examples
    from afina.walk.base import renderer

    tokenizer, ids, size = renderer(walk).tokenizer, list[int](), 0
    for example in read_examples(walk.folder / f"dataset/{split}.jsonl"):
        ids += [*tokenizer(example.text, add_special_tokens=False, verbose=False)["input_ids"], tokenizer.eos_token_id]
        size += len(example.text.encode()) + 1
    return torch.tensor(ids), size


class HeldOutCharacters:
    """Bits per byte of characters of the held-out texts, each after a whole context and an empty state before it."""

    def __init__(self, walk: Any, what: Characters) -> None:
        import torch

        ids, size = read_characters(walk, "validation")
        places = torch.linspace(0, len(ids) - what.context - 1, what.asked).long()
        self.windows = ids[places[:, None] + torch.arange(what.context + 1)]
        self.bytes_each = size / len(ids)

    def bits_per_byte(self, last_logits: Callable[[Any], Any]) -> float:
        """Of a model that gives the logits behind each of some windows."""
        import torch
        import torch.nn.functional as F

        with torch.no_grad():
            nats = [
                F.cross_entropy(last_logits(some[:, :-1]), some[:, -1], reduction="sum").item()
                for some in self.windows.split(512)
            ]
        return sum(nats) / len(self.windows) / math.log(2) / self.bytes_each


class Reached(Exception):
    """As low as was asked for."""


def run_streams(folder: Path, what: Characters, until: float) -> dict[str, Any]:
    """afina's loop over one stream, until it is as low; the held-out characters are asked along the way, apart from
    the time: first after four steps, then whenever a tenth more are done."""
    from afina.train.loop import TrainingJob, train
    from afina.train.stream_torch import StreamBackend
    from afina.walk.base import pad_id
    from afina.walk.chosen_settings import choose_here
    from afina.walk.models import fresh_model
    from afina.walk.rows import encoded_rows

    with streams_walk(folder) as walk:
        held_out = HeldOutCharacters(walk, what)
        model, device = fresh_model(walk, "fp32")
        settings = choose_here(walk).settings(walk.recipe.train)
        rows = encoded_rows(walk)["train"][0].rows
        seconds, began, curve, due = 0.0, 0.0, list[tuple[float, float]](), 4

        def log(event: str, **values: Any) -> None:
            nonlocal seconds, began, due
            if event == "step":
                seconds += time.perf_counter() - began
                if values["step"] >= due:
                    due += max(1, due // 10)
                    model.eval()
                    bits = held_out.bits_per_byte(lambda ids: model(input_ids=ids).logits[:, -1])
                    model.train()
                    curve.append((seconds, bits))
                    if bits <= until:
                        raise Reached
            began = time.perf_counter()  # from the end of a step to that of the next, without what is asked in between

        backend = StreamBackend(model, settings, pad_id=pad_id(walk), device=device, say=lambda _: None)
        with tempfile.TemporaryDirectory() as beside, contextlib.suppress(Reached):
            train(backend, rows, [], settings, TrainingJob(Path(beside), "bench"), log=log, say=lambda _: None)
        return {"curve": curve, "parameters": sum(weight.numel() for weight in model.parameters())}


def run_windows(folder: Path, what: Characters, limit: float) -> dict[str, Any]:
    """The published way: every character begins a window, of which the last one is predicted. In a random order, which
    serves it better than the order of the text that was published."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    from afina.walk.base import renderer

    with streams_walk(folder) as walk:
        held_out, (ids, _) = HeldOutCharacters(walk, what), read_characters(walk, "train")
        vocab = len(renderer(walk).tokenizer)
    torch.manual_seed(0)
    table, lstm = nn.Embedding(vocab, what.embedding), nn.LSTM(what.embedding, what.hidden, batch_first=True)
    head = nn.Linear(what.hidden, vocab)
    weights = [weight for part in (table, lstm, head) for weight in part.parameters()]
    optimizer = torch.optim.Adam(weights, lr=what.published_rate, eps=1e-7, fused=True)

    def last_logits(ids_BL: Any) -> Any:
        return head(lstm(table(ids_BL))[0][:, -1])

    seconds, curve, offsets = 0.0, list[tuple[float, float]](), torch.arange(what.context + 1)
    places = torch.randperm(len(ids) - what.context, generator=torch.Generator().manual_seed(0))
    for starts in places.split(what.windows):
        began = time.perf_counter()
        window = ids[starts[:, None] + offsets]
        loss = F.cross_entropy(last_logits(window[:, :-1]), window[:, -1])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        seconds += time.perf_counter() - began
        if seconds > (len(curve) + 1) * limit / what.measured:
            curve.append((seconds, held_out.bits_per_byte(last_logits)))
        if seconds > limit:
            break
    return {"curve": curve, "parameters": sum(weight.numel() for weight in weights)}


def compare_streams(arguments: argparse.Namespace, what: Characters) -> dict[str, Any]:
    """Seconds of both to the lowest that the published way reaches in its time."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "recipe.yaml").write_text(json.dumps(streams_recipe(arguments.data, what)), encoding="utf-8")
        found: dict[str, Any] = {}
        for name in ("windows", "streams"):
            until = min((bits for _, bits in found["windows"]["curve"]), default=0.0) if found else 0.0
            command = [sys.executable, __file__, "--contestant", name, "--start", folder, "--until", until]
            command += ["--seconds", arguments.seconds, *(["--tiny"] if arguments.tiny else [])]
            done, said = run_contestant(command)
            if done is None:
                sys.exit(f"{name} failed:\n{said}")
            found[name] = done
    took, reached = min(found["windows"]["curve"], key=lambda point: point[1])
    ours = next((seconds for seconds, bits in found["streams"]["curve"] if bits <= reached), None)
    earlier = max((seconds for seconds, bits in found["streams"]["curve"] if bits > reached), default=0.0)
    print("\n| | parameters | seconds | held-out bits per byte |\n|---|---|---|---|")
    sizes = {name: done["parameters"] for name, done in found.items()}
    print(f"| windows of {what.context}, the last one predicted | {sizes['windows']} | {took:.1f} | {reached:.4f} |")
    print(f"| afina, a stream | {sizes['streams']} | {ours or math.nan:.1f} | as low (not yet at {earlier:.1f}) |")
    print(f"\ntime to the same: {took / ours:.1f} x less" if ours else "\nafina did not come as low: more epochs")
    return found | {"times_less": took / ours if ours else None}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["step", "optimizers", "streams"], default="step")
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared/data/ptbr/machado")
    parser.add_argument("--steps", type=int, help="optimizer steps of everybody, the first ones among them")
    parser.add_argument("--seconds", type=float, default=900.0, help="of the published way, in --part streams")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="of --part optimizers")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for every contestant")
    parser.add_argument("--only", nargs="*", help="these contestants, and afina")
    parser.add_argument("--peer-python", help="a Python that has litgpt")
    parser.add_argument("--tiny", action="store_true", help="a few small steps, once: shows that it runs, no figures")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, default=0.0, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    work, what = (TINY, FEW) if arguments.tiny else (SMALL if arguments.part == "optimizers" else Work(), Characters())
    if arguments.steps:
        work = replace(work, steps=arguments.steps)
    if arguments.contestant:
        contestant(arguments.contestant, arguments.start, work, what, arguments.seconds, arguments.until)
        return
    if not arguments.data.is_dir():
        print(f"left out: the texts are not here ({arguments.data}); name them with --data")
        return
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # before torch is loaded, here and in the contestants
    if arguments.tiny:
        arguments.seconds = 0.5
    if arguments.part == "step":
        compare_steps(arguments, work)
    elif arguments.part == "optimizers":
        compare_optimizers(arguments, work)
    else:
        compare_streams(arguments, what)


if __name__ == "__main__":
    main()
