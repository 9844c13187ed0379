"""The documentation's settings. It is built offline: no fonts or scripts come from elsewhere."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import generate  # noqa: E402

generate.write_all(HERE / "reference" / "generated")

project = "canfar-hub"
author = "the canfar-hub developers"
copyright = f"2026, {author}"

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "reference/generated"]

html_theme = "furo"
html_title = "canfar-hub"
html_copy_source = False
html_show_sourcelink = False
