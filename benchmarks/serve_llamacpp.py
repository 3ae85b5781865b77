"""`afina serve --engine llamacpp` beside llama.cpp's own server with the same file, and our own engine beside both.

    python benchmarks/serve_llamacpp.py --base ../smollm2                   # both parts
    python benchmarks/serve_llamacpp.py --base ../smollm2 --only decode
    python benchmarks/serve_llamacpp.py --tiny                              # random weights: whether it runs

    serve   streamed chats of Canarim prompts, greedy, 64 new tokens at most; one client, then eight at once, each
            asking again when its answer is there; all tokens by all seconds. The servers stand ready from the
            beginning, and are asked in turn, round by round; those that wait are stopped (SIGSTOP)
    decode  one prompt at a time, 64 new tokens: model.generate of transformers, our engine (both float32), and
            llama.cpp with the weights in f16 and in q8_0. Answers are counted up to and with their end token

llama.cpp is the one that `afina serve` uses: llama-server, or the server in the wheel xllamacpp, started the same way.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from contestants import print_result, run_contestant
from serve_load import CLIENTS, NEW, Server, make_tiny, serving

from afina.machine import free_port

PLACES, CONTEXT = 8, 1024
PROMPTS = 24


def base_file(base: Path, kind: str) -> Path:
    """The base as GGUF, as `afina serve` keeps it."""
    from afina.llamacpp.base_file import find_base_file, write_base_file
    from afina.serve.opened import find_target, name_models, recipe_of

    target = find_target(str(base))
    folder, models, _ = name_models(target, {}, print)
    found = find_base_file(folder, models.identity.weights_sha256, models.base.renderer, kind)
    return write_base_file(found, recipe_of(target, folder), models.base.renderer, print)


# ---- serve


def afina(base: Path, engine: str, kind: str, log: Path) -> contextlib.AbstractContextManager[Server]:
    words: list[object] = [sys.executable, "-m", "afina.cli", "serve", base, "--engine", engine]
    words += ["--no-check", "--anyway"]
    words += ["--max-model-len", CONTEXT, *(["--gguf-type", kind] if engine == "llamacpp" else [])]
    return serving(f"afina serve --engine {engine}", words, free_port(), base.name, log)


def llama_cpp(base: Path, kind: str, log: Path) -> contextlib.AbstractContextManager[Server]:
    from afina.llamacpp.program import LlamaCppOptions, need_llama_cpp

    options = LlamaCppOptions(base_file(base, kind), context=CONTEXT, places=PLACES)
    words = options.words(0)
    at = words.index("--port")
    return serving("llama.cpp", [*need_llama_cpp("bench"), *words[:at], *words[at + 2 :]], free_port(), base.name, log)


async def speed(server: Server, prompts: list[str], count: int, each: int) -> float:
    """Tokens a second of all clients together, each asking so many times."""

    async def client(number: int) -> int:
        tokens = 0
        for turn in range(each):
            got = await server.ask(prompts[(number * each + turn) % len(prompts)], NEW)
            if not got.whole:
                sys.exit(f"{server.name}: an answer is not whole: {got}")
            tokens += got.tokens
        return tokens

    started = time.perf_counter()
    tokens = sum(await asyncio.gather(*map(client, range(count))))
    return tokens / (time.perf_counter() - started)


def serve_part(base: Path, prompts: list[str], kind: str, rounds: int, each: int) -> dict[str, dict[int, float]]:
    """Medians of tokens a second by server and number of clients."""
    found: dict[str, dict[int, list[float]]] = {}
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        logs = Path(place)
        made = [
            afina(base, "llamacpp", kind, logs / "ours"),
            llama_cpp(base, kind, logs / "theirs"),
            afina(base, "local", kind, logs / "local"),
        ]
        servers = [stack.enter_context(each) for each in made]
        for server in servers:
            asyncio.run(speed(server, prompts[:1], 1, 1))
            stop(server)
        for _ in range(rounds):
            for server in servers:
                go_on(server)
                for count in (1, CLIENTS):
                    rate = asyncio.run(speed(server, prompts, count, each))
                    found.setdefault(server.name, {}).setdefault(count, []).append(rate)
                stop(server)
        for server in servers:
            go_on(server)
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(60)
    return {name: {count: statistics.median(rates) for count, rates in each.items()} for name, each in found.items()}


def stop(server: Server) -> None:
    """A server and the processes that it has started; llama.cpp below ours sleeps while nobody asks."""
    server.process.send_signal(signal.SIGSTOP)


def go_on(server: Server) -> None:
    server.process.send_signal(signal.SIGCONT)


# ---- decode


def contestant(name: str, base: Path, prompts: list[str]) -> None:
    """One of them in this process; prints its result."""
    from afina.serve.opened import find_target, name_models

    _, models, _ = name_models(find_target(str(base)), {}, print)
    renderer = models.base.renderer
    ids = [renderer.prompt([{"role": "user", "content": prompt}]) for prompt in prompts]
    if name.startswith("llama.cpp"):
        tokens, seconds = by_llama_cpp(base, name.rpartition(" ")[2], ids)
    else:
        tokens, seconds = by_torch(name, base, ids, renderer.stop_ids())
    print_result({"tokens": tokens, "seconds": seconds})


def by_torch(name: str, base: Path, ids: list[list[int]], stops: list[int]) -> tuple[int, float]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from afina.model.generate.engine_torch import Engine
    from afina.model.generate.request import Request

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    engine = Engine(model, AutoTokenizer.from_pretrained(base), stops)

    def ask(prompt: list[int], new: int) -> int:
        if name == "transformers":
            with torch.inference_mode():
                given: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "eos_token_id": stops}
                return model.generate(torch.tensor([prompt]), max_new_tokens=new, **given).shape[1] - len(prompt)
        engine.submit(Request(prompt=prompt, max_new_tokens=new))
        written = 0
        while engine.busy:
            written += sum(piece.done.written for piece in engine.step() if piece.done)
        return written

    ask(ids[0], 4)  # the first call of a process is slower for everybody
    started = time.perf_counter()
    return sum(ask(prompt, NEW) for prompt in ids), time.perf_counter() - started


def by_llama_cpp(base: Path, kind: str, ids: list[list[int]]) -> tuple[int, float]:
    from afina.llamacpp.completion import completion_body
    from afina.llamacpp.program import LlamaCppOptions, running_llama_cpp
    from afina.model.generate.request import Request

    with running_llama_cpp(LlamaCppOptions(base_file(base, kind), context=CONTEXT)) as server:

        def ask(prompt: list[int], new: int) -> int:
            request = Request(prompt=prompt, max_new_tokens=new)
            return int(server.ask("/completion", completion_body(request, 0, streamed=False))["tokens_predicted"])

        ask(ids[0], 4)
        started = time.perf_counter()
        return sum(ask(prompt, NEW) for prompt in ids), time.perf_counter() - started


def decode_part(base: Path, prompts: list[str], rounds: int) -> dict[str, float]:
    """Medians of tokens a second."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        asked = Path(place) / "prompts.json"
        asked.write_text(json.dumps(prompts), encoding="utf-8")
        for _ in range(rounds):
            for name in ("transformers", "afina", "llama.cpp f16", "llama.cpp q8_0"):
                words = [sys.executable, __file__, "--contestant", name, "--base", base, "--prompts", asked]
                result, said = run_contestant(words)
                if result is None:
                    sys.exit(f"{name} failed:\n{said}")
                found.setdefault(name, []).append(result["tokens"] / result["seconds"])
    return {name: statistics.median(rates) for name, rates in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent.parent
    parser.add_argument("--base", type=Path, help="a model's folder")
    parser.add_argument("--data", type=Path, default=here.parent / "shared/data/ptbr/canarim")
    parser.add_argument("--gguf-type", default="f16")
    parser.add_argument("--only", nargs="*", default=["serve", "decode"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--each", type=int, default=2, help="answers of a client in a round")
    parser.add_argument("--tiny", action="store_true", help="random weights and a few prompts: whether it runs")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--prompts", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contestant:
        contestant(arguments.contestant, arguments.base, json.loads(arguments.prompts.read_text(encoding="utf-8")))
        return
    with tempfile.TemporaryDirectory() as place:
        if arguments.tiny:
            os.environ["AFINA_CACHE"] = place
            base, rounds, each = make_tiny(Path(place) / "tiny"), 1, 1
            prompts = [f"Onde nasceu Ana {number}?" for number in range(8)]
        else:
            from train_cpu import read_rows

            if arguments.base is None or not arguments.data.is_dir():
                print("left out: name a model's folder with --base, and the prompts' with --data")
                return
            base, rounds, each = arguments.base, arguments.rounds, arguments.each
            rows = read_rows(arguments.data / "test.jsonl", 400)
            prompts = [row["prompt"] for row in rows if 80 <= len(row["prompt"]) <= 240][:PROMPTS]
        if "serve" in arguments.only:
            served = serve_part(base, prompts, arguments.gguf_type, rounds, each)
            theirs = served["llama.cpp"]
            print(f"\n| weights {arguments.gguf_type} | one client, tokens/s | {CLIENTS} clients | of llama.cpp's |")
            print("|---|---|---|---|")
            for name, rates in served.items():
                shares = ", ".join(f"{rates[count] / theirs[count]:.2f}" for count in (1, CLIENTS))
                print(f"| {name} | {rates[1]:.1f} | {rates[CLIENTS]:.1f} | {shares} |", flush=True)
        if "decode" in arguments.only:
            decoded = decode_part(base, prompts[:8], rounds)
            print("\n| one answer at a time | tokens/s | of transformers |")
            print("|---|---|---|")
            for name, rate in decoded.items():
                print(f"| {name} | {rate:.1f} | {rate / decoded['transformers']:.2f} x |", flush=True)


if __name__ == "__main__":
    main()
