"""Small pieces of HTML that the sections of a report share."""

import base64
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from evaluate.report import style

_NAMES = {light: name for name, (light, _) in style.COLOURS.items()}
_DASHES = {"--": "5 3", ":": "1.5 2.5", "-.": "6 2 1.5 2"}
# Outlines of the markers of lines, in a square from -1 to 1.
_OUTLINES = {
    "s": "-.85,-.85 .85,-.85 .85,.85 -.85,.85",
    "^": "0,-1 1,.85 -1,.85",
    "v": "0,1 1,-.85 -1,-.85",
    "<": "-1,0 .85,-1 .85,1",
    ">": "1,0 -.85,-1 -.85,1",
    "D": "0,-1.2 1.2,0 0,1.2 -1.2,0",
}


def text(value: object) -> str:
    """Escape a value for HTML, in attributes too."""
    return html.escape(str(value), quote=True)


def line_name(key: str, *notes: str) -> str:
    """Write a line's name for a narrow column, how its rate was found below it."""
    name, bracket, found = key.partition(" (")
    below = [found.removesuffix(")")] if bracket else []
    below += [note for note in notes if note]
    small = f"<small>{text(', '.join(below))}</small>" if below else ""
    return f"{text(name).replace('_', '_<wbr>')}{small}"


def data_link(content: str, name: str, label: str) -> str:
    """Return a link to a CSV that is part of the page."""
    encoded = base64.b64encode(content.encode()).decode()
    return (
        f'<a download="{text(name)}" href="data:text/csv;charset=utf-8;base64,'
        f'{encoded}">{text(label)}</a>'
    )


def scrolled(table: str, label: str) -> str:
    """Put a table into a box that scrolls by itself, by keys too."""
    return (
        f'<div class="scroll" role="region" aria-label="{text(label)}" tabindex="0">'
        f"{table}</div>"
    )


def folded(summary: str, body: str, *, is_open: bool = False) -> str:
    """Return a part that can be opened; ``summary`` is text, ``body`` HTML."""
    return (
        f"<details{' open' * is_open}><summary>{text(summary)}</summary>{body}"
        "</details>"
    )


def bullets(items: Sequence[str]) -> str:
    """Return a list of texts."""
    return f"<ul>{''.join(f'<li>{text(item)}</li>' for item in items)}</ul>"


def swatch(look: style.Look) -> str:
    """Draw a line's look: a piece of it with its marker."""
    colour = f"var(--{_NAMES[look.colour]})" if look.colour in _NAMES else look.colour
    dash = f' stroke-dasharray="{_DASHES[look.dash]}"' if look.dash != "-" else ""
    fill = "var(--paper)" if dash else colour
    if look.marker in _OUTLINES:
        shape = (
            f'<polygon points="{_OUTLINES[look.marker]}" '
            'transform="translate(14 6) scale(3.2)" stroke-width=".5" '
        )
    else:
        shape = '<circle cx="14" cy="6" r="3" stroke-width="1.5" '
    return (
        f'<svg class="swatch" viewBox="0 0 28 12" aria-hidden="true" stroke="{colour}">'
        f'<path d="M0 6H28" stroke-width="2"{dash}/>{shape}fill="{fill}"/></svg>'
    )


def legend(looks: Mapping[str, style.Look]) -> str:
    """Return the names of lines with their looks."""
    items = "".join(
        f"<li>{swatch(look)}{text(label)}</li>" for label, look in looks.items()
    )
    return f'<ul class="legend">{items}</ul>'


def loss(value: float | None) -> str:
    """Write a loss with four decimals, or with three digits where it is tiny."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "diverged"
    if value != 0 and not 0.01 <= abs(value) < 1e4:
        return f"{value:.2e}"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.1f}"


def percent(fraction: float, decimals: int = 1) -> str:
    """Write a fraction in per cent with its sign."""
    written = f"{100 * fraction:+.{decimals}f}".replace("-", "−")
    return f"{written} %"


def varying(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return which of the sizes of settings differ among them."""
    fields = ("width", "depth", "horizon_steps")
    return [f for f in fields if len({s[f] for s in settings}) > 1]


def compact(setting: Mapping[str, Any], fields: Sequence[str]) -> list[str]:
    """Write the sizes of a setting that ``fields`` names: w32, d3, ×1,000."""
    written = {
        "width": f"w{setting['width']}",
        "depth": f"d{setting['depth']}",
        "horizon_steps": f"×{setting['horizon_steps']:,}",
    }
    return [written[field] for field in fields]
