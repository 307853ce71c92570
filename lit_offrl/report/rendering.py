"""A report as HTML, Markdown and JSON text; all that comes from outside is escaped."""

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from lit_offrl.report import wording
from lit_offrl.report.content import Report
from lit_offrl.report.figures import Drawing
from lit_offrl.report.plot_style import plot_style

CODE = re.compile("`([^`]+)`")
SIGNS = {
    "use": "✓",
    "do not use": "✕",
    "not shown": "?",
    "fail": "✕",
    "watch": "!",
    "ok": "✓",
    "not applicable": "–",
}


def html(report: Report, drawn: Mapping[str, Drawing]) -> str:
    """Render one HTML file that needs nothing from elsewhere and runs no script.

    Args:
        report: What to say.
        drawn: ``drawings(report)``; they are drawn into the file as SVG.
    """
    plots = {name: _figure_element(name, drawing) for name, drawing in drawn.items()}
    forest = plots.pop("estimates", None)
    environment = _environment(autoescape=True)
    template = environment.get_template("report.html.j2")
    return template.render(_context(report), forest=forest, plots=list(plots.values()))


def markdown(report: Report, images: Mapping[str, Drawing]) -> str:
    """Render Markdown with the same facts.

    Args:
        report: What to say.
        images: Path of an image file, relative to the Markdown, to the drawing in it.
    """
    environment = _environment(autoescape=False, finalize=escape_markdown, trim_blocks=True)
    return environment.get_template("report.md.j2").render(
        _context(report),
        images=[(path, one.title, one.description) for path, one in images.items()],
    )


def to_json(report: Report) -> str:
    """Render strict JSON, which has no NaN."""
    return json.dumps(report.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_png(figure: Figure) -> bytes:
    """Draw a figure as a PNG image."""
    file = io.BytesIO()
    with plot_style():
        figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def to_svg(figure: Figure, name: str) -> str:
    """Draw a figure as an SVG element that can stand in an HTML file beside others.

    Args:
        figure: What to draw.
        name: Makes the ids within the element differ from those of other figures.
    """
    file = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with plot_style(), matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata=no_metadata)
    text = file.getvalue()
    # HTML has no use for the prologue, and ids such as figure_1 would stand in each figure
    return re.sub(r'<g id="[^"]*"', "<g", text[text.index("<svg") :])


def escape_markdown(value: object) -> object:
    r"""Keep a value from being read as Markdown or HTML, except for `code`, on one line.

    >>> print(escape_markdown("a|b *c* <d> `x_1`"))
    a\|b \*c\* &lt;d> `x_1`
    """
    if isinstance(value, Markup):
        return value
    plain_and_code = CODE.split(" ".join(str(value).split()))
    plain, code = plain_and_code[::2], plain_and_code[1::2]
    plain = [one.replace("&", "&amp;").replace("<", "&lt;") for one in plain]
    plain = [re.sub(r"([\\`*\[\]|~#])", r"\\\1", one) for one in plain]
    spans = ["`" + one.replace("|", "\\|") + "`" for one in code]
    return "".join(one for pair in zip(plain, [*spans, ""], strict=True) for one in pair)


def mark_code(text: str) -> Markup:
    """Escape text for HTML, and set what stands between backticks as code.

    >>> print(mark_code("raise `cql_alpha` > 1"))
    raise <code>cql_alpha</code> &gt; 1
    """
    return Markup(CODE.sub(r"<code>\1</code>", str(escape(text))))


def _environment(**options: Any) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        lstrip_blocks=True,
        **options,
    )
    environment.filters["code"] = mark_code
    words = ("number", "span", "measured", "status", "details")
    environment.filters |= {name: getattr(wording, name) for name in words}
    return environment


def _context(report: Report) -> dict[str, Any]:
    """What both templates show beside the report itself."""
    return {
        "report": report,
        "keys": wording.key_numbers(report),
        "groups": report.findings_by_verdict(),
        "level": wording.percent(report.level),
        "signs": SIGNS,
    }


def _figure_element(name: str, drawing: Drawing) -> Markup:
    return Markup(
        '<figure><div role="img" aria-label="{title}: {description}">{svg}</div>'
        "<figcaption>{description}</figcaption></figure>"
    ).format(
        title=drawing.title,
        description=drawing.description,
        svg=Markup(to_svg(drawing.figure, name)),
    )
