"""A headless Chromium for tests of pages, and what they ask of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def found() -> str:
    """Chromium's path; a machine of one's own may lack it, a gate may not."""
    path = os.environ.get("FEDKIT_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("no chromium: install Debian's package of that name, or set FEDKIT_CHROMIUM")
        pytest.skip("no chromium is installed")
    return path


@dataclass
class Opened:
    """A page that was opened, what its console said, and what it asked of the network."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def run(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)


@contextmanager
def running() -> Iterator[Any]:
    """A browser, which ends with the block."""
    path = found()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, file: Path, width: int = 1280, scheme: str = "light") -> Iterator[Opened]:
    """Opens a file in a context of its own."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    try:
        held = Opened(context.new_page())
        held.page.on("console", lambda message: held.said.append(message.text))
        held.page.on("pageerror", lambda error: held.said.append(str(error)))
        held.page.on("dialog", lambda dialog: (held.said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        held.page.on("request", lambda request: held.asked.append(request.url[:80]))
        held.page.goto(file.as_uri())
        yield held
    finally:
        context.close()


LAYOUT = """() => {
  const width = document.documentElement.clientWidth;
  const problems = [];
  if (document.documentElement.scrollWidth > width) problems.push("the page is wider than the window");
  for (const svg of document.querySelectorAll("svg.picture")) {
    const box = svg.getBoundingClientRect();
    if (box.width < 250 || box.height < 60) problems.push("a picture is too small: " + svg.getAttribute("aria-label"));
    if (box.left < 0 || box.right > width + 0.5) problems.push("a picture is cut: " + svg.getAttribute("aria-label"));
    if (!svg.getAttribute("aria-label")) problems.push("a picture has no words");
    const card = svg.closest("figure").getBoundingClientRect();
    for (const text of svg.querySelectorAll("text")) {
      const own = text.getBoundingClientRect();
      const where = `"${text.textContent.slice(0, 40)}" in ${svg.getAttribute("aria-label").slice(0, 60)}`;
      if (own.left < card.left - 0.5 || own.right > card.right + 0.5) problems.push(`text leaves its card: ${where}`);
      if (own.top < box.top - 3 || own.bottom > box.bottom + 3) problems.push(`text is cut: ${where}`);
      const size = parseFloat(getComputedStyle(text).fontSize) * box.width / svg.viewBox.baseVal.width;
      if (size < 10) problems.push(`text is tiny (${size.toFixed(1)} px): ${where}`);
    }
  }
  for (const one of document.querySelectorAll("h1, h2, h3, h4, p, figcaption, li, td, th, summary, button")) {
    if (one.closest("details:not([open])") && one.tagName !== "SUMMARY") continue;
    const style = getComputedStyle(one);
    const what = `${one.tagName} ${one.textContent.trim().slice(0, 40)}`;
    const wider = one.clientWidth && one.scrollWidth > one.clientWidth + 1;
    if (wider && style.display !== "inline") problems.push(`does not fit: ${what}`);
    const box = one.getBoundingClientRect();
    const inside = one.closest(".scroll");
    if (!inside && box.width && box.right > width + 0.5) problems.push(`leaves the page: ${what}`);
  }
  return problems;
}"""
"""What is cut, tiny or outside."""

OVERLAPS = """() => {
  const problems = [];
  for (const svg of document.querySelectorAll("svg.picture")) {
    const texts = [...svg.querySelectorAll("text")].filter((t) => t.textContent.trim());
    const boxes = texts.map((t) => t.getBoundingClientRect());
    for (let i = 0; i < boxes.length; i++)
      for (let j = i + 1; j < boxes.length; j++) {
        const a = boxes[i], b = boxes[j];
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        const least = 0.35 * Math.min(a.height, b.height, a.width, b.width);
        const where = svg.getAttribute("aria-label").slice(0, 50);
        const both = `${texts[i].textContent} / ${texts[j].textContent}`;
        if (wide > least && high > least) problems.push(`${both} in ${where}`);
      }
  }
  return problems;
}"""
"""Labels of pictures that lie on each other."""

CONTRAST = """() => {
  const parse = (color) => {
    const canvas = parse.canvas ??= new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const over = (top, below) => top.slice(0, 3).map((v, i) => v * top[3] / 255 + below[i] * (1 - top[3] / 255));
  const behind = (node) => {
    const stack = [];
    for (let at = node; at; at = at.parentElement) stack.unshift(parse(getComputedStyle(at).backgroundColor));
    return stack.reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const problems = new Set();
  let seen = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walk.nextNode(); text; text = walk.nextNode()) {
    const node = text.parentElement;
    if (!text.textContent.trim() || ["SCRIPT", "STYLE"].includes(node.tagName)) continue;
    const drawn = node.ownerSVGElement;
    const style = getComputedStyle(node);
    const below = behind(drawn ? drawn.parentElement : node);
    const ink = over(parse(drawn ? style.fill : style.color), below);
    const [high, low] = [light(ink), light(below)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    seen++;
    const what = `${node.tagName}: ${text.textContent.trim().slice(0, 30)}`;
    if (ratio < 4.5 && !node.disabled) problems.add(`${ratio.toFixed(2)} ${what}`);
  }
  return { seen, problems: [...problems] };
}"""
"""Texts whose computed colours contrast less than WCAG's AA asks."""
