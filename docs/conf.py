"""The site: ``bash reproduce.sh site`` writes README, chapters, guides and API to ``site/``.

Sources stay where a code host shows them, so the source folder is the repository's root and this
folder holds the settings alone. Nothing is executed and nothing is loaded from elsewhere: formulas
become MathML by docutils' own converter.
"""

import re
import sys
from pathlib import Path

import nbformat
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

project = "κ under the microscope"
author = "the kappa_lib contributors"
root_doc = "README"
include_patterns = [
    "README.md",
    "article.md",
    "docs/*.md",
    "notebooks/0*.ipynb",
    "results/reference/README.md",
    "results/reference/*/REPORT.md",
]
exclude_patterns = [".*", "site*", "**/runs", "kappa_lib", "tests", "*.egg-info"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"
suppress_warnings = ["myst.header"]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_custom_sections = [("Shapes", "returns_style")]

html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_extra_path = ["index.html"]
html_context = {"default_mode": "auto"}
html_math_renderer = "mathml"
html_copy_source = False
html_domain_indices = False
html_show_sphinx = False
html_sidebars = {"**": ["globaltoc.html"]}
html_theme_options = {
    "navbar_center": [],
    "globaltoc_maxdepth": 1,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "default",
    "pygments_dark_style": "github-dark",
}

CONTENTS = """
```{toctree}
:hidden:
:caption: Chapters
:glob:
notebooks/*
```
```{toctree}
:hidden:
:caption: Guides
docs/python
docs/command
docs/own-speech
docs/profiles
docs/paper-size
docs/speed
docs/contributing
```
```{toctree}
:hidden:
:caption: Evidence
docs/claims
docs/methods
docs/findings
docs/prior-results
The article <article>
results/reference/README
```
```{toctree}
:hidden:
:caption: Reports
The run of reproduce.sh <results/reference/laptop/REPORT>
The study <results/reference/study/REPORT>
```
```{toctree}
:hidden:
:caption: Reference
docs/api
```
"""


def complete(app, name, source):
    """Give the README the contents of the site, and the page of claims its tables."""
    if name == root_doc:
        source[0] += CONTENTS
    if name == "docs/claims":
        from kappa_lib import paths
        from kappa_lib.evidence import claims, report

        # Every claim: its verdict on the study, what was measured, and where.
        parts = report.by_importance(claims.load(paths.REFERENCE / "study"))
        for title, found in parts.items():
            source[0] += f"## {title}\n\n{report.table('verdicts', found, '../notebooks/')}\n\n"


def name_cells(app, tree):
    """Let links lead to a notebook's code cells, and give its figures their alternative texts."""
    name = app.env.current_document.docname
    path = Path(app.env.doc2path(name))
    if path.suffix != ".ipynb":
        return
    cells = nbformat.read(path, as_version=4).cells
    for node in tree.findall(lambda node: "cell_index" in getattr(node, "attributes", ())):
        cell = cells[node["cell_index"]]
        node["ids"].append(cell.id)
        app.env.metadata[name]["myst_slugs"][cell.id] = (None, cell.id, cell.id)
        shown = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        for image, output in zip(node.findall(nodes.image), shown, strict=True):
            image["alt"] = output.metadata.get("image/png", {}).get("alt", _heading(image))


def _heading(node):
    while not isinstance(node, nodes.section):
        node = node.parent
    return f"Figure: {node.next_node(nodes.title).astext()}"


def math(writer, node):
    """A formula as MathML, its number to the right."""
    block = isinstance(node, nodes.math_block)
    tag = re.search(r"\\tag\{(.*?)\}", node.astext())
    tex = node.astext().replace(tag[0], "") if tag else node.astext()
    tex = re.sub(r"\\tfrac\s*(\w)\s*(\w)", r"\\tfrac{\1}{\2}", tex)  # docutils takes both for one
    formula = tex2mathml(tex, as_block=block)
    number = f"<span>({tag[1]})</span>" if tag else ""
    writer.body.append(f'<div class="formula">{formula}{number}</div>' if block else formula)
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (math, None), (math, None))
    app.connect("source-read", complete)
    app.connect("doctree-read", name_cells)
