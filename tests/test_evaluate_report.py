import base64
import csv
import dataclasses
import html
import html.parser
import io
import json
import math
import re

import pytest
from helpers import browser, report_parts
from PIL import Image

from evaluate.report import summary, writing

SUBJECT = report_parts.CONTENDERS[0][0]


class Parsed(html.parser.HTMLParser):
    """Links, identifiers and tables of a page."""

    VOID = ("meta", "link", "br", "img", "input", "wbr")

    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.open, self.words = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.links += [values[k] for k in ("href", "src") if k in values]
        self.ids += [values["id"]] if "id" in values else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def values_of(study, **changes):
    values = summary.summarize(study)
    values |= {
        "title": "Generalization: <odd> & more",
        "verdict": ["It wins <everywhere>.", "It loses nowhere.", "No run diverged."],
        "ranges": {SUBJECT: {"widths": [32, 64], "depths": [3]}},
        "failures": ["mlp-w64: out of memory & time"],
        "reference_speedups": [
            {"key": "adamw (per cell)", "setting": 0, "speedup": 2.0}
        ],
        "reference_iqm": [
            {"key": "adamw (per cell)", "estimate": 2.0, "low": 1.5, "high": 2.5}
        ],
    }
    # By hand, so that the page is tested against numbers that stand here.
    for matrix in values["matrices"]:
        if matrix["measure"] == "train":
            cells = {c["setting"]: c for c in matrix["rows"][0]["cells"]}
            cells[0] |= {"outcome": 1, "margin_frac": -0.123, "p_value": 0.01}
            cells[1] |= {"outcome": -1, "margin_frac": 0.045, "p_value": 0.02}
            cells[2] |= {"outcome": 0, "margin_frac": 0.004, "p_value": 0.5}
            cells[3] |= {"outcome": 1, "margin_frac": None, "p_value": None}
            cells[4] |= {"outcome": None, "margin_frac": None, "p_value": None}
    return values | changes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    study = report_parts.study()
    path = writing.write(folder, study, values_of(study))
    assert path == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def parsed(page):
    return Parsed(page)


def test_the_page_is_well_formed_and_its_ids_are_its_own(parsed):
    assert not parsed.open
    assert len(set(parsed.ids)) == len(parsed.ids)


def test_everything_it_refers_to_is_in_it_or_beside_it(folder, parsed):
    beside = set()
    for link in parsed.links:
        if link.startswith("#"):
            assert link[1:] in parsed.ids
        elif not link.startswith("data:"):
            assert (folder / link).is_file(), link
            beside.add(link)
    plots = {f"plots/{path.name}" for path in (folder / "plots").iterdir()}
    assert beside == plots
    assert {path.rsplit(".", 1)[1] for path in plots} == {"png", "svg", "csv"}


def test_nothing_comes_from_elsewhere(page):
    assert not re.search(r"(src|href)\s*=\s*[\"']?\s*(https?:|//)", page)
    assert not re.search(r"@import|url\((?!#)", page)
    assert "<script" not in page


def test_data_of_figures_are_in_the_page(folder, page):
    found = re.findall(r'download="(\w+)\.csv" href="data:text/csv[^,]*,([^"]*)"', page)
    names = {path.stem for path in (folder / "plots").glob("*.csv")}
    assert {name for name, _ in found} == names | {"results_by_line"}
    for name, data in found:
        text = base64.b64decode(data).decode()
        assert len(list(csv.reader(io.StringIO(text)))) > 1
        if name in names:
            assert text == (folder / "plots" / f"{name}.csv").read_text()


def test_images_can_be_decoded(folder):
    for path in (folder / "plots").glob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert image.width > 400


def test_the_verdict_comes_first_and_text_is_escaped(page, parsed):
    first = page.index("It wins &lt;everywhere&gt;.")
    assert page.index("</h1>") < first < page.index("<h2>")
    for text in ("<odd>", "<everywhere>", "<β>", "fetch <them>", "--theta='<b>'"):
        assert text not in page
        assert text in "".join(parsed.words)


def test_what_was_not_run_and_what_failed_is_named(parsed):
    words = "".join(parsed.words)
    assert "mu_velo: weights missing, fetch <them>" in words
    assert "mlp-w64: out of memory & time" in words
    assert "every seed diverged" in words


def test_cells_say_margin_and_outcome_without_colour(page):
    for classes, cell in (
        ("win3", "<b>▲</b>−12.3 %"),
        ("loss2", "<b>▼</b>+4.5 %"),
        ("tie", "<b>≈</b>+0.4 %"),
        ("win3", "<b>▲</b>diverged"),
    ):
        assert re.search(
            rf'<td class="{classes}" title="[^"]*">{re.escape(cell)}', page
        )
    assert "won, p = 0.01" in page
    for size in ("w32", "w256", "d6", "×120"):
        assert f"<span>{size}</span>" in page


