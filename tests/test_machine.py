"""What `afina doctor` and the plan see of a Mac, of a card, of this CPU: systems that are not here are given in what
their programs print."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from called import call_afina
from parsed import FILES, nodes_of, tree_of

from afina import machine
from afina.errors import AfinaError, RecipeError
from afina.machine import main_memory, nvidia_cards
from afina.plan import doctor, installing, matrix_rate
from afina.plan.device import local_device
from afina.plan.matrix_rate import keep_rate, kept_rate, measure_rate, rate_here
from afina.recipe import check_recipe, load_recipe
from afina.recipe.profiles import profiles

ROOT = Path(__file__).resolve().parent.parent
GIB = 2**30
VM_STAT = """\
Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               65536.
Pages active:                            200000.
Pages inactive:                          131072.
Pages speculative:                        65536.
Pages throttled:                              0.
Pages wired down:                        131072.
Pages purgeable:                           4096.
"Translation faults":                  12345678.
"""
CARD = "NVIDIA GeForce RTX 4090, 24564, 23900, 560.35.03\nNVIDIA GeForce RTX 4090, 24564, 24000, 560.35.03"


def be(monkeypatch: pytest.MonkeyPatch, answers: dict[str, str], system: str = "Linux", cpu: str = "x86_64") -> None:
    """Another machine, by what its programs answer to a command that ends so."""

    def ask(*command: str) -> str:
        return next((said for end, said in answers.items() if " ".join(command).endswith(end)), "")

    for module in (machine, sys.modules["afina.plan.device"]):
        monkeypatch.setattr(module, "ask", ask)
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: cpu)
    keep_rate(50e9)  # or torch would be started to measure its CPU


def mac(monkeypatch: pytest.MonkeyPatch, chip: str, gib: int, limit: str = "0") -> None:
    answers = {"hw.memsize": str(gib * GIB), "machdep.cpu.brand_string": chip, "iogpu.wired_limit_mb": limit}
    be(monkeypatch, answers | {"vm_stat": VM_STAT}, "Darwin", "arm64")


def card(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, {"--format=csv,noheader,nounits": CARD})


def checks(folder: Path) -> dict[str, doctor.DoctorCheck]:
    return {check.name: check for check in doctor.examine(folder / "runs")}


# --- the doctor ----------------------------------------------------------------------------------


def test_a_mac_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mac(monkeypatch, "Apple M1", 16)
    found = checks(tmp_path)
    assert found["chip"].found.startswith("Apple M1, ")
    assert found["memory"].found == "4.0 GiB free of 16.0 GiB, 2.0 GiB wired"
    assert found["gpu"].found.startswith("Apple M1: may hold 10.7 GiB of 16.0 GiB (67%, as macOS has it")
    assert "16gb" in found["profile"].found
    assert "liger-kernel" not in found
    assert found["mlx-lm"].status == "ok" or "pip install 'afina[mlx]'" in found["mlx-lm"].fix
    assert json.loads(json.dumps(found["memory"].as_json()))["values"]["wired"] == 2 * GIB


def test_a_translated_python_and_an_old_macos_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for Intel sees no Apple chip; pip then finds no MLX, and says nothing of why."""
    mac(monkeypatch, "Apple M1", 16)
    assert checks(tmp_path)["python"].status == "ok"
    answers = {"hw.memsize": str(16 * GIB), "machdep.cpu.brand_string": "Apple M1", "sysctl.proc_translated": "1"}
    be(monkeypatch, answers | {"vm_stat": VM_STAT}, "Darwin", "x86_64")
    found = checks(tmp_path)["python"]
    assert found.status == "missing" and "built for Intel" in found.found and "python.org" in found.fix
    mac(monkeypatch, "Apple M1", 16)

    def missing(_: str) -> str:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "version", missing)
    for release, fix in (("13.6.1", "update macOS"), ("14.0", "pip install 'afina[mlx]'"), ("10.16", "pip install")):
        monkeypatch.setattr(platform, "mac_ver", lambda release=release: (release, ("", "", ""), "arm64"))
        assert fix in checks(tmp_path)["mlx-lm"].fix, release


def test_a_limit_that_was_set_is_the_macs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mac(monkeypatch, "Apple M2 Max", 64, limit="57344")
    assert local_device().usable_bytes == 56 * GIB
    assert "as iogpu.wired_limit_mb was set" in checks(tmp_path)["gpu"].found


