"""What an inspection of a learned update says: as JSON, a table and a plot."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

import mulo
from evaluate.inspect import measures
from evaluate.optimizers import names as optimizers
from evaluate.optimizers import random_thetas
from evaluate.report import style, tables

RANDOM = "random"
_PANEL = (5.2, 3.9)  # Inches.
_DECAY_NAMES = 24  # Letters.


def load(theta: str | None, optimizer: str | None) -> tuple[str, mulo.Pretrained]:
    """Load a theta, or make a random one.

    Args:
      theta: As `mulo.load` takes it, or ``random``.
      optimizer: A learned optimizer of `mulo.optimizers`; None for the theta's own.

    Returns:
      The optimizer's name, and its rule and theta.

    Raises:
      ValueError: If there is no theta or optimizer of that name, the optimizer is not
        learned, or the theta is of another rule.
    """
    if not theta:
        raise ValueError(
            f"theta is missing: give --theta=WHERE, or --theta={RANDOM} "
            "--optimizer=NAME for one that was never meta-trained."
        )
    learned = [n for n in mulo.optimizers.names() if mulo.optimizers.info(n).learned]
    if optimizer is not None and not mulo.optimizers.info(optimizer).learned:
        raise ValueError(
            f"optimizer must be a learned one, {', '.join(learned)}; got {optimizer!r}."
        )
    if theta == RANDOM:
        name = optimizer or "small_fc"
        return name, random_thetas.pretrained(name)
    pretrained = mulo.load(theta)
    own = [name for name in learned if optimizers.takes(name, pretrained)]
    if optimizer is not None and optimizer not in own:
        raise ValueError(
            f"theta {theta} is of another rule than {optimizer}: it is for "
            f"{' or '.join(own)}."
        )
    return optimizer or own[0], pretrained


def values(found: measures.Inspection, **about: Any) -> dict[str, Any]:
    """Return everything as JSON takes it; None stands for what is not finite."""

    def slices(s, held, varied):
        return {
            held: list(s.fixed),
            varied: list(s.varied),
            f"update_by_{held}": _finite(s.updates.tolist()),
        }

    def curve(c, at):
        rms = {leaf: _finite(sizes.tolist()) for leaf, sizes in c.rms.items()}
        return {at: list(c.at), "update_rms": rms}

    return {
        **about,
        "history_steps": found.history_steps,
        "against_gradient": slices(found.against_gradient, "history", "gradient"),
        "against_history": slices(found.against_history, "gradient", "history"),
        "over_time": curve(found.over_time, "step"),
        "over_scale": {
            **curve(found.over_scale, "scale"),
            "max_over_min": {
                leaf: _finite(found.over_scale.ratio(leaf))
                for leaf in found.over_scale.rms
            },
        },
        "decays": [
            {"name": d.name, "values": list(d.values), "learned": d.learned}
            for d in found.decays
        ],
    }


def describe(found: measures.Inspection, title: str) -> str:
    """Return the table for a terminal."""
    time, scale = found.over_time, found.over_scale
    rows = [["root mean square of the update", "w", "b"]]
    for i, step in enumerate(time.at):
        rows.append([f"step {step:,}", *(f"{time.rms[k][i]:.3g}" for k in "wb")])
    ends = f"{scale.at[0]:g} … {scale.at[-1]:g}"
    ratios = (f"{scale.ratio(leaf):.4g}" for leaf in "wb")
    rows.append([f"max/min, gradients × {ends}", *ratios])
    lines = [title, tables.format_table(rows)]
    for learned in (True, False):
        listed = [
            f"{d.name} {', '.join(f'{v:g}' for v in d.values)}"
            for d in found.decays
            if d.learned == learned
        ]
        kind = "learned" if learned else "fixed"
        lines.append(f"decays per step, {kind}: {'; '.join(listed) or 'none'}")
    return "\n".join(lines)


def draw(found: measures.Inspection, title: str) -> Figure:
    """Return the plot: two slices, two curves and the decays."""
    fig, (gradient, history, time, scale, decays, rest) = style.figure(2, 3, _PANEL)
    rest.set_visible(False)
    fig.suptitle(title, x=0.01, ha="left", fontsize=12, color=style.INK)
    past = f"gradient of the {found.history_steps} steps before"
    _draw_slices(gradient, found.against_gradient, past, "gradient")
    _draw_slices(history, found.against_history, "gradient", past)
    style.dress(
        time, title="over time", xlabel="step", ylabel="update, root mean square"
    )
    ratios = ", ".join(f"{k} {found.over_scale.ratio(k):.3g}" for k in "wb")
    style.dress(
        scale,
        title=f"over the scale of gradients; max/min: {ratios}",
        xlabel="factor on all gradients",
        ylabel="update, root mean square",
    )
    for axes, curve in ((time, found.over_time), (scale, found.over_scale)):
        for leaf, look in style.looks(["w", "b"]).items():
            rms = curve.rms[leaf]
            shown = np.where(np.isfinite(rms), rms, np.nan)
            axes.plot(
                curve.at, shown, color=look.colour, marker=look.marker, label=leaf
            )
        axes.set_xscale("log")
        sizes = np.concatenate([curve.rms[leaf] for leaf in "wb"])
        sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
        if sizes.size:
            axes.set_yscale("log")
            # Room enough that rounding does not fill the panel.
            axes.set_ylim(sizes.min() / 3, sizes.max() * 3)
            style.few_ticks(axes.yaxis)
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=9)
    _draw_decays(decays, found.decays)
    return fig


def _draw_slices(axes, slices, held, varied):
    style.dress(
        axes,
        title=f"entry of w against its {varied}",
        xlabel=f"{varied}, standard deviations",
        ylabel="update",
    )
    lines = zip(slices.fixed, slices.updates, strict=True)
    for i, (value, updates) in enumerate(lines):
        shown = np.where(np.isfinite(updates), updates, np.nan)
        colour = style.size_look(i, len(slices.fixed)).colour
        axes.plot(slices.varied, shown, color=colour, label=f"{value:g}")
    axes.legend(edgecolor="none", fontsize=8, title=held, title_fontsize=8)


def _draw_decays(axes, decays):
    """Each decay where its average's length is; filled if learned."""
    learned = any(decay.learned for decay in decays)
    style.dress(
        axes,
        title="decays" + (": filled are learned" if learned else ": none learned"),
        xlabel="steps averaged over, 1 / (1 − decay)",
        ylabel="",
    )
    colour = style.looks(["w"])["w"].colour
    for row, decay in enumerate(decays):
        # A learned one may be anything; there is no length for 1 and above.
        lengths = [1 / (1 - value) for value in decay.values if value < 1]
        axes.plot(
            lengths,
            [row] * len(lengths),
            "o",
            color=colour,
            fillstyle="full" if decay.learned else "none",
        )
    names = [decay.name[:_DECAY_NAMES] for decay in decays]
    axes.set_yticks(range(len(decays)), names)
    axes.set_ylim(len(decays) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.set_xlim(0.8, max(axes.get_xlim()[1], 12.0))
    axes.minorticks_off()


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(x) for x in value]
    return value if np.isfinite(value) else None
