"""What a run found, as text for a terminal."""

from __future__ import annotations

from pathlib import Path

from afina.run import read_json
from afina.units import show_share


def describe_scores(folder: Path) -> str:
    """The before/after table and the verdict of a run, as text."""
    scores = read_json(folder / "scores.json")
    lines = []
    if scores["probes"]:
        wide = max(len(probe["name"]) for probe in scores["probes"]) + 2
        lines.append(f"{'':{wide}}{'questions':>10}{'before':>10}{'after':>10}   95 % interval")
        for probe in scores["probes"]:
            after = probe["after"]
            lines.append(
                f"{probe['name']:{wide}}{probe['n']:>10}{show_share(probe['before']['exact_match']):>10}"
                f"{show_share(after['exact_match']):>10}   {show_share(after['low'])} to {show_share(after['high'])}"
            )
    if scores["loss"]:
        before, after = scores["loss"]["before"], scores["loss"]["after"]
        lines.append(
            f"held-out loss {before['loss']:.3f} -> {after['loss']:.3f} nats per token, "
            f"{before['bits_per_byte']:.3f} -> {after['bits_per_byte']:.3f} bits per byte ({after['tokens']} tokens)"
        )
    if pairs := scores.get("pairs"):
        before, after = pairs["before"], pairs["after"]
        lines.append(
            f"held-out preferences: the better answer is the likelier in {show_share(before['accuracy'])} -> "
            f"{show_share(after['accuracy'])} of {after['pairs']} pairs, by {before['margin']:.3f} -> "
            f"{after['margin']:.3f} nats per token"
        )
    lines += [f"miss: {miss}" for miss in scores["verdict"]["misses"]]
    lines.append(scores["verdict"]["text"])
    return "\n".join(lines)
