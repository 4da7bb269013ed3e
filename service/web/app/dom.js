// Making elements, and the few icons there are. Nothing here knows what the page is about.

/** An element with attributes, listeners (`onclick`), `class`, `dataset`, `style` (an object) and children. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name === "style") for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const ICONS = {
  play: "M8 5.5v13l10.5-6.5z",
  pause: "M8 5.5v13M16 5.5v13",
  first: "M18 6v12l-9-6zM6.5 6v12",
  last: "M6 6v12l9-6zM17.5 6v12",
  reset: "M4 12a8 8 0 1 0 2.5-5.8M4 4v4.5h4.5",
  plus: "M12 6v12M6 12h12",
  minus: "M6 12h12",
  camera: "M4 8h3.5L9 5.5h6L16.5 8H20v11H4zM12 10a3.2 3.2 0 1 0 0 6.4 3.2 3.2 0 0 0 0-6.4",
  full: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  bonds: "M9.1 14.9l5.8-5.8M7 14.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5M17 4.500a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5",
  spheres: "M9.5 5a6 6 0 1 0 0 12 6 6 0 0 0 0-12M16 11a4 4 0 1 1-2.5 7",
  label: "M4 6.500h9.500l6 5.5-6 5.500H4z",
  cell: "M4 8.500l8-4.5 8 4.500v8l-8 4-8-4zM4 8.500l8 4 8-4M12 12.500V20.5",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  download: "M12 4v11M7.5 11l4.5 4.5 4.5-4.500M5 20h14",
  upload: "M12 16V5M7.5 9.500L12 5l4.5 4.500M5 20h14",
  close: "M6 6l12 12M18 6L6 18",
  theme: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
  key: "M15 4.500a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9M11.8 12.200L4.5 19.500M7.5 16.500l2.5 2.5",
  arrow: "M5 12h14M13 6l6 6-6 6",
  check: "M5 12.500l4.5 4.500L19 7.5",
  warn: "M12 4l9 16H3zM12 10v4.500M12 17.300v.2",
};

/** A line icon of 24 units; decorative, so the button around it must say what it does. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A square button with an icon and a name that is read and shown as a tip. */
export function iconButton(name, label, onclick, props = {}) {
  return h("button", { type: "button", class: "icon-button", title: label, "aria-label": label, onclick, ...props }, icon(name));
}

let counter = 0;
export function uniqueId(prefix = "id") {
  counter += 1;
  return `${prefix}-${counter}`;
}

/** Say something to those who listen to the page. */
export function announce(text) {
  const place = document.getElementById("announce");
  if (place) place.textContent = text;
}

/** The value of a colour token as the canvas wants it. */
export function cssColour(token) {
  const probe = h("span", { style: { color: `var(${token})`, display: "none" } });
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}

/** Call `f` when the colours of the page change. */
export function onThemeChange(f, signal) {
  document.addEventListener("themechange", f, { signal });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", f, { signal });
}

/** Wait, or reject when the page is left. */
export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason);
    const leave = () => (clearTimeout(timer), reject(signal.reason));
    const timer = setTimeout(() => (signal.removeEventListener("abort", leave), resolve()), ms);
    signal.addEventListener("abort", leave);
  });
}

/** Wait until what was drawn is on its way to the screen: a slow one is not given more than it can show. */
export function drawn(signal) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason);
    const leave = () => reject(signal.reason);
    signal.addEventListener("abort", leave);
    requestAnimationFrame(() => requestAnimationFrame(() => (signal.removeEventListener("abort", leave), resolve())));
  });
}

/** Text to the clipboard, with a fallback where the page is not served securely. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { class: "visually-hidden", value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}
