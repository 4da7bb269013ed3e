// A structure in 3D: cell, periodic images, measurements by click or by typing, views, a picture.
import { announce, cssColour, h, iconButton, onThemeChange, uniqueId } from "./dom.js";
import { SYMBOLS } from "./elements.js";
import { saveAs } from "./api.js";
import { fixed } from "./format.js";
import { bondsBetween, cross, imagesToDraw, isMetal, measure, norm, wrapped } from "./geometry.js";

const MOST_DRAWN = 6000; // atoms; beyond it periodic images are not drawn
const LEAST_RADIUS_ANG = 2; // of what is shown, however small the structure
const FILLED = 0.74; // how much of the canvas the centres of atoms take
const MOST_ZOOM = 1.8;
const MOST_BONDED_ANEW = 1200; // drawn atoms up to which bonds follow every frame

let library = null;
/** 3Dmol, loaded when the first structure is shown. */
function loadLibrary() {
  library ??= new Promise((resolve, reject) => {
    const script = h("script", { src: "/static/vendor/3dmol.js" });
    script.onload = () => resolve(window.$3Dmol);
    script.onerror = () => reject(new Error("The viewer could not be loaded."));
    document.head.append(script);
  });
  return library;
}

/** Draws structures into `viewer.element`. A new structure may come at any time; `moveTo` changes positions only. */
export class Viewer {
  constructor(signal, label = "Structure") {
    this.label = label;
    this.structure = null;
    this.repeats = [1, 1, 1];
    this.options = { bonds: true, spheres: false, labels: false, wrap: false };
    this.picked = [];
    this._drawn = [];
    this._busy = Promise.resolve();
    this._build();
    onThemeChange(() => this._recolour(), signal);
    this._resizer = new ResizeObserver(() => this.gl?.resize());
    this._resizer.observe(this.canvas);
    signal?.addEventListener("abort", () => this._dispose(), { once: true });
  }

  _build() {
    const help = uniqueId("viewer-help");
    this.canvas = h("div", { class: "viewer-canvas", tabindex: "0", role: "application", "aria-label": this.label, "aria-describedby": help });
    this.canvas.addEventListener("keydown", (event) => this._onKey(event));
    this.canvas.addEventListener("wheel", (event) => this._onWheel(event), { capture: true, passive: false });
    this.readout = h("output", { class: "viewer-readout", "aria-live": "polite" });
    this.input = h("input", {
      class: "viewer-measure", "aria-label": "Atoms to measure between, by index: two, three or four", autocomplete: "off", spellcheck: "false",
      placeholder: "Measure: click atoms, or type 0 1 2",
      onchange: () => this.pick((this.input.value.match(/\d+/g) ?? []).map(Number)),
    });
    this._cellTools = h("span", { class: "tool-group" });
    const toggle = (name, key, label) =>
      iconButton(name, label, (event) => {
        this.options[key] = !this.options[key];
        event.currentTarget.setAttribute("aria-pressed", String(this.options[key]));
        this._rebuild();
      }, { "aria-pressed": String(this.options[key]) });
    this._tools = h("div", { class: "viewer-tools", role: "toolbar", "aria-label": "View" },
      iconButton("reset", "Reset the view", () => this.resetView()),
      toggle("bonds", "bonds", "Show bonds"), toggle("spheres", "spheres", "Atoms in full size"),
      toggle("label", "labels", "Label atoms with their index"),
      this._cellTools,
      h("span", { class: "tool-space" }),
      iconButton("camera", "Save a picture (PNG)", () => this._picture()),
      iconButton("full", "Full screen", () => this._fullScreen()));
    this.element = h("figure", { class: "viewer" },
      h("p", { class: "visually-hidden", id: help },
        "Arrow keys turn the structure, plus and minus zoom, 0 resets the view, Escape ends a measurement."),
      this._tools, this.canvas,
      h("figcaption", { class: "viewer-caption" }, this.input, this.readout));
  }

  /** Show a structure: {numbers or symbols, positions, cell, pbc, fixed_atoms}. */
  show(structure, { keepView = false } = {}) {
    const numbers = structure.numbers ?? structure.symbols.map((symbol) => SYMBOLS.indexOf(symbol));
    const positions = structure.positions instanceof Float32Array ? structure.positions : Float32Array.from(structure.positions.flat());
    this.structure = { numbers, positions, cell: structure.cell ?? null, pbc: structure.pbc ?? [false, false, false] };
    this.picked = [];
    if (!keepView) this.repeats = [1, 1, 1];
    this._showCellTools();
    const n = numbers.length;
    this.canvas.setAttribute("aria-label", `${this.label}: ${n} ${n === 1 ? "atom" : "atoms"}${this.structure.cell ? " in a cell" : ""}`);
    return this._rebuild(!keepView);
  }

