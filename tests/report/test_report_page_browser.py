"""The page in a real browser: nothing sticks out on a phone, nothing is fetched, nothing is complained about."""

import re
import shutil
import struct
import subprocess

import pytest

from dfpc_plugin.report.page import render_report
from page_records import large_record, small_record

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")

PROBE = """<script>addEventListener("load", () => {
const wide = [...document.querySelectorAll("body *")].filter(one => !one.closest(".scroll, pre, svg")
  && one.getBoundingClientRect().right > innerWidth + 1).map(one => one.tagName + "." + one.className);
document.title = [innerWidth, document.documentElement.scrollWidth,
getComputedStyle(document.body).backgroundColor,
  wide.join() || "nothing"].join(" | ");});</script>"""


def browse(path, *options):
    """Run the browser on a file; return what it printed, and what it complained of."""
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--virtual-time-budget=2000",
            "--enable-logging=stderr",
            "--v=0",
            f"--user-data-dir={path.parent / 'profile'}",
            *options,
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def framed(path, record, width, change=lambda page: page):
    """A file that shows the page in a frame of some width, which windows of a browser cannot be made as narrow as."""
    page = change(render_report(record))
    path.write_text(page.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    frame = path.with_name(f"frame-{path.name}")
    frame.write_text(
        f'<!DOCTYPE html><title>?</title><body style="margin:0"><iframe style="border:0" width="{width}" height="2000" '
        f'src="{path.name}"></iframe><script>addEventListener("load", () => '
        f"{{ document.title = document.querySelector('iframe').contentDocument.title; }});</script>",
        encoding="utf-8",
    )
    return frame


def opened(page):
    return page.replace("<details>", "<details open>")


def dark(page):
    assert page.count("@media (prefers-color-scheme: dark)") == 1
    return page.replace("@media (prefers-color-scheme: dark)", "@media all")


@pytest.mark.parametrize(
    "make, width, change",
    [(large_record, 390, opened), (small_record, 320, dark), (small_record, 1280, opened)],
    ids=["large-phone", "small-narrow-dark", "small-desktop"],
)
def test_fits_and_is_silent(make, width, change, tmp_path):
    frame = framed(tmp_path / "page.html", make(), width, change)
    dom, complaints = browse(frame, "--allow-file-access-from-files", "--window-size=1300,900", "--dump-dom")
    title = re.search("<title>(.*?)</title>", dom)[1]
    inner, scroll, background, wide = title.split(" | ")
    assert complaints == []
    assert int(inner) == width
    assert int(scroll) == width, wide
    assert wide == "nothing"
    assert background == ("rgb(21, 23, 26)" if change is dark else "rgb(252, 251, 248)")


def test_screenshot_and_print(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(render_report(small_record()), encoding="utf-8")
    _, complaints = browse(path, "--window-size=1280,900", f"--screenshot={tmp_path / 'page.png'}")
    assert complaints == []
    header = (tmp_path / "page.png").read_bytes()[:24]
    assert header.startswith(b"\x89PNG") and struct.unpack(">II", header[16:]) == (1280, 900)
    _, complaints = browse(path, f"--print-to-pdf={tmp_path / 'page.pdf'}")
    assert complaints == [] and (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
