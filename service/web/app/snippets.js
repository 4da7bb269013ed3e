// The same job in a shell, in Python and on the command line.
import { apiKey, saveText } from "./api.js";
import { announce, copyText, h, iconButton, uniqueId } from "./dom.js";

const INLINE_ATOMS = 12; // more are better sent from a file
const shellQuote = (text) => `'${text.replaceAll("'", `'"'"'`)}'`;

const shellWord = (value) => (/^[\w./+-]+$/.test(value) ? String(value) : shellQuote(String(value)));

/** What a call and a command are given beside structures and model: of the job, then its parameters. */
function arguments_(body) {
  const own = Object.fromEntries(["level_of_theory", "dtype", "device"].filter((name) => body[name] !== undefined).map((name) => [name, body[name]]));
  return { ...own, ...body.params };
}

/** The charge of all structures where the request says one; a file may not. */
function chargeOf(body) {
  const charges = new Set(body.structures.map((one) => one.charge));
  return charges.size === 1 ? [...charges][0] ?? null : null;
}

/** A value as Python writes it. */
function python(value) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([k, v]) => `${JSON.stringify(k)}: ${python(v)}`).join(", ")}}`;
  return JSON.stringify(value);
}

function curl(body) {
  const atoms = body.structures.reduce((sum, one) => sum + (one.positions?.length ?? 1), 0);
  const key = apiKey() ? ` \\\n  -H "Authorization: Bearer $EQUIPOT_API_KEY"` : "";
  const head = `curl -s ${location.origin}/v1/jobs -H 'Content-Type: application/json'${key}`;
  if (atoms > INLINE_ATOMS) return `# job.json: the button below saves it\n${head} -d @job.json`;
  return `${head} -d ${shellQuote(JSON.stringify(body))}`;
}

function inPython(body, file) {
  const call = { relax: "relax", md: "run_md", singlepoint: "singlepoint" }[body.kind];
  const params = Object.entries(arguments_(body)).map(([name, value]) => `,\n    ${name}=${python(value)}`).join("");
  const single = body.structures.length === 1;
  const charge = chargeOf(body);
  const charged = charge === null ? "" : single ? `atoms.info["charge"] = ${charge}\n` : `for atoms in structures:\n    atoms.info["charge"] = ${charge}\n`;
  const read = `read(${python(file)}, ${single ? "-1" : '":"'})`;
  const variable = single ? "atoms" : "structures";
  return `from ase.io import read
from equipot import Client

client = Client(${python(location.origin)}${apiKey() ? ", api_key=..." : ""})
${charged && `${variable} = ${read}\n${charged}`}${single ? "(result,)" : "results"} = client.${call}(
    ${charged ? variable : read}, model=${python(body.model)}${params},
)
print(${single ? "result.outcome, result.energy_ev" : "[result.energy_ev for result in results]"})`;
}

function inShell(body, file) {
  const charge = chargeOf(body);
  const words = Object.entries({ ...(charge !== null && { charge }), ...arguments_(body) }).map(([name, value]) => {
    const flag = name.replaceAll("_", "-");
    if (typeof value === "boolean") return value ? `--${flag}` : `--no-${flag}`;
    return `--${flag} ${typeof value === "object" ? shellQuote(JSON.stringify(value)) : shellWord(value)}`;
  });
  return [`equipot ${body.kind} ${shellWord(file)} --model ${body.model}`, ...words, `--server ${location.origin}`].join(" \\\n  ");
}

/** Three tabs. `body()` gives the request (a promise is fine), `file()` what the structures are called. */
export function snippets(body, file) {
  const kinds = { curl: ["curl", curl], python: ["Python", inPython], cli: ["Command line", inShell] };
  const code = h("code");
  const panel = h("pre", { class: "snippet", role: "tabpanel", id: uniqueId("panel"), tabindex: "0" }, code);
  let chosen = "curl";
  const show = async () => {
    const request = await body();
    code.textContent = request.structures.length ? kinds[chosen][1](request, file()) : "Choose a structure first.";
    panel.setAttribute("aria-labelledby", tabs.get(chosen).id);
    for (const [name, tab] of tabs) {
      tab.setAttribute("aria-selected", String(name === chosen));
      tab.tabIndex = name === chosen ? 0 : -1;
    }
  };
  const choose = (name) => {
    chosen = name;
    show();
  };
  const tabs = new Map(Object.entries(kinds).map(([name, [title]]) =>
    [name, h("button", { type: "button", role: "tab", class: "tab", id: uniqueId("tab"), "aria-controls": panel.id, onclick: () => choose(name) }, title)]));
  const list = h("div", { class: "tabs", role: "tablist", "aria-label": "The same job as", onkeydown: (event) => {
    const names = [...tabs.keys()];
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    choose(names[(names.indexOf(chosen) + step + names.length) % names.length]);
    tabs.get(chosen).focus();
  } }, [...tabs.values()]);
  const copy = iconButton("copy", "Copy", async () => (await copyText(code.textContent), announce("Copied.")));
  const save = h("button", { type: "button", class: "link", onclick: async () => saveText(JSON.stringify(await body(), null, 1), "job.json") }, "Save job.json");
  const details = h("details", { class: "section", ontoggle: () => details.open && show() }, h("summary", {}, "The same job in code"),
    h("div", { class: "snippets" }, h("div", { class: "snippet-bar" }, list, copy), panel, h("div", { class: "links" }, save)));
  return { element: details, refresh: () => details.open && show() };
}
