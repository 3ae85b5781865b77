"""Several processes that train one model together: who computes what, and how they agree.

Under ``torchrun`` each process is a rank with a device of its own. All of them follow the same plan of
steps. The micro-batches of a step are dealt out by padded tokens, a loss is divided by the targets of the whole
step, and gradients are added up over the ranks: the step of a single process, but for the order in which numbers
are added.

Whatever one rank decides alone (its memory is short, its time is up, it was told to stop) would leave the others
waiting for it. So every decision of the loop is made of what :meth:`Ranks.sum`, :meth:`Ranks.most` and
:meth:`Ranks.reason` say, which say the same on each. A process by itself is ``Ranks()``: nothing is sent.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from afina.errors import AfinaError, RecipeError

if TYPE_CHECKING:
    import torch

TIMEOUT = timedelta(minutes=30)
"""The longest that ranks wait for each other: while the first one writes a checkpoint, and not much else."""
GRACE_SECONDS = 10.0
"""How long a rank that hangs in a computation may go on after another one has failed."""
PARTING_SECONDS = 60.0
"""How long rank 0 stays for the others at the end: they come out of the same last step."""
BUCKET_NUMBERS = 25_000_000
"""Gradients travel in pieces of 100 MB: large enough to fill the wire, small beside a model."""


@dataclass
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    world: int = 1
    local: int = 0
    """Number of this process on its machine; also that of its GPU."""
    local_world: int = 1
    sharded: bool = False
    """Whether each rank holds a part of every weight (FSDP), so that no rank can compute alone."""
    store: Any = None
    """What all ranks can read and write before they are connected."""
    starts: int = 0
    left: threading.Event = field(default_factory=threading.Event)
    _control: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the one that writes, prints and measures."""
        return self.rank == 0

    # ---- begin and end

    def start(self, **news: object) -> None:
        """Rank 0: let the others begin a training, and give them what they have to know; without news, let them go."""
        self.starts += 1
        self.store.set(f"start/{self.starts}", json.dumps(news))

    def await_start(self) -> dict[str, Any]:
        """What rank 0 gave to :meth:`start`; empty when nothing is left to train. It may build a dataset for hours.

        Raises:
            AfinaError: a rank has failed meanwhile.
        """
        self.starts += 1
        while not self.store.check([f"start/{self.starts}"]):
            if self.store.check(["failed"]):
                raise AfinaError("another rank failed before training began")
            time.sleep(0.2)
        news: dict[str, Any] = json.loads(self.store.get(f"start/{self.starts}"))
        return news

    def device(self, found: torch.device) -> torch.device:
        """The device of this rank, where a single process would take `found`.

        Raises:
            RecipeError: there are fewer GPUs than processes, or no way to send on this device.
        """
        if self.world == 1 or found.type == "cpu":
            return found
        import torch

        if found.type != "cuda":
            raise RecipeError(f"several processes cannot train on {found.type}", "start it without torchrun", "device")
        if self.local_world > (there := torch.cuda.device_count()):
            raise RecipeError(
                f"{self.local_world} processes, but {there} GPUs on this machine",
                f"torchrun --nproc-per-node {there}, or device=cpu",
                "device",
            )
        torch.cuda.set_device(self.local)
        return torch.device("cuda", self.local)

    def connect(self, device: torch.device) -> None:
        """Open the ways to send tensors: NCCL between GPUs, gloo between CPUs and for all decisions."""
        import torch.distributed as dist

        if self.world == 1 or dist.is_initialized():
            return
        backend = "nccl" if device.type == "cuda" else "gloo"
        store = dist.PrefixStore("group", self.store)
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.world, timeout=TIMEOUT)
        self._control = dist.new_group(backend="gloo", timeout=TIMEOUT)

    def leave(self) -> None:
        """Part with the others; those that still wait for a start may go."""
        import torch.distributed as dist

        if self.world == 1 or self.left.is_set():
            return
        self.left.set()
        if self.first:
            self.start()
            self._see_off()
        else:
            self.store.set(f"left/{self.rank}", "yes")
        if dist.is_initialized():
            dist.destroy_process_group()

    def _see_off(self) -> None:
        """Stay until the others have read that they may go: the store may live in this process, and end with it."""
        others, until = [f"left/{rank}" for rank in range(1, self.world)], time.monotonic() + PARTING_SECONDS
        with suppress(RuntimeError):  # the store is gone, and with it whoever could be waited for
            while time.monotonic() < until and not self.store.check(["failed"]) and not self.store.check(others):
                time.sleep(0.05)

    # ---- agree

    def sum(self, *values: float) -> list[float]:
        """The sums of the ranks' values."""
        return self._reduced(values, "SUM")

    def most(self, *values: float) -> list[float]:
        """The largest of the ranks' values, for each."""
        return self._reduced(values, "MAX")

    def reason(self, mine: str | None) -> str:
        """Why not to go on, of the lowest rank that has a reason; empty where none has."""
        if self.world == 1 or not self.most(bool(mine))[0]:
            return mine or ""
        found = self._gathered(f"{mine} (rank {self.rank})" if mine else "")
        return next(filter(None, found))

    def from_first(self, value: Any) -> Any:
        """Rank 0's value."""
        if self.world == 1:
            return value
        import torch.distributed as dist

        held = [value]
        dist.broadcast_object_list(held, src=0, group=self._control)
        return held[0]

    def wait(self) -> None:
        """Go on when every rank is here; one that does not come in time is named."""
        if self.world > 1:
            import torch.distributed as dist

            dist.monitored_barrier(self._control, timeout=TIMEOUT)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """One rank of a machine after the other, for what needs much of its memory."""
        most = int(self.most(self.local_world)[0])
        for _ in range(self.local):
            self.wait()
        yield
        for _ in range(most - self.local):
            self.wait()

    def _reduced(self, values: Sequence[float], how: str) -> list[float]:
        if self.world == 1:
            return list(values)
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, getattr(dist.ReduceOp, how), group=self._control)
        found: list[float] = tensor.tolist()
        return found

    def _gathered(self, value: Any) -> list[Any]:
        import torch.distributed as dist

        found = [None] * self.world
        dist.all_gather_object(found, value, group=self._control)
        return found

    # ---- a step

    def share(
        self, parts: Sequence[Sequence[int]], lengths: Sequence[int]
    ) -> tuple[list[Sequence[int]], list[Sequence[int]]]:
        """This rank's part of a step's micro-batches, and those with which it only takes part in a pass of the others.

        A step with fewer micro-batches than ranks is cut further, as far as it has rows. The second list is empty but
        for sharded weights, which need every rank in each pass; it holds the shortest row.
        """
        if self.world == 1:
            return list(parts), []
        parts = cut(parts, self.world)
        dealt = deal([len(part) * max(lengths[row] for row in part) for part in parts], self.world)
        own = [parts[number] for number in dealt[self.rank]]
        shortest = min((row for part in parts for row in part), key=lambda row: lengths[row])
        return own, [[shortest]] * (max(map(len, dealt)) - len(own)) if self.sharded else []

    def add_gradients(self, parameters: Sequence[torch.Tensor]) -> None:
        """Every gradient becomes the sum of the ranks'; one that no rank has stays away, as in a single process.

        Torch's DistributedDataParallel would send while it still computes. It wants to be the module that is called,
        though, the same parameters used in every backward pass of each rank, and a mean over ranks: none of which
        holds here. What waiting costs is small for what a rank can hold whole: the gradient of an adapter of rank 16 on
        8 billion weights (42 million numbers, 168 MB) takes 20 ms at 16 GB/s, once a step of seconds.
        """
        if self.world == 1 or self.sharded:
            return
        import torch
        import torch.distributed as dist

        there = self.most(*(weight.grad is not None for weight in parameters))
        trained = [weight for weight, used in zip(parameters, there, strict=True) if used]
        for bucket in buckets(trained, BUCKET_NUMBERS):
            gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in bucket]
            flat = torch.cat([gradient.flatten().float() for gradient in gradients])
            dist.all_reduce(flat)
            for weight, part in zip(bucket, flat.split([weight.numel() for weight in bucket]), strict=True):
                weight.grad = part.view_as(weight).to(weight.dtype)

    def check_same(self, parameters: Sequence[torch.Tensor]) -> None:
        """Refuse to go on with weights that are not the same on every rank: nothing else would show it.

        Raises:
            AfinaError: they differ.
        """
        if self.world == 1 or self.sharded:
            return
        check = float(sum(weight.detach().double().sum() for weight in parameters))
        high, low = self.most(check, -check)
        if high != -low:
            raise AfinaError(
                f"the ranks' weights have drifted apart (their sums range from {-low!r} to {high!r})",
                "ranks must run on the same kind of device, with the same versions of all libraries",
            )

    # ---- what dropout draws from

    def seed(self, seed: int) -> None:
        """Seed the generators: rank 0 as a single process, each other rank in its own way."""
        import torch

        torch.manual_seed(seed if self.first else random.Random(f"{seed}/{self.rank}").getrandbits(63))

    def all_random(self, own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The states of the generators of all ranks; rank 0's under the names that a single process gives them."""
        if self.world == 1:
            return own
        states = self._gathered(own)
        others = {f"rank{n}.{name}": value for n, state in enumerate(states) if n for name, value in state.items()}
        return states[0] | others

    def own_random(self, states: dict[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
        """This rank's part of what :meth:`all_random` gave; None where there were fewer ranks then."""
        prefix = "" if self.first else f"rank{self.rank}."
        own = {name.removeprefix(prefix): value for name, value in states.items() if name.startswith(prefix)}
        return {name: value for name, value in own.items() if "." not in name} or None


def cut(parts: Sequence[Sequence[int]], least: int) -> list[Sequence[int]]:
    """The micro-batches, the largest cut in two until there are `least` of them, or none has two rows.

    >>> cut([[1, 2, 3], [4, 5]], 4)
    [[1, 2], [3], [4], [5]]
    """
    parts = list(parts)
    while len(parts) < least and len(largest := max(parts, key=len)) > 1:
        parts.remove(largest)
        half = (len(largest) + 1) // 2
        parts += [largest[:half], largest[half:]]
    return parts


def deal(costs: Sequence[int], hands: int) -> list[list[int]]:
    """Numbers of the costs, dealt to as many hands so that their sums are near: the largest first, each to the
    hand that holds least (at most 4/3 of the best possible, Graham 1969). In each hand in their old order.

    >>> deal([5, 3, 2, 4], 2)
    [[0, 2], [1, 3]]
    >>> deal([5], 2)
    [[0], []]
    """
    held: list[list[int]] = [[] for _ in range(hands)]
    sums = [0] * hands
    for number in sorted(range(len(costs)), key=lambda number: -costs[number]):
        least = sums.index(min(sums))
        held[least].append(number)
        sums[least] += costs[number]
    return [sorted(hand) for hand in held]


def buckets(weights: Sequence[torch.Tensor], numbers: int) -> Iterator[list[torch.Tensor]]:
    """Neighbours together, up to `numbers` of their numbers at a time, one weight at least.

    >>> import torch
    >>> [[weight.numel() for weight in bucket] for bucket in buckets([torch.zeros(n) for n in (2, 3, 9, 1)], 5)]
    [[2, 3], [9], [1]]
    """
    bucket: list[torch.Tensor] = []
    for weight in weights:
        if bucket and sum(held.numel() for held in bucket) + weight.numel() > numbers:
            yield bucket
            bucket = []
        bucket.append(weight)
    if bucket:
        yield bucket


# ---- one fails, all end


@contextmanager
def joined(say: Callable[[str], None]) -> Iterator[Ranks]:
    """This process among those that ``torchrun`` has started.

    An error in one rank ends all, each with its exit code; the rank that failed first says why.

    Raises:
        RecipeError: several processes, but no ``torchrun``.
        AfinaError: another rank is gone without a word.
    """
    import torch.distributed as dist

    _check_variables()
    try:
        store, rank, world = next(iter(dist.rendezvous("env://", timeout=TIMEOUT)))
        start = meet(store, rank, world)
    except dist.DistError as error:
        raise _lost() from error
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    ranks = Ranks(
        rank, world, int(os.environ["LOCAL_RANK"]), local_world, store=dist.PrefixStore(f"afina/{start}", store)
    )
    watcher = threading.Thread(target=_watch, args=(ranks, store.clone(), start, say), daemon=True)
    watcher.start()
    try:
        yield ranks
    except Exception as error:
        if _is_lost(error):
            failed = _lost()
            _end_by_first(ranks, failed, say)
            raise failed from error
        _end_by_first(ranks, error, say)
        raise
    finally:
        ranks.left.set()
        watcher.join(5.0)  # a thread that is inside the store when Python ends aborts the process


def _check_variables() -> None:
    """What ``torchrun`` sets is there and is what it sets: another program may have left a part of it.

    Raises:
        RecipeError: it is not.
    """
    numbers = ("RANK", "LOCAL_RANK", "MASTER_PORT")
    given = {name: os.environ[name].strip() for name in (*numbers, "LOCAL_WORLD_SIZE") if name in os.environ}
    missing = [name for name in (*numbers, "MASTER_ADDR") if not os.environ.get(name, "").strip()]
    wrong = [f"{name} is {said!r}" for name, said in given.items() if name not in missing and not said.isdecimal()]
    if not missing and not wrong and int(given["RANK"]) >= int(os.environ["WORLD_SIZE"]):
        wrong = [f"RANK is {given['RANK']}, of {os.environ['WORLD_SIZE']} from 0 on"]
    if missing or wrong:
        said = [f"{', '.join(missing)} is not set"] if missing else wrong
        raise RecipeError(
            f"WORLD_SIZE asks for several processes, but {', '.join(said)}",
            "start them with torchrun (docs/scaling.md), or unset WORLD_SIZE",
        )


def meet(store: Any, rank: int, world: int) -> str:
    """A name that the ranks of this start have together, and those of an earlier one have not.

    A restart of torchrun may meet the same store, with what the ranks before it left there. Its count of restarts names
    no start: it is each machine's own, and one that came back, or that saw another one wait, counts otherwise than the
    rest. So rank 0 makes a name up, and each rank takes the newest in which nobody has its place yet.

    Raises:
        AfinaError: a rank did not come.
    """
    own, until = uuid.uuid4().hex, time.monotonic() + TIMEOUT.total_seconds()
    if rank == 0:
        store.set("afina/newest", own)
    while time.monotonic() < until:
        if store.check(["afina/newest"]):
            name = store.get("afina/newest").decode()
            # The text that is expected is empty where the key is not there: whoever comes first has the place.
            mine = store.compare_set(f"afina/{name}/here/{rank}", "", own).decode() == own
            # Only a rank 0 that lives says that all are there: in an earlier start a place may have stayed free.
            if mine and rank == 0 and store.check([f"afina/{name}/here/{other}" for other in range(world)]):
                store.set(f"afina/{name}/all", "yes")
            if mine and store.check([f"afina/{name}/all"]):
                return name
        time.sleep(0.1)
    raise AfinaError(
        f"not all of {world} processes came within {TIMEOUT.total_seconds() / 60:.0f} minutes",
        "look at what the others say; the same command on every machine goes on from the newest checkpoint",
    )


def _end_by_first(ranks: Ranks, error: Exception, say: Callable[[str], None]) -> None:
    """Note that this rank failed. Where another one did before, end with its exit code: it has told why."""
    if ranks.left.is_set():  # nobody waits any more
        return
    code = error.exit_code if isinstance(error, AfinaError) else 1
    note = json.dumps({"rank": ranks.rank, "code": code, "what": f"{type(error).__name__}: {error}".splitlines()[0]})
    try:
        failed = json.loads(ranks.store.compare_set("failed", "", note))
    except RuntimeError:  # the store is gone, and with it whoever could be told
        return
    if failed["rank"] != ranks.rank:
        if ranks.local == 0:
            say(f"rank {ranks.rank} ends, because rank {failed['rank']} did: {failed['what']}")
        raise SystemExit(failed["code"]) from error
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    get_error_handler().record_exception(error)  # for the table that torchrun prints
    say(f"rank {ranks.rank} of {ranks.world} failed:")


def _lost() -> AfinaError:
    return AfinaError(
        "another rank is gone without a word",
        "it was killed, or its machine is; look for a lack of memory there (dmesg). The same command goes on from the "
        "newest checkpoint",
    )


def _is_lost(error: Exception) -> bool:
    """Whether an error says that another rank is no longer there."""
    import torch.distributed as dist

    text = str(error).lower()
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in text)


def _watch(ranks: Ranks, store: Any, start: str, say: Callable[[str], None]) -> None:
    """End this process when another rank has failed and this one does not notice: it may wait in a GPU's queue for
    what the other one would have sent."""
    import torch.distributed as dist

    store = dist.PrefixStore(f"afina/{start}", store)
    try:
        while not store.check(["failed"]):
            if ranks.left.wait(1.0):
                return
        failed = json.loads(store.get("failed"))
    except RuntimeError:  # the store is gone
        return
    if failed["rank"] != ranks.rank and not ranks.left.wait(GRACE_SECONDS):
        say(f"rank {ranks.rank} ends, because rank {failed['rank']} did: {failed['what']}")
        os._exit(failed["code"])
