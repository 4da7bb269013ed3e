// The frame of the page: addresses, navigation, colours, the key, and how the service is.
import { apiKey, getJson, onKeyWanted, setApiKey } from "./api.js";
import { h, iconButton, uniqueId } from "./dom.js";
import { dialog, jobPage } from "./job.js";
import { jobsPage } from "./jobs.js";
import { modelsPage } from "./models.js";
import { newPage } from "./new.js";
import { problemBox } from "./problems.js";
import { chosenTheme, nextTheme } from "./theme.js";

const ROUTES = [
  [/^\/?$/, newPage, "New job"], [/^\/jobs\/?$/, jobsPage, "Jobs"], [/^\/jobs\/([\w-]+)$/, jobPage, "Job"], [/^\/models\/?$/, modelsPage, "Potentials"],
];
const LINKS = [["#/", "New"], ["#/jobs", "Jobs"], ["#/models", "Potentials"], ["/docs", "API"]];
const HEALTH_EVERY_MS = 10_000;

let leave = new AbortController();
let shown = false; // whether a page was there before: then its successor gets the focus

async function show() {
  leave.abort();
  leave = new AbortController();
  const { signal } = leave;
  const [path, query = ""] = location.hash.slice(1).split("?");
  const main = document.getElementById("main");
  const found = ROUTES.map(([pattern, page, title]) => [pattern.exec(path), page, title]).find(([match]) => match);
  document.querySelectorAll("nav a").forEach((link) => {
    const here = link.getAttribute("href").slice(1);
    const current = here === "/" ? path === "" || path === "/" : path.startsWith(here);
    if (current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  const place = h("div", { class: "page" });
  main.replaceChildren(place);
  if (shown) {
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  shown = true;
  if (!found) return place.append(h("h1", {}, "There is nothing here"), h("p", {}, h("a", { href: "#/" }, "Begin a job")));
  document.title = `${found[2]} · equipot`;
  try {
    await found[1](place, new URLSearchParams(query), signal, found[0][1]);
    document.body.dataset.ready = location.hash || "#/";
  } catch (problem) {
    if (signal.aborted) return;
    place.append(h("h1", {}, found[2]), problemBox(problem), h("button", { type: "button", class: "button", onclick: show }, "Try again"));
    if (!(problem.status >= 0)) console.error(problem);
  }
}

/** Ask for an API key; true if one was given. */
async function askForKey(hadOne) {
  const input = h("input", { type: "password", id: uniqueId("key"), autocomplete: "off", spellcheck: "false", placeholder: "eqp_…", value: apiKey() ?? "" });
  const given = await dialog("API key", [
    h("p", {}, hadOne ? "The server does not accept this key." : "This server wants a key. Its operator gives one out."),
    h("div", { class: "field" }, h("label", { for: input.id }, "Key"), input, h("p", { class: "help" }, "Kept in this tab until it is closed. Leave it empty to forget the key."))], "Use this key");
  if (given) setApiKey(input.value.trim());
  return given && Boolean(input.value.trim());
}

/** A dot that says whether jobs would be computed now. */
async function watchHealth(place) {
  const look = async () => {
    if (document.hidden) return;
    try {
      const [workers, queue] = await Promise.all([getJson("/v1/workers"), getJson("/v1/queue")]);
      const ready = workers.items.filter((one) => one.ready);
      const waiting = queue.jobs.queued;
      const gpu = ready.filter((one) => one.device.startsWith("cuda")).length;
      const text = ready.length ? `${ready.length} ${ready.length === 1 ? "worker" : "workers"}${gpu ? `, ${gpu} with a GPU` : ""}${waiting ? `, ${waiting} waiting` : ""}` : "no worker is ready";
      place.className = ready.length ? "health good" : "health warn";
      place.textContent = text;
    } catch {
      place.className = "health bad";
      place.textContent = "not reachable";
    }
  };
  await look();
  setInterval(look, HEALTH_EVERY_MS);
}

function frame() {
  const theme = iconButton("theme", "", () => (nextTheme(), name()));
  const name = () => {
    const text = `Colours: ${{ auto: "as the system", light: "light", dark: "dark" }[chosenTheme()]}`;
    theme.title = text;
    theme.setAttribute("aria-label", text);
  };
  name();
  const health = h("span", { class: "health", role: "status", "aria-label": "Service" }, "…");
  document.getElementById("bar").append(
    h("a", { href: "#/", class: "brand" }, h("img", { src: "/static/icon.svg", alt: "", width: "24", height: "24" }), "equipot"),
    h("nav", { "aria-label": "Pages" }, LINKS.map(([href, text]) => h("a", { href }, text))),
    h("span", { class: "tool-space" }), health, iconButton("key", "API key", async () => (await askForKey(false), show())), theme);
  watchHealth(health);
}

onKeyWanted(askForKey);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("main").focus();
});
frame();
addEventListener("hashchange", show);
show();
