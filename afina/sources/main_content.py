"""What of a page is its main content, and what stands around it: bars, menus, banners, buttons, notices.

In this order, each with its own reason in the ledger:

1. **Landmarks.** Where a page has ``<main>`` (or ``role="main"``; else one ``<article>``) and that holds most of the
   text, all that stands outside of it is left out, but the page's title. A page without landmarks stays whole.
2. **What an element is**: navigation, search, dialogs, buttons and lists to choose from.
3. **What its classes say** (copy buttons, line numbers, breadcrumbs, cookie notices and so on), as far as its text
   agrees: a menu is made of links, a counter of digits. No class can take away a title or half of a page.
4. **What it says**: "Was this page helpful?", or a cookie notice with its button.
5. **What most pages of the source repeat** word for word (:mod:`afina.sources.repeated`).

What is not certain stays.
"""

from __future__ import annotations

import re
from collections.abc import Set
from functools import lru_cache
from typing import Any

from afina.text.document import visible

_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_ROLES = {
    "navigation": "navigation",
    "banner": "header",
    "contentinfo": "footer",
    "search": "search",
    "dialog": "dialog",
    "alertdialog": "dialog",
    "menu": "menu",
    "menubar": "menu",
    "toolbar": "menu",
    "tooltip": "tooltip",
}
_TAGS = {"nav": "navigation", "search": "search", "dialog": "dialog", "select": "form field", "textarea": "form field"}
_OUTSIDE = {"header": "header", "footer": "footer", "aside": "sidebar"}
REPEATABLE = frozenset(
    {"aside", "blockquote", "details", "div", "dl", "footer", "form", "header", "ol", "p", "section", "ul"}
)
"""Elements that are compared between pages. Headings, code and tables are not: manuals repeat them by design."""
_QUOTED = 60
SHORTEST_REPEATED = 30
"""Visible characters; "See also" and "Returns nothing." belong to many pages rightly."""


_NAMES = {
    "line numbers": r"line-?no|line-?nos|line-?numbers?|line-?nums?|lineno-?div|ln|lnt|gutter|blob-num",
    "cookie notice": r"(?:cookies?|consent|gdpr|lgpd|ccpa)-?(?:banner|bar|notice|notification|popup|consent|message"
    r"|dialog|overlay|modal|wall|law|info|prompt|alert|warning)|(?:md|cmp|tcf)-consent|onetrust|cybot-?cookiebot"
    r"|cc-window|didomi|truste",
    "skip link": r"skip|skip-?link|skip-?nav|skip-?to-?(?:main|content)",
    "heading link": r"header-?link|hash-?link|heading-?link|perma-?link|header-?anchor|anchor(?:-?js)?(?:-?link)?",
    "search": r"search",
    "copy": r"copy|copy-?btn|copy-?button|btn-copy|clipboard(?:-copy)?|zeroclipboard",
    "breadcrumbs": r"breadcrumbs?",
    "links": r"crumbs|pagination|paginator|pager|prev-?next|next-?prev|page-nav|nav|navbar|navigation|subnav"
    r"|topnav|menu|side-?bar|side-?nav|tocs?|table-of-contents|on-this-page|page-toc|related|share|sharing|social|tags"
    r"|languages?|versions?",
    "feedback": r"feedback|helpful|was-this-helpful|page-rating|rate-this-page|doc-rating",
    "edit link": r"edit-?(?:this-?)?(?:page|link)|edit-on-git(?:hub|lab)|edit-?me|improve-this-page",
    "date of change": r"last-?(?:updated|modified)",
    "version banner": r"(?:doc-)?version-?(?:banner|warning|notice)|outdated-?(?:banner|warning|notice)"
    r"|announcement-?bar",
    "version switcher": r"(?:version|language|lang|locale)-?(?:switch|switcher|select|selector|picker|dropdown|menu)"
    r"|rst-versions",
    "advertisement": r"advert(?:isement)?s?|adsbygoogle|carbon-?ads?|ethical-?ads?",
    "hidden (for screen readers)": r"sr-only|visually-?hidden|screen-?reader-?text",
    "link to source": r"viewcode-link|view-?source",
}
"""Kind -> names that a class of such elements contains as whole words."""
_CLASSES = {kind: re.compile(rf"(?:^|-)(?:{names})(?:-|$)") for kind, names in _NAMES.items()}
_LONGEST = {
    "breadcrumbs": 300,
    "feedback": 400,
    "edit link": 100,
    "date of change": 100,
    "version banner": 600,
    "version switcher": 2000,
    "advertisement": 600,
    "hidden (for screen readers)": 200,
    "link to source": 40,
}
"""Kinds that are known by the class alone -> the most visible characters that such an element may have."""
_HELPFUL = re.compile(
    r"(?:was|is|were|did|do|have)\s(?:this|you|these|we)\b.{0,50}\b(?:helpful|useful|help you)\b.{0,40}"
    r"|(?:est[ae]|isto|isso)\b.{0,40}\b(?:foi |é )?(?:útil|úteis|ajud\w+)\b.{0,40}"
    r"|(?:achou|considera)\b.{0,40}\b(?:útil|úteis)\b.{0,40}",
    re.I,
)
_COOKIE_TEXT = re.compile(r"\bcookies?\b", re.I)
_AGREE = re.compile(
    r"(?:accept|agree|allow|got it|ok(?:ay)?|i understand|reject|decline|dismiss|aceit\w+|concord\w+|recus\w+|rejeit\w+"
    r"|entendi|permit\w+)\b",
    re.I,
)


