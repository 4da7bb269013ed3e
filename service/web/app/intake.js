// How structures come in: a dropped or chosen file, pasted text, an example.
import { getJson, postJson, request } from "./api.js";
import { h, icon, uniqueId } from "./dom.js";

const FORMATS = ["extxyz", "xyz", "cif", "vasp", "pdb", "sdf", "mol"];
const ACCEPT = ".extxyz,.xyz,.cif,.vasp,.poscar,.contcar,.pdb,.sdf,.mol,.gz";
const MOST_SHOWN = 500; // structures of one file that are looked at one by one

/** The format of a text as it looks, for those who paste. */
export function guessFormat(text) {
  const lines = text.trim().split("\n").map((line) => line.trim());
  if (/^\s*(data_|_cell_|loop_)/m.test(text)) return "cif";
  if (/V[23]000/.test(lines.slice(0, 5).join("\n"))) return text.includes("$$$$") ? "sdf" : "mol";
  if (/^(HEADER|CRYST1|ATOM|HETATM|REMARK|COMPND|MODEL)/m.test(text)) return "pdb";
  if (/^\d+$/.test(lines[0] ?? "")) return /Properties=|Lattice=/.test(lines[1] ?? "") ? "extxyz" : "xyz";
  return "vasp";
}

/** Send a file to be read; gives {name, structures, ids, warnings}. Throws a Problem. */
export async function upload(file, format = null) {
  const form = new FormData();
  form.append("file", file, file.name);
  if (format) form.append("format", format);
  const answer = await postJson("/v1/structures", form);
  const structures = [answer.structure];
  const more = answer.structure_ids.slice(1, MOST_SHOWN);
  for (let k = 0; k < more.length; k += 8) {
    const batch = await Promise.all(more.slice(k, k + 8).map((id) => getJson(`/v1/structures/${id}`)));
    structures.push(...batch.map((one) => one.structure));
  }
  return {
    name: file.name, warnings: answer.warnings, structures,
    references: answer.structure_ids.map((structure_id) => ({ structure_id })),
  };
}

async function example(entry) {
  const answer = await request("GET", `/static/examples/${entry.file}`, { headers: { Accept: "*/*" } });
  return new File([await answer.blob()], entry.file);
}

/** The place to drop files. `onTaken(promise of what was read, example entry or null)`. */
export function intake(onTaken) {
  const input = h("input", { type: "file", id: uniqueId("file"), class: "visually-hidden", accept: ACCEPT, onchange: () => input.files.length && take([...input.files]) });
  const take = (files) => onTaken(Promise.all(files.map((file) => upload(file))).then(joined), null);
  const area = h("textarea", { id: uniqueId("text"), rows: "7", spellcheck: "false", placeholder: "Paste a CIF, an XYZ, a POSCAR, a PDB or an SDF…", oninput: () => (format.value = guessFormat(area.value)) });
  const format = h("select", { "aria-label": "Format of the text" }, FORMATS.map((value) => h("option", { value }, value)));
  const use = h("button", { type: "button", class: "button", onclick: () => {
    if (area.value.trim()) onTaken(upload(new File([area.value], `pasted.${format.value}`), format.value), null);
    else area.focus();
  } }, "Use this text");
  const paste = h("details", { class: "paste" }, h("summary", {}, "or paste text"),
    h("div", { class: "paste-body" }, h("label", { for: area.id, class: "visually-hidden" }, "Structure as text"), area, h("div", { class: "row" }, format, use)));
  input.multiple = true;
  const zone = h("div", { class: "drop" }, icon("upload"),
    h("p", { class: "drop-title" }, "Drop a structure file here, or ", h("label", { for: input.id, class: "link" }, "choose one")), input,
    h("p", { class: "quiet" }, "CIF, XYZ, extended XYZ, POSCAR, PDB, SDF, MOL; also gzipped, also several structures"), paste);
  const over = (on) => (event) => {
    if (event.type === "dragover" || event.dataTransfer?.types.includes("Files")) event.preventDefault();
    zone.classList.toggle("over", on);
  };
  const examples = h("div", { class: "examples" });
  getJson("/static/examples/index.json").then((list) => examples.replaceChildren(h("p", { class: "examples-title" }, "Or try one of these"), h("ul", {}, list.map((entry) =>
    h("li", {}, h("button", { type: "button", class: "example", onclick: () => onTaken(example(entry).then(upload), entry) },
      h("span", { class: "example-title" }, entry.title), h("span", { class: "example-about" }, entry.about)))))), () => {});
  const element = h("div", { class: "intake" }, zone, examples);
  const handlers = { dragenter: over(true), dragover: over(true), dragleave: over(false), drop: (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    const files = [...event.dataTransfer.files];
    const text = event.dataTransfer.getData("text/plain");
    if (files.length) take(files);
    else if (text) onTaken(upload(new File([text], `pasted.${guessFormat(text)}`), guessFormat(text)), null);
  } };
  return { element, zone, handlers };
}

/** Several files as one list of structures. */
function joined(files) {
  return {
    name: files.length === 1 ? files[0].name : `${files.length} files`,
    warnings: files.flatMap((one) => one.warnings.map((text) => (files.length === 1 ? text : `${one.name}: ${text}`))),
    structures: files.flatMap((one) => one.structures), references: files.flatMap((one) => one.references),
  };
}
