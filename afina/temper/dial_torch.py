"""The dial of an opened adapter: how strong it is, turned in memory and written as an adapter that every tool opens.

At strength s every weight of the model is

    W_s = W_base + s (W_trained - W_base)

so that 0 is the base and 1 is what was trained. What that is depends on what was trained:

    LoRA, rsLoRA, PiSSA     W + s (alpha/r) B A: the adapter's scale alone. It is written as ``lora_alpha`` (and
                            ``alpha_pattern``) times s, the weights' file untouched, and computes the same bit for bit
    by groups of layers     the same, with each layer's s in its B: few tools read ``alpha_pattern``
    DoRA                    trained it is k (W + (alpha/r) B A), k = m / |W + (alpha/r) B A| by row. So
                            W_s = c (W + (alpha/r) B' A) with c = 1 + s (k - 1) and B' = (s k / c) B by row,
                            which is a DoRA again with m' = c |W + (alpha/r) B' A|
    modules_to_save         the layer that was trained whole, moved towards the base's
    biases, rows of tokens, other variants: refused by name

O outputs of a layer, R rank.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from afina.errors import BaseError, Problem, RecipeError
from afina.model.base import read_adapter_config
from afina.temper.setting import Setting
from afina.whole import write_json

OWN = "default"
"""The run's adapter in the opened model."""
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_LAYER = re.compile(r"\.(\d+)\.")
_VANISHES = 1e-4
"""So small a share of a row cannot be divided by."""
PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""``init_lora_weights`` that leave the base as it is."""


class Dial(Protocol):
    """What can be turned on an opened model."""

    groups: tuple[str, ...]
    """What each number of a setting is about; one name where it is about everything."""

    def turn(self, setting: Setting) -> None:
        """Make the model answer as it does at this setting."""

    def rest(self) -> None:
        """Make it answer as it was trained."""

    def follows_from(self, setting: Setting) -> dict[str, Any]:
        """What the answers follow from besides base and adapter, as plain values; nothing where they are the trained
        model's."""

    def write(self, setting: Setting, folder: Path) -> None:
        """Fill a folder with PEFT's adapter of this setting."""


