"""A run is exported, opened by the other program, and proven to be the trained model, or refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from called import call_afina
from exported import SHAPE, make_run
from safetensors.torch import load_file, save_file
from tiny import make_base, make_recipe
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from afina.errors import BaseError, DiskFull, DoesNotFit, RecipeError, ResultError
from afina.export import export as module
from afina.export.compare import compare
from afina.export.converters import convert_by_llama_cpp
from afina.export.expected_torch import expected_of
from afina.export.export import ExportOptions, export
from afina.export.merge_torch import check_apart, open_unmerged
from afina.export.origin import open_origin
from afina.export.programs import Transformers, text_of
from afina.export.template import baked_template
from afina.model.generate.generate_torch import generate
from afina.model.generate.text_stream import TextStream
from afina.model.licence import licence_of
from afina.model.load_torch import attach_adapter, load_base, open_adapter
from afina.recipe import Chat
from afina.text.example import Example
from afina.tokenizer.chat import Renderer
from afina.tokenizer.load import load_tokenizer
from afina.whole import write_json


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("export") / "corrida")


def made(run: Path, to: str, out: Path, **more: Any) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    return export(run, ExportOptions(to, out, **more), say=said.append), said


def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def test_the_run_stops_by_itself_where_it_has_learned_to(run: Path):
    """Otherwise the tests of stop tokens below would say nothing."""
    rows = [json.loads(line) for line in (run / "predictions.jsonl").open(encoding="utf-8")]
    assert sum(row["adapter_stopped"] for row in rows) >= 4


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("a project", "is there and is no export"),
        ("a clone that an export was put into", r"somebody keeps other things \(.git\)"),
        ("an export of which somebody has rounded another", r"somebody keeps corrida-q4\.gguf: it would be gone"),
        ("an export with others below it", r"somebody keeps merged/: it would be gone"),
        ("among the run's own files", "lies among what corrida has written"),
        ("here", "is the folder that you are in"),
        ("below a file", "it is a file"),
    ],
)
def test_what_is_somebodys_own_is_not_replaced_by_an_export(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, said: str
):
    """A folder with a README.md was taken for an earlier export, and removed with all that lay in it."""
    out = tmp_path / "m"
    if what == "a project":
        out.mkdir()
        (out / "README.md").write_text("# Mine\n")
        (out / "work.py").write_text("hours")
    elif what == "a clone that an export was put into":
        made(run, "adapter", out, check=False)
        (out / ".git").mkdir()
        (out / ".git/HEAD").write_text("ref")
    elif what.startswith("an export"):
        made(run, "adapter", out, check=False)
        if "rounded" in what:
            (out / "corrida-q4.gguf").write_text("an hour")
        else:
            made(run, "adapter", out / "merged", check=False)
    elif what == "among the run's own files":
        run = shutil.copytree(run, tmp_path / "corrida")
        (run / ".lock").touch()
        out = run / "adapter/hub"
    elif what == "here":
        out.mkdir()
        monkeypatch.chdir(out)
    else:
        (tmp_path / "file").write_text("x")
        out = tmp_path / "file/m"
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(RecipeError, match=said):
        made(run, "adapter", out, check=False)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_an_earlier_export_is_replaced(run: Path, tmp_path: Path):
    (tmp_path / "m.old").mkdir()
    (tmp_path / "m.old/mine").write_text("kept")
    for _ in range(2):
        made(run, "adapter", tmp_path / "m", check=False)
        assert (tmp_path / "m/adapter_config.json").is_file() and not (tmp_path / "m/.DS_Store").exists()
        (tmp_path / "m/.DS_Store").write_text("a Mac's")
    assert (tmp_path / "m.old/mine").read_text() == "kept"
    inside = shutil.copytree(run, tmp_path / "corrida")
    (inside / ".lock").touch()
    made(inside, "adapter", inside / "export/hub", check=False)


def test_merged_is_base_plus_scale_b_a(run: Path, tmp_path: Path):
    """W' = W + alpha/r * B A, by hand, for every matrix; everything else is the base's."""
    found, _ = made(run, "merged", tmp_path / "m")
    merged = load_file(tmp_path / "m/model.safetensors")
    base = load_file(run.parent / "base/model.safetensors")
    adapter = load_file(run / "adapter/adapter_model.safetensors")
    assert merged.keys() == base.keys()
    changed = 0
    for name, weight in base.items():
        stem = "base_model.model." + name.removesuffix(".weight")
        if f"{stem}.lora_A.weight" in adapter:
            right = weight + 16 / 8 * adapter[f"{stem}.lora_B.weight"] @ adapter[f"{stem}.lora_A.weight"]
            changed += 1
        else:
            right = weight
        torch.testing.assert_close(merged[name], right, rtol=0, atol=1e-6)
    assert changed == 14, "seven matrices in each of two layers"
    assert found["comparison"]["same_answers"] == found["comparison"]["asked"] >= 4
    assert found["comparison"]["as_stored"] == found["comparison"]["asked"]


def test_plain_transformers_opens_the_merged_model_and_knows_where_to_stop(run: Path, tmp_path: Path):
    made(run, "merged", tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert GenerationConfig.from_pretrained(tmp_path / "m").eos_token_id == tokenizer.convert_tokens_to_ids("<|end|>")
    rows = [json.loads(line) for line in (run / "predictions.jsonl").open(encoding="utf-8")]
    row = next(row for row in rows if row["adapter_stopped"])
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": row["prompt"]}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    written = model.generate(ids, do_sample=False, max_new_tokens=40)[0, ids.shape[1] :]
    assert written[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(written, skip_special_tokens=True).strip() == row["adapter"]


@pytest.mark.long
def test_a_bf16_base_stays_bf16_and_the_rounding_is_within_its_limit(run: Path, tmp_path: Path):
    base = make_base(tmp_path / "base", **SHAPE)
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    half = make_run(tmp_path / "half", base)
    found, _ = made(half, "merged", tmp_path / "m")
    assert {weight.dtype for weight in load_file(tmp_path / "m/model.safetensors").values()} == {torch.bfloat16}
    assert found["weights"] == "bf16" and 0 < found["comparison"]["kl_mean"] < 5e-3
    found, _ = made(half, "merged", tmp_path / "m32", quantize="f32")
    assert {weight.dtype for weight in load_file(tmp_path / "m32/model.safetensors").values()} == {torch.float32}


@pytest.mark.long
@pytest.mark.parametrize("variant", ["rslora", "dora", "pissa"])
def test_variants_merge(tmp_path: Path, variant: str):
    run = make_run(tmp_path / "v", adapter={"variant": variant, "alpha": 4})
    found, _ = made(run, "merged", tmp_path / "m")
    assert found["comparison"]["same_answers"] == found["comparison"]["asked"]


@pytest.mark.long
def test_trained_embeddings_are_untied(tmp_path: Path):
    """The base shares its embedding with the output; an adapter that trains the output alone parts them."""
    run = make_run(tmp_path / "e", adapter={"modules_to_save": ["lm_head"]})
    found, _ = made(run, "merged", tmp_path / "m")
    merged = load_file(tmp_path / "m/model.safetensors")
    assert not torch.equal(merged["lm_head.weight"], merged["model.embed_tokens.weight"])
    assert not json.loads((tmp_path / "m/config.json").read_text())["tie_word_embeddings"]
    assert found["comparison"]["kl_mean"] < 1e-6
    found, _ = made(run, "gguf", tmp_path / "g")
    assert found["comparison"]["kl_mean"] < 1e-6


def test_one_matrix_of_several_layers_is_not_merged_into(tmp_path: Path):
    """As Zamba2's shared blocks: each place has an adapter of its own, and the matrix got the sum of both."""
    recipe = make_recipe(make_base(tmp_path))
    model = load_base(tmp_path, recipe, torch.device("cpu"))
    check_apart(attach_adapter(model, recipe.adapter, 0))
    model = load_base(tmp_path, recipe, torch.device("cpu"))
    first, second = (layer.self_attn for layer in model.model.layers)
    second.q_proj.weight = first.q_proj.weight
    with pytest.raises(
        BaseError, match=r"1 matrices of the base stand in several layers.*layers\.1\.self_attn\.q_proj"
    ):
        check_apart(attach_adapter(model, recipe.adapter, 0))


