"""The plan's other answers: serving, a model from nothing, the record of runs, what `--apply` writes."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from called import call_afina
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_base

from afina.cli.plan_options import MEANT
from afina.cli.verbs import app
from afina.errors import DoesNotFit, RecipeError
from afina.model.shape import Shape
from afina.model.shape_read import read_shape
from afina.plan.asking import asked_tokens
from afina.plan.bases import find_shape
from afina.plan.device import Device, find_device
from afina.plan.interval import Interval
from afina.plan.plan import plan_run
from afina.plan.record import Correction, MeasuredRun, add_run, corrected, recorded
from afina.plan.scratch import ScratchBudget, read_count
from afina.plan.serving import (
    Serving,
    cache_room,
    largest_context,
    lora_slot_bytes,
    served_weight_bytes,
    serves,
    serving_peak,
)
from afina.plan.tokens import ProseCount, TokenCount, estimate_learning
from afina.recipe import load_recipe
from afina.recipe.edit import change_recipe
from afina.run import Run, no_progress
from afina.text.prose_question import ProseQuestion
from afina.walk.context import Context
from afina.walk.lengths import count_prose, estimate_lengths
from afina.walk.plan_answers import PlanAsked, answer
from afina.walk.planning import trial_plan
from afina.walk.walk import do_stages

# --- serving -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "serving", "measured"),
    [  # published peaks of transformers and mlx-lm
        ("Qwen/Qwen2.5-7B-Instruct", Serving("transformers", "awq-int4", 32768, 30720, allocated=True), 11.79e9),
        ("Qwen/Qwen2.5-14B-Instruct", Serving("transformers", "16bit", 8192, 6144, allocated=True), 31.675e9),
        ("Qwen/Qwen2.5-32B-Instruct", Serving("transformers", "gptq-int4", 2049, 1, allocated=True), 20.337e9),
        ("Qwen/Qwen3-4B", Serving("mlx", "16bit", 2176, 2048), 9.02e9),
        ("Qwen/Qwen3-4B", Serving("mlx", "mlx-4-32", 2176, 2048), 3.603e9),
    ],
)
def test_serving_peaks_as_published(base: str, serving: Serving, measured: float) -> None:
    peak = serving_peak(find_shape(base), serving)
    assert peak.point == pytest.approx(measured, rel=0.03)
    assert peak.low <= measured <= peak.high


def test_vllm_takes_what_weights_and_the_profile_run_leave() -> None:
    """Llama-3-8B on an H100: 53.3 GiB were left; Llama-2-7B on an A100: 117,616 tokens."""
    room = cache_room(find_shape("meta-llama/Meta-Llama-3-8B"), find_device("H100 SXM"), Serving())
    assert room.low < 53.29 * 2**30 < room.high
    tokens = largest_context(find_shape("meta-llama/Llama-2-7b-hf"), find_device("A100 80GB"), Serving())
    assert tokens.point == pytest.approx(117_616, rel=0.05)


def test_lora_slots_by_hand() -> None:
    shape = find_shape("Qwen/Qwen3-32B")
    per_layer = (5120 + 8192) + 2 * (5120 + 1024) + (8192 + 5120) + 3 * (5120 + 25600)
    assert lora_slot_bytes(shape, 1, 16) == 64 * 16 * per_layer * 2


@given(context=st.integers(16, 30_000), users=st.integers(1, 8))
def test_more_users_never_leave_more_context(context: int, users: int) -> None:
    shape, device = find_shape("Qwen/Qwen3-8B"), find_device("RTX 4090")
    one, more = (largest_context(shape, device, Serving(users=number)) for number in (users, users + 1))
    assert more.low <= one.low <= one.point <= one.high
    fits = serves(shape, device, Serving(context=context, users=users))
    assert (fits == "yes") == (context <= one.low)


def sliding(shape: Shape) -> tuple[int, int | None]:
    """How many layers have a window, and which."""
    found = [layer for layer in shape.layers if layer.mixer == "sliding window"]
    return sum(layer.count for layer in found), found[0].window if found else None


def test_a_sliding_window_bounds_the_cache() -> None:
    config = {"model_type": "gemma2", "num_hidden_layers": 42, "hidden_size": 3584, "intermediate_size": 14336}
    config |= {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256, "vocab_size": 256000}
    config |= {"max_position_embeddings": 8192, "sliding_window": 4096}
    shape = read_shape(config, "gemma")
    assert sliding(shape) == (21, 4096) and all(layer.capped for layer in shape.layers)
    assert shape.kv_bytes(8192) == 2 * 8 * 256 * 2 * 21 * (8192 + 4096)
    off = {**config, "model_type": "qwen2", "use_sliding_window": False}
    assert sliding(read_shape(off, "q")) == (0, None)
    mistral = {**config, "model_type": "mistral"}
    assert sliding(read_shape(mistral, "m")) == (42, 4096)


def test_formats_that_are_not_known_are_refused() -> None:
    with pytest.raises(RecipeError, match="known are"):
        served_weight_bytes(find_shape("Qwen/Qwen3-8B"), "3bit")


# --- a model from nothing ------------------------------------------------------------------------


def test_seven_billion_from_nothing() -> None:
    """28 + 28 + 56 GB; 6*N*D = 5.88e21, at 40 % of 8 H100 21.5 days."""
    budget = ScratchBudget(7e9, 140e9, find_device("H100 SXM"), 8)
    assert [size / 1e9 for size in budget.state_bytes.values()] == [28, 28, 56]
    assert budget.seconds.point == pytest.approx(6 * 7e9 * 140e9 / (8 * 989e12 * 0.4))
    assert budget.money and budget.money.point == pytest.approx(budget.seconds.point / 3600 * 8 * 3.99)
    assert budget.least_devices == 2
    assert "112 GB: 28 weights + 28 gradients + 56 optimizer" in budget.describe()


@pytest.mark.parametrize("text", ["", "7 billion", "-1B", "0", "1.2.3M", "9" * 400])
def test_a_count_that_is_none(text: str) -> None:
    with pytest.raises(RecipeError, match="no count"):
        read_count(text, "--parameters")


# --- the record ----------------------------------------------------------------------------------


@given(ratio=st.floats(0.5, 2.0), count=st.integers(1, 20))
def test_measurements_draw_the_plan_to_them_and_narrow_it(ratio: float, count: int) -> None:
    plain = Interval(1e9, 0.6e9, 1.5e9)
    found = corrected(plain, [ratio] * count, 0.05)
    assert min(1, ratio) * 0.999e9 <= found.point <= max(1, ratio) * 1.001e9
    assert found.high / found.low <= plain.high / plain.low * 1.0001
    more = corrected(plain, [ratio] * (count + 1), 0.05)
    assert abs(more.point / 1e9 - ratio) <= abs(found.point / 1e9 - ratio) + 1e-6


def test_runs_are_noted_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFINA_HOME", str(tmp_path / "home"))
    assert recorded("a card", "lora sft") is None
    for factor in (1.1, 1.2):
        add_run(MeasuredRun("a card", "lora sft", 1e9, factor * 1e9, 100.0, 200.0))
    add_run(MeasuredRun("another", "lora sft", 1e9, 9e9, 100.0, 200.0))
    with (tmp_path / "home/plans.jsonl").open("a") as file:
        file.write("half a li")
    found = recorded("a card", "lora sft")
    assert found is not None and found.as_json() == {
        "runs": 2,
        "trial": False,
        "memory_ratio": pytest.approx((1.1**0.9 * 1.2) ** (1 / 1.9), rel=1e-3),
        "timed": 2,
        "disturbed": 0,
        "time_ratio": 2.0,
    }
    assert found.of_time(Interval(100, 60, 150)).point > 180
    trial = Correction([MeasuredRun("a card", "lora sft", 1e9, 1.5e9, 100.0, 130.0, trial=True)])
    narrowed = trial.of_memory(Interval(1e9, 0.87e9, 1.15e9))
    assert narrowed.high / narrowed.low < 1.15 / 0.87


def ran(predicted: float, measured: float, **more: Any) -> MeasuredRun:
    """A run of a device that was measured at 100 GFLOP/s."""
    return MeasuredRun("cpu", "lora sft", 1e9, 1e9, predicted, measured, **{"rate": 100e9, **more})


def time_learned(*runs: MeasuredRun, planned: float = 600.0, rate: float = 100e9) -> Interval:
    """A plan of so many seconds, after these runs."""
    correction = Correction(runs, planned_bytes=1e9, planned_seconds=planned, rate=rate)
    return correction.of_time(Interval.around(planned, 0.4, 2.5))


def test_seconds_of_a_disturbed_run_do_not_count() -> None:
    """A plan said 56 minutes for a training of 15: of its record, most runs had shared the processors with tests."""
    busy, alone = ran(600, 2400, own_share=0.5), ran(600, 660, own_share=0.97)
    assert time_learned(busy) == Interval.around(600, 0.4, 2.5)
    assert time_learned(busy, alone) == time_learned(alone)
    correction = Correction([busy, alone], rate=100e9)
    assert correction.as_json()["time_ratio"] == 1.1
    assert "1 of them 1.10 of the time" in correction.in_words
    assert "seconds of 1 do not count: other programs computed beside them" in correction.in_words


def test_runs_of_another_size_say_little_of_the_time() -> None:
    """Fourteen trainings of two seconds, which took three times as long as predicted, made a plan of ten minutes three
    times as long."""
    tiny = [ran(2, 6)] * 14
    assert time_learned(*tiny).point < 1.35 * 600
    assert time_learned(*tiny, planned=2).point > 2.7 * 2
    assert time_learned(*tiny, ran(550, 560)).point < 1.1 * 600


def test_newer_runs_count_more() -> None:
    slow, quick = [ran(600, 900)] * 10, [ran(600, 600)] * 10
    assert time_learned(*slow, *quick).point < time_learned(*quick, *slow).point


def test_runs_that_contradict_each_other_leave_the_interval_wide() -> None:
    alike, apart = time_learned(*[ran(600, 700)] * 8), time_learned(*[ran(600, 250), ran(600, 2000)] * 4)
    assert alike.high / alike.low < 2
    assert apart.high / apart.low > 4


def test_a_device_measured_anew_takes_its_runs_along() -> None:
    """The same training, predicted with half the rate: twice the seconds."""
    assert time_learned(ran(1200, 660, rate=50e9)).point == pytest.approx(time_learned(ran(600, 660)).point, rel=1e-3)
    by_clock = ran(1200, 660, rate=0.0)  # predicted without a measured rate: nobody knows with which
    assert time_learned(by_clock) == Interval.around(600, 0.4, 2.5)
    assert "predicted without a measured rate" in Correction([by_clock], rate=100e9).in_words


# --- the command ---------------------------------------------------------------------------------

RECIPE = """\
# what we do
name: x   # short
base: Qwen/Qwen3-8B

