// Every page works without this module, as links and forms. It adds what only a script can do.
const root = document.documentElement;
const one = (selector, from = document) => from.querySelector(selector);
const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const prefix = root.dataset.prefix;
const announce = (text) => { one("#status").textContent = text; };

// Choices of this browser. Storage may be blocked; then they last until the next page.
const choices = {
  get(name) { try { return localStorage.getItem(`millhand-${name}`); } catch { return null; } },
  set(name, value) {
    try {
      if (value === null) localStorage.removeItem(`millhand-${name}`);
      else localStorage.setItem(`millhand-${name}`, value);
    } catch { /* blocked */ }
  },
};

// ---- Theme: the system's, light, dark

const themeButton = one("[data-theme-button]");
function labelTheme() {
  const label = `Theme: ${root.dataset.theme ?? "system"}`;
  themeButton?.setAttribute("aria-label", label);
  themeButton?.setAttribute("title", label);
  return label;
}
themeButton?.addEventListener("click", () => {
  const next = { system: "light", light: "dark", dark: null }[root.dataset.theme ?? "system"];
  if (next) root.dataset.theme = next; else delete root.dataset.theme;
  choices.set("theme", next);
  announce(labelTheme());
});
labelTheme();

// ---- Times: in the zone of the settings or the browser, or in UTC, and ages that count on

const browserZone = Intl.DateTimeFormat().resolvedOptions().timeZone;
const zones = [...new Set([root.dataset.ownZone || browserZone, browserZone, "UTC"])];
let zone = zones.includes(choices.get("zone")) ? choices.get("zone") : zones[0];
// The server reads the times of a search in the zone in which the page shows them.
function keepZone() {
  if (zone === root.dataset.shownZone) return;
  const kept = `millhand_zone=${zone}`;
  document.cookie = `${kept}; path=/; max-age=31536000; samesite=lax`;
  if (document.cookie.includes(kept) && new URLSearchParams(location.search).get("q")) location.reload();
}
keepZone();

