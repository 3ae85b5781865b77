"""The matrix as Markdown: ``docs/architectures.md``."""

from __future__ import annotations

from pathlib import Path

from afina.model.proven import COLUMNS, Cell, Proven

PAGE = Path(__file__).resolve().parents[2] / "docs/architectures.md"
INTRODUCTION = """\
# Architectures

What was measured of each causal family that transformers opens, with a random base as small as it can be that holds
what its architecture does differently: windows shorter than the rows, more experts than a token uses, scaled positions,
capped logits. Written by `make architectures` on {date} with {versions}, on a CPU in 32 bits; do not edit it.
`afina base show BASE` prints the row of a base.

{right} of {all} configurations ({kinds} families) are right in every column. A family that is missing is not refused:
its plan is read from the model itself, and a training compares its loss with the model's own before the first step.

{columns}
"""


def page_of(proven: Proven) -> str:
    """The whole page."""
    notes: list[str] = []
    rows = [
        [f"`{family.name}`", *(_cell(head, family.cells.get(head), notes) for head in COLUMNS), family.what]
        for family in proven.families
    ]
    kinds = {family.model_type for family in proven.families}
    introduction = INTRODUCTION.format(
        date=proven.date,
        versions=", ".join(f"{name} {number}" for name, number in proven.versions.items()),
        right=sum(family.right for family in proven.families),
        all=len(proven.families),
        kinds=len(kinds),
        columns="\n".join(f"- **{head}**: {said}." for head, said in COLUMNS.items()),
    )
    table = [_line(["family", *COLUMNS, "what it does differently"]), _line(["---"] * (len(COLUMNS) + 2))]
    table += [_line(row) for row in rows]
    said = [f"{number}. {note}" for number, note in enumerate(notes, start=1)]
    return "\n".join([introduction, *table, "", "Notes:", "", *said, ""])


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(head: str, cell: Cell | None, notes: list[str]) -> str:
    """A word, and the number of a note where there is more to say."""
    if cell is None:
        return "not measured"
    short = len(cell.said) <= 16
    if cell.state == "right" and short:
        return cell.said or "yes"
    if cell.said not in notes:
        notes.append(cell.said)
    number = notes.index(cell.said) + 1
    word = {"right": "yes", "refused": "refused", "wrong": "**wrong**"}[cell.state]
    if head == "sharing" and cell.state == "right":
        word = "no"
    return f"{word} [{number}]"