sources:
  - path: a.md   # the manual

train:
  batch_tokens: 16384   # many
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "a.md").write_text("word " * 60_000)
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    return file


def ask(file: Path | str, **changes: Any) -> Any:
    return answer(PlanAsked(str(file), [], changes.pop("devices", ["RTX 4090"]), Path("no-runs"), **changes))


def test_apply_writes_settings_that_fit_and_keeps_the_comments(job: Path) -> None:
    before = ask(job)
    assert before.values["fits"] == "no" and isinstance(before.refused, DoesNotFit)
    assert "train." in before.refused.problems[0].fix
    assert before.values["would_fit"][0]["fits"] == "yes"
    assert job.read_text() == RECIPE
    applied = ask(job, apply=True)
    assert applied.refused is None and applied.values["applied"] == before.values["would_fit"][0]["settings"]
    text = job.read_text()
    for comment in ("# what we do", "# short", "# the manual", "# many"):
        assert comment in text
    again = ask(job)
    assert again.values["fits"] == "yes" and again.refused is None
    assert ask(job, apply=True).remarks == ["it fits as it is; the recipe was not changed"]


@given(batch=st.integers(16, 100_000), again=st.booleans())
def test_changing_a_recipe_changes_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, batch: int, again: bool
) -> None:
    file = tmp_path_factory.mktemp("recipe") / "r.yaml"
    file.write_text(RECIPE.replace("a.md", "."))
    before = load_recipe(file).model_dump()
    file.write_text(change_recipe(file, {"train.batch_tokens": batch, "train.checkpoint_activations": again}))
    after = load_recipe(file).model_dump()
    assert (after["train"]["batch_tokens"], after["train"]["checkpoint_activations"]) == (batch, again)
    after["train"] |= {key: before["train"][key] for key in ("batch_tokens", "checkpoint_activations")}
    assert after == before


