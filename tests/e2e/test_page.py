"""The web page as people use it: a real Chromium, a real server, a real worker, and the files they bring.

Frames are drawn by the processor here, slowly when the machine is busy: what is waited for is patient, and everything
is asked of the page itself rather than of pictures.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ase import Atoms
from ase.io import read
from PIL import Image

from .conftest import Stack

playwright = pytest.importorskip(
    "playwright.sync_api", reason="the page is tested with playwright: pip install playwright"
)

CHROMIUM = os.environ.get("EQUIPOT_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="the page is tested in Chromium: apt-get install chromium"),
    pytest.mark.timeout(900),
]
PATIENCE_MS = 180_000
#: no sandbox, since CI is root in a container; WebGL by the processor; nothing asked of the network
FLAGS = (
    "--no-sandbox --use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader --disable-background-networking "
    "--disable-component-update --disable-sync --no-first-run --disable-default-apps --disable-domain-reliability "
    "--disable-dev-shm-usage"
).split()

SILICON = "tests/data/structures/si_diamond_rattled.extxyz"
SERIOUS = {"serious", "critical"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


class Visit:
    """One person's tab, with what went wrong in it: errors of scripts, refusals of the policy, requests elsewhere."""

    def __init__(self, browser: Any, stack: Stack, **context: Any) -> None:
        self.origin = f"http://127.0.0.1:{stack.port}"
        size = {"viewport": {"width": 1100, "height": 800}, "device_scale_factor": 0.5}  # a quarter of the pixels
        self._context = browser.new_context(accept_downloads=True, **size, **context)
        self._context.set_default_timeout(PATIENCE_MS)
        self.page: Any = self._context.new_page()
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", self._note)
        self.page.on("request", self._check)

    def _note(self, message: Any) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:  # a refusal we asked for
            self.wrong.append(message.text)

    def _check(self, request: Any) -> None:
        if not request.url.startswith((self.origin, "data:", "blob:")):
            self.wrong.append(f"asked {request.url}")

    def open(self, where: str = "") -> Any:
        self.page.goto(f"{self.origin}/{where}")
        self.page.wait_for_selector("body[data-ready]")
        return self.page

    def bring(self, *files: Path | str) -> None:
        """Choose files, and wait until the structure is seen."""
        self.page.set_input_files("input[type=file]", [str(file) for file in files])
        self.page.wait_for_selector(".viewer[data-atoms]")

    def start(self) -> str:
        """Press the button; the id of the job whose page comes."""
        self.page.click("form button[type=submit]:enabled")
        self.page.wait_for_url("**/#/jobs/*")
        job_id: str = self.page.url.rpartition("/")[2]
        return job_id

    def until(self, true: str) -> None:
        """Wait until a script says yes; playwright's own way to wait would need what the page's policy forbids."""
        give_up = time.monotonic() + PATIENCE_MS / 1000
        while not self.page.evaluate(true):
            assert time.monotonic() < give_up, f"not so: {true}"
            self.page.wait_for_timeout(100)

    def set(self, field: str, value: str) -> None:
        self.page.fill(f"[data-field={field}] input >> nth=0", value)

    def still(self) -> None:
        """Stop what plays: drawing is slow here."""
        self.page.evaluate("document.querySelector('.player [aria-label=Pause]')?.click()")

    def close(self) -> None:
        self._context.close()
        assert not self.wrong


@pytest.fixture
def visit(browser: Any, stack: Stack) -> Iterator[Visit]:
    visit = Visit(browser, stack)
    yield visit
    visit.close()


def frames_of(path: Path) -> list[Atoms]:
    """The structures in a file, as ASE reads them."""
    found = read(path, index=":")
    assert isinstance(found, list)
    return found


def n_colours(png: bytes) -> int:
    """How many colours a picture has: an empty canvas one or two, shaded atoms hundreds."""
    with Image.open(io.BytesIO(png)) as picture:
        return len(picture.convert("RGB").getcolors(2**24) or ())


def axe_violations(page: Any) -> list[str]:
    """What axe finds wrong, of what it calls serious or critical."""
    import axe_playwright_python

    script = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    page.evaluate(script)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {node['target']} {node['failureSummary']}"
        for one in found["violations"]
        if one["impact"] in SERIOUS
        for node in one["nodes"]
    ]


