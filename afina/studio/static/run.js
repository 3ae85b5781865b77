// The page "run": what the folder tells of a run, and what it appends while one looks. The server sends the curves once,
// thinned, with the place in metrics.jsonl up to which they hold; from there on only new lines come.
import { StudioError, address, element, follow, getJSON, postJSON, problemNodes, prose } from "./api.js";
import { badge, stamp, stateWord } from "./badges.js";
import { Chart, Curve } from "./chart.js";
import { _, _n, bytes, count, duration, figure, language, money, number } from "./words.js";

const POINTS = 2000;
const MEAN_STEPS = 21;
const DRAW_MS = 250;
const LOG_LINES = 2000;
const LONGEST_TEXT = 1200;
const PATIENCE_MS = 4000; // a connection that breaks is usually there again before that
const ASLEEP_MS = 20000;
const at = (id) => document.getElementById(id);
const name = at("run").dataset.name;
const of = (...parts) => address("api", "runs", name, ...parts);

let run = {};

// ---- curves

const SERIES = ["loss", "loss_mean", "heldout", "learning_rate", "tokens_per_second", "memory_bytes"];
const sync = "run";
const charts = {
  loss: new Chart(at("loss"), {
    title: _("Loss"),
    lines: [
      { name: _("each step"), colour: "--raw", swatch: "raw line", width: 1 },
      { name: _("mean of the steps around"), colour: "--after", swatch: "after line" },
      { name: _("held out"), colour: "--held", swatch: "held round", dash: [2, 3], width: 1, dots: true },
    ],
    sync,
  }),
  rate: small("rate", _("Learning rate")),
  speed: small("speed", _("Tokens per second"), { format: (value) => number(value, { maximumFractionDigits: 0 }) }),
  memory: small("memory", _("Memory"), { format: bytes, binary: true }),
};
let curves = null;
let training = null;
let offset = 0;
let marks = [];
let drawing = null;

function small(id, title, more = {}) {
  return new Chart(at(id), { title, lines: [{ name: title, colour: "--after", swatch: "after line" }], zero: true, sync, ...more });
}

async function loadCurves() {
  const found = await getJSON(`${of("metrics")}?points=${POINTS}`);
  curves = Object.fromEntries(SERIES.map((key) => [key, new Curve(found.series[key])]));
  ({ training, offset } = found);
  marks = found.marks.map(([step, word]) => [step, MARKS[word] ?? word]);
  const sampled = _("Drawn from {n} lines of a longer log, taken at even distances.", { n: number(found.lines) });
  at("sampled").textContent = found.sampled ? sampled : "";
  draw();
}

function draw() {
  drawing = null;
  at("curves").hidden = !curves.loss.xs.length && !curves.heldout.xs.length;
  if (at("curves").hidden) return;
  const points = (...keys) => keys.map((key) => curves[key].points);
  charts.loss.set(points("loss", "loss_mean", "heldout"), marks);
  charts.rate.set(points("learning_rate"), marks);
  charts.speed.set(points("tokens_per_second"), marks);
  charts.memory.set(points("memory_bytes"), marks);
}

const MARKS = { resumed: _("resumed"), "went back": _("went back"), "smaller batches": _("smaller batches") };
const EVENTS = { resumed: MARKS.resumed, went_back: MARKS["went back"], smaller_batches: MARKS["smaller batches"] };

// One line of metrics.jsonl; `id` begins with the byte at which it ends.
function takeMetric(event, id) {
  if (reloading) {
    early.push([event, id]);
    return;
  }
  const end = parseInt(id, 10);
  if (!curves || end <= offset) return;
  offset = end;
  const another = (event.stage ?? "train") !== training && ["step", "validation"].includes(event.event);
  if (another || ["train_started_anew", "retired"].includes(event.event)) {
    reloadCurves();
    return;
  }
  if (event.event === "step") takeStep(event);
  else if (event.event === "validation") curves.heldout.push(event.step, known(event.loss));
  else if (event.event in EVENTS) marks = [...marks, [event.to ?? event.step, EVENTS[event.event]]];
  drawing ??= setTimeout(draw, DRAW_MS);
}

const known = (value) => (Number.isFinite(value) ? value : null);