def test_several_devices_all_devices_and_serving(job: Path) -> None:
    several = ask(job, devices=["A100 80GB", "RTX 4090, T4"])
    assert [plan["device"]["name"] for plan in several.values] == ["A100 80GB", "RTX 4090", "T4"]
    assert several.refused is not None
    every = ask(job, devices=[], all_devices=True)
    assert len(every.values) > 30 and every.refused is None
    asked = PlanAsked(str(job), [], ["RTX 4090"], Path("no-runs"))
    asked.set_serving("vllm", context=8192, users=1, weights="16bit", lora_slots=1)
    served = answer(asked)
    assert served.values["fits"] == "yes" and served.values["kv_bytes_per_token"] == 147_456
    json.dumps([several.values, every.values, served.values])
    with pytest.raises(RecipeError, match="known are vllm"):
        asked.set_serving("vlm")


def test_a_context_beyond_what_the_model_sees_is_not_planned(job: Path) -> None:
    """It fitted, and no server would start with it."""
    sees = "base=TinyLlama/TinyLlama-1.1B-Chat-v1.0"  # 2048 tokens

    def serving(*words: str, check: int | None = 0) -> Any:
        done = call_afina("plan", str(job), sees, "--device", "A40", "--serve", "vllm", *words, check=check)
        return done.stderr if check else json.loads(done.stdout)

    told = serving("--json")
    assert (told["context"], told["positions"], told["max_model_len"]["high"]) == (2048, 2048, 2048)
    assert serving("--context", "1024", "--json")["context"] == 1024
    said = serving("--context", "2049", check=2)
    assert "a context of 2049 is asked for, the model sees 2048" in said and "--context 2048, or less" in said


