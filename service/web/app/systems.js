// What became of each system: a table that is sorted failures first, and as one likes.
import { h } from "./dom.js";
import { count, fixed, number, OUTCOME_ORDER, outcomeBadge } from "./format.js";
import { formula } from "./elements.js";

const ROWS = 200; // shown at once

const COLUMNS = [
  { key: "system_idx", title: "System", of: (one) => one.system_idx, text: (one) => String(one.system_idx) },
  { key: "outcome", title: "Outcome", of: (one) => OUTCOME_ORDER.indexOf(one.outcome), text: (one) => outcomeBadge(one.outcome) },
  { key: "formula", title: "Formula", of: (one) => one.formula, text: (one) => one.formula },
  { key: "energy_ev", title: "Energy", unit: "eV", of: (one) => one.energy_ev, text: (one) => fixed(one.energy_ev, 4) },
  { key: "relative", title: "Above lowest", unit: "meV", of: (one) => one.relative, text: (one) => fixed(one.relative, 1) },
  { key: "fmax_ev_per_ang", title: "Largest force", unit: "eV/Å", of: (one) => one.fmax_ev_per_ang, text: (one) => number(one.fmax_ev_per_ang, 3) },
  { key: "temperature_k", title: "Temperature", unit: "K", of: (one) => one.temperature_k, text: (one) => fixed(one.temperature_k, 0) },
  { key: "n_steps", title: "Steps", of: (one) => one.n_steps, text: (one) => (one.n_steps === undefined ? "–" : count(one.n_steps)) },
  { key: "note", title: "Remark", of: (one) => one.note, text: (one) => one.note },
];

/** The table; `setItems` takes /systems, `onChoose(system_idx)` is told which one to look at. */
export class SystemsTable {
  constructor(onChoose) {
    this._items = [];
    this._sort = { key: "outcome", up: true };
    this._onChoose = onChoose;
    this._shown = ROWS;
    this.chosen = null;
    this.head = h("tr");
    this.body = h("tbody");
    this.more = h("button", { type: "button", class: "button small", hidden: true, onclick: () => ((this._shown += ROWS), this._draw()) }, "Show more");
    this.element = h("div", {}, h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Systems" }, h("table", { class: "list systems" }, h("thead", {}, this.head), this.body)), this.more);
  }

  setItems(items) {
    const one = items.every((item) => item.formula === items[0].formula);
    const lowest = Math.min(...items.map((item) => item.energy_ev ?? Infinity));
    this._items = items.map((item) => ({ ...item, relative: one && items.length > 1 && item.energy_ev !== null && item.energy_ev !== undefined ? (item.energy_ev - lowest) * 1000 : null }));
    this._columns = COLUMNS.filter(({ of, key }) => key === "system_idx" || key === "outcome" || this._items.some((item) => { const value = of(item); return value !== null && value !== undefined && value !== ""; }));
    this._draw();
  }

  choose(system) {
    this.chosen = system;
    for (const row of this.body.children) row.classList.toggle("chosen", Number(row.dataset.system) === system);
  }

  _draw() {
    this.head.replaceChildren(...this._columns.map((column) => {
      const active = this._sort.key === column.key;
      return h("th", { scope: "col", class: column.unit || column.key === "n_steps" ? "num" : "", "aria-sort": active ? (this._sort.up ? "ascending" : "descending") : "none" },
        h("button", { type: "button", class: "sort", onclick: () => this._sortBy(column.key) }, column.title, column.unit && h("span", { class: "th-unit" }, column.unit)));
    }));
    const column = COLUMNS.find(({ key }) => key === this._sort.key);
    const way = this._sort.up ? 1 : -1;
    const sorted = [...this._items].sort((a, b) => compare(column.of(a), column.of(b)) * way || a.system_idx - b.system_idx);
    const focused = this.body.contains(document.activeElement) ? document.activeElement.closest("tr").dataset.system : null;
    this.body.replaceChildren(...sorted.slice(0, this._shown).map((item) => this._row(item)));
    if (focused !== null) this.body.querySelector(`tr[data-system="${focused}"] button`)?.focus();
    this.more.hidden = sorted.length <= this._shown;
    this.choose(this.chosen);
  }

  _row(item) {
    return h("tr", { dataset: { system: item.system_idx } }, this._columns.map((column) => {
      const numeric = column.unit || column.key === "n_steps";
      if (column.key !== "system_idx") return h("td", { class: numeric ? "num" : column.key === "note" ? "note" : "" }, column.text(item));
      return h("th", { scope: "row" }, h("button", { type: "button", class: "link", "aria-label": `Look at system ${item.system_idx}`, onclick: () => this._onChoose(item.system_idx) }, column.text(item)));
    }));
  }

  _sortBy(key) {
    this._sort = { key, up: this._sort.key === key ? !this._sort.up : true };
    this._draw();
    this.head.querySelector('[aria-sort="ascending"] button, [aria-sort="descending"] button')?.focus();
  }
}

function compare(a, b) {
  const missing = (value) => value === null || value === undefined;
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  return typeof a === "string" ? a.localeCompare(b) : a - b;
}

/** What the table needs of a result; the rest of it (forces, structure) is let go. */
export function summaryOf(result) {
  const problem = result.reason ?? result.error;
  const guard = result.guard && `${result.guard.name.replaceAll("_", " ")} ${number(result.guard.value, 3)} beyond ${number(result.guard.limit, 3)} at step ${result.guard.step}`;
  return {
    ...result, forces_ev_per_ang: undefined, energies_ev: undefined, structure: undefined,
    formula: result.structure ? formula(result.structure.numbers) : "",
    note: guard || problem?.detail || result.warnings?.[0] || "",
  };
}