function takeStep(event) {
  const before = curves.loss_mean.last;
  const loss = known(event.loss);
  curves.loss.push(event.step, loss);
  const mean = before == null || loss === null ? (loss ?? before) : before + ((loss - before) * 2) / (MEAN_STEPS + 1);
  curves.loss_mean.push(event.step, mean);
  for (const key of ["learning_rate", "tokens_per_second", "memory_bytes"]) curves[key].push(event.step, known(event[key]));
  curves.heldout.cut(event.step + 1); // measured of steps that are done again
}

let reloading = false; // the curves are asked for anew
let outdated = false; // and were outdated once more since
let early = []; // events that came meanwhile: the curves may have been drawn before them

async function reloadCurves() {
  if (reloading) {
    [outdated, early] = [true, []]; // what is asked for next holds all that came until now
    return;
  }
  reloading = true;
  try {
    do {
      outdated = false;
      await loadCurves();
    } while (outdated);
  } catch (error) {
    fail(error);
  }
  reloading = false;
  const came = early;
  early = [];
  for (const [event, id] of came) takeMetric(event, id);
}

// ---- what is said

const english = language === "en" ? null : "en";

function say(text) {
  if (at("said").textContent !== text) at("said").textContent = text;
}

function fail(error) {
  at("failure").replaceChildren(...problemNodes(error));
}

// Replace what an element holds, unless it says the same already: a screen reader would say it again.
function fill(holder, ...nodes) {
  const made = element("div", {}, nodes);
  const same = made.childNodes.length === holder.childNodes.length && [...made.childNodes].every((node, n) => node.isEqualNode(holder.childNodes[n]));
  if (!same) holder.replaceChildren(...made.childNodes);
}

function showState() {
  const stage = run.state === "running" && run.stage ? _("in the stage {stage}", { stage: run.stage }) : null;
  const why = run.why ? element("span", { lang: run.why.lang }, run.why.text) : null;
  fill(at("state"), badge(run.state), stage || why ? element("span", { class: "quiet" }, " · ", stage ?? why) : null);
  at("stop").hidden = !run.can?.stop;
  at("resume").hidden = !run.can?.resume;
  at("report").hidden = !run.report;
  at("report").href = of("report");
  at("play").hidden = !run.trained;
  at("play").href = `/playground?${new URLSearchParams({ run: name })}`;
}

function showVerdict() {
  const { verdict } = run;
  if (!verdict) {
    at("verdict").replaceChildren();
    return;
  }
  const said = element("p", { class: `sentence ${verdict.state}` }, verdict.sentence);
  const points = element("ul", { class: "remarks" }, verdict.remarks.map(({ text, lang }) => element("li", { lang }, prose(text))));
  const below = verdict.notes.map(({ text, lang }) => element("p", { class: "note", lang }, prose(text)));
  fill(at("verdict"), element("h2", { class: "hidden" }, _("Verdict")), stamp(verdict), said, verdict.remarks.length ? points : null, below);
}

function showProblems() {
  const told = (run.problems ?? []).map((each) => {
    const where = each.where ? [element("code", {}, each.where), ": "] : null;
    return element("p", { class: "problem", lang: english }, where, element("strong", {}, prose(each.what)), each.fix ? [" → ", prose(each.fix)] : null);
  });
  fill(at("problems"), told);
  const warnings = run.warnings ?? [];
  const first = (each) => (each.training === "first" ? [" · ", _("first training")] : null);
  const list = element("ul", {}, warnings.map((each) => element("li", {}, element("span", { lang: each.lang }, prose(each.what)), first(each))));
  const title = element("h2", {}, _n("{n} warning", "{n} warnings", warnings.length));
  fill(at("warnings"), warnings.length ? element("div", { class: "cautions", role: "note" }, title, list) : null);
}

