"""Pictures for a web page: matplotlib drawings as inline SVG that follows the page's colours, light or dark.

A drawing uses the colours named here; in the SVG they become CSS variables (``--ink``, ``--faint``, ``--paper``,
``--s0`` ...), which the page defines. Text stays text. The same drawing gives the same bytes.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import Any

from mmcl_edge.errors import MissingExtraError

INK = "#010203"
"""Text and axes; stands for ``var(--ink)``."""
FAINT = "#010204"
"""Grid lines and empty cells; stands for ``var(--faint)``."""
PAPER = "#010205"
"""The background; stands for ``var(--paper)``."""
SERIES = tuple(f"#0102{16 + number:02x}" for number in range(7))
"""Colours of learners; stand for ``var(--s0)`` and so on."""
LIGHT = ("#ffffff", "#1b2026", "#d5d9df", "#0078ab", "#a03a00", "#006e4e", "#a84d7e", "#947500", "#5a47b5", "#4b4861")
"""What stands for ``PAPER``, ``INK``, ``FAINT`` and ``SERIES`` on light paper.

Those of ``SERIES`` are kept apart, for colour-blind people too, and stand out from the paper.
"""
DARK = ("#1a1e24", "#e8ebef", "#3a424d", "#71bcfd", "#fb8b4a", "#2fd399", "#da85c2", "#f0c23c", "#a089ff", "#becada")
"""The same on dark paper."""
ENLARGED = 1.75
"""At most so many pixels of the page become one unit of a picture (72 to the inch)."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
"""Line styles as matplotlib takes them."""

_STYLE: Any = {
    "svg.hashsalt": "mmcl-edge",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "figure.facecolor": "none",
}
_VARIABLES = {PAPER: "--paper", INK: "--ink", FAINT: "--faint"} | {
    color: f"--s{number}" for number, color in enumerate(SERIES)
}


@dataclass(frozen=True, slots=True)
class Pen:
    """How one learner is drawn everywhere: colour, marker and line style, so that colour is never alone."""

    number: int

    @property
    def color(self) -> str:
        """One of ``SERIES``."""
        return SERIES[self.number % len(SERIES)]

    @property
    def marker(self) -> str:
        """One of ``MARKERS``."""
        return MARKERS[self.number % len(MARKERS)]

    @property
    def dash(self) -> Any:
        """One of ``DASHES``; solid for the first seven learners."""
        return DASHES[self.number // len(SERIES) % len(DASHES)]


def svg(
    draw: Callable[[Any], None],
    *,
    name: str,
    size: tuple[float, float],
    title: str,
    description: str = "",
    hints: Mapping[str, str] | None = None,
) -> str:
    """What ``draw`` makes of an empty figure, as the text of an ``<svg>`` element that stands in a page.

    Args:
        draw: fills a matplotlib figure, with the colours of this module.
        name: of the picture in the page; its ids begin so, and must be letters, digits and hyphens.
        size: width and height in inches (72 units of the picture).
        title: what the picture is, for people who do not see it.
        description: what is to be seen in it.
        hints: gid of an artist to the text that appears when a pointer rests on it.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    return _for_page(_drawn(draw, size), name=name, title=title, description=description, hints=hints or {})


def palette(colors: Sequence[str]) -> dict[str, str]:
    """CSS variable to colour, of ``LIGHT`` or ``DARK``."""
    return dict(zip(_VARIABLES.values(), colors, strict=True))


def standalone(picture: str) -> bytes:
    """A picture of a page as an SVG file of its own, light or dark as its reader's screen, for a Markdown page."""
    light, dark = ("".join(f"{name}:{color};" for name, color in palette(colors).items()) for colors in (LIGHT, DARK))
    style = (
        f":root{{{light}--font:system-ui,'Segoe UI','DejaVu Sans',sans-serif;background:var(--paper)}}"
        f"@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    )
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    opening, body = str(picture).split(">", 1)  # ``Markup`` would escape what is put into it
    return f"{opening.replace('<svg', f'<svg {spaces}', 1)}><style>{style}</style>{body}\n".encode()


def check_matplotlib() -> None:
    """Refuse early what could not be drawn.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "The report's pictures need matplotlib, but it is missing; run: pip install 'mmcl-edge[bench]'"
        ) from error


def _drawn(draw: Callable[[Any], None], size: tuple[float, float]) -> str:
    check_matplotlib()
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    text = StringIO()
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the reader's font may have it
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return text.getvalue()


def _for_page(text: str, *, name: str, title: str, description: str, hints: Mapping[str, str]) -> str:
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    for gid, hint in hints.items():
        body = body.replace(f'<g id="{gid}">', f'<g class="hint"><title>{escape(hint)}</title>')
    body = re.sub(r' d="([^"]+)"', lambda found: f' d="{_compact(found.group(1))}"', _own_ids(body, name))
    for color, variable in _VARIABLES.items():
        body = body.replace(color, f"var({variable})")
    body = re.sub(r"'DejaVu Sans'", "var(--font)", body)
    box = re.search(r'viewBox="0 0 ([0-9.]+) [0-9.]+"', body)
    assert box is not None
    widest = f"max-width:{ENLARGED * float(box.group(1)):.0f}px"
    labels = f"<title>{escape(title)}</title><desc>{escape(description)}</desc>"
    opening = f'<svg class="picture" {box.group()} style="{widest}" role="img" aria-label="{escape(title)}">{labels}'
    return opening + body[body.index(">") + 1 :].strip()


def _compact(outline: str) -> str:
    """An outline with two digits after the point, on one line: half the bytes of the page."""
    rounded = re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found.group()):.2f}".rstrip("0").rstrip("."), outline)
    return re.sub(r"\s*([A-Za-z])\s*", r"\1", rounded).strip()


def _own_ids(body: str, name: str) -> str:
    """Drop ids that nothing refers to, and make the others the picture's own: several stand in one page."""
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', body))
    wanted = {one or other for one, other in used}
    body = re.sub(r' id="([^"]+)"', lambda found: found.group() if found.group(1) in wanted else "", body)
    return re.sub(r'(id="|url\(#|href="#)(?=[A-Za-z_])', rf"\g<1>{name}-", body)
