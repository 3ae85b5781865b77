"""The plan: does the job fit, how long does it take, what does it cost. Before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from afina.machine import is_apple_chip
from afina.model.back_ends import choose_back_end
from afina.model.footprint import kept_states
from afina.model.shape import Shape
from afina.plan.asking import asked_tokens
from afina.plan.calibration import Sureness, sureness
from afina.plan.device import Device
from afina.plan.interval import Interval
from afina.plan.memory import Parallel, Setup, frozen_weight_bytes, peak_interval, trained_parameters, training_memory
from afina.plan.programs import (
    AFINA_CPU,
    AFINA_CUDA,
    AFINA_MLX,
    AFINA_MLX_CPU,
    AFINA_MLX_FLOAT32,
    AFINA_MPS,
    MlxFormat,
    TrainingProgram,
)
from afina.plan.record import Correction, recorded
from afina.plan.time import CHOSEN, optimizer_steps, run_time, slow_parts, time_sureness
from afina.plan.tokens import TokenCount
from afina.recipe import Recipe
from afina.recipe.profiles import describe_profile
from afina.units import show_count

ANSWER_PEAK = 1.5
"""The micro-batch with most answers holds this many times the mean share of learned tokens."""
GUESSED_HIGH = 1.1
"""The high end further up where the lengths of the examples are not counted."""
EIGHT_BIT_STATES = 2.03
"""Bytes of AdamW's moments per parameter in 8 bits: two of one byte and two float32 scales per 256."""


@dataclass(frozen=True)
class Plan:
    """What a run is expected to take. Bytes of one device, seconds, and the price's currency."""

    device: Device
    memory_parts: dict[str, Interval]
    time_parts: dict[str, Interval]
    steps: int
    tokens: TokenCount
    parameters: int
    trained_parameters: int
    job: str
    """What runs are compared by: kind of adapter and method."""
    memory: Interval
    time: Interval
    memory_sureness: Sureness
    time_sureness: Sureness
    devices: int = 1
    parallel: Parallel = "none"
    price_per_hour: float | None = None
    """Of one device."""
    currency: str = "US$"
    price_source: str = ""
    correction: Correction | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def money(self) -> Interval | None:
        """Hours times price times devices."""
        return self.time * (self.price_per_hour / 3600 * self.devices) if self.price_per_hour else None

    @property
    def fits(self) -> Literal["yes", "no", "maybe"]:
        """`yes` when even the high end fits the usable memory, `no` when not even the low end does."""
        if self.memory.high <= self.device.usable_bytes:
            return "yes"
        return "no" if self.memory.low > self.device.usable_bytes else "maybe"

    @property
    def depends(self) -> str:
        """What a `maybe` depends on, in words; empty otherwise."""
        if self.fits != "maybe":
            return ""
        moving = {"activations": "how long the longest micro-batch really is"}
        moving |= {
            "logits and backward": "how many tokens of it are learned",
            "overhead": "the driver and its libraries",
        }
        on = "what else uses the device" if self.device.kind != "cuda" else "how the allocator splits its memory"
        known = max(moving, key=lambda name: self.memory_parts[name].high - self.memory_parts[name].low)
        return f"{moving[known]}, and on {on}; `afina plan --trial` on the device itself narrows it"

    def as_json(self) -> dict[str, Any]:
        """The plan as ``plan.json`` holds it."""
        money = self.money
        return {
            "device": self.device.as_json(),
            "devices": self.devices,
            "parallel": self.parallel,
            "parameters": self.parameters,
            "trained_parameters": self.trained_parameters,
            "job": self.job,
            "tokens": {"per_epoch": self.tokens.tokens, "targets": self.tokens.targets, "spread": self.tokens.spread},
            "memory": {
                "parts": {name: part.as_json() for name, part in self.memory_parts.items()},
                **self.memory.as_json(),
                "usable": self.device.usable_bytes,
                "sure": self.memory_sureness.as_json(),
            },
            "time": {
                "parts": {name: part.as_json() for name, part in self.time_parts.items()},
                **self.time.as_json(),
                "sure": self.time_sureness.as_json(),
            },
            "steps": self.steps,
            "money": {
                **money.as_json(),
                "currency": self.currency,
                "price_per_hour": self.price_per_hour,
                "source": self.price_source,
            }
            if money
            else None,
            "corrected_by": self.correction.as_json() if self.correction else None,
            "fits": self.fits,
            "depends_on": self.depends,
            "notes": list(self.notes),
        }


