"""Makes the pictures of the README: python docs/images/pictures.py http://127.0.0.1:8000 (a running server).

Needs Chromium and playwright; the summary is that of `equipot md` on ethanol, 2 ps at 300 K.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
PATIENCE_MS = 300_000


def page_pictures(url: str) -> None:
    """A relaxation of paracetamol, in light and dark."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        address = ""
        for theme in ("light", "dark"):
            context = browser.new_context(viewport={"width": 1240, "height": 860}, color_scheme=theme)
            context.set_default_timeout(PATIENCE_MS)
            page = context.new_page()
            page.goto(address or url)
            if not address:
                page.click("text=Paracetamol")
                page.click("form button[type=submit]:enabled")
            page.wait_for_selector(".verdict.good")
            address = page.url
            page.wait_for_selector(".plot >> nth=1")
            page.wait_for_timeout(3000)
            page.evaluate("document.querySelector('[aria-label=Pause]')?.click()")
            page.evaluate("document.querySelector('[aria-label=\"Last frame\"]').click()")
            page.wait_for_timeout(3000)
            page.screenshot(path=HERE / f"page-{theme}.png", timeout=PATIENCE_MS)
            context.close()
        browser.close()


def summary_picture() -> None:
    """What `equipot md` leaves."""
    from ase.build import molecule
    from ase.io import write

    with tempfile.TemporaryDirectory() as folder:
        write(f"{folder}/ethanol.xyz", molecule("CH3CH2OH"))
        command = [str(Path(sys.executable).with_name("equipot")), "md", f"{folder}/ethanol.xyz", "-o", f"{folder}/run"]
        subprocess.run([*command, "--duration-ps", "2", "--seed", "1"], check=True)
        shutil.copy(f"{folder}/run/summary.png", HERE / "summary.png")


if __name__ == "__main__":
    summary_picture()
    page_pictures(sys.argv[1])
