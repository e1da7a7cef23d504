"""How the gallery runs the examples: quickly, and with the picture that each writes to ``--figure``."""

import os
import shutil
from pathlib import Path
from typing import Any

from sphinx_gallery.scrapers import figure_rst

NOTE = """
.. note::

   This page was built with ``--quick``, which goes through all the code in seconds: output and picture show that it runs, and
   nothing else. What the whole run shows is said above.
"""


def figure_of(script_vars: dict[str, Any]) -> Path:
    """Say where an example's picture is written: beside its page."""
    return Path(script_vars["target_file"]).with_suffix(".figure.png")


def reset_argv(gallery_conf: dict[str, Any], script_vars: dict[str, Any]) -> list[str]:
    """Give an example the arguments of a quick run."""
    return ["--quick", *reset_argv_full(gallery_conf, script_vars)]


def reset_argv_full(_gallery_conf: dict[str, Any], script_vars: dict[str, Any]) -> list[str]:
    """Give an example the arguments of a whole run."""
    return ["--figure", os.path.relpath(figure_of(script_vars), Path(script_vars["src_file"]).parent)]


def scraper_full(_block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Put the picture that the example has written on its page."""
    figure = figure_of(block_vars)
    if not figure.exists():
        return ""
    target = next(block_vars["image_path_iterator"])
    shutil.move(figure, target)
    return figure_rst([target], gallery_conf["src_dir"])


def scraper(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Do so, and say that the run was a quick one."""
    found = scraper_full(block, block_vars, gallery_conf)
    return found + NOTE if found else ""
