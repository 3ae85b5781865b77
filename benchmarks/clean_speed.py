"""Raw text to tokens, afina beside datatrove: wall time and memory of the same steps on the same files.

    python benchmarks/clean_speed.py --datatrove VENV/bin/python [--copies 10] [--words spacy|regex] [--folder DIR]

Steps of both: read, clean (afina's line rules, the same function), exact duplicates, near duplicates (MinHash of five
words, 0.8), hold out 5 %, tokenize with one BPE of 16,000 pieces that is trained beforehand. Both use two processes.

The corpus is ``../shared/data/ptbr/machado`` (11 MB; `--data` names other texts) `copies` times: in each copy every
paragraph is prefixed with the copy's number, so that it counts as new, but the last two are an exact copy of the first
and an almost exact one of the second (one line in fifty prefixed).

datatrove runs its own local executor and its own blocks (exact_dedup, minhash, DocumentTokenizer; see
`theirs`) in an environment of its own: ``pip install "datatrove[processing,io]" spacy pydantic ruamel.yaml
markdown-it-py rich``. ``--words regex`` gives it afina's way of finding words instead of the one it has for Portuguese
(spaCy), which takes most of its time. Memory is the largest sum of the resident memory of a process and
all its children, looked at twenty times a second; pages that processes share count in each.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHARED = Path(__file__).parents[2] / "shared" / "data" / "ptbr" / "machado"
WORKERS = 2


def main() -> None:
    """Write the corpus, run both sides, print a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--datatrove", help="Python of the environment that has datatrove; without it afina alone")
    options.add_argument("--data", type=Path, default=SHARED, help="folder of the texts")
    options.add_argument("--copies", type=int, default=10)
    options.add_argument("--words", choices=["spacy", "regex"], default="spacy")
    options.add_argument("--folder", type=Path, default=Path("/tmp/afina-clean-speed"))
    options.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.side:
        print(json.dumps((ours if chosen.side == "ours" else theirs)(chosen.folder, chosen.words)))
        return
    if not chosen.data.exists():
        print(f"left out: the texts are not here ({chosen.data}); name them with --data")
        return
    size = write_corpus(chosen.folder, chosen.data, chosen.copies)
    print(f"{size / 1e6:.0f} MB, load of the machine before: {os.getloadavg()[0]:.1f}")
    print(f"{'':12}{'seconds':>9}{'MB/s':>7}{'peak MB':>9}  counts")
    for name, python, side in (("afina", sys.executable, "ours"), ("datatrove", chosen.datatrove, "theirs")):
        if python:
            words = [python, __file__, "--side", side, "--folder", str(chosen.folder), "--words", chosen.words]
            seconds, peak, counts = watched(words)
            print(f"{name:12}{seconds:9.1f}{size / 1e6 / seconds:7.1f}{peak / 1e6:9.0f}  {counts}", flush=True)
    if not chosen.datatrove:
        print("datatrove is left out: name the Python of its environment with --datatrove")


def write_corpus(folder: Path, data: Path, copies: int) -> int:
    """The copies and the tokenizer; returns the bytes of all texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    texts = {file: file.read_text(encoding="utf-8") for file in sorted(data.rglob("*.txt"))}
    size = 0
    for copy in range(copies):
        every = 1 if copy < max(1, copies - 2) else 50
        number = copy if every == 1 else 0 if copy == copies - 1 else 1
        for file, text in texts.items():
            lines = prefixed(text, f"v{chr(97 + number)}", 1)  # letters: datatrove takes all digits for one
            if every == 50 and number == 1:
                lines = prefixed(lines, "vz", 50)
            target = folder / "corpus" / f"{copy:02}" / file.parent.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(lines, encoding="utf-8")
            size += target.stat().st_size
    if not (folder / "tokenizer.json").exists():
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=16000,
            special_tokens=["<|end|>"],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        tokenizer.train_from_iterator(texts.values(), trainer)
        tokenizer.save(str(folder / "tokenizer.json"))
    return size


def prefixed(text: str, mark: str, every: int) -> str:
    """The text with `mark` before one line in `every` that is not blank."""
    lines = text.split("\n")
    return "\n".join(f"{mark} {line}" if line.strip() and not n % every else line for n, line in enumerate(lines))


def cleaned(text: str) -> str:
    """What afina's line rules leave of a text; empty where that is nothing. The other side cleans by it too."""
    from afina.recipe import Clean
    from afina.text.clean import clean_document, close_gaps
    from afina.text.document import Document

    return close_gaps(clean_document(Document("", "", text=text), Clean(preset="monograph"))[0].text)


def ours(folder: Path, _: str) -> dict[str, Any]:
    """afina: two passes, then the tokenizer over ``train.jsonl``."""
    import numpy as np
    from tokenizers import Tokenizer

    from afina.dataset.build.build import build_dataset
    from afina.recipe import Clean, Dataset, NearDuplicates, Recipe, Source, Train
    from afina.text.example import read_examples

    recipe = Recipe(
        name="speed",
        root=str(folder / "corpus"),
        sources=[Source(path=".")],
        dataset=Dataset(clean=Clean(preset="monograph"), near_duplicates=NearDuplicates(on="drop", threshold=0.8)),
        train=Train(method="scratch"),
    )
    started = time.perf_counter()
    summary = build_dataset(recipe, folder / "ours", workers=WORKERS)
    built = time.perf_counter() - started
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens, texts, chars = 0, [], 0
    with (folder / "ours.tokens").open("wb") as out:

        def encode() -> int:
            ids = [np.array([*each.ids, 0], np.uint16) for each in tokenizer.encode_batch_fast(texts)]
            for each in ids:
                out.write(each.tobytes())
            return sum(map(len, ids))

        for example in read_examples(folder / "ours" / "train.jsonl"):
            texts.append(example.text)
            chars += len(example.text)
            if chars > 1 << 20:
                tokens += encode()
                texts, chars = [], 0
        tokens += encode()
    counts = {name: summary[name]["examples"] for name in ("train", "validation")}
    return counts | summary["dropped"] | {"tokens": tokens, "seconds_to_dataset": round(built, 1)}


