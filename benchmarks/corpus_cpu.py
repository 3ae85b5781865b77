"""Cleaning and MinHash of a corpus on this machine's CPU: documents per second and core, memory, and a killed worker.

    python benchmarks/corpus_cpu.py --copies 100 [--engine datatrove|own] [--folder DIR] [--json] [--publish]

The corpus is ``../shared/data/ptbr/machado`` (11 MB) `copies` times, cut into documents of about 770 words, as many as
a document of BrWaC has, in JSONL files of 4 MiB. In every copy but the first each third word is replaced by a word from
another place of the works: words and lines are as frequent and as long as they were, and no run of five words stays, so
that MinHash keeps the copy. What it leaves out is counted and has to be less than one document in a hundred.

What is built, each time by a process of its own, is the recipe of a training from nothing: read, clean by the line
rules, exact duplicates, near duplicates (128 permutations, 0.8), 5 % held out, written.

    one       by one worker
    two       by two workers
    tenth     by two workers, of a tenth of the copies: what memory grows by
    killed    by two workers, of which one gets SIGKILL over a batch in the middle of the corpus, half-written

The files of `one`, `two` and `killed` have to be the same to the byte (SHA-256), and of `killed` one batch alone may
have been read twice: the build says so itself, and it is counted from outside, by the processes that have a batch's
file open to write. Memory is that of a build and all its processes together, looked at twenty times a second: resident,
and without pages of files (``RssAnon``), which the system may drop at any time.

From these follows, on paper, what 3.5 million documents of 2.7 billion tokens (BrWaC) take, and a trillion tokens.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afina.page_marks import write_between

ROOT = Path(__file__).resolve().parent.parent
MACHADO = ROOT.parent / "shared/data/ptbr/machado"
PAGE = ROOT / "docs/scaling.md"
MARKS = "corpus"
NOT_MEASURED = "Not measured yet: `python benchmarks/corpus_cpu.py --copies 100 --publish` writes the figures here."
WORDS = 770
"""Of a document: 2.7 billion tokens of 3.5 million documents."""
FILE_BYTES = 4 << 20
LOOK_SECONDS = 0.05
FAMILY_EVERY = 5
"""Looks after which processes are counted anew: to look through all of a machine's takes milliseconds."""
MIDDLE_BYTES = 1 << 20
"""So much of its part a worker has written when it is killed."""
TARGETS = (("BrWaC, 2.7 billion tokens", 3.5e6, 2.7e9), ("a trillion tokens", 3.5e6 / 2.7e9 * 1e12, 1e12))
"""What it means: name, documents, tokens."""
SAME = ("train.jsonl", "validation.jsonl", "dropped.jsonl", "dataset.json")


# ---- the corpus


def write_corpus(folder: Path, data: Path, copies: int) -> dict[str, int]:
    """The copies as JSONL files; returns how many documents, words, files and bytes they are. Kept where they are there
    already."""
    noted = folder / "corpus.json"
    wanted = {"copies": copies, "of": str(data)}
    if noted.is_file() and (known := json.loads(noted.read_text()))["wanted"] == wanted:
        return dict(known["counts"])
    for old in ("whole", "tenth"):
        shutil.rmtree(folder / old, ignore_errors=True)
        (folder / old).mkdir(parents=True)
    lines = [[line.split(" ") for line in work] for work in works(data)]
    words = [word for work in lines for line in work for word in line]
    counts = {"documents": 0, "words": 0, "files": 0, "bytes": 0}
    for copy in range(copies):
        place = folder / "whole" / f"{copy:03}"
        place.mkdir(parents=True)
        for number, text in enumerate(files_of(documents(lines, words, copy), counts)):
            (place / f"{number}.jsonl").write_text(text, encoding="utf-8")
            counts["files"] += 1
            counts["bytes"] += (place / f"{number}.jsonl").stat().st_size
        if copy < copies // 10:
            shutil.copytree(place, folder / "tenth" / f"{copy:03}", copy_function=os.link)
    noted.write_text(json.dumps({"wanted": wanted, "counts": counts}))
    return counts