function showFigures() {
  const shown = [];
  const put = (title, value, format, ...below) => value != null && shown.push([title, format(value), below]);
  const now = run.training;
  if (now) {
    const { planned_steps: total, best, held_out: last } = now;
    put(_("Step"), now.step, number, total ? steps(now.step, total) : null);
    put(_("Epoch"), now.epoch, (epoch) => number(epoch + 1));
    put(_("Loss"), now.loss, figure);
    put(_("Held-out loss"), last?.loss, figure, best && best.step !== last?.step ? lowest(best) : null);
    put(_("Time left"), now.eta_seconds, duration);
    put(_("Tokens per second"), now.tokens_per_second, (value) => number(value, { maximumFractionDigits: 0 }));
    put(_("Tokens"), now.tokens || null, count);
    put(_("Memory"), now.peak_memory_bytes, bytes, usable());
    put(_("Learning rate"), now.learning_rate, figure);
    if (!now.done) put(_("Checkpoint"), now.checkpoint, number);
  }
  const currency = run.cost?.currency ?? run.currency ?? "US$";
  put(_("Cost"), (run.cost?.money ?? now?.money) || null, (amount) => money(amount, currency));
  put(_("Time"), run.seconds, duration);
  at("figures").hidden = !shown.length;
  fill(at("figures"), shown.map(([title, text, below]) => element("div", {}, element("dt", {}, title), element("dd", {}, text, below))));
}

function steps(made, total) {
  const told = _("step {n} of {total}", { n: number(made), total: number(total) });
  return [element("small", {}, _("of {total}", { total: number(total) })), element("progress", { max: total, value: made, "aria-label": told })];
}

const lowest = (best) => element("small", {}, _("lowest {loss} at step {step}", { loss: figure(best.loss), step: number(best.step) }));
const usable = () => (run.usable_bytes ? element("small", {}, _("of {usable} usable", { usable: bytes(run.usable_bytes) })) : null);

// ---- answers, log, folder

let answers = [];

// A text that a model or a person wrote; of a very long one its beginning, as in the report.
function block(title, text, kind = "") {
  if (text == null) return null;
  const rest = text.length - LONGEST_TEXT;
  const more = element("span", { class: "quiet" }, " … ", _n("{n} more character", "{n} more characters", rest));
  const shown = text ? [text.slice(0, LONGEST_TEXT), rest > 0 ? more : null] : element("span", { class: "quiet" }, _("(empty)"));
  return element("div", {}, element("p", { class: "which" }, title), element("div", { class: `text ${kind}`, dir: "auto" }, shown));
}

function answer(sample) {
  const mark = (right) => (typeof right === "boolean" ? [" · ", right ? _("right") : _("wrong")] : null);
  return element(
    "article",
    { class: "answer" },
    element("div", { class: "two" }, block(_("Question"), sample.prompt), block(_("Reference"), sample.reference)),
    element(
      "div",
      { class: "two" },
      block([_("Before"), mark(sample.base_correct)], sample.base, "before"),
      block([_("After"), mark(sample.adapter_correct)], sample.adapter, "after"),
    ),
  );
}

function showAnswers() {
  answers = run.samples ?? [];
  at("answers").hidden = !answers.length;
  at("answers-list").replaceChildren(...answers.map(answer));
  const all = run.samples_total ?? 0;
  const some = _("{n} of {total} answers; the report has them all", { n: number(answers.length), total: number(all) });
  at("answers-shown").textContent = all > answers.length ? some : "";
}

// The newest answer, unless it is there already.
function takeSample(sample) {
  if (answers.some((each) => each.prompt === sample.prompt && each.adapter === sample.adapter)) return;
  answers = [...answers, sample];
  at("answers").hidden = false;
  at("answers-list").append(answer(sample));
}

function takeLog(text) {
  const log = at("log");
  at("log-section").hidden = false;
  log.append(text.endsWith("\n") ? text : `${text}\n`);
  while (log.childNodes.length > LOG_LINES) log.firstChild.remove();
  if (at("follow").checked) log.scrollTop = log.scrollHeight;
}

function showFolder() {
  at("folder").hidden = !run.folder;
  at("place").textContent = run.folder;
  at("recipe").hidden = !run.recipe;
  at("recipe").querySelector("pre").textContent = run.recipe ?? "";
  const rows = (run.files ?? []).map((file) =>
    element("tr", {}, element("th", { scope: "row" }, element("code", {}, file.name)), element("td", { class: "num" }, bytes(file.bytes))),
  );
  const head = element("tr", {}, element("th", { scope: "col" }, _("File")), element("th", { scope: "col", class: "num" }, _("Size")));
  const some = _("{n} of {total} files", { n: number(rows.length), total: number(run.files_total ?? 0) });
  const note = run.files_total > rows.length ? element("p", { class: "note" }, some) : null;
  at("files").querySelector(".scroll").replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, rows)), ...[note].filter(Boolean));
}