def test_a_chip_newer_than_the_table_is_planned_as_the_newest_of_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was refused: "the rate of 'Apple M9 Pro' is not known"."""
    mac(monkeypatch, "Apple M9 Pro", 48)
    device = local_device()
    assert (device.name, device.memory_bytes) == ("Apple M9 Pro", 48 * GIB)
    assert "those of an Apple M4 Pro" in device.note
    mac(monkeypatch, "Apple Vision", 16)
    with pytest.raises(RecipeError, match="rate of 'Apple Vision' is not known"):
        local_device()


def test_a_card_is_described_and_a_torch_that_cannot_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch)
    versions = {"torch": "2.9.0+cpu"}
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: versions.get(name) or real(name))
    found = checks(tmp_path)
    assert found["gpu"].found == "RTX 4090, 23.3 GiB free of 24.0 GiB, driver 560.35.03, and 1 more"
    assert found["torch for cuda"].status == "missing"
    assert "16gb" in found["profile"].found, "the card's own memory, whatever the machine has"
    assert "liger-kernel" in found and "mlx-lm" not in found
    versions["torch"] = "2.9.0+cu128"
    assert "torch for cuda" not in checks(tmp_path)


def test_without_a_card_or_an_apple_chip_the_cpu_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, {})
    found = checks(tmp_path)
    assert found["gpu"].found == "none found"
    assert found["matrix rate"].found.startswith("float32 products: ")
    assert nvidia_cards() == []
    assert main_memory().wired is None


def test_a_port_for_a_server_is_none_that_the_system_gives_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was one of those, and free no more when the server had loaded its libraries."""
    assert machine.free_port() in machine.OWN_PORTS
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if given.is_file():
        assert max(machine.OWN_PORTS) < int(given.read_text().split()[0])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr(machine, "OWN_PORTS", [taken.getsockname()[1]] * 99)
        assert machine.free_port() != taken.getsockname()[1]


TWO_CARDS = "NVIDIA GeForce RTX 4090, 24564, 23900, 550, GPU-aa\nNVIDIA A100-SXM4-80GB, 81920, 81000, 550, GPU-bb"


@pytest.mark.parametrize(
    ("shown", "names"),
    [
        (None, ["RTX 4090", "A100 80GB"]),
        ("", []),
        ("-1", []),
        ("1", ["A100 80GB"]),
        (" 1, 0", ["A100 80GB", "RTX 4090"]),
        ("GPU-b", ["A100 80GB"]),
        ("0,9,1", ["RTX 4090"]),
        ("0,0", []),
        ("GPU-a,GPU-aa", []),
        ("GPU-", []),
        ("MIG-1", ["RTX 4090", "A100 80GB"]),
    ],
)
def test_a_card_that_cuda_hides_is_planned_for_by_nobody(
    monkeypatch: pytest.MonkeyPatch, shown: str | None, names: list[str]
) -> None:
    """nvidia-smi lists it all the same: a run on the CPU, or on the second card, was planned by the first one."""
    monkeypatch.setattr(machine, "ask", lambda *command: TWO_CARDS if command[0] == "nvidia-smi" else "")
    if shown is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert [each.name.rpartition(" ")[2] for each in nvidia_cards()] == [
        {"RTX 4090": "4090", "A100 80GB": "A100-SXM4-80GB"}[each] for each in names
    ]
    assert (local_device().name, local_device().kind) == (names[0], "cuda") if names else local_device().kind == "cpu"


def test_a_card_without_memory_of_its_own_has_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """``[N/A]`` is no number: a traceback."""
    told = "NVIDIA GB10, [N/A], [N/A], 580.95, GPU-cc"
    monkeypatch.setattr(machine, "ask", lambda *command: told if command[0] == "nvidia-smi" else "")
    monkeypatch.setattr(machine, "main_memory", lambda: machine.Memory(128 * GIB, 100 * GIB))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (card,) = nvidia_cards()
    assert (card.name, card.total, card.free) == ("NVIDIA GB10", 128 * GIB, 100 * GIB)


