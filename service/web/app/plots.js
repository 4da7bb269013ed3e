// Time series that grow. One panel for each quantity, all with one cursor; a click goes to that moment.
import uPlot from "../vendor/uplot.js";
import { cssColour, h, onThemeChange } from "./dom.js";
import { fixed, number } from "./format.js";

const HEIGHT = 160;
const LABEL_HEIGHT = 18; // of the words below the last panel

/** A panel: {title, unit, log, digits, limit}; `update(x, y)` takes whole arrays. */
class Panel {
  constructor({ title, unit, log = false, places, limit = null, target = null }, x, sync, onPick) {
    Object.assign(this, { title, unit, log, places, limit, target, x });
    this._sync = sync;
    this._onPick = onPick;
    this.value = h("span", { class: "plot-value" }, "–");
    this.canvas = h("div", { class: "plot-canvas", role: "img", "aria-label": title });
    this.element = h("figure", { class: "plot" },
      h("figcaption", {}, h("span", { class: "plot-title" }, title, unit && h("span", { class: "plot-unit" }, ` ${unit}`)), this.value), this.canvas);
    this._data = [[], []];
  }

  get _all() {
    const [xs, ys] = this._data;
    const level = this.target?.(xs) ?? (this.limit === null ? null : xs.map(() => this.limit));
    return level ? [xs, ys, level] : [xs, ys];
  }

  get _height() {
    return HEIGHT + (this.isLast ? LABEL_HEIGHT : 0);
  }

  draw() {
    this._plot?.destroy();
    this.canvas.replaceChildren();
    const [ink, line, accent, muted] = ["--ink-2", "--line", "--accent", "--warn"].map(cssColour);
    const font = "12px system-ui, sans-serif";
    const axis = { stroke: ink, font, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1, size: 4 }, labelFont: font };
    const level = this._all.length === 3;
    this._plot = new uPlot({
      width: Math.max(200, this.canvas.clientWidth), height: this._height, legend: { show: false }, padding: [8, 8, 0, 0],
      cursor: { sync: { key: this._sync }, points: { size: 6 }, drag: { x: true, y: false } },
      scales: { x: { time: false }, y: this.log ? { distr: 3 } : { range: (_, low, high) => padded(low, high) } },
      axes: [
        { ...axis, size: 26, ...(this.isLast && { label: this.x.label, labelSize: 18, labelGap: 0 }), values: (_, ticks) => ticks.map((t) => (t === null ? "" : number(t, 6))) },
        { ...axis, size: 74, space: 28, splits: this.log ? (_, __, low, high) => decades(low, high) : undefined,
          values: (_, ticks, __, ___, step) => ticks.map((t) => (t === null ? "" : this.log ? number(t, 2) : tick(t, step))) },
      ],
      series: [{}, { stroke: accent, width: 1.6, points: { show: false }, spanGaps: true },
        ...(level ? [{ stroke: muted, width: 1.2, dash: [5, 4], points: { show: false } }] : [])],
      hooks: { setCursor: [(plot) => this._say(plot.cursor.idx)] },
    }, this._all, this.canvas);
    this._plot.over.addEventListener("click", () => {
      const at = this._plot.cursor.idx;
      if (at !== null && at !== undefined) this._onPick?.(this._data[0][at]);
    });
  }

  update(xs, ys) {
    this._data = [xs, ys];
    if (!this._plot || this._plot.series.length !== this._all.length) this.draw();
    else this._plot.setData(this._all);
    this._say(null);
  }

  _say(at) {
    const [xs, ys] = this._data;
    const index = at ?? ys.length - 1;
    const value = ys[index];
    const text = value === undefined || value === null ? "–" : this.places === undefined ? number(value, 4) : fixed(value, this.places);
    this.value.textContent = at === null || at === undefined ? text : `${text} at ${number(xs[at], 6)}`;
    if (at === null) this.canvas.setAttribute("aria-label", `${this.title} against ${this.x.label}: ${ys.length} points, last ${text} ${this.unit}`);
  }

  resize() {
    this._plot?.setSize({ width: Math.max(200, this.canvas.clientWidth), height: this._height });
  }
}

function padded(low, high) {
  if (low === null || high === null) return [0, 1];
  const room = (high - low) * 0.08 || Math.max(Math.abs(high) * 1e-6, 1e-6);
  return [low - room, high + room];
}

