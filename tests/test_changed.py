"""Settings that are advised where memory is short: the recipe takes each of them, and it means something there."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from advised import SETTING
from pydantic import ValidationError
from test_plan import COUNT, recipe

from afina.errors import OutOfMemory
from afina.plan.advise import what_would_fit
from afina.plan.bases import adapter_kinds, find_shape
from afina.plan.check import check_plan
from afina.plan.device import find_device
from afina.plan.plan import plan_run
from afina.recipe import METHODS, Recipe
from afina.recipe.changed import lighter_settings, needs_less, takes, with_settings
from afina.run import Run, no_progress
from afina.train.guard import does_not_fit
from afina.walk.context import Context
from afina.walk.memory import advice_on_memory


def made(method: str, kind: str, **parts: Any) -> Recipe:
    scratch = method == "scratch"
    base = (
        {"scratch": {"kind": kind}} if scratch else {"base": "b", "adapter": {"kind": kind} | parts.pop("adapter", {})}
    )
    return Recipe(name="x", sources=[{"path": "a"}], train={"method": method} | parts.pop("train"), **base, **parts)


@cache
def recipes() -> list[Recipe]:
    """Every method over every kind of adapter or model, with every other setting that advice may meet."""

    def each() -> Iterator[Recipe]:
        for method, optimizer, parallel, again in itertools.product(
            METHODS, ("auto", "adamw_8bit", "muon"), ("auto", "fsdp"), (False, True)
        ):
            train = {"optimizer": optimizer, "parallel": parallel, "checkpoint_activations": again}
            for kind in ("llama", "lstm", "gru") if method == "scratch" else ("none", "lora", "qlora"):
                for variant in ("lora", "dora", "pissa", "loftq"):
                    adapter = {} if variant == "lora" else {"variant": variant}
                    with contextlib.suppress(ValidationError):  # they do not go together
                        yield made(method, kind, train=train, adapter=adapter)

    return list(each())


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_a_recipe_takes_all_that_needs_less_memory_and_is_another_one_then(device: str) -> None:
    assert len(recipes()) > 200
    for one in recipes():
        named = SETTING.findall(needs_less(one, device))
        assert len(named) == len(lighter_settings(one, device))
        for key, value in named:
            assert with_settings(one, {key: {"true": True}.get(value, value)}) != one
            assert key.partition(".")[0] != "adapter" or one.base is not None, "nothing is adapted from scratch"


def test_what_needs_less_by_hand() -> None:
    lora = made("sft", "lora", train={})
    assert needs_less(lora, "cuda").endswith("checkpoint_activations: true, adapter.kind: qlora or train.optimizer: "
                                             "adamw_8bit")  # fmt: skip
    assert "qlora" not in needs_less(lora, "cpu") and "8bit" not in needs_less(lora, "mps")
    assert "qlora" not in needs_less(lora, "cuda", ("none", "lora")), "a base that none trains over in 4 bits"
    goes_on = lora.model_copy(update={"start_from": "runs/a"})
    assert "adapter" not in needs_less(goes_on, "cuda"), "the adapter is of the kind that it is"
    assert needs_less(made("scratch", "lstm", train={"optimizer": "adamw_8bit"}), "cpu") == "a smaller train.max_length"
    assert not takes(lora, {"train.optimizer": "muon"})


def test_what_would_fit_is_searched_where_a_setting_refuses_what_needs_less() -> None:
    """Weights shared out among processes are never in 4 or 8 bits, and the search ended with an error of ours."""
    shared_out = recipe(base="Qwen/Qwen3-14B", train={"parallel": "fsdp", "batch_tokens": 16384})
    shape = find_shape("Qwen/Qwen3-14B")
    found = what_would_fit(shared_out, shape, COUNT, find_device("A100 40GB"))
    assert found and all(takes(shared_out, each.settings) for each in found)


def test_no_kind_of_adapter_is_advised_that_the_base_refuses(tmp_path: Path) -> None:
    """FP8 weights are opened as the numbers that they stand for, and are not rounded a second time."""
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "quantization_config": {"quant_method": "fp8"},
    }
    config |= {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 32000}), encoding="utf-8")
    rounded, shape = recipe(base=str(tmp_path), train={"batch_tokens": 16384}), find_shape("Qwen/Qwen3-8B")
    assert adapter_kinds(rounded, shape) == ["lora", "none"]
    assert "qlora" in adapter_kinds(recipe(), shape)
    found = what_would_fit(rounded, shape, COUNT, find_device("A100 40GB"))
    assert found and not any("adapter.kind" in each.settings for each in found)


@pytest.mark.parametrize(("method", "kind"), [("scratch", "lstm"), ("scratch", "llama"), ("sft", "lora")])
def test_a_smaller_model_is_what_the_recipe_could_train(method: str, kind: str) -> None:
    budget = {"hours": 1e-6, "price_per_hour": 1.0, "money": 1e-6}
    one = made(method, kind, train={}).model_copy(update={"budget": recipe(budget=budget).budget})
    plan = plan_run(one, find_shape("Qwen/Qwen3-0.6B"), COUNT, find_device("RTX 4090"))
    with pytest.raises(Exception, match="more than `budget") as refused:
        check_plan(plan, one)
    for problem in refused.value.problems:
        assert ("a smaller base" in problem.fix) == (method == "sft")
        assert ("scratch.hidden" in problem.fix) == (method == "scratch")


def test_memory_that_runs_out_names_what_this_recipe_takes(tmp_path: Path) -> None:
    """An LSTM was told to set what it refuses: its layers are one operation, and cannot be computed again in parts."""
    one = made("scratch", "lstm", train={}).model_copy(update={"device": "cpu"})
    with Run.open(tmp_path, one, lambda text: None) as run:
        context = Context(run, lambda what: contextlib.nullcontext(no_progress))
        with pytest.raises(OutOfMemory) as raised, advice_on_memory(context):
            raise does_not_fit("a micro-batch of a single row", "out of memory", "a.md:3")
    (problem,) = raised.value.problems
    assert raised.value.exit_code == 4 and problem.where == "a.md:3"
    assert problem.fix == "a smaller train.max_length or train.optimizer: adamw_8bit would need less"
