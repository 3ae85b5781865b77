"""How training computes, chosen before it starts: precision, kernels, compiling, optimizer. No torch.

What the recipe leaves at ``auto`` is chosen from plain facts, and what it names is refused where it cannot
be had. The choice changes the numbers that come out, so that a run notes it and goes on with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from afina.errors import Problem, RecipeError
from afina.model.back_ends import BackEnd
from afina.recipe import BackEndName, Recipe, Train

Precision = Literal["fp32", "bf16", "fp16"]

CHOSEN = ("precision", "kernels", "compile", "optimizer")
"""The settings of the loop that are chosen here."""
LIGER_TYPES = ("gemma", "gemma2", "granite", "llama", "mistral", "phi3", "qwen2", "qwen3")
"""Kinds of models whose Liger kernels ``tests/test_liger.py`` compares with transformers' own."""


@dataclass(frozen=True)
class Machine:
    """What a training can use here."""

    kind: Literal["cpu", "cuda", "mps"]
    bf16: bool = False
    """Whether a GPU has bf16 units; an Apple chip, whether what computes there takes bf16 (MLX does)."""
    liger: bool = False
    bitsandbytes: bool = False
    compiler: bool = False
    """Whether torch.compile finds a C++ compiler (for a CPU) or Triton (for a GPU)."""
    amx: bool = False
    """Whether a CPU has matrix units for bf16 (Intel's AMX)."""


@dataclass(frozen=True)
class Choices:
    """How a training computes, and why not otherwise."""

    precision: Precision
    kernels: Literal["torch", "liger"]
    compile: bool
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "muon"]
    why: tuple[str, ...] = ()
    backend: BackEndName = "torch"

    def as_json(self) -> dict[str, Any]:
        """What the numbers depend on: everything but the reasons."""
        return {key: value for key, value in asdict(self).items() if key != "why"}

    def settings(self, train: Train) -> Train:
        """The loop's settings with nothing left at ``auto``."""
        chosen = {name: getattr(self, name) for name in CHOSEN}
        return train.model_copy(update=chosen | {"compile": "on" if self.compile else "off"})

    def meet(self, train: Train) -> bool:
        """Whether they are what a recipe names; what it leaves at ``auto`` may be anything.

        >>> Choices("fp32", "torch", True, "adamw").meet(Train(compile="off"))
        False
        """
        settings = self.settings(train)
        return all(getattr(train, name) in ("auto", getattr(settings, name)) for name in CHOSEN)

    def __str__(self) -> str:
        """
        >>> print(Choices("bf16", "liger", False, "adamw", ("compiling was not measured on a GPU",)))
        bf16, liger kernels, not compiled, adamw (compiling was not measured on a GPU)
        """
        parts = [self.precision, f"{self.kernels} kernels", "compiled" if self.compile else "not compiled"]
        if self.backend == "mlx":
            parts = ["mlx", self.precision]
        return ", ".join([*parts, self.optimizer]) + (f" ({'; '.join(self.why)})" if self.why else "")


def choose(
    recipe: Recipe,
    machine: Machine,
    *,
    model_type: str = "llama",
    fits: str = "yes",
    back_end: BackEnd | None = None,
) -> Choices:
    """Everything that the recipe leaves at ``auto``, with the reasons.

    Args:
        model_type: of the base, as its config.json says.
        fits: whether memory will do with plain AdamW, as the plan says it: `yes`, `maybe` or `no`.
        back_end: what computes, and why; torch where not given.

    Raises:
        RecipeError: what the recipe names cannot be had here; every such wish at once.

    >>> recipe = Recipe(name="x", sources=[{"path": "a.md"}], base="folder")
    >>> print(choose(recipe, Machine("cuda", bf16=True, liger=True)))
    bf16, liger kernels, not compiled, adamw (compiling was not measured on a GPU)
    """
    train = recipe.train
    if problems := list(impossible(train, machine, model_type)):
        raise RecipeError(problems=problems)
    if back_end is not None and back_end.name == "mlx":
        return Choices(choose_precision(recipe, machine), "torch", False, "adamw", (back_end.why,), "mlx")
    why: list[str] = []
    precision = choose_precision(recipe, machine)
    if machine.kind == "cpu" and precision == "bf16" and not machine.amx:
        why.append("most processors compute bf16 far more slowly than fp32")
    if machine.kind == "cpu" and precision == "fp32" and machine.amx:
        why.append("bf16 has units of its own here (AMX): train.precision=bf16 was measured 1.5 x as fast")
    kernels = train.kernels
    if kernels == "auto":
        without = _why_no_liger(machine, model_type)
        kernels = "torch" if without else "liger"
        if without and machine.kind == "cuda":
            why.append(without)
    compiled = train.compile == "on"
    if train.compile == "auto":
        compiled, reason = _compiling_pays(machine)
        why.append(reason)
    optimizer = train.optimizer
    if optimizer == "auto":
        short = recipe.trains_all and machine.kind == "cuda" and machine.bitsandbytes and fits != "yes"
        optimizer = "adamw_8bit" if short else "adamw"
        if short:
            why.append("AdamW's moments in 32 bits may not fit the memory")
    return Choices(precision, kernels, compiled, optimizer, tuple(why))


