// The page "runs": every run of the folder, filtered, sorted and chosen. The list is asked again while one looks; a row is
// made anew only where its run has changed, so that a thousand of them cost nothing.
import { address, element, getJSON, problemNodes } from "./api.js";
import { STATES, badge, stamp, stateWord } from "./badges.js";
import { _, _n, duration, moment, money, number } from "./words.js";

const BUSY_SECONDS = 3;
const IDLE_SECONDS = 15;
const at = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);

const order = Object.keys(STATES);
// Columns that can be sorted: their head, what a run has there, and whether the largest comes first at the first press.
const COLUMNS = {
  name: [_("Run"), (run) => run.name],
  state: [_("State"), (run) => order.indexOf(run.state)],
  verdict: [_("Verdict"), (run) => run.verdict?.sentence],
  method: [_("Method"), (run) => run.method],
  started: [_("Started"), (run) => run.started ?? run.modified, true],
  seconds: [_("Time"), (run) => run.seconds, true],
  cost: [_("Cost"), (run) => run.cost?.money, true],
};

const rows = new Map(); // by name: the run, its text as it was, its row
const chosen = new Set(query.getAll("chosen"));
let sorted = query.get("sort") in COLUMNS ? query.get("sort") : "started";
let descending = query.has("sort") ? query.get("order") === "descending" : true;
let body = null;

at("text").value = query.get("q") ?? "";
if (query.get("state")) at("state").append(element("option", { value: query.get("state") }, stateWord(query.get("state"))));
at("state").value = query.get("state") ?? "";

// What is chosen stands in the address: a page that is loaded again, or kept as a bookmark, shows the same.
function remember() {
  const now = new URLSearchParams();
  if (at("text").value) now.set("q", at("text").value);
  if (at("state").value) now.set("state", at("state").value);
  if (sorted !== "started" || !descending) {
    now.set("sort", sorted);
    now.set("order", descending ? "descending" : "ascending");
  }
  for (const name of chosen) now.append("chosen", name);
  history.replaceState(null, "", now.size ? `?${now}` : location.pathname);
}

function heads() {
  return Object.entries(COLUMNS).map(([key, [title, , falling]]) => {
    const press = () => {
      descending = sorted === key ? !descending : Boolean(falling);
      sorted = key;
      remember();
      show();
    };
    const button = element("button", { class: "sort", type: "button", onclick: press }, title);
    const numeric = key === "seconds" || key === "cost" ? "num" : null;
    return element("th", { scope: "col", role: "columnheader", "data-key": key, class: numeric }, button);
  });
}

function table() {
  body = element("tbody", { role: "rowgroup" });
  const pick = element("th", { scope: "col", role: "columnheader" }, element("span", { class: "hidden" }, _("Chosen")));
  const head = element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, pick, heads()));
  const caption = element("caption", { class: "hidden" }, _("The runs of this folder; a press on a column's head sorts by it"));
  return element("div", { class: "scroll" }, element("table", { class: "runs", role: "table" }, caption, head, body));
}

function row(run) {
  const cell = (kind, label, ...content) =>
    element("td", { role: "cell", class: kind, "data-label": label }, content);
  const choose = element("input", {
    type: "checkbox",
    checked: chosen.has(run.name),
    "aria-label": _("Choose {name}", { name: run.name }),
    onchange: (event) => pick(run.name, event.target.checked),
  });
  const said = run.problem ? element("small", { lang: "en" }, run.problem) : null;
  return element(
    "tr",
    { role: "row", "data-name": run.name },
    cell("pick", null, element("label", {}, choose)),
    element(
      "th",
      { scope: "row", role: "rowheader", class: "run" },
      element("a", { href: address("run", run.name) }, run.name),
      run.base ? element("small", {}, run.base) : null,
    ),
    cell("state", null, badge(run.state), progress(run), said),
    cell("verdict", null, ...verdict(run)),
    cell(null, run.method ? _("Method") : null, run.method),
    cell(null, run.started ? _("Started") : null, run.started ? moment(run.started) : null),
    cell("num", run.seconds == null ? null : _("Time"), run.seconds == null ? null : duration(run.seconds)),
    cell("num", run.cost ? _("Cost") : null, run.cost?.money == null ? null : money(run.cost.money, run.cost.currency)),
  );
}

function progress(run) {
  if (run.state !== "running") return null;
  if (run.step == null) return run.stage ? element("small", {}, _("in the stage {stage}", { stage: run.stage })) : null;
  if (!run.planned_steps) return element("small", {}, _("step {n}", { n: number(run.step) }));
  const told = _("step {n} of {total}", { n: number(run.step), total: number(run.planned_steps) });
  return [element("progress", { max: run.planned_steps, value: run.step, "aria-label": told }), element("small", {}, told)];
}

function verdict(run) {
  const warned = run.warnings ? element("small", { class: "warn" }, _n("{n} warning", "{n} warnings", run.warnings)) : null;
  if (!run.verdict) return [run.checked === false ? element("small", {}, _("not read yet")) : warned];
  return [stamp(run.verdict), element("small", {}, run.verdict.sentence), warned];
}

