"use strict";
// One page for one cleansing: shows a sample at a time, keeps what is decided in the browser, saves it as a table.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const STORE = `sgdphases-review-${data.key}`;
const MOST_CLASSES = 200; // shown in the picker at once
const DONE = { keep: "kept", suggestion: "suggestion taken", other: "another class", drop: "dropped", skip: "skipped" };

// decisions: number of a sample -> [what, class or null]; history: [number, what was there before], the newest last
let state = { decisions: {}, history: [], sample: null };
let shown = data.items; // those that the filter leaves
let place = 0; // in `shown`; its length where all are done

const name = (k) => data.classes[k];
const clip = (text, most) => ([...text].length > most ? [...text].slice(0, most).join("") + "…" : text);
const isolated = (text) => `\u2068${clip(text, 40)}\u2069`; // names of either direction beside an arrow

function load() {
  try {
    const kept = JSON.parse(localStorage.getItem(STORE));
    if (kept && kept.decisions && kept.history) state = kept;
    localStorage.setItem(STORE, JSON.stringify(state));
  } catch (error) {
    at("trouble").textContent =
      "This browser keeps nothing for this page: save decisions.csv before you close or reload it.";
    at("trouble").hidden = false;
  }
}

function store() {
  state.sample = place < shown.length ? shown[place].i : null;
  try {
    localStorage.setItem(STORE, JSON.stringify(state));
  } catch (error) {
    at("trouble").hidden = false;
  }
}

function fillFilter() {
  const pairs = new Map();
  for (const item of data.items) {
    const pair = `${item.g},${item.s}`;
    pairs.set(pair, (pairs.get(pair) || 0) + 1);
  }
  at("filter").append(new Option(`all (${data.items.length})`, ""));
  for (const [pair, count] of [...pairs].sort((one, other) => other[1] - one[1])) {
    const [given, suggested] = pair.split(",");
    at("filter").append(new Option(`${isolated(name(given))} → ${isolated(name(suggested))} (${count})`, pair));
  }
}

function applyFilter() {
  const pair = at("filter").value;
  shown = pair ? data.items.filter((item) => `${item.g},${item.s}` === pair) : data.items;
  place = firstOpen(0);
  show();
}

function firstOpen(start) {
  // The next sample without a decision, from `start` on and then from the beginning; the length where there is none.
  for (let step = 0; step < shown.length; step++) {
    const next = (start + step) % shown.length;
    if (!(shown[next].i in state.decisions)) return next;
  }
  return shown.length;
}

function show() {
  const item = shown[place];
  at("card").hidden = !item;
  at("done").hidden = Boolean(item);
  if (item) showItem(item);
  else showDone();
  showCounts();
  store();
}

function showItem(item) {
  const decision = state.decisions[item.i];
  at("where").textContent = item.p === undefined ? `sample ${item.i}` : `${data.place} ${item.p}`;
  at("given").textContent = name(item.g);
  at("suggested").textContent = item.s === item.g ? "the same" : name(item.s);
  at("probability").textContent = percent(item.w) + (item.f ? "" : " (not flagged)");
  at("decided").textContent = decision ? decided(item, decision) : "–";
  at("position").textContent = `${place + 1} of ${shown.length}`;
  at("image").hidden = !item.x;
  at("row").hidden = !item.r;
  if (item.x) {
    at("image").src = item.x;
    at("image").alt = `Sample ${item.i}, given the label ${clip(name(item.g), 100)}`;
  }
  if (item.r) at("row").replaceChildren(rowTable(item.r));
  for (const button of document.querySelectorAll("[data-decision]")) {
    button.setAttribute("aria-pressed", String(Boolean(decision) && decision[0] === button.dataset.decision));
    button.disabled = button.dataset.decision === "suggestion" && item.s === item.g;
  }
  at("before").disabled = place === 0;
  at("after").disabled = place + 1 >= shown.length;
  at("said").textContent = `${at("where").textContent}, given ${clip(name(item.g), 60)}`;
}

function percent(share) {
  if (share > 0.999) return "> 99.9 %";
  return share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
}

function rowTable(values) {
  const table = document.createElement("table");
  values.forEach((value, k) => {
    const row = table.insertRow();
    const head = document.createElement("th");
    head.scope = "row";
    for (const [cell, text] of [[head, data.columns[k]], [row.insertCell(), value]]) {
      const inner = document.createElement("bdi");
      inner.textContent = text;
      cell.append(inner);
    }
    row.prepend(head);
  });
  if (data.hidden) table.createCaption().textContent = `and ${data.hidden} more columns`;
  return table;
}

function decided(item, [what, chosen]) {
  return what === "other" ? name(chosen) : DONE[what];
}

function showDone() {
  const skipped = shown.filter((item) => (state.decisions[item.i] || [])[0] === "skip").length;
  const whole = shown === data.items;
  at("done-title").textContent = shown.length ? "All of these have been looked at." : "There is nothing to review.";
  at("done-text").textContent = !shown.length ? "" : whole
    ? "Save decisions.csv, then run: sgdphases apply decisions.csv --out NEW"
    : "Choose another pair of classes, or all, to go on.";
  at("again").hidden = !skipped;
}

function showCounts() {
  const counts = {};
  for (const item of data.items) {
    const [what] = state.decisions[item.i] || [];
    if (what) counts[what] = (counts[what] || 0) + 1;
  }
  const done = Object.values(counts).reduce((sum, count) => sum + count, 0);
  const parts = Object.entries(DONE).filter(([what]) => counts[what]).map(([what, text]) => `${counts[what]} ${text}`);
  at("progress").max = Math.max(data.items.length, 1);
  at("progress").value = done;
  at("counts").textContent = `${done} of ${data.items.length}` + (parts.length ? `: ${parts.join(", ")}` : "");
  at("download").disabled = !done;
  at("undo").disabled = !state.history.length;
}

