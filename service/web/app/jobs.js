// The list of jobs, which keeps itself up to date.
import { getJson } from "./api.js";
import { h, pause } from "./dom.js";
import { count, duration, ENDED, KINDS, STATE_NAMES, stateBadge, timeAgo } from "./format.js";
import { problemBox } from "./problems.js";

const LOOK_EVERY_MS = 2000;
const RECENT = 6;
const PAGE = 50;

export function progressBar(job) {
  const { step, n_steps, n_systems, n_done } = job.progress;
  const done = ENDED.has(job.state) ? (job.state === "cancelled" || job.state === "failed" ? null : 1) : n_systems > 1 ? n_done / n_systems : n_steps ? step / n_steps : 0;
  const share = done ?? (n_systems > 1 ? n_done / n_systems : n_steps ? step / n_steps : 0);
  return h("progress", { class: "bar", max: "1", value: share, "aria-label": `${Math.round(share * 100)} % done` });
}

function took(job) {
  if (!job.started_at) return "";
  const end = job.finished_at ? Date.parse(job.finished_at) : Date.now();
  return duration((end - Date.parse(job.started_at)) / 1000);
}

function row(job) {
  const { n_systems, n_done, step } = job.progress;
  return h("tr", {},
    h("td", { class: "job-name" }, h("a", { href: `#/jobs/${job.id}` }, job.name || job.id),
      job.tags.map((tag) => h("a", { class: "tag", href: `#/jobs?tag=${encodeURIComponent(tag)}` }, tag))),
    h("td", { dataset: { label: "State" } }, stateBadge(job)),
    h("td", { dataset: { label: "Kind" } }, KINDS[job.kind] ?? job.kind),
    h("td", { dataset: { label: "Potential" } }, job.model),
    h("td", { dataset: { label: "Progress" }, class: "job-progress" }, progressBar(job),
      h("span", { class: "quiet" }, n_systems > 1 ? `${count(n_done)} of ${count(n_systems)}` : `step ${count(step)}`)),
    h("td", { dataset: { label: "Time" }, class: "num" }, took(job)),
    h("td", { dataset: { label: "Created" }, class: "num" }, timeAgo(job.created_at)));
}

function table() {
  const body = h("tbody");
  const element = h("table", { class: "list jobs" },
    h("thead", {}, h("tr", {}, ["Job", "State", "Kind", "Potential", "Progress", "Time", "Created"].map((name) => h("th", { scope: "col", class: ["Time", "Created"].includes(name) ? "num" : "" }, name)))), body);
  return { element, show: (items) => keepFocus(body, () => body.replaceChildren(...items.map(row))) };
}

/** Change rows without losing where the keyboard is. */
function keepFocus(body, change) {
  const href = body.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  change();
  if (href) [...body.querySelectorAll("a")].find((link) => link.getAttribute("href") === href)?.focus();
}

/** Look at a list again and again while the page is there and seen. */
async function follow(path, show, fail, signal) {
  try {
    for (;;) {
      if (!document.hidden) await getJson(path(), signal).then(show, (error) => (error.name === "AbortError" ? null : fail(error)));
      await pause(LOOK_EVERY_MS, signal);
    }
  } catch {
    // the page was left
  }
}

/** The newest jobs, for the first page; nothing if there are none. */
export function recentJobs(signal) {
  const jobs = table();
  const element = h("section", { class: "recent", hidden: true, "aria-labelledby": "recent-title" },
    h("div", { class: "row" }, h("h2", { id: "recent-title" }, "Recent jobs"), h("a", { href: "#/jobs" }, "All jobs")), jobs.element);
  follow(() => `/v1/jobs?page_size=${RECENT}`, ({ items }) => {
    element.hidden = !items.length;
    jobs.show(items);
  }, () => {}, signal);
  return element;
}

export async function jobsPage(main, query, signal) {
  const jobs = table();
  const filters = { state: query.get("state") ?? "", kind: query.get("kind") ?? "", tag: query.get("tag") ?? "" };
  let size = PAGE;
  const select = (name, label, options) => h("label", { class: "filter" }, h("span", {}, label),
    h("select", { onchange: (event) => ((filters[name] = event.target.value), again()), value: filters[name] },
      h("option", { value: "" }, "all"), Object.entries(options).map(([value, text]) => h("option", { value, selected: value === filters[name] }, text))));
  const tag = h("input", { type: "search", value: filters.tag, autocomplete: "off", onchange: () => ((filters.tag = tag.value.trim()), again()) });
  const note = h("p", { class: "quiet", "aria-live": "polite" });
  const problem = h("div");
  const more = h("button", { type: "button", class: "button", hidden: true, onclick: () => ((size += PAGE), again()) }, "Show more");
  const path = () => `/v1/jobs?${new URLSearchParams({ page_size: String(Math.min(1000, size)), ...Object.fromEntries(Object.entries(filters).filter(([, value]) => value)) })}`;
  const show = ({ items, next_page_token: next }) => {
    problem.replaceChildren();
    jobs.show(items);
    jobs.element.hidden = !items.length;
    more.hidden = !next;
    note.replaceChildren(...(items.length ? [] : [Object.values(filters).some(Boolean) ? "No job is like this." : "No jobs yet. ", ...(Object.values(filters).some(Boolean) ? [] : [h("a", { href: "#/" }, "Begin one")])]));
  };
  const fail = (error) => problem.replaceChildren(problemBox(error));
  const again = () => getJson(path(), signal).then(show, fail);
  main.append(h("h1", {}, "Jobs"), h("div", { class: "filters" }, select("state", "State", STATE_NAMES), select("kind", "Kind", KINDS), h("label", { class: "filter" }, h("span", {}, "Tag"), tag)),
    problem, h("div", { class: "card flush" }, jobs.element), note, more);
  follow(path, show, fail, signal);
}
