"""The site: `make docs` builds docs/_build/html, with warnings as errors."""

import inspect
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

REPOSITORY = "jaxgen/jaxgen"
"""Owner and name on GitHub, where Colab finds the notebooks of docs/colab."""

project = "jaxgen"
author = "the jaxgen authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "colab", "templates"]
html_theme = "sphinx_book_theme"
html_title = "jaxgen"
html_theme_options = {
    "repository_url": f"https://github.com/{REPOSITORY}",
    "repository_branch": "main",
    "path_to_docs": "docs",
    "use_repository_button": True,
}
myst_enable_extensions = ["dollarmath", "substitution"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 180
nb_execution_in_temp = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # they stand in the signature
autodoc_default_options = {"members": True, "show-inheritance": True}
# Files beside the site that its pages link to are not pages.
suppress_warnings = ["myst.xref_missing"]


def as_written(app, what, name, obj, options, lines):
    """Docstrings are plain text with shapes and equations, no reStructuredText: they are shown as they are written."""
    text = inspect.cleandoc("\n".join(lines))
    lines[:] = ["::", "", *(f"    {line}" for line in text.splitlines()), ""] if text else []


def link_to_colab(app, docname, source):
    """Puts a link to the notebook in Colab below the title of a guide that runs code."""
    if docname.startswith("guides/") and "```{code-cell}" in source[0]:
        notebook = f"{REPOSITORY}/blob/main/docs/colab/{docname.removeprefix('guides/')}.ipynb"
        link = f"[Open in Colab](https://colab.research.google.com/github/{notebook})"
        source[0] = re.sub(r"^(# .+)$", rf"\1\n\n{link}", source[0], count=1, flags=re.MULTILINE)


def setup(app):
    app.connect("source-read", link_to_colab)
    app.connect("autodoc-process-docstring", as_written)