def measured(run: Path, model: Any) -> list[str]:
    """Store as the run's answers what a model says to its questions, each asked alone."""
    renderer = open_origin(run).renderer
    file = run / "predictions.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        prompt = renderer.prompt([{"role": "user", "content": row["prompt"]}])
        row |= {"adapter": generate(model, renderer, [prompt], max_new_tokens=16)[0].text, "adapter_stopped": True}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [row["adapter"] for row in rows]


@pytest.mark.long
def test_qlora_is_merged_into_the_base_in_its_own_precision_and_that_is_said(tmp_path: Path):
    copy = make_run(tmp_path / "corrida", steps=2)  # has hardly learned: its answers turn with every rounding
    recipe = copy / "recipe.yaml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("kind: lora", "kind: qlora"), encoding="utf-8")
    origin = open_origin(copy)
    whole = measured(copy, open_unmerged(origin, torch.device("cpu"), "fp32"))
    four = load_base(origin.base, origin.recipe, torch.device("cpu"), four_bit=True)
    assert whole != measured(copy, open_adapter(four, copy / "adapter")), "else nothing is shown"
    found, said = made(copy, "merged", tmp_path / "m")
    assert "merged into the same base in fp32" in said[0] and "4 bits" in said[0]
    comparison = found["comparison"]
    assert comparison["model_as_stored"] < comparison["asked"], "what was stored was measured on 4 bits"
    assert any("its base in 4 bits it gives all of them" in note for note in comparison["notes"])
    assert "over the base in 4 bits" in (tmp_path / "m/README.md").read_text(encoding="utf-8")
    rows = (copy / "predictions.jsonl").read_text(encoding="utf-8").replace('"adapter": "', '"adapter": "outra ', 1)
    (copy / "predictions.jsonl").write_text(rows, encoding="utf-8")
    with pytest.raises(ResultError, match=r"4 bits: to .* in the run it was 'outra"):
        made(copy, "merged", tmp_path / "m2")
    assert not (tmp_path / "m2").exists()