@pytest.mark.parametrize("words", ["--context 0", "--context -5", "--lora-slots -1", "--users 0", "--context 8k"])
def test_a_count_of_serving_that_is_none_is_refused(job: Path, words: str) -> None:
    """With --context -5 every model fitted every device."""
    call_afina("plan", str(job), "--device", "A40", "--serve", "vllm", *words.split(), check=2)


@pytest.mark.parametrize("given", ["", " ", ",", " , "])
def test_a_device_without_a_name_is_not_this_machine(job: Path, given: str) -> None:
    """As of `--device "$GPU"` where it is not set."""
    said = call_afina("plan", str(job), "--device", given, check=2).stderr
    assert ("no device is named" if given.strip() else "--device: its value is empty") in said


SCALING, SCRATCH = ["scaling", "runs/a", "runs/b"], ["scratch"]
MEANINGLESS: list[tuple[list[str], list[str], list[str]]] = [
    # what is asked, with what beside it, and which of that is refused
    (SCALING, ["--all", "--apply", "--parallel", "fsdp"], ["--all", "--apply", "--parallel"]),
    (SCALING, ["--serve", "vllm", "--users", "2", "--gpus", "2"], ["--serve", "--users"]),
    (SCALING, ["--device", "T4,RTX 4090"], ["--device"]),
    (SCRATCH, ["--trial", "--weights", "nf4"], ["--trial", "--weights"]),
    (SCRATCH, ["train.epochs=2", "--device", "T4", "--device", "A40"], ["KEY=VALUE", "--device"]),
    (["JOB"], ["--parameters", "7B", "--tokens", "1B", "--gpus", "2"], ["--parameters"]),
    (["JOB"], ["--context", "10", "--lora-slots", "1"], ["--context", "--lora-slots"]),
    (["JOB"], ["--serve", "vllm", "--apply", "--parallel", "fsdp"], ["--apply", "--parallel"]),
    (["JOB"], ["--trial", "--device", "T4", "--serve", "vllm"], ["--device", "--serve"]),
    (["JOB"], ["--all", "--device", "T4"], ["--device"]),
    (["JOB"], ["--apply", "--device", "T4", "--device", "A40"], ["--apply"]),
    (["JOB"], ["--apply", "--all"], ["--apply"]),
]