  /** The same atoms elsewhere: a frame of a trajectory. */
  moveTo(positions, cell) {
    if (!this.structure) return;
    this.structure.positions = positions;
    if (cell) this.structure.cell = cell;
    if (!this.model) return;
    this._place();
    this._draw();
  }

  resetView() {
    if (!this.gl) return;
    this.gl.resize(); // it may have been shown again just now
    this.gl.setView([0, 0, 0, 0, 0, 0, 0, 1]);
    this.gl.zoomTo();
    if (this.structure.cell) {
      this.gl.rotate(-90, "vx");
      this.gl.rotate(-24, "vy");
      this.gl.rotate(10, "vx");
    } else {
      this.gl.rotate(-15, "x");
    }
    this.gl.render();
    this.gl.zoom(this._zoomToFill());
    this.gl.render();
  }

  /** How much nearer than 3Dmol's own view, which shows the sphere around it, the structure fills the canvas. */
  _zoomToFill() {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    const shown = this.gl.modelToScreen([...this._atoms, ...cornersOf(this.structure.cell)]);
    const spread = (values, middle) => Math.max(...values.map((value) => Math.abs(value - middle)), 1);
    const wide = spread(shown.map(({ x }) => x), left + scrollX + width / 2);
    const high = spread(shown.map(({ y }) => y), top + scrollY + height / 2);
    const zoom = Math.min(MOST_ZOOM, (FILLED * width) / 2 / wide, (FILLED * height) / 2 / high);
    return zoom > 0 ? zoom : 1; // nothing is known of a canvas that is not shown
  }

  /** Measure between atoms (indices of the structure); an empty list ends it. */
  pick(indices) {
    const n = this.structure?.numbers.length ?? 0;
    this.picked = indices.filter((i) => i < n).slice(0, 4)
      .map((i) => this._drawn.findIndex(([atom, shift]) => atom === i && !shift.some(Boolean)));
    this._showMeasurement();
    this._draw();
  }

  // -- building the model

  async _rebuild(resetView = false) {
    const library = (this._busy = this._busy.then(loadLibrary));
    let mol;
    try {
      mol = await library;
      this.gl ??= mol.createViewer(this.canvas, { backgroundAlpha: 0, orthographic: true, antialias: true, disableFog: true, minimumZoomToDistance: LEAST_RADIUS_ANG });
      if (!this.gl) throw new Error("no WebGL");
    } catch {
      this.canvas.replaceChildren(h("p", { class: "viewer-none" }, "This browser cannot show 3D (WebGL is missing or switched off). Everything else works."));
      return;
    }
    if (this._disposed || !this.structure) return;
    const { numbers, cell, pbc } = this.structure;
    const shown = this._wrapped();
    let drawn = imagesToDraw(shown, cell, pbc, this.repeats, true);
    if (drawn.length > MOST_DRAWN) drawn = imagesToDraw(shown, cell, pbc, [1, 1, 1], false);
    this._drawn = drawn;
    this._numbers = drawn.map(([i]) => numbers[i]);
    this.gl.removeAllModels();
    this.model = this.gl.addModel();
    this.model.addAtoms(this._numbers.map((z, index) => ({
      elem: SYMBOLS[z], x: 0, y: 0, z: 0, serial: index, index, bonds: [], bondOrder: [], hetflag: true,
    })));
    this._atoms = this.model.selectedAtoms({});
    this._bondsKnown = false;
    this._place();
    this.model.setClickable({}, true, (atom) => this._onClick(atom.index));
    this._draw();
    if (resetView) this.resetView();
    this.element.dataset.atoms = String(numbers.length);
    this.element.dataset.drawn = String(drawn.length);
  }

  _wrapped() {
    const { positions, cell, pbc } = this.structure;
    return this.options.wrap && cell ? wrapped(positions, cell, pbc) : positions;
  }

  /** Put the drawn atoms where the structure is now. */
  _place() {
    const { cell } = this.structure;
    const positions = this._wrapped();
    const points = (this._points = new Float32Array(3 * this._drawn.length));
    this._drawn.forEach(([i, shift], k) => {
      for (let x = 0; x < 3; x += 1) {
        const moved = cell ? shift[0] * cell[0][x] + shift[1] * cell[1][x] + shift[2] * cell[2][x] : 0;
        points[3 * k + x] = positions[3 * i + x] + moved;
      }
      const atom = this._atoms[k];
      [atom.x, atom.y, atom.z] = [points[3 * k], points[3 * k + 1], points[3 * k + 2]];
    });
    if (this.options.bonds && (!this._bondsKnown || points.length / 3 <= MOST_BONDED_ANEW)) this._bond(points);
    else if (!this.options.bonds) this._atoms.forEach((atom) => ((atom.bonds = []), (atom.bondOrder = [])));
  }

