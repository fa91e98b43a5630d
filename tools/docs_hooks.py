"""Hooks of the documentation site (`mkdocs.yml`).

Docstrings follow the conventions of transformers, some of which Markdown does not support: [`name`] refers to an
object, and types are written as "`int`, *optional*, defaults to 2". The site shows both as plain code.
"""

import re

_REFERENCE = re.compile(r"\[<code>~?([\w.]+)</code>\]")
_TYPE = re.compile(r"<code>[^<]*\*optional\*[^<]*</code>")


def on_page_content(html: str, **_) -> str:
    """Show [`~package.module.Name`] as `Name`, and types without their markup."""
    html = _REFERENCE.sub(lambda found: f"<code>{found[1].rpartition('.')[2]}</code>", html)

    return _TYPE.sub(lambda found: re.sub(r"[`*]", "", found[0]), html)
