"""How ``make docs`` builds the pages of this folder; warnings are errors there."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import version as version_of
from typing import Any

project = "tgext.asyncjob"
author = "the tgext.asyncjob authors"
release = version = version_of("tgext.asyncjob")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_title = f"tgext.asyncjob {release}"
html_copy_source = False
html_show_copyright = False
add_module_names = False  # the headings of api.rst have them
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

# Every reference must lead somewhere. Not checked: names of other packages, whose pages are on
# the network, and types in signatures by the modules in which they are.
nitpicky = True
PUBLIC = r"tgext\.asyncjob\.(?:(?:executors|slackers|looppool|taskrunners)\.)?\w+"
nitpick_ignore_regex = [("py:.*", rf"(?!{PUBLIC}$).*")]

autodoc_default_options = {"member-order": "bysource"}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"


def setup(app: Any) -> None:
    """Have Sphinx read docstrings as this project writes them."""
    app.connect("autodoc-process-docstring", show_parameters)


def show_parameters(
    _app: Any, _what: str, _name: str, found: Any, _options: Any, lines: list[str]
) -> None:
    """Turn ``name: what it is.`` into a field of reST where *name* is a parameter.

    A field ends where a line begins a sentence; "Raises ..." is a paragraph of its own.
    """
    try:
        names = "|".join(inspect.signature(found).parameters)
    except (TypeError, ValueError):  # an attribute, or an exception
        names = ""
    begins_field = re.compile(rf"(?:^|(?<=[.;)] ))({names or '(?!)'}): ")
    shown: list[str] = []
    in_field = False
    for number, line in enumerate(lines):
        before, *fields = begins_field.split(line)
        is_sentence = number > 0 and lines[number - 1].endswith(".") and line[:1].isupper()
        if not line or line.startswith("Raises ") or (in_field and is_sentence):
            shown.append("")
            in_field = False
        if before:
            shown.append(f"    {before.strip()}" if in_field else before)
        for name, text in zip(fields[::2], fields[1::2], strict=True):
            if not in_field:
                shown.append("")
            shown.append(f":param {name}: {text}")
            in_field = True
    lines[:] = shown
