// Numbers, times and states as people read them.
import { h } from "./dom.js";
import { formulaParts } from "./elements.js";

/** Units by the ending of a name; longer endings first. */
const UNITS = [
  ["_ev_per_ang3", "eV/Å³"], ["_ev_per_ang", "eV/Å"], ["_ev_per_atom", "eV/atom"], ["_per_fs", "1/fs"],
  ["_ang3", "Å³"], ["_ang", "Å"], ["_gpa", "GPa"], ["_fs", "fs"], ["_ps", "ps"], ["_ev", "eV"], ["_every", "steps"],
  ["_k", "K"], ["_s", "s"],
];

export function unitOf(name) {
  if (name === "n_steps" || name === "max_steps") return "steps";
  return UNITS.find(([ending]) => name.endsWith(ending))?.[1] ?? "";
}

/** A name without its unit, as words. */
export function wordsOf(name) {
  const ending = UNITS.find(([end]) => name.endsWith(end) && end !== "_every")?.[0] ?? "";
  const words = name.slice(0, name.length - ending.length).replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

const MINUS = "−";
/** A number with so many significant digits, without needless zeros; never an exponent in ordinary ranges. */
export function number(value, digits = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 2 ** 53) return String(value).replace("-", MINUS);
  const size = Math.abs(value);
  const text = size >= 1e7 || size < 1e-4 ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));
  return text.replace("-", MINUS).replace("e+", "e");
}

export function fixed(value, places) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return value.toFixed(places).replace("-", MINUS);
}

/** Whole numbers with thin spaces between thousands. */
export function count(value) {
  return String(value).replace(/\B(?=(\d{3})+(?!\d))/g, "\u202f");
}

/** A charge with its sign. */
export function signed(value) {
  return value > 0 ? `+${value}` : String(value).replace("-", MINUS);
}

export function plural(n, one, many = `${one}s`) {
  return `${count(n)} ${n === 1 ? one : many}`;
}

export function duration(seconds) {
  if (!Number.isFinite(seconds) || seconds < 0) return "–";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 36 * 3600) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86400).toFixed(1)} d`;
}

export function ago(iso) {
  const seconds = (Date.now() - Date.parse(iso)) / 1000;
  return seconds < 5 ? "just now" : `${duration(seconds)} ago`;
}

export function dateTime(iso) {
  return new Date(iso).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

/** A time element that shows how long ago, and the date as a tip. */
export function timeAgo(iso) {
  return h("time", { datetime: iso, title: dateTime(iso) }, ago(iso));
}

/** Femtoseconds in the unit that reads best. */
export function simulated(fs) {
  if (fs === null || fs === undefined || Number.isNaN(fs)) return "";
  if (fs < 1000) return `${number(fs, 4)} fs`;
  return fs < 1e6 ? `${number(fs / 1000, 4)} ps` : `${number(fs / 1e6, 4)} ns`;
}

/** C₂H₆O with real subscripts. */
export function formulaElement(numbers) {
  const parts = formulaParts(numbers);
  return h("span", { class: "formula" }, parts.map(([symbol, n]) => [symbol, n > 1 ? h("sub", {}, String(n)) : null]));
}

export const KINDS = { relax: "Relaxation", md: "Molecular dynamics", singlepoint: "Single point" };
export const ENDED = new Set(["succeeded", "partially_succeeded", "failed", "cancelled"]);

const STATES = {
  queued: ["wait", "Queued"], starting: ["wait", "Starting"], running: ["run", "Running"],
  cancelling: ["wait", "Cancelling"], succeeded: ["good", "Succeeded"],
  partially_succeeded: ["warn", "Partly succeeded"], failed: ["bad", "Failed"], cancelled: ["off", "Cancelled"],
};
export const STATE_NAMES = Object.fromEntries(Object.entries(STATES).map(([state, [, name]]) => [state, name]));

/** A job's state; one that succeeded though systems used up their steps says so. */
export function stateBadge(job) {
  let [tone, name] = STATES[job.state] ?? ["off", job.state];
  if (job.state === "succeeded" && job.outcomes?.max_steps) {
    [tone, name] = ["warn", job.progress.n_systems === 1 ? "Not converged" : `${count(job.outcomes.max_steps)} not converged`];
  }
  return h("span", { class: `badge ${tone}`, dataset: { state: job.state } }, name);
}

const OUTCOMES = {
  converged: ["good", "Converged"], completed: ["good", "Completed"], max_steps: ["warn", "Not converged"],
  guard_stopped: ["bad", "Stopped by a guard"], diverged: ["bad", "Diverged"], rejected: ["bad", "Rejected"],
  cancelled: ["off", "Cancelled"], failed: ["bad", "Failed"],
};
export function outcomeBadge(outcome) {
  const [tone, name] = OUTCOMES[outcome] ?? ["off", outcome];
  return h("span", { class: `badge ${tone}` }, name);
}

/** Worst first: what a person must look at. */
export const OUTCOME_ORDER = ["failed", "diverged", "rejected", "guard_stopped", "cancelled", "max_steps", "completed", "converged"];
