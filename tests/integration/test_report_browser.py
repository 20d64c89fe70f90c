"""The report in a real browser: drawn, not too wide, quiet, light and dark. Skipped where there is no Chromium."""

import html
import json
import re
import shutil
import subprocess

import pytest

from mmcl_edge.benchmark.report import write_report
from tests.recording import write_benchmark

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="needs Chromium to look at the report: apt-get install chromium, or put it on PATH"
)
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync", "--disable-component-update",
    "--disable-background-networking", "--no-first-run", "--hide-scrollbars", "--enable-logging=stderr",
)  # fmt: skip
DARK = ("--blink-settings=preferredColorScheme=0",)
PROBE = """<!doctype html><iframe id="page" style="width:{width}px;height:900px;border:0" srcdoc="{page}"></iframe>
<script>addEventListener("load", () => {{
  const frame = document.getElementById("page"), inner = frame.contentWindow.innerWidth;
  const root = frame.contentDocument.documentElement;
  const outside = [...root.querySelectorAll("body *:not(.scroll *):not(svg *)")]
    .filter(one => one.getBoundingClientRect().right > inner + 1).map(one => one.tagName + "." + one.className);
  const pictures = [...root.querySelectorAll("svg.picture")].map(one => one.getBoundingClientRect().width);
  const found = {{inner, scroll: root.scrollWidth, outside, pictures}};
  document.documentElement.dataset.found = JSON.stringify(found);
}});</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    write_benchmark(folder)
    return write_report(folder).report


@pytest.fixture
def browse(tmp_path):
    """``browse(path, *options)``: stdout and what the page said on its console."""

    def browse(path, *options):
        place = ("--user-data-dir=" + str(tmp_path / "profile"), *options, path.as_uri())
        done = subprocess.run([BROWSER, *QUIET, *place], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout, re.findall(r"CONSOLE.*", done.stderr)

    return browse


def probed(browse, folder, page, width):
    probe = folder / "probe.html"
    probe.write_text(PROBE.format(width=width, page=html.escape(page)), encoding="utf-8")
    out, console = browse(probe, "--window-size=1600,1000", "--dump-dom")
    return json.loads(html.unescape(re.search(r'data-found="([^"]*)"', out).group(1))), console


@pytest.mark.parametrize("width", [320, 400, 800, 1400])
def test_nothing_is_wider_than_the_window(browse, tmp_path, page, width):
    found, console = probed(browse, tmp_path, page.read_text(encoding="utf-8"), width)
    assert found["inner"] == width
    assert found["scroll"] <= width
    assert found["outside"] == []
    assert console == []
    assert len(found["pictures"]) == 25
    assert all(0.4 * min(width, 500) < one < width for one in found["pictures"])


def test_the_probe_notices_what_is_too_wide_and_what_is_said(browse, tmp_path):
    bad = "<body><div style='width:900px'>wide</div><script>console.error('boom')</script></body>"
    found, console = probed(browse, tmp_path, bad, 400)
    assert found["scroll"] > 400
    assert found["outside"] == ["DIV."]
    assert "boom" in console[0]


LOOKS = {
    "phone, light": (400, False),
    "phone, dark": (400, True),
    "desk, light": (1400, False),
    "desk, dark": (1400, True),
}


@pytest.mark.parametrize(("width", "dark"), LOOKS.values(), ids=LOOKS)
def test_the_page_is_drawn(browse, tmp_path, page, width, dark):
    from matplotlib.image import imread

    shot = tmp_path / "shot.png"
    _, console = browse(page, *(DARK if dark else ()), f"--window-size={width},2600", f"--screenshot={shot}")
    pixels = imread(shot)[:, :, :3]
    assert console == []
    assert pixels.shape == (2600, width, 3)
    corner = pixels[2, 2].mean()
    assert corner < 0.2 if dark else corner > 0.9
    # text, lines and coloured cells, from the top to the bottom
    for part in range(4):
        band = pixels[part * 650 : (part + 1) * 650]
        assert band.std() > 0.03, part
    saturation = pixels.max(axis=2) - pixels.min(axis=2)
    assert (saturation > 0.3).mean() > 0.002
