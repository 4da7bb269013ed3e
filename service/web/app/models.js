// The potentials: what each covers, how wrong it is, and where it ends.
import { getJson } from "./api.js";
import { h } from "./dom.js";
import { NAMES, NUMBERS, placeInTable, SYMBOLS } from "./elements.js";
import { count, number, signed } from "./format.js";

const ERRORS = [
  ["energy_mae_mev_per_atom", "Energy MAE", "meV/atom"], ["energy_rmse_mev_per_atom", "Energy RMSE", "meV/atom"],
  ["force_mae_mev_per_ang", "Force MAE", "meV/Å"], ["force_rmse_mev_per_ang", "Force RMSE", "meV/Å"],
  ["stress_mae_gpa", "Stress MAE", "GPa"],
];

export async function modelsPage(main, _, signal) {
  const { items } = await getJson("/v1/models", signal);
  const cards = await Promise.all(items.map((one) => getJson(`/v1/models/${encodeURIComponent(one.name)}`, signal)));
  main.append(h("h1", {}, "Potentials"),
    h("p", { class: "lead" }, "What each was trained on, how wrong it is there, and what it does not know. A structure with an element outside the table is refused by name."),
    ...cards.map(modelCard));
}

function modelCard(card) {
  const id = `model-${card.name}`;
  const facts = [
    [card.levels.length > 1 ? "Own level of theory" : "Level of theory", card.level_of_theory], ["Cutoff", `${number(card.cutoff_ang)} Å`], ["Stress", card.has_stress ? "trained" : "not trained on"],
    ["Parameters", count(card.n_parameters)], ["Training frames", count(card.training_data.n_frames)],
    ["Training data", `${card.training_data.description} (${card.training_data.source}; ${card.training_data.licence})`], ["Energies", card.energy_reference],
    ["Licence", card.licence], ["Weights", h("code", { title: card.sha256, class: "sha" }, `sha256 ${card.sha256.slice(0, 16)}…`)],
  ];
  return h("article", { class: "card model", "aria-labelledby": id },
    h("header", {}, h("h2", { id }, card.name), card.aliases.length ? h("p", { class: "quiet" }, `also ${card.aliases.join(", ")}`) : null),
    h("p", {}, card.description),
    h("div", { class: "model-body" },
      h("div", { class: "model-main" }, periodicTable(card.elements, card.name), levelTable(card), errorTable(card.test_errors),
        h("h3", {}, "What it does not describe"), h("ul", { class: "limits" }, card.limits.map((text) => h("li", {}, text)))),
      h("dl", { class: "model-facts" }, facts.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))))));
}

/** The long periodic table with the elements a potential knows; a list of them for those who cannot see it. */
function periodicTable(elements, name) {
  const known = new Set(elements);
  const cells = SYMBOLS.slice(1).map((symbol, k) => {
    const [row, column] = placeInTable(k + 1);
    return h("span", { class: known.has(symbol) ? "element known" : "element", title: `${NAMES[k + 1]}${known.has(symbol) ? "" : ": not known"}`,
      style: { "grid-row": String(row), "grid-column": String(column) } }, symbol);
  });
  const listed = [...elements].sort((a, b) => NUMBERS.get(a) - NUMBERS.get(b)).map((symbol) => NAMES[NUMBERS.get(symbol)]);
  return h("figure", { class: "periodic" },
    h("div", { class: "periodic-grid", role: "img", "aria-label": `Elements ${name} knows: ${listed.join(", ")}` }, cells),
    h("figcaption", { class: "quiet" }, `Knows ${elements.length} elements: ${listed.join(", ")}.`));
}

/** What each level of theory of a potential was trained on; nothing if there is one. */
function levelTable(card) {
  if (card.levels.length < 2) return null;
  const head = ["Level of theory", "Elements", "Charges (e)", "Training frames"];
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Levels of theory" }, h("table", { class: "list" },
    h("caption", {}, "Levels of theory it can be asked for"),
    h("thead", {}, h("tr", {}, head.map((title, k) => h("th", { scope: "col", class: k === 3 ? "num" : "" }, title)))),
    h("tbody", {}, card.levels.map((one) => h("tr", {}, h("th", { scope: "row" }, one.level_of_theory), h("td", {}, Object.keys(one.isolated_atom_energies_ev).join(" ")),
      h("td", {}, one.charges.map(signed).join(", ")), h("td", { class: "num" }, count(one.n_frames)))))));
}

function errorTable(errors) {
  if (!errors.length) return null;
  const columns = ERRORS.filter(([key]) => errors.some((one) => one[key] !== null && one[key] !== undefined));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Errors on test sets" }, h("table", { class: "list" },
    h("caption", {}, "Errors on test sets it has not seen"),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Test set"), h("th", { scope: "col", class: "num" }, "Frames"), columns.map(([, title, unit]) => h("th", { scope: "col", class: "num" }, title, h("span", { class: "th-unit" }, unit))))),
    h("tbody", {}, errors.map((one) => h("tr", {}, h("th", { scope: "row" }, one.test_set), h("td", { class: "num" }, count(one.n_frames)), columns.map(([key]) => h("td", { class: "num" }, number(one[key], 3))))))));
}
