"""A real browser, Debian's Chromium without a window: what it shows of a page, and complains of."""

from __future__ import annotations

import html
import json
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_FLAGS: Final = (
    "--headless",
    "--no-sandbox",  # root may not use it
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--enable-logging=stderr",
)
_DARK: Final = "--blink-settings=preferredColorScheme=0"

# Of each frame: how wide its page is, what stands out, how large the smallest line of text is.
_MEASURE: Final = """
onload = () => {
  const found = [...document.querySelectorAll('iframe')].map(frame => {
    const page = frame.contentDocument, width = frame.contentWindow.innerWidth;
    const all = [...page.querySelectorAll('main *:not(title):not(desc)')];
    const text = all.filter(one => one.childElementCount == 0 && one.textContent.trim());
    const box = one => one.getBoundingClientRect();
    const style = one => getComputedStyle(page.querySelector(one));
    return {
      width,
      scroll: page.documentElement.scrollWidth,
      out: all.filter(one => box(one).right > width + 1).map(one => one.outerHTML),
      smallest: Math.min(...text.map(one => box(one).height)),
      ground: style('body').backgroundColor,
      columns: style('.charts').gridTemplateColumns.split(' ').length,
    };
  });
  document.body.textContent = JSON.stringify(found);
};
"""
_FRAME: Final = '<iframe width="{width}" height="900" style="border:0" srcdoc="{page}"></iframe>'


@dataclass(frozen=True)
class Look:
    """What a browser shows in a window: pixels, and what it said to its console."""

    width: int
    height: int
    image: bytes
    complaints: list[str]


def browser() -> str | None:
    """Find one; None where there is none."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


def look(url: str, width: int, height: int, *, is_dark: bool = False) -> Look:
    """Open a page in a window of so many pixels."""
    with tempfile.TemporaryDirectory() as directory:
        image = Path(directory) / "image.png"
        options = [f"--window-size={width},{height}", f"--screenshot={image}"]
        _, said = _run([*options, *([_DARK] if is_dark else []), url])
        seen = image.read_bytes()
    assert seen.startswith(b"\x89PNG"), said
    seen_width, seen_height = struct.unpack(">II", seen[16:24])
    return Look(seen_width, seen_height, seen, re.findall(r".*CONSOLE.*", said))


def measure(page: str, widths: Sequence[int], *, is_dark: bool = False) -> list[dict[str, Any]]:
    """Lay a page out in windows of these widths, and give what `_MEASURE` says of each."""
    frames = "".join(_FRAME.format(width=width, page=html.escape(page)) for width in widths)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "frames.html"
        file.write_text(f"<!doctype html><body>{frames}<script>{_MEASURE}</script>")
        options = ["--window-size=1400,900", "--dump-dom", *([_DARK] if is_dark else [])]
        dumped, said = _run([*options, f"file://{file}"])
    found = re.search(r"<body>(.*?)</body>", dumped, re.DOTALL)
    assert found, said
    measured: list[dict[str, Any]] = json.loads(html.unescape(found[1]))
    return measured


def _run(options: Sequence[str]) -> tuple[str, str]:
    command = browser()
    assert command, "there is none"
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [command, *_FLAGS, f"--user-data-dir={profile}", *options],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr
