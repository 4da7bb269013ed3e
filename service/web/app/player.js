// Plays the frames of one system in a viewer, while more of them come.
import { request } from "./api.js";
import { drawn, h, icon, iconButton, pause } from "./dom.js";
import { count, simulated } from "./format.js";

const MOST_FLOATS = 12_000_000; // positions kept in memory; beyond, every second frame is dropped
const FRAMES_PER_S = [5, 10, 20, 40, 80];

export class Player {
  constructor(viewer, jobId, signal) {
    Object.assign(this, { viewer, jobId, signal });
    this.playing = false;
    this.speed = 20;
    this._reset(0);
    this.button = iconButton("play", "Play", () => (this.playing ? this.stop() : this.play()));
    this.slider = h("input", { type: "range", min: "0", max: "0", value: "0", step: "1", "aria-label": "Frame", disabled: true, oninput: () => (this.stop(), this.go(Number(this.slider.value))) });
    this.said = h("span", { class: "player-said" }, "No frames yet");
    const speed = h("select", { "aria-label": "Speed", title: "Frames per second", onchange: () => (this.speed = Number(speed.value)) },
      FRAMES_PER_S.map((value) => h("option", { value, selected: value === 20 }, `${value}/s`)));
    this.element = h("div", { class: "player" },
      iconButton("first", "First frame", () => (this.stop(), this.go(0))), this.button,
      iconButton("last", "Last frame", () => (this.stop(), this.go(this.length - 1))), this.slider, this.said, speed);
  }

  get length() {
    return this.steps.length;
  }

  _reset(system) {
    Object.assign(this, { system, stride: 1, next: 0, steps: [], times: [], cells: [], positions: [], at: -1, numbers: null });
  }

  /** Look at another system. */
  async choose(system) {
    this.stop();
    this._reset(system);
    this._update();
    await this.fetch();
  }

  /** Get the frames that are new; shows the first, and plays on if it stood at the end. One after the other. */
  fetch() {
    this._fetching = (this._fetching ?? Promise.resolve()).catch(() => {}).then(() => this._fetch());
    return this._fetching;
  }

  async _fetch() {
    const { system } = this;
    const wasAtEnd = this.at === this.length - 1;
    for (;;) {
      const path = `/v1/jobs/${this.jobId}/frames?system=${system}&start=${this.next}&stride=${this.stride}`;
      const answer = await request("GET", path, { signal: this.signal, headers: { Accept: "application/octet-stream" } });
      const batch = unpack(await answer.arrayBuffer());
      if (system !== this.system) return;
      if (!batch.n_frames) break;
      await this._take(batch);
      if (system !== this.system) return; // another was chosen while this one was shown
      this.next = batch.start + batch.n_frames * this.stride;
      if (this.next >= batch.n_total) break;
    }
    this._update();
    if (wasAtEnd && this._follow && this.at < this.length - 1) this.play();
  }

  async _take(batch) {
    if (this.length && batch.start === 0) this._reset(this.system);
    const fresh = !this.length;
    const { system } = this;
    for (let k = 0; k < batch.n_frames; k += 1) {
      this.steps.push(batch.step[k]);
      this.times.push(batch.time_fs[k]);
      this.cells.push(batch.cell.subarray(9 * k, 9 * k + 9));
      this.positions.push(batch.positions.subarray(3 * batch.n_atoms * k, 3 * batch.n_atoms * (k + 1)));
    }
    while (this.length * 3 * batch.n_atoms > MOST_FLOATS && this.length > 2) this._thin();
    if (fresh) {
      this.numbers = batch.numbers;
      await this.viewer.show({ numbers: batch.numbers, positions: this.positions[0], cell: cellOf(this.cells[0]), pbc: batch.pbc });
      if (system !== this.system) return;
      this.at = 0;
      this._follow = true;
    }
  }

  _thin() {
    this.stride *= 2;
    for (const name of ["steps", "times", "cells", "positions"]) this[name] = this[name].filter((_, k) => k % 2 === 0);
    this.at = Math.floor(this.at / 2);
  }

  go(index) {
    if (!this.length) return;
    this.at = Math.max(0, Math.min(this.length - 1, index));
    this.viewer.moveTo(this.positions[this.at], cellOf(this.cells[this.at]));
    this._update();
  }

  /** The frame nearest to a step or a time. */
  goTo({ step, time_fs }) {
    const wanted = step ?? time_fs;
    const list = step === undefined ? this.times : this.steps;
    let best = 0;
    list.forEach((value, k) => (Math.abs(value - wanted) < Math.abs(list[best] - wanted) ? (best = k) : 0));
    this.stop();
    this.go(best);
  }

  async play() {
    if (this.playing || this.length < 2) return;
    this.playing = true;
    this._follow = true;
    if (this.at >= this.length - 1) this.at = -1;
    this._update();
    try {
      while (this.playing && this.at < this.length - 1) {
        const begun = performance.now();
        this.go(this.at + 1);
        await drawn(this.signal);
        await pause(Math.max(0, 1000 / this.speed - (performance.now() - begun)), this.signal);
      }
    } catch {
      return;
    }
    this.playing = false;
    this._update();
  }

  stop() {
    this.playing = false;
    this._follow = false;
    this._update();
  }

  _update() {
    if (!this.button) return;
    this.button.replaceChildren(icon(this.playing ? "pause" : "play"));
    this.button.setAttribute("aria-label", this.playing ? "Pause" : "Play");
    this.button.title = this.playing ? "Pause" : "Play";
    this.slider.max = String(Math.max(0, this.length - 1));
    this.slider.value = String(Math.max(0, this.at));
    this.slider.disabled = this.length < 2;
    this.element.dataset.frames = String(this.length);
    this.element.dataset.at = String(this.at);
    if (!this.length) this.said.textContent = "No frames yet";
    else {
      const time = simulated(this.times[this.at]);
      this.said.textContent = `Step ${count(this.steps[this.at])}${time ? ` · ${time}` : ""}`;
      this.slider.setAttribute("aria-valuetext", `frame ${this.at + 1} of ${this.length}, ${this.said.textContent}`);
    }
  }
}

function cellOf(flat) {
  return flat.some((x) => x !== 0) ? [[...flat.subarray(0, 3)], [...flat.subarray(3, 6)], [...flat.subarray(6, 9)]] : null;
}

/** The arrays in an answer of /frames. */
function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const { n_frames: k, n_atoms: n = 0 } = header;
  let offset = 4 + length;
  const take = (Type, size) => {
    const array = new Type(buffer, offset, size);
    offset += array.byteLength;
    return array;
  };
  return { ...header, step: take(Float64Array, k), time_fs: take(Float64Array, k), cell: take(Float32Array, 9 * k), positions: take(Float32Array, 3 * n * k) };
}