const skew = Date.parse(root.dataset.now) - Date.now(); // the server's clock decides
const units = [["y", 31536000], ["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
function age(seconds) {
  const unit = units.find(([, size]) => Math.abs(seconds) >= size);
  if (!unit) return "now";
  const text = `${Math.floor(Math.abs(seconds) / unit[1]).toLocaleString("en")} ${unit[0]}`;
  return seconds > 0 ? `${text} ago` : `in ${text}`;
}
const clock = (at, timeZone) => at.toLocaleString("sv-SE", { timeZone }); // 2026-11-27 14:32:10
const labels = { minute: [11, 16], hour: [5, 16], day: [5, 10] };
function setText(element, text) { if (element.textContent !== text) element.textContent = text; }
function showTimes(from = document) {
  const now = Date.now() + skew, today = clock(new Date(now), zone).slice(0, 10);
  for (const element of all("time[data-time]", from)) {
    const at = new Date(element.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const local = clock(at, zone), form = element.dataset.time;
    const title = zone === "UTC" ? `${local} UTC` : `${local} ${zone} (${clock(at, "UTC")} UTC)`;
    if (element.title !== title) element.title = title;
    if (form === "age") setText(element, age((now - at) / 1000));
    else if (labels[form]) setText(element, local.slice(...labels[form]));
    else setText(element, form === "clock" || local.startsWith(today) ? local.slice(11) : local);
  }
  for (const element of all(".zone", from)) setText(element, zone);
}
one("[data-zone]")?.addEventListener("click", () => {
  zone = zones[(zones.indexOf(zone) + 1) % zones.length];
  choices.set("zone", zone === zones[0] ? null : zone);
  keepZone();
  root.dataset.shownZone = zone;
  showTimes();
  announce(`Times in ${zone}`);
});
showTimes();
setInterval(() => { if (!document.hidden && getSelection().isCollapsed) showTimes(); }, 1000);

// ---- Rows: the current one, and the selected ones

const rows = () => all("[data-rows] tbody tr");
const box = (row) => one('input[type="checkbox"]', row);
let anchor = null; // where a range of selected rows begins
function showSelection() {
  const boxes = rows().map(box).filter(Boolean), num = boxes.filter((each) => each.checked).length;
  for (const each of boxes) each.closest("tr").setAttribute("aria-selected", String(each.checked));
  for (const each of all("[data-select-all]")) {
    each.checked = num > 0 && num === boxes.length;
    each.indeterminate = num > 0 && num < boxes.length;
  }
  for (const bar of all("[data-selection]")) {
    bar.toggleAttribute("data-some", num > 0);
    setText(one("[data-num]", bar), `${num.toLocaleString("en")} selected`);
  }
  return num;
}
function select(boxes, isChecked) {
  for (const each of boxes) each.checked = isChecked;
  announce(`${showSelection()} selected`);
}
document.addEventListener("change", (event) => {
  if (event.target.matches("[data-select-all]")) select(rows().map(box).filter(Boolean), event.target.checked);
  else if (event.target.matches('[data-rows] input[type="checkbox"]')) showSelection();
});
document.addEventListener("click", (event) => {
  const row = event.target.matches('[data-rows] input[type="checkbox"]') && event.target.closest("tbody tr");
  if (!row) return;
  const list = rows(), from = list.findIndex((each) => each.id === anchor), to = list.indexOf(row);
  if (event.shiftKey && from >= 0) {
    select(list.slice(Math.min(from, to), Math.max(from, to) + 1).map(box), event.target.checked);
  }
  anchor = row.id;
});
function move(by) {
  const list = rows(), from = list.findIndex((row) => row.classList.contains("at"));
  const row = list[from < 0 ? 0 : Math.min(list.length - 1, Math.max(0, from + by))];
  if (!row) return;
  list[from]?.classList.remove("at");
  row.classList.add("at");
  row.scrollIntoView({ block: "nearest" });
  one("a", row)?.focus({ preventScroll: true });
}
const current = () => one("[data-rows] tbody tr.at");
showSelection();

// ---- Dialogs: confirmation before a change, and the list of keys

const confirmDialog = one("#confirm");
document.addEventListener("submit", (event) => {
  const { target: form, submitter } = event;
  const text = submitter?.dataset.confirm ?? form.dataset.confirm;
  if (!text || form.dataset.isConfirmed) { delete form.dataset.isConfirmed; return; }
  event.preventDefault();
  const num = rows().filter((row) => box(row)?.checked).length;
  one("h2", confirmDialog).textContent = text.replace("{n}", num === 1 ? "1 job" : `${num.toLocaleString("en")} jobs`);
  one("p", confirmDialog).textContent = submitter?.dataset.about ?? form.dataset.about ?? "";
  const yes = one("[data-yes]", confirmDialog);
  yes.textContent = submitter?.dataset.yes ?? submitter?.textContent.replace(/ .$/, "").trim() ?? "Continue";
  yes.classList.toggle("bad", Boolean(submitter?.classList.contains("bad")));
  yes.onclick = () => { confirmDialog.close(); form.dataset.isConfirmed = "yes"; form.requestSubmit(submitter); };
  confirmDialog.showModal();
  yes.focus();
});
document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-open]");
  if (opener) { event.preventDefault(); document.getElementById(opener.dataset.open)?.showModal(); }
  if (event.target.closest("[data-close]")) event.target.closest("dialog").close();
});

// A menu closes like one: by a click elsewhere, or by Escape.
const closeMenus = (except) => { for (const menu of all(".menu[open]")) if (!menu.contains(except)) menu.open = false; };
document.addEventListener("pointerdown", (event) => closeMenus(event.target));
document.addEventListener("keydown", (event) => { if (event.key === "Escape") closeMenus(null); });

// ---- Copy

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const source = one(button.dataset.copy), label = button.lastChild, before = label.textContent;
  try {
    await navigator.clipboard.writeText(source.textContent);
    label.textContent = "Copied";
    announce("Copied");
  } catch { // without HTTPS a page has no clipboard
    getSelection().selectAllChildren(source);
    label.textContent = "Press Ctrl+C";
  }
  setTimeout(() => { label.textContent = before; }, 1500);
});

// ---- Keys