@pytest.mark.parametrize(("question", "beside", "refused"), MEANINGLESS, ids=lambda words: " ".join(words))
def test_options_that_mean_nothing_to_a_question_are_refused_by_name(
    question: list[str], beside: list[str], refused: list[str], job: Path
) -> None:
    before = job.read_text()
    words = [str(job) if word == "JOB" else word for word in question]
    said = call_afina("plan", *words, *beside, check=2).stderr
    assert sorted(re.findall(r"^ *(\S+): ", said, re.M)[1:]) == sorted(refused), said
    assert job.read_text() == before


def test_so_many_tokens_are_refused_where_two_stages_learn_their_own(job: Path) -> None:
    said = call_afina("plan", str(job), "train.first={method: cpt}", "--tokens", "5M", check=2).stderr
    assert "leave --tokens out" in said, said


def test_every_parameter_of_plan_means_something_to_some_question() -> None:
    command = typer.main.get_command(app).commands["plan"]  # type: ignore[attr-defined]
    assert {each.name for each in command.params} == set().union(*MEANT.values()) | {"recipe", "as_json", "runs"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"overrides": ["base=Qwen/Qwen3-8C"]}, "did you mean Qwen/Qwen3-8B"),
        ({"devices": ["RTX 4091"]}, "did you mean RTX 4090"),
        ({"parallel": "tensor"}, "use ddp or fsdp"),
    ],
)
def test_what_is_not_known_names_the_nearest(job: Path, changes: dict[str, Any], said: str) -> None:
    values: dict[str, Any] = {"overrides": [], "devices": ["RTX 4090"], "runs": Path("no-runs")} | changes
    with pytest.raises(RecipeError, match=said):
        answer(PlanAsked(str(job), **values))


