// The page "data": an audit, the rows of its findings, and rows token by token.
import { element, getJSON, postJSON, problemNodes, prose, StudioError } from "./api.js";
import { _, _n, bytes, duration, number, percent } from "./words.js";

const POLL = 500; // ms between two looks at an audit
const FOLDED = 600; // characters from which on a text of a row is folded
const BEGINNING = 200; // characters shown of it then
const TOKENS = 3000; // tokens shown of a row before one asks for the rest
const BATCH = 10; // rows whose tokens are asked for at a time
const SEVERITIES = { fatal: ["bad", _("fatal")], warning: ["warn", _("warning")], note: ["open", _("note")] };

const at = (id) => document.getElementById(id);
const form = at("look");
let job = null; // the audit that the server keeps for this page, or is about to
let findings = [];
let asked = 0; // counts audits: an answer to an earlier one is not shown

const tell = (text) => {
  at("told").textContent = text;
};

function fail(error) {
  at("failure").replaceChildren(...problemNodes(error));
}

const settled = () => at("failure").replaceChildren();

// ---- what is looked at

const given = () => form.elements.given.value;

function wanted() {
  const tokenizer = at("tokenizer").value;
  const whose = tokenizer === "other" ? { base: at("base").value.trim() } : tokenizer ? { run: tokenizer } : {};
  const what = given() === "text" ? { text: at("pasted").value, name: at("kind").value } : { path: at("path").value.trim() };
  return { ...what, ...whose };
}

const hasTokenizer = () => at("tokenizer").value !== "" && (at("tokenizer").value !== "other" || at("base").value.trim() !== "");

function showGiven() {
  at("by-path").hidden = given() !== "path";
  at("by-text").hidden = given() !== "text";
  const other = at("tokenizer").value === "other";
  at("other").hidden = !other;
  at("base-hint").hidden = !other;
}

async function offerTokenizers() {
  const { runs } = await getJSON("/api/runs");
  const made = runs.filter((run) => run.base).map((run) => element("option", { value: run.name }, _("of run {name} ({base})", run)));
  at("tokenizer").lastElementChild.before(...made);
}

let browsed = 0; // counts folders that were asked for: one that comes behind a later one is not shown

async function browse(path) {
  const mine = ++browsed;
  const told = await getJSON(path ? `/api/files?${new URLSearchParams({ path })}` : "/api/files");
  if (mine !== browsed) return;
  const choose = (name) => {
    at("path").value = name;
    at("path").focus();
  };
  const up = told.path && element("button", { type: "button", onclick: () => go(told.parent) }, told.parent ? _("Up") : _("All folders"));
  const here = told.path && element("button", { type: "button", onclick: () => choose(told.path) }, _("Choose this folder"));
  const lines = told.entries.map((each) =>
    element(
      "li",
      {},
      each.folder
        ? element("button", { type: "button", class: "plain", onclick: () => go(each.path) }, `${each.name}/`)
        : element("button", { type: "button", class: "plain", onclick: () => choose(each.path) }, each.name),
      each.folder || each.bytes === null ? null : element("span", { class: "quiet" }, bytes(each.bytes)),
    ),
  );
  const nothing = lines.length ? null : element("p", { class: "empty" }, _("This folder is empty."));
  const left = told.left_out ? element("p", { class: "note" }, _n("{n} entry is not shown.", "{n} entries are not shown.", told.left_out)) : null;
  at("files").replaceChildren(
    ...[
      element("div", { class: "above" }, up, here, told.path ? element("code", {}, told.path) : null),
      element("ul", { class: "entries", tabindex: "0", "aria-label": told.path ?? _("Folders of the studio") }, lines),
      nothing,
      left,
    ].filter(Boolean),
  );
}

// The same after a click: the button that had the focus is gone, so the list takes it.
async function go(path) {
  await browse(path).catch(fail);
  at("files").querySelector("ul")?.focus();
}

// ---- the audit

function working(said) {
  at("work").hidden = said === null;
  at("work-said").textContent = said ?? "";
}

