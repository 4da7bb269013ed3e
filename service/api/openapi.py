"""The OpenAPI description, and a plain page that shows it without a script or a foreign server."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from equipot.service.api.schemas import JOB_EXAMPLES, REF, Problem, ProblemEntry, job_request_schema


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the app, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        body, definitions = job_request_schema()
        schemas.update(definitions)
        for model in (ProblemEntry, Problem):
            schema = model.model_json_schema(ref_template=REF)
            schema.pop("$defs", None)
            schemas[model.__name__] = schema
        document["paths"]["/v1/jobs"]["post"]["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": body, "examples": JOB_EXAMPLES}},
        }
        document["components"]["securitySchemes"] = {
            "apiKey": {"type": "http", "scheme": "bearer", "description": "where keys are needed: `eqp_...`"}
        }
        document["security"] = [{}, {"apiKey": []}]
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        app.openapi_schema = document
    return app.openapi_schema


def reference_page(document: dict[str, Any]) -> str:
    """The description as one HTML page."""
    sections = [
        _operation(path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    examples = "".join(
        f"<h3>{escape(example['summary'])}</h3><pre>{escape(json.dumps(example['value'], indent=1))}</pre>"
        for example in JOB_EXAMPLES.values()
    )
    kinds = "".join(_fields(document, name) for name in ("RelaxParams", "MDParams", "RelaxJob", "StructureSchema"))
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>equipot API</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="/static/icon.svg">
<link rel="stylesheet" href="/static/style.css"></head><body class="plain"><main>
<h1>equipot API {escape(document["info"]["version"])}</h1>
<p>{escape(document["info"].get("description", ""))}</p>
<p>For machines: <a href="/openapi.json">openapi.json</a>. Back to the <a href="/">web page</a>.</p>
<h2>Bodies of <code>POST /v1/jobs</code></h2>{examples}<h2>Addresses</h2>{"".join(sections)}
<h2>Parameters</h2>{kinds}</main></body></html>"""


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(p['name'])}</code></td><td>{escape(p['in'])}</td>"
        f"<td>{escape(_type(p.get('schema', {})))}</td><td>{escape(p.get('description', ''))}</td></tr>"
        for p in operation.get("parameters", ())
    )
    table = f"<table><tr><th>name</th><th>in</th><th>type</th><th></th></tr>{rows}</table>" if rows else ""
    return (
        f"<section><h3><b>{method.upper()}</b> <code>{escape(path)}</code></h3>"
        f"<p>{escape(operation.get('description', ''))}</p>{table}</section>"
    )


def _fields(document: dict[str, Any], name: str) -> str:
    schema = document["components"]["schemas"][name]
    rows = "".join(
        f"<tr><td><code>{escape(key)}</code></td><td>{escape(_type(field))}</td>"
        f"<td>{escape(_default(field))}</td><td>{escape(field.get('description', ''))}</td></tr>"
        for key, field in schema.get("properties", {}).items()
    )
    heading = "<tr><th>name</th><th>type</th><th>default</th><th></th></tr>"
    return f"<h3>{escape(name)}</h3><p>{escape(schema.get('description', ''))}</p><table>{heading}{rows}</table>"


def _type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type(option) for option in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "const" in schema:
        return str(schema["const"])
    return str(schema.get("type", "any"))


def _default(schema: dict[str, Any]) -> str:
    return json.dumps(schema["default"]) if schema.get("default") is not None else ""
