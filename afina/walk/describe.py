"""What a run found, as text for a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from afina.evaluate.safety.table import describe_safety
from afina.evaluate.task_table import describe_tasks
from afina.run import read_json
from afina.units import show_share


def describe_scores(folder: Path) -> str:
    """What is wrong with how it writes, the before/after table and the verdict of a run, as text."""
    scores = read_json(folder / "scores.json")
    guarded = scores["guardrails"]
    lines = [
        f"guardrail {name.replace('_', ' ')}: {guarded['before'][name]} -> {found} of {guarded['answers']} answers "
        f"({show_share(found / guarded['answers'])}, at most {show_share(guarded['limits'][name])})"
        for name, found in guarded["after"].items()
        if found or guarded["before"][name]
    ]
    if scores["probes"]:
        wide = max(len(_title(probe)) for probe in scores["probes"]) + 2
        lines.append(f"{'':{wide}}{'questions':>10}{'before':>10}{'after':>10}   95 % interval")
        for probe in scores["probes"]:
            after, key = probe["after"], _SHOWN.get(probe["role"], "exact_match")
            lines.append(
                f"{_title(probe):{wide}}{probe['n']:>10}{show_share(probe['before'][key]):>10}"
                f"{show_share(after[key]):>10}   {show_share(after['low'])} to {show_share(after['high'])}"
            )
    for name, key in (("held-out loss", "loss"), ("of the replay alone", "replay_loss")):
        if scores[key]:
            before, after = scores[key]["before"], scores[key]["after"]
            lines.append(
                f"{name} {before['loss']:.3f} -> {after['loss']:.3f} nats per token, "
                f"{before['bits_per_byte']:.3f} -> {after['bits_per_byte']:.3f} bits per byte "
                f"({after['tokens']} tokens)"
            )
    if pairs := scores.get("pairs"):
        before, after = pairs["before"], pairs["after"]
        lines.append(
            f"held-out preferences: the better answer is the likelier in {show_share(before['accuracy'])} -> "
            f"{show_share(after['accuracy'])} of {after['pairs']} pairs, by {before['margin']:.3f} -> "
            f"{after['margin']:.3f} nats per token"
        )
    lines += describe_tasks(scores)
    lines += describe_safety(scores)
    verdict = scores["verdict"]
    lines += [f"note: {note}" for note in verdict["notes"]]
    lines += [f"miss: {miss}" for miss in verdict["misses"]]
    lines += [f"  {finding}" for finding in verdict["findings"]]
    lines.append(verdict["text"])
    return "\n".join(lines)


_SHOWN = {"unknown": "made_up", "claims": "claims"}


def _title(probe: dict[str, Any]) -> str:
    """A probe's name, and what is counted where that is not what is right."""
    counted = {"unknown": ": made up", "claims": ": claim to know", "versions": ": new version"}
    return str(probe["name"]) + counted.get(probe["role"], "")