/** Powers of ten; with less than two of them in sight also twice and five times those. */
function decades(low, high) {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const factors = Math.log10(high / low) < 2 ? [1, 2, 5] : [1];
  return Array.from({ length: last - first + 1 }, (_, k) => factors.map((factor) => factor * 10 ** (first + k)))
    .flat().filter((value) => value >= low && value <= high);
}

/** As many digits as the distance between ticks asks for. */
function tick(value, step) {
  const places = Math.max(0, Math.min(8, -Math.floor(Math.log10(step) + 1e-9)));
  return value.toFixed(places).replace("-", "−");
}

let groups = 0;

/** The panels of one system of a job. `setRows` takes rows of the thermo table. */
export class Plots {
  constructor(job, signal, onPick) {
    groups += 1;
    this.x = job.kind === "md" ? { label: "time (ps)", of: (row) => row.time_fs / 1000 } : { label: "step", of: (row) => row.step };
    this._columns = columns(job);
    this._sync = `plots-${groups}`;
    this._onPick = (x) => onPick?.(job.kind === "md" ? { time_fs: x * 1000 } : { step: x });
    this.element = h("div", { class: "plots" }, h("p", { class: "quiet" }, "Curves appear with the first steps."));
    this._panels = new Map();
    onThemeChange(() => this._panels.forEach((panel) => panel.draw()), signal);
    const resizer = new ResizeObserver(() => this._panels.forEach((panel) => panel.resize()));
    resizer.observe(this.element);
    signal.addEventListener("abort", () => resizer.disconnect(), { once: true });
  }

  /** Rows of the thermo table, of a system of so many atoms. */
  setRows(rows, nAtoms) {
    if (!rows.length) return;
    const xs = rows.map(this.x.of);
    for (const column of this._columns) {
      if (rows.at(-1)[column.name] === undefined && rows[0][column.name] === undefined) continue;
      let panel = this._panels.get(column.name);
      if (!panel) {
        if (!this._panels.size) this.element.replaceChildren();
        const target = column.target && ((at) => at.map((_, k) => this._rows[k]?.[column.target] ?? null));
        panel = new Panel({ ...column, target: rows[0][column.target] === undefined ? null : target }, this.x, this._sync, this._onPick);
        const before = [...this._panels.values()].at(-1);
        this._panels.set(column.name, panel);
        this.element.append(panel.element);
        panel.isLast = true;
        if (before) before.isLast = false;
        before?.draw();
      }
      this._rows = rows;
      const raw = rows.map((row) => row[column.name] ?? null);
      panel.update(xs, column.value ? column.value(raw, nAtoms) : raw);
    }
  }
}

function columns(job) {
  const params = job.params;
  const perAtom = (raw, nAtoms) => raw.map((value) => (value === null || raw[0] === null ? null : ((value - raw[0]) * 1000) / nAtoms));
  const energy = { name: "energy_ev", title: "Potential energy", unit: "eV", places: 4 };
  if (job.kind !== "md") {
    const judged = params.cell_filter && params.cell_filter !== "none";
    return [
      { name: "fmax_ev_per_ang", title: "Largest force", unit: "eV/Å", log: true, limit: params.fmax_ev_per_ang ?? null },
      energy,
      ...(judged ? [{ name: "generalised_force_ev_per_ang", title: "Largest generalised force", unit: "eV/Å", log: true, limit: params.fmax_ev_per_ang },
        { name: "volume_ang3", title: "Volume", unit: "Å³" }, { name: "pressure_gpa", title: "Pressure", unit: "GPa", limit: params.pressure_gpa }] : []),
    ];
  }
  const target = typeof params.temperature_k === "number" && params.ensemble !== "nve" ? params.temperature_k : null;
  return [
    { name: "temperature_k", title: "Temperature", unit: "K", places: 1, limit: target, target: "target_temperature_k" },
    energy,
    { name: "conserved_ev", title: "Change of the conserved quantity", unit: "meV/atom", places: 3, value: perAtom },
    { name: "pressure_gpa", title: "Pressure", unit: "GPa", places: 3 },
    { name: "volume_ang3", title: "Volume", unit: "Å³", places: 2 },
  ];
}
