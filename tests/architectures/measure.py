"""What holds for one family: each column measured through the product's own doors against transformers and PEFT.

A column's function returns what is worth saying, or raises: :class:`Wrong` where the numbers differ, the product's own
errors where it refuses.
"""

from __future__ import annotations

import contextlib
import io
import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from fastapi.testclient import TestClient

from afina.errors import AfinaError, BaseError, RecipeError
from afina.export.export import ExportOptions, export
from afina.model.generate.engine_torch import Engine
from afina.model.generate.request import BASE, Request
from afina.model.load_torch import open_adapter
from afina.model.proven import COLUMNS, Cell
from afina.record import read_rows
from afina.serve.app import make_app
from afina.serve.driver import Driver
from afina.serve.identity import check_identity
from afina.serve.opened import find_target, open_models
from afina.serve.preflight import look_before
from afina.tokenizer.encode import Row
from architectures.case import Case
from architectures.converter import CONVERTED
from architectures.families import Family

NEW_TOKENS = 20
LOSS, GRADIENT, LOGITS = 1e-5, 2e-3, 1e-4
"""Largest differences, relative, in 32 bits: sums in another order are a hundredth of it."""


class Wrong(Exception):
    """A number that is not the reference's."""


# ---- references that are not ours


def one_by_one(model: Any, rows: Sequence[Row]) -> tuple[float, dict[str, torch.Tensor]]:
    """Mean loss of the rows' targets and its gradients through the model's own forward: each row alone, whole, without
    a cache."""
    total, targets = 0.0, sum(row.targets for row in rows)
    model.eval()
    for row in rows:
        labels = [token if learned else -100 for token, learned in zip(row.ids, row.mask, strict=True)]
        found = model(input_ids=torch.tensor([row.ids]), labels=torch.tensor([labels]), use_cache=False)
        share = found.loss * row.targets / targets
        share.backward()
        total += share.item()
    return total, take_gradients(model)


def greedily(model: Any, prompt: Sequence[int], stops: Sequence[int], pad: int) -> list[int]:
    """What transformers' own ``generate`` writes after one prompt, without a stop token."""
    ids = torch.tensor([list(prompt)])
    with torch.no_grad():
        tokens = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=list(stops),
            pad_token_id=pad,
        )
    return [token for token in tokens[0, len(prompt) :].tolist() if token not in stops]