@pytest.fixture(scope="module")
def student_cif(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A silicon crystal as a CIF, rattled: what a student brings."""
    from ase.build import bulk
    from ase.io import write

    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.05, seed=2)
    path = tmp_path_factory.mktemp("files") / "silicon.cif"
    write(path, atoms)
    return path


def test_a_cif_is_dropped_looked_at_relaxed_watched_and_fetched(
    visit: Visit, stack: Stack, student_cif: Path, tmp_path: Path
) -> None:
    page = visit.open()
    visit.bring(student_cif)
    assert page.locator(".structure .facts").inner_text().splitlines()[:2] == ["Formula", "Si8"]
    drawn = int(page.get_attribute(".viewer", "data-drawn"))
    page.click("[aria-label='More periodic images']")
    visit.until(f"Number(document.querySelector('.viewer').dataset.drawn) >= {8 * 8}")
    assert drawn >= 8
    page.fill(".viewer-measure", "0 1")
    page.press(".viewer-measure", "Enter")
    measured = frames_of(student_cif)[0].get_distance(0, 1)
    assert f"{measured:.3f} Å" in page.inner_text(".viewer-readout")

    page.select_option(".run select >> nth=0", "elements-2")
    visit.set("fmax_ev_per_ang", "0.02")
    visit.until("document.querySelector('.estimate').textContent.includes('8 atoms')")
    job_id = visit.start()
    page.wait_for_selector(".verdict.good")
    assert page.inner_text(".verdict-title").startswith("Converged after")
    record = stack.ended(job_id)
    assert record["params"]["fmax_ev_per_ang"] == 0.02
    frames = len(stack.client.get(f"/v1/jobs/{job_id}/trajectory?format=jsonl").text.splitlines())
    page.wait_for_selector(f".player[data-frames='{frames}']")
    visit.still()
    assert page.locator(".plot").count() == 2
    assert "last 0.0" in page.get_attribute(".plot-canvas >> nth=0", "aria-label")
    with page.expect_download() as waiting:
        page.click("text=Extended XYZ")
    waiting.value.save_as(tmp_path / "out.extxyz")
    fetched = frames_of(tmp_path / "out.extxyz")
    assert len(fetched) == frames
    assert fetched[-1].get_potential_energy() < fetched[0].get_potential_energy()


def test_a_mistake_is_shown_at_its_field_and_nothing_is_queued(visit: Visit, stack: Stack, repository: Path) -> None:
    n_jobs = len(stack.client.get("/v1/jobs").json()["items"])
    page = visit.open()
    visit.bring(repository / SILICON)
    visit.set("fmax_ev_per_ang", "-1")
    page.wait_for_selector("[data-field=fmax_ev_per_ang].wrong")
    assert "greater than 0" in page.inner_text("[data-field=fmax_ev_per_ang] .error")
    assert page.get_attribute("[data-field=fmax_ev_per_ang] input", "aria-invalid") == "true"
    visit.set("fmax_ev_per_ang", "0.05")
    page.wait_for_selector("[data-field=fmax_ev_per_ang]:not(.wrong)")
    page.check("input[value=md]", force=True)
    page.click("summary:text-is('Thermostat and barostat')")
    visit.set("friction_per_fs", "99")
    page.wait_for_selector("[data-field=friction_per_fs].wrong")
    page.click("form button[type=submit]:enabled")
    page.wait_for_selector("[data-field=friction_per_fs].wrong input:focus")
    assert len(stack.client.get("/v1/jobs").json()["items"]) == n_jobs


def test_level_of_theory_and_charge_are_chosen_refused_at_their_fields_and_told_in_code(
    visit: Visit, stack: Stack, repository: Path
) -> None:
    page = visit.open()
    visit.bring(repository / "tests/data/structures/acetate_anion.extxyz")
    assert page.input_value("[data-field=model] select") == "organic-3"  # the one that knows a charge of -1
    assert page.input_value("[data-field=charge] input") == "-1"
    page.select_option("[data-field=level_of_theory] select", "PBE/def2-SVP")
    page.wait_for_selector("[data-field=charge].wrong")
    assert "organic-3 at PBE/def2-SVP" in page.inner_text("[data-field=charge] .error")
    page.fill("[data-field=charge] input", "0")
    page.wait_for_selector("[data-field=charge]:not(.wrong)")
    visit.until("document.querySelector('.estimate').textContent.includes('7 atoms')")
    page.click("summary:text-is('The same job in code')")
    for tab, words in (
        ("curl", ['"charge":0', '"level_of_theory":"PBE/def2-SVP"']),
        ("Python", ['atoms.info["charge"] = 0', 'level_of_theory="PBE/def2-SVP"']),
        ("Command line", ["--charge 0", "--level-of-theory PBE/def2-SVP"]),
    ):
        page.click(f"role=tab[name='{tab}']")
        visit.until(f"document.querySelector('.snippet').textContent.includes({words[0]!r})")
        assert words[1] in page.inner_text(".snippet")
    visit.set("max_steps", "1")
    record = stack.ended(visit.start())
    assert record["level_of_theory"] == "PBE/def2-SVP"
    page.wait_for_selector(".verdict.warn")
    assert "PBE/def2-SVP" in page.inner_text(".job-head")
    page.click("[data-action=again]")
    page.wait_for_selector(".viewer[data-atoms='7']")
    assert page.input_value("[data-field=level_of_theory] select") == "PBE/def2-SVP"
    page.select_option("[data-field=level_of_theory] select", "GFN2-xTB")
    page.fill("[data-field=charge] input", "-1")
    visit.start()
    page.wait_for_selector(".job-head:has-text('charge −1 e')")


def test_a_bad_file_says_what_is_wrong_with_it_and_the_next_one_is_taken(visit: Visit, repository: Path) -> None:
    page = visit.open()
    page.set_input_files("input[type=file]", str(repository / "tests/data/structures/scrambled_blank.xyz"))
    page.wait_for_selector(".problem")
    assert "scrambled_blank.xyz" in page.inner_text(".problem") or "line" in page.inner_text(".problem")
    visit.bring(repository / "tests/data/structures/uranium_dioxide.cif")
    visit.until("[...document.querySelectorAll('.run .error')].some((e) => /does not know (U|O)/.test(e.textContent))")


def test_a_file_may_be_dropped_anywhere_on_the_page(visit: Visit) -> None:
    page = visit.open()
    file = "new File(['2\\n\\nH 0 0 0\\nH 0 0 0.8\\n'], 'h2.xyz')"
    dropped = page.evaluate_handle(f"() => {{const t = new DataTransfer(); t.items.add({file}); return t}}")
    page.dispatch_event("main .page", "drop", {"dataTransfer": dropped})
    page.wait_for_selector(".viewer[data-atoms='2']")
    assert page.inner_text(".taken-name") == "h2.xyz"


def test_text_is_pasted_and_its_format_is_seen(visit: Visit, repository: Path) -> None:
    page = visit.open()
    page.click("summary:text-is('or paste text')")
    page.fill("textarea", "3\nwater\nO 0 0 0.119\nH 0 0.763 -0.477\nH 0 -0.763 -0.477\n")
    assert page.input_value("select[aria-label='Format of the text']") == "xyz"
    page.click("text=Use this text")
    page.wait_for_selector(".viewer[data-atoms='3']")
    page.fill(".viewer-measure", "1 0 2")
    page.press(".viewer-measure", "Enter")
    assert re.search(r"H1–O0–H2 +10[0-9]\.\d°", page.inner_text(".viewer-readout"))
    page.click("text=Choose another")  # and the next one is seen, too
    visit.bring(repository / SILICON)
    page.wait_for_selector(".viewer[data-atoms='64']")
    visit.until("document.querySelectorAll('.viewer-canvas canvas').length > 0")
    assert n_colours(page.locator(".viewer-canvas").screenshot()) > 100


def test_two_jobs_run_are_listed_and_one_is_cancelled_resumed_and_done_again(
    visit: Visit, stack: Stack, repository: Path
) -> None:
    page = visit.open()
    visit.bring(repository / "service/web/examples/caffeine.xyz")
    page.check("input[value=md]", force=True)
    visit.set("duration_ps", "500")
    long = visit.start()
    page.wait_for_selector(".verdict.run")
    visit.until("document.querySelectorAll('.plot').length >= 3")  # live, before it ends
    visit.until("Number(document.querySelector('.player').dataset.frames) >= 2")
    visit.still()

    page = visit.open("#/")
    visit.bring(repository / "service/web/examples/uracil-dimer.xyz")
    page.click("summary:text-is('Name and tags')")
    page.fill("label:text-is('Name') + input", "the second")
    short = visit.start()
    page.wait_for_selector(".verdict.good, .verdict.warn")
    visit.still()
    page = visit.open("#/jobs")
    page.wait_for_selector(f"a[href='#/jobs/{long}']")
    assert page.locator(".jobs tbody a", has_text="the second").first.get_attribute("href") == f"#/jobs/{short}"
    assert page.locator(f"tr:has(a[href='#/jobs/{long}']) .badge").inner_text() == "Running"

    page = visit.open(f"#/jobs/{long}")
    page.click("[data-action=cancel]")
    page.wait_for_selector(".badge[data-state=cancelled]")
    assert stack.ended(long)["state"] == "cancelled"
    page.click("[data-action=resume]")
    page.wait_for_selector(".badge[data-state=running]")
    page.click("[data-action=cancel]")
    page.wait_for_selector(".badge[data-state=cancelled]")
    assert stack.ended(long)["attempt"] == 2
    visit.still()
    page.click("[data-action=again]")
    page.wait_for_selector(".viewer[data-atoms='24']")
    assert page.input_value("[data-field=duration_ps] input") == "1000000"  # as it was resolved: steps
    assert page.input_value("[data-field=duration_ps] select") == "n_steps"


def test_a_relaxed_structure_goes_on_as_dynamics_and_a_batch_shows_failures_first(
    visit: Visit, stack: Stack, repository: Path
) -> None:
    page = visit.open()
    visit.bring(repository / "service/web/examples/ibuprofen-conformers.xyz")
    visit.set("max_steps", "3")
    job_id = visit.start()
    page.wait_for_selector(".verdict.warn")
    page.wait_for_selector(".systems tbody tr >> nth=11")
    assert stack.ended(job_id)["outcomes"] == {"max_steps": 12}
    page.click("button.sort:has-text('Energy')")
    energies = [
        float(text.replace("−", "-")) for text in page.locator(".systems tbody td:nth-child(4)").all_inner_texts()
    ]
    assert energies == sorted(energies)
    page.click("[aria-label='Look at system 5']")
    page.wait_for_selector("tr.chosen[data-system='5']")
    visit.until("Number(document.querySelector('.player').dataset.frames) >= 2")
    visit.still()
    page.click("[data-action=md]")
    page.wait_for_selector(".viewer[data-atoms='33']")
    assert page.is_checked("input[value=md]")
    page.click("summary:text-is('The same job in code')")
    page.click("role=tab[name='Command line']")
    visit.until("document.querySelector('.snippet').textContent.startsWith('equipot md ')")


def test_every_page_is_readable_by_a_screen_reader_in_light_and_dark_wide_and_narrow(
    browser: Any, stack: Stack, repository: Path
) -> None:
    visit = Visit(browser, stack, color_scheme="dark", reduced_motion="reduce")
    page = visit.open()
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(colour)
    page.click("[aria-label='Colours: as the system']")
    page.wait_for_selector("html[data-theme=light]")
    light = page.evaluate(colour)
    assert dark != light
    visit.bring(repository / "service/web/examples/silicon.cif")
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert axe_violations(page) == []
    page.check("input[value=md]", force=True)
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert axe_violations(page) == []
    newest = stack.client.get("/v1/jobs?page_size=1").json()["items"][0]["id"]
    for where in ("#/jobs", "#/models", f"#/jobs/{newest}"):
        page = visit.open(where)
        page.wait_for_selector(".card")
        assert axe_violations(page) == [], where
        page.click("[aria-label='Colours: light']")
        page.set_viewport_size({"width": 380, "height": 700})
        assert axe_violations(page) == [], f"{where}, dark and narrow"
        assert page.evaluate("document.documentElement.scrollWidth") <= 380, f"{where} is wider than the screen"
        page.click("[aria-label='Colours: dark']")
        page.click("[aria-label='Colours: as the system']")
        page.set_viewport_size({"width": 1100, "height": 800})
    visit.close()


def test_a_person_gets_everywhere_with_the_keyboard(visit: Visit, repository: Path) -> None:
    page = visit.open()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for _ in range(4):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.type") == "file":
            break
    assert page.evaluate("document.activeElement.type") == "file"
    visit.bring(repository / "service/web/examples/silicon.cif")
    page.focus(".viewer-canvas")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "viewer-measure"


@pytest.mark.parametrize(
    "name", ["paracetamol.sdf", "caffeine.xyz", "silicon.cif", "nbmotaw-alloy.vasp", "copper-slab.extxyz"]
)
def test_an_example_is_a_structure_that_a_shipped_potential_takes(stack: Stack, repository: Path, name: str) -> None:
    data = (repository / "service/web/examples" / name).read_bytes()
    read_ = stack.client.post("/v1/structures", files={"file": (name, data)}).json()
    assert not read_["warnings"]
    body = {"kind": "relax", "structures": [{"structure_id": read_["structure_id"]}]}
    statuses = {
        stack.client.post("/v1/jobs?validate_only=true", json={**body, "model": model}).status_code
        for model in ("organic", "elements")
    }
    assert 200 in statuses
