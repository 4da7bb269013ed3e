// The page that begins a job: a structure, looked at; what to do with it; and what is wrong, where it is wrong.
import { getJson, openapi, postJson } from "./api.js";
import { announce, h, icon, iconButton, uniqueId } from "./dom.js";
import { SYMBOLS } from "./elements.js";
import { count, duration, formulaElement, KINDS, number, plural, signed } from "./format.js";
import { cellParameters } from "./geometry.js";
import { framed, withUnit } from "./fields.js";
import { intake } from "./intake.js";
import { ParamsForm } from "./params.js";
import { recentJobs } from "./jobs.js";
import { snippets } from "./snippets.js";
import { problemBox } from "./problems.js";
import { Viewer } from "./viewer.js";

const CHECK_AFTER_MS = 350;
const START = { relax: "Start relaxation", md: "Start dynamics", singlepoint: "Compute" };

let handedOver = null;
/** Begin the page with something: {name, structures, references, kind, model, params, title}. */
export function beginWith(draft) {
  handedOver = draft;
}

export async function newPage(main, _, signal) {
  const [document_, models] = await Promise.all([openapi(), getJson("/v1/models", signal)]);
  const page = new Composer(main, document_, models.items, signal);
  if (handedOver) {
    const draft = handedOver;
    handedOver = null;
    page.takeDraft(draft);
  }
}

class Composer {
  constructor(main, openapiDocument, models, signal) {
    Object.assign(this, { models, signal, usual: openapiDocument.components.schemas.RelaxJob.properties.model.default });
    this.taken = null;
    this.index = 0;
    this.kind = "relax";
    this.forms = Object.fromEntries(Object.keys(KINDS).map((kind) => [kind, new ParamsForm(openapiDocument, kind)]));
    this._build(main);
    this.setKind("relax");
  }

  _build(main) {
    this.intake = intake((promise, entry) => this._take(promise, entry));
    this.structurePart = h("section", { class: "card structure", "aria-labelledby": "structure-title" },
      h("h2", { id: "structure-title" }, "Structure"), this.intake.element);
    for (const [name, handler] of Object.entries(this.intake.handlers)) main.addEventListener(name, handler, { signal: this.signal });
    this.viewer = new Viewer(this.signal);
    this.model = field("model", "Potential", h("select", { onchange: () => this._fillLevels() }));
    this.level = field("level_of_theory", "Level of theory", h("select"));
    this.charge = field("charge", "Charge", h("input", { type: "text", inputmode: "numeric", autocomplete: "off" }), "e");
    this.kindButtons = h("div", { class: "segments", role: "radiogroup", "aria-label": "What to do" }, Object.entries(KINDS).map(([kind, title]) =>
      h("label", { class: "segment" }, h("input", { type: "radio", name: "kind", value: kind, class: "visually-hidden", onchange: () => this.setKind(kind) }), h("span", {}, title))));
    this.formPlace = h("div");
    this.name = field("name", "Name", h("input", { type: "text", maxlength: "200", autocomplete: "off", placeholder: "optional" }));
    this.tags = field("tags", "Tags", h("input", { type: "text", autocomplete: "off", placeholder: "optional, with commas between" }));
    this.jobFields = new Map([this.model, this.level, this.charge, this.name, this.tags].map((one) => [one.name, one]));
    this.estimate = h("p", { class: "estimate", "aria-live": "polite" });
    this.problem = h("div", { class: "problem-place" });
    this.start = h("button", { type: "submit", class: "button primary large", disabled: true }, "Start relaxation");
    this.snippets = snippets(() => this.body(), () => (/^[\w.-]+\.\w+$/.test(this.taken?.name ?? "") ? this.taken.name : "structure.extxyz"));
    this.form = h("form", { class: "card run", novalidate: true, "aria-labelledby": "run-title", onsubmit: (event) => (event.preventDefault(), this._submit()) },
      h("h2", { id: "run-title" }, "What to do"), this.kindButtons,
      this.model.element, h("div", { class: "fields spoken" }, this.level.element, this.charge.element),
      this.formPlace,
      h("details", { class: "section" }, h("summary", {}, "Name and tags"), h("div", { class: "fields" }, this.name.element, this.tags.element)),
      this.snippets.element, this.problem, h("div", { class: "start-row" }, this.start, this.estimate));
    this.form.addEventListener("input", () => this._changed());
    this.form.addEventListener("change", () => this._changed());
    main.append(h("h1", { class: "visually-hidden" }, "New job"),
      h("div", { class: "compose" }, this.structurePart, this.form), recentJobs(this.signal));
    this._fillModels();
  }