def by_peft(case: Case) -> Any:
    """The run's adapter as plain transformers and PEFT open it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(case.base, dtype=torch.float32)
    return PeftModel.from_pretrained(base, case.adapter).eval()


@torch.no_grad()
def logits_of(model: Any, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    return torch.cat([model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].float() for ids in rows])


def take_gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def largest_difference(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> tuple[float, str]:
    """Of all gradients, each relative to its norm and a thousandth of the whole norm; and whose it is."""
    whole = torch.stack([value.norm() for value in expected.values()]).norm()
    worst, where = 0.0, ""
    for name in sorted({*expected, *found}):
        nothing = torch.zeros(())
        one, other = found.get(name, nothing), expected.get(name, nothing)
        difference = ((one - other).norm() / (other.norm() + 1e-3 * whole)).item()
        if not difference <= worst:
            worst, where = difference, name
    return worst, where


def same_logits(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    if not difference <= LOGITS:
        raise Wrong(f"{what}: logits differ by {difference:.2g} of their size")


# ---- columns


def plan(case: Case) -> str:
    """Parameters and trained parameters, exactly."""
    said = json.loads((case.walked("plan", until="plan") / "plan.json").read_text(encoding="utf-8"))
    model = case.adapted()
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    there = sum(weight.numel() for weight in case.opened().parameters())
    if (said["parameters"], said["trained_parameters"]) != (there, trained):
        raise Wrong(
            f"the plan counts {said['parameters']} parameters and trains {said['trained_parameters']}, "
            f"there are {there} and {trained}"
        )
    return ""


def lora(case: Case) -> str:
    """The whole walk; opened by plain PEFT, the adapter gives the same logits; all that is trained gets a gradient."""
    learned(losses_of(case.run))
    ids = [row.ids for row in case.rows[:3]]
    same_logits(logits_of(open_adapter(case.opened(), case.adapter), ids), logits_of(by_peft(case), ids), "plain PEFT")
    model = case.adapted()
    _, gradients = one_by_one(model, case.rows[:2])
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    without = [name for name in trained if name not in gradients or not gradients[name].any()]
    if without:
        raise Wrong(f"{len(without)} of {len(trained)} trained tensors get no gradient: {short(without[0])}")
    return f"{len(trained) // 2} matrices"


def qlora(case: Case) -> str:
    """Trained over 4 bits."""
    settings = {"epochs": 4, "learning_rate": 1e-2}
    learned(losses_of(case.walked("qlora", until="train", adapter={"kind": "qlora"}, train=settings)))
    held = [weight.numel() * 2 for weight in case.opened(four_bit=True).parameters() if hasattr(weight, "quant_state")]
    whole = sum(weight.numel() for weight in case.opened().parameters())
    if not held:
        raise Wrong("nothing is held in 4 bits")
    return f"{100 * sum(held) / whole:.0f} % in 4 bits"


def full(case: Case) -> str:
    """Every weight trained."""
    settings = {"epochs": 4, "learning_rate": 3e-3}
    learned(losses_of(case.walked("full", until="train", adapter={"kind": "none"}, train=settings)))
    return ""


def loss(case: Case) -> str:
    """A batch with padding, a shared beginning, the last layer at the targets and the short LoRA: as plain rows."""
    worst, wrong = 0.0, []
    for how in ("LoRA", "full"):
        model = case.adapted() if how == "LoRA" else case.opened().requires_grad_(True)
        expected, gradients = one_by_one(model, case.rows)
        for share in (True, False):
            where = f"{how}, shared beginning" if share else how
            try:
                found = batched(case, model, share)
            except Wrong as error:
                wrong.append(f"{where}: {error}")
                continue
            if found is None:
                continue
            if not abs(found[0] - expected) <= LOSS * max(1.0, abs(expected)):
                wrong.append(f"{where}: loss {found[0]:.6f} instead of {expected:.6f}")
            difference, name = largest_difference(found[1], gradients)
            if not difference <= GRADIENT:
                wrong.append(f"{where}: the gradient of {short(name)} differs by {difference:.2g}")
            worst = max(worst, difference)
    if wrong:
        raise Wrong("; ".join(wrong))
    return f"gradients to {worst:.0e}"


def batched(case: Case, model: Any, share: bool) -> tuple[float, dict[str, torch.Tensor]] | None:
    """A step of the training loop over all rows in one batch; None where they are not to share their beginning."""
    backend = case.backend(model, [], share_prefix=share)
    try:
        backend.begin(case.rows[0])
        backend.share_beginnings(case.rows, [range(len(case.rows))])
        if share and not backend.share:
            return None
        with backend.training():
            sums = backend.gradients(case.rows, [case.rows])
    except (AfinaError, RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        model.zero_grad(set_to_none=True)
        raise Wrong(first_line(error)) from error
    if sums.short:
        raise Wrong(sums.short)
    return sums.loss, take_gradients(model)


def sharing(case: Case) -> str:
    """Whether rows that begin alike compute their beginning once, and why not."""
    said: list[str] = []
    backend = case.backend(case.adapted(), said)
    backend.share_beginnings(case.rows, [range(len(case.rows))])
    if backend.share:
        return "taken"
    return "not taken: " + (said[-1].split("for each row: ")[-1] if said else "no rows could share a beginning")


def greedy(case: Case) -> str:
    """All prompts at once, every other one of the base beside the adapter's, against ``generate`` one by one."""
    said: list[str] = []
    stops, tokenizer = case.renderer.stop_ids(), case.renderer.tokenizer
    engine = Engine(case.adapted(), tokenizer, stops, say=said.append)
    asked = [
        Request(prompt=prompt, max_new_tokens=NEW_TOKENS, adapter=BASE if number % 2 else "default")
        for number, prompt in enumerate(case.prompts)
    ]
    numbers = [engine.submit(request) for request in asked]
    done = {}
    while engine.busy:
        done |= {produced.id: produced.done for produced in engine.step() if produced.done}
    adapted, base = case.adapted(), case.opened()
    for number, request in zip(numbers, asked, strict=True):
        model = base if request.adapter == BASE else adapted
        expected = greedily(model, request.prompt, stops, tokenizer.pad_token_id)
        if done[number].tokens != expected:
            texts = [tokenizer.decode(tokens) for tokens in (done[number].tokens, expected)]
            what = "base" if request.adapter == BASE else "adapter"
            raise Wrong(f"the {what} answers {texts[0]!r}, generate says {texts[1]!r} ({' '.join(said)})")
    return said[0].removeprefix("generation: ") if said else "batched"