const search = one("#q");
const places = all("[data-go]");
const keys = [
  ["/", "Search jobs"],
  ...places.map((link) => [`g ${link.dataset.go}`, `Go to ${one("span", link).textContent}`]),
  ["j k", "Next and previous row"], ["x", "Select the row"], ["Enter", "Open the row"],
  ["r", "Retry the selected jobs, or this job"], ["c", "Cancel the selected jobs, or this job"],
  ["l", "Live updates on or off"], ["t", "Theme"], ["Esc", "Clear the selection"], ["?", "This list"],
];
const keysDialog = one("#keys");
function showKeys() {
  const list = one("dl", keysDialog);
  if (!list.childElementCount) {
    for (const [key, about] of keys) {
      const dt = document.createElement("dt"), dd = document.createElement("dd");
      dt.append(...key.split(" ").map((each) => Object.assign(document.createElement("kbd"), { textContent: each })));
      dd.textContent = about;
      list.append(dt, dd);
    }
  }
  keysDialog.showModal();
}
one("[data-help]")?.addEventListener("click", showKeys);
function change(key) {
  const row = current();
  if (row && box(row) && !rows().some((each) => box(each)?.checked)) select([box(row)], true);
  all(`[data-key="${key}"]`).find((button) => button.offsetParent && !button.disabled)?.click();
}
let goes = 0;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || one("dialog[open]")) return;
  if (event.target.matches('input:not([type="checkbox"]), textarea, select, [contenteditable]')) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const isGoing = Date.now() - goes < 1000;
  goes = 0;
  const target = isGoing && places.find((link) => link.dataset.go === event.key);
  const act = target ? () => target.click() : {
    "/": () => { search?.focus(); search?.select(); },
    "?": showKeys,
    Escape: () => select(rows().map(box).filter(Boolean), false),
    c: () => change("c"), r: () => change("r"),
    g: () => { goes = Date.now(); },
    j: () => move(1), k: () => move(-1),
    l: () => liveButton?.click(), t: () => themeButton?.click(),
    x: () => { const each = current() && box(current()); if (each) select([each], !each.checked); },
    Enter: () => one("a", current()).click(),
  }[event.key];
  if (!act || (event.key === "Enter" && (!current() || event.target.matches("a, button, summary")))) return;
  event.preventDefault();
  act();
});

// ---- Suggestions of the search line: a combobox with a list box

const suggestUrl = search?.form.dataset.suggest;
if (suggestUrl) {
  const list = document.createElement("ul");
  Object.assign(list, { id: "q-options", className: "options", hidden: true, role: "listbox" });
  list.setAttribute("aria-label", "Suggestions");
  search.after(list);
  for (const [name, value] of Object.entries({ role: "combobox", "aria-autocomplete": "list", "aria-controls": list.id, "aria-expanded": "false" })) search.setAttribute(name, value);
  let found = [], at = -1, asked = null, timer;
  const close = () => { list.hidden = true; at = -1; search.setAttribute("aria-expanded", "false"); search.removeAttribute("aria-activedescendant"); };
  const mark = (index) => {
    at = index;
    [...list.children].forEach((option, number) => option.setAttribute("aria-selected", String(number === at)));
    const option = list.children[at];
    if (option) { search.setAttribute("aria-activedescendant", option.id); option.scrollIntoView({ block: "nearest" }); }
    else search.removeAttribute("aria-activedescendant");
  };
  const take = ({ text, start, end }) => { // positions count characters, not UTF-16 units
    const line = [...search.value], rest = line.slice(end).join("");
    const isOpen = /[:.]$/.test(text);
    search.value = line.slice(0, start).join("") + text + (isOpen || rest.startsWith(" ") ? rest : ` ${rest}`);
    const cursor = line.slice(0, start).join("").length + text.length + (isOpen ? 0 : 1);
    search.setSelectionRange(cursor, cursor);
    close();
    if (isOpen) ask();
  };
  const show = (active) => {
    list.replaceChildren(...found.map(({ text, about }, number) => {
      const option = document.createElement("li"), note = document.createElement("span");
      Object.assign(option, { id: `q-option-${number}`, role: "option", textContent: text });
      note.textContent = about ?? "";
      option.append(note);
      option.onpointerdown = (event) => { event.preventDefault(); take(found[number]); };
      return option;
    }));
    mark(found.findIndex(({ text }) => text === active)); // an answer that comes late moves no choice
    list.hidden = !found.length;
    search.setAttribute("aria-expanded", String(found.length > 0));
    if (found.length) announce(found.length === 1 ? "1 suggestion" : `${found.length} suggestions`);
  };
  const ask = async () => {
    asked?.abort();
    asked = new AbortController();
    const cursor = [...search.value.slice(0, search.selectionStart)].length;
    const url = `${suggestUrl}?${new URLSearchParams({ q: search.value, cursor })}`;
    try {
      const response = await fetch(url, { signal: asked.signal, headers: { Accept: "application/json" } });
      if (!response.ok) return;
      const active = list.hidden ? undefined : found[at]?.text;
      found = (await response.json()).suggestions;
      if (document.activeElement === search) show(active);
    } catch { /* aborted, or offline: the line works without suggestions */ }
  };
  search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(ask, 120); });
  search.addEventListener("blur", close);
  search.addEventListener("keydown", (event) => {
    const isOpen = !list.hidden, last = found.length - 1;
    if (event.key === "ArrowDown" && !isOpen) ask();
    else if (!isOpen) return;
    else if (event.key === "ArrowDown") mark(at >= last ? 0 : at + 1);
    else if (event.key === "ArrowUp") mark(at <= 0 ? last : at - 1);
    else if ((event.key === "Enter" || event.key === "Tab") && at >= 0) take(found[at]);
    else if (event.key === "Escape") close();
    else return;
    event.preventDefault();
  });
}