@pytest.mark.long
def test_an_adapter_that_is_nearly_the_one_that_was_measured_is_not_explained_away(run: Path, tmp_path: Path):
    """2 of 20 other answers are another model, not another device: an identity check below its limit fails."""
    copy = shutil.copytree(run, tmp_path / "corrida")
    stored = measured(copy, open_unmerged(open_origin(copy), torch.device("cpu"), "fp32"))
    found, _ = made(copy, "merged", tmp_path / "right")
    assert found["comparison"]["model_as_stored"] == found["comparison"]["asked"] == 20
    file = copy / "adapter/adapter_model.safetensors"
    right = load_file(file)

    def swapped(scale: float) -> int:
        """How many answers another adapter parts from the run's."""
        torch.manual_seed(1)
        save_file({n: w + scale * w.std() * torch.randn_like(w) for n, w in right.items()}, file)
        again = shutil.copytree(copy, tmp_path / f"at-{scale}")
        answers = measured(again, open_unmerged(open_origin(again), torch.device("cpu"), "fp32"))
        return sum(one != other for one, other in zip(answers, stored, strict=True))

    low, high = 0.0, 1.0
    while (other := swapped((low + high) / 2)) not in (1, 2, 3):
        low, high = ((low + high) / 2, high) if other < 1 else (low, (low + high) / 2)
    with pytest.raises(ResultError, match=f"{other} of 20 of the run's stored answers are not this model's") as raised:
        made(copy, "merged", tmp_path / "m")
    assert raised.value.exit_code == 5 and "afina eval" in str(raised.value)
    assert not (tmp_path / "m").exists()