  _bond(points) {
    this._atoms.forEach((atom) => ((atom.bonds = []), (atom.bondOrder = [])));
    for (const [i, j] of bondsBetween(this._numbers, points)) {
      this._atoms[i].bonds.push(j);
      this._atoms[i].bondOrder.push(1);
      this._atoms[j].bonds.push(i);
      this._atoms[j].bondOrder.push(1);
    }
    this._bondsKnown = true;
  }

  _draw() {
    if (!this.gl || !this.model) return;
    const metals = this._numbers.every(isMetal);
    const scale = this.options.spheres ? 1 : metals ? 0.5 : 0.26;
    const style = { sphere: { scale, colorscheme: "Jmol" } };
    if (this.options.bonds) style.stick = { radius: 0.11, colorscheme: "Jmol", singleBonds: true };
    this.model.setStyle({}, style);
    this.gl.removeAllShapes();
    this.gl.removeAllLabels();
    this._drawCell();
    this._drawMeasurement();
    if (this.options.labels && this._drawn.length <= 500) this._drawLabels();
    this.gl.render();
  }

  _drawCell() {
    const { cell } = this.structure;
    if (!cell) return;
    const colour = hex(cssColour("--ink-3"));
    const corner = (x, y, z) => {
      const [a, b, c] = cell;
      return { x: x * a[0] + y * b[0] + z * c[0], y: x * a[1] + y * b[1] + z * c[1], z: x * a[2] + y * b[2] + z * c[2] };
    };
    for (const [x, y] of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
      for (const [start, end] of [[corner(0, x, y), corner(1, x, y)], [corner(x, 0, y), corner(x, 1, y)], [corner(x, y, 0), corner(x, y, 1)]])
        this.gl.addLine({ start, end, color: colour });
    }
    ["a", "b", "c"].forEach((name, axis) => {
      const [x, y, z] = [0, 1, 2].map((k) => (k === axis ? 1 + 1.1 / norm(cell[axis]) : 0));
      this.gl.addLabel(name, this._labelStyle(corner(x, y, z)));
    });
  }

  _labelStyle(position) {
    return { position, fontSize: 13, font: "system-ui, sans-serif", fontColor: hex(cssColour("--ink-2")), showBackground: false, alignment: "center", inFront: true };
  }

  _drawLabels() {
    this._drawn.forEach(([i, shift], k) => {
      if (shift.some(Boolean)) return;
      this.gl.addLabel(String(i), { ...this._labelStyle(this._atoms[k]), fontColor: hex(cssColour("--ink")), fontSize: 12 });
    });
  }

  // -- measuring

  _onClick(k) {
    const again = this.picked.indexOf(k);
    if (again >= 0) this.picked.splice(again, 1);
    else this.picked = this.picked.length === 4 ? [k] : [...this.picked, k];
    this.input.value = this.picked.map((p) => this._drawn[p][0]).join(" ");
    this._showMeasurement();
    this._draw();
  }

  _pointOf(k) {
    return [this._points[3 * k], this._points[3 * k + 1], this._points[3 * k + 2]];
  }

  _showMeasurement() {
    const names = this.picked.map((k) => `${SYMBOLS[this._numbers[k]]}${this._drawn[k][0]}`).join("–");
    const measured = measure(this.picked.map((k) => this._pointOf(k)));
    if (!measured) this.readout.textContent = names;
    else this.readout.textContent = `${names}  ${fixed(measured.value, measured.unit === "Å" ? 3 : 1)} ${measured.unit}`.replace(" °", "°");
  }

  _drawMeasurement() {
    if (!this.picked.length) return;
    const colour = hex(cssColour("--accent"));
    const at = (k) => ({ x: this._points[3 * k], y: this._points[3 * k + 1], z: this._points[3 * k + 2] });
    for (const k of this.picked)
      this.gl.addSphere({ center: at(k), radius: this.options.spheres ? 1.9 : 0.62, color: colour, opacity: 0.45 });
    for (let p = 1; p < this.picked.length; p += 1)
      this.gl.addLine({ start: at(this.picked[p - 1]), end: at(this.picked[p]), color: colour, dashed: true, linewidth: 3 });
    this._showMeasurement();
  }

  // -- tools

