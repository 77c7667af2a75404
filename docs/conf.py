"""The site: `make docs` builds docs/_build/html, with warnings as errors."""

import inspect
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

REPOSITORY = "jaxgen/jaxgen"  # owner/name on GitHub, for the links that open notebooks in Colab

project = "jaxgen"
author = "the jaxgen authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "templates", "figures.py"]
html_theme = "sphinx_book_theme"
html_title = "jaxgen"
html_theme_options = {
    "repository_url": f"https://github.com/{REPOSITORY}",
    "path_to_docs": "docs",
    "use_repository_button": True,
    "launch_buttons": {"colab_url": "https://colab.research.google.com"},
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


def setup(app):
    app.connect("autodoc-process-docstring", as_written)
