// The page "playground": questions to a run and its base, both answers as they are written.
import { element, getJSON, postJSON, postStream, problemNodes, StudioError } from "./api.js";
import { whyOf } from "./why.js";
import { _, bytes, duration, number } from "./words.js";

const at = (id) => document.getElementById(id);
const choose = at("choose");
const COLOURS = { base: "before", adapter: "after" };
const MARKS = { base: "del", adapter: "ins" };

let sides = []; // of what is open: [{side, name}]
let turns = []; // what was asked, and what each side answered
let spoken = null; // with whom the turns were had
let answering = false;
let shown = 0; // counts what was told of open models: what is told of before is not shown

const tell = (text) => {
  at("told").textContent = text;
};
const settled = () => at("failure").replaceChildren();

function fail(error) {
  tell("");
  at("failure").replaceChildren(...problemNodes(error));
}

// ---- who answers

const who = () => choose.elements.who.value;

function target() {
  const base = at("base").value.trim() || null;
  return who() === "run" ? { run: at("run").value || null, base } : { run: null, base };
}

function showWho() {
  const run = who() === "run";
  at("by-run").hidden = !run;
  at("base").required = !run;
  at("base-hint").textContent = run
    ? _("Only where the base is not where the run's recipe names it any more.")
    : _("A folder or GGUF file in the studio's folders, an installed package (package:NAME), or a model from the hub that is already in the cache.");
}

async function offer() {
  const { runs } = await getJSON("/api/runs");
  at("run").replaceChildren(...runs.map((run) => element("option", { value: run.name }, run.base ? `${run.name} (${run.base})` : run.name)));
  const bases = [...new Set(runs.map((run) => run.base).filter(Boolean))];
  at("bases").replaceChildren(...bases.map((base) => element("option", { value: base })));
  if (!runs.length) {
    choose.elements.who.value = "base";
    showWho();
  }
  const named = new URLSearchParams(location.search).get("run");
  const first = named ?? runs.find((run) => run.state === "finished")?.name; // one that holds something trained
  if (first) at("run").value = first;
}

function showOpened(about) {
  shown++;
  sides = about ? about.sides : [];
  at("close").hidden = !about;
  if (!about) {
    at("opened").replaceChildren();
    return;
  }
  const idle = duration(about.idle_seconds);
  at("opened").replaceChildren(
    element("p", { class: "note" }, _("Open: {names} ({numbers}).", { names: sides.map((each) => each.name).join(", "), numbers: about.numbers })),
    element("p", { class: "note" }, _("They hold {memory} of memory, and are closed after {time} without a question.", { memory: bytes(about.memory_bytes), time: idle })),
    ...about.warnings.map((text) => element("p", { class: "problem", lang: "en" }, text)),
  );
}

async function open() {
  settled();
  at("open").disabled = true;
  tell(_("The models are being opened."));
  try {
    showOpened((await postJSON("/api/play/open", target())).open);
    tell(_("The models are open."));
  } catch (error) {
    showOpened(null);
    throw error;
  } finally {
    at("open").disabled = false;
  }
}

async function close() {
  settled();
  await postJSON("/api/play/close", {});
  showOpened(null);
  tell(_("The models are closed; their memory is free."));
  at("open").focus();
}

// ---- the conversation

// A turn in the page: the question, and a place for each side's answer.
function turnOf(question, place) {
  const holders = {};
  const boxes = sides.map(({ side, name }) => {
    holders[side] = element("div", { class: `text ${COLOURS[side]}` });
    const title = side === "base" ? _("base: {name}", { name }) : _("trained: {name}", { name });
    return element("div", {}, element("h4", {}, title), holders[side]);
  });
  const remarks = element("p", { class: "note", lang: "en" });
  const label = _("Question {n}", { n: number(place) });
  const article = element("article", { class: "answer", "aria-label": label, "aria-busy": "true" }, element("h3", {}, question),
    element("div", { class: sides.length > 1 ? "two" : "one" }, boxes), remarks);
  at("turns").append(article);
  return { article, holders, remarks };
}