def choose_precision(recipe: Recipe, machine: Machine) -> Precision:
    """What products are computed in: bf16 where a GPU has it, fp32 on CPUs and, by torch, on Apple chips.

    MLX keeps a frozen base in bf16 on an Apple chip, and in fp32 weights that are trained. GPUs before Ampere have fp16
    alone, whose gradients become zero without a scaled loss: adapters over a frozen base bear that, training every
    weight does not.
    """
    if recipe.train.precision != "auto":
        return recipe.train.precision
    if machine.kind != "cuda":
        return "bf16" if machine.bf16 and not recipe.trains_all else "fp32"
    if machine.bf16:
        return "bf16"
    return "fp32" if recipe.trains_all else "fp16"


def impossible(train: Train, machine: Machine, model_type: str = "llama") -> Iterator[Problem]:
    """What a recipe names and this machine does not have."""
    if train.kernels == "liger" and (without := _why_no_liger(machine, model_type)):
        install = machine.kind == "cuda" and not machine.liger
        fix = "pip install 'afina[liger]'" if install else "train.kernels: auto takes them where they are"
        yield Problem(without, fix, "train.kernels")
    if train.compile == "on" and not machine.compiler:
        tool = "Triton" if machine.kind == "cuda" else "a C++ compiler"
        yield Problem(
            f"torch.compile needs {tool}, which is not here",
            "install it, or train.compile: auto",
            "train.compile",
        )
    if train.precision == "bf16" and machine.kind != "cpu" and not machine.bf16:
        yield Problem("this GPU does not compute in bf16", "train.precision: auto takes what it has", "train.precision")
    if problem := no_optimizer(train.optimizer, machine.kind, bitsandbytes=machine.bitsandbytes):
        yield problem


def no_optimizer(optimizer: str, kind: str, *, bitsandbytes: bool) -> Problem | None:
    """Why a device cannot run an optimizer; None where it can.

    >>> print(no_optimizer("paged_adamw_8bit", "cpu", bitsandbytes=True))
    train.optimizer: paged_adamw_8bit moves memory between a GPU and the machine; there is no paging on cpu
      -> train.optimizer: adamw_8bit saves the same memory
    """
    if optimizer in ("auto", "adamw", "muon"):
        return None
    what, fix = "", "train.optimizer: adamw"
    if kind not in ("cuda", "cpu"):
        what = f"bitsandbytes has no 8-bit optimizer for {kind}"
    elif optimizer == "paged_adamw_8bit" and kind != "cuda":
        what = f"paged_adamw_8bit moves memory between a GPU and the machine; there is no paging on {kind}"
        fix = "train.optimizer: adamw_8bit saves the same memory"
    elif not bitsandbytes:
        what = f"{optimizer} needs bitsandbytes, which is not installed"
        fix = "pip install 'afina[qlora]', or train.optimizer: adamw"
    return Problem(what, fix, "train.optimizer") if what else None


def _why_no_liger(machine: Machine, model_type: str) -> str:
    """Empty where Liger's kernels can be used."""
    if machine.kind != "cuda":
        return f"liger kernels run on NVIDIA GPUs alone, not on {machine.kind}"
    if not machine.liger:
        return "liger-kernel is not installed: pip install 'afina[liger]'"
    if model_type not in LIGER_TYPES:
        return f"liger kernels are not tried for {model_type}"
    return ""


def _compiling_pays(machine: Machine) -> tuple[bool, str]:
    """Whether to compile, and why not. LOG.md has the figures."""
    if machine.kind == "cpu":
        return False, "compiled layers were measured slower on a CPU"
    return False, f"compiling was not measured on {'a GPU' if machine.kind == 'cuda' else 'an Apple chip'}"
