"""Measures a page in headless Chromium, if this machine has one."""

import html
import json
import pathlib
import re
import shutil
import subprocess

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=10000",
)
_BEFORE = """<script>
window.found = [];
addEventListener("error", e => found.push(String(e.message || e.target)), true);
console.error = (...words) => found.push(words.join(" "));
</script>"""
_AFTER = """<script>
addEventListener("load", () => {
  document.querySelectorAll("details").forEach(d => d.open = true);
  const boxes = (root, selector) => [...root.querySelectorAll(selector)].map(e => {
    const range = document.createRange();
    range.selectNodeContents(e);
    const r = range.getBoundingClientRect();
    return {text: e.textContent.slice(0, 60), left: r.left, right: r.right,
            top: r.top, bottom: r.bottom};
  }).filter(b => b.right > b.left);
  const overlaps = (root, selector) => {
    const all = boxes(root, selector), pairs = [];
    all.forEach((a, i) => all.slice(i + 1).forEach(b => {
      if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
          Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1)
        pairs.push([a.text, b.text]);
    }));
    return pairs;
  };
  const root = document.documentElement;
  const svgs = [...document.querySelectorAll(".panel > svg")];
  const tables = [...document.querySelectorAll("table")].filter(t => t.offsetWidth);
  const texts = svgs.flatMap(s => [...s.querySelectorAll("text")]);
  parent.postMessage(JSON.stringify({
    errors: found,
    inner_width: innerWidth,
    scroll_width: root.scrollWidth,
    num_panels: svgs.length,
    num_tables: tables.length,
    num_texts: texts.length,
    smallest_text: Math.min(...texts.map(t => t.getBoundingClientRect().height)),
    overlaps: [...svgs.flatMap(s => overlaps(s, "text")),
               ...tables.flatMap(t => overlaps(t, "th, td"))],
    outside: [...document.querySelectorAll("main > *, section > *, .panel")]
      .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
      .map(e => e.outerHTML.slice(0, 80)),
    ground: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
  }), "*");
});
</script>"""
# Windows have a least width, frames have not.
_FRAME = """<!doctype html><pre id="out"></pre><script>
addEventListener("message", e => document.getElementById("out").textContent = e.data);
</script><iframe src="page.html" width="%d" height="800" style="border:0"></iframe>"""


def measure(
    page: pathlib.Path, folder: pathlib.Path, width: int, *, dark: bool = False
) -> dict:
    """Return what a page looks like at a width, as numbers; skip without a browser.

    Args:
      page: HTML file.
      folder: Empty, for copies and the browser's own files.
      width: CSS pixels.
      dark: Whether the reader prefers dark pages.
    """
    browser = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(_NAMES)} is installed")
    text = page.read_text()
    text = text.replace("<head>", f"<head>{_BEFORE}", 1)
    (folder / "page.html").write_text(text.replace("</body>", f"{_AFTER}</body>"))
    (folder / "frame.html").write_text(_FRAME % width)
    done = subprocess.run(
        [
            browser,
            *_FLAGS,
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={max(width, 600) + 40},900",
            "--dump-dom",
            f"file://{folder / 'frame.html'}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stdout[:500]
    assert found[1], done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))