def test_numbers_are_read_as_torch_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that is named twice was planned for, and the training saw none."""
    import torch

    cards = [machine.NvidiaCard(str(number), 1, 1, uuid=f"GPU-{number}") for number in range(3)]
    monkeypatch.setattr(machine, "ask", lambda *_: "\n".join(f"{each.name}, 1, 1, 550, {each.uuid}" for each in cards))
    for said in ("", "-1", "2", "1,0", "0,0", "1,-1,0", "0,1,0", "no"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
        assert [int(each.name) for each in nvidia_cards()] == torch.cuda._parse_visible_devices(), said


def test_a_card_whose_free_memory_is_not_told_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was given the machine's memory, as one that has none."""
    told = "NVIDIA H100 80GB HBM3, 81559, [Insufficient Permissions], 550, GPU-dd"
    monkeypatch.setattr(machine, "ask", lambda *command: told if command[0] == "nvidia-smi" else "")
    monkeypatch.setattr(machine, "main_memory", lambda: machine.Memory(512 * GIB, 500 * GIB))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (card,) = nvidia_cards()
    assert card.total == card.free == 81559 * 2**20


WARNED = """\
WARNING: infoROM is corrupted at gpu 0000:0C:00.0, see the manual, please
NVIDIA A100-SXM4-80GB, 81920, 81000, 550, GPU-bb
"""
NO_CARD = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure, again, it runs."


@pytest.mark.parametrize(("told", "code", "cards"), [(WARNED, 14, 1), (NO_CARD, 9, 0), ("No devices were found", 6, 0)])
def test_a_card_that_is_warned_of_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, code: int, cards: int
) -> None:
    """nvidia-smi lists it and exits with 14: the plan took the CPU, without a word. Words alone are no card."""
    (tmp_path / "told").write_text(told, encoding="utf-8")
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat {tmp_path}/told\nexit {code}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [each.name for each in nvidia_cards()] == ["NVIDIA A100-SXM4-80GB"] * cards


# --- memory and processors that Linux tells of ---------------------------------------------------

OLD_KERNEL = "MemTotal: 8000000 kB\nMemFree: 1000000 kB\nBuffers: 200000 kB\nCached: 3000000 kB\nHugePages_Total: 0\n"


def test_a_kernel_that_estimates_no_available_memory_tells_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux before 3.14, WSL 1, some containers: a KeyError."""
    monkeypatch.setattr(machine, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "OWN_GROUP", tmp_path / "cgroup")
    (tmp_path / "meminfo").write_text(OLD_KERNEL)
    assert main_memory() == machine.Memory(8_000_000 * 1024, 4_200_000 * 1024)
    (tmp_path / "meminfo").write_text(OLD_KERNEL + "MemAvailable: 5000000 kB\n")
    assert main_memory().usable == 5_000_000 * 1024
    (tmp_path / "meminfo").write_text("nothing of it\n")
    with pytest.raises(AfinaError, match="does not tell how much memory"):
        main_memory()


SLICE, DOCKER = "system.slice/run.service", "docker/0123"


@pytest.mark.parametrize(
    ("group", "files", "processors", "gib"),
    [
        (f"0::/{SLICE}", {f"{SLICE}/cpu.max": "200000 100000", f"{SLICE}/memory.max": str(GIB)}, 2.0, 1),
        (f"0::/{SLICE}", {"system.slice/cpu.max": "150000 100000", f"{SLICE}/cpu.max": "max 100000"}, 1.5, 4),
        ("0::/", {"cpu.max": "50000 100000", "memory.max": "max"}, 0.5, 4),
        (
            f"5:cpu,cpuacct:/{DOCKER}\n4:memory:/{DOCKER}\n1:name=systemd:/",
            {"cpu,cpuacct/cpu.cfs_quota_us": "300000", "cpu,cpuacct/cpu.cfs_period_us": "100000",
             "memory/memory.limit_in_bytes": str(2 * GIB)}, 3.0, 2,
        ),
        (
            "5:cpu,cpuacct:/\n4:memory:/",
            {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000",
             "memory/memory.limit_in_bytes": "9223372036854771712"}, None, 4,
        ),
        ("", {}, None, 4),
    ],
    ids=["a service", "a slice above it", "a container", "first version", "first version, no bound", "no groups"],
)  # fmt: skip
def test_what_a_control_group_grants_is_found_wherever_it_stands(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    group: str,
    files: dict[str, str],
    processors: float | None,
    gib: int,
) -> None:
    """Memory was; processors only where the second version's root says so: a service with `CPUQuota=200%` was planned
    with all of them."""
    (tmp_path / "meminfo").write_text(f"MemTotal: {4 * GIB // 1024} kB\nMemAvailable: {3 * GIB // 1024} kB\n")
    (tmp_path / "cgroup").write_text(f"{group}\n" if group else "")
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(f"{text}\n")
    for name, place in (("MEMORY", "meminfo"), ("OWN_GROUP", "cgroup"), ("GROUPS", "groups")):
        monkeypatch.setattr(machine, name, tmp_path / place)
    assert machine.granted_processors() == processors
    assert main_memory().total == gib * GIB
    monkeypatch.setattr(machine, "processors", lambda: 8)
    assert machine.usable_processors() == (8 if processors is None else max(1, int(processors)))


def test_one_function_says_how_many_compute_at_a_time() -> None:
    """Who counts processors for himself does not see what a container grants."""
    counts = {"cpu_count", "process_cpu_count", "sched_getaffinity"}
    found = {
        file.name
        for file in FILES
        for node in nodes_of(tree_of(file))
        if getattr(node, "attr", None) in counts or getattr(node, "id", None) in counts
    }
    assert found == {"machine.py"}


def test_no_more_threads_compute_than_the_control_group_grants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod of 8 of 96 processors began 96 threads, which were held back together nine tenths of the time."""
    from afina import cli

    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # so that what was before comes back

    def threads(granted: float | None, asked: str | None = None, *words: str) -> str | None:
        monkeypatch.setattr(machine, "granted_processors", lambda: granted)
        monkeypatch.setattr(machine, "processors", lambda: 96)
        monkeypatch.setattr(sys, "argv", ["afina", *(words or ("recipe", "schema"))])
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if asked is not None:
            monkeypatch.setenv("OMP_NUM_THREADS", asked)
        with pytest.raises(SystemExit):
            cli.main()
        return os.environ.get("OMP_NUM_THREADS")

    assert [threads(granted) for granted in (7.65, 0.5, 96.0, None)] == ["7", "1", None, None]
    assert threads(7.65, "3") == "3" and threads(7.65, None, "--help") is None