@pytest.mark.long
def test_answers_that_were_measured_in_fewer_bits_are_proven_to_be_the_runs(tmp_path: Path):
    """The run's precision, not a word about it: opened again as it was measured, it gives every stored answer."""
    copy = make_run(tmp_path / "corrida", steps=2)
    write_json(
        copy / "stages.json", {"train": {"inputs": {"computed": {"precision": "bf16"}}, "outputs": "", "result": {}}}
    )
    whole, half = (
        measured(copy, open_unmerged(open_origin(copy), torch.device("cpu"), each)) for each in ("fp32", "bf16")
    )
    assert whole != half, "else nothing is shown"
    found, _ = made(copy, "merged", tmp_path / "m")
    assert found["comparison"]["model_as_stored"] < 20 and found["comparison"]["passed"]
    assert any("opened again in bf16 on cpu it gives all of them" in note for note in found["comparison"]["notes"])


def test_a_base_in_4_bits_is_refused(run: Path, tmp_path: Path):
    copy = shutil.copytree(run.parent, tmp_path / "all")
    config = json.loads((copy / "base/config.json").read_text())
    (copy / "base/config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    recipe = (copy / "corrida/recipe.yaml").read_text(encoding="utf-8").replace(str(run.parent), str(copy))
    (copy / "corrida/recipe.yaml").write_text(recipe, encoding="utf-8")
    with pytest.raises(BaseError, match="quantized by GPTQ"):
        made(copy / "corrida", "merged", tmp_path / "m")


def test_weights_that_lie_beside_the_models_own_are_neither_opened_nor_counted(run: Path, tmp_path: Path):
    """As their maker stores them once more (consolidated.safetensors), or half of an older copy."""
    origin = open_origin(run)
    base = shutil.copytree(origin.base, tmp_path / "base")
    (base / "consolidated.safetensors").write_bytes(b"half of another copy")
    beside = replace(origin, base=base)
    assert (beside.precision, beside.weight_bytes) == (origin.precision, origin.weight_bytes)


def test_the_adapter_is_copied_and_a_card_put_beside_it(run: Path, tmp_path: Path):
    found, _ = made(run, "adapter", tmp_path / "a")
    for file in (run / "adapter").iterdir():
        if file.name != "README.md":
            assert (tmp_path / "a" / file.name).read_bytes() == file.read_bytes()
    assert found["comparison"]["program"].startswith("peft") and found["comparison"]["kl_mean"] < 1e-9


def test_a_hub_folder_names_no_folder_of_this_machine(run: Path, tmp_path: Path):
    found, _ = made(run, "hub-folder", tmp_path / "h")
    assert json.loads((tmp_path / "h/adapter_config.json").read_text())["base_model_name_or_path"] == "base"
    for file in (tmp_path / "h").iterdir():
        if file.suffix in (".json", ".md", ".jinja"):
            assert str(run.parent) not in file.read_text(encoding="utf-8"), file.name
    assert any("nobody else finds it" in note for note in found["notes"])
    found, _ = made(run, "hub-folder", tmp_path / "hm", merged=True)
    assert "model.safetensors" in found["files"] and "adapter_config.json" not in found["files"]


def test_mlx_is_a_folder_that_mlx_lm_opens(run: Path, tmp_path: Path):
    found, _ = made(run, "mlx", tmp_path / "x")
    assert found["comparison"]["same_answers"] == found["comparison"]["asked"]
    mlx_lm = pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")
    assert found["comparison"]["program"].startswith("mlx-lm")
    assert mlx_lm.load(str(tmp_path / "x"))


def test_a_wrong_stop_token_is_caught(run: Path, tmp_path: Path):
    """The weights are right, and yet the model would never end."""
    made(run, "merged", tmp_path / "m")
    origin = open_origin(run)
    expected = expected_of(origin, open_unmerged(origin, torch.device("cpu")))
    right = compare(Transformers(tmp_path / "m"), expected, origin.tokenizer, origin.renderer.stop_ids(), "f32")
    assert not right.problems
    file = tmp_path / "m/generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": 7}))
    wrong = compare(Transformers(tmp_path / "m"), expected, origin.tokenizer, origin.renderer.stop_ids(), "f32")
    assert wrong.kl_mean < 1e-9, "its logits are the run's"
    assert any("writes the end token '<|end|>'" in each and "goes on" in each for each in wrong.problems)