async function audit() {
  const mine = ++asked;
  settled();
  at("result").hidden = true;
  try {
    await forget();
    if (mine !== asked) return;
    job = newName(); // known before it is answered: what is pasted has to go where the page is closed before that
    let state = await postJSON("/api/data/audit", { ...wanted(), job });
    if (mine !== asked) return; // it was ended by its name when it was cancelled, or another begun
    job = state.job;
    tell(_("The audit has begun."));
    for (; state.state === "running"; state = await getJSON(`/api/data/audit/${job}`)) {
      if (mine !== asked) return; // it was cancelled while this was on its way
      working([_("{time} so far", { time: duration(state.seconds) }), state.said].filter(Boolean).join(" · "));
      await new Promise((done) => setTimeout(done, POLL));
      if (mine !== asked) return;
    }
    if (mine !== asked) return;
    working(null);
    if (state.state === "failed") throw new StudioError(state.problems, 200);
    showAudit(state.audit);
  } catch (error) {
    if (mine !== asked) return;
    working(null);
    fail(error);
  }
}

const endOf = (name) => `/api/data/audit/${name}/end`;

const newName = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

async function forget({ leaving = false } = {}) {
  if (job === null) return;
  const path = endOf(job);
  job = null;
  if (leaving) {
    const headers = { "Content-Type": "application/json", "X-Afina-Studio": "1" };
    fetch(path, { method: "POST", headers, body: "{}", keepalive: true });
  } else {
    await postJSON(path, {});
  }
}

async function cancel() {
  asked++;
  working(null);
  tell(_("The audit was stopped."));
  await forget();
}

function showAudit(told) {
  findings = told.findings;
  const looked = _("{train} training and {held} held-out examples checked.", { train: number(told.train), held: number(told.validation) });
  const none = findings.length ? null : _("Nothing was found.");
  at("counted").replaceChildren([looked, ...told.said, none].filter(Boolean).join(" "));
  const boxes = Object.entries(SEVERITIES).map(([name, [, shown]]) => {
    const many = findings.filter((each) => each.severity === name).length;
    const box = element("input", { type: "checkbox", value: name, checked: true, onchange: showFindings });
    return element("label", {}, box, `${shown} ${number(many)}`);
  });
  at("severities").replaceChildren(at("severities").querySelector("legend"), ...boxes);
  at("severities").hidden = findings.length === 0;
  showFindings();
  at("result").hidden = false;
  at("result-title").focus();
  const fatal = findings.filter((each) => each.severity === "fatal").length;
  const many = _n("{n} finding", "{n} findings", findings.length);
  tell(_("The audit is done: {findings}, {fatal} of them fatal.", { findings: many, fatal: number(fatal) }));
}

function showFindings() {
  const chosen = new Set([...at("severities").querySelectorAll("input:checked")].map((each) => each.value));
  for (const each of findings) each.shown ??= finding(each);
  at("findings").replaceChildren(...findings.filter((each) => chosen.has(each.severity)).map((each) => each.shown));
}

function finding(each) {
  const [colour, severity] = SEVERITIES[each.severity];
  const share = each.of ? ` (${percent(each.count / each.of)})` : "";
  const split = each.split === "train" ? _("training") : _("held out");
  const rows = element("div", {});
  const places = each.examples.map((place) => element("li", {}, element("code", {}, place.where), place.text));
  const open = element("button", { type: "button", "aria-expanded": "false" }, _("Show these rows"));
  open.addEventListener("click", () => openRows(each, open, rows).catch(fail));
  return element(
    "article",
    { class: "finding", "aria-label": `${severity}: ${each.name}` },
    element("h3", {}, element("span", { class: `badge ${colour}` }, severity), element("code", {}, each.name),
      element("span", { class: "quiet" }, _("{count} of {total}", { count: number(each.count), total: number(each.of) }), share, `, ${split}`)),
    element("p", { lang: each.told.what.lang }, prose(each.told.what.text)),
    element("p", { class: "fix", lang: each.told.fix.lang }, "→ ", prose(each.told.fix.text)),
    places.length ? element("ul", { class: "places", "aria-label": _("First occurrences") }, places) : null,
    each.examples.some((place) => /:\d+$/.test(place.where)) ? open : null,
    rows,
  );
}

