"""`afina serve` under load on this machine's CPU, beside `transformers serve`.

31.8 M parameters (Llama shape, see train_cpu.py) with a LoRA adapter of rank 16; `transformers serve` gets the same
two merged, since it opens no adapters. The servers stand ready from the beginning and are asked in turn by clients in
this process: streamed chats of Canarim prompts, greedy, 64 new tokens each (the end token's embedding is zero, so that
no answer ends early).

    python benchmarks/serve_load.py --base /tmp/bench-base                  # all parts
    python benchmarks/serve_load.py --base /tmp/bench-base --only load      # or leaks, or end
    python benchmarks/serve_load.py --tiny                                  # random weights, ours alone: if it runs

    load    one client, then eight at once, each asking again when its answer is there; all tokens by all seconds.
            First tokens: a ninth client that asks now and then for one token, on the idle and on the busy server
    leaks   1,000 requests, 32 at a time, a tenth of which hang up somewhere; the others' texts are compared with
            those written one by one; memory after 500 and after 1,000; places taken at the end
    end     kill -TERM while eight answers are streamed
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from afina.machine import free_port

CLIENTS, NEW, FIRST_TOKENS = 8, 64, 20
TINY = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 1024}


@dataclass
class Got:
    """What a client saw of one answer."""

    text: str = ""
    tokens: int = 0
    first: float = 0.0
    """Seconds until the first piece of text."""
    seconds: float = 0.0
    whole: bool = False
    """The stream said why it ended."""


class Refused(SystemExit):
    """Another status than 200: it ends the benchmark, unless somebody counts it."""


@dataclass
class Server:
    """A program that serves, and what it calls its model."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    model: str

    async def ask(self, prompt: str, new: int = NEW, *, model: str | None = None, hang_up: int | None = None) -> Got:
        """Stream one answer; with `hang_up`, leave after so many lines, whatever they say.

        Raises:
            Refused: the status is not 200; with the reason that the server gives.
        """
        body: dict[str, Any] = {"model": model or self.model, "messages": [{"role": "user", "content": prompt}]}
        body |= {"max_tokens": new, "temperature": 0, "stream": True}
        if not self.name.startswith("transformers"):  # that one tells the counts anyway, and refuses this key
            body["stream_options"] = {"include_usage": True}
        text = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
        got, started, lines = Got(), time.perf_counter(), 0
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(head.encode() + text)
            while hang_up is None or lines < hang_up:
                line = await reader.readline()
                lines += 1
                if not line:
                    break
                if lines == 1 and hang_up is None and line.split()[1:2] != [b"200"]:
                    said = reason((await reader.read()).decode(errors="replace"))
                    raise Refused(f"{self.name} refused: {line.decode().strip()}: {said}")
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                for choice in event.get("choices", []):
                    if piece := choice["delta"].get("content"):
                        got.first = got.first or time.perf_counter() - started
                        got.text += piece
                    got.whole = got.whole or choice.get("finish_reason") is not None
                if event.get("usage"):
                    got.tokens = event["usage"]["completion_tokens"]
        finally:
            writer.close()
        got.seconds = time.perf_counter() - started
        return got

    def resident_mib(self) -> float:
        """Memory of the process that is in RAM."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def reason(answer: str) -> str:
    """What the rest of a refusal says, behind its headers: the message of its body where that is of OpenAI's shape."""
    body = answer.partition("\r\n\r\n")[2]
    found = re.search(r"\{.*\}", body, re.DOTALL)  # what is sent in chunks has their sizes around it
    try:
        return str(json.loads(found[0])["error"]["message"]) if found else body[:500]
    except (ValueError, TypeError, KeyError):
        return body[:500]


def make_tiny(folder: Path) -> Path:
    """A base of random weights."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from tiny import make_base

    return make_base(folder, **TINY)


def make_models(base: Path, folder: Path) -> None:
    """An adapter whose answers differ from the base's, and both merged. No weight favours the end token."""
    import torch
    from peft import LoraConfig, get_peft_model
    from train_cpu import ALPHA, MODULES, RANK
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model.get_input_embeddings().weight.data[tokenizer.eos_token_id] = 0  # tied: its logit is 0, never the largest
    model.save_pretrained(folder / "base")
    adapted = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=MODULES, task_type="CAUSAL_LM"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.02)
    adapted.save_pretrained(folder / "adapter")
    adapted.merge_and_unload().save_pretrained(folder / "merged")
    for name in ("base", "merged"):
        tokenizer.save_pretrained(folder / name)


@contextlib.contextmanager
def serving(name: str, command: list[object], port: int, model: str, log: Path) -> Iterator[Server]:
    """Start a server and wait until it answers."""
    words = [str(word) for word in [*command, "--port", port]]
    with log.open("wb") as out:
        process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT)
    try:
        for _ in range(600):
            if process.poll() is not None:
                sys.exit(f"{name} ended before it answered:\n{log.read_text()[-2000:]}")
            with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            time.sleep(0.2)
        yield Server(name, process, port, model)
    finally:
        process.kill()
        process.wait()