def works(data: Path) -> Iterator[list[str]]:
    """The lines of each work that hold anything."""
    for file in sorted(data.rglob("*.txt")):
        yield [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def documents(works_of: Sequence[Sequence[list[str]]], words: Sequence[str], copy: int) -> Iterator[tuple[str, int]]:
    """The documents of one copy, with their words: consecutive lines of a work."""
    count = len(words)
    shift = copy * 1_000_003 % count
    twice = [*words, *words]
    place = 0
    for work in works_of:
        taken: list[str] = []
        length = 0
        for line in work:
            if copy:
                start, first, line = (place + shift) % count, (copy - place) % 3, list(line)
                line[first::3] = twice[start + first : start + len(line) : 3]
            place += len(line)
            taken.append(" ".join(line))
            length += len(line)
            if length >= WORDS:
                yield "\n".join(taken), length
                taken, length = [], 0
        if taken:
            yield "\n".join(taken), length


def files_of(found: Iterator[tuple[str, int]], counts: dict[str, int]) -> Iterator[str]:
    """The texts of files of about FILE_BYTES; what is in them is counted."""
    rows: list[str] = []
    size = 0
    for text, words in found:
        rows.append(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        size += len(rows[-1].encode())
        counts["documents"] += 1
        counts["words"] += words
        if size >= FILE_BYTES:
            yield "".join(rows)
            rows, size = [], 0
    if rows:
        yield "".join(rows)


# ---- one build


def build(folder: Path, side: str, engine: str, workers: int) -> dict[str, Any]:
    """Build the dataset of a side; what it holds, and the seconds of its parts."""
    import afina.dataset.build.corpus as reading
    from afina.dataset.build.build import build_dataset
    from afina.recipe import Clean, Dataset, NearDuplicates, Recipe, Source, Train

    recipe = Recipe(
        name="corpus",
        root=str(folder / ("tenth" if side == "tenth" else "whole")),
        sources=[Source(path=".")],
        dataset=Dataset(
            clean=Clean(preset="monograph"),
            near_duplicates=NearDuplicates(on="drop", threshold=0.8),
            engine="datatrove" if engine == "datatrove" else "own",
        ),
        train=Train(method="scratch"),
    )
    seconds: dict[str, float] = {}
    find = reading.find_duplicates

    def timed(*given: Any) -> Any:
        began = time.perf_counter()
        seconds["read"] = began - started
        found = find(*given)
        seconds["duplicates"] = time.perf_counter() - began
        return found

    reading.find_duplicates = timed
    started = time.perf_counter()
    summary = build_dataset(recipe, folder / f"built-{side}", workers=workers)
    seconds["whole"] = time.perf_counter() - started
    return {
        "seconds": seconds,
        "documents": summary["documents"],
        "train": summary["train"]["examples"],
        "validation": summary["validation"]["examples"],
        "dropped": summary["dropped"],
        "read_again": summary.get("read_again", {}),
    }


@dataclass
class Watched:
    """What was seen of a build from outside."""

    result: dict[str, Any]
    resident: int = 0
    """Most bytes of all of its processes together."""
    anonymous: int = 0
    """The same without pages of files."""
    writers: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Batch -> the processes that wrote its examples."""
    killed: int | None = None
    """The batch over which a worker was killed."""

    @property
    def read_twice(self) -> list[int]:
        """Batches that two processes wrote."""
        return sorted(batch for batch, processes in self.writers.items() if len(processes) > 1)


def watch(folder: Path, side: str, engine: str, workers: int, kill_from: int | None = None) -> Watched:
    """Build a side in a process of its own and look at it.

    Args:
        kill_from: kill the worker that has written a part of this batch, or of a later one.
    """
    command = [sys.executable, __file__, "--build", side, "--engine", engine, "--folder", str(folder)]
    command += ["--workers", str(workers)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    log = folder / f"{side}.log"
    seen = Watched({})
    with log.open("wb") as said, (folder / f"{side}.out").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=said, env=environment)
        looks, family = 0, {process.pid}
        while process.poll() is None:
            if looks % FAMILY_EVERY == 0:
                family = processes_of(process.pid)
            looks += 1
            held = [memory_of(worker) for worker in family]
            seen.resident = max(seen.resident, sum(resident for resident, _ in held))
            seen.anonymous = max(seen.anonymous, sum(anonymous for _, anonymous in held))
            for worker in family:
                for batch, size in parts_written_by(worker):
                    seen.writers[batch].add(worker)
                    wanted = kill_from is not None and seen.killed is None and batch >= kill_from
                    if wanted and size >= MIDDLE_BYTES and worker != process.pid:
                        os.kill(worker, signal.SIGKILL)
                        seen.killed = batch
            time.sleep(LOOK_SECONDS)
    if process.returncode:
        sys.exit(f"{side} failed: {log}")
    seen.result = json.loads((folder / f"{side}.out").read_text().splitlines()[-1])
    return seen


def processes_of(root: int) -> set[int]:
    """A process and all its descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    family = {root}
    while more := {process for process, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def memory_of(process: int) -> tuple[int, int]:
    """Bytes that a process holds, and those of them that are no pages of files; 0 where it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0, 0
    held = dict(re.findall(r"^(VmRSS|RssAnon):\s+(\d+) kB$", status, re.MULTILINE))
    return int(held.get("VmRSS", 0)) * 1024, int(held.get("RssAnon", 0)) * 1024


def parts_written_by(process: int) -> Iterator[tuple[int, int]]:
    """The batches whose examples a process is writing, with the bytes so far. Who reads them, later, does not count."""
    try:
        handles = list(Path(f"/proc/{process}/fd").iterdir())
    except OSError:
        return
    for handle in handles:
        try:
            file = handle.readlink()
            found = re.search(r"/parts/(\d{6})\.jsonl$", str(file))
            if not found:
                continue
            about = (handle.parent.parent / "fdinfo" / handle.name).read_text()
            flags = int(re.search(r"^flags:\s+(\d+)$", about, re.MULTILINE)[1], 8)  # type: ignore[index]
            if flags & (os.O_WRONLY | os.O_RDWR):
                yield int(found[1]), file.stat().st_size
        except OSError:
            continue


# ---- the figures


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a dataset."""
    found = {}
    for name in SAME:
        with (folder / name).open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def measure(folder: Path, engine: str, counts: dict[str, int], copies: int) -> dict[str, Any]:
    """All sides, one after the other."""
    sides: dict[str, dict[str, Any]] = {}
    for side in ("one", "two", "tenth", "killed"):
        if side == "tenth" and copies < 10:
            continue
        middle = sides["one"]["batches"] // 2 if side == "killed" else None
        seen = watch(folder, side, engine, 1 if side == "one" else 2, kill_from=middle)
        sides[side] = {
            **seen.result,
            "resident_bytes": seen.resident,
            "anonymous_bytes": seen.anonymous,
            "batches": len(seen.writers),
            "read_twice": seen.read_twice,
            "killed_over": seen.killed,
            "sha256": hashes(folder / f"built-{side}"),
        }
        shutil.rmtree(folder / f"built-{side}")  # each is as large as the corpus
    return {"engine": engine, "copies": copies, "corpus": counts, "sides": sides}


def wrong_with(figures: dict[str, Any]) -> list[str]:
    """What of the figures is not as it has to be."""
    sides, wrong = figures["sides"], []
    for side in ("two", "killed"):
        other = [name for name in SAME if sides[side]["sha256"][name] != sides["one"]["sha256"][name]]
        if other:
            wrong.append(f"{side}: {', '.join(other)} not as by one worker")
    killed = sides["killed"]
    if killed["killed_over"] is None:
        wrong.append("killed: no worker was caught in the middle of a batch")
    elif killed["read_twice"] != [killed["killed_over"]] or sum(killed["read_again"].values()) != 1:
        wrong.append(f"killed: read twice {killed['read_twice']}, said {killed['read_again']}")
    if sides["two"]["read_twice"] or sides["two"]["read_again"]:
        wrong.append("two: batches were read twice, and nobody was killed")
    left_out = sum(count for reason, count in sides["one"]["dropped"].items() if reason.endswith("duplicate"))
    if left_out * 100 > figures["corpus"]["documents"]:
        wrong.append(f"{left_out} documents were left out: the copies are too much alike")
    return wrong


def shown(figures: dict[str, Any]) -> str:
    """The figures, and what follows from them, as Markdown."""
    counts, sides = figures["corpus"], figures["sides"]
    lines = [
        f"Machado {figures['copies']} times: {counts['bytes'] / 1e6:,.0f} MB, {counts['documents']:,} documents of "
        f"{counts['words'] / counts['documents']:.0f} words, {sides['one']['batches']} batches; engine "
        f"`{figures['engine']}`. Left out: {sides['one']['dropped'] or 'nothing'}.",
        "",
        "| | workers | read s | duplicates s | written s | documents/s and core | resident MB | without files MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for side, told in sides.items():
        seconds, workers = told["seconds"], 1 if side == "one" else 2
        rest = seconds["whole"] - seconds["read"] - seconds["duplicates"]
        lines.append(
            f"| {side} | {workers} | {seconds['read']:.1f} | {seconds['duplicates']:.1f} | {rest:.1f} | "
            f"{told['documents'] / seconds['read'] / workers:.0f} | {told['resident_bytes'] / 1e6:.0f} | "
            f"{told['anonymous_bytes'] / 1e6:.0f} |"
        )
    killed = sides["killed"]
    lines += ["", "SHA-256 of " + ", ".join(f"`{name}` {sides['one']['sha256'][name][:16]}" for name in SAME) + "."]
    wrong = wrong_with(figures)
    lines.append(
        "NOT AS IT HAS TO BE: " + "; ".join(wrong)
        if wrong
        else f"The same by one worker, by two, and by two of which one was killed over batch {killed['killed_over']}: "
        f"1 of {killed['batches']} batches was read twice."
    )
    return "\n".join([*lines, *on_paper(figures)])


def on_paper(figures: dict[str, Any]) -> list[str]:
    """What larger corpora take, with the arithmetic; nothing without the tenth, whose memory it needs."""
    two, tenth = figures["sides"]["two"], figures["sides"].get("tenth")
    if not tenth:
        return []
    count = two["documents"]
    rate = count / two["seconds"]["read"] / 2
    duplicates = two["seconds"]["duplicates"] / count
    written = (two["seconds"]["whole"] - two["seconds"]["read"] - two["seconds"]["duplicates"]) / count
    each = (two["anonymous_bytes"] - tenth["anonymous_bytes"]) / (count - tenth["documents"])
    fixed = two["anonymous_bytes"] - each * count
    lines = [
        "",
        f"r = {rate:.0f} documents/s and core; one process then looks for duplicates, d = {duplicates * 1e6:.0f} us a "
        f"document, and writes, w = {written * 1e6:.0f} us; memory m = {fixed / 1e6:.0f} MB + {each:.0f} B a document "
        f"({count:,} documents against {tenth['documents']:,}).",
        "",
        "| | documents N | N / r, core hours | on 64 cores, h | N (d + w), h in one process | m, GB | signatures, GB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, documents_of, _ in TARGETS:
        hours = documents_of / rate / 3600
        lines.append(
            f"| {name} | {documents_of:.3g} | {hours:,.1f} | {hours / 64:,.2f} | "
            f"{documents_of * (duplicates + written) / 3600:,.1f} | {(fixed + each * documents_of) / 1e9:,.2f} | "
            f"{documents_of * 512 / 1e9:,.1f} |"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the corpus, build its sides, print the table; 1 where something is not as it has to be."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--copies", type=int, default=100)
    options.add_argument("--engine", choices=["datatrove", "own"], default="datatrove")
    options.add_argument("--data", type=Path, default=MACHADO, help="a folder of texts")
    options.add_argument("--folder", type=Path, default=Path("/tmp/afina-corpus"))
    options.add_argument("--json", action="store_true")
    options.add_argument("--publish", action="store_true", help="write the table into docs/scaling.md")
    options.add_argument("--build", help=argparse.SUPPRESS)
    options.add_argument("--workers", type=int, help=argparse.SUPPRESS)
    chosen = options.parse_args(arguments)
    if chosen.build:
        print(json.dumps(build(chosen.folder, chosen.build, chosen.engine, chosen.workers)))
        return 0
    if not any(chosen.data.rglob("*.txt")):
        sys.exit(f"needs texts in {chosen.data}, which are not here: --data FOLDER")
    if chosen.publish and chosen.copies < 10:
        options.error("only figures of ten copies or more are published: they tell what memory grows by")
    counts = write_corpus(chosen.folder, chosen.data, chosen.copies)
    print(f"{counts['bytes'] / 1e6:.0f} MB, load of the machine before: {os.getloadavg()[0]:.1f}", file=sys.stderr)
    figures = measure(chosen.folder, chosen.engine, counts, chosen.copies)
    print(json.dumps(figures, indent=2) if chosen.json else shown(figures))
    if chosen.publish:
        write_between(PAGE, MARKS, shown(figures))
    return 1 if wrong_with(figures) else 0


if __name__ == "__main__":
    sys.exit(main())