def test_another_template_is_caught(run: Path, tmp_path: Path):
    made(run, "merged", tmp_path / "m")
    template = tmp_path / "m/chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8").replace("|> '", "|>'"), encoding="utf-8")
    origin = open_origin(run)
    expected = expected_of(origin, open_unmerged(origin, torch.device("cpu")))
    found = compare(Transformers(tmp_path / "m"), expected, origin.tokenizer, origin.renderer.stop_ids(), "f32")
    assert found.same_prompts == 0
    assert "asks in other tokens" in found.problems[0] and len(found.problems) == 1


@pytest.mark.parametrize(
    "tamper", ["swap", *(pytest.param(each, marks=pytest.mark.long) for each in ("zero", "noise"))]
)
def test_other_weights_are_caught_and_nothing_is_left(run: Path, tmp_path: Path, monkeypatch: Any, tamper: str):
    """An export that leaves the adapter out, is damaged, or has two matrices changed for each other."""
    save = module.whole_folder  # the real one

    def wrong(model: Any, origin: Any, folder: Path) -> None:
        from afina.export.merge_torch import save_tokenizer

        model.save_pretrained(folder)
        save_tokenizer(origin, folder)
        weights = load_file(folder / "model.safetensors")
        one, two = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.gate_proj.weight"
        if tamper == "zero":
            weights |= load_file(origin.base / "model.safetensors")
        elif tamper == "noise":
            weights[one] += 0.5 * torch.randn_like(weights[one])
        else:
            weights[one], weights[two] = weights[two], weights[one]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr("afina.export.merge_torch.save_merged", wrong)
    with pytest.raises(ResultError, match=r"not the trained model.*KL") as raised:
        made(run, "merged", tmp_path / "m")
    assert raised.value.exit_code == 5 and save is module.whole_folder
    assert not list(tmp_path.iterdir()), "neither the folder nor a part of it"


def test_the_figures_of_a_comparison_by_hand(run: Path):
    """KL of (0.5, 0.5) from (0.9, 0.1): 0.5 ln(0.5/0.9) + 0.5 ln(0.5/0.1) = 0.5108 nats."""
    from afina.export.compare import ExportComparison, _logits
    from afina.export.expected_torch import Expected, Read

    class Nine:
        name = "nine"

        def logits(self, ids: Any) -> Any:
            return np.log(np.array([[0.9, 0.1]] * len(ids)))

    half = np.log(np.array([[0.5, 0.5]] * 2))
    row = Read([0, 1], [False, True], np.array([np.log(2)]), half)
    found = ExportComparison("nine", "f32", 1.0, 1.0)
    _logits(Nine(), Expected(1, [], [], [row], 1), found, lambda done: None)  # type: ignore[arg-type]
    assert found.kl_mean == pytest.approx(0.5108, abs=1e-4)
    assert found.perplexity_run == pytest.approx(2) and found.perplexity == pytest.approx(10)
    assert found.logit_max == pytest.approx(np.log(5))