  setKind(kind) {
    this.kind = kind;
    this.kindButtons.querySelector(`input[value=${kind}]`).checked = true;
    this.formPlace.replaceChildren(this.forms[kind].element);
    this.start.textContent = START[kind];
    this._changed();
  }

  // -- structures

  async _take(promise, entry) {
    this.intake.zone.classList.add("busy");
    this._structureProblem?.remove();
    try {
      const taken = await promise;
      this._use(taken);
      if (entry?.kind) this.setKind(entry.kind);
      if (entry) this.forms[this.kind].set(entry.params ?? {});
      if (entry?.title && !this.name.input.value) this.name.input.value = entry.title;
      this._changed();
    } catch (problem) {
      this._structureProblem = problemBox(problem);
      this.intake.element.prepend(this._structureProblem);
    } finally {
      this.intake.zone.classList.remove("busy");
    }
  }

  takeDraft(draft) {
    this._use({ warnings: [], ...draft });
    this.setKind(draft.kind);
    this.forms[draft.kind].set(draft.params ?? {});
    if (draft.model && this.models.some((one) => one.name === draft.model)) this.model.input.value = draft.model;
    this._fillLevels(draft.level_of_theory);
    if (draft.title) this.name.input.value = draft.title;
    if (draft.tags?.length) this.tags.input.value = draft.tags.join(", ");
    this._changed();
  }

  _use(taken) {
    this.taken = taken;
    this.index = 0;
    this.structurePart.querySelectorAll(":scope > :not(h2)").forEach((element) => element.remove());
    this.facts = h("div", { class: "facts" });
    const others = taken.structures.length > 1 && h("div", { class: "row chooser" },
      iconButton("first", "Structure before", () => this._look(this.index - 1)), (this.which = h("span", { class: "quiet" })),
      iconButton("last", "Next structure", () => this._look(this.index + 1)));
    this.structurePart.append(
      h("div", { class: "taken" }, h("span", { class: "taken-name" }, taken.name), others,
        h("button", { type: "button", class: "button small", onclick: () => this._again() }, "Choose another")),
      this.viewer.element, this.facts,
      ...(taken.warnings.length ? [h("ul", { class: "notes" }, taken.warnings.slice(0, 8).map((text) => h("li", {}, icon("warn"), text)))] : []));
    this._look(0);
    const charges = [...new Set(taken.structures.map((one) => one.charge ?? 0))];
    this.given = charges.length === 1 ? charges[0] : null; // the charge of all, or none that is
    this.charge.input.value = this.given === null ? "" : String(this.given);
    this._fillModels();
    this._context();
    announce(`${taken.name} was read: ${plural(taken.references.length, "structure")}.`);
  }

  _again() {
    this.taken = null;
    this.structurePart.querySelectorAll(":scope > :not(h2)").forEach((element) => element.remove());
    this.structurePart.append(this.intake.element);
    this._fillModels();
    this._changed();
  }