  _showCellTools() {
    const { cell, pbc } = this.structure;
    this._cellTools.replaceChildren();
    if (!cell) return;
    const along = ["a", "b", "c"].map((name, axis) =>
      h("button", { type: "button", class: "icon-button word", title: `Look along ${name}`, "aria-label": `Look along ${name}`, onclick: () => this._lookAlong(axis) }, name));
    this._cellTools.append(...along);
    if (!pbc.some(Boolean)) return;
    const stepper = h("span", { class: "stepper", role: "group", "aria-label": "Periodic images" });
    const said = h("span", { class: "stepper-value", "aria-live": "polite" }, "1×");
    const change = (by) => {
      const most = Math.max(1, Math.floor((MOST_DRAWN / this.structure.numbers.length) ** (1 / pbc.filter(Boolean).length)));
      const now = Math.min(5, most, Math.max(1, Math.max(...this.repeats) + by));
      this.repeats = pbc.map((periodic) => (periodic ? now : 1));
      said.textContent = `${now}×`;
      this._rebuild(true);
    };
    stepper.append(iconButton("minus", "Fewer periodic images", () => change(-1)), said, iconButton("plus", "More periodic images", () => change(1)));
    const wrap = iconButton("cell", "Put atoms back into the cell", (event) => {
      this.options.wrap = !this.options.wrap;
      event.currentTarget.setAttribute("aria-pressed", String(this.options.wrap));
      this._rebuild();
    }, { "aria-pressed": String(this.options.wrap) });
    this._cellTools.append(wrap, stepper);
  }

  _lookAlong(axis) {
    const { cell } = this.structure;
    const towards = cell[axis].map((x) => x / norm(cell[axis]));
    const up = cell[(axis + 2) % 3];
    const right = cross(up, towards);
    const x = right.map((value) => value / norm(right));
    const y = cross(towards, x);
    this.gl.zoomTo();
    const view = this.gl.getView();
    this.gl.setView([...view.slice(0, 4), ...quaternion(x, y, towards)]);
    this.gl.render();
  }

  _onKey(event) {
    if (!this.gl) return;
    const turns = { ArrowLeft: [-10, "y"], ArrowRight: [10, "y"], ArrowUp: [-10, "x"], ArrowDown: [10, "x"] };
    if (turns[event.key]) this.gl.rotate(turns[event.key][0], `v${turns[event.key][1]}`);
    else if (event.key === "+" || event.key === "=") this.gl.zoom(1.15);
    else if (event.key === "-") this.gl.zoom(1 / 1.15);
    else if (event.key === "0") this.resetView();
    else if (event.key === "Escape" && this.picked.length) (this.input.value = ""), this.pick([]);
    else return;
    event.preventDefault();
    this.gl.render();
  }

  /** The page scrolls past the viewer; only one that was clicked, or with Ctrl held, zooms. */
  _onWheel(event) {
    if (!this.canvas.contains(document.activeElement) && !event.ctrlKey) event.stopPropagation();
  }

  _picture() {
    if (!this.gl) return;
    saveAs(this.gl.pngURI(), "structure.png");
    announce("The picture was saved.");
  }

  _fullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.element.requestFullscreen?.();
  }

  _recolour() {
    this._draw();
  }

  _dispose() {
    this._disposed = true;
    this._resizer.disconnect();
    this.gl?.removeAllModels();
    const context = this.canvas.querySelector("canvas")?.getContext("webgl2") ?? this.canvas.querySelector("canvas")?.getContext("webgl");
    context?.getExtension("WEBGL_lose_context")?.loseContext();
    this.gl = this.model = null;
  }
}

/** #rrggbb of a colour as the browser resolves it. */
function hex(colour) {
  const [r, g, b] = (colour.match(/[\d.]+/g) ?? [0, 0, 0]).map(Number);
  return `#${[r, g, b].map((x) => Math.round(x).toString(16).padStart(2, "0")).join("")}`;
}

/** The rotation that turns the axes x, y, z of the structure to those of the screen. */
function quaternion(x, y, z) {
  const m = [x, y, z];
  const trace = m[0][0] + m[1][1] + m[2][2];
  const w = Math.sqrt(Math.max(0, 1 + trace)) / 2;
  if (w > 1e-4) return [(m[2][1] - m[1][2]) / (4 * w), (m[0][2] - m[2][0]) / (4 * w), (m[1][0] - m[0][1]) / (4 * w), w];
  const q = [0, 1, 2].map((k) => Math.sqrt(Math.max(0, 1 + 2 * m[k][k] - trace)) / 2);
  const k = q.indexOf(Math.max(...q));
  return [0, 1, 2].map((i) => (i === k ? q[k] : (m[k][i] + m[i][k]) / (4 * q[k]))).concat(0);
}

/** The corners of a cell as 3Dmol has points. */
function cornersOf(cell) {
  if (!cell) return [];
  const [a, b, c] = cell;
  return [0, 1, 2, 3, 4, 5, 6, 7].map((k) => {
    const [i, j, l] = [k & 1, (k >> 1) & 1, k >> 2];
    return { x: i * a[0] + j * b[0] + l * c[0], y: i * a[1] + j * b[1] + l * c[1], z: i * a[2] + j * b[2] + l * c[2] };
  });
}
