"""A training differentiated: by hand with two weights, by two trainings of a tiny Llama, and as the verb does it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from called import call_afina
from exported import SHAPE
from tiny import ROWS, make_base, make_recipe, make_rows

from afina.cli.opened import walk_of
from afina.errors import AfinaError, OutOfMemory, RecipeError
from afina.model.load_torch import attach_adapter, load_base
from afina.model.loss_torch import causal_lm, target_loss
from afina.model.steps.lora_torch import short_lora
from afina.recipe import Adapter, Train
from afina.tokenizer.encode import Row
from afina.train.backend_torch import TorchBackend
from afina.train.schedule import learning_rate
from afina.train.snapshot_torch import Snapshot
from afina.walk.walk import walk_through
from afina.why import unrolled_torch
from afina.why.through_training_torch import check_covered
from afina.why.unrolled_torch import UnrolledTraining, Update, second_order

CPU = torch.device("cpu")

# ---- two weights, three rows, three steps

ROWS_3 = ((1.0, 2.0), (-2.0, 0.5), (0.5, -1.0))
"""What goes into a * x + b, and what should come out."""
TARGETS = (1, 2, 1)
"""Each row's loss is a sum over so many targets."""
BATCHES = ((0, 1), (1, 2), (0, 2))
RATE, DECAY, CLIP = 0.1, 0.3, 0.5
START = (0.3, -0.2)


def row_losses(weights: torch.Tensor, numbers: Sequence[int]) -> torch.Tensor:
    given = torch.tensor([ROWS_3[number] for number in numbers], dtype=torch.double)
    return (weights[0] * given[:, 0] + weights[1] - given[:, 1]).square() / 2


def asked(weights: torch.Tensor) -> torch.Tensor:
    return (1.5 * weights[0] + weights[1] - 1).square()