  _look(index) {
    const n = this.taken.structures.length;
    this.index = (index + n) % n;
    const structure = this.taken.structures[this.index];
    if (this.which) this.which.textContent = `${this.index + 1} of ${count(this.taken.references.length)}`;
    const numbers = numbersOf(structure);
    this.viewer.show(structure);
    const facts = [["Formula", formulaElement(numbers)], ["Atoms", count(numbers.length)]];
    if (structure.cell) {
      const cell = cellParameters(structure.cell);
      const periodic = structure.pbc.map((on, axis) => (on ? "abc"[axis] : "")).join("");
      facts.push(["Cell", `${[cell.a, cell.b, cell.c].map((x) => x.toFixed(3)).join(" × ")} Å`],
        ["Angles", [cell.alpha, cell.beta, cell.gamma].map((x) => `${x.toFixed(1)}°`).join(", ")],
        ["Volume", `${number(cell.volume, 5)} Å³`], ["Periodic", periodic ? `along ${[...periodic].join(", ")}` : "no"]);
    } else facts.push(["Periodic", "no"]);
    if (structure.fixed_atoms?.length) facts.push(["Fixed atoms", count(structure.fixed_atoms.length)]);
    if (structure.charge) facts.push(["Charge", `${signed(structure.charge)} e`]);
    this.facts.replaceChildren(h("dl", {}, facts.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value)))));
  }

  _context() {
    const periodic = this.taken ? this.taken.structures.some((one) => (one.pbc ?? []).some(Boolean)) : true;
    for (const form of Object.values(this.forms)) form.setContext({ periodic });
  }

  /** The potentials, those that know all elements and charges first; the others say what they do not know. */
  _fillModels() {
    const before = this.model.input.value;
    const charged = (this.taken?.structures ?? []).map((one) => one.charge ?? 0).filter(Boolean);
    const rated = this.models.map((model) => {
      const charges = new Set(model.levels.flatMap((one) => one.charges));
      return { model, missing: [...this._missing(model.elements), ...new Set(charged.filter((charge) => !charges.has(charge)).map((charge) => `a charge of ${signed(charge)}`))] };
    });
    rated.sort((a, b) => a.missing.length - b.missing.length);
    this.model.input.replaceChildren(...rated.map(({ model, missing }) =>
      h("option", { value: model.name }, missing.length ? `${model.name} (${unknown(missing)})` : `${model.name} · ${model.level_of_theory}${model.levels.length > 1 ? ` and ${model.levels.length - 1} more` : ""}`)));
    const usual = rated.find(({ model, missing }) => model.aliases.includes(this.usual) && missing.length === rated[0].missing.length);
    this.model.input.value = rated.some(({ model, missing }) => model.name === before && (!missing.length || rated[0].missing.length)) ? before : (usual ?? rated[0])?.model.name;
    this._fillLevels();
  }

  /** Elements of the structures that are not among these. */
  _missing(elements) {
    const wanted = new Set(this.taken?.structures.flatMap((one) => numbersOf(one).map((z) => SYMBOLS[z])) ?? []);
    return [...wanted].filter((symbol) => !elements.includes(symbol));
  }

  get _model() {
    return this.models.find((one) => one.name === this.model.input.value);
  }

  /** The levels of theory of the potential; the first is the one it speaks by itself. */
  _fillLevels(wanted = this.level.input.value) {
    const levels = this._model?.levels ?? [];
    this.level.input.replaceChildren(...levels.map(({ level_of_theory: name, elements }) => {
      const missing = this._missing(elements);
      return h("option", { value: name }, missing.length ? `${name} (${unknown(missing)})` : name);
    }));
    this.level.input.value = (levels.find((one) => one.level_of_theory === wanted) ?? levels[0])?.level_of_theory ?? "";
    this._changed();
  }

  get _charges() {
    return this._model?.levels.find((one) => one.level_of_theory === this.level.input.value)?.charges ?? [0];
  }

  /** The structures as they are sent: with the charge beside them where it is not what they say themselves. */
  get _references() {
    const text = this.charge.input.value.trim().replace("−", "-");
    const value = Number.isFinite(Number(text)) ? Number(text) : text;
    const references = this.taken?.references ?? [];
    return text === "" || value === this.given ? references : references.map((one) => ({ ...one, charge: value }));
  }

  // -- the request

  /** What is sent: defaults are left to the server. */
  body() {
    const body = { kind: this.kind, model: this.model.input.value, structures: this._references };
    if (this.level.input.selectedIndex > 0) body.level_of_theory = this.level.input.value;
    const params = this.forms[this.kind].value();
    if (Object.keys(params).length) body.params = params;
    if (this.name.input.value.trim()) body.name = this.name.input.value.trim();
    const tags = this.tags.input.value.split(",").map((tag) => tag.trim()).filter(Boolean);
    if (tags.length) body.tags = tags;
    return body;
  }

  _changed() {
    const charges = this._charges;
    this.model.help.textContent = this._model?.description ?? "";
    this.level.element.hidden = this.level.input.options.length < 2;
    this.level.help.textContent = this.level.input.selectedIndex > 0 ? "Trained on fewer molecules than the first; see Potentials." : "";
    this.charge.element.hidden = charges.every((charge) => !charge) && !this._isCharged;
    this.charge.help.textContent = `Of ${this.taken?.references.length > 1 ? "each structure" : "the whole structure"}; known: ${charges.map(signed).join(", ")}.${this.given === null ? " As each structure says if empty." : ""}`;
    this.start.disabled = !this.taken;
    clearTimeout(this._timer);
    if (!this.taken) {
      this.estimate.textContent = "Choose a structure first.";
      this._showErrors([]);
      return;
    }
    this._timer = setTimeout(() => this._check(), CHECK_AFTER_MS);
    this.snippets.refresh();
  }

  /** Ask the server what it thinks of the request as it is now. */
  async _check() {
    const turn = (this._turn = (this._turn ?? 0) + 1);
    try {
      const told = await postJson("/v1/jobs?validate_only=true", this.body(), { signal: this.signal });
      if (turn !== this._turn) return;
      this._showErrors([]);
      const ahead = told.queue_position - 1;
      const steps = told.params.n_steps ?? told.params.max_steps;
      this.estimate.textContent = [plural(told.n_atoms, "atom"), told.n_systems > 1 && plural(told.n_systems, "system"),
        steps !== undefined && `${this.kind === "relax" ? "at most " : ""}${plural(steps, "step")}`,
        this.kind === "md" && `${number(told.params.timestep_fs)} fs each`, told.seconds !== null && `about ${duration(told.seconds)}`, ahead ? `${plural(ahead, "job")} ahead` : "starts at once"].filter(Boolean).join(" · ");
      this.problem.replaceChildren(...told.warnings.length ? [h("ul", { class: "notes" }, told.warnings.slice(0, 5).map((one) => h("li", {}, icon("warn"), one.message)))] : []);
    } catch (problem) {
      if (turn === this._turn && problem.name !== "AbortError") this._showProblem(problem);
    }
  }

  /** Put every complaint at its field; what has none is shown above the button. */
  _showProblem(problem) {
    const left = this._showErrors(problem.errors);
    this.estimate.textContent = "";
    this.problem.replaceChildren(...(left.length || !problem.errors.length ? [problemBox(problem, left)] : []));
  }

  _showErrors(errors) {
    for (const one of this.jobFields.values()) one.showError("");
    this.problem.replaceChildren();
    const ofParams = [];
    const left = [];
    for (const error of errors) {
      const [, first, ...rest] = (error.pointer ?? "").split("/").map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
      const message = `${sentence(error.message)} ${/^What belongs here/.test(error.hint) ? "" : error.hint}`.trim();
      const place = this._placeOf(first, rest);
      if (first === "params") ofParams.push({ path: rest, message, error });
      else if (place) place.isWrong() || place.showError(message);
      else left.push(error);
    }
    const strays = this.forms[this.kind].showErrors(ofParams).map(({ path, message }) => ({ pointer: `/params/${path.join("/")}`, message, hint: "" }));
    return [...left, ...strays];
  }

  /** The field outside the parameters that a pointer means. */
  _placeOf(first, rest) {
    if (first !== "structures") return this.jobFields.get(first);
    if (["numbers", "symbols"].includes(rest[1])) return this.level.input.selectedIndex > 0 ? this.level : this.model;
    return rest[1] === "charge" && !this.charge.element.hidden ? this.charge : undefined;
  }

  get _isCharged() {
    return (this.taken?.structures ?? []).some((one) => one.charge) || !["", "0"].includes(this.charge.input.value.trim());
  }

  async _submit() {
    if (!this.taken) return;
    clearTimeout(this._timer);
    this._turn = (this._turn ?? 0) + 1;
    this.start.disabled = true;
    this._key ??= crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
    try {
      const body = this.body();
      const key = `${this._key}-${hash(JSON.stringify(body))}`;
      const job = await postJson("/v1/jobs", body, { headers: { "Idempotency-Key": key } });
      location.hash = `#/jobs/${job.id}`;
    } catch (problem) {
      this._showProblem(problem);
      ([...this.jobFields.values()].find((one) => one.isWrong()) ?? this.forms[this.kind].first)?.focus();
      announce(problem.message);
    } finally {
      this.start.disabled = false;
    }
  }
}

/** A field of the job itself: label, input, help, and the place for what is wrong with it. */
function field(name, label, input, unit = "") {
  input.id = uniqueId("field");
  return { ...framed({ name, label, help: "" }, withUnit(input, unit)), name, input };
}

const unknown = (missing) => `does not know ${missing.join(", ")}`;

function numbersOf(structure) {
  return structure.numbers ?? structure.symbols.map((symbol) => SYMBOLS.indexOf(symbol));
}

function sentence(text) {
  const capital = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}

/** A short fingerprint: the same request pressed twice is one job. */
function hash(text) {
  let value = 5381;
  for (let k = 0; k < text.length; k += 1) value = ((value * 33) ^ text.charCodeAt(k)) >>> 0;
  return value.toString(36);
}

