// Every page works without this module, as links and forms. It adds what a script alone can do.
const root = document.documentElement;
const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const one = (selector, from = document) => from.querySelector(selector);
const stored = {
  get: (name) => { try { return localStorage.getItem(`millhand-${name}`); } catch { return null; } },
  set: (name, value) => {
    try { value === null ? localStorage.removeItem(`millhand-${name}`) : localStorage.setItem(`millhand-${name}`, value); } catch { /* blocked */ }
  },
};
const say = (text) => { one("#status").textContent = text; };

// The theme: of the system, light, dark, and again.
const themes = { "": "light", light: "dark", dark: "" };
function showTheme() {
  const button = one("[data-theme-button]");
  button?.setAttribute("aria-label", `Theme: ${root.dataset.theme || "system"}`);
  button?.setAttribute("title", `Theme: ${root.dataset.theme || "system"}`);
}
function nextTheme() {
  const theme = themes[root.dataset.theme ?? ""];
  if (theme) root.dataset.theme = theme; else delete root.dataset.theme;
  stored.set("theme", theme || null);
  showTheme();
  say(`Theme: ${theme || "system"}`);
}
one("[data-theme-button]")?.addEventListener("click", nextTheme);
showTheme();