def afina(folder: Path, log: Path) -> contextlib.AbstractContextManager[Server]:
    command = [
        sys.executable,
        "-m",
        "afina.cli",
        "serve",
        folder / "base",
        "--adapter",
        f"adapted={folder / 'adapter'}",
    ]
    return serving("afina", [*command, "--engine", "local", "--no-check", "--anyway"], free_port(), "adapted", log)


def transformers(python: str, folder: Path, log: Path, *options: str) -> contextlib.AbstractContextManager[Server]:
    name = " ".join(["transformers serve", *options])
    command = [python, "-m", "transformers.cli.transformers", "serve", folder / "merged", "--device", "cpu", *options]
    return serving(name, command, free_port(), str(folder / "merged"), log)


# ---- load


async def clients(server: Server, prompts: list[str], count: int, each: int) -> float:
    """Tokens a second of all clients together, each asking so many times."""

    async def client(number: int) -> list[Got]:
        return [await server.ask(prompts[(number * each + turn) % len(prompts)]) for turn in range(each)]

    started = time.perf_counter()
    answers = [got for group in await asyncio.gather(*map(client, range(count))) for got in group]
    wrong = [got for got in answers if not got.whole or got.tokens != NEW]
    if wrong:
        sys.exit(f"{server.name}: {len(wrong)} answers are not whole, e.g. {wrong[0]}")
    return sum(got.tokens for got in answers) / (time.perf_counter() - started)


async def first_tokens(server: Server, prompts: list[str], count: int, *, busy: bool) -> list[float]:
    """Seconds until the first token of one more client, so often, with eight others streaming or none."""
    others = [asyncio.create_task(_again(server, prompts, number)) for number in range(CLIENTS if busy else 0)]
    await asyncio.sleep(3.0 if busy else 0.0)
    found = []
    for prompt in prompts[:count]:
        found.append((await server.ask(prompt, 4)).first)
        await asyncio.sleep(random.Random(prompt).uniform(0.1, 0.4))
    for task in others:
        task.cancel()
    for ended in await asyncio.gather(*others, return_exceptions=True):
        if not isinstance(ended, asyncio.CancelledError):
            sys.exit(f"{server.name} was not kept busy: {ended!r}")
    await asyncio.sleep(0.3)
    return found


async def _again(server: Server, prompts: list[str], number: int) -> None:
    await asyncio.sleep(number * 0.2)  # as clients come: not all in one moment
    while True:
        for turn in range(len(prompts)):
            await server.ask(prompts[(number * 5 + turn) % len(prompts)])


