"""A thought read out of an answer, as it comes: between the marks that the chat template writes around it."""

from __future__ import annotations

from afina.model.generate.text_stream import held_back


class Thought(str):
    """A piece of what an answer thinks; clients get it apart from what it says."""

    __slots__ = ()


class ThoughtReader:
    """Splits an answer into its thought and the rest. A thought that never ends is one to the end.

    Args:
        marks: what stands before and after a thought.
        opens: what stands before an answer that does not think, and is no part of it.
        opened: whether the prompt ended with the first mark.

    >>> reader = ThoughtReader(("<think>", "</think>"))
    >>> reader.add("<thi"), reader.add("nk>\\nOn the"), reader.add(" coast.\\n</thin"), reader.add("k>\\n\\nFaro")
    ([], ['On the'], [' coast.'], ['Faro'])
    """

    def __init__(self, marks: tuple[str, str], opens: str = "", *, opened: bool = False) -> None:
        self.marks, self.opens = marks, opens
        self._inside = self._begun = opened
        self._held = ""
        self._first = True
        """Whether white space at the beginning is still the template's."""

    def add(self, text: str) -> list[str]:
        """What this text makes ready: thoughts as :class:`Thought`."""
        self._held += text
        if not self._begun and not self._begin():
            return []
        if not self._inside:
            return self._give(len(self._held))
        end = self._held.find(self.marks[1])
        if end < 0:
            seen = len(self._held) - held_back(self._held, [self.marks[1]])
            return self._give(len(self._held[:seen].rstrip()), Thought)
        ready = self._give(len(self._held[:end].rstrip()), Thought)
        self._held = self._held.partition(self.marks[1])[2]
        self._inside, self._first = False, True
        return ready + self._give(len(self._held))

    def finish(self) -> list[str]:
        """The rest."""
        return self._give(len(self._held), Thought if self._inside else str)

    def _begin(self) -> bool:
        """Whether it can be told how the answer begins."""
        start = self._held.lstrip()
        marks = [each for each in (self.marks[0], self.opens) if each]
        if any(each.startswith(start) and each != start for each in marks):
            return False
        self._begun = True
        if mark := next((each for each in marks if start.startswith(each)), ""):
            self._inside, self._held = mark == self.marks[0], start[len(mark) :]
        else:
            self._first = False
        return True

    def _give(self, length: int, kind: type[str] = str) -> list[str]:
        given, self._held = self._held[:length], self._held[length:]
        if self._first:
            given = given.lstrip()
            self._first = not given
        return [kind(given)] if given else []
