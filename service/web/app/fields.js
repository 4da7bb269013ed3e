// Forms from the JSON schema of the parameters: names, units, defaults, limits and help stand in the schema alone.
// A control is {element, get() -> value or undefined for the default, set(value), find(path) -> the control there}.
import { h, iconButton, uniqueId } from "./dom.js";
import { count, number, unitOf, wordsOf } from "./format.js";

const CHOICES = {
  fire: "FIRE", lbfgs: "L-BFGS", none: "stays fixed", frechet: "relaxes (Frechet)", unit_cell: "relaxes (unit cell)",
  nve: "NVE, constant energy", nvt: "NVT, constant temperature", npt: "NPT, constant pressure", langevin: "Langevin",
  nose_hoover: "Nosé-Hoover chain", bussi: "Bussi rescaling", mtk: "Martyna-Tobias-Klein",
  maxwell_boltzmann: "Maxwell-Boltzmann", given: "from the structure", zero: "none", ignore: "off",
};
/** What a field is called, where its name alone reads badly. */
const LABELS = {
  fmax_ev_per_ang: "Force threshold", max_steps: "Most steps", optimizer: "Optimiser", max_step_ang: "Longest move",
  cell_filter: "Cell", pressure_gpa: "Pressure", cell_mask: "Strains that may change", hydrostatic: "Keep the shape of the cell",
  constant_volume: "Keep the volume", fix_symmetry: "Keep the symmetry", symmetry_tolerance_ang: "Symmetry tolerance",
  save_every: "Save every", checkpoint_every_s: "Checkpoint every", trajectory_dtype: "Precision of saved frames",
  ensemble: "Ensemble", timestep_fs: "Time step", temperature_k: "Temperature", velocities: "Start velocities",
  remove_com: "Remove drift", remove_rotation: "Remove rotation", thermo_every: "Record energies every", guards: "Guards",
  allow_large_timestep: "Allow large time steps",
  friction_per_fs: "Friction", tdamp_fs: "Damping time", pdamp_fs: "Damping time", tau_fs: "Relaxation time",
};
const VOIGT = ["xx", "yy", "zz", "yz", "xz", "xy"];

/** Schemas of one OpenAPI document. */
export class Schemas {
  constructor(document) {
    this.all = document.components.schemas;
  }

  /** A schema with its reference followed and null taken out of its alternatives. */
  open(schema) {
    const { $ref, ...own } = schema;
    const found = $ref ? { ...this.all[$ref.split("/").pop()], ...own } : schema;
    const alternatives = (found.anyOf ?? []).filter((one) => one.type !== "null").map((one) => this.open(one));
    return { ...found, nullable: found.anyOf?.some((one) => one.type === "null") ?? false, alternatives };
  }
}

/** The control for one property of an object schema. */
export function control(schemas, name, schema) {
  const open = schemas.open(schema);
  const inner = open.alternatives[0] ?? open;
  const field = { name, label: LABELS[name] ?? wordsOf(name), unit: unitOf(name), schema: open, inner };
  if (inner.oneOf) return union(schemas, field);
  if (inner.properties?.limit && inner.properties.policy) return guard(field);
  if (inner.properties) return group(schemas, field);
  if (inner.type === "boolean") return checkbox(field);
  if (inner.enum) return choice(field, inner.enum);
  if (inner.type === "array" && inner.items?.type === "boolean") return strains(field);
  if (["number", "integer"].includes(inner.type)) {
    const points = open.alternatives.find((one) => one.type === "array" && one.items?.$ref);
    return points ? ramp(field) : numeric(field);
  }
  return text(field);
}

const bound = (value) => (Number.isInteger(value) && Math.abs(value) < 1e13 ? count(value).replace("-", "−") : number(value, 6));