def merge(case: Case) -> str:
    """Exported merged, opened by plain transformers."""
    from transformers import AutoModelForCausalLM

    out = case.folder / "merged"
    export(case.run, ExportOptions("merged", out), say=lambda _: None)
    merged = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    ids = [row.ids for row in case.rows[:3]]
    same_logits(logits_of(merged, ids), logits_of(by_peft(case), ids), "merged")
    return ""


def gguf(case: Case) -> str:
    """Written, opened and compared; where it cannot be written here, who can."""
    try:
        said = export(case.run, ExportOptions("gguf", case.folder / "gguf"), say=lambda _: None)
    except BaseError as error:
        if "cannot be written as GGUF here" not in str(error):
            raise
        known = case.family.model_type in CONVERTED
        who = "llama.cpp's converter takes it (--llama-cpp)" if known else "nor does llama.cpp's converter take it"
        raise BaseError(f"not written here; {who}", error.problems[0].fix, "--to gguf") from error
    return f"opened by {said['comparison']['program']}"


def served(case: Case) -> str:
    """The server's answers are the run's, of the base and of the adapter."""
    target = find_target(str(case.run))
    looked = look_before(target, {}, engine="transformers", host="127.0.0.1", port=None)
    models, _ = open_models(target, {}, "cpu")
    engine = Engine(models.model, models.tokenizer, models.base.renderer.stop_ids(), places=8)
    engine.context = looked.context
    driver = Driver(engine)
    with TestClient(make_app(models, driver, api_key="key"), headers={"Authorization": "Bearer key"}) as client:

        def ask(model: str, messages: Sequence[Mapping[str, str]], limit: int) -> str:
            body = {"model": model, "messages": [dict(turn) for turn in messages], "temperature": 0}
            answer = client.post("/v1/chat/completions", json=body | {"max_tokens": limit})
            if answer.status_code != 200:
                raise Wrong(f"the server answers {answer.status_code}: {answer.text[:200]}")
            return str(answer.json()["choices"][0]["message"]["content"] or "")

        found = check_identity(ask, case.run, target.name, models.base.name)
    driver.close()
    if found.problems:
        raise Wrong("; ".join(found.problems))
    return f"{found.asked} answers"


MEASURES: dict[str, Callable[[Case], str]] = dict(
    zip(COLUMNS, (plan, lora, qlora, full, loss, greedy, sharing, merge, gguf, served), strict=True)
)
"""A column's head -> what measures it."""


def losses_of(run: Path) -> list[float]:
    rows = read_rows(run / "metrics.jsonl") or []
    return [row.required_number("loss") for row in rows if row.text("event") == "step"]


def learned(losses: Sequence[float]) -> None:
    if not losses[-1] < 0.995 * losses[0]:  # Granite divides its logits: it learns slowly
        raise Wrong(f"the loss went from {losses[0]:.4g} to {losses[-1]:.4g}")


def short(name: str) -> str:
    return name.removeprefix("base_model.model.").removesuffix(".default.weight").removesuffix(".weight")


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def measure_column(case: Case, column: str) -> Cell:
    """One cell; a defect is a finding here, too."""
    try:
        return Cell("right", MEASURES[column](case))
    except Wrong as error:
        return Cell("wrong", str(error))
    except (BaseError, RecipeError) as error:
        return Cell("refused", first_line(error))
    except Exception as error:  # noqa: BLE001
        place = traceback.extract_tb(error.__traceback__)[-1]
        return Cell(
            "wrong", f"{type(error).__name__}: {first_line(error)} ({Path(place.filename).name}:{place.lineno})"
        )


def measure(family: Family, folder: Path, columns: Sequence[str] = tuple(COLUMNS)) -> dict[str, Cell]:
    """The cells of a family."""
    with contextlib.redirect_stderr(io.StringIO()):
        case = Case(family, folder)
        return {column: measure_column(case, column) for column in columns}