def test_a_family_that_nobody_has_is_refused(tmp_path: Path, job: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base/config.json").write_text(json.dumps({"model_type": "nobody_has_it", "num_experts": 128}))
    with pytest.raises(RecipeError, match="nobody_has_it"):
        answer(PlanAsked(str(job), [f"base={tmp_path}/base"], ["RTX 4090"], Path("no-runs")))


def test_questions_about_prose_and_passages_are_in_the_time(tmp_path: Path, job: Path) -> None:
    """By hand: 7 choices of 100 tokens, 5 free answers of 64, both models; with passages the base alone."""
    given = load_recipe(job, ["evaluate.skills=0", "evaluate.samples=0"])
    counted = TokenCount(20_000, 20_000, 100, 300, prose=ProseCount(7, 5, 100.0))
    plain, asked = asked_tokens(given, replace(counted, prose=ProseCount())), asked_tokens(given, counted)
    assert (plain.read, asked.read) == (0, 2 * 7 * 100)
    assert asked.written - plain.written == 2 * 5 * 64
    with_passages = load_recipe(
        job, ["evaluate.skills=0", "evaluate.samples=0", "evaluate.retrieval={passages: 3, questions: 4}"]
    )
    beside = asked_tokens(with_passages, counted)
    asks = [role for role in given.roles_from_dataset if role in ("recall", "generalization")]
    free = 4 * len(asks) + 4
    assert beside.read == asked.read + (free + 4) * 4 * 200 + 2 * 4 * 100  # rows of 200 tokens are a passage each
    assert beside.written == asked.written + 2 * free * 64 and not beside.notes
    shape, device = find_shape("Qwen/Qwen3-0.6B"), find_device("RTX 4090")
    parts = plan_run(with_passages, shape, counted, device).time_parts
    assert parts["choices and passages"].point > 0
    assert "choices and passages" not in plan_run(given, shape, replace(counted, prose=ProseCount()), device).time_parts


def test_questions_about_prose_are_counted_where_the_dataset_holds_them(tmp_path: Path, job: Path) -> None:
    known = {"section": "a.md > b", "path": "a.md", "line": 1, "prompt": "?" * 35}
    wrong = tuple(f"x{number} is there" for number in range(7))
    asked = [
        ProseQuestion("cloze", right="xx is there", wrong=wrong, gap="xx", **known),
        ProseQuestion("terms", terms=("xx",), **known | {"line": 2}),
        ProseQuestion("change", terms=("new",), outdated=("old",), **known | {"line": 3}),
        ProseQuestion("terms", terms=("yy",), held_out=True, **known | {"line": 4}),
    ]
    (tmp_path / "prose.jsonl").write_text("".join(json.dumps(each.as_json()) + "\n" for each in asked))
    found = count_prose(tmp_path, load_recipe(job))
    assert (found.choices, found.free) == (1, 2)
    assert found.choice_tokens == (35 + 8 * (11 + 2 + 40)) / 3.5
    none = load_recipe(job, ["evaluate.questions=0"])
    assert count_prose(tmp_path, none) == ProseCount()
    assert estimate_learning(load_recipe(job)).tokens.prose.choices > 0, "60,000 words hold sections to ask about"
    assert asked_tokens(none, estimate_learning(none).tokens).read == 0


def test_lengths_of_a_built_dataset(tmp_path: Path, job: Path) -> None:
    assert estimate_lengths(tmp_path, load_recipe(job)) is None
    question, reply = {"role": "user", "content": "q" * 58}, {"role": "assistant", "content": "a" * 93}
    origin = {"source": 0, "from": {"path": "a.md", "line": 1, "sha256": ""}}
    rows = [{"messages": [question, reply]} | origin] * 3 + [{"text": "x" * 3500} | origin]
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = estimate_lengths(tmp_path, load_recipe(job))
    assert found is not None
    assert (found.tokens, found.targets, found.longest) == (3 * 50 + 1000, 3 * 30 + 1000, 1000)
    assert found.padded and found.padded >= found.tokens


def test_the_seeds_own_cases_stand_in_the_docs(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python benchmarks/plan_accuracy.py --docs` writes them again."""
    root = Path(__file__).parents[1]
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    from published.seeds import seeds_table

    table = seeds_table()
    assert table in (root / "docs/planning.md").read_text(encoding="utf-8")
    verdicts = [row.split("|")[2] for row in table.splitlines()[2:]]
    assert "does not fit" in verdicts[1] and "fails" in verdicts[3] and "works" in verdicts[5]


# --- inside a run --------------------------------------------------------------------------------


@pytest.fixture
def walked(tmp_path: Path) -> Iterator[Context]:
    """A tiny job, its dataset built and encoded."""
    base, file = make_base(tmp_path / "base"), tmp_path / "recipe.yaml"
    (tmp_path / "a.txt").write_text(" ".join(f"Faro {number} marcou." for number in range(200)))
    file.write_text(
        f"name: x\nbase: {base}\nsources: [{{path: a.txt}}]\ndataset: {{validation: 0}}\nevaluate: {{samples: 0}}\n"
        "train: {method: cpt, max_length: 64, batch_tokens: 128, epochs: 1}\nadapter: {rank: 2}\n"
    )
    with Run.open(tmp_path / "runs/x", load_recipe(file), lambda _: None) as run:
        context = Context(run, lambda _: contextlib.nullcontext(no_progress))
        do_stages(context, "dataset", "tokens")
        yield context


def test_a_refusal_holds_on_the_second_start(walked: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Device("small", "cpu", 2**20, 2**20, 150e9, 20e9)
    monkeypatch.setattr("afina.walk.planning.local_device", lambda _: small)
    for _ in range(2):
        with pytest.raises(DoesNotFit, match="needs at least"):
            do_stages(walked, "plan")
    assert "plan" not in walked.run.stages and (walked.folder / "plan.json").is_file()


def test_a_long_job_is_asked_about_once(walked: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    slow = Device("slow", "cpu", 2**40, 2**40, 1e3, 20e9)
    monkeypatch.setattr("afina.walk.planning.local_device", lambda _: slow)
    confirm = lambda question: asked.append(question) or len(asked) > 1  # noqa: E731  # type: ignore[func-returns-value]
    walked = replace(walked, confirm=confirm)
    with pytest.raises(DoesNotFit, match="not started"):
        do_stages(walked, "plan")
    do_stages(walked, "plan")
    do_stages(walked, "plan")
    assert len(asked) == 2 and asked[0].startswith("this takes ")


@pytest.mark.training
def test_three_real_steps_narrow_the_plan(walked: Context) -> None:
    plan = trial_plan(walked)
    assert plan.correction is not None and plan.correction.as_json()["trial"]
    assert plan.memory.high / plan.memory.low < plan.memory_sureness.factor**2
    training = plan.time_parts["training"]
    assert training.high / training.low < plan.time_sureness.factor**2
    assert "train" not in walked.run.stages
