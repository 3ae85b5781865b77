"""The training rows behind an answer: gradients, curvature and sketches by hand, the index on the disk, the verb."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from called import call_afina
from exported import make_run
from lxml import html as lxml_html
from tiny import NAMES, ROWS, make_base, make_recipe, make_rows

from afina.cli.opened import reopened
from afina.errors import AfinaError, DataError, RecipeError
from afina.evaluate.loss import RowLoss
from afina.model.load_torch import attach_adapter, load_base
from afina.recipe import Adapter
from afina.record import Record
from afina.report.page import write_report
from afina.score.paired import ratio_difference
from afina.text.example import Example
from afina.tokenizer.encode import Row
from afina.why import ekfac_torch, indexing_torch
from afina.why.effects import LossChange, SourceEffect, effects_of
from afina.why.ekfac_torch import Curvature, Sketcher, adapter_matrices, fit_curvature, shapes_of, sketch_rows
from afina.why.index import IndexFolder
from afina.why.rows import encoded_rows
from afina.why.why import Why, explain, in_turn

CPU = torch.device("cpu")
LEARNED = [*ROWS[::3], (ROWS[4][0], "Lagos de Eva"), (ROWS[10][0], "Silves de Zé")]
"""Twelve rows, and two whose answers are wrong, of questions that are not trained otherwise."""


def adapted(folder: Path, **adapter: Any) -> tuple[Any, list[Row]]:
    """A tiny model with an adapter that is no longer zero, and rows of several lengths."""
    base = make_base(folder)
    recipe = make_recipe(base)
    model = attach_adapter(load_base(base, recipe, CPU), Adapter(**{"rank": 4, "alpha": 8} | adapter), 0)
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_" in name and weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.05)
    return model.eval(), make_rows(base, recipe)[0][:9]


def gradient_by_autograd(model: Any, row: Row) -> dict[str, torch.Tensor]:
    """Of each of the adapter's matrices the gradient of one row's summed loss, by the model's own loss."""
    matrices = adapter_matrices(model)
    weights = [matrix.weight.requires_grad_(True) for matrix in matrices.values()]
    ids = torch.tensor([row.ids])
    labels = torch.where(torch.tensor([row.mask]), ids, -100)
    loss = model(input_ids=ids, labels=labels).loss * sum(row.mask)
    return dict(zip(matrices, torch.autograd.grad(loss, weights), strict=True))


@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_a_rows_gradient_is_that_of_autograd(tmp_path: Path, variant: str) -> None:
    model, rows = adapted(tmp_path, variant=variant)
    sketches = sketch_rows(model, rows, None, Sketcher(shapes_of(model), size=10**9))
    for row, sketch in zip(rows, sketches, strict=True):
        by_hand = torch.cat([each.flatten() for each in gradient_by_autograd(model, row).values()])
        assert by_hand.norm() > 0 and torch.allclose(sketch, by_hand, atol=1e-5, rtol=1e-4)


def test_several_rows_of_one_example_are_added_up(tmp_path: Path) -> None:
    model, rows = adapted(tmp_path)
    sketcher = Sketcher(shapes_of(model), size=10**9)
    apart = sketch_rows(model, rows[:3], None, sketcher)
    together = sketch_rows(model, rows[:3], None, sketcher, [0, 1, 0])
    assert torch.allclose(together, torch.stack([apart[0] + apart[2], apart[1]]), atol=1e-5)