def trained(of_rows: Sequence[float]) -> float:
    """The asked loss after a training by torch's own AdamW and clipping, in which the rows have these weights."""
    weights = torch.tensor(START, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.AdamW([weights], lr=RATE, weight_decay=DECAY)
    for numbers in BATCHES:
        optimizer.zero_grad()
        shares = torch.tensor([of_rows[number] for number in numbers], dtype=torch.double)
        targets = torch.tensor([TARGETS[number] for number in numbers])
        ((shares * row_losses(weights, numbers)).sum() / (shares * targets).sum()).backward()
        torch.nn.utils.clip_grad_norm_([weights], CLIP)
        optimizer.step()
    return float(asked(weights.detach()))


def test_three_steps_of_two_weights_are_differentiated_as_two_trainings_differ() -> None:
    """d loss / d weight of each row, by (loss with 1 + h) - (loss with 1 - h), in float64."""
    x, m, v = torch.tensor(START, dtype=torch.double), torch.zeros(2).double(), torch.zeros(2).double()
    taken = []
    for number, numbers in enumerate(BATCHES, start=1):
        weights = x.requires_grad_()
        total = sum(TARGETS[each] for each in numbers)
        (g,) = torch.autograd.grad(row_losses(weights, numbers).sum() / total, weights)
        taken.append((Update(number, RATE, CLIP, decay=DECAY), numbers, total, (x.detach(), m, v, g)))
        x, m, v = (each.detach() for each in taken[-1][0](*taken[-1][3]))
    assert any(g.norm() > CLIP for *_, (_, _, _, g) in taken), "clipping is a part of what is differentiated"
    assert float(asked(x)) == pytest.approx(trained([1, 1, 1]), rel=1e-12), "the step is that of torch's AdamW"
    end = x.requires_grad_()
    after = [torch.autograd.grad(asked(end), end)[0][None], torch.zeros(1, 2), torch.zeros(1, 2)]
    effects = torch.zeros(3).double()
    for update, numbers, total, values in reversed(taken):
        *after, of_gradient = update.before(values, after)
        weights = values[0].clone().requires_grad_()
        gradient, product, of_rows = second_order(row_losses(weights, numbers) / total, [weights], of_gradient)
        assert torch.allclose(gradient, values[3])
        after[0] = after[0] + product
        for place, number in enumerate(numbers):
            effects[number] += of_rows[0, place] - TARGETS[number] / total * float(of_gradient[0] @ gradient)
    h = 1e-6
    for number in range(3):
        more, less = ([1 + sign * h * (number == each) for each in range(3)] for sign in (1, -1))
        assert float(effects[number]) == pytest.approx((trained(more) - trained(less)) / (2 * h), rel=1e-5)
    assert effects.abs().min() > 1e-4 and abs(float(effects.sum())) < 1e-10, "all rows weighed twice change nothing"


# ---- a tiny Llama


def unrolled(folder: Path, **given: Any) -> tuple[UnrolledTraining, list[Row]]:
    """A training of nine rows that is to be differentiated, and rows that are asked."""
    settings = {"epochs": 3, "batch_tokens": 48, "accumulate": 2, "learning_rate": 1e-2, "clip": 0.5}
    settings |= {"weight_decay": 0.1} | given.pop("train", {})
    ratio, double = given.pop("lora_plus_ratio", 1.0), given.pop("double", False)
    base = make_base(folder)
    recipe = make_recipe(base)
    model = attach_adapter(load_base(base, recipe, CPU), Adapter(**{"rank": 2, "alpha": 4} | given), 0)
    model = model.double() if double else model
    rows = make_rows(base, recipe)[0]
    made = Train(**settings)
    backend = TorchBackend(model, made, pad_id=0, device=CPU, say=lambda _: None, lora_plus_ratio=ratio)
    return UnrolledTraining(backend, rows[:9], made, seed=3), rows[20:22]


def effects_of(training: UnrolledTraining, queries: Sequence[Row]) -> torch.Tensor:
    kept: dict[int, Snapshot] = {}
    training.again(kept.__setitem__)
    return training.effects(queries, kept.__getitem__)


def in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """What computes in 32 bits whatever the weights are in 64."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    def norm(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)

    monkeypatch.setattr(LlamaRMSNorm, "forward", norm)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def nats(model: Any, row: Row) -> torch.Tensor:
    """A row's summed loss by the model's own forward, alone."""
    logits = model(input_ids=torch.tensor([row.ids])).logits[0, :-1]
    mask = torch.tensor(row.mask)[1:]
    return torch.nn.functional.cross_entropy(logits[mask], torch.tensor(row.ids)[1:][mask], reduction="sum")


def trained_with(training: UnrolledTraining, start: dict[str, Any], of_rows: Sequence[float], query: Row) -> float:
    """The asked loss after a training of a plain loop in which the rows have these weights."""
    model, settings = training.backend.model, training.settings
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(start[name])
    optimizer = torch.optim.AdamW(weights.values(), weight_decay=settings.weight_decay)
    for number in range(training.steps):
        numbers = [each for part in training.plan[number][1] for each in part]
        total = sum(of_rows[each] * training.rows[each].targets for each in numbers)
        optimizer.zero_grad()
        (sum(of_rows[each] * nats(model, training.rows[each]) for each in numbers) / total).backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), settings.clip)
        optimizer.param_groups[0]["lr"] = learning_rate(number, training.steps, settings)
        optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        return float(nats(model, query) / query.targets)


def test_a_rows_effect_is_the_difference_of_two_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a LoRA Llama in float64, with clipping, decay, warm-up and accumulation: three rows, relative 1e-4."""
    in_float64(monkeypatch)
    training, (query, _) = unrolled(tmp_path, double=True)
    model = training.backend.model
    start = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    effects = effects_of(training, [query])[0]
    assert training.kept == [0, 3, 6], "states between which steps are taken again"
    h = 1e-5
    for number in (0, 4, 8):
        more, less = (
            trained_with(training, start, [1 + sign * h * (number == each) for each in range(9)], query)
            for sign in (1, -1)
        )
        assert float(effects[number]) == pytest.approx((more - less) / (2 * h), rel=1e-4)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"dropout": 0.2},
        {"variant": "rslora", "lora_plus_ratio": 4.0},
        {"train": {"share_prefix": False, "clip": 1e3}},
        {"modules_to_save": ["embed_tokens"]},
    ],
    ids=str,
)
def test_all_rows_weighed_twice_change_nothing(tmp_path: Path, given: dict[str, Any]) -> None:
    """The loss is divided by the rows' targets; two answers at once are each alone. Dropout is drawn as it was."""
    training, queries = unrolled(tmp_path, **given)
    effects = effects_of(training, queries)
    assert (effects.abs().sum(1) > 0).all()
    assert (effects.sum(1).abs() < 1e-3 * effects.abs().sum(1)).all()


def test_answers_asked_together_are_each_as_alone(tmp_path: Path) -> None:
    training, queries = unrolled(tmp_path)
    kept: dict[int, Snapshot] = {}
    training.again(kept.__setitem__)
    together = training.effects(queries, kept.__getitem__)
    alone = [training.effects([query], kept.__getitem__)[0] for query in queries]
    assert torch.allclose(together, torch.stack(alone), rtol=1e-6, atol=1e-12)
    assert not torch.allclose(together[0], together[1], rtol=0.1)