class StrengthDial:
    """The strength of one adapter, of all layers or by groups of them.

    Args:
        model: PEFT's, with the adapter as :data:`OWN`.
        adapter: its folder.
        groups: into how many groups of layers it is parted, by depth.

    Raises:
        BaseError: the adapter holds what no strength scales.
        RecipeError: it has fewer layers than groups, or what belongs to no layer.
    """

    def __init__(self, model: Any, adapter: Path, groups: int = 1) -> None:
        from peft.tuners.lora.layer import LoraLayer
        from peft.utils.other import ModulesToSaveWrapper

        self.model, self.adapter, self.config = model, adapter, read_adapter_config(adapter)
        layers = [(name, part) for name, part in model.named_modules() if isinstance(part, LoraLayer)]
        self.layers = [(name, part) for name, part in layers if OWN in part.scaling]
        saved = [(name, part) for name, part in model.named_modules() if isinstance(part, ModulesToSaveWrapper)]
        self.saved = [
            _Saved(f"{name}.{key}", part.original_module.get_parameter(key).data, weight)
            for name, part in saved
            if OWN in part.modules_to_save
            for key, weight in part.modules_to_save[OWN].named_parameters()
        ]
        refuse_unscaled(self.config, adapter, [*map(_variant, (part for _, part in self.layers))])
        self._refuse_unknown_weights()
        self.dora = [_Dora(part) for _, part in self.layers if _variant(part)]
        self.groups: tuple[str, ...] = ("all layers",)
        self._group_of = [0] * len(self.layers)
        if groups > 1:
            self._part(groups)

    def _refuse_unknown_weights(self) -> None:
        """A tensor of the file that belongs to no adapted layer would be left as it is at every strength."""
        from safetensors import safe_open

        starts = tuple(f"{name}.lora_" for name, _ in self.layers)
        with safe_open(self.adapter / WEIGHTS, framework="pt") as opened:
            names = [name for name in opened.keys() if not name.startswith(starts)]  # noqa: SIM118  # it is no mapping
        if unknown := sorted({*names} - {each.key for each in self.saved}):
            raise BaseError(
                f"holds {len(unknown)} tensors that no strength scales (first {unknown[0]})",
                "train it without them: an adapter of LoRA, with what it needs beside it in `adapter.modules_to_save`",
                str(self.adapter),
            )

    def _part(self, groups: int) -> None:
        if self.saved:
            raise RecipeError(
                f"the adapter holds {', '.join(each.key for each in self.saved)} as a whole, which belongs to no group",
                "leave --by-layers out",
                "--by-layers",
            )
        found = [_LAYER.search(name) for name, _ in self.layers]
        numbers = sorted({int(each[1]) for each in found if each})
        if len(numbers) < groups:
            raise RecipeError(
                f"the adapter reaches {len(numbers)} layers, which make no {groups} groups",
                "leave --by-layers out",
                "--by-layers",
            )
        place = {number: at * groups // len(numbers) for at, number in enumerate(numbers)}
        # What stands outside of the layers is the output: all-linear reaches nothing before them.
        self._group_of = [place[int(each[1])] if each else groups - 1 for each in found]
        members = [[number for number in numbers if place[number] == group] for group in range(groups)]
        self.groups = tuple(f"layers {each[0]}-{each[-1]}" if len(each) > 1 else f"layer {each[0]}" for each in members)

    @torch.no_grad()
    def turn(self, setting: Setting) -> None:
        """See :class:`Dial`."""
        each_of = self._strengths(setting)
        for (_, layer), strength in zip(self.layers, each_of, strict=True):
            if not _variant(layer):
                layer.set_scale(OWN, strength)
        doras = [strength for (_, layer), strength in zip(self.layers, each_of, strict=True) if _variant(layer)]
        for dora, strength in zip(self.dora, doras, strict=True):
            dora.turn(strength)
        for saved in self.saved:
            saved.turn(setting.strengths[0])
        self.model.set_adapter(OWN, inference_mode=True)
        self.model.eval()

    def rest(self) -> None:
        """See :class:`Dial`."""
        self.turn(Setting())

    def follows_from(self, setting: Setting) -> dict[str, Any]:
        """See :class:`Dial`."""
        return {} if setting.full else {"strength": list(setting.strengths)}

    def _strengths(self, setting: Setting) -> list[float]:
        """Of each layer."""
        if len(setting.strengths) == 1:
            return [setting.strengths[0]] * len(self.layers)
        return [setting.strengths[group] for group in self._group_of]

    def write(self, setting: Setting, folder: Path) -> None:
        """See :class:`Dial`."""
        copy_adapter(self.adapter, folder)
        uniform = len(setting.strengths) == 1
        if uniform and not self.dora:
            self._write_alpha(setting.strengths[0], folder)
        if self.dora or self.saved or not uniform:
            self._write_weights(setting, folder)

    def _write_alpha(self, strength: float, folder: Path) -> None:
        patterns = self.config.get("alpha_pattern") or {}
        scaled = {
            "lora_alpha": self.config.get("lora_alpha", 8) * strength,
            "alpha_pattern": {name: alpha * strength for name, alpha in patterns.items()},
        }
        write_json(folder / CONFIG, dict(self.config) | scaled)

    def _write_weights(self, setting: Setting, folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors, uniform = load_file(self.adapter / WEIGHTS), len(setting.strengths) == 1
        self.turn(setting)
        now = {each.key: each.weight.data for each in self.saved}
        for (name, layer), strength in zip(self.layers, self._strengths(setting), strict=True):
            if _variant(layer):
                now[f"{name}.lora_B.weight"] = layer.lora_B[OWN].weight.data
                now[f"{name}.lora_magnitude_vector"] = layer.lora_magnitude_vector[OWN].weight.data
            elif not uniform:
                ends = (f"{name}.lora_B.", f"{name}.lora_embedding_B")
                now |= {key: value * strength for key, value in tensors.items() if key.startswith(ends)}
        for key, value in now.items():
            tensors[key] = value.to("cpu", tensors[key].dtype).contiguous()
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


@dataclass
class _Saved:
    """A weight of a layer that was trained whole: its name in the adapter's file, the base's, and the one in use."""

    key: str
    base: torch.Tensor
    weight: torch.Tensor

    def __post_init__(self) -> None:
        self.trained = self.weight.data.clone()

    def turn(self, strength: float) -> None:
        moved = torch.lerp(self.base.to(self.trained.dtype), self.trained, strength)
        self.weight.data.copy_(self.trained if strength == 1 else moved)


class _Dora:
    """A layer of DoRA: its B and magnitudes as trained, and by how much each row is longer than it would be."""

    @torch.no_grad()
    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.b_OR = layer.lora_B[OWN].weight.data.clone()
        self.magnitude_O = layer.lora_magnitude_vector[OWN].weight.data.clone()
        self.factor_O = self.magnitude_O / self._norm()

    def _norm(self) -> torch.Tensor:
        """|W + (alpha/r) B A| of each row, as PEFT's forward takes it."""
        from peft.utils.integrations import dequantize_module_weight

        made = self.layer.lora_magnitude_vector[OWN]
        weight = dequantize_module_weight(self.layer.get_base_layer())
        update = made.get_lora_weight(lora_A=self.layer.lora_A[OWN], lora_B=self.layer.lora_B[OWN])
        norm: torch.Tensor = made.get_weight_norm(
            weight=weight, lora_weight=update.to(weight.dtype), scaling=self.layer.scaling[OWN]
        )
        return norm.to(self.magnitude_O.dtype)

    def turn(self, strength: float) -> None:
        """
        Raises:
            RecipeError: of a row whose magnitude has changed its sign, the base's part is nothing at this strength.
        """
        b, magnitude = self.layer.lora_B[OWN].weight, self.layer.lora_magnitude_vector[OWN].weight
        if strength == 1:
            b.data.copy_(self.b_OR)
            magnitude.data.copy_(self.magnitude_O)
            return
        share_O = 1 + strength * (self.factor_O - 1)
        if bool((share_O.abs() < _VANISHES).any()):
            raise RecipeError(
                f"at strength {strength:g} nothing of the base is left in a row, which no DoRA adapter can say",
                "give another strength",
                "--strengths",
            )
        b.data.copy_(self.b_OR * (strength * self.factor_O / share_O)[:, None])
        magnitude.data.copy_(share_O * self._norm())


def _variant(layer: Any) -> str:
    """The name of PEFT's variant that computes a layer; empty for plain LoRA."""
    variant = layer.lora_variant.get(OWN)
    return type(variant).__name__ if variant is not None else ""


def refuse_unscaled(config: dict[str, Any], adapter: Path, variants: Sequence[str] = ()) -> None:
    """
    Args:
        variants: of PEFT's layers, see :func:`_variant`.

    Raises:
        BaseError: the adapter's strength is no plain number, with every reason.
    """
    kind, start = str(config.get("peft_type", "LORA")).upper(), config.get("init_lora_weights", True)
    others = sorted({*variants} - {"", "DoraLinearVariant"})
    reasons = {
        f"is of PEFT's kind {kind}": kind != "LORA",
        "trains biases": config.get("bias", "none") != "none",
        "trains rows of the embedding (trainable_token_indices)": config.get("trainable_token_indices"),
        f"starts from a changed base ({start})": start not in PLAIN_STARTS,
        f"has layers of PEFT's variant {', '.join(others)}": others,
    }
    if found := [what for what, there in reasons.items() if there]:
        fix = "train an adapter of `adapter.variant: lora`, rslora, dora or pissa"
        raise BaseError(problems=[Problem(f"{each}, which no strength scales", fix, str(adapter)) for each in found])


def copy_adapter(adapter: Path, folder: Path) -> None:
    """All files of an adapter's folder, tokenizer and template too."""
    shutil.copytree(adapter, folder, dirs_exist_ok=True)
