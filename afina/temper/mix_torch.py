"""Two adapters of one base in one: the dial is the share of the run's own, the merges are PEFT's.

    cat             s dW_own + (1 - s) dW_other, exactly; the ranks add up
    svd             the best approximation of that by the larger rank
    linear          A and B by themselves, each weighted by the root of its share: quick, and rough
    magnitude_prune, ties, dare_linear, dare_ties      of A and B by themselves, of which `density` is kept
    ..._svd         of the matrices that they make, back to the larger rank

TIES: arXiv 2306.01708. DARE: arXiv 2311.03099; what it drops is drawn by the recipe's seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from afina.errors import BaseError, Problem, RecipeError
from afina.model.base import TRAIN_AGAIN, read_adapter_config
from afina.model.base_damage import read_shapes
from afina.model.load_torch import open_adapter
from afina.run import hash_folder
from afina.temper.dial_torch import CONFIG, OWN, WEIGHTS, copy_adapter, refuse_unscaled
from afina.temper.mixing import OF_ONE_RANK, WHOLE, Mixing
from afina.temper.setting import Setting

OTHER, MIXED = "other", "mixed"
_RANK = 8
"""PEFT's, where a configuration names none."""


class MixDial:
    """The share of the run's adapter in a mix with another one.

    Args:
        model: PEFT's, with the run's adapter as :data:`OWN`.
        adapter: its folder.
        other: the other one's.

    Raises:
        BaseError: one of them is no plain LoRA.
        RecipeError: the method does not take both.
    """

    groups: tuple[str, ...] = ("the run's share",)

    def __init__(self, model: Any, adapter: Path, other: Path, mixing: Mixing) -> None:
        self.model, self.adapter, self.mixing = model, adapter, mixing
        configs = [read_adapter_config(each) for each in (adapter, other)]
        problems = [
            Problem(f"{why}, which PEFT does not mix", "mix adapters of plain LoRA", str(folder))
            for folder, config in zip((adapter, other), configs, strict=True)
            for why in _unmixable(config)
        ]
        if problems:
            raise BaseError(problems=problems)
        for folder, config in zip((adapter, other), configs, strict=True):
            refuse_unscaled(config, folder)
        ranks = [max([config.get("r") or _RANK, *(config.get("rank_pattern") or {}).values()]) for config in configs]
        if mixing.method in OF_ONE_RANK and len({*ranks}) > 1:
            raise RecipeError(
                f"{mixing.method} takes adapters of one rank, and these have {ranks[0]} and {ranks[1]}",
                "use --method cat, or svd",
                "--method",
            )
        if len({isinstance(config.get("target_modules"), str) for config in configs}) > 1:
            raise RecipeError(
                "one of the adapters names its layers by a pattern, the other one in a list, which PEFT does not mix",
                "mix adapters that were trained alike",
                "--mix",
            )
        self.other_hash = hash_folder(other)
        open_adapter(model, other, OTHER)

    @torch.no_grad()
    def turn(self, setting: Setting) -> None:
        """See :class:`~afina.temper.dial_torch.Dial`."""
        self.model.set_adapter(OWN, inference_mode=True)
        if MIXED in self.model.peft_config:
            self.model.delete_adapter(MIXED)
        share = setting.strengths[0]
        with torch.random.fork_rng():
            torch.manual_seed(self.mixing.seed)
            self.model.add_weighted_adapter(
                [OWN, OTHER],
                [share, 1 - share],
                MIXED,
                combination_type=self.mixing.method,
                density=None if self.mixing.method in WHOLE else self.mixing.density,
            )
        self._unscale()
        self.model.set_adapter(MIXED, inference_mode=True)
        self.model.eval()  # its dropout is new

    def rest(self) -> None:
        """See :class:`~afina.temper.dial_torch.Dial`."""
        self.model.set_adapter(OWN, inference_mode=True)

    def follows_from(self, setting: Setting) -> dict[str, Any]:
        """See :class:`~afina.temper.dial_torch.Dial`."""
        return {"mix": self.mixing.as_json() | {"with": self.other_hash, "share": setting.strengths[0]}}

    def _unscale(self) -> None:
        """Scale by 1: PEFT has put both scales into the weights, and alpha to the rank as if nothing were rsLoRA."""
        from peft.tuners.lora.layer import LoraLayer

        config = self.model.peft_config[MIXED]
        config.use_rslora, config.inference_mode = False, True
        for part in self.model.modules():
            if isinstance(part, LoraLayer) and MIXED in part.scaling:
                part.use_rslora[MIXED] = False
                part.set_scale(MIXED, 1.0)

    def write(self, setting: Setting, folder: Path) -> None:
        """See :class:`~afina.temper.dial_torch.Dial`."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        self.turn(setting)
        copy_adapter(self.adapter, folder)
        tensors = get_peft_model_state_dict(self.model, adapter_name=MIXED, save_embedding_layers=False)
        plain = {name: value.detach().to("cpu").contiguous() for name, value in tensors.items()}
        (folder / CONFIG).unlink()
        save_file(plain, folder / WEIGHTS, metadata={"format": "pt"})
        self.model.peft_config[MIXED].save_pretrained(folder)


def _unmixable(config: Mapping[str, Any]) -> list[str]:
    found = {
        "is a DoRA adapter": config.get("use_dora"),
        f"trains {', '.join(config.get('modules_to_save') or [])} whole": config.get("modules_to_save"),
        "changes parameters of experts (target_parameters)": config.get("target_parameters"),
    }
    return [what for what, there in found.items() if there]


def write_checkpoint_as_adapter(checkpoint: Path, adapter: Path, folder: Path) -> None:
    """The weights of a checkpoint of torch's as PEFT's adapter: what `adapter` would have been at that step.

    Args:
        adapter: what the training of the checkpoint left.

    Raises:
        BaseError: the checkpoint holds other weights than the adapter, or the adapter's are damaged.
    """
    from safetensors.torch import load_file, save_file

    try:
        wanted = read_shapes(adapter / WEIGHTS)
    except (ValueError, OSError) as error:
        raise BaseError(str(error), TRAIN_AGAIN, str(adapter / WEIGHTS)) from error
    copy_adapter(adapter, folder)
    found = {
        name.replace(f".{OWN}.", ".").removesuffix(f".{OWN}"): value
        for name, value in load_file(checkpoint / "weights.safetensors").items()
    }
    if {name: list(value.shape) for name, value in found.items()} != wanted:
        raise BaseError(
            "holds other weights than the adapter of its run",
            "name a checkpoint of a training by torch of plain LoRA; those of PiSSA stand on a changed base",
            str(checkpoint),
        )
    save_file(found, folder / WEIGHTS, metadata={"format": "pt"})
