"""Sphinx settings; ``python -m sphinx -W --keep-going docs build/docs`` builds the site.

Without ``-D plot_gallery=0`` the examples are run with ``--quick``; with ``-t full`` they are run as they are. Nothing is
fetched.
"""

import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

import lightning_interactions

sys.path.insert(0, str(Path(__file__).parent))  # gallery_build

# Lightning's own use of a torch interface, which would stand in the output of each example.
warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")

project = "lightning-interactions"
author = f"{project} contributors"
release = metadata.version(project)

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_templates"]
templates_path = ["_templates"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"{project} {release}"
html_math_renderer = "mathml"
html_copy_source = False
html_show_copyright = False
pygments_style = "default"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # as code hosts make them

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # what Lightning says of its hooks
autodoc_default_options = {"members": True, "show-inheritance": True}
autosummary_imported_members = True
autosummary_context = {"names_of_the_root": lightning_interactions.__all__}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # they stand in the signature
napoleon_custom_sections = [
    ("Source", "notes_style"),
    ("Returns", "notes_style"),  # types stand in signatures: what is before a colon is no type
]
maximum_signature_line_length = 88

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "generated/gallery",
    "filename_pattern": r"/\d\d_",
    "ignore_pattern": r"(^|/)[a-z]\w*\.py$",
    "within_subsection_order": "FileNameSortKey",
    "reset_argv": "gallery_build.reset_argv_full" if tags.has("full") else "gallery_build.reset_argv",  # type: ignore[name-defined]  # noqa: F821
    "image_scrapers": ("gallery_build.scraper_full" if tags.has("full") else "gallery_build.scraper",),  # type: ignore[name-defined]  # noqa: F821
    "backreferences_dir": None,
    "download_all_examples": False,
    "notebook_extensions": set(),  # the examples have a command line
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
}


MATHML = {
    "\N{REVERSE SOLIDUS OPERATOR}": "\N{SET MINUS}",  # which fonts have
    "<mo>\N{DIAMETER SIGN}</mo>": "<mi>\N{EMPTY SET}</mi>",
    '<mo stretchy="false">|</mo>': "<mi>|</mi>",  # bars are no operators, which have space around them
    '<mo class="mathopen">|</mo>': "<mi>|</mi>",
    "<mo>|</mo>": "<mi>|</mi>",
}


def mathml(node: nodes.math | nodes.math_block, *, as_block: bool = False) -> str:
    """Write an equation as MathML, which browsers draw without scripts or fonts of their own."""
    drawn = tex2mathml(node.astext(), as_block=as_block)
    for before, after in MATHML.items():
        drawn = drawn.replace(before, after)
    return drawn


def visit_math(self: HTML5Translator, node: nodes.math) -> None:
    """Write an equation within a line."""
    self.body.append(mathml(node))
    raise nodes.SkipNode


def visit_math_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write an equation of its own line."""
    self.body.append(f'<div style="overflow-x: auto; padding: 0.6em 0">{mathml(node, as_block=True)}</div>')
    raise nodes.SkipNode


def keep_colons(_app: Sphinx, what: str, _name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
    """Put back what napoleon has taken from before the first colon of a property's docstring, as if it were a type."""
    taken = [line for line in lines if what in ("attribute", "property") and line.startswith(":type: ")]
    for line in taken:
        lines.remove(line)
        lines[0] = f"{line.removeprefix(':type: ')}: {lines[0]}"


def setup(app: Sphinx) -> None:
    """Let docutils draw the equations, and docstrings keep their colons."""
    app.connect("autodoc-process-docstring", keep_colons, priority=600)  # after napoleon
    app.add_html_math_renderer("mathml", inline_renderers=(visit_math, None), block_renderers=(visit_math_block, None))
