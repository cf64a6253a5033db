"""Shows a coordinate check: table, plot, progress."""

from collections.abc import Sequence

import numpy as np
import tqdm

import mulo
from evaluate.coord_check import coordinates
from evaluate.report import style, tables

_TITLE_LETTERS = 34  # What a panel is wide.


def parse_sizes(flag: str, texts: Sequence[str] | None) -> tuple[int, ...]:
    """Read widths or depths from the command line; none where the flag is not given.

    Raises:
      ValueError: If one is not a whole number.
    """
    for text in texts or ():
        if not text.strip().isdecimal():
            raise ValueError(f"{flag} must be whole numbers, like 32,64; got {text!r}.")
    return tuple(int(text) for text in texts or ())


def parse_hyper(texts: Sequence[str]) -> dict[str, float]:
    """Read hyper-parameters such as ``b1=0.9`` from the command line.

    Raises:
      ValueError: If one is not NAME=NUMBER.
    """
    found = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            raise ValueError(
                f"hyper must be NAME=NUMBER, like block_size=32; got {text!r}."
            ) from None
    return found


def check_with_progress(
    config: coordinates.CoordConfig, pretrained: mulo.Pretrained | None
) -> coordinates.CoordResult:
    """Run :func:`coordinates.check` with a bar over sizes, silent off a terminal."""
    with tqdm.tqdm(
        total=len(config.sizes), disable=None, unit=config.axis, desc="coord check"
    ) as bar:
        return coordinates.check(config, pretrained, lambda size: bar.update())


def describe(result: coordinates.CoordResult) -> str:
    """Return the table of changes at the last step, the slopes and the verdict."""
    config = result.config
    rows = [
        [
            "layer",
            *[f"{config.axis[0]}{size}" for size in config.sizes],
            "slope",
            "verdict",
        ]
    ]
    for i, layer in enumerate(result.layers):
        verdict = "ok"
        if layer in result.growing:
            verdict = "GROWS"
        elif layer in result.shrinking:
            verdict = "shrinks (warning)"
        rows.append(
            [
                layer,
                *[f"{change:.3g}" for change in result.changes[i, :, -1]],
                f"{result.verdicts[i]:+.2f}",
                verdict,
            ]
        )
    if result.growing:
        outcome = (
            f"FAILED: the change of {', '.join(result.growing)} grows faster than "
            f"{config.axis}^{config.threshold:g}."
        )
    else:
        outcome = (
            f"passed: no layer's change grows faster than {config.axis}^"
            f"{config.threshold:g}."
        )
    seeds = f"{config.num_seeds} seed{'s' * (config.num_seeds > 1)}"
    return "\n".join(
        [
            f"{config.optimizer} on {config.task}, learning rate {config.rate:g}, "
            f"{config.num_steps} steps, {seeds}: RMS of x_t - x_0 at "
            f"the last step, slope of its log over the later half of the steps",
            tables.format_table(rows),
            outcome,
            *[f"Warning: {doubt}." for doubt in result.doubts],
        ]
    )


def png(result: coordinates.CoordResult) -> bytes:
    """Draw change against width or depth: a panel per layer, a line per step."""
    config = result.config
    count = len(result.layers)
    columns = min(4, count)
    fig, panels = style.figure(-(-count // columns), columns, (3.5, 3.3))
    for axes in panels[count:]:
        axes.set_visible(False)
    steps = shown_steps(config.num_steps)
    lines = []
    for i, (axes, layer) in enumerate(zip(panels, result.layers, strict=False)):
        bad = layer in result.growing
        slope = result.verdicts[i]
        style.dress(
            axes,
            title=f"{style.wrapped(layer, _TITLE_LETTERS)}\n"
            f"slope {slope:+.2f}{'  GROWS' if bad else ''}",
            xlabel=config.axis,
            ylabel="RMS of change" if i % columns == 0 else "",
            alarm=bad,
        )
        lines = []
        for j, step in enumerate(steps):
            change = result.changes[i, :, step - 1]
            change = np.where(np.isfinite(change) & (change > 0), change, np.nan)
            lines += axes.plot(
                config.sizes,
                change,
                color=style.width_colour(j, len(steps)),
                marker=style.MARKERS[j % len(style.MARKERS)],
                markersize=5,
                linewidth=1.6,
            )
        axes.set_yscale("log", base=10)
        style.size_axis(axes, config.sizes)
        axes.tick_params(axis="x", labelrotation=45)
    verdict = "FAILED" if result.growing else "passed"
    if result.doubts:
        verdict += ", with doubts,"
    title = (
        f"{config.optimizer} on {config.task}: {verdict} at threshold "
        f"{config.threshold:g}"
    )
    fig.suptitle(
        style.wrapped(title, _TITLE_LETTERS * columns),
        fontsize=12,
        color=style.INK,
    )
    fig.legend(
        lines,
        [f"step {step}" for step in steps],
        loc="outside lower center",
        ncols=len(steps),
        frameon=False,
        fontsize=10,
    )
    return style.png(fig)


def shown_steps(num_steps: int) -> list[int]:
    """Return 1, 2, 4, … and the last step."""
    steps = [2**k for k in range(num_steps.bit_length()) if 2**k < num_steps]
    return [*steps, num_steps]
