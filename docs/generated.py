"""What of the documentation is made from the code, in place of `<!-- generated: NAME -->` (a hook of mkdocs)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

MARK = re.compile(r"^<!-- generated: (.+) -->$", re.MULTILINE)
FETCHED_SCRIPT, OUR_COPY = "https://unpkg.com/iframe-worker/shim", "assets/iframe-worker.js"  # 1.0.4, MIT


def on_page_markdown(markdown: str, **_of_mkdocs: Any) -> str:
    """The page with what is made from the code in its place. Raises KeyError for a name nothing is known of."""
    return MARK.sub(lambda mark: MAKERS[mark[1]](), markdown)


def on_post_page(output: str, *, page: Any, **_of_mkdocs: Any) -> str:
    """The page with our copy of the one script that the theme would fetch from elsewhere."""
    return output.replace(FETCHED_SCRIPT, "../" * page.url.count("/") + OUR_COPY)


def on_post_template(output: str, **_of_mkdocs: Any) -> str:
    """The same for 404.html, which is served at any address."""
    return output.replace(FETCHED_SCRIPT, f"/{OUR_COPY}")


def errors() -> str:
    """A table of every error: code, class, HTTP status."""
    from equipot.errors import error_classes
    from equipot.service.api.problems import STATUS

    rows = [
        [
            f"[`{code}`](#{code})",
            cls.title,
            f"`{cls.__name__}`",
            str(int(STATUS[code])) if code in STATUS else "in jobs",
        ]
        for code, cls in error_classes().items()
    ]
    return _table(["code", "means", "in Python", "HTTP status"], rows)


def parameters(name: str) -> str:
    """A table of the parameters of a kind of job, or of guards."""
    from equipot.params import PARAMS_OF_KIND, Guards

    model = Guards if name == "guards" else PARAMS_OF_KIND[name]  # type: ignore[index]
    rows = []
    for field, info in model.model_fields.items():
        default = "" if info.is_required() or info.default is None else f"`{_plain(info.default)}`"
        rows.append([f"`{field}`", default, info.description or _first_line(info.annotation)])
    return _table(["name", "default", "meaning"], rows)


def settings() -> str:
    """A table of the settings of the service."""
    from equipot.service.settings import Settings

    prefix = str(Settings.model_config.get("env_prefix", "")).upper()
    rows = []
    for field, info in Settings.model_fields.items():
        default = "" if info.default is None or info.is_required() else f"`{_plain(info.default)}`"
        rows.append([f"`{prefix}{field.upper()}`", default, info.description or ""])
    return _table(["variable", "default", "meaning"], rows)


def http() -> str:
    """Every address of the API with its parameters and answers."""
    from equipot.service.api.app import create_app
    from equipot.service.api.openapi import describe
    from equipot.service.settings import Settings

    with TemporaryDirectory() as folder:  # the app is made, never started: nothing listens and no Redis is asked
        app = create_app(Settings(redis_url="redis://127.0.0.1:1/0", data_dir=Path(folder)))
        document = describe(app)
    parts = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(
                f"## {method.upper()} {path}\n\n{operation.get('description') or operation.get('summary', '')}\n"
            )
            rows = [
                [f"`{p['name']}`", p["in"], p.get("description", "")]
                for p in operation.get("parameters", ())
                if "name" in p
            ]
            if rows:
                parts.append(_table(["name", "in", "meaning"], rows))
            parts.append("Answers: " + ", ".join(f"`{status}`" for status in operation["responses"]) + "\n")
    return "\n".join(parts)


def _table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _first_line(annotation: Any) -> str:
    for option in getattr(annotation, "__args__", (annotation,)):
        if isinstance(option, type) and option.__doc__ and option.__module__.startswith("equipot"):
            return option.__doc__.splitlines()[0]
    return ""


MAKERS: dict[str, Callable[[], str]] = {
    "errors": errors,
    "parameters of relax": lambda: parameters("relax"),
    "parameters of md": lambda: parameters("md"),
    "parameters of guards": lambda: parameters("guards"),
    "settings": settings,
    "http": http,
}