def test_the_card_says_what_the_run_says(run: Path, tmp_path: Path):
    copy = shutil.copytree(run, tmp_path / "corrida")
    side = {"verbatim": 0.5, "low": 0.2, "high": 0.8}
    unknown = {"made_up": 0.9, "low": 0.7, "high": 0.97, "declined": 0.1}
    probes = [
        {"name": "towns", "role": "recall", "n": 20, "before": side | {"verbatim": 0.0}, "after": side},
        {"name": "others", "role": "unknown", "n": 9, "before": unknown, "after": unknown},
    ]
    loss = {"loss": 1.0, "tokens": 9, "perplexity": 2.718}
    verdict = {"learned": "yes", "broke": "nothing", "passed": True, "notes": ["tone was not measured"]}
    scores = {"verdict": verdict, "probes": probes, "loss": {"before": loss, "after": loss}}
    (copy / "scores.json").write_text(json.dumps(scores))
    found, _ = made(copy, "merged", tmp_path / "m", licence="apache-2.0")
    card = (tmp_path / "m/README.md").read_text(encoding="utf-8")
    assert card.startswith('---\nlicense: "apache-2.0"\n')
    assert "| towns | 20 | 0 % (20 % to 80 %) | 50 % (20 % to 80 %) |" in card
    assert "makes up 90 % of its answers" in card and "tone was not measured" in card
    assert f"KL from the run's model, nats | {found['comparison']['kl_mean']:.2g} mean" in card
    digest = hashlib.sha256((tmp_path / "m/model.safetensors").read_bytes()).hexdigest()
    assert f"| `model.safetensors` here | `{digest}` |" in card
    assert str(tmp_path) not in card and str(run.parent) not in card


def test_a_licence_is_the_bases_own_or_unknown(tmp_path: Path):
    assert licence_of(tmp_path, None)[0] == "unknown"
    (tmp_path / "README.md").write_text("---\nlicense: llama3.1\ntags: [x]\n---\n# M\nlicense: mit\n")
    assert licence_of(tmp_path, None) == ("llama3.1", "the base's own model card")


def test_system_text_and_arguments_travel_in_the_template(tmp_path: Path):
    chat = Chat(system='Sê "breve".', template_args={"loud": True})
    base = make_base(tmp_path / "base")
    tokenizer = load_tokenizer(str(base), chat)
    tokenizer.chat_template = "{% if loud %}!{% endif %}" + tokenizer.chat_template
    right = Renderer(tokenizer, chat)
    plain = load_tokenizer(str(base), Chat())
    plain.chat_template = baked_template(tokenizer.chat_template, chat)
    question = [{"role": "user", "content": "Olá"}]
    assert Renderer(plain, Chat()).prompt_text(question) == right.prompt_text(question)  # type: ignore[arg-type]
    assert right.prompt_text(question).startswith('!<|system|> Sê "breve".<|end|>')  # type: ignore[arg-type]
    own = [{"role": "system", "content": "Outra"}, *question]
    text = plain.apply_chat_template(own, tokenize=False, loud=False)
    assert text.startswith("<|system|> Outra<|end|>"), "a caller's own go before them"


