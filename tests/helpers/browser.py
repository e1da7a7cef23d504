"""A real TensorBoard, looked at in a real browser; also writes the pictures of the docs.

python -m tests.helpers.browser LOGDIR FOLDER   # one PNG a page
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from playwright.sync_api import Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
"""Debian's package ``chromium``; ``None`` where there is none."""

QUIET = (
    "--no-sandbox",  # Chromium refuses to run as root with it.
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

SECONDS = 90
"""Most that a page may take."""

PAGES = {
    "scalars": "timeseries",
    "phase_view": "custom_scalars",
    "images": "images",
    "on_inputs": "images&tagFilter=on_input",
    "text": "text",
    "hparams": "hparams",
}
"""TensorBoard's page for each picture."""

HEIGHTS = {"phase_view": 1300, "images": 1900}
"""Pixels of pictures that are not as high as others."""


@contextmanager
def tensorboard(folder: Path) -> Iterator[str]:
    """Serve a folder of logs as long as the body runs, and yield the address."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", folder.name, "--host", "127.0.0.1", "--port", "0"]
    # Its data server keeps what was read; a folder is read once here.
    command += ["--load_fast", "false", "--reload_interval", "0", "--samples_per_plugin", "images=100"]
    # The page shows the path as it is given here.
    server = subprocess.Popen(
        command, cwd=folder.resolve().parent, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        yield _address(server)
    finally:
        server.terminate()
        server.wait(timeout=30)
        assert server.stderr is not None
        server.stderr.close()


def _address(server: "subprocess.Popen[str]") -> str:
    """Read where the server listens from what it says, and wait until it answers."""
    assert server.stderr is not None
    said = []
    for line in server.stderr:
        said.append(line)
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            address = found.group()
            break
    else:
        raise RuntimeError(f"tensorboard: expected an address, got {''.join(said)}")
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        with urlopen(f"{address}/data/runs", timeout=SECONDS) as answer:
            if answer.read() not in (b"[]", b""):
                return address
        time.sleep(0.2)
    raise RuntimeError(f"tensorboard: expected runs at {address}, got none")


@contextmanager
def browser(width: int = 1280, height: int = 1100) -> Iterator[Page]:
    """Open an empty page that reaches nothing but this machine."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        page = chromium.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(1000 * SECONDS)
        page.route(re.compile(r"^(?!http://127\.0\.0\.1)"), lambda route: route.abort())
        try:
            yield page
        finally:
            chromium.close()


def opened(page: Page, address: str, picture: str) -> Page:
    """Open one of TensorBoard's pages, and wait until nothing is loaded any more."""
    page.goto("about:blank")
    page.goto(f"{address}/#{PAGES[picture]}")
    page.wait_for_load_state("networkidle")
    return page


TEXT_OF_ALL = """() => {
  const texts = [];
  const walk = (node) => {
    if (node.nodeType === Node.TEXT_NODE) { texts.push(node.textContent.trim()); return; }
    if (["STYLE", "SCRIPT", "TEMPLATE"].includes(node.nodeName)) { return; }
    for (const child of (node.shadowRoot || node).childNodes) { walk(child); }
    if (node.shadowRoot) { for (const child of node.childNodes) { walk(child); } }
  };
  walk(document.body);
  return texts.filter((text) => text).join("\\n");
}"""
"""Most of TensorBoard lies in shadow roots, which the text of the body leaves out."""


def shown(page: Page) -> str:
    """Return all text of a page in the order of the document."""
    text: str = page.evaluate(TEXT_OF_ALL)
    return text


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    with tensorboard(folder) as address, browser() as page:
        for picture in PAGES:
            page.set_viewport_size({"width": 1280, "height": HEIGHTS.get(picture, 1100)})
            opened(page, address, picture)
            page.wait_for_timeout(3000)
            page.screenshot(path=out / f"{picture}.png")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