@pytest.mark.parametrize(("before", "then"), [(None, "PCI_BUS_ID"), ("FASTEST_FIRST", "FASTEST_FIRST")])
def test_cards_are_counted_as_nvidia_smi_counts_them(
    monkeypatch: pytest.MonkeyPatch, before: str | None, then: str
) -> None:
    """CUDA's 0 is its fastest card: of two unlike ones the plan was for one, and the other trained."""
    from afina import cli

    monkeypatch.setenv("CUDA_DEVICE_ORDER", "")  # so that what was before comes back
    monkeypatch.delenv("CUDA_DEVICE_ORDER")
    if before:
        monkeypatch.setenv("CUDA_DEVICE_ORDER", before)
    monkeypatch.setattr(sys, "argv", ["afina", "recipe", "schema"])
    with pytest.raises(SystemExit):
        cli.main()
    assert os.environ["CUDA_DEVICE_ORDER"] == then


# --- the matrix rate -----------------------------------------------------------------------------


def test_the_highest_of_the_newest_measurements_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program that computes makes one lower, and never higher."""
    monkeypatch.setenv("AFINA_HOME", str(tmp_path))
    assert kept_rate() is None
    assert [keep_rate(flops).flops_per_second for flops in (90e9, 190e9, 60e9)] == [90e9, 190e9, 190e9]
    found = rate_here()
    assert found is not None and found.in_words.startswith(f"190 GFLOP/s measured on {time.strftime('%Y-')}")
    assert kept_rate(since=time.time() + 60) is None
    for _ in range(matrix_rate.NEWEST):
        last = keep_rate(100e9)
    assert last.flops_per_second == 100e9, "an old measurement ends"


def test_other_threads_or_another_torch_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFINA_HOME", str(tmp_path))
    keep_rate(190e9)
    (tmp_path / "rates.jsonl").open("a").write('{"half a li')
    assert kept_rate() is not None
    with monkeypatch.context() as other:
        other.setenv("OMP_NUM_THREADS", "7")
        assert kept_rate() is None
    with monkeypatch.context() as other:
        other.setattr(matrix_rate, "version", lambda _: "99.0")
        assert kept_rate() is None
    assert kept_rate() is not None


def test_without_torch_the_clock_is_taken_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFINA_HOME", str(tmp_path))

    def missing(_: str) -> str:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(matrix_rate, "version", missing)
    assert measure_rate() is None
    device = local_device("cpu")
    assert device.flops_per_second > 1e9 and "not measured" in device.note


@pytest.mark.long
def test_a_measurement_is_made_without_loading_torch_here(tmp_path: Path) -> None:
    code = (
        "import sys; from afina.plan.matrix_rate import rate_here; rate = rate_here(); "
        "assert rate.flops_per_second > 1e9; assert 'torch' not in sys.modules; print(rate_here() == rate)"
    )
    environment = {**os.environ, "AFINA_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.parametrize("disturbed", [0, 2])
def test_a_measurement_beside_another_program_is_made_again(disturbed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that wait for each other lose half to a third: a plan was 2.6 times too long."""
    import torch

    from afina.plan import matrix_rate_torch

    threads, asked = torch.get_num_threads(), list[float]()

    def process_time() -> float:
        """Half of the processors twice a measurement, then all of them."""
        share = 0.5 if len(asked) < 2 * disturbed else 1.0
        asked.append(time.perf_counter() * threads * share)
        return asked[-1]

    monkeypatch.setattr(matrix_rate_torch, "LONGEST", 1e9)
    monkeypatch.setattr(matrix_rate_torch.time, "process_time", process_time)
    assert matrix_rate_torch.measured_flops(0.001) > 1e8
    assert len(asked) == 2 * (disturbed + 1)