def test_the_measure_is_switched_without_scripts(page):
    labels = re.findall(r'<label for="m0-\d">([^<]*)</label>', page)
    assert labels == ["Training", "Validation", "Early-stopped validation"]
    assert page.count("checked>") == 1


def test_the_table_holds_every_line_of_every_setting(page):
    study = report_parts.study()
    assert page.count('<th class="name" scope="row"><svg') == len(study.entries)
    assert page.count("✕ 3 of 3") == 2


def test_losses_are_the_first_columns_and_commands_wrap(page):
    heads = re.findall(r'<th scope="col">([^<]*)</th>', page)
    assert heads[:4] == ["training", "validation", "early-stopped", "accuracy"]
    assert "python -m evaluate \\\n    --config=a.py \\\n    --theta=" in page
    (rule,) = re.findall(r"\npre \{([^}]*)\}", page)
    assert "white-space: pre-wrap" in rule
    assert "overflow-wrap: anywhere" in rule


def test_sections_stand_in_their_order(parsed):
    sections = [i for i in parsed.ids if not re.match(r"m\w*\d|p\w{10}", i)]
    assert sections[:2] == ["wins", "results"]
    assert sections[-3:] == ["reference_speedups", "rules", "about"]


def test_many_warnings_are_folded(tmp_path):
    study = small_study()
    few = values_of_small(study, warnings=[f"warning {i}" for i in range(5)])
    many = values_of_small(study, warnings=[f"warning {i}" for i in range(6)])
    assert "6 warnings</summary>" not in writing.write(tmp_path, study, few).read_text()
    assert "6 warnings</summary>" in writing.write(tmp_path, study, many).read_text()


def small_study(names=report_parts.CONTENDERS[:2], **kwargs):
    config = report_parts.sweep_config(
        tasks=("mlp-w32-d3-cifar10:8x8:gray",),
        widths=(),
        depths=(),
        horizons=(40,),
        num_seeds=1,
    )
    return report_parts.study(config, names=names, activations=False, **kwargs)


def values_of_small(study, **changes):
    return summary.summarize(study) | changes


def test_equal_input_gives_equal_bytes(tmp_path):
    study = small_study()
    for name in ("one", "two"):
        writing.write(tmp_path / name, study, values_of_small(study))
    paths = [p for p in (tmp_path / "one").rglob("*") if p.is_file()]
    assert len(paths) > 10
    for path in paths:
        twin = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert twin.read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize(
    "names",
    [
        report_parts.CONTENDERS[:1],
        report_parts.CONTENDERS[1:2],
        report_parts.CONTENDERS[4:],
        report_parts.CONTENDERS[2:4],
    ],
    ids=["only learned", "only one baseline", "only a null model", "no learned"],
)
def test_a_report_needs_no_particular_optimizer(tmp_path, names):
    study = small_study(names)
    Parsed(writing.write(tmp_path, study, values_of_small(study)).read_text())


def test_tasks_without_classes_have_no_accuracy(tmp_path):
    study = small_study(chance_loss=None)
    page = writing.write(tmp_path, study, values_of_small(study)).read_text()
    assert '<th scope="col">accuracy</th>' not in page


def test_where_everything_diverged_there_is_still_a_report(tmp_path):
    study = small_study()
    ill = tuple(
        dataclasses.replace(
            entry,
            readings=tuple(
                dataclasses.replace(r, diverged=True, final_train_loss=math.nan)
                for r in entry.readings
            ),
        )
        for entry in study.entries
    )
    curves = tuple(
        dataclasses.replace(c, losses=(math.inf,) * len(c.losses))
        for c in study.rate_curves
    )
    study = dataclasses.replace(study, entries=ill, rate_curves=curves)
    page = writing.write(tmp_path, study, values_of_small(study)).read_text()
    assert page.count("✕ 1 of 1") == len(ill)


def test_values_survive_json(tmp_path):
    study = small_study()
    values = json.loads(json.dumps(values_of_small(study), allow_nan=False))
    writing.write(tmp_path / "one", study, values)
    writing.write(tmp_path / "two", study, values_of_small(study))
    pages = [(tmp_path / x / "report.html").read_bytes() for x in ("one", "two")]
    assert pages[0] == pages[1]


@pytest.mark.parametrize(("width", "dark"), [(360, True), (360, False), (1280, False)])
def test_a_browser_shows_it_without_overflow_or_overlap(folder, tmp_path, width, dark):
    found = browser.measure(folder / "report.html", tmp_path, width, dark=dark)
    assert found["errors"] == []
    assert found["inner_width"] == width
    assert found["scroll_width"] <= width
    assert found["outside"] == []
    assert found["overlaps"] == []
    assert found["num_panels"] > 30
    assert found["num_tables"] >= 6
    assert found["smallest_text"] > 9
    light = int(re.findall(r"\d+", found["ground"])[0]) > 127
    assert light != dark
    assert (int(re.findall(r"\d+", found["ink"])[0]) > 127) == dark