def test_whitened_products_are_those_of_the_inverse_by_hand(tmp_path: Path) -> None:
    """With the empirical Fisher, of one matrix written out as O I x O I: q' (Q diag(l + d) Q')^-1 i."""
    model, rows = adapted(tmp_path)
    curvature = fit_curvature(model, rows, draw=False)
    name = next(name for name in adapter_matrices(model) if name.endswith("v_proj.lora_B"))
    gradients = torch.stack([gradient_by_autograd(model, row)[name] for row in rows]).double()
    whole = torch.kron(curvature.q_out[name].double(), curvature.q_in[name].double())
    identity = torch.eye(len(whole), dtype=torch.double)
    assert torch.allclose(whole.T @ whole, identity, atol=1e-5), "eigenvectors"
    eigenvalues = ((gradients.flatten(1) @ whole) ** 2).mean(0)
    damped = whole @ torch.diag(eigenvalues + ekfac_torch.DAMPING * eigenvalues.mean()) @ whole.T
    expected = gradients.flatten(1) @ torch.linalg.solve(damped, gradients.flatten(1).T)
    found = curvature.whitened(name, gradients.float()).flatten(1).double()
    assert torch.allclose(found @ found.T, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_the_curvature_is_bergsons(tmp_path: Path) -> None:
    """EK-FAC of the library made for it, by its own collectors, on the same rows and labels."""
    pytest.importorskip(
        "bergson", reason="needs bergson 2.5, without torchvision where torch is the CPU's build (LOG.md)"
    )
    from bergson.config import InversionConfig
    from bergson.gradients import GradientProcessor
    from bergson.hessians.eigenvectors import LambdaCollector, eigendecompose_owned
    from bergson.hessians.kfac import CovarianceCollector
    from bergson.hessians.preconditioner import FactoredPreconditioner

    model, rows = adapted(tmp_path)
    matrices = adapter_matrices(model)
    inner = {id(module): name for name, module in model.named_modules()}
    names = {inner[id(matrix)]: ours for ours, matrix in matrices.items()}
    for matrix in matrices.values():
        matrix.weight.requires_grad_(True)

    def read(collector: Any) -> None:
        for row in rows:
            ids = torch.tensor([row.ids])
            mask = torch.ones_like(ids, dtype=torch.bool)
            mask[:, -1] = False
            with collector.with_batch(mask):
                labels = torch.where(torch.tensor([row.mask]), ids, -100)
                (model(input_ids=ids, labels=labels).loss * sum(row.mask)).backward()

    shared = {"model": model, "target_modules": set(names), "processor": GradientProcessor(), "dtype": torch.float32}
    covariances = CovarianceCollector(**shared, path=str(tmp_path))
    read(covariances)
    total = sum(len(row.ids) - 1 for row in rows)
    vectors = [
        eigendecompose_owned(held, shapes, None, total, str(tmp_path / f"eigen_{kind}_sharded"), torch.float32)[0]
        for held, shapes, kind in (
            (covariances.A_cov_dict, covariances.A_shapes, "activation"),
            (covariances.S_cov_dict, covariances.S_shapes, "gradient"),
        )
    ]
    corrected = LambdaCollector(**shared, path=str(tmp_path), eigenvectors=tuple(vectors), num_documents=len(rows))
    read(corrected)
    corrected.teardown()
    theirs = FactoredPreconditioner.from_path(
        tmp_path, inversion_cfg=InversionConfig(damping_factor=ekfac_torch.DAMPING), power=-1.0, ev_correction=True
    )
    ours = fit_curvature(model, rows, draw=False)
    gradients = [gradient_by_autograd(model, row) for row in rows]
    for bergsons, name in names.items():
        flat = torch.stack([each[name] for each in gradients])
        expected = flat.flatten(1) @ theirs.apply({bergsons: flat.flatten(1)})[bergsons].T
        found = ours.whitened(name, flat).flatten(1)
        assert torch.allclose(found @ found.T, expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max())), name


def test_a_side_that_is_too_long_keeps_its_own_coordinates(tmp_path: Path) -> None:
    model, rows = adapted(tmp_path)
    curvature = fit_curvature(model, rows, draw=False, longest_side=32)
    name = next(name for name in adapter_matrices(model) if name.endswith("down_proj.lora_A"))  # 4 x 64
    assert name not in curvature.q_in and name in curvature.q_out
    gradients = torch.stack([gradient_by_autograd(model, row)[name] for row in rows])
    by_hand = torch.einsum("op,noi->npi", curvature.q_out[name], gradients).square().mean(0)
    assert torch.allclose(curvature.eigenvalues[name], by_hand, rtol=1e-3, atol=1e-9)
    assert all(torch.equal(a, b) for a, b in zip(
        Curvature.of(curvature.tensors()).tensors().values(), curvature.tensors().values(), strict=True))  # fmt: skip


def test_a_sketch_keeps_products_within_its_error() -> None:
    torch.manual_seed(0)
    values = torch.randn(40, 60, 50)
    sketcher, sketches = Sketcher({"m": (60, 50)}, size=2048), torch.zeros(40, 2048)
    sketcher.add(sketches, "m", values)
    exact, flat = values.flatten(1) @ values.flatten(1).T, values.flatten(1).norm(dim=1)
    errors = ((sketches @ sketches.T - exact) / (flat[:, None] * flat))[~torch.eye(40, dtype=torch.bool)]
    assert 0.8 / 2048**0.5 < errors.std() < 1.2 / 2048**0.5 and errors.mean().abs() < 2e-3