@pytest.mark.parametrize(("flags", "has"), [("fma avx2 amx_bf16 amx_tile", True), ("fma avx512_bf16", False)])
def test_matrix_units_for_bf16_are_read_from_linux(flags: str, has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_info", lambda: f"processor\t: 0\nflags\t\t: fpu {flags}\n")
    assert machine.has_amx() is has


# --- profiles ------------------------------------------------------------------------------------


def job(folder: Path, train: str) -> Path:
    (folder / "a.txt").write_text("text")
    file = folder / "recipe.yaml"
    file.write_text(f"name: x\nbase: Qwen/Qwen3-8B\nsources: [{{path: a.txt}}]\ntrain: {train}\n")
    return file


@pytest.mark.parametrize(("gib", "name", "length"), [(8, "8gb", 256), (16, "16gb", 512), (64, "32gb", 1024)])
def test_auto_takes_the_profile_of_this_memory(
    gib: int, name: str, length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mac(monkeypatch, "Apple M1", gib)
    train = load_recipe(job(tmp_path, "{profile: auto}")).train
    assert (train.profile, train.max_length, train.checkpoint_activations) == (name, length, True)
    assert train.batch_tokens % length == 0


def test_of_a_gpu_its_own_memory_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch)
    assert load_recipe(job(tmp_path, "{profile: auto}")).train.profile == "16gb"


def test_each_line_of_a_profile_can_be_overridden_and_is_said_to_be(tmp_path: Path) -> None:
    from afina.plan.bases import recipe_shape
    from afina.plan.device import find_device
    from afina.plan.plan import plan_run
    from afina.plan.tokens import TokenCount

    file = job(tmp_path, "{profile: 16gb, accumulate: 1}")
    recipe = load_recipe(file, ["train.batch_tokens=512"])
    train = recipe.train
    assert (train.max_length, train.batch_tokens, train.accumulate) == (512, 512, 1)
    plan = plan_run(recipe, recipe_shape(recipe), TokenCount(5000, 5000, 50, 500), find_device("Apple M1 16GB"))
    assert plan.notes[0] == (
        "train.profile 16gb (for 12-28 GiB; Apple M1 has 16.0 GiB): max_length 512, batch_tokens 2048, accumulate 2, "
        "checkpoint_activations true; of these the recipe has its own batch_tokens 512, accumulate 1"
    )
    assert not any(note.startswith("the profile for") for note in plan.notes)
    plan = plan_run(recipe, recipe_shape(recipe), TokenCount(5000, 5000, 50, 500), find_device("Apple M1 8GB"))
    assert plan.notes[1] == "the profile for the memory of Apple M1 is 8gb: train.profile=8gb"


def test_a_plan_for_another_device_takes_the_profile_of_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` went by the machine that read the recipe: an M1 of 8 GB was planned with the rows of a workstation."""
    mac(monkeypatch, "Apple M4 Max", 64)
    file, runs = job(tmp_path, "{profile: auto}"), ("--runs", tmp_path / "runs")

    def notes(*words: object) -> list[str]:
        printed = call_afina("plan", file, *words, *runs, "--json", check=None).stdout  # a refusal stands behind it
        said = json.JSONDecoder().raw_decode(printed)[0]
        plans = said if isinstance(said, list) else [said]
        return [note for plan in plans for note in plan["notes"] if "profile" in note]

    assert [note.split()[1] for note in notes()] == ["32gb"]
    several = notes("--device", "M1 8GB,M3 16GB,M4 Max 64GB")
    assert [note.split()[1] for note in several] == ["8gb", "16gb", "32gb"]
    assert notes("--device", "m1 8gb") == several[:1]
    fixed = notes("--device", "M1 8GB", "train.profile=16gb")
    assert [note.split()[:2] for note in fixed] == [["train.profile", "16gb"], ["the", "profile"]]


def test_a_recipe_for_the_cpu_takes_the_profile_of_main_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It took the card's, on which it does not train."""
    card(monkeypatch)
    monkeypatch.setattr(machine, "main_memory", lambda: machine.Memory(64 * GIB, 60 * GIB))
    file = job(tmp_path, "{profile: auto}")
    assert load_recipe(file).train.profile == "16gb"
    assert load_recipe(file, ["device=cpu"]).train.profile == "32gb"


def test_a_resolved_recipe_stays_what_it_is_on_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mac(monkeypatch, "Apple M1", 16)
    saved = load_recipe(job(tmp_path, "{profile: auto, batch_tokens: 1024}")).model_dump(mode="json")
    mac(monkeypatch, "Apple M1", 8)
    assert check_recipe(saved).model_dump(mode="json") == saved
    assert saved["train"]["profile"] == "16gb"


def test_a_profile_that_is_none_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="8gb"):
        load_recipe(job(tmp_path, "{profile: 64gb}"))
    assert [each.name for each in profiles()] == ["8gb", "16gb", "32gb"]


# --- what --fix installs -------------------------------------------------------------------------

MISSING = doctor.DoctorCheck("textual", "warning", "not installed (optional)", doctor.OPTIONAL["textual"])
OLD = doctor.DoctorCheck("torch", "missing", "2.1.0 is too old", "pip install --upgrade 'torch>=2.6'")
FULL = doctor.DoctorCheck("disk", "warning", "1.0 GiB free", "make room")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What pip is asked to install here, where it installs nothing."""
    asked: list[list[str]] = []
    monkeypatch.setattr(installing, "pip", lambda words: asked.append(words) or 0)
    monkeypatch.setattr(installing, "_asked", lambda *_: "")  # its settings: a second to start pip
    return asked


def looks(*found: list[doctor.DoctorCheck]) -> installing.Examine:
    """A machine looked at again and again."""
    return iter(found).__next__


def test_what_a_check_prints_is_what_is_installed_and_said(installed: list[list[str]]) -> None:
    said: list[str] = []
    fine = [doctor.DoctorCheck(each.name, "ok", "1.0") for each in (MISSING, OLD)]
    after = installing.mend(looks([FULL, MISSING, OLD], [FULL, *fine]), ask=None, say=said.append)
    assert installed == [["install", "afina[watch]"], ["install", "--upgrade", "torch>=2.6"]]
    assert [line for text in said for line in text.splitlines() if line.startswith("  pip")] == [
        "  pip install 'afina[watch]'",
        "  pip install --upgrade 'torch>=2.6'",
    ]
    assert all(line.strip() in MISSING.fix + OLD.fix for text in said for line in text.splitlines()[1:])
    assert after == [FULL, *fine]


def test_every_command_that_a_check_prints_can_be_run() -> None:
    """One that could not be taken apart would be left out without a word."""
    for name, fix in doctor.OPTIONAL.items():
        assert installing.command_of(doctor.DoctorCheck(name, "warning", "", fix))[1].startswith("afina[")
    assert installing.command_of(doctor.DoctorCheck("torch", "ok", "2.9", "pip install torch")) == []


def test_who_says_no_is_asked_about_the_next_and_nothing_else_is_done(installed: list[list[str]]) -> None:
    questions: list[str] = []
    said: list[str] = []

    def ask(question: str) -> bool:
        questions.append(question)
        return "torch" in question

    after = [doctor.DoctorCheck("torch", "ok", "2.9"), MISSING]
    installing.mend(looks([MISSING, OLD], after), ask=ask, say=said.append)
    assert len(questions) == 2 and "pip install 'afina[watch]'" in questions[0]
    assert installed == [["install", "--upgrade", "torch>=2.6"]] and said == ["left out: pip install 'afina[watch]'"]


def test_where_nothing_is_missing_nothing_is_looked_at_or_installed(
    installed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installing, "externally_managed", lambda: pytest.fail("nothing to install"))
    said: list[str] = []
    assert installing.mend(looks([FULL]), ask=None, say=said.append) == [FULL]
    assert installed == [] and said == ["nothing is missing that pip could install"]


def test_a_command_that_fails_or_installs_elsewhere_is_an_error(
    installed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AfinaError, match="pip ended well, and torch is still missing"):
        installing.mend(looks([OLD], [OLD]), ask=None, say=print)
    monkeypatch.setattr(installing, "pip", lambda _: 1)
    with pytest.raises(AfinaError, match=r"`pip install --upgrade 'torch>=2\.6'` ended with exit code 1"):
        installing.mend(looks([OLD]), ask=None, say=print)


def test_the_systems_python_is_left_alone(
    installed: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """PEP 668: the mark beside its standard library, where this is no environment of its own."""
    (tmp_path / "EXTERNALLY-MANAGED").write_text("[externally-managed]\nError=use apt\n")
    real = sysconfig.get_path
    monkeypatch.setattr(sysconfig, "get_path", lambda name, *more: str(tmp_path) if name == "stdlib" else real(name))
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)
    with pytest.raises(RecipeError, match="belongs to the system") as caught:
        installing.mend(looks([OLD]), ask=None, say=print)
    assert "python3 -m venv" in caught.value.problems[0].fix and installed == []
    monkeypatch.setattr(sys, "base_prefix", "/usr")  # an environment over such a Python is somebody's own
    installing.mend(looks([OLD], []), ask=None, say=print)
    assert len(installed) == 1


def test_a_pip_that_is_set_to_install_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By its own list of settings, of the environment here; of files, and the other ones, in the doctest."""
    monkeypatch.setattr(installing, "pip", lambda _: pytest.fail("it was started"))
    monkeypatch.setenv("PIP_TARGET", str(tmp_path))
    with pytest.raises(RecipeError, match=r"set to install elsewhere: .*target"):
        installing.mend(looks([OLD]), ask=None, say=print)


def test_a_python_that_cannot_be_written_or_has_no_pip_is_refused(
    installed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as there:
        there.setattr(installing, "find_spec", lambda _: None)
        with pytest.raises(RecipeError, match="has no pip"):
            installing.check_python()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(RecipeError, match="cannot be written"):
        installing.check_python()


def test_nobody_at_a_terminal_and_no_yes_installs_nothing(installed: list[list[str]]) -> None:
    done = call_afina("doctor", "--fix", check=2)
    assert "nobody is at a terminal" in done.stderr and "--yes" in done.stderr and installed == []
    assert "afina doctor --fix" in call_afina("doctor", "runs/x", "--fix", check=2).stderr


def test_fix_prints_the_checks_as_they_are_then(installed: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    found = looks([OLD], [doctor.DoctorCheck("torch", "ok", "2.9")])
    monkeypatch.setattr(doctor, "examine", lambda _: found())
    done = call_afina("doctor", "--fix", "--yes", "--json")
    assert [(each["name"], each["status"]) for each in json.loads(done.stdout)] == [("torch", "ok")]
    assert "pip install --upgrade 'torch>=2.6'" in done.stderr


@pytest.mark.long
def test_pip_installs_into_the_running_environment_alone(tmp_path: Path) -> None:
    """The real one, in an environment of its own, of a wheel made here; what is said goes to stderr."""
    wheel = tmp_path / "wheels/afina_proof-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    about = "afina_proof-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as files:
        files.writestr("afina_proof.py", "here = True\n")
        files.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: afina-proof\nVersion: 1.0\n")
        files.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        files.writestr(f"{about}/RECORD", f"afina_proof.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n")
    venv.create(tmp_path / "own", with_pip=True)
    (site,) = (tmp_path / "own").glob("lib/*/site-packages")
    (site / "afina.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    code = (
        "from afina.plan import installing; installing.check_python(); "
        f"print(installing.pip(['install', '--no-index', '--find-links', {str(wheel.parent)!r}, 'afina-proof']))"
    )
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home)}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [tmp_path / "own/bin/python", "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout == "0\n", done.stdout + done.stderr
    assert (site / "afina_proof.py").is_file() and "afina-proof" in done.stderr
    assert not list(Path(sysconfig.get_path("purelib")).glob("afina_proof*"))
    assert not list(home.rglob("*.py")), "nothing of it lies in the home"
