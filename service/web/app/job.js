// A job: how it goes, its curves and frames while it runs, its results, and what to do next.
import { apiKey, can, download, events, getAll, getJson, openapi, postJson, request } from "./api.js";
import { announce, h, icon, pause, uniqueId } from "./dom.js";
import { beginWith } from "./new.js";
import { count, dateTime, ENDED, KINDS, number, plural, signed, stateBadge, timeAgo, unitOf, wordsOf } from "./format.js";
import { Player } from "./player.js";
import { Plots } from "./plots.js";
import { problemBox } from "./problems.js";
import { progressBar } from "./jobs.js";
import { snippets } from "./snippets.js";
import { summaryOf, SystemsTable } from "./systems.js";
import { verdict } from "./verdict.js";
import { Viewer } from "./viewer.js";

const FRAMES_EVERY_MS = 2000;
const MOST_ROWS = 4000; // of the time series
const MOST_SYSTEMS = 10_000;
const MOST_ASKED = 20; // systems whose charges are looked at
const RESUMABLE = new Set(["failed", "cancelled", "partially_succeeded"]);
const FORMATS = { extxyz: "Extended XYZ", traj: "ASE .traj", h5md: "H5MD", npz: "NumPy .npz", jsonl: "JSON lines" };

export async function jobPage(main, query, signal, jobId) {
  const job = await getJson(`/v1/jobs/${jobId}`, signal);
  const able = { extend: await can("POST", "/v1/jobs/{job_id}/extend") };
  new JobPage(main, job, able, signal).follow();
}

class JobPage {
  constructor(main, job, able, signal) {
    Object.assign(this, { job, able, signal });
    this.system = 0;
    this.table = [];
    this.live = [];
    this.results = [];
    this._build(main);
    this._show();
  }

  _build(main) {
    const { job } = this;
    const many = job.progress.n_systems > 1;
    this.head = h("div", { class: "job-head" });
    this.verdict = h("section", { class: "verdict", "aria-live": "polite", "aria-label": "How it went" });
    this.actions = h("div", { class: "actions" });
    this.problem = h("div");
    this.notes = h("div");
    this.viewer = new Viewer(this.signal, "Trajectory");
    this.player = new Player(this.viewer, job.id, this.signal);
    this.watch = h("section", { class: "card watch", "aria-labelledby": "watch-title" },
      h("div", { class: "row" }, h("h2", { id: "watch-title" }, "Trajectory"), (this.which = h("span", { class: "quiet" }))), this.viewer.element, this.player.element);
    this.plotPlace = h("section", { class: "card curves", "aria-labelledby": "curves-title" }, h("h2", { id: "curves-title" }, "Curves"));
    this.systems = new SystemsTable((system) => this._choose(system));
    this.systemsPart = h("section", { class: "card", hidden: !many, "aria-labelledby": "systems-title" },
      h("div", { class: "row" }, h("h2", { id: "systems-title" }, "Systems"), (this.systemsNote = h("span", { class: "quiet" }))), this.systems.element);
    this.snippets = snippets(() => this._request(), () => "structure.extxyz");
    main.append(this.head, this.verdict, this.actions, this.problem, this.notes,
      h("div", { class: job.kind === "singlepoint" ? "columns single" : "columns" }, this.watch, this.plotPlace),
      this.systemsPart, (this.numbers = h("section", { class: "card", hidden: true, "aria-labelledby": "numbers-title" })), this._downloads(), this._details());
    if (job.kind === "singlepoint") this.plotPlace.hidden = true;
    this._newPlots();
  }

  _newPlots() {
    this.plots = new Plots(this.job, this.signal, (moment) => this.player.goTo(moment));
    this.plotPlace.querySelector(".plots")?.remove();
    this.plotPlace.append(this.plots.element);
  }

  // -- live

  /** Everything there is, and then what happens until the job ends or the page is left. */
  follow() {
    this._refreshData();
    this._poll();
    this._lookAtCharge().catch(() => {});
    if (!ENDED.has(this.job.state)) this._listen();
  }