// ---- Charts: the row of the table below a chart that belongs to the pointer

const tip = one(".tip");
document.addEventListener("pointermove", (event) => {
  const plot = event.target.closest?.("svg[data-chart]"), table = plot && one("table", plot.closest("figure"));
  tip.hidden = !table;
  if (!table) return;
  const frame = plot.getBoundingClientRect(), points = table.tBodies[0].rows;
  const number = Math.min(points.length - 1, Math.max(0, Math.floor((event.clientX - frame.left) / frame.width * points.length)));
  if (!points[number]) return;
  one(".cross", plot)?.setAttribute("transform", `translate(${((number + 0.5) / points.length * 1000).toFixed(1)} 0)`);
  const names = [...table.tHead.rows[0].cells].slice(1), cells = [...points[number].cells];
  tip.textContent = [cells[0].textContent, ...names.map((name, index) => `${cells[index + 1].textContent}  ${name.textContent}`)].join("\n");
  tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${event.clientY + 12}px`;
});

// ---- Live: the server sends the names of regions that changed, and idiomorph merges them into the page

const liveButton = one("[data-live-button]");
const regions = () => all("[data-live]");
const hasText = (element) => !getSelection().isCollapsed && getSelection().containsNode(element, true);
const isInUse = (row) => box(row)?.checked || row.classList.contains("at") || row.contains(document.activeElement);

// Before an old element and the new one are merged. False keeps the old one as it is.
function beforeNodeMorphed(element, newNode) {
  if (!(element instanceof Element)) return true;
  if (element.matches("dialog, input, select, textarea, svg[data-chart]:hover")) return false;
  if (element === document.activeElement && !element.matches("main, pre, .scroll")) return false;
  if (element.matches("td, dd, p, pre, li, h1, h2") && hasText(element)) return false;
  if (element.matches("details")) newNode.toggleAttribute("open", element.open);
  if (element.matches("tr")) {
    newNode.classList.toggle("at", element.classList.contains("at"));
    if (element.ariaSelected) newNode.setAttribute("aria-selected", element.ariaSelected);
  }
  if (element.matches("[data-selection]")) newNode.toggleAttribute("data-some", element.hasAttribute("data-some"));
  return true;
}
// A row in use stays in its place, although it is no longer in the list; even if the list is empty now.
function keepRows(fragment) {
  const kept = rows().filter(isInUse), list = kept[0]?.closest("table"), empty = one(".empty", fragment);
  if (!kept.length || !one(`#${list.closest("[data-live]").id}`, fragment)) return;
  if (!one("[data-rows]", fragment) && empty) {
    const copy = list.cloneNode(true);
    copy.tBodies[0].replaceChildren();
    empty.replaceWith(...[one("#selection-bar")?.cloneNode(true), copy].filter(Boolean));
  }
  const body = one("[data-rows] tbody", fragment);
  for (const row of body ? kept : []) {
    if (one(`#${CSS.escape(row.id)}`, body)) continue;
    const gone = row.cloneNode(true);
    gone.classList.add("gone");
    body.insertBefore(gone, body.rows[row.rowIndex - 1] ?? null);
  }
}
async function merge(ids) {
  const response = await fetch(location.href, { headers: { Accept: "text/html", "Millhand-Look": look } });
  if (response.redirected) location.assign(response.url); // to the login: the session is over
  if (response.status >= 500) throw new Error(response.statusText);
  if (!response.ok || response.redirected) return;
  setLost(false);
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  showTimes(page);
  keepRows(page);
  const used = document.activeElement, marked = getSelection();
  const { anchorNode, anchorOffset, focusNode, focusOffset, isCollapsed } = marked;
  for (const id of ids) {
    const before = document.getElementById(id), after = page.getElementById(id);
    if (before && after) Idiomorph.morph(before, after, { callbacks: { beforeNodeMorphed } });
  }
  if (!used.isConnected) one("#content").focus({ preventScroll: true }); // its button is gone
  if (!isCollapsed && marked.isCollapsed && anchorNode.isConnected && focusNode.isConnected) {
    marked.setBaseAndExtent(anchorNode, anchorOffset, focusNode, focusOffset); // a part that moved lost it
  }
  showTimes();
  showSelection();
}

let look = ""; // which look of the server found the changes
let shownAt = root.dataset.now; // what changed later is news to this page
let pending = new Set(), isBusy = false, source = null, failures = 0, polling, retrying, again, before = null;
let liveState, lostAt = ""; // since when nothing answers, so that the page shows what was before
const isOn = () => choices.get("live") !== "off";
async function refresh(names) {
  for (const name of names) pending.add(name);
  if (isBusy || !isOn() || document.hidden || one("dialog[open]")) return;
  const ids = regions().filter((region) => region.dataset.live.split(" ").some((name) => pending.has(name))).map((region) => region.id);
  pending = new Set();
  if (!ids.length || !window.Idiomorph) return;
  isBusy = true;
  shownAt = new Date(Date.now() + skew).toISOString();
  try {
    await merge(ids);
  } catch { // offline, or no database: what changed is asked for again
    setLost(true);
    clearTimeout(again);
    again = setTimeout(() => refresh(everything()), 15000);
  } finally {
    setTimeout(() => { isBusy = false; if (pending.size) refresh([]); }, 1000); // at most one request a second
  }
}
const everything = () => regions().flatMap((region) => region.dataset.live.split(" "));
function showLive(state) {
  liveState = state;
  if (!liveButton) return;
  const isLost = isOn() && lostAt !== "";
  const title = isLost ? `Not live: no answer since ${lostAt}` : { off: "Live updates are off", polling: "Live updates, every 5 s", live: "Live updates" }[state];
  liveButton.setAttribute("aria-pressed", String(isOn()));
  liveButton.setAttribute("aria-label", isLost ? title : "Live updates");
  liveButton.setAttribute("title", title);
  liveButton.classList.toggle("polling", state === "polling");
  liveButton.classList.toggle("lost", isLost);
  setText(one("span", liveButton), isLost ? "Not live" : "Live");
}
function setLost(isLost) {
  if (isLost === (lostAt !== "")) return;
  lostAt = isLost ? clock(new Date(Date.now() + skew), zone).slice(11) : "";
  showLive(liveState);
  announce(isLost ? liveButton.title : "Live again");
}
async function poll() {
  try {
    const response = await fetch(`${prefix}/api/v1/live-state`, { headers: { Accept: "application/json" } });
    if ([401, 403].includes(response.status)) location.reload(); // to the login: the session is over
    setLost(!response.ok);
    if (!response.ok) return;
    const after = (await response.json()).regions;
    const changed = before ? Object.keys(after).filter((name) => after[name] !== before[name]) : everything();
    refresh(changed.includes("jobs") ? [...changed, "queues"] : changed); // what waits in the queues changes with the jobs
    before = after;
  } catch { setLost(true); } // offline: the next poll tries again
}
function stop() {
  source?.close();
  source = null;
  clearInterval(polling);
  clearTimeout(retrying);
  polling = undefined;
}
function start() {
  stop();
  if (!isOn() || document.hidden || !regions().length) { showLive(isOn() ? "live" : "off"); return; }
  if (failures >= 3) {
    before = null;
    poll();
    polling = setInterval(poll, 5000);
    retrying = setTimeout(() => { failures = 2; start(); }, 60000); // what ended the events may be over
    showLive("polling");
    return;
  }
  source = new EventSource(`${prefix}/live?since=${encodeURIComponent(shownAt)}`);
  source.addEventListener("open", () => { failures = 0; setLost(false); });
  source.addEventListener("unavailable", () => setLost(true));
  source.addEventListener("changed", ({ data, lastEventId }) => { look = lastEventId; setLost(false); refresh(data.split(/[\s,]+/).filter(Boolean)); });
  source.addEventListener("error", () => {
    failures += 1;
    stop();
    setTimeout(() => { if (!source && !polling) start(); }, failures >= 3 ? 0 : 1000 * failures);
  });
  showLive("live");
}
liveButton?.addEventListener("click", () => {
  choices.set("live", isOn() ? "off" : null);
  failures = 0;
  start();
  if (isOn()) refresh(everything());
  announce(isOn() ? "Live updates on" : "Live updates off");
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) { stop(); return; }
  start();
  if (isOn()) refresh(everything());
});
for (const dialog of all("dialog")) dialog.addEventListener("close", () => refresh([]));
addEventListener("pagehide", stop);
addEventListener("pageshow", (event) => { if (event.persisted) start(); });
start();