function finish(turn, told) {
  for (const side of Object.keys(turn.holders)) {
    const pieces = (told.pieces[side] ?? []).map(([text, alone]) => (alone ? element(MARKS[side], {}, text) : text));
    turn.holders[side].replaceChildren(...(pieces.length ? pieces : [element("span", { class: "quiet" }, _("(empty)"))]));
    if (pieces.some((each) => each instanceof Node)) at("marked").hidden = false;
  }
  turn.remarks.textContent = told.remarks.join("; ");
  turn.article.setAttribute("aria-busy", "false");
}

// With the answer of what a run trained: the rows behind it. It is asked as the terminal asks, without turns before.
function explain(turn, asked, question, answer) {
  if (!asked.run || !answer?.trim()) return;
  const beside = turn.holders.adapter.parentElement;
  if (turns.length) {
    beside.append(element("p", { class: "note" }, _("Only the first question of a conversation can be explained: begin a new one and ask this again.")));
    return;
  }
  const [button, rows] = whyOf({ ...asked, question, answer }, tell);
  beside.append(button);
  turn.article.append(rows);
}

function showAnswering(on) {
  at("stop").hidden = !on;
  at("forget").disabled = on;
  at("open").disabled = on;
  at("close").disabled = on;
  at("ask").querySelector("[type=submit]").disabled = on;
}

async function ask(question) {
  settled();
  const asked = target();
  const whom = JSON.stringify(asked);
  if (spoken !== whom) forget();
  spoken = whom;
  let turn = null;
  let whole = null;
  let failed = null;
  const body = {
    ...asked,
    question,
    turns,
    temperature: at("temperature").valueAsNumber,
    max_new_tokens: at("longest").valueAsNumber,
    seed: at("seed").valueAsNumber,
  };
  const handlers = {
    say: ({ text }) => tell(text),
    opened: (about) => {
      showOpened(about);
      turn = turnOf(question, turns.length + 1);
      tell(_("The answers are being written."));
    },
    piece: ({ side, text }) => turn.holders[side].append(text),
    done: (told) => {
      whole = told;
    },
    error: (told) => {
      failed = new StudioError(told.problems, 200);
    },
  };
  answering = true;
  showAnswering(true);
  tell(_("The models are being opened, unless they already are."));
  try {
    await postStream("/api/play/answer", body, handlers);
    if (failed) throw failed;
    // Only now does the studio take another question: whoever sees the answer as finished may ask at once.
    finish(turn, whole);
    explain(turn, asked, question, whole.texts.adapter);
    turns.push({ question, ...whole.texts });
    at("question").value = "";
    tell(whole.stopped ? _("Stopped: what was written until then counts as the answer.") : _("The answers are complete."));
  } catch (error) {
    turn?.article.remove();
    if (!turn) showOpened(null);
    throw error;
  } finally {
    answering = false;
    showAnswering(false);
  }
}

function forget() {
  turns = [];
  spoken = null;
  at("turns").replaceChildren();
  at("marked").hidden = true;
}

// ---- wiring

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (answering || !at("question").value.trim() || !choose.reportValidity()) return;
  ask(at("question").value).catch(fail);
});
at("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  at("ask").requestSubmit();
});
at("stop").addEventListener("click", () => {
  postJSON("/api/play/stop", {}).catch(fail);
  at("question").focus();
});
at("forget").addEventListener("click", () => {
  forget();
  tell(_("The conversation is forgotten."));
  at("question").focus();
});
choose.addEventListener("submit", (event) => event.preventDefault());
choose.addEventListener("change", showWho);
at("open").addEventListener("click", () => choose.reportValidity() && open().catch(fail));
at("close").addEventListener("click", () => close().catch(fail));

async function begin() {
  showWho();
  await offer();
  const before = shown;
  const { open: now } = await getJSON("/api/play");
  if (before === shown) showOpened(now);
}

begin().catch(fail);
document.body.dataset.ready = "yes";