# ---- a run


def with_rows(run: Path, learned: Sequence[tuple[str, str]] = LEARNED) -> Path:
    """The run's training rows as its dataset holds them; the two wrong ones come from a file of their own."""
    lines = []
    for number, (question, answer) in enumerate(learned, start=1):
        turns: Any = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
        wrong = number > len(ROWS[::3])
        made = Example(messages=turns, path="wrong.jsonl" if wrong else "rows.jsonl", line=number, source=int(wrong))
        lines.append(made.as_line())
    (run / "dataset/train.jsonl").write_bytes(b"".join(lines))
    asked = [
        {"prompt": question, "reference": answer, "probe": "seen", "role": "recall"} for question, answer in ROWS[::3]
    ]
    (run / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("why")
    return with_rows(make_run(folder / "run", learned=LEARNED, steps=160, asked=1))


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy without an index."""
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/why", ignore_errors=True)
    return tmp_path / "run"


@pytest.fixture
def asked(trained: Path) -> Iterator[Any]:
    with reopened(trained) as walk:
        yield lambda *given, **named: explain(walk, *given, **named)


def first(why: Why) -> tuple[str, int]:
    return why.spoke_for[0].row.path, why.spoke_for[0].row.line


def test_the_row_that_taught_an_answer_is_first(asked: Any) -> None:
    for number, (question, answer) in enumerate(LEARNED, start=1):
        why = asked(question, answer, top=3)
        assert first(why)[1] == number, why.spoke_for
        assert why.spoke_for[0].score > why.spoke_for[1].score and why.asked.after < why.asked.before


def test_a_wrong_row_is_first_for_what_it_says_alone(asked: Any) -> None:
    """Its question with its answer finds it, far more than with the right answer; every row has one sign."""
    question, truth = ROWS[4]
    wrong = asked(question, LEARNED[12][1], top=20)
    right = asked(question, truth, top=20)
    assert first(wrong) == ("wrong.jsonl", 13)
    of_both = [next(each.score for each in why.spoke_for if each.row.line == 13) for why in (wrong, right)]
    assert of_both[0] > 2 * of_both[1], "the question alone speaks for both answers"
    for why in (wrong, right):
        assert all(each.score < 0 for each in why.spoke_against) and all(each.score > 0 for each in why.spoke_for)
        scores = [each.score for each in (*why.spoke_for, *reversed(why.spoke_against))]
        assert scores == sorted(scores, reverse=True) and len(scores) == len(LEARNED)


def test_the_models_own_answer_is_explained_where_none_is_given(asked: Any) -> None:
    why = asked(LEARNED[0][0])
    assert why.asked.own and why.asked.answer == LEARNED[0][1] and first(why) == ("rows.jsonl", 1)


def test_each_source_is_measured(trained: Path) -> None:
    """By hand: the losses of the same rows with the adapter and without it."""
    from afina.evaluate.loss import row_losses
    from afina.model.reader_torch import TorchReader
    from afina.walk.models import open_trained
    from afina.why.effects import question_row

    with reopened(trained) as walk:
        effects = explain(walk, None).effects
    assert [(each.path, each.rows) for each in effects.sources] == [("x", 12), ("source 2", 2)]
    own = effects.sources[0]
    with reopened(trained) as walk:
        model, base = open_trained(walk)
        rows = [question_row(walk, [{"role": "user", "content": ask}], answer) for ask, answer in ROWS[::3]]
        after = row_losses(TorchReader(model), rows, pad_id=0, batch_tokens=64)
        with base() as untrained:
            before = row_losses(TorchReader(untrained), rows, pad_id=0, batch_tokens=64)
    for losses, found in ((before, own.trained.before), (after, own.trained.after)):
        mean = sum(each.learned for each in losses) / sum(each.learned_tokens for each in losses)
        assert found == pytest.approx(mean, rel=1e-4)
    assert own.trained.verdict == "fell" and own.held_out is not None and own.held_out.rows == 8
    (probe,) = effects.probes
    assert (probe.name, probe.change.after) == ("seen", pytest.approx(own.trained.after, rel=1e-4))


@pytest.mark.parametrize(
    ("replay", "trained", "held_out", "verdict"),
    [
        (False, (-2, -1), (-1, -0.5), "helped"),
        (False, (-2, -1), None, "helped"),
        (False, (-2, -1), (0.1, 0.5), "hurt"),
        (False, (-2, -1), (-0.1, 0.5), "memorized"),
        (False, (-0.2, 0.1), None, "wasted"),
        (True, (-2, -1), (-0.1, 0.5), "kept"),
        (True, (-0.2, 0.1), (0.1, 0.5), "forgotten"),
    ],
)
def test_what_came_of_a_source_in_a_word(replay: bool, trained: Any, held_out: Any, verdict: str) -> None:
    def change(interval: tuple[float, float]) -> LossChange:
        return LossChange(rows=20, units=20, before=3.0, after=2.0, low=interval[0], high=interval[1], known=0.0)

    held = change(held_out) if held_out else None
    assert SourceEffect("a.jsonl", "messages", 20, replay, change(trained), held).verdict == verdict


def few(units: int) -> LossChange:
    return LossChange(rows=27, units=units, before=3.0, after=2.0, low=-1.0, high=-1.0, known=0.0)


def test_fewer_facts_than_can_tell_are_told_so_however_many_rows_ask_for_them() -> None:
    """One fact in 27 phrasings: an interval without any width."""
    assert few(1).verdict == "too few" and few(6).verdict == "fell"
    assert SourceEffect("a", "facts", 27, False, few(5), None).verdict == "too few"
    assert SourceEffect("a", "facts", 27, False, few(6), few(2)).verdict == "helped", "its own rows then"


Losses = dict[tuple[int, str], tuple[tuple[float, float], ...]]


def reckoned(run: Path, losses: Losses, monkeypatch: pytest.MonkeyPatch, facts: int = 0) -> dict[str, Any]:
    """The effects of a run whose rows have the losses that are given: of each source and split the nats of each row,
    before and after, over as many tokens as its answer has.

    Args:
        facts: so many facts the last source's rows are about.
    """
    for split in ("train", "validation"):
        lines, last = [], max(source for source, _ in losses)
        for (source, held), each in losses.items():
            for number in range(len(each) if held == split else 0):
                turns: Any = (
                    {"role": "user", "content": f"Onde nasceu {NAMES[source]} {number} {split[0]}?"},
                    {"role": "assistant", "content": "Faro"},
                )
                group = f"fact {number % facts}" if facts and source == last else ""
                named: Any = {"made": "facts:birth_place", "group": group} if group else {}
                made = Example(messages=turns, path=held, line=number + 1, source=source, **named)
                lines.append(replace(made, replay=source == 3).as_line())
        (run / f"dataset/{split}.jsonl").write_bytes(b"".join(lines))
    (run / "predictions.jsonl").unlink()

    def given(reader: str, rows: Sequence[Row], **_: Any) -> list[RowLoss]:
        found = []
        for row in rows:
            nats = losses[row.example.source, row.example.path][row.example.line - 1][reader == "trained"]
            found.append(RowLoss(nats, 2, nats, 2))
        return found

    monkeypatch.setattr("afina.evaluate.loss.row_losses", given)
    monkeypatch.setattr("afina.model.readers.reader_of", lambda model: model)
    with reopened(run) as walk:
        who: Any = SimpleNamespace(weights_sha256="x")
        effects = effects_of(walk, "trained", lambda: contextlib.nullcontext("base"), {}, who)
    return {f"{each.path} {each.kind}": each for each in effects.sources}


def test_what_helped_was_wasted_or_hurt_reckoned_by_hand(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight rows of two tokens a source. Taught: 4 nats a row -> 1, held out 4 -> 2. By heart: 4 -> 0, held out as
    often a nat more as less. Known: 0.1 -> 0.1 more or less, known before. Replay: held out 2 -> 4. Wrong: 4 -> 1, held
    out 2 -> 4."""
    swing = tuple((2.0, 3.0 if number % 2 else 1.0) for number in range(8))
    near = tuple((0.1, 0.11 if number % 2 else 0.09) for number in range(8))
    losses: Losses = {
        (0, "train"): ((4.0, 1.0),) * 8,
        (0, "validation"): ((4.0, 2.0),) * 8,
        (1, "train"): ((4.0, 0.0),) * 8,
        (1, "validation"): swing,
        (2, "train"): near,
        (3, "train"): ((4.0, 3.0),) * 8,
        (3, "validation"): ((2.0, 4.0),) * 8,
        (4, "train"): ((4.0, 1.0),) * 8,
        (4, "validation"): ((2.0, 4.0),) * 8,
    }
    found = reckoned(run, losses, monkeypatch)
    assert {name: each.verdict for name, each in found.items()} == {
        "x messages": "helped",
        "source 2 messages": "memorized",
        "source 3 messages": "wasted",
        "source 4 messages": "forgotten",
        "source 5 messages": "hurt",
    }
    taught, known = found["x messages"], found["source 3 messages"]
    assert (taught.trained.before, taught.trained.after) == (2.0, 0.5) and taught.trained.known == 0.0
    assert taught.held_out and (taught.held_out.before, taught.held_out.after) == (2.0, 1.0)
    assert (taught.held_out.low, taught.held_out.high) == (-1.0, -1.0), "each row loses as much"
    assert known.trained.known == 1.0 and known.trained.low < 0 < known.trained.high and known.held_out is None


def test_intervals_count_facts_and_not_their_phrasings(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight facts in twenty phrasings each, of which five fell and three rose as much: by rows that would be sure."""
    rows = tuple((4.0, 3.0 if number % 8 < 5 else 5.0) for number in range(160))
    found = reckoned(run, {(0, "train"): ((4.0, 1.0),) * 8, (1, "train"): rows}, monkeypatch, facts=8)
    change = found["source 2 facts"].trained
    assert (change.rows, change.units, change.before, change.after) == (160, 8, 2.0, pytest.approx(1.875))
    assert change.low < 0 < change.high and found["source 2 facts"].verdict == "wasted"
    by_rows = ratio_difference([4.0] * 160, [after for _, after in rows], [2] * 160)
    assert by_rows.high < 0, "what it would be by rows"


def test_rows_that_ask_for_one_fact_in_other_words_are_one_without_a_name_too(run: Path) -> None:
    """As questions stand in a file of rows: the names in them and the answer are what they are about."""
    asked = [("Onde nasceu Ana?", "Faro"), ("De que terra é Ana?", "Faro"), ("Onde nasceu Rui?", "Faro")]
    with_rows(run, asked)
    with reopened(run) as walk:
        rows, _ = encoded_rows(walk, "train")
    assert [each.described.line for each in rows] == [1, 2, 3]
    assert rows[0].about == rows[1].about != rows[2].about


def test_a_loss_that_is_no_number_is_counted_and_in_no_figure(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (*((4.0, 1.0),) * 8, (4.0, float("nan")), (float("inf"), 1.0))
    found = reckoned(run, {(0, "train"): rows}, monkeypatch)["x messages"]
    assert (found.trained.rows, found.trained.no_number, found.trained.after, found.verdict) == (8, 2, 0.5, "helped")
    assert json.loads((run / "why/effects.json").read_text(encoding="utf-8"))["sources"][0]["trained"]["no_number"] == 2


def test_effects_are_measured_anew_where_other_questions_were_asked(run: Path) -> None:
    """The same adapter and rows, and a probe more: what was kept tells nothing of it."""
    with reopened(run) as walk:
        assert [each.name for each in explain(walk, None).effects.probes] == ["seen"]
    more = {"prompt": ROWS[1][0], "reference": ROWS[1][1], "probe": "unseen", "role": "generalization"}
    with (run / "predictions.jsonl").open("a", encoding="utf-8") as out:
        out.write(json.dumps(more) + "\n")
    with reopened(run) as walk:
        assert [each.name for each in explain(walk, None).effects.probes] == ["seen", "unseen"]


def test_a_second_question_waits_for_no_row(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    question, answer = LEARNED[3]
    made = json.loads(call_afina("why", run, question, "--json").stdout)
    assert made["asked"]["answer"] == answer and made["for"][0]["line"] == 4

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("computed again")

    for name in ("fit_curvature", "encoded_rows"):
        monkeypatch.setattr(indexing_torch, name, never)
    monkeypatch.setattr("afina.why.effects.encoded_rows", never)
    again = json.loads(call_afina("why", run, LEARNED[5][0], "--json", "--top", 2).stdout)
    assert again["for"][0]["line"] == 6 and len(again["for"]) <= 2
    shown = call_afina("why", run, ROWS[4][0], "--answer", ROWS[4][1], "--against").stdout
    assert "rows that speak against it" in shown and "  -0." in shown


def test_a_stopped_index_goes_on_behind_its_last_block(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing_torch, "BLOCK", 5)
    write, written = IndexFolder.write_block, list[int]()

    def stops(self: IndexFolder, number: int, block: Any) -> None:
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(number)
        write(self, number, block)

    monkeypatch.setattr(IndexFolder, "write_block", stops)
    with reopened(run) as walk, pytest.raises(KeyboardInterrupt):
        explain(walk, LEARNED[0][0])
    assert sorted(file.name for file in (run / "why").glob("block*")) == ["block-00000.npz"]

    def goes_on(self: IndexFolder, number: int, block: Any) -> None:
        written.append(number)
        write(self, number, block)

    monkeypatch.setattr(IndexFolder, "write_block", goes_on)
    monkeypatch.setattr(indexing_torch, "fit_curvature", None)  # it is kept
    with reopened(run) as walk:
        assert first(explain(walk, LEARNED[0][0])) == ("rows.jsonl", 1)
    assert written == [0, 1, 2]


def test_the_rows_behind_wrong_answers_are_kept(run: Path) -> None:
    question, truth = ROWS[4]
    wrong = {
        "prompt": question,
        "adapter": LEARNED[12][1],
        "reference": truth,
        "probe": "seen",
        "adapter_correct": False,
    }
    right = {"prompt": ROWS[0][0], "adapter": ROWS[0][1], "reference": ROWS[0][1], "adapter_correct": True}
    rows = [wrong, right, wrong | {"adapter": ""}, wrong | {"tools": [{"type": "function"}]}]
    (run / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = json.loads(call_afina("why", run, "--misses", "--json").stdout)
    (miss,) = found["misses"]
    assert (miss["question"], miss["reference"]) == (question, truth)
    assert (miss["rows"][0]["path"], miss["rows"][0]["line"]) == ("wrong.jsonl", 13)
    assert all(row["score"] < 0 for row in miss["hurt"]) and miss["hurt"], "what speaks against the right answer"
    assert (found["more"], found["empty"], found["with_tools"]) == (0, 1, 1), "what is not looked at is counted"
    assert json.loads((run / "why/misses.json").read_text(encoding="utf-8")) == found
    page = lxml_html.fromstring(write_report(run).read_text(encoding="utf-8"))
    shown = " ".join(page.get_element_by_id("why").text_content().split())
    assert question in shown and "wrong.jsonl:13" in shown, "the report shows what was found"
    (run / "predictions.jsonl").unlink()
    assert "was not measured" in call_afina("why", run, "--misses", check=2).stderr


def test_another_adapter_makes_another_index(run: Path) -> None:
    call_afina("why", run, LEARNED[0][0])
    from safetensors.torch import load_file, save_file

    file = run / "adapter/adapter_model.safetensors"
    save_file({name: value * 0.9 for name, value in load_file(file).items()}, file)
    assert "the index is made anew" in call_afina("why", run, LEARNED[0][0]).stderr


def test_a_damaged_index_is_named(run: Path) -> None:
    """Also where it can still be read: its numbers would name other rows."""
    call_afina("why", run, LEARNED[0][0])
    for name in ("block-00000.npz", "ekfac.safetensors", "rows.json"):
        whole = (run / "why" / name).read_bytes()
        changed = whole.replace(b'"line": 2,', b'"line": 3,') if name == "rows.json" else whole[:-1] + b"\xff"
        for damaged in (changed, whole[:100], b"[1]"):
            assert damaged != whole
            (run / "why" / name).write_bytes(damaged)
            with pytest.raises(AfinaError, match=f"{name}: (damaged|should hold).*\n.*remove the folder why/"):
                IndexFolder(run / "why").rows()
        (run / "why" / name).write_bytes(whole)
    (run / "why/ekfac.safetensors").unlink()
    said = call_afina("why", run, LEARNED[0][0], check=1).stderr
    assert "ekfac.safetensors: damaged" in said and "remove the folder why/" in said


def test_a_stopped_index_with_a_damaged_file_is_named(run: Path) -> None:
    """Its hashes are not written yet: what is damaged is found where it is read."""
    call_afina("why", run, LEARNED[0][0])
    for name in ("ekfac.safetensors", "block-00000.npz"):
        whole = (run / "why" / name).read_bytes()
        for damaged in (b"", whole[:200]):
            (run / "why/rows.json").unlink(missing_ok=True)  # as where it was stopped
            (run / "why" / name).write_bytes(damaged)
            said = call_afina("why", run, LEARNED[0][0], check=1).stderr
            assert f"{name}: damaged" in said and "remove the folder why/" in said
        (run / "why" / name).write_bytes(whole)


def test_each_probe_has_some_of_the_first_wrong_answers() -> None:
    rows = [Record({"probe": name, "n": n}, "x") for name, count in (("a", 3), ("b", 1)) for n in range(count)]
    assert [(row["probe"], row["n"]) for row in in_turn(rows)] == [("a", 0), ("b", 0), ("a", 1), ("a", 2)]


def test_a_matrix_that_no_row_of_the_curvature_reached_says_nothing() -> None:
    """A routed expert that the drawn rows passed by."""
    assert not Curvature().whitened("expert.lora_A", torch.ones(2, 3, 4)).any()


def test_a_row_whose_gradient_is_no_number_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted, it would stand before every other row."""

    def broken(model: Any, rows: Sequence[Row], *given: Any) -> torch.Tensor:
        return torch.full((len(rows), 4), torch.nan)

    monkeypatch.setattr(indexing_torch, "sketch_rows", broken)
    said = call_afina("why", run, LEARNED[0][0], "--answer", "Ana", check=5).stderr
    assert "the gradient of 14 rows is no number (first " in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("",), "the question is empty"),
        (("Quem?", "--answer", " "), "the answer is empty"),
        (("Quem?", "--top", "0"), "--top 0 shows no row"),
        (("--answer", "Ana"), "--answer needs the question"),
        (("Quem?", "--misses"), "--misses brings its own questions"),
        (("--misses", "--answer", "Ana"), "--misses brings its own questions and answers"),
        (("--misses", "--against"), "--against shows the other sign"),
        (("--against",), "--against shows the other sign"),
    ],
)
def test_what_cannot_be_explained_is_refused(trained: Path, given: tuple[str, ...], said: str) -> None:
    assert said in call_afina("why", trained, *given, check=2).stderr


