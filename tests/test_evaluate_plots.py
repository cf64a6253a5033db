import csv
import dataclasses
import io
import itertools

import numpy as np
import pytest
from helpers import report_parts
from PIL import Image

from evaluate.report import charts, figures, plots, style, summary


@pytest.fixture(scope="module")
def made():
    study = report_parts.study()
    return {
        chart.name: chart for chart in figures.make(study, summary.summarize(study))
    }


def panels(made):
    return [panel for chart in made.values() for panel in chart.panels]


def rows(chart):
    return list(csv.DictReader(io.StringIO(chart.csv())))


def test_a_study_with_everything_has_every_figure_but_the_reference(made):
    assert list(made) == [
        "loss_curves",
        "final_loss_width",
        "final_loss_depth",
        "final_loss_horizon",
        "rate_sensitivity",
        "rates_by_width",
        "performance_profile",
        "probability_of_improvement",
        "speedups",
        "costs",
        "average_ranks",
        "activation_changes",
    ]


def test_labels_of_ticks_do_not_overlap_and_lie_within_the_figure(made):
    for panel in panels(made):
        figure = plots.panel_figure(panel)
        figure.draw_without_rendering()
        (axes,) = figure.axes
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            found = [
                tick.label1.get_window_extent()
                for tick in axis.get_major_ticks()
                if tick.label1.get_text() and low <= tick.get_loc() <= high
            ]
            assert len(found) >= 2 or isinstance(panel, charts.RowPanel), panel.title
            for one, other in itertools.combinations(found, 2):
                assert not one.overlaps(other), panel.title
            for box in found:
                assert 0 <= box.x0 < box.x1 <= figure.bbox.width, panel.title
                assert 0 <= box.y0 < box.y1 <= figure.bbox.height, panel.title


def test_names_and_values_of_rows_do_not_touch(made):
    for panel in panels(made):
        if isinstance(panel, charts.RowPanel):
            figure = plots.panel_figure(panel)
            figure.draw_without_rendering()
            boxes = [text.get_window_extent() for text in figure.axes[0].texts]
            for one, other in itertools.combinations(boxes, 2):
                assert not one.overlaps(other), panel.title


def test_titles_are_whole_and_lie_within_the_figure(made):
    long = "transformer-w1024-d12-k16-s256-a1-lm1b:sp32k, d3, 40 steps: validation loss"
    for chart in (made["final_loss_width"], made["costs"]):
        kept = [dataclasses.replace(panel, title=long) for panel in chart.panels]
        figure = plots.draw(dataclasses.replace(chart, panels=kept))
        figure.draw_without_rendering()
        titles = [axes._left_title for axes in figure.axes]
        boxes = [title.get_window_extent() for title in titles]
        for title, box in zip(titles, boxes, strict=True):
            assert "".join(title.get_text().split()) == "".join(long.split())
            assert 0 <= box.x0 < box.x1 <= figure.bbox.width
            assert box.y1 <= figure.bbox.height
        for one, other in itertools.combinations(boxes, 2):
            assert not one.overlaps(other)


def test_curves_have_a_few_markers_none_upon_another(made):
    panel = made["loss_curves"].panels[0]
    axes = plots.panel_figure(panel).axes[0]
    starts = []
    for line in panel.lines:
        (drawn,) = [x for x in axes.lines if x.get_label() == line.label]
        assert drawn.get_marker() == line.look.marker
        every = drawn.get_markevery()
        assert isinstance(every, tuple)
        start, apart = every
        assert 4 <= len(range(start, len(line.x), apart)) <= 7
        starts.append(start)
    assert len(set(starts)) == len(panel.lines)


def test_crosses_of_several_lines_lie_below_each_other():
    line = charts.Line(label="a", look=style.Look("#000000"), x=(1, 2), y=(1, np.inf))
    other = dataclasses.replace(line, label="b", y=(2, np.inf))
    panel = charts.LinePanel(title="", xlabel="", ylabel="", lines=(line, other))
    axes = plots.panel_figure(panel).axes[0]
    heights = [x.get_ydata()[0] for x in axes.lines if x.get_marker() == "x"]
    assert len(set(heights)) == 2


def test_no_two_colours_of_lines_look_alike():
    def lab(colour):
        rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722]]
        to_xyz += [[0.0193, 0.1192, 0.9505]]
        x, y, z = np.cbrt(np.array(to_xyz) @ linear / [0.9505, 1.0, 1.089])
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    for ground in (0, 1):
        lines = [v[ground] for name, v in style.COLOURS.items() if "line" in name]
        for one, other in itertools.combinations(lines, 2):
            assert np.linalg.norm(lab(one) - lab(other)) > 26, (one, other)