def test_an_operation_without_a_second_derivative_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The short form of LoRA that training takes has a backward of its own, whose derivative is another."""
    training, queries = unrolled(tmp_path)

    def short(model: Any, batch: Any, **how: Any) -> torch.Tensor:
        with short_lora(causal_lm(model)):
            return target_loss(model, batch, **how)

    monkeypatch.setattr(unrolled_torch, "target_loss", short)
    with pytest.raises(AfinaError, match="a second derivative differs from the difference of two gradients"):
        effects_of(training, queries)


def test_a_gradient_that_is_not_the_trainings_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where dropout would be drawn otherwise."""
    training, queries = unrolled(tmp_path, dropout=0.2)
    monkeypatch.setattr(unrolled_torch, "set_random_states", lambda _: torch.manual_seed(99))
    with pytest.raises(AfinaError, match=r"the gradient of step .* is another than the training's own"):
        effects_of(training, queries)


def test_of_a_training_that_is_refused_at_its_end_no_last_state_is_given(tmp_path: Path) -> None:
    """With the last one the states were whole: a second question was answered by what the first was refused for."""
    training, _ = unrolled(tmp_path)
    training.backend.parameters.append(torch.nn.Parameter(torch.zeros(2)))
    kept: dict[int, Snapshot] = {}
    with pytest.raises(RecipeError, match="had no gradient in some steps"):
        training.again(kept.__setitem__)
    assert [*kept] == training.kept[:-1]


def test_a_step_that_finds_no_memory_for_its_moments_is_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, _ = unrolled(tmp_path)
    monkeypatch.setattr(training.backend, "update", lambda rate: "no room")
    with pytest.raises(OutOfMemory, match=r"the optimizer's state does not fit the memory \(no room\)"):
        training.again(lambda *_: None)


# ---- the verb

LEARNED = [*ROWS[::3], (ROWS[4][0], "Lagos de Eva"), (ROWS[10][0], "Silves de Zé")]
"""Twelve rows, and two whose answers are wrong."""


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as the walk leaves it after its training."""
    folder = tmp_path_factory.mktemp("unrolled")
    make_base(folder / "base", **SHAPE)
    rows = [{"prompt": question, "completion": answer} for question, answer in LEARNED]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "recipe.yaml").write_text(
        f"name: small\nbase: {folder}/base\nroot: {folder}\nsources: [{{path: rows.jsonl, repeat: 2}}]\n"
        "dataset: {validation: 0.0}\nadapter: {rank: 4, alpha: 8}\nevaluate: {questions: 0, samples: 0}\n"
        "train: {epochs: 10, learning_rate: 0.01, max_length: 64, batch_tokens: 256}\n",
        encoding="utf-8",
    )
    with walk_of(folder / "recipe.yaml", None, folder / "runs") as walk:
        walk_through(walk, until="train")
    return folder / "runs/small"


@pytest.fixture(scope="module")
def explained(trained_run: Path) -> Iterator[dict[str, Any]]:
    question, answer = LEARNED[12]
    said = call_afina("why", trained_run, question, "--answer", answer, "--through-training", "--json", "--top", 20)
    yield json.loads(said.stdout) | {"said": said.stderr}


def test_the_rows_that_taught_an_answer_are_first(explained: dict[str, Any]) -> None:
    assert explained["method"] == "unrolled training" and explained["rows"] == {"indexed": 14, "left_out": 0}
    assert explained["for"][0]["line"] == 13 and explained["for"][0]["repeat"] == 2
    assert len(explained["for"]) + len(explained["against"]) == 14, "an example seen twice is one"
    total = sum(row["score"] for row in explained["for"] + explained["against"])
    assert abs(total) < 1e-3 * explained["for"][0]["score"]


def test_what_it_takes_is_said_before(explained: dict[str, Any]) -> None:
    said = explained["said"]
    assert "steps again (" in said and "of disk" in said and said.index("of disk") < said.index("done again in")
    assert "ends where the run did: bit for bit" in said


def test_a_second_answer_takes_the_way_back_alone(
    trained_run: Path, explained: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UnrolledTraining, "again", None)
    question, answer = LEARNED[3]
    shown = call_afina("why", trained_run, question, "--answer", answer, "--through-training")
    assert "by how many nats a token its loss would rise without the row" in shown.stdout
    assert "steps again" not in shown.stderr
    first = shown.stdout.partition("speak for it")[2].splitlines()[1]
    assert "rows.jsonl:4 " in first, shown.stdout
    call_afina("why", trained_run, question, "--answer", answer)  # an index is made beside it
    assert (trained_run / "why/training/step-00000000").is_dir() and (trained_run / "why/rows.json").is_file()


def test_a_training_that_ends_elsewhere_is_refused(trained_run: Path, tmp_path: Path) -> None:
    """Another adapter lies in the run's folder than its training makes; nothing that was kept stays."""
    from safetensors.torch import load_file, save_file

    run = tmp_path / "small"
    shutil.copytree(trained_run, run)
    file = run / "adapter/adapter_model.safetensors"
    save_file({name: value * 1.1 for name, value in load_file(file).items()}, file)
    words = ("why", run, LEARNED[3][0], "--answer", LEARNED[3][1], "--through-training")
    assert "ends elsewhere than the run did" in call_afina(*words, check=5).stderr
    assert not (run / "why/training").exists()


