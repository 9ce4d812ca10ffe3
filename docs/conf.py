"""How Sphinx builds the documentation: ``make docs``."""

import os
import re
import sys
from pathlib import Path

import django

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# Autodoc imports the models, so Django needs settings.
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.demo.project.settings")
django.setup()

from taskstate import __version__  # noqa: E402

project = "dramatiq-taskstate"
author = "The dramatiq-taskstate authors"
project_copyright = author
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinxcontrib.mermaid",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["screenshots"]
nitpicky = False
# Dashes only: quotation marks stay as they are in the code.
smartquotes_action = "D"

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist"]
# Links to headings, as on the pages of a repository.
myst_heading_anchors = 3
# Mermaid's blocks are the same here and on the pages of a repository.
myst_fence_as_directive = ["mermaid"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
# Don't list parameters that have only a type.
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"dramatiq-taskstate {release}"
html_static_path = []
linkcheck_ignore = [r"http://(localhost|127\.0\.0\.1)"]


def rewrite_parameter_headings(*arguments):
    """Move what a docstring says about all parameters, in parentheses after "Parameters", into a
    sentence before them.  Napoleon does not recognize such a heading."""
    lines = arguments[-1]
    for index, line in enumerate(lines):
        heading = re.fullmatch(r"Parameters \(each (.+)\):", line)
        if heading:
            lines[index : index + 1] = [f"Each parameter {heading[1]}.", "", "Parameters:"]


def setup(app):
    # Before napoleon, whose priority is 500.
    app.connect("autodoc-process-docstring", rewrite_parameter_headings, priority=400)