// ---- rows of a finding

async function openRows(each, button, holder) {
  const mine = asked;
  const open = button.getAttribute("aria-expanded") === "true";
  if (!open && !holder.hasChildNodes()) {
    button.disabled = true;
    button.textContent = _("The rows are being read.");
    tell(button.textContent);
    try {
      const query = new URLSearchParams({ job, finding: each.name, split: each.split });
      const { rows } = await getJSON(`/api/data/rows?${query}`);
      if (mine !== asked) return; // its audit is shown no more
      holder.append(...rows.map(row));
      tell(_n("{n} row is shown.", "{n} rows are shown.", rows.length));
    } catch (error) {
      if (mine !== asked) return;
      throw error;
    } finally {
      button.disabled = false;
      button.textContent = _("Show these rows");
    }
    button.focus();
  }
  holder.hidden = open;
  button.setAttribute("aria-expanded", String(!open));
  button.textContent = open ? _("Show these rows") : _("Hide these rows");
}

function row(told) {
  const shown = told.row ? parts(told.row) : [said(_("not read as a row"), told.line ?? _("The lines of this file are not text."))];
  const byToken = () => showTokens({ job, at: told.at, ...whose() }).catch(fail);
  const button = told.row ? element("button", { type: "button", onclick: byToken }, _("Token by token")) : null;
  return element("article", { class: "row" }, element("h4", {}, element("code", {}, told.where)), shown, element("div", { class: "actions" }, button));
}

function parts(example) {
  if (!example.messages) return [folded(example.text)];
  const turns = example.messages.flatMap((turn) => [
    turn.reasoning_content ? said(_("{role} thinks", turn), turn.reasoning_content) : null,
    turn.content || !turn.tool_calls ? said(turn.learned === false ? _("{role}, not learned", turn) : turn.role, turn.content) : null,
    ...(turn.tool_calls ?? []).map((call) => said(_("{role} calls", turn), JSON.stringify(call.function))),
  ]);
  if (example.rejected !== undefined) turns.push(said(_("rejected answer"), example.rejected));
  if (example.label !== undefined) turns.push(element("p", { class: "note" }, example.label ? _("The row says that the answer is good.") : _("The row says that the answer is bad.")));
  if (example.tools) turns.push(said(_("functions"), JSON.stringify(example.tools, null, 1)));
  return turns;
}

const said = (who, text) => element("div", { class: "turn" }, element("strong", {}, who), folded(text));

function folded(text) {
  const whole = element("div", { class: "text" }, text === "" ? element("span", { class: "quiet" }, _("(empty)")) : text);
  if (text.length <= FOLDED) return whole;
  const size = _("{n} characters", { n: number(text.length) });
  return element("details", { class: "long" }, element("summary", {}, `${text.slice(0, BEGINNING)}… `, element("span", { class: "quiet" }, size)), whole);
}

// ---- token by token

let browsing = null; // what is asked for, without the row
let batch = new Map(); // number of a row -> the answer that holds its tokens, there or on its way, and the place in it
let shownNow = null;
let awaited = 0; // counts what was to be shown: an answer to an earlier one is not

function whose() {
  const { base, run } = wanted();
  return { base, run };
}

async function showTokens(what) {
  settled();
  if (!hasTokenizer()) {
    const missing = at("tokenizer").value === "other" ? at("base") : at("tokenizer");
    missing.focus();
    throw new StudioError([{ what: _("Tokens need a tokenizer."), where: "", fix: _("choose a run or a base") }], 400);
  }
  browsing = what.at ? null : what;
  batch = new Map();
  for (const id of ["by-row", "previous", "next"]) at(id).hidden = browsing === null;
  if (!(await (browsing ? showRow(1) : showWhenThere(postJSON("/api/data/tokens", what), ({ rows }) => rows)))) return;
  at("tokens").hidden = false;
  at("tokens-title").focus();
}

