"""The settings of Sphinx: `sphinx-build -W --keep-going docs OUT` builds the site."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import rcmgr

project = "rcmgr"
author = "the founders of rcmgr"
project_copyright = "the founders of rcmgr"
version = release = rcmgr.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_click",
    "sphinx_copybutton",
    "plain_docstrings",
]
exclude_patterns = ["_build", "fail2ban/*", "grafana/*", "README.md"]
# A single backtick in a docstring links to a public name, and is plain code for other text.
default_role = "py:obj"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

autodoc_typehints = "none"
autodoc_member_order = "groupwise"
# a default value as its name in the source: the repr of one has 20,000 characters
autodoc_preserve_defaults = True

# "" in a docstring is an empty text, and no pair of quotation marks
smartquotes = False

html_theme = "furo"
html_title = f"rcmgr {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "source_repository": "https://github.com/rcmgr/rcmgr/",
    "source_branch": "main",
    "source_directory": "docs/",
}
copybutton_prompt_text = "$ "
copybutton_exclude = ".linenos, .gp"
linkcheck_timeout = 20
