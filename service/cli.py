"""The command `equipot`.

Importing this module is cheap: each command loads what it needs when it runs, so `equipot --help` knows no torch.
What the exit status means: see `ExitStatus` in commands/status.py.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

import equipot
from equipot.errors import EquipotError
from equipot.service.commands import analyze, compute, doctor, export, jobs, keys, models, serving, training, verify
from equipot.service.commands.display import show_error
from equipot.service.commands.status import ExitStatus, of_error

DEBUG_VARIABLE = "EQUIPOT_DEBUG"

app = typer.Typer(
    name="equipot",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: equipot relax ethanol.xyz --fmax-ev-per-ang 0.01\n\n"
    "Example: equipot md silicon.cif --model elements --duration-ps 5 --seed 1\n\n"
    "Example: equipot relax molecules.extxyz --server http://127.0.0.1:8000 -o relaxed\n\n"
    "Tab completion: equipot --install-completion. What works here: equipot doctor.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"equipot {equipot.__version__}")
        raise typer.Exit


@app.callback()
def _equipot(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Relax structures and run molecular dynamics with a trained equivariant potential, here or as a service."""


analyze.add_to(app)
compute.add_to(app)
export.add_to(app)
doctor.add_to(app)
jobs.add_to(app)
keys.add_to(app)
models.add_to(app)
serving.add_to(app)
training.add_to(app)
verify.add_to(app)


def main() -> NoReturn:
    """Run the command line; errors become one panel and an exit status, never a traceback."""
    sys.exit(_run())


def _run() -> int:
    try:
        status = app(standalone_mode=False)
    except EquipotError as error:
        show_error(error)
        return of_error(error)
    except (KeyboardInterrupt, typer.Abort):
        return ExitStatus.INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, as in `equipot models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitStatus.FAILED
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        return _explain(error)
    return status if isinstance(status, int) else 0


def _explain(error: Exception) -> int:
    """What typer says of wrong usage, or a panel for what should not have happened."""
    from typer import rich_utils

    if hasattr(error, "format_message"):  # of click, or of the copy of it that typer carries
        rich_utils.rich_format_error(error)  # type: ignore[arg-type]
        return int(getattr(error, "exit_code", ExitStatus.WRONG_INPUT))
    detail = f"{type(error).__name__}: {error}"
    show_error(EquipotError(detail, hint=f"This is a bug. {DEBUG_VARIABLE}=1 shows where it happened."))
    return ExitStatus.FAILED


if __name__ == "__main__":
    main()
