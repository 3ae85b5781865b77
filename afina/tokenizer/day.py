"""The day that chat templates write: always the same one, so that a model is asked in the words that it learned.

Some templates (Llama 3.2, SmolLM3, gpt-oss) begin each conversation with the day on which they are rendered. A model
that was trained on Monday would be measured, served, exported and verified with other prompts on Tuesday.
"""

from __future__ import annotations

import re
from datetime import datetime

DAY = datetime(2024, 7, 26)
"""What Llama 3.1's and 3.2's own templates write where nobody tells them the day."""
TRAINED_DAY = f"{DAY:%d %b %Y}"
_ASKED = re.compile(r"""\bstrftime_now\(\s*(["'])([^"'\\]*)\1\s*\)""")


def strftime_day(form: str) -> str:
    """The day as a template asks for it.

    >>> strftime_day("%d %b %Y")
    '26 Jul 2024'
    """
    return DAY.strftime(form)


def on_one_day(template: str) -> str:
    """A chat template that asks no clock.

    >>> on_one_day("{%- set date_string = strftime_now('%d %b %Y') %}")
    "{%- set date_string = '26 Jul 2024' %}"
    """
    return _ASKED.sub(lambda found: f"{found[1]}{strftime_day(found[2])}{found[1]}", template)


def asks_the_day(template: str) -> bool:
    """Whether a template writes the day on which it is rendered.

    >>> asks_the_day("{{ strftime_now('%Y') }}"), asks_the_day("{{ date_string }}")
    (True, False)
    """
    return _ASKED.search(template) is not None
