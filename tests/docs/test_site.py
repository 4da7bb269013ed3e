"""The site: it builds without a warning, works without a network, and leaves no error or parameter out."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from equipot.errors import error_classes
from equipot.params import PARAMS_OF_KIND

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"


@pytest.fixture(scope="module")
def generated() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generated", DOCS / "generated.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


def test_the_site_has_every_page_and_the_generated_parts_are_filled_in(site: Path) -> None:
    pages = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    assert {page for page in pages if not (site / page).exists()} == set()
    for page in pages:
        assert "<!-- generated:" not in (site / page).read_text()
    assert "OutOfMemoryError" in (site / "troubleshooting.html").read_text()


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    fetching = re.compile(r"""<(?:script|img|iframe|source)[^>]+?src=["']?([^"'\s>]+)|<link([^>]+)>""")
    for page in site.rglob("*.html"):
        for source, link in fetching.findall(page.read_text()):
            target = source or "".join(re.findall(r"""(?<!canonical["'] )href=["']?([^"'\s>]+)""", link))
            assert "//" not in target, f"{page.name}: {target}"
            if source and page.name != "404.html":  # it is served at any address
                assert (page.parent / source.split("?")[0]).exists(), f"{page.name}: {source}"


def test_every_error_has_a_section_that_says_what_to_do_and_no_section_is_of_another() -> None:
    sections = re.findall(r"^## (.+)\n(.+)$", (DOCS / "troubleshooting.md").read_text(), flags=re.MULTILINE)
    assert [code for code, _ in sections] == list(error_classes())
    assert all(len(text) > 30 for _, text in sections)


def test_the_table_of_parameters_has_each_with_its_meaning(generated: ModuleType) -> None:
    for kind in ("relax", "md"):
        table = generated.parameters(kind)
        for name, field in PARAMS_OF_KIND[kind].model_fields.items():
            assert f"| `{name}` |" in table
            assert field.description is None or field.description.replace("|", "\\|") in table


def test_the_reference_of_http_has_every_address(generated: ModuleType) -> None:
    text = generated.http()
    for address in ("POST /v1/jobs", "GET /v1/jobs/{job_id}/trajectory", "POST /v1/evaluate", "GET /healthz"):
        assert f"## {address}" in text


def test_every_benchmark_named_exists_and_every_script_that_measures_is_named() -> None:
    page = (DOCS / "benchmarks.md").read_text()
    named = set(re.findall(r"`(benchmarks/\w+\.py)`", page))
    assert {name for name in named if not (REPOSITORY / name).exists()} == set()