class PageFurniture:
    """Which elements of one page are left out, asked from the root down.

    Args:
        tree: the page's root, an lxml element of plain HTML.
        repeated: texts that most pages of the source have; see :mod:`afina.sources.repeated`.
    """

    def __init__(self, tree: Any, repeated: Set[str] = frozenset()) -> None:
        self._repeated = repeated
        self._main: set[Any] = set()
        self._above: set[Any] = set()
        body = tree.find("body")
        self._characters = 0 if body is None else _characters(body)
        self._characters -= sum(_characters(each) for each in tree.xpath("//body//script | //body//style"))
        self._choose_main(tree)

    def reason(self, element: Any) -> str | None:
        """Why an element is left out with all below it; None where it stays.

        Everything above it has to have stayed.
        """
        role = (element.get("role") or "").lower()
        if element.tag == "head" or role.startswith("doc-") or element in self._main or element in self._above:
            return None
        named = self._by_kind(element, role) or self._by_class(element) or _by_text(element)
        if named is None and element.getparent() in self._above:
            return _OUTSIDE.get(element.tag, "outside of the main content")
        if named is None and self._repeated and element.tag in REPEATABLE:
            text = signature(element)
            if text in self._repeated and not self._holds_content(element):
                return f"repeated on most pages: {text if len(text) <= _QUOTED else text[:_QUOTED] + '…'}"
        return named

    def is_outside(self, element: Any) -> bool:
        """Whether text that stands in this element itself is outside of the main content."""
        return element in self._above

    def _choose_main(self, tree: Any) -> None:
        """Take the main landmark, where it holds as much text as what would be left out without a reason of its own."""
        mains = [each for each in tree.xpath(_MAINS) if not _is_hidden(each)]
        outermost = [each for each in mains if not any(above in mains for above in each.iterancestors())]
        share = 1
        if not outermost:
            outermost, share = tree.xpath("//article[not(ancestor::article)]"), 2
            if len(outermost) != 1:
                return
        inside = sum(_characters(each) for each in outermost)
        if inside and inside >= share * self._uncertain(tree, set(outermost)):
            titled = any(each.find(".//h1") is not None for each in outermost)
            self._main = set(outermost) | (set() if titled else set(tree.xpath(_TITLES)))
            self._above = {above for each in self._main for above in each.iterancestors()}

    def _uncertain(self, tree: Any, mains: set[Any]) -> int:
        """Characters outside of `mains` that nothing but their place tells from content."""
        from lxml import etree

        total = 0
        walk = etree.iterwalk(tree, events=("start", "end"))
        for event, element in walk:
            if event == "end":
                total += visible(element.tail or "")
            elif element.tag in ("head", "script", "style", "noscript", "template") or element in mains:
                walk.skip_subtree()
            elif element.tag in _OUTSIDE or _is_hidden(element) or self._by_kind(element, element.get("role") or ""):
                walk.skip_subtree()
            elif self._by_class(element) or _by_text(element):
                walk.skip_subtree()
            else:
                total += visible(element.text or "")
        return total

    def _by_kind(self, element: Any, role: str) -> str | None:
        tag = element.tag
        if role == "banner" or (tag == "header" and not _in_content(element)):
            bar = element.find(".//nav") is not None or _is_links(element)
            return "header" if bar and element.find(".//h1") is None else None
        if role == "contentinfo" or tag == "footer":
            notes = element.xpath(".//pre|.//table|.//*[starts-with(@role, 'doc-') or contains(@class, 'footnote')]")
            closing = role == "contentinfo" or not _in_content(element) or _is_links(element)
            return "footer" if closing and not notes and not self._holds_content(element) else None
        if role == "complementary" or tag == "aside":
            return "sidebar" if _is_links(element) else None
        if tag == "button" or role == "button":
            label = element.get("aria-expanded") or element.get("aria-controls") or role == "tab"
            headed = any(above.tag in (*_HEADINGS, "summary", "dt") for above in element.iterancestors())
            return None if label or headed else "button"
        named = _TAGS.get(tag) or _ROLES.get(role)
        return named if named and not self._holds_content(element) else None

    def _by_class(self, element: Any) -> str | None:
        tag = element.tag
        said = _said_by(_names(element)) if tag not in ("html", "body", *_HEADINGS) else None
        if not said:
            return None
        if "line numbers" in said and is_line_numbers(element):
            return "line numbers"
        if self._holds_content(element):
            return None
        if "cookie notice" in said:
            return "cookie notice"
        if "search" in said and tag == "form":
            return "search"
        if "skip link" in said and tag == "a" and (element.get("href") or "").startswith("#"):
            return "skip link"
        if "heading link" in said and tag == "a" and _beside_a_title(element):
            return "heading link"
        characters = _characters(element)
        if "copy" in said and characters <= 20:
            return "button"
        for reason, longest in _LONGEST.items():
            if reason in said and characters <= longest:
                return reason
        return "navigation" if "links" in said and _is_links(element) else None

    def _holds_content(self, element: Any) -> bool:
        """Whether an element is too much to be taken away by its class: it has the page's title or half of its text."""
        if element.find(".//h1") is not None or element.find(".//main") is not None:
            return True
        return 2 * _characters(element) > self._characters


