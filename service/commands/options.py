"""Command line options made from the parameters of a run, so that both have the same names, types and words."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from equipot.errors import InvalidParameterError
from equipot.params import AnyParams, JobKind, Params, parse_params

Command = Callable[..., None]
PLAIN_TYPES = (bool, int, float, str)
PANEL = "Parameters"


def with_params(model: type[Params]) -> Callable[[Command], Command]:
    """Give a command one option for each field of `model`; it gets them in `**params`, None where not given."""

    def decorate(command: Command) -> Command:
        hints = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(annotation=hints[name])
            for name, parameter in inspect.signature(command).parameters.items()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        made = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name, field))
            for name, field in model.model_fields.items()
        ]
        command.__signature__ = inspect.Signature([*own, *made])  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in (*own, *made)} | {"return": None}
        return command

    return decorate


def params_of(kind: JobKind, given: Mapping[str, Any], in_file: Mapping[str, Any]) -> AnyParams:
    """The parameters of a run: those of a file, and options over them. Raises InvalidParameterError."""
    merged = dict(in_file)
    for name, value in given.items():
        if value is not None:
            merged[name] = _from_text(name, value)
    if given.get("n_steps") is not None and given.get("duration_ps") is None:
        merged.pop("duration_ps", None)  # an option replaces what the file says of the same thing
    if given.get("duration_ps") is not None and given.get("n_steps") is None:
        merged.pop("n_steps", None)
    return parse_params(kind, merged)


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file that holds names and values. Raises InvalidParameterError."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidParameterError(f"{path} cannot be read: {reason}", hint="It must be a YAML file.") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise InvalidParameterError(f"{path} must hold names and values, as in: fmax_ev_per_ang: 0.01.")
    return data


def _option(name: str, field: FieldInfo) -> Any:
    plain = _plain_type(field.annotation)
    dashed = name.replace("_", "-")
    flags = [f"--{dashed}/--no-{dashed}" if plain is bool and field.default else f"--{dashed}"]
    description = field.description or _summary(field.annotation)
    if get_origin(plain) is Literal:
        description = f"{description} ({', '.join(get_args(plain))})"
    default = "" if field.default is None or isinstance(field.default, BaseModel) else str(field.default)
    option = typer.Option(
        *flags,
        help=f"{description} (default {default})" if default else description,
        show_default=False,
        metavar=_metavar(plain),
        rich_help_panel=PANEL,
    )
    return Annotated[(plain or str) | None, option]


def _metavar(plain: Any) -> str | None:
    """What stands for the value: short, so that names and descriptions have room on 80 columns."""
    if plain is bool:
        return None
    return {int: "INT", float: "NUMBER", str: "TEXT", None: "YAML"}.get(plain, "WORD")


def _plain_type(annotation: Any) -> Any:
    """The one type a shell can express, or None if the value is a list or an object."""
    options = [option for option in _union(annotation) if option is not type(None)]
    if len(options) != 1:
        return None
    if get_origin(options[0]) is Annotated:
        return _plain_type(get_args(options[0])[0])
    if options[0] in PLAIN_TYPES or get_origin(options[0]) is Literal:
        return options[0]
    return None


def _union(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _summary(annotation: Any) -> str:
    """What an object field is about: the first line of its class, and its fields."""
    for option in _union(annotation):
        if isinstance(option, type) and issubclass(option, BaseModel):
            fields = ", ".join(option.model_fields)
            return f"{(option.__doc__ or '').splitlines()[0]} Fields: {fields}."
    return ""


def _from_text(name: str, value: Any) -> Any:
    """Options whose value is a list or an object are given as YAML, of which JSON is a part."""
    if not isinstance(value, str):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InvalidParameterError(
            f"{name} is not YAML: {value!r}.", pointer=f"/{name}", hint='As in \'{"type": "langevin"}\'.'
        ) from error
