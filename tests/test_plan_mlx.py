"""The plan of a training by MLX: Mistral-7B in 4 bits beside what two guides say of it, published peaks, and peaks that
are measured here."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import measure_mlx
import pytest

from afina.plan.bases import find_shape
from afina.plan.calibration import sureness
from afina.plan.device import find_device
from afina.plan.interval import Interval
from afina.plan.memory import Setup, peak_interval, training_memory
from afina.plan.programs import AFINA_MLX, MLX
from afina.recipe.profiles import Profile, profiles

MISTRAL = find_shape("mistralai/Mistral-7B-v0.1")
SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GB = 1e9
DOCUMENTS = {
    "weights": (3.8, 3.8),
    "adapter": (0.05, 0.05),
    "a batch of 4 x 512": (3.0, 4.0),
    "optimizer": (1.0, 2.0),
    "system": (2.0, 2.0),
    "in all": (10.0, 11.0),
}
"""GB, as the guides say it of an M1 with 16 GB."""
CARRIED = ("activations", "logits and backward")


def mistral(length: int, rows: int, *, again: bool, program: object = AFINA_MLX) -> Mapping[str, Interval]:
    """Parts of the peak: INT4, group 64, rank 8, seven modules."""
    tokens = rows * length
    setup = Setup("qlora", tokens, tokens, 8, SEVEN, place="mps", program=program, length=length, checkpointing=again)
    return training_memory(MISTRAL, setup)


def test_the_table_of_the_guides_beside_the_plan() -> None:
    """Their total holds where layers compute again; without it a batch takes what crashed their author's 16 GB."""
    again, kept = mistral(512, 4, again=True), mistral(512, 4, again=False, program=MLX)  # the guides' own program
    total = peak_interval(again, sureness("training peak", "mps", AFINA_MLX.name))
    whole = peak_interval(kept, sureness("training peak", "mps", MLX.name))
    rows = {
        "weights": again["weights"],
        "adapter": again["adapter"],
        "a batch of 4 x 512": Interval.total(again[name] for name in CARRIED),
        "optimizer": again["optimizer"] + again["gradients"] + again["state to go back to"],
    }
    lines = ["", "| Mistral-7B, INT4, GB | guides | plan, layers computed again |", "|---|---|---|"]
    for name, found in rows.items():
        low, high = DOCUMENTS[name]
        lines.append(f"| {name} | {low:g} to {high:g} | {found.point / GB:.2f} |")
    lines.append(f"| in all | 10 to 11 | {total.point / GB:.1f} ({total.low / GB:.1f} to {total.high / GB:.1f}) |")
    held = f"{whole.point / GB:.1f} ({whole.low / GB:.1f} to {whole.high / GB:.1f})"
    lines.append(f"| mlx-lm, activations kept | 20, a crash | {held} |")
    sys.stdout.write("\n".join(lines) + "\n")
    assert again["weights"].point / 2**30 == pytest.approx(3.8, rel=0.01), "their GB are GiB"
    assert again["adapter"].point / GB == pytest.approx(0.084, rel=0.01), "21 M numbers of 4 bytes; of 2 they are 42 MB"
    assert total.low <= (11 - 2) * GB and total.high >= (10 - 2) * GB, "without what they count for the system"
    assert whole.low <= 20 * GB <= whole.high, "the crash that its author reported"
    assert whole.point > find_device("Apple M1 16GB").usable_bytes > total.point


@pytest.mark.parametrize("profile", profiles(), ids=lambda profile: profile.name)
def test_each_profile_fits_the_mac_that_it_is_for(profile: Profile) -> None:
    """Mistral-7B in 4 bits, as the guides train it, in what macOS lets the GPU hold of 8, 16 and 32 GB."""
    length, tokens = profile.settings["max_length"], profile.settings["batch_tokens"]
    parts = mistral(length, tokens // length, again=profile.settings["checkpoint_activations"])
    size = {"8gb": "Apple M1 8GB", "16gb": "Apple M1 16GB", "32gb": "Apple M1 Pro 32GB"}[profile.name]
    assert sum(part.point for part in parts.values()) < find_device(size).usable_bytes


@pytest.mark.long
@pytest.mark.parametrize("name", measure_mlx.JOBS)
def test_a_peak_of_mlx_lm_is_within_fifteen_per_cent(name: str) -> None:
    """Its own trainer, three steps over random weights, in a process of its own."""
    pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")
    found = measure_mlx.measured_apart(name)
    assert 0.85 <= found["predicted"] / found["measured"] <= 1.15, found
