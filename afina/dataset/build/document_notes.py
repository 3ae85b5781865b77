"""What documents tell beside their examples: facts to ask about, and which files belong together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from afina.dataset.build.groups import Groups
from afina.dataset.questions.facts import find_facts
from afina.dataset.questions.from_structure import QuestionMaker
from afina.recipe import Recipe
from afina.text.document import Document, map_document
from afina.text.lines import file_lines
from afina.text.personal_data import mask
from afina.text.sections import split_sections


@dataclass
class Notes:
    """Sees every document, after cleaning, in one process: a fact may stand in two files.

    Where the recipe masks or drops personal data, documents are masked before they are read here.
    """

    recipe: Recipe
    groups: Groups = field(default_factory=Groups)
    rows: int = 0
    """Examples that the documents gave so far."""
    questions: QuestionMaker = field(init=False)

    def __post_init__(self) -> None:
        self.questions = QuestionMaker(self.recipe)

    @staticmethod
    def wanted(recipe: Recipe) -> bool:
        """Whether a recipe asks for anything that is noted here."""
        return bool(recipe.dataset.questions.make) or recipe.dataset.split_by == "file"

    def add(self, document: Document, first: int) -> None:
        """Note what a document tells, for questions and for the split.

        Args:
            first: the document's examples are those from this one on.
        """
        settings = self.recipe.dataset
        by_file, make = settings.split_by == "file", settings.questions.make
        if not (document.text.strip() or document.messages):
            return
        in_file = file_lines(document, Path(self.recipe.root))
        if settings.personal_data != "keep":
            document = masked_document(document)
        prose = document.kind in ("markdown", "text")
        facts = list(find_facts(document, settings.language)) if prose and (by_file or "facts" in make) else []
        if by_file:
            self.groups.add(document, facts)
        if make and not self.recipe.sources[document.source].replay:
            cut = prose and ("sections" in make or "changes" in make)
            sections = split_sections(document, self.recipe.section_chars) if cut else []
            self.questions.add(document, sections, facts, in_file, range(first, self.rows))


def masked_document(document: Document) -> Document:
    """The document with its personal data masked; every line stays where it is."""
    return replace(
        map_document(document, lambda text: mask(text).text),
        title=mask(document.title).text,
        text=mask(document.text, keep_lines=True).text,
        meta={name: mask(value).text for name, value in document.meta.items()},
    )