def theirs(folder: Path, words: str) -> dict[str, Any]:
    """datatrove: six pipelines of its local executor, one after the other, as its examples have them."""
    import hashlib
    import shutil

    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
    from datatrove.pipeline.dedup.exact_dedup import (
        ExactDedupConfig,
        ExactDedupFilter,
        ExactDedupSignature,
        ExactFindDedups,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.pipeline.filters import LambdaFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.word_tokenizers import WordTokenizer

    work = folder / "theirs"
    shutil.rmtree(work, ignore_errors=True)
    corpus = str(folder / "corpus")
    repository = str(Path(__file__).parents[1])

    def read(data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:  # noqa: ARG001
        for file in sorted(Path(corpus).rglob("*.txt"))[rank::world_size]:
            yield Document(text=file.read_text(encoding="utf-8"), id=str(file))

    def clean(data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:  # noqa: ARG001
        sys.path.insert(0, repository)
        for document in data:
            document.text = cleaned(document.text)
            if document.text:
                yield document

    class RegexWords(WordTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return re.findall(r"\w+", text)

        def sent_tokenize(self, text: str) -> list[str]:
            return [text]

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [(0, len(text))]

    exact = ExactDedupConfig(content_getter=lambda document: " ".join(document.text.split()))
    near = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    sign = MinhashDedupSignature(str(work / "signatures"), near, language="eng" if words == "regex" else "por")
    if words == "regex":
        sign.word_tokenizer = RegexWords()

    def writer(name: str) -> JsonlWriter:
        return JsonlWriter(str(work / name), output_filename="${rank}.jsonl", compression=None)

    def reader(name: str) -> JsonlReader:
        return JsonlReader(str(work / name), compression=None, doc_progress=False)

    def run(name: str, blocks: list[Any], tasks: int = WORKERS) -> None:
        started = time.perf_counter()
        LocalPipelineExecutor(blocks, tasks=tasks, workers=WORKERS, logging_dir=str(work / "logs" / name)).run()
        print(f"{name}: {time.perf_counter() - started:.1f} s", file=sys.stderr)

    def kept(document: Any) -> bool:
        return int(hashlib.sha256(document.text.encode()).hexdigest()[:8], 16) / 2**32 >= 0.05

    run("clean", [read, clean, writer("cleaned"), ExactDedupSignature(str(work / "exact"), exact)])
    run("exact", [ExactFindDedups(str(work / "exact"), str(work / "exact-found"), config=exact)], 1)
    run(
        "sign",
        [reader("cleaned"), ExactDedupFilter(str(work / "exact-found"), exact), writer("unique"), sign],
    )
    run("buckets", [MinhashDedupBuckets(str(work / "signatures"), str(work / "buckets"), config=near)], 14)
    run("cluster", [MinhashDedupCluster(str(work / "buckets"), str(work / "remove"), config=near)], 1)
    tokenize = DocumentTokenizer(
        str(work / "tokens"),
        tokenizer_name_or_path=str(folder / "tokenizer.json"),
        eos_token="<|end|>",
        shuffle_documents=False,
    )
    split = LambdaFilter(kept, exclusion_writer=writer("validation"))
    run("tokenize", [reader("unique"), MinhashDedupFilter(str(work / "remove")), split, writer("train"), tokenize])
    counts = {
        name: sum(file.read_bytes().count(b"\n") for file in (work / name).rglob("*.jsonl"))
        for name in ("cleaned", "unique", "train", "validation")
    }
    return counts | {"tokens": sum(file.stat().st_size for file in (work / "tokens").glob("*.ds")) // 2}


def watched(command: list[str]) -> tuple[float, int, Any]:
    """Seconds, largest memory of the process with its children, and the last line that it printed."""
    peak, done = 0, threading.Event()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    log = Path(command[command.index("--folder") + 1]) / f"{command[3]}.log"
    with log.open("wb") as said:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, env=environment)

        def look() -> None:
            nonlocal peak
            while not done.wait(0.05):
                peak = max(peak, memory_of(process.pid))

        thread = threading.Thread(target=look)
        thread.start()
        printed, _ = process.communicate()
        seconds = time.perf_counter() - started
        done.set()
        thread.join()
    if process.returncode:
        sys.exit(f"{command[3]} failed: {log}")
    return seconds, peak, json.loads(printed.splitlines()[-1])


def memory_of(root: int) -> int:
    """Bytes resident in a process and all its descendants."""
    parents, resident = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            parents[int(entry.name)], resident[int(entry.name)] = int(fields[1]), int(fields[21])
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(resident.get(pid, 0) for pid in family) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
