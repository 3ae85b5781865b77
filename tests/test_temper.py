"""An adapter at other strengths: what the dial is, what is written, what is chosen, and on which questions."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from called import call_afina
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import make_base
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

from afina.errors import BaseError, RecipeError
from afina.evaluate.halves import half_of
from afina.evaluate.scores import Broken, Change, ProbeResult, ProbeSide, Scores, Verdict
from afina.model.load_torch import open_adapter
from afina.model.loss_torch import make_batch, target_loss
from afina.recipe import Chat, Limits, check_recipe, read_saved_recipe
from afina.run import Run, read_json
from afina.temper.adapters import other_adapter
from afina.temper.answer import Tempered
from afina.temper.asking import old_answers
from afina.temper.choose import OldAnswer, Point, choose
from afina.temper.dial_torch import StrengthDial
from afina.temper.mix_torch import MixDial, write_checkpoint_as_adapter
from afina.temper.mixing import METHODS, Mixing
from afina.temper.setting import Setting, read_settings
from afina.temper.temper import Tempering, temper
from afina.text.example import Example
from afina.tokenizer.chat import Renderer
from afina.tokenizer.encode import Row
from afina.tokenizer.load import load_tokenizer
from afina.walk.context import Context
from afina.walk.walk import do_stages, walk_through

IDS = torch.tensor([[5, 9, 11, 40, 7, 120, 3]])
MATRICES = ["q_proj", "v_proj", "down_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "patterns": {"alpha_pattern": {"down_proj": 5.0}, "rank_pattern": {"q_proj": 2}},
    "dora": {"use_dora": True},
    "with a whole layer": {"modules_to_save": ["lm_head"]},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("temper") / "base", num_hidden_layers=6, tie_word_embeddings=False)


def opened(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def make_adapter(base: Path, folder: Path, seed: int = 1, noise: float = 0.2, **more: Any) -> Path:
    """An adapter of random numbers, as PEFT saves it."""
    torch.manual_seed(seed)
    config = {"r": 4, "lora_alpha": 8, "target_modules": MATRICES, "lora_dropout": 0.1, "task_type": "CAUSAL_LM"}
    model = get_peft_model(opened(base), LoraConfig(**(config | more)))
    with torch.no_grad():
        for weight in (each for each in model.parameters() if each.requires_grad):
            weight.add_(noise * torch.randn_like(weight))
    model.save_pretrained(folder)
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS).logits
    return found


def merged(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """The weights that PEFT itself makes of an adapter."""
    model = PeftModel.from_pretrained(opened(base), adapter).merge_and_unload()
    return {name: value.detach() for name, value in model.state_dict().items()}


def between(base: Path, adapter: Path, strength: float) -> Any:
    """The reference: every weight so far from the base's to the trained one's."""
    model, trained = opened(base), merged(base, adapter)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(value + strength * (trained[name] - value))
    return model


# ---- settings


def test_settings_are_read_strongest_first_and_once():
    assert [each.name for each in read_settings(None)][:3] == ["1", "0.9", "0.8"]
    assert [each.name for each in read_settings("0.5, 1,0.5")] == ["1", "0.5"]
    assert [each.name for each in read_settings("0,1", shares=True)] == ["1", "0"]
    assert read_settings(None, shares=True)[-1] == Setting((0.0,))


@pytest.mark.parametrize(
    ("given", "shares"), [("0", False), ("x", False), ("2.5", False), ("1.1", True), ("nan", False)]
)
def test_what_is_no_setting_is_refused(given: str, shares: bool):
    with pytest.raises(RecipeError, match="is no strength"):
        read_settings(given, shares=shares)


# ---- the dial


@pytest.mark.parametrize("kind", KINDS)
def test_every_strength_is_so_far_from_base_to_trained(base: Path, tmp_path: Path, kind: str):
    """Turned in memory, and written and opened by plain PEFT."""
    adapter = make_adapter(base, tmp_path / "adapter", **KINDS[kind])
    model = open_adapter(opened(base), adapter)
    trained = logits(model)
    dial = StrengthDial(model, adapter)
    for strength in (0.5, 0.25, 1.5):
        dial.turn(Setting((strength,)))
        turned = logits(model)
        torch.testing.assert_close(turned, logits(between(base, adapter, strength)), atol=2e-5, rtol=1e-4)
        dial.write(Setting((strength,)), tmp_path / f"at-{strength}")
        assert torch.equal(turned, logits(PeftModel.from_pretrained(opened(base), tmp_path / f"at-{strength}")))
    dial.rest()
    assert torch.equal(logits(model), trained), "full strength is what was trained, bit for bit"
    dial.turn(Setting((1e-6,)))
    torch.testing.assert_close(logits(model), logits(opened(base)), atol=1e-4, rtol=1e-3)


def test_the_experts_of_a_mixture_are_turned_with_the_rest(tmp_path: Path):
    """One parameter for all of them, two on one module: rank-stabilized, at one strength and by groups."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MixtralConfig(**shape, num_key_value_heads=2, vocab_size=200, num_local_experts=4)
    MixtralForCausalLM(config).save_pretrained(tmp_path / "base")
    experts = {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}
    adapter = make_adapter(
        tmp_path / "base", tmp_path / "adapter", noise=0.05, use_rslora=True, lora_dropout=0.0, **experts
    )
    model = open_adapter(opened(tmp_path / "base"), adapter)
    dial = StrengthDial(model, adapter)
    dial.turn(Setting((0.5,)))
    turned = logits(model)
    torch.testing.assert_close(turned, logits(between(tmp_path / "base", adapter, 0.5)), atol=1e-4, rtol=1e-3)
    dial.write(Setting((0.5,)), tmp_path / "half")
    assert torch.equal(turned, logits(PeftModel.from_pretrained(opened(tmp_path / "base"), tmp_path / "half")))
    parted = StrengthDial(model, adapter, groups=2)
    parted.turn(Setting((1.0, 0.5)))
    turned = logits(model)
    parted.write(Setting((1.0, 0.5)), tmp_path / "parted")
    plain = logits(PeftModel.from_pretrained(opened(tmp_path / "base"), tmp_path / "parted"))
    torch.testing.assert_close(turned, plain, atol=1e-5, rtol=1e-4)