def test_runs_without_row_gradients_are_refused_by_name(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from afina.model.back_ends import BackEnd

    with reopened(run) as walk:
        monkeypatch.setattr("afina.why.why.back_end", lambda _: BackEnd("mlx", "a test"))
        with pytest.raises(RecipeError, match="computed by MLX"):
            explain(walk, "Quem?")
    monkeypatch.undo()
    (run / "adapter").rename(run / "model")
    text = (run / "recipe.yaml").read_text(encoding="utf-8")
    assert "kind: lora" in text
    (run / "recipe.yaml").write_text(text.replace("kind: lora", "kind: none"), encoding="utf-8")
    assert "trained every weight" in call_afina("why", run, "Quem?", check=2).stderr


def test_a_run_without_its_rows_says_what_to_bring(run: Path) -> None:
    """Where it was copied without its dataset: "look at its permissions"."""
    shutil.rmtree(run / "dataset")
    for given in ((), ("Quem?",), ("--misses",)):
        assert "has no dataset" in call_afina("why", run, *given, check=2).stderr


def test_preferences_alone_are_refused(run: Path) -> None:
    turns: Any = ({"role": "user", "content": "Quem?"}, {"role": "assistant", "content": "Ana"})
    (run / "dataset/train.jsonl").write_bytes(Example(messages=turns, rejected="Rui", path="a").as_line())
    with reopened(run) as walk, pytest.raises(DataError, match="of preferences and ratings nothing is shown"):
        explain(walk, "Quem?")


@pytest.mark.long
@pytest.mark.training
def test_scores_follow_what_leaving_a_row_out_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """30 rows of a small training, each left out once: the way through the training says best what that does, 0.15
    ahead of shared words (BM25), and ahead of gradients at the final weights."""
    pytest.importorskip("scipy", reason="needs the extra scaling")
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent))
    from benchmarks.why import GRADIENT, OURS, THROUGH, WORDS, SmallTraining, left_out

    base = make_base(tmp_path / "base")
    found = left_out(SmallTraining(base, make_recipe(base), epochs=12, rate=2e-3), ROWS[:30], ROWS[30:])["scores"]
    assert found[OURS]["interval"][0] > 0, found
    assert found[THROUGH]["spearman"] > found[WORDS]["spearman"] + 0.15, found
    assert found[THROUGH]["spearman"] > max(found[GRADIENT]["spearman"], found[OURS]["spearman"]), found
