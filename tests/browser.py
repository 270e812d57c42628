"""Pages of DermaNet in a real browser without a window: what is wrong with one, in sentences."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
"""Commands that the browser is looked for under; Playwright's own download of one is never used."""

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
SMALLEST, CONTRAST = 11.5, 4.5
"""Pixels of the smallest text, on a phone too, and its least contrast (WCAG 2, AA)."""

DRAWN = 11.0
"""Pixels of the text in a plot that is a picture. It is drawn at `POINTS` or more, `DOTS` to the inch."""

POINTS, DOTS = 11, 120

PICTURES = """async () => {
  const found = [];
  for (const img of document.images) {
    img.scrollIntoView();
    await img.decode().catch(() => {});
    if (!img.complete || !img.naturalWidth || !img.alt) found.push(img.alt || img.src.slice(0, 40));
  }
  scrollTo(0, 0);
  return [document.images.length, found];
}"""

TEXTS = """() => {
  const clear = colour => /rgba\\(.*, 0\\)|transparent/.test(colour);
  const light = colour => {
    const whole = colour.startsWith('color(') ? 1 : 255;
    const part = colour.match(/[\\d.]+/g).slice(0, 3).map(one => one / whole)
      .map(one => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const behind = one => {
    for (; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (!clear(colour)) return colour;
    }
    const dark = /dark/.test(getComputedStyle(document.documentElement).colorScheme);
    return dark && matchMedia('(prefers-color-scheme: dark)').matches ? 'rgb(18, 18, 18)' : 'rgb(255, 255, 255)';
  };
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), one = walker.currentNode.parentElement;
    if (!text || ['STYLE', 'SCRIPT'].includes(one.tagName.toUpperCase()) || !one.getClientRects().length) continue;
    const style = getComputedStyle(one), drawn = one instanceof SVGElement;
    const size = parseFloat(style.fontSize) * (drawn ? Math.hypot(one.getScreenCTM().b, one.getScreenCTM().d) : 1);
    const box = one.getBoundingClientRect(), edge = drawn && one.closest('svg').getBoundingClientRect();
    const cut = drawn && (box.right > edge.right + 1 || box.left < edge.left - 1);
    const [low, high] = [light(drawn ? style.fill : style.color), light(behind(one))].sort((a, b) => a - b);
    found.push([text.slice(0, 40), size, (high + 0.05) / (low + 0.05), cut]);
  }
  return found;
}"""

WIDTHS = """() => [document.documentElement.scrollWidth, [...document.body.querySelectorAll('*')].filter(one => {
  if (one.closest('svg') || one.getBoundingClientRect().right <= document.documentElement.clientWidth + 1) return false;
  for (let box = one.parentElement; box !== document.body; box = box.parentElement)
    if (['auto', 'scroll'].includes(getComputedStyle(box).overflowX)) return false;
  return true;
}).map(one => `${one.tagName.toLowerCase()} ${one.textContent.trim().slice(0, 30)}`)]"""

DRAWINGS = """() => [...document.querySelectorAll('.plots img')].map(img => [img.alt, img.width / img.naturalWidth])"""

PAPER = {"width": 718, "height": 1047}
"""Pixels of A4 within margins of a centimetre."""

ON_PAPER = """() => [getComputedStyle(document.documentElement).printColorAdjust, [...document.querySelectorAll('table, img')]
  .filter(one => one.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(one => `${one.tagName.toLowerCase()} ${one.textContent.trim().slice(0, 30)}`)]"""

OPEN = "() => document.querySelectorAll('details').forEach(one => { one.open = true; })"


def installed() -> str | None:
    """The path of a Chromium or Chrome on this machine; None where there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


@contextmanager
def browser() -> Iterator[Any]:
    """The installed browser, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=installed(), args=["--disable-gpu"])
        try:
            yield running
        finally:
            running.close()


def faults(path: Path) -> list[str]:
    """All that is wrong with a page, on a desk and on a phone, in light, in the dark and on paper; nothing where it is sound."""
    with browser() as running:
        return [
            *_on_a_screen(running, path, DESK, "light"), *_on_a_screen(running, path, DESK, "dark"),
            *_on_a_screen(running, path, PHONE, "light"), *_on_a_screen(running, path, PHONE, "dark"), *_on_paper(running, path),
        ]  # fmt: skip


def _on_a_screen(running: Any, path: Path, size: dict[str, int], scheme: str) -> Iterator[str]:
    where, said = f"{size['width']} pixels, {scheme}", []
    page = running.new_page(viewport=size, color_scheme=scheme, is_mobile=size is PHONE, device_scale_factor=2)
    page.on("console", lambda line: said.append(f"the console has {line.type}: {line.text}"))
    page.on("pageerror", lambda error: said.append(f"an error: {error}"))
    page.on("requestfailed", lambda asked: said.append(f"not loaded: {asked.url[:80]}"))
    page.on("request", lambda asked: _is_its_own(asked.url, path) or said.append(f"needs {asked.url[:80]}"))
    page.goto(path.as_uri())
    page.evaluate(OPEN)
    count, broken = page.evaluate(PICTURES)
    said += [f"a picture that is not there, or has no name: {name}" for name in broken]
    if count != path.read_text(encoding="utf-8").count("<img "):
        said.append(f"{count} pictures")
    wide, over = page.evaluate(WIDTHS)
    said += [f"beyond the edge: {one}" for one in over[:5]]
    if wide > size["width"]:
        said.append(f"scrolls sideways: {wide} pixels")
    texts = page.evaluate(TEXTS)
    if len(texts) < 50:
        said.append(f"only {len(texts)} texts")
    said += [f"{pixels:.1f} pixels: {text}" for text, pixels, _, _ in texts if pixels < SMALLEST]
    said += [f"contrast of {contrast:.1f}: {text}" for text, _, contrast, _ in texts if contrast < CONTRAST]
    said += [f"cut off: {text}" for text, _, _, cut in texts if cut]
    for name, scale in page.evaluate(DRAWINGS):
        if scale * POINTS * DOTS / 72 < DRAWN:
            said.append(f"text of {scale * POINTS * DOTS / 72:.1f} pixels in the picture {name}")
    page.close()
    yield from (f"{where}: {one}" for one in said)


def _is_its_own(address: str, path: Path) -> bool:
    return address.startswith("data:") or address == path.as_uri()


def _on_paper(running: Any, path: Path) -> Iterator[str]:
    """Printed as it is opened: nobody has looked at its pictures yet."""
    page = running.new_page(viewport=PAPER)
    page.goto(path.as_uri())
    printed = page.pdf(format="A4", print_background=False)
    page.emulate_media(media="print")
    colours, lost = page.evaluate(ON_PAPER)
    page.close()
    if colours != "exact":
        yield "paper: no bars"
    yield from (f"paper: beyond the edge: {one}" for one in lost)
    sheets, pictures = (len(re.findall(kind, printed)) for kind in (rb"/Type ?/Page\b", rb"/Subtype ?/Image\b"))
    shown = set(re.findall(r'<img src="([^"]+)"', path.read_text(encoding="utf-8")))
    if not printed.startswith(b"%PDF-") or not sheets:
        yield "paper: no sheet"
    if pictures < len(shown):
        yield f"paper: {pictures} of {len(shown)} pictures on {sheets} sheets"