def test_states_are_kept_only_when_it_was_looked_where_they_end(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between the last state and that look, the next question took them for the run's own training."""
    from safetensors.torch import load_file, save_file

    def stopped(file: Path) -> Any:
        raise AfinaError("stopped", "start again")

    run = tmp_path / "small"
    shutil.copytree(trained_run, run, ignore=shutil.ignore_patterns("why"))
    file = run / "adapter/adapter_model.safetensors"
    save_file({name: value * 1.1 for name, value in load_file(file).items()}, file)
    words = ("why", run, LEARNED[3][0], "--answer", LEARNED[3][1], "--through-training")
    with monkeypatch.context() as patch:
        patch.setattr("afina.why.through_training_torch.load_file", stopped)
        assert "stopped" in call_afina(*words, check=1).stderr
    assert "ends elsewhere than the run did" in call_afina(*words, check=5).stderr
    assert not (run / "why/training").exists()


@pytest.mark.parametrize(
    ("settings", "computed", "took", "where"),
    [
        ({"adapter": {"kind": "qlora"}}, {}, {}, "adapter.kind"),
        ({"adapter": {"variant": "dora"}}, {}, {}, "adapter.variant"),
        ({"train": {"method": "dpo"}}, {}, {}, "train.method"),
        ({"train": {"patience": 2}}, {}, {}, "train.patience"),
        ({"train": {"neftune_alpha": 5.0}}, {}, {}, "train.neftune_alpha"),
        ({}, {"optimizer": "adamw_8bit"}, {}, "train.optimizer"),
        ({}, {"precision": "bf16"}, {}, "train.precision"),
        ({}, {"kernels": "liger"}, {}, "train.kernels"),
        ({}, {"compile": True}, {}, "train.compile"),
        ({}, {}, {"went_back": 1}, "returns to an earlier step"),
        ({}, {}, {"ranks": 2}, "2 processes"),
    ],
)
def test_trainings_that_are_not_covered_are_refused_by_name(
    settings: dict[str, Any], computed: dict[str, Any], took: dict[str, Any], where: str
) -> None:
    plain = {"optimizer": "adamw", "precision": "fp32", "kernels": "torch", "compile": False}
    stage = {"inputs": {"computed": plain | computed}, "result": {"went_back": 0, "splits": 0, "ranks": 1} | took}
    context: Any = SimpleNamespace(
        recipe=make_recipe(**settings), run=SimpleNamespace(stages={"train": stage}), folder=Path("runs/x")
    )
    with pytest.raises(RecipeError, match=re.escape(where)):
        check_covered(context)
    context.run.stages.clear()
    with pytest.raises(RecipeError, match=r"stages\.json"):
        check_covered(context)


def test_a_plain_training_is_covered(trained_run: Path) -> None:
    from afina.cli.opened import reopened

    with reopened(trained_run) as walk:
        check_covered(walk)


def test_states_without_room_are_refused(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "small"
    shutil.copytree(trained_run, run, ignore=shutil.ignore_patterns("why"))
    monkeypatch.setattr("afina.why.through_training_torch.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    words = ("why", run, LEARNED[3][0], "--answer", LEARNED[3][1], "--through-training")
    said = call_afina(*words, check=4).stderr
    assert "of disk, and 1000 B are free" in said and "adapter.rank" in said
    assert not (run / "why/training").exists()


@pytest.mark.parametrize("words", [("--through-training",), ("--misses", "--through-training")])
def test_a_training_is_differentiated_for_one_answer(trained_run: Path, words: tuple[str, ...]) -> None:
    assert "--through-training goes back through the training" in call_afina("why", trained_run, *words, check=2).stderr