/** What stands under a field: what it is for, its default, its limits. */
function helpText({ schema, inner, unit }) {
  const parts = [];
  const described = (schema.description ?? inner.description ?? "").replace(unit ? new RegExp(`, ${escaped(unit)}(?![\\w/])`) : /$^/, "");
  const plain = described.replace(/ \[\{.*?\.\.\.\]| ?\{".*?\}/g, "").replace(/: ;/g, ";");
  if (plain) parts.push(inner.enum?.some((value) => plain.startsWith(value)) ? plain : plain.charAt(0).toUpperCase() + plain.slice(1));
  const limits = [];
  if (inner.exclusiveMinimum !== undefined) limits.push(`above ${number(inner.exclusiveMinimum)}`);
  if (inner.minimum !== undefined && inner.minimum !== 0) limits.push(`at least ${bound(inner.minimum)}`);
  if (inner.maximum !== undefined) limits.push(`at most ${bound(inner.maximum)}`);
  if (schema.default !== undefined && schema.default !== null && typeof schema.default !== "object" && inner.type !== "boolean")
    limits.unshift(`default ${CHOICES[schema.default] ?? (typeof schema.default === "number" ? bound(schema.default) : schema.default)}`);
  if (limits.length) parts.push(`${limits.join(", ")}.`.replace(/^./, (c) => c.toUpperCase()));
  return parts.join(parts[0]?.endsWith(".") ? " " : ". ");
}

const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
const words = (value) => CHOICES[value] ?? String(value).replaceAll("_", " ");

/** Label, input, help and the place for an error, tied together for those who listen. */
export function framed(field, input, { inline = false, tag = "div" } = {}) {
  const id = (input.id ||= uniqueId("field"));
  const help = h("p", { class: "help", id: `${id}-help` }, field.help ?? helpText(field));
  const error = h("p", { class: "error", id: `${id}-error`, role: "alert" });
  const focusable = input.matches("input,select,textarea") ? input : input.querySelector("input,select,textarea") ?? input;
  focusable.setAttribute("aria-describedby", `${id}-help ${id}-error`);
  const label = tag === "fieldset" ? h("legend", {}, field.label) : h("label", { for: focusable.id || id }, field.label);
  const body = inline ? [h("div", { class: "check" }, input, label)] : [label, input];
  const order = tag === "fieldset" && !inline ? [label, help, input, error] : [...body, error, help];
  const element = h(tag, { class: "field", dataset: { field: field.name } }, order);
  return {
    element,
    help,
    isWrong: () => element.classList.contains("wrong"),
    showError(message) {
      error.textContent = message;
      element.classList.toggle("wrong", Boolean(message));
      if (message) focusable.setAttribute("aria-invalid", "true");
      else focusable.removeAttribute("aria-invalid");
    },
    focus: () => focusable.focus(),
    find() {
      return this;
    },
  };
}

/** An input with its unit inside, at the right. */
export function withUnit(input, unit) {
  if (!unit) return input;
  const id = (input.id ||= uniqueId("field"));
  return h("span", { class: "with-unit" }, input, h("span", { class: "unit", id: `${id}-unit`, "aria-hidden": "true" }, unit));
}

/** The number in a text; the text itself if it is none, so that the server says what is wrong. */
function numberIn(value) {
  const trimmed = value.trim().replace(",", ".").replace("−", "-");
  return trimmed !== "" && Number.isFinite(Number(trimmed)) ? Number(trimmed) : trimmed;
}

function numeric(field) {
  const { schema, inner } = field;
  const input = h("input", {
    id: uniqueId("field"), type: "text", inputmode: inner.type === "integer" && !(inner.minimum < 0) ? "numeric" : "decimal", autocomplete: "off",
    placeholder: schema.default === null || schema.default === undefined ? "automatic" : undefined,
    value: typeof schema.default === "number" ? String(schema.default) : "",
  });
  return {
    ...framed(field, withUnit(input, field.unit)),
    get: () => (input.value.trim() === "" || numberIn(input.value) === schema.default ? undefined : numberIn(input.value)),
    set: (value) => (input.value = value === undefined || value === null ? String(schema.default ?? "") : String(value)),
  };
}

function text(field) {
  const input = h("input", { id: uniqueId("field"), type: "text", autocomplete: "off", placeholder: "JSON" });
  const parse = () => {
    try {
      return JSON.parse(input.value);
    } catch {
      return input.value;
    }
  };
  return {
    ...framed(field, input),
    get: () => (input.value.trim() ? parse() : undefined),
    set: (value) => (input.value = value === undefined || value === null ? "" : JSON.stringify(value)),
  };
}

function checkbox(field) {
  const initial = field.schema.default ?? false;
  const input = h("input", { id: uniqueId("field"), type: "checkbox" });
  input.checked = initial;
  return {
    ...framed(field, input, { inline: true }),
    get: () => (input.checked === initial ? undefined : input.checked),
    set: (value) => (input.checked = value ?? initial),
  };
}

function choice(field, options) {
  const initial = field.schema.default ?? options[0];
  const input = h("select", { id: uniqueId("field") }, options.map((value) => h("option", { value }, words(value))));
  input.value = initial;
  return {
    ...framed(field, input),
    get: () => (input.value === initial ? undefined : input.value),
    set: (value) => (input.value = value ?? initial),
    current: () => input.value,
  };
}

function strains(field) {
  const boxes = VOIGT.map((name) => h("input", { type: "checkbox", id: uniqueId("strain"), "aria-label": `strain ${name}` }));
  const reset = () => boxes.forEach((box) => (box.checked = true));
  reset();
  const row = h("span", { class: "checks" }, boxes.map((box, k) => h("span", { class: "check" }, box, h("label", { for: box.id }, VOIGT[k]))));
  return {
    ...framed(field, row, { tag: "fieldset" }),
    get: () => (boxes.every((box) => box.checked) ? undefined : boxes.map((box) => box.checked)),
    set: (value) => (value ? boxes.forEach((box, k) => (box.checked = value[k])) : reset()),
  };
}

/** A number, or a ramp of points with a time. */
function ramp(field) {
  const value = field.name;
  const input = h("input", { id: uniqueId("field"), type: "text", inputmode: "decimal", autocomplete: "off", value: String(field.schema.default ?? "") });
  const rows = h("tbody");
  const table = h("table", { class: "ramp", hidden: true }, h("thead", {}, h("tr", {}, h("th", {}, "Time (ps)"), h("th", {}, `${field.label} (${field.unit})`), h("th", {}, h("span", { class: "visually-hidden" }, "remove")))), rows);
  const cell = (label, text) => h("td", {}, h("input", { type: "text", inputmode: "decimal", "aria-label": label, value: String(text) }));
  const changed = () => input.dispatchEvent(new Event("input", { bubbles: true }));
  const add = (time, y) => {
    const row = h("tr", {}, cell("time in ps", time), cell(`${field.label} in ${field.unit}`, y), h("td", {}, iconButton("close", "Remove this point", () => (row.remove(), changed()))));
    rows.append(row);
  };
  const more = h("button", { type: "button", class: "link", hidden: true, onclick: () => (add("", ""), rows.lastChild.querySelector("input").focus()) }, "Add a point");
  const toggle = h("button", { type: "button", class: "link", onclick: () => (show(table.hidden), changed()) }, "Use a ramp");
  const show = (on) => {
    table.hidden = more.hidden = !on;
    single.hidden = on;
    toggle.textContent = on ? "Use one number" : "Use a ramp";
    if (on && !rows.children.length) [0, 1].forEach((t) => add(t, input.value));
  };
  const single = withUnit(input, field.unit);
  const read = () => [...rows.children].map((row) => {
    const [time_ps, y] = [...row.querySelectorAll("input")].map((one) => numberIn(one.value));
    return { time_ps, [value]: y };
  });
  return {
    ...framed(field, h("div", {}, single, table, h("div", { class: "links" }, toggle, more))),
    get() {
      if (!table.hidden) return read();
      return input.value.trim() === "" || numberIn(input.value) === field.schema.default ? undefined : numberIn(input.value);
    },
    set(given) {
      rows.replaceChildren();
      if (Array.isArray(given)) given.forEach((point) => add(point.time_ps, point[value]));
      else input.value = String(given ?? field.schema.default ?? "");
      show(Array.isArray(given));
    },
  };
}

/** A limit that may be set, and what to do when it is crossed. */
function guard(field) {
  const initial = field.schema.default ?? null;
  const limit = h("input", { id: uniqueId("field"), type: "text", inputmode: "decimal", autocomplete: "off", placeholder: "no limit" });
  const policy = h("select", { "aria-label": `${field.label}: what to do` }, field.inner.properties.policy.enum.map((value) => h("option", { value }, words(value))));
  const set = (value) => {
    limit.value = value ? String(value.limit) : "";
    policy.value = value?.policy ?? "stop";
  };
  set(initial);
  return {
    ...framed(field, h("span", { class: "pair" }, withUnit(limit, field.unit), policy)),
    get() {
      if (limit.value.trim() === "") return initial ? null : undefined;
      const value = { limit: numberIn(limit.value), policy: policy.value };
      return initial && value.limit === initial.limit && value.policy === initial.policy ? undefined : value;
    },
    set: (value) => set(value === undefined ? initial : value),
  };
}

function controlsOf(schemas, schema, defaults = {}) {
  const made = new Map();
  for (const [name, property] of Object.entries(schema.properties)) {
    if (property.const !== undefined) continue;
    const own = defaults?.[name] === undefined ? property : { ...property, default: defaults[name] };
    made.set(name, control(schemas, name, own));
  }
  return made;
}

function valuesOf(controls) {
  const out = {};
  for (const [name, one] of controls) {
    const value = one.get();
    if (value !== undefined) out[name] = value;
  }
  return out;
}

function findIn(controls, path) {
  return controls.get(path[0])?.find(path.slice(1));
}

/** An object of fields. */
function group(schemas, field) {
  const controls = controlsOf(schemas, field.inner, field.schema.default);
  const frame = framed(field, h("div", { class: "subfields" }, [...controls.values()].map((one) => one.element)), { tag: "fieldset" });
  return {
    ...frame,
    get: () => (Object.keys(valuesOf(controls)).length ? { ...field.schema.default, ...valuesOf(controls) } : undefined),
    set: (value) => controls.forEach((one, name) => one.set(value?.[name])),
    find: (path) => findIn(controls, path) ?? frame,
  };
}

/** One of several kinds of object, told apart by `type`. */
function union(schemas, field) {
  const { propertyName } = field.inner.discriminator;
  const kinds = new Map(field.inner.oneOf.map((one) => {
    const open = schemas.open(one);
    return [open.properties[propertyName].const, { open, controls: controlsOf(schemas, open) }];
  }));
  const [first] = kinds.keys();
  const select = h("select", { id: uniqueId("field"), onchange: () => show() }, [...kinds.keys()].map((value) => h("option", { value }, words(value))));
  const place = h("div", { class: "subfields" });
  const cite = h("p", { class: "help" });
  const show = () => {
    const kind = kinds.get(select.value);
    place.replaceChildren(...[...kind.controls.values()].map((one) => one.element));
    cite.textContent = kind.open.description ?? "";
  };
  show();
  const frame = framed({ ...field, help: "" }, h("div", {}, select, cite, place));
  return {
    ...frame,
    get() {
      const values = valuesOf(kinds.get(select.value).controls);
      return select.value === first && !Object.keys(values).length ? undefined : { [propertyName]: select.value, ...values };
    },
    set(value) {
      select.value = value?.[propertyName] ?? first;
      kinds.get(select.value).controls.forEach((one, name) => one.set(value?.[name]));
      show();
    },
    find: (path) => findIn(kinds.get(select.value).controls, path[0] === select.value ? path.slice(1) : path) ?? frame,
  };
}