// ---- the run

function showRun() {
  showState();
  showVerdict();
  showProblems();
  showFigures();
}

let loads = 0; // counts questions for all of it: an answer to an earlier one is not shown
let standing = {}; // how it stands, as the stream told last

async function loadRun() {
  const [mine, before] = [++loads, standing];
  const found = await getJSON(of());
  if (mine !== loads) return;
  // What the stream told meanwhile may be older than the answer: then it tells so again. Of the answer nobody would.
  run = standing === before ? found : { ...found, ...standing };
  document.title = `${name}: ${stateWord(run.state)} · afina studio`;
  showRun();
  showAnswers();
  showFolder();
}

async function takeState(event) {
  const before = run.state;
  standing = event;
  run = { ...run, ...event };
  showRun();
  if (run.state === before) return;
  say(_("{name}: {state}", { name, state: stateWord(run.state) }));
  await loadRun().catch(fail); // what a state brings with it: the verdict, the report, the answers
}

async function ask(what, button) {
  button.disabled = true;
  at("failure").replaceChildren();
  say(what === "stop" ? _("It stops after this step, and a checkpoint is written.") : _("It goes on from its last checkpoint."));
  try {
    await postJSON(of(what));
    await loadRun();
  } catch (error) {
    fail(error);
  } finally {
    button.disabled = false;
  }
}

at("stop").addEventListener("click", () => ask("stop", at("stop")));
at("resume").addEventListener("click", () => ask("resume", at("resume")));

try {
  await Promise.all([loadRun(), loadCurves()]);
} catch (error) {
  fail(error);
}

// ---- what happens in it, while somebody looks

let leave = null; // ends the stream
let here = null; // where in both logs the page has come
let over = false; // there is nothing to follow any more
let lost = null;
let asleep = null;

const EVENTS_TAKEN = {
  metric: takeMetric,
  log: takeLog,
  sample: takeSample,
  state: takeState,
  again: reloadCurves,
  gone: ({ problems }) => {
    over = true;
    quiet(); // or the browser asks again, and says that the studio does not answer
    fail(new StudioError(problems));
  },
  open: () => {
    if (lost !== null) at("failure").replaceChildren();
    clearTimeout(lost);
    lost = null;
  },
  error: (state) => {
    if (state === EventSource.CLOSED) return refused(); // an answer that is no stream is never asked for again
    const what = _("The studio does not answer; this page tries again by itself.");
    lost ??= setTimeout(() => failWith(what), PATIENCE_MS);
  },
};

function failWith(what) {
  at("failure").replaceChildren(element("p", { class: "problem" }, what));
}

function listen() {
  const since = new URLSearchParams(here ? { place: here } : { offset });
  leave = follow(`${of("stream")}?${since}`, EVENTS_TAKEN, (place) => (here = place));
}

function quiet() {
  leave?.();
  leave = null;
  clearTimeout(lost);
  lost = null;
}

// Why there is no stream: an EventSource keeps to itself what was answered, so the run is asked the same.
async function refused() {
  over = true;
  quiet();
  await loadRun().then(() => failWith(_("This page no longer follows the run; load it again.")), fail);
}

// A browser keeps six connections to a server: pages in tabs that nobody looks at would leave none to the seventh.
// They ask now and then instead, so that the tab's title tells how the run stands.
async function follows() {
  clearInterval(asleep);
  if (over) return;
  if (document.hidden) {
    quiet();
    asleep = setInterval(() => loadRun().catch(() => {}), ASLEEP_MS);
  } else if (leave === null) {
    if (asleep !== null) await loadRun().catch(fail);
    if (leave === null && !document.hidden) listen();
  }
}

document.addEventListener("visibilitychange", follows);
follows();
document.body.dataset.ready = "yes";