  async _listen() {
    try {
      for await (const event of events(this.job.id, this.signal)) this._on(event);
      await this._reload();
      await this._refreshData();
      announce(this.verdict.textContent);
    } catch (problem) {
      if (!this.signal.aborted) this.problem.replaceChildren(problemBox(problem));
    }
  }

  /** Frames, time series and results come with checkpoints: look for them while the job runs. */
  async _poll() {
    try {
      for (;;) {
        await pause(FRAMES_EVERY_MS, this.signal);
        if (ENDED.has(this.job.state) || document.hidden) continue;
        await this._refreshData();
      }
    } catch {
      // the page was left
    }
  }

  _on({ type, data }) {
    const { progress } = this.job;
    if (type === "state") {
      this.job = { ...this.job, ...data, started_at: this.job.started_at ?? (data.state === "running" ? new Date().toISOString() : null) };
      if (data.state === "running") this._reload().catch(() => {});
    } else if (type === "progress") this.job = { ...this.job, progress: { ...progress, ...data } };
    else if (type === "thermo" && data.system === this.system) this.live.push(data);
    else if (type === "warning") this.job = { ...this.job, warnings: [...this.job.warnings, data] };
    this._soon();
  }

  /** Draw at most a few times a second, however many events come. */
  _soon() {
    this._timer ??= setTimeout(() => {
      this._timer = null;
      if (!this.signal.aborted) this._show();
    }, 150);
  }

  async _reload() {
    this.job = await getJson(`/v1/jobs/${this.job.id}`, this.signal);
    this._show();
  }

  async _refreshData() {
    const { job } = this;
    const jobs = [this.player.fetch()];
    if (job.kind !== "singlepoint") jobs.push(this._fetchThermo());
    jobs.push(this._fetchResults());
    await Promise.allSettled(jobs);
    this._show();
  }

  async _fetchThermo() {
    const { system } = this;
    const every = this.job.params.thermo_every ?? 1;
    const stride = Math.max(1, Math.ceil(this.job.progress.n_steps / every / MOST_ROWS));
    const { items } = await getJson(`/v1/jobs/${this.job.id}/thermo?system=${system}&stride=${stride}`, this.signal);
    if (system !== this.system) return;
    this.table = items;
    const last = items.at(-1)?.step ?? -1;
    this.live = this.live.filter((row) => row.step > last);
  }

  async _fetchResults() {
    const { n_done, n_systems } = this.job.progress;
    if (!n_done && !ENDED.has(this.job.state)) return;
    if (this.results.length >= n_systems) return;
    const items = await getAll(`/v1/jobs/${this.job.id}/systems`, this.signal, MOST_SYSTEMS);
    this.ends = new Map(items.filter((one) => one.structure && items.length <= 200).map((one) => [one.system_idx, one]));
    this.results = items.map(summaryOf);
    if (n_systems > 1 && items.length) this.systems.setItems(this.results);
    this.systemsNote.textContent = `${count(items.length)} of ${count(n_systems)} have ended`;
  }

  async _choose(system) {
    this.system = system;
    this.table = [];
    this.live = [];
    this.systems.choose(system);
    this._newPlots();
    await Promise.allSettled([this.player.choose(system), this._fetchThermo()]);
    this._show();
    this.watch.scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  }

  /** The charge of the structure, or of all if they have the same. */
  async _lookAtCharge() {
    if (this.job.progress.n_systems > MOST_ASKED) return;
    const charges = new Set((await this._inputs()).map((one) => one.charge ?? 0));
    this.charge = charges.size === 1 ? [...charges][0] : 0;
    if (this.charge) this._show();
  }

  // -- showing

  get _rows() {
    return [...this.table, ...this.live];
  }

