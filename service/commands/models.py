"""`equipot models`: what can be computed with. Reads cards, never weights."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer
from rich.table import Table
from rich.text import Text

from equipot.calculator.plugins import CalculatorPlugin, find_calculators
from equipot.cards import PotentialCard, Sanity, find_model, registry
from equipot.elements import NUMBERS, SYMBOLS, signed
from equipot.service.commands.completion import model_names
from equipot.service.commands.display import err, out, show_json
from equipot.service.commands.server import ApiKey, ServerIfAny, connect


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("models")(models)


def models(
    name: Annotated[str | None, typer.Argument(help="A model to show in full.", autocompletion=model_names)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    server: ServerIfAny = None,
    api_key: ApiKey = None,
) -> None:
    """List the models, here or of a service, or show one: elements, level of theory, errors on test sets, limits.

    Example: equipot models

    Example: equipot models organic --server http://gpu-box:8000
    """
    if server is not None:
        _models_there(name, server, api_key, as_json)
        return
    if name is not None:
        plugin = find_calculators().get(name)
        if plugin is not None:
            _show_plugin(plugin, as_json)
            return
        _, card = find_model(name)
        if as_json:
            show_json(card.model_dump(mode="json"))
        else:
            _show(card)
        return
    cards = [card for _, card in registry().values()]
    plugins = sorted(find_calculators().values(), key=lambda plugin: not plugin.is_installed)
    if as_json:
        calculators = [{**plugin.model_dump(mode="json"), "is_installed": plugin.is_installed} for plugin in plugins]
        show_json({"models": [card.summary() for card in cards], "calculators": calculators})
        return
    table = _table()
    for heading in ("model", "elements", "level of theory", "description"):
        table.add_column(heading, overflow="fold")
    for card in cards:
        names = Text(card.name) + Text("".join(f"\n{alias}" for alias in card.aliases), style="dim")
        table.add_row(names, " ".join(card.elements), "\n".join(card.level_names), card.description)
    for plugin in plugins:
        if plugin.is_installed:
            about = Text("ASE calculator, here only")
            table.add_row(Text(plugin.name), _elements(plugin.elements), plugin.level_of_theory, about)
    out.print(table)
    if missing := [plugin.name for plugin in plugins if not plugin.is_installed]:
        out.print(Text(f"\nOf other packages, not installed: {', '.join(missing)}."))
        out.print(Text("equipot models NAME says what each knows and how to install it.", style="dim"))
    if not cards:
        err.print("No potential is installed. Set EQUIPOT_MODEL_PATH to a folder of cards.")


def _models_there(name: str | None, server: str, api_key: str | None, as_json: bool) -> None:
    with connect(server, api_key) as client:
        if name is not None:
            document = client.request("GET", f"/v1/models/{quote(name, safe='')}").json()
            if as_json:
                show_json(document)
            else:
                known = PotentialCard.model_fields
                _show(PotentialCard.model_validate({key: document[key] for key in known if key in document}))
            return
        found = client.models()
    if as_json:
        show_json({"models": found})
        return
    table = _table()
    for heading in ("model", "elements", "level of theory"):
        table.add_column(heading, overflow="fold")
    for card in found:
        names = Text(card["name"]) + Text("".join(f"\n{alias}" for alias in card["aliases"]), style="dim")
        levels = [level["level_of_theory"] for level in card.get("levels", ())] or [card["level_of_theory"]]
        table.add_row(names, " ".join(card["elements"]), "\n".join(levels))
    out.print(table)


def _table(title: str | None = None) -> Table:
    return Table(box=None, header_style="bold", pad_edge=False, title=title, title_justify="left")


def _elements(symbols: tuple[str, ...]) -> str:
    """All of them, or for most of the periodic table what is missing."""
    if len(symbols) < 60:
        return " ".join(symbols)
    last = max(map(NUMBERS.__getitem__, symbols))
    missing = " ".join(symbol for symbol, number in NUMBERS.items() if number <= last and symbol not in symbols)
    return f"H to {SYMBOLS[last]}" + (f" but {missing}" if missing else "")


def _show_plugin(plugin: CalculatorPlugin, as_json: bool) -> None:
    if as_json:
        show_json({**plugin.model_dump(mode="json"), "is_installed": plugin.is_installed})
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    dispersion = f"{plugin.name}+d3 adds D3(BJ) for {plugin.functional}" if plugin.functional else "none to add"
    for key, value in (
        ("elements", " ".join(plugin.elements)),
        ("level of theory", plugin.level_of_theory),
        ("dispersion", dispersion),
        ("licence", plugin.licence or "not given"),
        ("installed", "yes" if plugin.is_installed else f"no: {plugin.how_to_install}"),
    ):
        grid.add_row(key, Text(value))
    out.print(Text(plugin.name, style="bold"), grid)


def _show(card: PotentialCard) -> None:
    out.print(Text.assemble((card.name, "bold"), f" ({', '.join(card.aliases)})" if card.aliases else ""))
    out.print(Text(card.description))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for key, value in (
        ("elements", " ".join(card.elements)),
        ("level of theory", card.level_of_theory),
        ("cutoff", f"{card.cutoff_ang:g} Å"),
        ("parameters", f"{card.n_parameters:,}"),
        ("energy zero", card.energy_reference),
        ("trained on", f"{card.training_data.n_frames:,} frames: {card.training_data.description}"),
        ("licence", card.licence),
        ("sha256", card.weights_sha256),
    ):
        grid.add_row(key, Text(value))
    out.print(grid)
    if len(card.levels) > 1:
        table = _table("levels of theory")
        for heading in ("--level-of-theory", "elements", "charges"):
            table.add_column(heading, overflow="fold")
        for head, level in enumerate(card.levels):
            charges = signed(card.charges_of(head))
            table.add_row(Text(level.level_of_theory), " ".join(card.elements_of(head)), charges)
        out.print(table)
    if card.test_errors:
        table = _table("errors on test sets")
        table.add_column("test set", overflow="fold")
        for heading in ("frames", "E MAE meV/atom", "E RMSE", "F MAE meV/Å", "F RMSE"):
            table.add_column(heading, justify="right")
        for error in card.test_errors:
            energies = (error.energy_mae_mev_per_atom, error.energy_rmse_mev_per_atom)
            forces = (error.force_mae_mev_per_ang, error.force_rmse_mev_per_ang)
            table.add_row(error.test_set, str(error.n_frames), *(f"{value:.2f}" for value in (*energies, *forces)))
        out.print(table)
    if card.uncertainty is not None:
        table = _table("expected errors, unseen molecules")
        for heading in ("tenth of the atoms", "expected meV/Å", "found"):
            table.add_column(heading, justify="right")
        for tenth, (expected, found) in enumerate(card.uncertainty.curve, 1):
            table.add_row(str(tenth), f"{expected:.0f}", f"{found:.0f}")
        out.print(table)
    if card.sanity is not None:
        _show_sanity(card.sanity)
    for limit in card.limits:
        out.print(Text(f"• {limit}"))


def _show_sanity(sanity: Sanity) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.title, grid.title_justify = "physical sanity", "left"
    grid.add_column()
    grid.add_column(overflow="fold")
    holes = ", ".join(f"{first}-{second} below {ang:g} Å" for first, second, ang in sanity.attractive_pairs) or "none"
    rows = [
        (f"of {sanity.n_pairs} pairs of elements attract at short range", holes),
        ("|E(A + B far apart) - E(A) - E(B)|", f"{sanity.additivity_error_ev:.1e} eV"),
    ]
    if sanity.nve_drift_ev_per_atom is not None:
        rows.append(("drift of the energy in 50 ps of NVE", f"{sanity.nve_drift_ev_per_atom:.1e} eV/atom"))
    for key, value in rows:
        grid.add_row(key, value)
    out.print(grid)
    if not sanity.crystals:
        return
    table = _table("crystals (reference)")
    for heading in ("", "a, Å", "C11, GPa", "C12", "C44", "vacancy, eV", "lowest phonon, THz"):
        table.add_column(heading, justify="right")
    for symbol, crystal in sanity.crystals.items():
        ours, theirs = crystal.found, crystal.reference
        table.add_row(
            symbol,
            f"{ours.a_ang:.3f} ({theirs.a_ang:.3f})",
            f"{ours.c11_gpa:.0f} ({theirs.c11_gpa:.0f})",
            f"{ours.c12_gpa:.0f} ({theirs.c12_gpa:.0f})",
            f"{ours.c44_gpa:.0f} ({theirs.c44_gpa:.0f})",
            f"{ours.vacancy_ev:.2f} ({theirs.vacancy_ev:.2f})",
            "" if ours.lowest_phonon_thz is None else f"{ours.lowest_phonon_thz:.2f}",
        )
    out.print(table)