def plan_run(
    recipe: Recipe,
    shape: Shape,
    tokens: TokenCount,
    device: Device,
    *,
    checkpointing: bool | None = None,
    devices: int = 1,
    parallel: Parallel = "none",
    correction: Correction | None = None,
    first: TokenCount | None = None,
    notes: Sequence[str] = (),
) -> Plan:
    """Predict memory, time and money of a recipe.

    Args:
        shape: of the base, or of the model to start from nothing.
        tokens: what the dataset holds.
        device: what it would run on.
        checkpointing: whether activations are computed again instead of kept; the recipe's where not given.
        devices, parallel: several of the device, each with its own micro-batches.
        first: what the first stage of ``train.first`` learns.
        correction: from finished runs and trial steps, see :mod:`afina.plan.record`.
        notes: what whoever asks knows of the files and the base, to stand before the plan's own.

    Raises:
        RecipeError: for an adapter target that the model does not have.
    """
    setup = afina_setup(recipe, shape, tokens, device, checkpointing=checkpointing)
    setup = replace(setup, devices=devices, parallel=parallel if devices > 1 else "none")
    said = [*notes, *_notes(recipe, shape, tokens, device, setup)]
    train = recipe.train
    memory_parts = training_memory(shape, setup)
    time_parts, unread = _time_parts(recipe, shape, setup, device, tokens)
    said += unread
    steps = -(-optimizer_steps(tokens, train.batch_tokens, train.accumulate, train.epochs) // devices)
    if first is not None and train.first:
        alone = recipe.model_copy(update={"train": train.of_first()})
        before = plan_run(alone, shape, first, device, checkpointing=checkpointing, devices=devices, parallel=parallel)
        memory_parts, time_parts = _after(before, memory_parts, time_parts)
        said.append(
            f"two stages: {before.steps} steps of {train.first.method} over {show_count(first.tokens)} tokens "
            f"an epoch, then {steps} steps of {train.method}"
        )
        steps += before.steps
    sure = sureness("training peak", device.kind, setup.program.name)
    memory = _predicted_memory(memory_parts, sure, tokens, correction, uncertain=bool(shape.uncertain))
    if correction:
        for part in {"training", "validation", CHOSEN} & time_parts.keys():
            time_parts[part] = correction.of_time(time_parts[part])
    own_price = recipe.budget.price_per_hour
    return Plan(
        device=device,
        memory_parts=memory_parts,
        time_parts=time_parts,
        steps=steps,
        tokens=tokens,
        parameters=shape.parameters,
        trained_parameters=trained_parameters(shape, setup) + setup.saved_parameters,
        job=f"{setup.kind} {train.method}" + " recurrent" * shape.recurrent + " by mlx" * setup.program.by_mlx,
        memory=memory,
        time=Interval.total(time_parts.values()),
        memory_sureness=sure,
        time_sureness=time_sureness(setup, device),
        devices=devices,
        parallel=setup.parallel,
        # The recipe's is that of everything together.
        price_per_hour=own_price / devices if own_price else device.price_per_hour,
        currency=recipe.budget.currency if own_price else device.currency,
        price_source="budget.price_per_hour" if own_price else device.price_source,
        correction=correction,
        notes=tuple(said),
    )


def learned(plain: Plan) -> Correction | None:
    """What this machine's record says of a plan that was made without it; None where it has no such runs."""
    return recorded(
        plain.device.name,
        plain.job,
        planned_bytes=plain.memory.point,
        planned_seconds=plain.time_parts["training"].point,
        rate=plain.device.flops_per_second if plain.device.kind == "cpu" else 0.0,  # others' stands in a table
    )


def _time_parts(
    recipe: Recipe, shape: Shape, setup: Setup, device: Device, tokens: TokenCount
) -> tuple[dict[str, Interval], list[str]]:
    """Seconds of the recipe by part, and what is not in them."""
    train = recipe.train
    asked = asked_tokens(recipe, tokens)
    parts = run_time(
        shape,
        setup,
        device,
        tokens,
        epochs=train.epochs,
        accumulate=train.accumulate,
        validations=train.validate_per_epoch * train.epochs + 2 * (train.method != "scratch"),
        asked=asked,
        weight_bytes=frozen_weight_bytes(shape, setup),
        facts=train.facts,
    )
    return parts, asked.notes


def _after(
    before: Plan, memory_parts: dict[str, Interval], time_parts: dict[str, Interval]
) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """Memory and time of two stages one after the other: the larger peak, and the sum of what each trains."""
    total = time_parts | {name: time_parts[name] + before.time_parts[name] for name in ("training", "validation")}
    return max(memory_parts, before.memory_parts, key=lambda parts: Interval.total(parts.values()).point), total


def _predicted_memory(
    parts: dict[str, Interval], sure: Sureness, tokens: TokenCount, correction: Correction | None, *, uncertain: bool
) -> Interval:
    """The peak with the interval that measured cases ask for, corrected by runs on the same device."""
    memory = peak_interval(parts, sure, uncertain=uncertain)
    if not tokens.padded:
        memory = replace(memory, high=memory.high * GUESSED_HIGH)
    return correction.of_memory(memory) if correction else memory


def afina_setup(
    recipe: Recipe, shape: Shape, tokens: TokenCount, device: Device, *, checkpointing: bool | None = None
) -> Setup:
    """The largest micro-batch: as full as it may be, one example at least, no more than there is."""
    train, adapter = recipe.train, recipe.adapter
    longest = min(tokens.longest, train.max_length * train.facts.sequences)
    batch_tokens = tokens.largest_batch or max(longest, min(train.batch_tokens, tokens.tokens))
    share = min(1.0, tokens.target_share * ANSWER_PEAK)
    kind = "none" if train.method == "scratch" else adapter.kind
    setup = Setup(
        kind=kind,
        batch_tokens=batch_tokens,
        target_tokens=tokens.largest_targets or round(batch_tokens * share),
        rank=adapter.rank,
        targets=adapter.targets if isinstance(adapter.targets, str) else tuple(adapter.targets),
        place=device.kind,
        program=program_of(recipe, device),
        weights=_mlx_weights(recipe) if kind == "qlora" and computed_by_mlx(recipe, device) else None,
        length=longest,
        check_tokens=longest,
        checkpointing=train.checkpoint_activations if checkpointing is None else checkpointing,
        state_bytes=EIGHT_BIT_STATES if train.optimizer.endswith("8bit") else None,
        muon=train.optimizer == "muon",
        dora=adapter.variant == "dora" and kind != "none",
        saved_parameters=sum(saved_parameters(shape, name) for name in adapter.modules_to_save)
        if kind != "none"
        else 0,
        dropout=adapter.dropout > 0 and kind != "none",
        adapted_layers=adapter.num_layers if kind != "none" else None,
    )
    return replace(setup, kept_states=_kept_states(setup, shape, recipe, tokens))


def _kept_states(setup: Setup, shape: Shape, recipe: Recipe, tokens: TokenCount) -> float:
    """Copies of weights and moments that training keeps in this memory to go back to."""
    if setup.place == "cuda":  # they are in the host's
        return 0.0
    train = recipe.train
    steps = optimizer_steps(tokens, train.batch_tokens, train.accumulate, train.epochs)
    trained = trained_parameters(shape, setup) * setup.trained_bytes[0]
    trained += setup.saved_parameters * setup.program.saved_bytes[0]
    return kept_states(round(trained), steps)


def computed_by_mlx(recipe: Recipe, device: Device) -> bool:
    """Whether MLX would compute a recipe on a device. On a Mac it is asked what is installed; another is taken to have
    all that it could."""
    if device.kind == "cuda":
        return False
    if recipe.backend != "auto":
        return recipe.backend == "mlx"
    if device.kind != "mps":
        return False
    return choose_back_end(recipe).name == "mlx" if is_apple_chip() else not recipe.beyond_mlx


def program_of(recipe: Recipe, device: Device) -> TrainingProgram:
    """How afina holds things there."""
    if computed_by_mlx(recipe, device):
        if device.kind == "cpu":
            return AFINA_MLX_CPU
        float32 = recipe.train.precision == "fp32" or (recipe.train.precision == "auto" and recipe.trains_all)
        return AFINA_MLX_FLOAT32 if float32 else AFINA_MLX
    if device.kind == "cuda":
        if recipe.train.method == "scratch":  # float32 from the first step
            return replace(AFINA_CPU, fixed_bytes=AFINA_CUDA.fixed_bytes, slack=AFINA_CUDA.slack)
        return AFINA_CUDA
    return AFINA_MPS if device.kind == "mps" else AFINA_CPU


def _mlx_weights(recipe: Recipe) -> MlxFormat:
    """MLX's format of the frozen matrices."""
    found: dict[tuple[int, int], MlxFormat] = {
        (4, 32): "mlx-4-32",
        (4, 64): "mlx-4-64",
        (4, 128): "mlx-4-128",
        (8, 32): "mlx-8-32",
        (8, 64): "mlx-8-64",
        (8, 128): "mlx-8-128",
    }
    return found[recipe.adapter.bits or 4, recipe.adapter.group_size or 64]


def saved_parameters(shape: Shape, name: str) -> int:
    """Weights of the layers that `modules_to_save` means by a name.

    >>> from afina.model.shape_table import dense_shape
    >>> tiny = dense_shape("llama", layers=2, hidden=8, intermediate=24, heads=2, kv_heads=1, head_dim=4, vocab=10,
    ...                    tied_embeddings=True, max_positions=32)
    >>> saved_parameters(tiny, "embed_tokens"), saved_parameters(tiny, "q_proj"), saved_parameters(tiny, "norm")
    (80, 128, 8)
    """
    last = name.rpartition(".")[2]
    if last in ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out"):
        return shape.head_parameters
    matching = [linear for linear in shape.linears if linear.name.rpartition(".")[2] == last]
    return sum(linear.parameters for linear in matching) if matching else shape.hidden


def _notes(recipe: Recipe, shape: Shape, tokens: TokenCount, device: Device, setup: Setup) -> list[str]:
    notes = describe_profile(recipe.train.model_dump(), device.name, device.memory_bytes)
    if setup.batch_tokens > recipe.train.batch_tokens:
        notes.append(f"one example of {tokens.longest} tokens is longer than train.batch_tokens and sets the peak")
    if 0 < shape.max_positions < recipe.train.max_length:
        notes.append(
            f"train.max_length {recipe.train.max_length} is beyond the model's {shape.max_positions} positions"
        )
    if setup.kind == "none" and device.kind == "cuda" and recipe.train.method != "scratch":
        notes.append("every weight of the base is trained in 16 bits, AdamW's moments too")
    if setup.kind == "qlora" and shape.module_parameters < shape.linear_parameters:
        share = shape.module_parameters / shape.linear_parameters
        notes.append(f"4 bits hold {share:.0%} of the matrices: experts that stand in one tensor stay as they are")
    notes += [f"less sure, and wider for it: {reason}" for reason in (*shape.uncertain, *slow_parts(shape))]
    if setup.program.by_mlx and device.kind == "cpu":
        notes.append("computed by MLX, which a CPU is slow at, in few bits tens of times: the time is an underestimate")
    elif setup.program.by_mlx:
        notes.append("computed by MLX")
    elif setup.kind == "qlora" and device.kind != "cuda":
        notes.append(f"4-bit weights on {device.kind} are computed slowly; the time is an underestimate")
    if recipe.backend == "mlx" and device.kind == "cuda":
        notes.append(f"backend mlx does not compute on {device.name}: this is the plan of torch")
    return notes