_MAINS = "//main | //*[@role='main']"
_TITLES = "//h1[not(ancestor::nav or ancestor::aside or ancestor::footer or ancestor::dialog or ancestor::*[@hidden])]"


def signature(element: Any) -> str:
    """What an element says, as it is compared between pages; empty where it is too short to tell."""
    text = " ".join(" ".join(element.xpath(".//text()")).split())
    return text if visible(text) >= SHORTEST_REPEATED else ""


def is_line_numbers(element: Any) -> bool:
    """Whether an element of that class holds nothing but numbers of lines, and is not the code itself."""
    code = element.tag == "code" or element.find(".//code") is not None
    if code or (element.tag == "pre" and not {"lineno", "linenos"} & set((element.get("class") or "").split())):
        return False
    return re.fullmatch(r"[\s\d.:|]*", element.xpath("string()")) is not None


def _names(element: Any) -> tuple[str, ...]:
    """Classes of an element, its id and, of an element of its own making, its tag: in lower case, words apart by ``-``.

    An id that is made from the title below it is the title's anchor, and says nothing.
    """
    names = (element.get("class") or "").split()
    if "-" in element.tag:
        names.append(element.tag)
    if name := element.get("id"):
        title = next((each for each in element.iter(*_HEADINGS)), None)
        if title is None or _words(title.xpath("string()")) != _words(name.replace("-", " ")):
            names.append(name)
    return tuple(re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_+", "-", each).lower() for each in names)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower().replace("_", " "))


@lru_cache(maxsize=4096)
def _said_by(names: tuple[str, ...]) -> frozenset[str]:
    """Which of the kinds of :data:`_CLASSES` the names of an element belong to; pages use the same few names all over.

    >>> sorted(_said_by(("theme-edit-this-page", "sidebar-item")))
    ['edit link', 'links']
    """
    return frozenset(kind for kind, pattern in _CLASSES.items() if any(pattern.search(name) for name in names))


def _characters(element: Any) -> int:
    return visible(element.xpath("string()"))


def _is_links(element: Any) -> bool:
    """Whether most of what an element says are links and buttons."""
    total = _characters(element)
    linked = sum(_characters(each) for each in element.xpath(".//a | .//button | .//option"))
    return 0 < total <= 2 * linked


def _in_content(element: Any) -> bool:
    return any(above.tag in ("main", "article", "section") for above in element.iterancestors())


def _is_hidden(element: Any) -> bool:
    return element.get("hidden") is not None or element.get("aria-hidden") == "true"


def _beside_a_title(link: Any) -> bool:
    """Whether a link stands in a heading (or a term) that says something without it."""
    heading = next((each for each in link.iterancestors(*_HEADINGS, "dt")), None)
    return heading is not None and _characters(heading) > _characters(link)


def _by_text(element: Any) -> str | None:
    """A question about the page itself, or a cookie notice, whatever its classes are."""
    if element.tag not in ("div", "p", "span", "section", "form", "fieldset", "legend", "label", *_HEADINGS):
        return None
    text = " ".join(element.xpath("string()").split())
    if len(text) <= 120 and _HELPFUL.fullmatch(text):
        return "feedback"
    if len(text) <= 1200 and _COOKIE_TEXT.search(text) and element.find(".//h1") is None:
        asked = any(_AGREE.match(each.xpath("string()").strip()) for each in element.iter("button"))
        if asked and element.find(".//main") is None and element.find(".//pre") is None:
            return "cookie notice"
    return None
