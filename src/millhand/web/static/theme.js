// Runs before the first paint, so that a chosen theme does not flash. It is a file because the policy forbids inline scripts.
const root = document.documentElement;
root.classList.add("js");
try {
  const theme = localStorage.getItem("millhand-theme");
  if (theme) root.dataset.theme = theme;
} catch {
  // Storage is blocked: the theme of the system stays.
}