def test_what_cannot_be_is_said_before_any_work(run: Path, tmp_path: Path, monkeypatch: Any):
    with pytest.raises(RecipeError, match="use merged"):
        made(run, "mergd", tmp_path / "m")
    with pytest.raises(RecipeError, match="is not a run"):
        made(tmp_path, "merged", tmp_path / "m")
    with pytest.raises(RecipeError, match="belongs to --to hub-folder"):
        made(run, "gguf", tmp_path / "m", merged=True)
    with pytest.raises(RecipeError, match="written in f32, bf16, f16, not q8_0"):
        made(run, "merged", tmp_path / "m", quantize="q8_0")
    with pytest.raises(RecipeError, match="kept as it was trained"):
        made(run, "adapter", tmp_path / "m", quantize="f16")
    with pytest.raises(RecipeError, match="has no convert"):
        made(run, "gguf", tmp_path / "m", llama_cpp=tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("all of it")
    with pytest.raises(RecipeError, match="is no export"):
        made(run, "merged", tmp_path / "mine")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**9, 10**9, 1000))
    with pytest.raises(DiskFull, match="1000 B are free"):
        made(run, "merged", tmp_path / "m")
    monkeypatch.undo()
    monkeypatch.setattr("afina.export.origin.Origin.weight_bytes", 16 * 10**12)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**15, 0, 10**15))
    with pytest.raises(DoesNotFit, match="of memory are needed"):
        made(run, "merged", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_run_that_was_copied_without_its_dataset_is_proven_by_its_answers(run: Path, tmp_path: Path):
    """It was asked for minutes, and then no rows were found to read: "look at its permissions"."""
    copied = shutil.copytree(run, tmp_path / "corrida")
    shutil.rmtree(copied / "dataset")
    found, _ = made(copied, "adapter", tmp_path / "m")
    assert found["comparison"]["passed"] and found["comparison"]["rows"] == 0
    assert "no held-out row was read by either" in (tmp_path / "m/README.md").read_text(encoding="utf-8")


def test_a_run_that_was_not_measured_can_be_written_but_not_proven(run: Path, tmp_path: Path):
    copy = shutil.copytree(run, tmp_path / "corrida")
    (copy / "predictions.jsonl").unlink()
    with pytest.raises(RecipeError, match="afina eval"):
        made(copy, "merged", tmp_path / "m")
    found, said = made(copy, "merged", tmp_path / "m", check=False)
    assert found["comparison"] is None and "--no-check" in said[-2] and "without proof/" in said[-1]
    assert "It was not compared" in (tmp_path / "m/README.md").read_text(encoding="utf-8")


def test_a_checkout_that_fails_is_quoted(tmp_path: Path):
    (tmp_path / "convert_hf_to_gguf.py").write_text("import sys; sys.exit('unknown model LlamaForNobody')")
    with pytest.raises(Exception, match="unknown model LlamaForNobody"):
        convert_by_llama_cpp(tmp_path, tmp_path, tmp_path / "x.gguf", "f16", lambda _: None)


def test_the_command(run: Path, tmp_path: Path):
    words = ["export", run, "--to", "merged"]
    done = call_afina(*words, "--json")
    found = json.loads(done.stdout)
    assert "greedy answers" in done.stderr
    assert found["folder"] == str(run / "export/merged") and found["comparison"]["passed"]
    assert json.loads((run / "export/merged/comparison.json").read_text())["passed"]
    said = call_afina(*words, "--out", tmp_path / "m", "--tolerance", -1, check=5).stderr
    assert "not the trained model" in said
    assert not (tmp_path / "m").exists()


def test_a_run_that_learned_plain_texts(run: Path, tmp_path: Path):
    """No chat template, no questions: beginnings of its texts are continued instead."""
    copy = shutil.copytree(run.parent, tmp_path / "all")
    for file in ("base/chat_template.jinja", "corrida/adapter/chat_template.jinja", "corrida/adapter/afina.json"):
        (copy / file).unlink()
    recipe = (copy / "corrida/recipe.yaml").read_text(encoding="utf-8").replace(str(run.parent), str(copy))
    (copy / "corrida/recipe.yaml").write_text(recipe, encoding="utf-8")
    texts = [Example(text=f"Onde nasceu {name} Faro? Tavira é de Lagos.", path="a.md") for name in ("Ana", "Rui", "Zé")]
    for split in ("train", "validation"):
        (copy / f"corrida/dataset/{split}.jsonl").write_bytes(b"".join(each.as_line() for each in texts))
    for to in ("merged", "gguf"):
        found, _ = made(copy / "corrida", to, tmp_path / to)
        comparison = found["comparison"]
        assert (comparison["asked"], comparison["same_answers"], comparison["rows"]) == (3, 3, 3)
        assert comparison["as_stored"] is None and comparison["kl_mean"] < 1e-6
    with pytest.raises(BaseError, match="no chat template"):
        made(copy / "corrida", "ollama", tmp_path / "o")


def test_an_answer_that_holds_marks_is_compared_as_it_was_stored(tmp_path):
    """Evaluation shows marks that a model writes; without them a right run was not "the model that was measured"."""
    tokenizer = load_tokenizer(str(make_base(tmp_path / "base")), Chat())
    mark = tokenizer.all_special_ids[-1]
    tokens = [*tokenizer("Faro", add_special_tokens=False)["input_ids"], mark]
    stored = TextStream(tokenizer, (), keep_special=True)
    for token in tokens:
        stored.add(token)
    stored.finish()
    assert text_of(tokenizer, tokens) == stored.text.strip()
    assert tokenizer.convert_ids_to_tokens(mark) in stored.text