function take(runs) {
  const there = new Set(runs.map((run) => run.name));
  for (const name of [...rows.keys()]) if (!there.has(name)) rows.delete(name);
  for (const name of [...chosen]) if (!there.has(name)) chosen.delete(name);
  for (const run of runs) {
    const text = JSON.stringify(run);
    if (rows.get(run.name)?.text !== text) rows.set(run.name, { run, text, row: row(run) });
  }
}

// The states that occur, each with how many runs are in it.
function stateChoices() {
  const counts = new Map();
  for (const { run } of rows.values()) counts.set(run.state, (counts.get(run.state) ?? 0) + 1);
  const now = at("state").value;
  if (now && !counts.has(now)) counts.set(now, 0);
  const known = [...order.filter((state) => counts.has(state)), ...[...counts.keys()].filter((state) => !order.includes(state))];
  const options = [["", _("all")], ...known.map((state) => [state, `${stateWord(state)} (${number(counts.get(state))})`])];
  if (JSON.stringify(options) === stateChoices.shown) return; // a list that is open would close
  stateChoices.shown = JSON.stringify(options);
  at("state").replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
  at("state").value = now;
}

function compared(a, b) {
  const value = COLUMNS[sorted][1];
  const [one, other] = [value(a.run), value(b.run)];
  const missing = (each) => each === null || each === undefined || each === "";
  const names = a.run.name.localeCompare(b.run.name, undefined, { numeric: true });
  if (missing(one) || missing(other)) return missing(one) - missing(other) || names; // what is not known comes last
  const found = typeof one === "number" ? one - other : one.localeCompare(other, undefined, { numeric: true });
  return (descending ? -found : found) || names;
}

function show() {
  const text = at("text").value.trim().toLowerCase();
  const state = at("state").value;
  const fits = ({ run }) =>
    (!state || run.state === state) &&
    [run.name, run.base, run.method].some((each) => (each ?? "").toLowerCase().includes(text));
  const shown = [...rows.values()].filter(fits).sort(compared);
  for (const head of document.querySelectorAll("th[data-key]")) {
    if (head.dataset.key === sorted) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  const wanted = shown.map((each) => each.row);
  const moved = wanted.length !== body.children.length || wanted.some((each, n) => body.children[n] !== each);
  if (moved) keepingFocus(() => body.replaceChildren(...wanted));
  const all = rows.size;
  const told = shown.length === all ? _n("{n} run", "{n} runs", all) : _("{n} of {total} runs", { n: number(shown.length), total: number(all) });
  if (at("shown").textContent !== told) at("shown").textContent = told;
  showChosen();
}

// A row that is made anew, or moves, keeps the keyboard where it was.
function keepingFocus(change) {
  const held = body.contains(document.activeElement) ? document.activeElement : null;
  const name = held?.closest("tr").dataset.name;
  change();
  if (held) rows.get(name)?.row.querySelector(held.tagName)?.focus();
}

function pick(name, on) {
  if (on) chosen.add(name);
  else chosen.delete(name);
  remember();
  showChosen();
}

function showChosen() {
  at("chosen").hidden = chosen.size === 0;
  const enough = chosen.size > 1;
  const told = _n("{n} run chosen", "{n} runs chosen", chosen.size);
  at("count").textContent = enough ? told : [told, _("choose another one to compare")].join("; ");
  if (enough) at("compare").href = `/compare?${new URLSearchParams([...chosen].map((name) => ["runs", name]))}`;
  else at("compare").removeAttribute("href");
  at("compare").hidden = !enough;
}

function nothing(folder) {
  return element(
    "p",
    { class: "empty" },
    element("strong", {}, _("There is no run in this folder yet.")),
    _("Start one, or name another folder: {command}", { command: "afina studio --runs FOLDER" }),
    element("br"),
    element("code", {}, folder),
  );
}

async function refresh() {
  let busy = false;
  try {
    const { runs, folder } = await getJSON("/api/runs");
    // A list of very many runs is read in several goes: what was only glanced at is asked again at once.
    busy = runs.some((run) => run.state === "running" || run.checked === false);
    at("folder").replaceChildren(element("code", {}, folder));
    take(runs);
    stateChoices();
    if (!runs.length) {
      body = null;
      at("list").replaceChildren(nothing(folder));
      at("shown").textContent = "";
    } else {
      if (!body) at("list").replaceChildren(table());
      show();
    }
    at("failure").replaceChildren();
  } catch (error) {
    at("failure").replaceChildren(...problemNodes(error));
  }
  setTimeout(whenSeen, 1000 * (busy ? BUSY_SECONDS : IDLE_SECONDS));
}

// A page that nobody looks at asks nothing.
function whenSeen() {
  if (document.hidden) document.addEventListener("visibilitychange", refresh, { once: true });
  else refresh();
}

at("filter").addEventListener("submit", (event) => event.preventDefault());
at("filter").addEventListener("input", () => {
  remember();
  if (body) show();
});
at("none").addEventListener("click", () => {
  for (const box of document.querySelectorAll(".pick input:checked")) box.checked = false;
  chosen.clear();
  remember();
  showChosen();
  at("text").focus();
});
refresh();
document.body.dataset.ready = "yes";