function decide(what, chosen = null) {
  const item = shown[place];
  if (!item || (what === "suggestion" && item.s === item.g)) return;
  state.history.push([item.i, state.decisions[item.i] || null]);
  state.decisions[item.i] = [what, chosen];
  place = firstOpen(place + 1);
  show();
}

function undo() {
  const last = state.history.pop();
  if (!last) return;
  const [sample, before] = last;
  if (before) state.decisions[sample] = before;
  else delete state.decisions[sample];
  if (!shown.some((item) => item.i === sample)) {
    at("filter").value = "";
    shown = data.items;
  }
  place = Math.max(shown.findIndex((item) => item.i === sample), 0);
  show();
}

function move(step) {
  const next = Math.min(place, shown.length) + step;
  if (next < 0 || next >= shown.length) return;
  place = next;
  show();
}

function again() {
  for (const item of shown) if ((state.decisions[item.i] || [])[0] === "skip") delete state.decisions[item.i];
  state.history = state.history.filter(([sample]) => sample in state.decisions);
  place = firstOpen(0);
  show();
}

// The picker of another class

let matches = [];
let picked = 0;

function openPicker() {
  if (!shown[place]) return;
  at("search").value = "";
  fillPicker();
  at("picker").showModal();
  at("search").focus();
}

function fillPicker() {
  const wanted = at("search").value.toLowerCase();
  matches = data.classes.map((_, k) => k).filter((k) => name(k).toLowerCase().includes(wanted));
  picked = 0;
  at("classes").replaceChildren(...matches.slice(0, MOST_CLASSES).map((k, order) => {
    const option = document.createElement("li");
    option.id = `class-${order}`;
    option.setAttribute("role", "option");
    option.dir = "auto";
    option.textContent = clip(name(k), 200);
    option.addEventListener("click", () => pick(order));
    return option;
  }));
  at("more").textContent = matches.length > MOST_CLASSES ? `and ${matches.length - MOST_CLASSES} more: type to find them`
    : matches.length ? "" : "no class is called so";
  markPicked();
}

function markPicked() {
  [...at("classes").children].forEach((option, order) => {
    option.setAttribute("aria-selected", String(order === picked));
    if (order === picked) option.scrollIntoView({ block: "nearest" });
  });
  at("search").setAttribute("aria-activedescendant", matches.length ? `class-${picked}` : "");
}

function pick(order) {
  const chosen = matches[order];
  if (chosen === undefined) return;
  at("picker").close();
  const item = shown[place];
  if (chosen === item.g) decide("keep");
  else if (chosen === item.s) decide("suggestion");
  else decide("other", chosen);
}

function pickerKey(event) {
  const most = Math.min(matches.length, MOST_CLASSES) - 1;
  if (event.key === "ArrowDown") picked = Math.min(picked + 1, most);
  else if (event.key === "ArrowUp") picked = Math.max(picked - 1, 0);
  else if (event.key === "Enter") pick(picked);
  else return;
  event.preventDefault();
  markPicked();
}

// The table of decisions

function table() {
  const quoted = (cell) => `"${String(cell).replaceAll('"', '""')}"`;
  const heading = ["index", ...(data.place ? [data.place] : []), "given", "suggested", "decision", "label", "cleansing"];
  const rows = data.items.filter((item) => item.i in state.decisions).map((item) => {
    const [what, chosen] = state.decisions[item.i];
    const label = { keep: item.g, suggestion: item.s, other: chosen }[what];
    return [item.i, ...(data.place ? [item.c] : []), data.cells[item.g], data.cells[item.s], what,
      label === undefined ? "" : data.cells[label], data.key];
  });
  return [heading, ...rows].map((row) => row.map(quoted).join(",") + "\r\n").join("");
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
  link.download = "decisions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const KEYS = {
  k: () => decide("keep"), s: () => decide("suggestion"), o: openPicker, d: () => decide("drop"),
  n: () => decide("skip"), u: undo, ArrowLeft: () => move(-1), ArrowRight: () => move(1),
};

function press(event) {
  const busy = at("picker").open || event.ctrlKey || event.metaKey || event.altKey || event.repeat;
  if (busy || event.target.tagName === "SELECT") return; // the picker's input keeps the focus a little after it closed
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

at("image").addEventListener("load", () => at("image").classList.toggle("pixels", at("image").naturalWidth < 100));
for (const button of document.querySelectorAll("[data-decision]")) {
  const what = button.dataset.decision;
  button.addEventListener("click", () => (what === "other" ? openPicker() : decide(what)));
}
at("undo").addEventListener("click", undo);
at("before").addEventListener("click", () => move(-1));
at("after").addEventListener("click", () => move(1));
at("again").addEventListener("click", again);
at("filter").addEventListener("change", applyFilter);
at("download").addEventListener("click", download);
at("search").addEventListener("input", fillPicker);
at("search").addEventListener("keydown", pickerKey);
at("close").addEventListener("click", () => at("picker").close());
document.addEventListener("keydown", press);

if (matchMedia("(max-width: 46rem)").matches) at("about").open = false;
load();
fillFilter();
const before = data.items.findIndex((item) => item.i === state.sample);
place = before >= 0 ? before : firstOpen(0);
show();