async def load(servers: list[Server], prompts: list[str], rounds: int, first: int = FIRST_TOKENS) -> None:
    speeds: dict[str, dict[int, list[float]]] = {server.name: {1: [], CLIENTS: []} for server in servers}
    for server in servers:
        await server.ask(prompts[0], 8)
        server.process.send_signal(signal.SIGSTOP)  # one that idles in a loop would be in the others' way
    for _ in range(rounds):
        for server in servers:
            server.process.send_signal(signal.SIGCONT)
            for count in (1, CLIENTS):
                speeds[server.name][count].append(await clients(server, prompts, count, 2))
            server.process.send_signal(signal.SIGSTOP)
    print(f"\n| | one client, tokens/s | {CLIENTS} clients | times | afina is |")
    print("|---|---|---|---|---|")
    best = statistics.median(speeds["afina"][CLIENTS])
    for name, found in speeds.items():
        one, many = (statistics.median(found[count]) for count in (1, CLIENTS))
        print(f"| {name} | {one:.1f} | {many:.1f} | {many / one:.2f} | {best / many:.2f}x |", flush=True)
    print("\n| first token, ms | idle | busy | times |")
    print("|---|---|---|---|")
    (ours, *_) = servers
    ours.process.send_signal(signal.SIGCONT)
    idle, busy = [sorted(await first_tokens(ours, prompts, first, busy=busy)) for busy in (False, True)]
    for name, place in (("median", len(idle) // 2), ("nine in ten", len(idle) * 9 // 10), ("largest", -1)):
        one, other = idle[place] * 1000, busy[place] * 1000
        print(f"| {name} of {len(idle)} | {one:.0f} | {other:.0f} | {other / one:.2f} |", flush=True)


# ---- leaks


async def leaks(server: Server, prompts: list[str], count: int) -> None:
    chance = random.Random(0)
    kinds = [(prompt, model, new) for prompt in prompts[:8] for model in ("base", "adapted") for new in (4, 24)]
    right = {kind: (await server.ask(kind[0], kind[2], model=kind[1])).text for kind in kinds}
    wrong = hung = 0
    refusals = Counter[str]()
    at_a_time = asyncio.Semaphore(32)

    async def one() -> None:
        nonlocal wrong, hung
        kind = chance.choice(kinds)
        leaves = chance.randrange(0, 30) if chance.random() < 0.1 else None
        async with at_a_time:
            try:
                got = await server.ask(kind[0], kind[2], model=kind[1], hang_up=leaves)
            except Refused as error:  # of a thousand requests one may be; it is counted, and said why
                got = Got()
                refusals[str(error)] += 1
        hung += leaves is not None
        wrong += leaves is None and (got.text != right[kind] or not got.whole or got.tokens != kind[2])

    memory = [server.resident_mib()]
    started = time.perf_counter()
    for _ in range(2):
        await asyncio.gather(*(one() for _ in range(count // 2)))
        await asyncio.sleep(0.5)
        memory.append(server.resident_mib())
    with urlopen(f"http://127.0.0.1:{server.port}/metrics") as page:
        lines = page.read().decode().splitlines()
    places = {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith("afina_requests_")}
    taken = sum(places.get(f"afina_requests_{kind}", 0.0) for kind in ("running", "waiting"))
    print(
        f"\n{count} requests in {time.perf_counter() - started:.0f} s, {hung} hung up, {wrong} of the others not whole"
    )
    for said, times in refusals.items():
        print(f"{times} of those: {said}")
    print(f"MiB in memory: before {memory[0]:.0f}, after {count // 2} {memory[1]:.0f}, after {count} {memory[2]:.0f}")
    ends = {name.removeprefix("afina_requests_total"): int(n) for name, n in places.items() if "total" in name}
    print(f"places taken at the end: {taken:.0f}; answers as the server counts: {ends}", flush=True)


# ---- end


async def end(server: Server, prompts: list[str]) -> None:
    asked = [asyncio.create_task(server.ask(prompts[number])) for number in range(CLIENTS)]
    await asyncio.sleep(1.0)
    started = time.perf_counter()
    server.process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.2)
    try:
        late = "answered" if (await server.ask(prompts[0])).whole else "left alone"
    except (OSError, Refused) as error:
        late = f"refused ({type(error).__name__})"
    got = await asyncio.gather(*asked)
    code = await asyncio.to_thread(server.process.wait, 60)
    whole = sum(each.whole and each.tokens == NEW for each in got)
    print(f"\nkill -TERM: {whole} of {CLIENTS} answers under way finished whole; a new one was {late}")
    print(f"ended with exit code {code} after {time.perf_counter() - started:.1f} s", flush=True)


def main() -> None:
    from train_cpu import make_base, read_rows

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent.parent
    parser.add_argument("--data", type=Path, default=here.parent / "shared/data/ptbr/canarim")
    parser.add_argument("--base", type=Path, help="folder of the base; made where it is missing")
    parser.add_argument("--only", nargs="*", default=["load", "leaks", "end"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--peer-python", default=sys.executable, help="a Python with transformers[serving]")
    parser.add_argument("--no-peer", action="store_true", help="leave transformers serve out")
    parser.add_argument("--tiny", action="store_true", help="random weights, ours alone, a few requests: if it runs")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.no_peer, arguments.rounds, arguments.requests = True, 1, 40
        prompts = [f"Onde nasceu Ana {number}?" for number in range(8)]
    elif not arguments.data.is_dir():
        print(f"left out: the prompts are not here ({arguments.data}); name them with --data")
        return
    else:
        rows = read_rows(arguments.data / "test.jsonl", 400)
        prompts = [row["prompt"] for row in rows if 80 <= len(row["prompt"]) <= 240][:40]
    if arguments.no_peer:
        print("transformers serve is left out")
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        folder = Path(place)
        base = make_tiny(folder / "tiny") if arguments.tiny else arguments.base or folder / "made"
        if not (base / "model.safetensors").exists():
            make_base(base, arguments.data, slice(0, 0))
        make_models(base, folder)
        ours = stack.enter_context(afina(folder, folder / "afina.log"))
        if "load" in arguments.only:
            servers = [ours]
            if not arguments.no_peer:
                for number, options in enumerate([(), ("--continuous-batching",)]):
                    log = folder / f"transformers{number}.log"
                    servers.append(stack.enter_context(transformers(arguments.peer_python, folder, log, *options)))
            asyncio.run(load(servers, prompts, arguments.rounds, 2 if arguments.tiny else FIRST_TOKENS))
        if "leaks" in arguments.only:
            asyncio.run(leaks(ours, prompts, arguments.requests))
        if "end" in arguments.only:
            asyncio.run(end(ours, prompts))


if __name__ == "__main__":
    main()
