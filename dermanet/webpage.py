"""Pages for people: HTML from a template, in one style, that needs nothing beside itself; and what stands in Markdown."""

import re
from html import escape
from pathlib import Path
from typing import Any

STYLES = Path(__file__).with_name("templates")
"""What the pages of all rooms have in common."""


def rendered(template: Path, **about: Any) -> str:
    """A template filled with what it is `about`. Every text is escaped; a name that the template misses is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([template.parent, STYLES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(template.name).render(**about)


def in_markdown(text: str) -> str:
    """A text as a line of Markdown shows it, also in a table: nothing in it is a tag, a link or the end of a cell."""
    return re.sub(r"([\\`|\[\]])", r"\\\1", escape(" ".join(text.split()), quote=False))