def test_a_uniform_strength_is_written_as_alpha_alone(base: Path, tmp_path: Path):
    """So that every tool loads it; the weights' file is untouched."""
    adapter = make_adapter(base, tmp_path / "adapter", **KINDS["patterns"])
    StrengthDial(open_adapter(opened(base), adapter), adapter).write(Setting((0.5,)), tmp_path / "half")
    before, after = (json.loads((each / "adapter_config.json").read_text()) for each in (adapter, tmp_path / "half"))
    assert (after["lora_alpha"], after["alpha_pattern"]) == (4.0, {"down_proj": 2.5})
    assert {key for key in before if before[key] != after[key]} == {"lora_alpha", "alpha_pattern"}
    name = "adapter_model.safetensors"
    assert (adapter / name).read_bytes() == (tmp_path / "half" / name).read_bytes()


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_groups_of_layers_have_strengths_of_their_own(base: Path, tmp_path: Path, kind: str):
    adapter = make_adapter(base, tmp_path / "adapter", **KINDS[kind])
    model = open_adapter(opened(base), adapter)
    dial = StrengthDial(model, adapter, groups=3)
    assert dial.groups == ("layers 0-1", "layers 2-3", "layers 4-5")
    setting = Setting((1.0, 0.5, 0.25))
    dial.turn(setting)
    turned = logits(model)
    reference, trained = opened(base), merged(base, adapter)
    with torch.no_grad():
        for name, value in reference.state_dict().items():
            if ".layers." in name:
                strength = setting.strengths[int(name.split(".")[2]) // 2]
                value.copy_(value + strength * (trained[name] - value))
    torch.testing.assert_close(turned, logits(reference), atol=2e-5, rtol=1e-4)
    dial.write(setting, tmp_path / "parted")
    plain = logits(PeftModel.from_pretrained(opened(base), tmp_path / "parted"))
    torch.testing.assert_close(turned, plain, atol=1e-6, rtol=1e-5)


def test_groups_need_layers_and_nothing_outside_of_them(base: Path, tmp_path: Path):
    few = make_adapter(base, tmp_path / "few", layers_to_transform=[0, 1])
    with pytest.raises(RecipeError, match="reaches 2 layers, which make no 3 groups"):
        StrengthDial(open_adapter(opened(base), few), few, groups=3)
    whole = make_adapter(base, tmp_path / "whole", modules_to_save=["lm_head"])
    with pytest.raises(RecipeError, match="belongs to no group"):
        StrengthDial(open_adapter(opened(base), whole), whole, groups=3)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"bias": "all"}, "trains biases"),
        ({"trainable_token_indices": [1]}, "trains rows of the embedding"),
        ({"init_lora_weights": "olora"}, r"starts from a changed base \(olora\)"),
        ({"peft_type": "LOHA"}, "of PEFT's kind LOHA"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_strength_scales_is_refused_by_name(base: Path, tmp_path: Path, change: dict[str, Any], why: str):
    adapter = make_adapter(base, tmp_path / "adapter")
    model = open_adapter(opened(base), adapter)
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(BaseError, match=why):
        StrengthDial(model, adapter)


def test_a_tensor_that_belongs_to_no_adapted_layer_is_refused(base: Path, tmp_path: Path):
    """An embedding saved along would stay as trained at every strength."""
    adapter = make_adapter(base, tmp_path / "adapter")
    model, file = open_adapter(opened(base), adapter), adapter / "adapter_model.safetensors"
    more = {"base_model.model.model.embed_tokens.weight": torch.zeros(2, 2)}
    save_file(load_file(file) | more, file)
    with pytest.raises(BaseError, match=r"1 tensors that no strength scales \(first base_model.model.model.embed"):
        StrengthDial(model, adapter)


def test_a_row_of_dora_without_its_base_is_refused(base: Path, tmp_path: Path):
    """A magnitude of the other sign: half of the way from W to -W nothing is left."""
    adapter = make_adapter(base, tmp_path / "adapter", use_dora=True, noise=0.0)
    file = adapter / "adapter_model.safetensors"
    save_file({name: -value if "magnitude" in name else value for name, value in load_file(file).items()}, file)
    dial = StrengthDial(open_adapter(opened(base), adapter), adapter)
    dial.turn(Setting((0.4,)))
    with pytest.raises(RecipeError, match="nothing of the base is left in a row"):
        dial.turn(Setting((0.5,)))


# ---- mixing


@pytest.mark.parametrize("kind", ["lora", "rslora", "patterns"])
def test_a_mix_by_cat_is_the_weighted_sum(base: Path, tmp_path: Path, kind: str):
    one = make_adapter(base, tmp_path / "one", **KINDS[kind])
    two = make_adapter(base, tmp_path / "two", seed=2, r=2)
    model = open_adapter(opened(base), one)
    alone = logits(model)
    dial = MixDial(model, one, two, Mixing())
    first, second, reference = merged(base, one), merged(base, two), opened(base)
    with torch.no_grad():
        for name, value in reference.state_dict().items():
            value.copy_(0.25 * first[name] + 0.75 * second[name])
    for share in (0.5, 0.25):  # a setting leaves nothing to the next one
        dial.turn(Setting((share,)))
    torch.testing.assert_close(logits(model), logits(reference), atol=2e-5, rtol=1e-4)
    dial.write(Setting((0.25,)), tmp_path / "mixed")
    assert torch.equal(logits(model), logits(PeftModel.from_pretrained(opened(base), tmp_path / "mixed")))
    dial.turn(Setting((1.0,)))
    torch.testing.assert_close(logits(model), alone, atol=2e-5, rtol=1e-4)
    dial.rest()
    assert torch.equal(logits(model), alone)


SOME = ("ties", "dare_linear", "svd")


@pytest.mark.parametrize(
    "method",
    [each if each in SOME else pytest.param(each, marks=pytest.mark.long) for each in METHODS if each != "cat"],
)
def test_every_method_of_peft_is_written_as_it_answers(base: Path, tmp_path: Path, method: str):
    """Twice the same, what is drawn too."""
    one, two = make_adapter(base, tmp_path / "one", use_rslora=True), make_adapter(base, tmp_path / "two", seed=2)
    model = open_adapter(opened(base), one)
    dial = MixDial(model, one, two, Mixing(method, 0.6, seed=3))
    dial.turn(Setting((0.5,)))
    turned = logits(model)
    dial.write(Setting((0.5,)), tmp_path / "mixed")
    assert torch.equal(turned, logits(PeftModel.from_pretrained(opened(base), tmp_path / "mixed")))
    dial.turn(Setting((0.0,)))
    assert not torch.allclose(turned, logits(model), atol=1e-4)


def test_what_cannot_be_mixed_is_refused_by_name(base: Path, tmp_path: Path):
    one, dora = make_adapter(base, tmp_path / "one"), make_adapter(base, tmp_path / "dora", use_dora=True)
    with pytest.raises(BaseError, match="is a DoRA adapter, which PEFT does not mix"):
        MixDial(open_adapter(opened(base), one), one, dora, Mixing())
    small = make_adapter(base, tmp_path / "small", r=2)
    with pytest.raises(RecipeError, match="ties takes adapters of one rank, and these have 4 and 2"):
        MixDial(open_adapter(opened(base), one), one, small, Mixing("ties"))
    with pytest.raises(RecipeError, match="holds no adapter"):
        other_adapter(base, tmp_path)


def test_what_is_damaged_is_mixed_in_under_no_circumstances(base: Path, tmp_path: Path):
    one, other = make_adapter(base, tmp_path / "one"), make_adapter(base, tmp_path / "other")
    config = read_json(other / "adapter_config.json")
    for change, kind, said in (
        ({"modules_to_save": [3]}, BaseError, "damaged: `modules_to_save` is 3"),
        ({"alpha_pattern": {"q_proj": "x"}}, BaseError, "damaged: `alpha_pattern` is 'x'"),
        ({"r": None}, RecipeError, "ties takes adapters of one rank, and these have 4 and 8"),  # PEFT's own is 8
    ):
        (other / "adapter_config.json").write_text(json.dumps(config | change), encoding="utf-8")
        with pytest.raises(kind, match=said):
            MixDial(open_adapter(opened(base), one), one, other, Mixing("ties"))
    (other / "adapter_model.safetensors").write_bytes(b"cut short")
    with pytest.raises(BaseError, match=r"adapter_model\.safetensors: is damaged or not whole"):
        write_checkpoint_as_adapter(tmp_path, other, tmp_path / "made")


# ---- the choice


def point(strength: float, right: float, lost: float, *, learned: str = "yes", passed: bool = False) -> Point:
    ends = (max(0.0, right - 0.1), min(1.0, right + 0.1))
    known = ProbeResult(
        "new", "generalization", 40, ProbeSide({"verbatim": 0.0}), ProbeSide({"verbatim": right}, ends), clusters=40
    )
    broken = Broken(50, round(50 * lost), lost, max(0.0, lost - 0.1), lost + 0.1)
    side = ProbeSide({"contains": 1.0})
    old = ProbeResult("old", "retention", 50, side, side, Change(-lost, -1.0, 0.0), broken, clusters=50)
    verdict = Verdict(learned, "nothing", passed, "text")
    return Point(Setting((strength,)), Scores(verdict=verdict, probes=(known, old)))


def test_of_those_that_pass_the_one_that_learned_most_is_taken():
    points = [point(1.0, 1.0, 0.8), point(0.6, 0.95, 0.04, passed=True), point(0.5, 0.9, 0.02, passed=True)]
    chosen, why = choose(points, Limits(learned_min=0.9))
    assert chosen.setting.name == "0.6" and why.startswith("2 of 3 settings pass")


def with_old(strength: float, wrong: dict[str, int], facts: int = 10) -> Point:
    """One that learned all, of whose ten old facts, in three questions each, so many answers are wrong."""
    old = [OldAnswer("old", f"fact {n}", k < wrong.get(f"fact {n}", 0)) for n in range(facts) for k in range(3)]
    lost = sum(each.lost for each in old) / len(old)
    return replace(point(strength, 1.0, lost, passed=True), old=tuple(old))


def test_of_those_that_learned_as_much_the_strongest_stays_unless_another_loses_less_beyond_chance():
    """Nine answers more are kept at 0.8, about three facts: 3 of 3 may be chance (p = 0.25). Six facts are not."""
    three, six = ({f"fact {n}": 3 for n in range(count)} for count in (3, 6))
    chosen, why = choose([with_old(1.0, three), with_old(0.8, {})], Limits())
    assert chosen.setting.name == "1"
    assert why.endswith("equal learned at 0.8, and that less is lost there may be chance: the stronger stays")
    chosen, why = choose([with_old(0.6, {}), with_old(1.0, six), with_old(0.8, {})], Limits())
    assert chosen.setting.name == "0.8"
    assert "equal learned at 1, and less lost than there beyond chance" in why
    one_more = replace(with_old(0.6, {}), scores=point(0.6, 0.9, 0.0, passed=True).scores)
    assert choose([with_old(1.0, {"fact 0": 1}), one_more], Limits())[0].setting.name == "1", "learned more"
    without = replace(with_old(0.8, {}), old=())
    assert choose([with_old(1.0, six), without], Limits())[0].setting.name == "1", "nothing to compare by"


def test_phrasings_of_an_old_fact_are_one_without_a_name_too(tmp_path: Path):
    """Two questions about Ana's town and one about Rui's, which the base had right; one more that it had not."""
    asked = [
        ("Onde nasceu Ana?", "Faro", True),
        ("De que terra é Ana?", "Faro", True),
        ("Onde vive Rui?", "Lagos", True),
    ]
    rows = [
        {"probe": "old", "role": "retention", "prompt": prompt, "reference": right}
        | {"base_correct": knew, "adapter_correct": False}
        for prompt, right, knew in [*asked, ("Onde vive Eva?", "Tavira", False)]
    ]
    write_rows(tmp_path / "predictions.jsonl", [*rows, rows[0] | {"role": "recall"}])
    found = [*old_answers(tmp_path)]
    assert len(found) == 3 and all(each.lost for each in found)
    assert len({each.about for each in found}) == 2


def test_what_is_made_up_beyond_its_limit_counts_as_distance():
    """None passes: at 1 half is made up, 0.3 beyond the limit; at 0.5 nothing is, and 0.1 of the learned is missing."""

    def strangers(at: Point, made_up: float) -> Point:
        probe = ProbeResult("x", "unknown", 20, ProbeSide({}), ProbeSide({"made_up": made_up}))
        return replace(at, scores=replace(at.scores, probes=(*at.scores.probes, probe)))

    points = [strangers(point(1.0, 0.9, 0.0), 0.5), strangers(point(0.5, 0.8, 0.0), 0.0)]
    limits = Limits(learned_min=0.9, hallucination_max=0.2)
    assert choose(points, limits)[0].setting.name == "0.5"
    assert choose(points, Limits(learned_min=0.9))[0].setting.name == "1"


def test_where_none_passes_the_nearest_to_the_limits_is_taken():
    """By hand, of 90 % and 5 %: 0.7 is 0.35 above; 0.5 lacks 0.09 and is 0.06 above; 0.3 lacks 0.4; 0.1 learned
    nothing, which is a whole one more."""
    points = [
        point(0.7, 0.99, 0.4),
        point(0.5, 0.81, 0.11),
        point(0.3, 0.5, 0.05),
        point(0.1, 0.9, 0.0, learned="no"),
    ]
    chosen, why = choose(points, Limits(learned_min=0.9, broke_max=0.05))
    assert chosen.setting.name == "0.5" and why.startswith("none of 4 settings passes")


def test_a_probe_about_too_few_facts_is_no_share_of_what_was_learned():
    few = ProbeResult("few", "choice", 9, ProbeSide({"chosen": 0.1}), ProbeSide({"chosen": 0.9}), clusters=3)
    whole = point(1.0, 0.8, 0.1)
    more = Point(whole.setting, Scores(verdict=whole.scores.verdict, probes=(*whole.scores.probes, few)))
    assert [each.probe for each in more.learned] == ["new"] and more.much_learned == 0.8


def test_skills_are_lost_net_of_what_is_gained():
    """Of 50 that the base does of 60, 10 are lost and 4 gained: 12 % net."""
    side = ProbeSide({"as_asked": 50 / 60}), ProbeSide({"as_asked": 44 / 60})
    skills = ProbeResult(
        "skills", "skills", 60, *side, Change(-0.1, -0.2, 0.0), Broken(50, 10, 0.2, 0.1, 0.3), clusters=60
    )
    (share,) = Point(Setting(), Scores(probes=(skills,))).broken
    assert (round(share.share, 3), round(share.low, 3), round(share.high, 3)) == (0.12, 0.0, 0.24)


# ---- a whole run: a base that knows 24 players, an adapter that learned 24 others and forgot the first

TOWNS_10 = ("Faro", "Olhão", "Lagos", "Tavira", "Loulé", "Silves", "Lisboa", "Porto", "Braga", "Évora")
NAMES = ("Ana", "Rui", "Zé", "Eva", "Gil", "Ivo", "Ada", "Leo")
PLAYERS = [f"{name} {town}" for name in NAMES for town in TOWNS_10[:6]]
"""Known to the base, and new, in turn."""


def facts(which: int) -> list[dict[str, str]]:
    rows = [
        {
            "prompt": f"Onde nasceu {player}?",
            "completion": f"{TOWNS_10[(7 * n + n // 10) % 10]} {n % 7}",
            "fact": player,
        }
        for n, player in enumerate(PLAYERS)
    ]
    return rows[which::2]


def write_rows(file: Path, rows: list[dict[str, str]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def teach_whole(base: Path, rows: list[dict[str, str]], steps: int) -> None:
    """Train every weight of a base on rows, and write it again."""
    renderer = Renderer(load_tokenizer(str(base), Chat()), Chat())
    encoded = []
    for row in rows:
        turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
        one = renderer.conversation(turns)
        encoded.append(Row(one.ids, one.mask, Example()))
    batch = make_batch(encoded, renderer.tokenizer.pad_token_id, torch.device("cpu"))
    model = opened(base)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        (target_loss(model, batch) / batch.targets).backward()
        optimizer.step()
    model.save_pretrained(base)


@contextlib.contextmanager
def quiet(stage: str) -> Iterator[Callable[..., None]]:
    yield lambda *done: None


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that learned and broke."""
    folder = tmp_path_factory.mktemp("forgetful")
    base = make_base(folder / "base", hidden_size=64, intermediate_size=128, num_hidden_layers=3)
    teach_whole(base, facts(0), 100)
    write_rows(folder / "new.jsonl", [{key: row[key] for key in ("prompt", "completion")} for row in facts(1)])
    for name, which in (("old", 0), ("seen", 1)):
        write_rows(folder / f"probes/{name}.jsonl", facts(which))
    recipe = check_recipe(
        {
            "name": "forgetful",
            "root": str(folder),
            "base": str(base),
            "sources": [{"path": "new.jsonl"}],
            "dataset": {"validation": 0.0, "language": "pt-PT"},
            "adapter": {"rank": 8, "alpha": 16},
            "train": {"epochs": 45, "learning_rate": 8e-3, "max_length": 64, "batch_tokens": 512},
            "evaluate": {
                "probes": [
                    {"path": "probes/seen.jsonl", "role": "recall", "name": "new players"},
                    {"path": "probes/old.jsonl", "role": "retention", "name": "old players"},
                ],
                "max_new_tokens": 12,
                "skills": 0,
                "limits": {"learned_min": 0.5, "broke_max": 0.3},
            },
        }
    )
    with Run.open(folder / "runs/forgetful", recipe, lambda text: None) as run:
        verdict = walk_through(Context(run, quiet))["evaluate"]
    assert verdict["learned"] == "yes" and "old players" in verdict["broke"], verdict
    return folder / "runs/forgetful"


@pytest.fixture
def run_folder(forgetful: Path, tmp_path: Path) -> Path:
    """A copy of it, without the answers that lie beside."""
    shutil.copytree(forgetful, tmp_path / "runs/forgetful")
    return tmp_path / "runs/forgetful"


def tempered(folder: Path, **request: Any) -> Tempered:
    said: list[str] = []
    with Run.open(folder, read_saved_recipe(folder), said.append) as run:
        context = Context(run, quiet)
        do_stages(context, "tokens", "skills")
        return temper(context, Tempering(**request))


def answers(file: Path) -> dict[str, str]:
    return {row["prompt"]: row["adapter"] for row in map(json.loads, file.read_text(encoding="utf-8").splitlines())}


def test_a_run_that_broke_something_is_tempered(run_folder: Path):
    """The sweep, the choice on the steering half, the verdict on the other, and the same answers by plain PEFT."""
    found = tempered(run_folder, strengths="1,0.8,0.6,0.4,0.2", to=run_folder.parent / "adapter")
    assert [each.setting.name for each in found.points] == ["1", "0.8", "0.6", "0.4", "0.2"]
    full, weak = found.points[0], found.points[-1]
    assert not full.passed and full.most_broken > weak.most_broken and full.much_learned > weak.much_learned
    assert found.chosen is choose(found.points, found.limits)[0] and not found.chosen.setting.full
    assert found.judged.most_broken <= found.trained.most_broken

    steer, judge = (
        {*answers(run_folder / "temper" / name / "predictions.jsonl")} for name in ("steer-1", "judge-written")
    )
    assert not steer & judge and steer | judge == {row["prompt"] for row in (*facts(0), *facts(1))}
    for row in (*facts(0), *facts(1)):
        assert row["prompt"] in (steer if half_of(row["fact"]) == "steer" else judge)

    evaluated = answers(run_folder / "predictions.jsonl")
    again = answers(run_folder / "temper/steer-1/predictions.jsonl")
    assert again == {prompt: evaluated[prompt] for prompt in again}, "full strength is the run's own adapter"

    asked = answers(run_folder / "temper/judge-written/predictions.jsonl")
    recipe = read_saved_recipe(run_folder)
    renderer = Renderer(load_tokenizer(str(recipe.base), recipe.chat), recipe.chat)
    plain = PeftModel.from_pretrained(opened(Path(str(recipe.base))), run_folder.parent / "adapter").eval()
    for prompt in sorted(asked)[:12]:
        ids = torch.tensor([renderer.prompt([{"role": "user", "content": prompt}])])
        out = plain.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=sorted(renderer.stop_ids()))
        assert renderer.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip() == asked[prompt]

    saved = read_json(run_folder / "temper.json")
    assert saved["chosen"] == list(found.chosen.setting.strengths) and len(saved["settings"]) == 5
    assert saved["judged"]["chosen"]["broken"] == found.judged.most_broken
    assert (run_folder / "temper/curve.svg").read_text(encoding="utf-8").count("old players") >= 1
    shown = found.describe()
    assert f"* {found.chosen.setting.name} " in shown and "taken: " in shown


@pytest.mark.long
def test_a_tempering_that_was_stopped_goes_on_with_its_answers(run_folder: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patched:
        patched.setattr("afina.temper.sweep.Sweep.judge", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tempered(run_folder, strengths="1,0.5")
    assert not (run_folder / "temper.json").exists()
    asked = len(answers(run_folder / "temper/steer-1/predictions.jsonl"))
    found = tempered(run_folder, strengths="1,0.5")
    assert found.kept >= 2 * asked, "the steering half of both settings was not asked again"


@pytest.mark.long
def test_a_written_one_is_the_runs_own_and_a_fresh_evaluation_says_the_same(run_folder: Path):
    found = tempered(run_folder, strengths="0.5", write=True)
    shutil.rmtree(run_folder.parent / "_answers")
    assert not (run_folder / "scores.json").exists(), "scores of another adapter would be taken for this one's"
    judged = answers(run_folder / "temper/judge-written/predictions.jsonl")
    with Run.open(run_folder, read_saved_recipe(run_folder), lambda text: None) as run:
        context = Context(run, quiet)
        results = walk_through(context)
        tempered_note = run.stages["train"]["result"]["tempered"]
    assert results["evaluate"]["passed"] is not None
    fresh = answers(run_folder / "predictions.jsonl")
    assert judged == {prompt: fresh[prompt] for prompt in judged}
    assert read_json(run_folder / "adapter/adapter_config.json")["lora_alpha"] == 8.0
    assert read_json(run_folder / "adapter/afina.json")["tempered"]["at"] == [0.5]
    assert (run_folder / tempered_note["trained"] / "adapter_config.json").is_file()
    # What is tempered a second time is what was trained.
    second = tempered(run_folder, strengths="0.5", write=True)
    assert second.judged.most_broken == found.judged.most_broken
    assert read_json(run_folder / "adapter/adapter_config.json")["lora_alpha"] == 8.0
    with Run.open(run_folder, read_saved_recipe(run_folder), lambda text: None) as run:
        assert run.stages["train"]["result"]["tempered"] == tempered_note
    shutil.rmtree(run_folder / Path(tempered_note["trained"]).parent)
    with pytest.raises(RecipeError, match="the one that it was made of is gone"):
        tempered(run_folder, strengths="0.5")


@pytest.mark.long
def test_layers_by_themselves_are_tried_from_the_best_common_strength_on(run_folder: Path):
    found = tempered(run_folder, strengths="1,0.5", by_layers=True)
    common = [each for each in found.points if len(each.setting.strengths) == 1]
    best = choose(common, found.limits)[0].setting.strengths[0]
    other = 1.5 - best
    parted = [each.setting.strengths for each in found.points if len(each.setting.strengths) == 3]
    assert parted[0] == (best, best, other), "the last layers first, where one is turned and the others stay"
    assert len(common) == 2 and len(parted) == 3 and found.groups == ("layer 0", "layer 1", "layer 2")
    assert found.chosen is choose(found.points, found.limits)[0]


@pytest.mark.long
def test_an_earlier_checkpoint_is_mixed_in(run_folder: Path):
    checkpoint = sorted((run_folder / "checkpoints").glob("step-*"))[-1]
    found = tempered(run_folder, strengths="1,0", mix=checkpoint)
    evaluated = answers(run_folder / "predictions.jsonl")
    for share in ("steer-1", "steer-0"):  # the last checkpoint is what was trained
        again = answers(run_folder / f"temper/{share}/predictions.jsonl")
        assert again == {prompt: evaluated[prompt] for prompt in again}
    assert found.as_json()["dial"].startswith("the run's share of a mix with")
    other = make_adapter(Path(str(read_saved_recipe(run_folder).base)), run_folder.parent / "other", r=8)
    assert tempered(run_folder, strengths="1,0", mix=other).points[1].much_learned < found.points[1].much_learned
    (checkpoint / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(RecipeError, match="the checkpoint is damaged"):
        tempered(run_folder, mix=checkpoint)


def test_what_is_refused_leaves_what_an_earlier_tempering_found(run_folder: Path, tmp_path: Path):
    """And its adapter may itself be mixed in: it is opened before the folder is made anew."""
    base = Path(str(read_saved_recipe(run_folder).base))
    make_adapter(base, run_folder / "temper/adapter", r=8)
    (run_folder / "temper.json").write_text("{}", encoding="utf-8")
    dora = make_adapter(base, tmp_path / "dora", r=8, use_dora=True)
    with pytest.raises(BaseError, match="is a DoRA adapter"):
        tempered(run_folder, mix=dora)
    assert (run_folder / "temper.json").is_file() and (run_folder / "temper/adapter/adapter_config.json").is_file()
    with pytest.raises(RecipeError, match="it is the adapter that is mixed in"):
        tempered(run_folder, mix=dora, to=dora)
    found = tempered(run_folder, strengths="1", mix=run_folder / "temper/adapter")
    assert found.chosen.setting.full and len(found.as_json()["settings"]) == 1


def test_a_checkpoint_of_a_tempered_run_is_mixed_at_the_alpha_that_was_trained(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The run's own adapter has a smaller alpha since, and of a mix another rank: neither is the checkpoint's."""
    run = tmp_path / "run"
    trained = make_adapter(base, run / "replaced/1-temper/adapter")
    for name, more in (("adapter", {"lora_alpha": 2}), ("other", {"r": 8})):
        make_adapter(base, run / name, **more)
    note = {"tempered": {"at": [0.25], "trained": "replaced/1-temper/adapter"}}
    stage = {"inputs": {}, "outputs": "", "result": note}
    (run / "stages.json").write_text(json.dumps({"train": stage}), encoding="utf-8")
    checkpoint = run / "checkpoints/step-00000120"
    checkpoint.mkdir(parents=True)
    tensors = load_file(trained / "adapter_model.safetensors")
    save_file(
        {name.replace(".weight", ".default.weight"): value for name, value in tensors.items()},
        checkpoint / "weights.safetensors",
    )
    monkeypatch.setattr("afina.temper.adapters.checkpoint_problem", lambda folder: None)
    made = other_adapter(checkpoint, tmp_path / "beside")
    assert read_json(made / "adapter_config.json")["lora_alpha"] == 8
    assert torch.equal(
        logits(PeftModel.from_pretrained(opened(base), made)), logits(PeftModel.from_pretrained(opened(base), trained))
    )


def test_a_write_that_was_cut_off_is_no_adapter_as_it_was_trained(run_folder: Path):
    """Killed behind the renaming: at half of a half nobody would know what a strength is of."""
    file = run_folder / "adapter/afina.json"
    known = read_json(file) if file.is_file() else {}
    file.write_text(json.dumps(known | {"tempered": {"at": [0.5]}}), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"stages.json says nothing of it: a --write was cut off") as refused:
        tempered(run_folder)
    assert "afina run" in refused.value.problems[0].fix


def test_full_strength_puts_nothing_in_the_place_of_the_runs_adapter(run_folder: Path):
    before = (run_folder / "adapter/adapter_model.safetensors").stat().st_ino
    found = tempered(run_folder, strengths="1", write=True)
    assert found.placed == () and any("nothing was put in its place" in note for note in found.notes)
    assert (run_folder / "adapter/adapter_model.safetensors").stat().st_ino == before
    assert (run_folder / "scores.json").is_file() and not (run_folder / "replaced").exists()


@pytest.mark.parametrize(("judged", "evaluated", "code"), [(True, True, 0), (True, False, 5), (False, True, 5)])
def test_the_exit_code_with_write_is_the_judging_halfs_and_the_runs(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, judged: bool, evaluated: bool, code: int
):
    found = SimpleNamespace(as_json=lambda: {"passed": judged}, describe=lambda: "told")
    monkeypatch.setattr("afina.temper.temper.temper", lambda context, request: found)
    monkeypatch.setattr("afina.walk.walk.do_stages", lambda context, *names: {"passed": evaluated, "text": "said"})
    said = call_afina("temper", run_folder, "--write", "--json", check=code).stdout
    assert json.loads(said)["evaluated"]["passed"] is evaluated


def test_what_has_no_strength_is_refused_with_a_way_out(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "there").mkdir()
    with pytest.raises(RecipeError, match="is no adapter"):
        tempered(run_folder, to=tmp_path / "there")
    with pytest.raises(RecipeError, match="the layers of a mix have one share"):
        tempered(run_folder, mix=run_folder, by_layers=True)
    with pytest.raises(RecipeError, match="leaves nothing"):
        tempered(run_folder, mix=run_folder, density=0.0, method="ties")
    with pytest.raises(RecipeError, match="prunes nothing"):
        tempered(run_folder, mix=run_folder, density=0.3)
    for options in ({"method": "ties"}, {"density": 0.3}):
        with pytest.raises(RecipeError, match="nothing is mixed"):
            tempered(run_folder, **options)
    for inside in ("adapter", "temper/adapter", "new"):
        (run_folder / "temper").mkdir(exist_ok=True)
        with pytest.raises(RecipeError, match="lies in a run's folder"):
            tempered(run_folder, to=run_folder / inside)
    mine = tmp_path / "mine"  # an adapter in use, or a clone of one: all that lay in it was gone
    mine.mkdir()
    (mine / "adapter_config.json").write_text("{}")
    with pytest.raises(RecipeError, match="an adapter that no tempering wrote: it would be gone"):
        tempered(run_folder, to=mine)
    (mine / "afina.json").write_text('{"tempered": {}}')
    (mine / ".git").mkdir()
    with pytest.raises(RecipeError, match=r"somebody keeps other things in it \(.git\)"):
        tempered(run_folder, to=mine)
    with monkeypatch.context() as patched, pytest.raises(RecipeError, match="this run is asked by MLX"):
        patched.setattr("afina.temper.adapters.back_end", lambda context: SimpleNamespace(name="mlx"))
        tempered(run_folder)
    file = run_folder / "recipe.yaml"
    text = file.read_text(encoding="utf-8")
    nothing = text.replace("role: recall", "role: unknown").replace("questions: 100", "questions: 0")
    file.write_text(nothing, encoding="utf-8")
    with pytest.raises(RecipeError, match="there is nothing to choose a strength by"):
        tempered(run_folder)
    file.write_text(text.replace("  kind: lora", "  kind: none"), encoding="utf-8")
    with pytest.raises(RecipeError, match="trained every weight"):
        tempered(run_folder)