// Rows token by token when they have come, unless others were asked for meanwhile; whether they are shown.
async function showWhenThere(coming, rowsOf) {
  const mine = ++awaited;
  at("tokens-said").textContent = _("The tokenizer is being opened.");
  try {
    const told = await coming;
    if (mine !== awaited) return false;
    shownNow = rowsOf(told);
    drawTokens();
    return true;
  } catch (error) {
    if (mine !== awaited) return false;
    throw error;
  } finally {
    if (mine === awaited) at("tokens-said").textContent = "";
  }
}

function showRow(number_) {
  settled();
  if (!batch.has(number_)) askFrom(number_);
  const { coming, place } = batch.get(number_);
  at("row").value = number_;
  at("previous").disabled = number_ === 1;
  at("next").disabled = false;
  return showWhenThere(coming, ({ rows }) => {
    at("next").disabled = place + 1 < BATCH && rows.length <= place + 1;
    return rows.slice(place, place + 1);
  });
}

function askFrom(number_) {
  const kept = batch;
  const coming = postJSON("/api/data/tokens", { ...browsing, row: number_, count: BATCH });
  for (let place = 0; place < BATCH; place++) kept.set(number_ + place, { coming, place });
  coming.catch(() => kept.clear()); // asked again the next time
}

function drawTokens() {
  const shown = shownNow.flatMap((each) => (each.tokens ?? []).flatMap((side) => drawSide(each, side)));
  at("shown-tokens").replaceChildren(...(shown.length ? shown : [element("p", { class: "empty" }, _("There is no such row."))]));
  tell(_("Tokens of {place}", { place: shownNow[0]?.where ?? "–" }));
}

function drawSide(each, side) {
  const title = side.rejected ? _("{place}, rejected answer", { place: each.where }) : each.where;
  if (side.problem) {
    const { what, fix } = side.problem;
    return [element("div", { class: "side" }, element("h3", {}, title), ...problemNodes(new StudioError([{ what, fix, where: "" }], 200)))];
  }
  const many = _n("{n} row", "{n} rows", side.rows.length);
  const why = side.why ? [element("p", { class: "note" }, `${many}: `, element("span", { lang: "en" }, side.why))] : [];
  return [...why, ...side.rows.map((tokens) => drawTokensOf(title, tokens))];
}

function drawTokensOf(title, tokens) {
  const learned = tokens.filter((each) => each.learned).length;
  const counted = _("{tokens} tokens, {learned} learned", { tokens: number(tokens.length), learned: number(learned) });
  const holder = element("div", { class: "tokens" }, tokens.slice(0, TOKENS).map(token));
  const rest = tokens.slice(TOKENS);
  const more = element("button", { type: "button" }, _("Show {n} more tokens", { n: number(rest.length) }));
  more.addEventListener("click", () => {
    holder.append(...rest.map(token));
    more.remove();
  });
  return element("div", { class: "side" }, element("h3", {}, title), element("p", { class: "note" }, counted), holder, rest.length ? more : null);
}

function token(each) {
  const text = each.text.replaceAll("\n", "⏎\n").replaceAll("\t", "⇥\t");
  const id = at("ids").checked ? element("sub", {}, each.id) : null;
  return element(each.learned ? "mark" : "span", { class: each.learned ? "token learned" : "token" }, text, id);
}

// ---- wiring

form.addEventListener("submit", (event) => {
  event.preventDefault();
  audit();
});
form.addEventListener("change", showGiven);
at("cancel").addEventListener("click", () => cancel().catch(fail));
at("show-tokens").addEventListener("click", () => showTokens(wanted()).catch(fail));
at("browse").addEventListener("toggle", () => at("browse").open && browse(null).catch(fail), { once: true });
at("row").addEventListener("change", () => showRow(Math.max(1, at("row").valueAsNumber || 1)).catch(fail));
at("previous").addEventListener("click", () => showRow(at("row").valueAsNumber - 1).catch(fail));
at("next").addEventListener("click", () => showRow(at("row").valueAsNumber + 1).catch(fail));
at("ids").addEventListener("change", () => shownNow && drawTokens());
window.addEventListener("pagehide", (event) => event.persisted || forget({ leaving: true }));

const named = new URLSearchParams(location.search).get("path");
if (named) at("path").value = named;
showGiven();
offerTokenizers().catch(fail);
document.body.dataset.ready = "yes";