def test_csv_holds_the_numbers_drawn(made):
    chart = made["final_loss_width"]
    written = {}
    for row in rows(chart):
        point = tuple(float(row[k]) for k in ("width", "final_loss"))
        written.setdefault((row["panel"], row["line"]), []).append(point)
    for panel in chart.panels:
        axes = plots.panel_figure(panel).axes[0]
        drawn = {
            line.get_label(): line.get_xydata()
            for line in axes.lines
            if not line.get_label().startswith("_")
        }
        for line in panel.lines:
            points = np.array(written.pop((panel.title, line.label)))
            finite = np.where(np.isfinite(points), points, np.nan)
            np.testing.assert_allclose(drawn[line.label], finite, rtol=1e-6)
    assert not written


def test_csv_of_rows_holds_both_values(made):
    chart = made["speedups"]
    found = rows(chart)
    expected = [row for panel in chart.panels for row in panel.rows]
    assert [row["line"] for row in found] == [row.label for row in expected]
    for row, drawn in zip(found, expected, strict=True):
        for field, value in (
            ("speedup_in_steps", drawn.value),
            ("speedup_in_time", drawn.second),
        ):
            if value is None:
                assert row[field] == ""
            else:
                assert float(row[field]) == pytest.approx(value, rel=1e-6)


def test_what_diverged_is_a_cross_at_the_top_and_inf_in_the_csv(made):
    chart = made["final_loss_width"]
    values = {r["final_loss"] for r in rows(chart) if r["line"] == "sgd (per cell)"}
    assert "inf" in values
    axes = plots.panel_figure(chart.panels[0]).axes[0]
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert [line.get_xdata().tolist() for line in crosses] == [[256.0], [256.0]]


def test_curves_are_the_best_lines_with_bands_of_all_seeds(made):
    chart = made["loss_curves"]
    assert len(chart.panels) == 5
    for panel in chart.panels:
        assert panel.lines[0].label == "mulo · cifar8 <β>"
        assert len(panel.lines) == 5  # Each rule once.
        for line in panel.lines:
            finite = np.isfinite(line.y)
            assert (np.array(line.low)[finite] <= np.array(line.y)[finite]).all()
            assert (np.array(line.high)[finite] >= np.array(line.y)[finite]).all()


def test_rates_are_relative_to_each_lines_best(made):
    panel = made["rate_sensitivity"].panels[0]
    for line in panel.lines:
        at = int(np.argmin(line.y))
        assert (line.x[at], line.y[at]) == (1.0, 0.0)
        assert "decades" in line.label


def test_a_long_list_of_settings_is_cut_to_the_base_and_the_extremes():
    widths = tuple(2**k for k in range(2, 18))
    config = report_parts.sweep_config(
        tasks=("mlp-d3-cifar10:8x8:gray",),
        widths=tuple(sorted(widths, key=lambda w: w != 32)),
        depths=(),
        horizons=(40,),
    )
    study = report_parts.study(config, names=report_parts.CONTENDERS[:2])
    chart = figures.figures_losses.curves(
        study, {"subjects": []}, figures.looks_of(study, {"subjects": []})
    )
    assert 3 <= len(chart.panels) <= 12
    titles = [panel.title for panel in chart.panels]
    for width in (32, 4, 2**17):
        assert any(f"-w{width}-" in title for title in titles)
    assert "more settings" in chart.caption


def test_files_are_equal_for_equal_input_and_decodable(made):
    chart = made["final_loss_depth"]
    drawn = [plots.draw(chart) for _ in range(2)]
    images = [style.png(figure) for figure in drawn]
    assert images[0] == images[1]
    Image.open(io.BytesIO(images[0])).load()
    assert style.svg(drawn[0], "a") == style.svg(drawn[1], "a")


def test_colours_of_an_inline_panel_have_names_that_the_page_defines(made):
    for chart in made.values():
        text = plots.inline(chart.panels[0], chart.name, "alt")
        assert "#" not in text.replace("url(#", "").replace('href="#', "")
        assert "var(--" in text


def contrast(one, other):
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [
            x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts
        ]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    "name", [n for n in style.COLOURS if n not in ("grid", "shade")]
)
def test_colours_stand_out_from_light_and_dark_paper(name):
    light, dark = style.COLOURS[name]
    least = 4.5 if name in ("ink", "quiet") else 2.7
    assert contrast(light, "#ffffff") >= least
    assert contrast(dark, "#14181d") >= least


def test_looks_are_different_for_63_names():
    names = [str(i) for i in range(63)]
    assert len(set(style.looks(names).values())) == 63


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.001, "0.001"), (2000, "2,000"), (3e-5, "3e−05"), (-1.5, "−1.5")],
)
def test_ticks_are_plain_numbers(value, text):
    assert style.number(value) == text


def test_shortened_text_keeps_both_ends():
    assert charts.shortened("abcdefghij", 10) == "abcdefghij"
    assert charts.shortened("abcdefghijk", 7) == "abc…ijk"
    assert len(charts.shortened("x" * 90, 40)) == 40