  _show() {
    const { job } = this;
    const only = job.progress.n_systems === 1 ? this.results[0] : null;
    const rows = this._rows;
    const told = verdict(job, only, rows);
    this.head.replaceChildren(
      h("div", {}, h("p", { class: "crumb" }, h("a", { href: "#/jobs" }, "Jobs"), " / ", h("code", {}, job.id)),
        h("h1", {}, job.name || `${KINDS[job.kind]} ${job.id.slice(-6)}`),
        h("p", { class: "quiet" }, [KINDS[job.kind], job.model, job.level_of_theory, this.charge && `charge ${signed(this.charge)} e`, job.dtype, plural(job.progress.n_systems, "system")].filter(Boolean).join(" · "), " · ", timeAgo(job.created_at),
          job.tags.map((tag) => h("a", { class: "tag", href: `#/jobs?tag=${encodeURIComponent(tag)}` }, tag)))),
      h("div", { class: "job-state" }, stateBadge(job)));
    const text = [h("p", { class: "verdict-title" }, told.title), told.text && h("p", {}, told.text)];
    const same = `${told.tone}|${told.title}|${told.text}`;
    if (same !== this._said) {
      this.verdict.className = `verdict ${told.tone}`;
      this.verdict.replaceChildren(...text.filter(Boolean), ...(ENDED.has(job.state) ? [] : [progressBar(job)]));
      this._said = same;
    }
    this._showActions();
    this._showNotes(only);
    this._showNumbers(only);
    this.which.textContent = job.progress.n_systems > 1 ? `system ${this.system}` : "";
    const atoms = this.player.numbers?.length;
    this.plots.setRows(rows, atoms ?? 1);
    document.title = `${told.title} · ${job.name || job.id} · equipot`;
  }

  _showNotes(only) {
    const said = [...this.job.warnings.map((one) => (one.system_idx !== null && one.system_idx !== undefined && this.job.progress.n_systems > 1 ? `System ${one.system_idx}: ${one.message}` : one.message)), ...(only?.warnings ?? [])];
    const unique = [...new Set(said)];
    if (unique.join() === this._noted) return;
    this._noted = unique.join();
    const shown = unique.slice(0, 6);
    this.notes.replaceChildren(...(shown.length ? [h("ul", { class: "notes" }, shown.map((text) => h("li", {}, icon("warn"), text)), unique.length > 6 && h("li", {}, `and ${unique.length - 6} more`))] : []));
  }

