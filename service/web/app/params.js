// The parameters of a kind of run, laid out: what everybody sets first, the rest folded away. What is not laid out here
// still appears, at the end: a new parameter of the server needs no new page.
import { h, uniqueId } from "./dom.js";
import { control, framed, Schemas } from "./fields.js";

const LAYOUT = {
  relax: { first: ["fmax_ev_per_ang", "max_steps", "cell_filter", "pressure_gpa"],
    groups: { Optimiser: ["optimizer", "max_step_ang"], "Cell and symmetry": ["cell_mask", "hydrostatic", "constant_volume", "fix_symmetry", "symmetry_tolerance_ang"],
      Saving: ["save_every", "checkpoint_every_s", "trajectory_dtype"], Guards: ["guards"] } },
  md: { first: ["ensemble", "temperature_k", "LENGTH", "timestep_fs"],
    groups: { "Thermostat and barostat": ["thermostat", "barostat"], "Start": ["velocities", "seed", "remove_com", "remove_rotation"],
      Saving: ["save_every", "thermo_every", "checkpoint_every_s", "trajectory_dtype"], Guards: ["guards", "allow_large_timestep"] } },
  singlepoint: { first: [], groups: {} },
};
const SCHEMA = { relax: "RelaxParams", md: "MDParams", singlepoint: "SinglepointParams" };
const moves = (values) => (values.cell_filter ?? "none") !== "none";
/** When a field means something; hidden ones are not sent. */
const WHEN = {
  cell_filter: (_, { periodic }) => periodic, pressure_gpa: moves, cell_mask: moves, hydrostatic: moves, constant_volume: moves,
  fix_symmetry: (_, { periodic }) => periodic, symmetry_tolerance_ang: (values) => values.fix_symmetry,
  thermostat: (values) => (values.ensemble ?? "nvt") !== "nve", barostat: (values) => values.ensemble === "npt",
  remove_rotation: (_, { periodic }) => !periodic,
};
const SUGGESTED_PS = 1; // there is no default: what to begin with

/** How long to simulate: in ps or in steps, of which exactly one is sent. */
function lengthControl(schema) {
  const input = h("input", { id: uniqueId("field"), type: "text", inputmode: "decimal", autocomplete: "off", value: String(SUGGESTED_PS) });
  const unit = h("select", { "aria-label": "Unit of the length" }, h("option", { value: "duration_ps" }, "ps"), h("option", { value: "n_steps" }, "steps"));
  const { description } = schema.properties.duration_ps;
  const help = `${schema.properties.n_steps.description.replace(/^./, (c) => c.toUpperCase())}, or ${description.replace(/, ps.*$/, "")} in ps.`;
  const frame = framed({ name: "duration_ps", label: "Length", help }, h("span", { class: "pair" }, input, unit));
  return {
    ...frame,
    get: () => (input.value.trim() === "" ? {} : { [unit.value]: Number.isFinite(Number(input.value)) ? Number(input.value) : input.value }),
    set(values) {
      unit.value = values.n_steps !== undefined && values.n_steps !== null ? "n_steps" : "duration_ps";
      input.value = String(values[unit.value] ?? SUGGESTED_PS);
    },
  };
}

/** The form of one kind. `value()` is what to send: only what differs from the defaults. */
export class ParamsForm {
  constructor(openapi, kind) {
    this.kind = kind;
    const schemas = new Schemas(openapi);
    const schema = schemas.all[SCHEMA[kind]];
    const layout = LAYOUT[kind];
    this.controls = new Map();
    this.context = { periodic: true };
    const twins = layout.first.includes("LENGTH") ? ["n_steps", "duration_ps"] : [];
    if (twins.length) this.controls.set("LENGTH", lengthControl(schema));
    for (const [name, property] of Object.entries(schema.properties))
      if (!twins.includes(name)) this.controls.set(name, control(schemas, name, property));
    const laid = new Set([...layout.first, ...Object.values(layout.groups).flat()]);
    const groups = { ...layout.groups };
    const rest = [...this.controls.keys()].filter((name) => !laid.has(name));
    if (rest.length) groups.More = rest;
    const place = (names) => names.filter((name) => this.controls.has(name)).map((name) => this.controls.get(name).element);
    this.sections = Object.entries(groups).map(([title, names]) =>
      ({ names, element: h("details", { class: "section" }, h("summary", {}, title), h("div", { class: "fields" }, place(names))) }));
    this.element = h("div", { class: "params" }, h("div", { class: "fields" }, place(layout.first)), this.sections.map((one) => one.element));
    this.element.addEventListener("input", () => this.arrange());
    this.element.addEventListener("change", () => this.arrange());
    this.arrange();
  }

  /** What the structure allows: {periodic}. */
  setContext(context) {
    this.context = context;
    this.arrange();
  }

  arrange() {
    const values = this._values(() => true);
    for (const [name, one] of this.controls) one.element.hidden = WHEN[name] ? !WHEN[name](values, this.context) : false;
    for (const { names, element } of this.sections) element.hidden = names.every((name) => this.controls.get(name)?.element.hidden ?? true);
  }

  _values(wanted) {
    const out = {};
    for (const [name, one] of this.controls) {
      if (!wanted(one)) continue;
      const value = one.get();
      if (name === "LENGTH") Object.assign(out, value);
      else if (value !== undefined) out[name] = value;
    }
    return out;
  }

  value() {
    return this._values((one) => !one.element.hidden);
  }

  set(params) {
    for (const [name, one] of this.controls) one.set(name === "LENGTH" ? params : params[name]);
    this.arrange();
  }

  /** Show errors where they belong; gives those that belong to no field. `path` is a pointer below /params, split. */
  showErrors(errors) {
    this.clearErrors();
    const left = [];
    let first = null;
    for (const { path, message } of errors) {
      const name = ["n_steps", "duration_ps"].includes(path[0]) || path.length === 0 ? "LENGTH" : path[0];
      const found = (this.controls.get(name) ?? this.controls.get(path[0]))?.find(path.slice(1));
      if (!found) {
        left.push({ path, message });
        continue;
      }
      found.showError(message);
      found.element.closest("details")?.setAttribute("open", "");
      this._wrong.push(found);
      first ??= found;
    }
    this.first = first;
    return left;
  }

  clearErrors() {
    for (const one of this._wrong ?? []) one.showError("");
    this._wrong = [];
  }
}
