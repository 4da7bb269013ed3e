// Light or dark: as the system has it, unless chosen here. Loaded before anything is drawn.
const KEY = "equipot-theme";
const THEMES = ["auto", "light", "dark"];

export function chosenTheme() {
  const kept = localStorage.getItem(KEY);
  return THEMES.includes(kept) ? kept : "auto";
}

export function nextTheme() {
  const next = THEMES[(THEMES.indexOf(chosenTheme()) + 1) % THEMES.length];
  localStorage.setItem(KEY, next);
  apply();
}

function apply() {
  document.documentElement.dataset.theme = chosenTheme();
  document.dispatchEvent(new Event("themechange"));
}

apply();