  /** The numbers of a job with one system. */
  _showNumbers(only) {
    if (!only || this._numbered || only.energy_ev === null || only.energy_ev === undefined) return;
    this._numbered = true;
    const wanted = ["energy_ev", "fmax_ev_per_ang", "generalised_force_ev_per_ang", "cell_force_ev_per_ang", "temperature_k", "volume_ang3", "pressure_gpa", "enthalpy_ev", "space_group", "n_steps", "seed", "domain_distance"];
    const titles = { energy_ev: "Energy", fmax_ev_per_ang: "Largest force", n_steps: "Steps", domain_distance: "Distance to training data" };
    const digits = { energy_ev: 10, enthalpy_ev: 10, seed: 12 };
    const rows = wanted.filter((name) => only[name] !== null && only[name] !== undefined).map((name) =>
      [titles[name] ?? wordsOf(name), typeof only[name] === "number" ? `${number(only[name], digits[name] ?? 4)} ${unitOf(name) === "steps" ? "" : unitOf(name)}${name === "domain_distance" ? (only[name] > 1 ? "(above 1: unlike what it was trained on)" : "(below 1: like what it was trained on)") : ""}` : only[name]]);
    if (only.stress_ev_per_ang3) rows.push(["Stress, xx yy zz yz xz xy", `${only.stress_ev_per_ang3.map((x) => number(x * 160.2176634, 3)).join("  ")} GPa`]);
    this.numbers.hidden = false;
    this.numbers.replaceChildren(h("h2", { id: "numbers-title" }, "Results"), h("div", { class: "facts" }, h("dl", {}, rows.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))))));
  }

  // -- what can be done

  _showActions() {
    const { job } = this;
    const ended = ENDED.has(job.state);
    const usable = ended && ["succeeded", "partially_succeeded", "cancelled"].includes(job.state) && this.results.some((one) => one.energy_ev !== null && one.energy_ev !== undefined);
    const extendable = ended && this.able.extend && job.kind === "md" && job.outcomes.completed;
    const wanted = [
      !ended && ["cancel", "Cancel", "button", () => this._change("cancel")],
      ended && RESUMABLE.has(job.state) && ["resume", "Resume", "button primary", () => this._change("resume")],
      extendable && ["extend", "Extend…", "button", () => this._extend()],
      usable && job.kind === "relax" && job.outcomes.max_steps && ["further", "Relax further", "button", () => this._continue("relax")],
      usable && job.kind !== "md" && ["md", "Continue as MD", "button", () => this._continue("md")],
      usable && job.kind === "md" && ["relax", "Relax the last frames", "button", () => this._continue("relax")],
      ended && ["again", "Do this again", "button", () => this._again()],
      ended && ["delete", "Delete…", "button quiet-button", () => this._delete()],
    ].filter(Boolean);
    const key = wanted.map(([name]) => name).join();
    if (key === this._acts) return;
    this._acts = key;
    this.actions.replaceChildren(...wanted.map(([name, title, look, act]) => h("button", { type: "button", class: look, dataset: { action: name }, onclick: () => this._try(act) }, title)));
  }

  async _try(act) {
    this.problem.replaceChildren();
    try {
      await act();
    } catch (problem) {
      if (problem.name !== "AbortError") this.problem.replaceChildren(problemBox(problem));
    }
  }

  async _change(verb, body = undefined) {
    const before = ENDED.has(this.job.state);
    this.job = await postJson(`/v1/jobs/${this.job.id}/${verb}`, body, { signal: this.signal });
    this.results = before ? [] : this.results;
    this._numbered = false;
    this._show();
    announce(`The job is ${this.job.state}.`);
    if (before && !ENDED.has(this.job.state)) this._listen();
  }

  async _extend() {
    const input = h("input", { type: "text", id: uniqueId("extend"), inputmode: "decimal", value: "1", autocomplete: "off" });
    const answer = await dialog("Extend the dynamics", [
      h("div", { class: "field" }, h("label", { for: input.id }, "Further time (ps)"), input,
        h("p", { class: "help" }, "It goes on from its last step, as if it had been asked for the longer time from the start."))], "Extend");
    if (answer) await this._change("extend", { duration_ps: Number(input.value) });
  }

  async _delete() {
    if (!(await dialog("Delete this job?", [h("p", {}, "Its trajectory and results are removed from the server. This cannot be undone.")], "Delete"))) return;
    await request("DELETE", `/v1/jobs/${this.job.id}`);
    location.hash = "#/jobs";
  }

  _inputs() {
    this._given ??= getAll(`/v1/jobs/${this.job.id}/structures`, this.signal);
    return this._given;
  }

  /** The body that asks for the same job. */
  async _request() {
    const { kind, model, params } = this.job;
    const body = { kind, model, structures: await this._inputs(), params: await differing(kind, params) };
    const [level] = await levelsOf(model);
    if (level && level !== this.job.level_of_theory) body.level_of_theory = this.job.level_of_theory;
    if (!Object.keys(body.params).length) delete body.params;
    if (this.job.name) body.name = this.job.name;
    if (this.job.tags.length) body.tags = this.job.tags;
    if (this.job.dtype !== "float64") body.dtype = this.job.dtype;
    return body;
  }

  async _again() {
    const body = await this._request();
    this._draft({ ...body, name: `The ${plural(body.structures.length, "structure")} of ${this.job.name || this.job.id}`, title: this.job.name });
  }

  async _continue(kind) {
    const systems = await getAll(`/v1/jobs/${this.job.id}/systems`, this.signal);
    const structures = systems.filter((one) => one.structure && one.energy_ev !== null).map((one) => one.structure);
    const name = this.job.name || this.job.id;
    this._draft({ kind, model: this.job.model, level_of_theory: this.job.level_of_theory, structures, params: {}, name: `Final ${plural(structures.length, "structure")} of ${name}`, title: `${name}, ${kind === "md" ? "dynamics" : "relaxed"}`.slice(0, 200), tags: this.job.tags });
  }

  _draft(draft) {
    beginWith({ ...draft, references: draft.structures });
    location.hash = "#/";
  }

  // -- files and details

  _downloads() {
    const { id } = this.job;
    const base = `/v1/jobs/${id}`;
    const link = (path, filename, title) => h("a", { href: path, download: filename, class: "button small", onclick: (event) => {
      if (!apiKey()) return;
      event.preventDefault();
      this._try(() => download(path, filename));
    } }, icon("download"), title);
    const many = this.job.progress.n_systems > 1;
    return h("section", { class: "card", "aria-labelledby": "files-title" }, h("h2", { id: "files-title" }, "Files"),
      h("p", { class: "quiet" }, "Trajectories go up to the last checkpoint and can be had while the job runs."),
      h("div", { class: "downloads" },
        Object.entries(FORMATS).filter(([format]) => !(many && format === "h5md")).map(([format, title]) => link(`${base}/trajectory?format=${format}`, `${id}.${format}`, title)),
        link(`${base}/thermo?format=csv`, `${id}-thermo.csv`, "Curves .csv"), link(`${base}/systems?page_size=1000`, `${id}-systems.json`, "Results .json"),
        link(`${base}/manifest`, `${id}-manifest.json`, "Provenance .json")));
  }

  _details() {
    const { job } = this;
    const flat = Object.entries(job.params).filter(([, value]) => value !== null);
    const text = (value) => (typeof value === "object" ? JSON.stringify(value, (_, one) => (one === null ? undefined : one)).replaceAll('"', "").replaceAll(",", ", ").replaceAll(":", ": ") : String(value));
    const facts = [["Job", job.id], ["Created", dateTime(job.created_at)], ["Weights", `sha256 ${job.model_sha256}`], ["Level of theory", job.level_of_theory], ["Precision", job.dtype], ["Device", job.device]];
    return h("section", { class: "card details" },
      h("details", { class: "section" }, h("summary", {}, "Parameters"), h("div", { class: "facts wide" }, h("dl", {}, flat.map(([name, value]) => h("div", {}, h("dt", {}, h("code", {}, name)), h("dd", {}, text(value))))))),
      h("details", { class: "section" }, h("summary", {}, "Where the numbers come from"), h("div", { class: "facts wide" }, h("dl", {}, facts.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", { class: "break" }, value)))))),
      this.snippets.element);
  }
}

/** The levels of theory of a potential, its own first; none if it is not there any more. */
async function levelsOf(model) {
  const { items } = await getJson("/v1/models");
  return (items.find((one) => one.name === model)?.levels ?? []).map((one) => one.level_of_theory);
}

/** The resolved parameters of a record without those that are defaults. */
async function differing(kind, params) {
  const schema = (await openapi()).components.schemas[{ relax: "RelaxParams", md: "MDParams", singlepoint: "SinglepointParams" }[kind]];
  const out = {};
  for (const [name, value] of Object.entries(params)) {
    const initial = schema.properties[name]?.default ?? null;
    if (value !== null && JSON.stringify(sorted(value)) !== JSON.stringify(sorted(initial))) out[name] = value;
  }
  return out;
}

function sorted(value) {
  return value && typeof value === "object" && !Array.isArray(value) ? Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])])) : value;
}

/** Ask in a dialog; true if the answer is yes. */
export function dialog(title, content, yes) {
  return new Promise((resolve) => {
    const id = uniqueId("dialog");
    const element = h("dialog", { "aria-labelledby": id, onclose: () => (resolve(element.returnValue === "yes"), element.remove()) },
      h("form", { method: "dialog", onsubmit: (event) => (event.preventDefault(), element.close("yes")) }, h("h2", { id }, title), content,
        h("div", { class: "row end" }, h("button", { type: "button", class: "button", onclick: () => element.close("no") }, "Back"), h("button", { type: "submit", class: "button primary" }, yes))));
    document.body.append(element);
    element.showModal();
  });
}

