// The page "run": what the folder tells of a run, and what it appends while one looks. The server sends the curves once,
// thinned, with the place in metrics.jsonl up to which they hold; from there on only new lines come.
import { address, element, follow, getJSON, postJSON, problemNodes } from "./api.js";
import { badge, stamp, stateWord } from "./badges.js";
import { Chart, Curve } from "./chart.js";
import { _, _n, bytes, count, duration, figure, language, money, number } from "./words.js";

const POINTS = 2000;
const WINDOW = 20; // steps whose mean stands for a loss, as afina/watch/judge.py has it
const DRAW_MS = 250;
const VIEW_MS = 15_000;
const PATIENCE_MS = 4000; // a connection that breaks is usually there again before that
const LOG_LINES = 2000;
const LONGEST_TEXT = 1200;
const RESUMABLE = ["stopped", "dead", "failed", "new"];
const at = (id) => document.getElementById(id);
const name = at("run").dataset.name;
const of = (...parts) => address("api", "runs", name, ...parts);

let run = {}; // its line in the list, and what its small files say
let view = {}; // how its training stands, as `afina watch --json` says it
let now = null; // the training that goes on, or came last: of `view`, and brought up to date by each step

// ---- curves

const LOGGED = { loss: "loss", rate: "learning_rate", tokens_per_second: "tokens_per_second", memory: "memory_bytes" };
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
  tokens_per_second: small("speed", _("Tokens per second"), { format: (value) => number(value, { maximumFractionDigits: 0 }) }),
  memory: small("memory", _("Memory"), { format: bytes, binary: true }),
};
let curves = null;
let marks = [];
let training = null;
let drawing = null;

function small(id, title, more = {}) {
  return new Chart(at(id), { title, lines: [{ name: title, colour: "--after", swatch: "after line" }], zero: true, sync, ...more });
}

// Asks for the curves; returns the place in metrics.jsonl from which on they are to be followed.
async function loadCurves() {
  const found = await getJSON(`${of("metrics")}?points=${POINTS}`);
  curves = Object.fromEntries(Object.entries(found.series).map(([key, points]) => [key, new Curve(points)]));
  training = found.training;
  marks = [...found.resumed.map((step) => [step, _("resumed")]), ...found.went_back.map((each) => [each.to, _("went back")])];
  at("sampled").textContent = found.sampled ? _("Drawn of {n} lines of a longer log, taken at even distances.", { n: number(found.lines) }) : "";
  draw();
  return found.offset;
}

function draw() {
  drawing = null;
  at("curves").hidden = !curves.loss.xs.length && !curves.heldout.xs.length;
  if (at("curves").hidden) return;
  const { loss, heldout } = curves;
  charts.loss.set([loss.points, [loss.xs, smooth(loss.ys)], heldout.points], marks);
  for (const key of ["rate", "tokens_per_second", "memory"]) charts[key].set([curves[key].points], marks);
}

// Mean of each value and its neighbours on both sides: it does not lag behind a falling curve.
function smooth(ys) {
  const half = Math.min(10, Math.floor(ys.length / 20));
  const sums = [0];
  for (const y of ys) sums.push(sums.at(-1) + y);
  return ys.map((_y, n) => {
    const [start, end] = [Math.max(0, n - half), Math.min(ys.length, n + half + 1)];
    return (sums[end] - sums[start]) / (end - start);
  });
}

// What was logged. False where another training began: then all the curves are others.
function takeMetrics(events) {
  for (const event of events) {
    const ofAnother = ["step", "validation"].includes(event.event) && (event.stage ?? "train") !== training;
    if (ofAnother || ["train_started_anew", "retired"].includes(event.event)) return false;
    if (event.event === "step") takeStep(event);
    else if (event.event === "validation") takeMeasurement(event);
    else if (event.event === "resumed") marks = [...marks, [event.step, _("resumed")]];
    else if (event.event === "went_back") marks = [...marks, [event.to, _("went back")]];
  }
  drawing ??= setTimeout(() => {
    draw();
    showFigures();
  }, DRAW_MS);
  return true;
}

function takeStep(event) {
  for (const [key, logged] of Object.entries(LOGGED)) {
    if (Number.isFinite(event[logged])) curves[key].push(event.step, event[logged]);
  }
  curves.heldout.cut(event.step + 1); // measured of steps that are done again
  if (!now) return;
  const latest = curves.loss.ys.slice(-WINDOW);
  const known = (key) => (Number.isFinite(event[key]) ? event[key] : now[key]);
  now = {
    ...now,
    step: event.step,
    epoch: known("epoch"),
    loss: latest.length ? latest.reduce((sum, y) => sum + y, 0) / latest.length : null,
    learning_rate: known("learning_rate"),
    tokens_per_second: known("tokens_per_second"),
    memory_bytes: known("memory_bytes"),
    peak_memory_bytes: Math.max(now.peak_memory_bytes ?? 0, known("memory_bytes") ?? 0) || null,
    tokens: now.tokens + (event.tokens ?? 0),
    eta_seconds: known("eta_seconds"),
    money: known("money"),
  };
}

function takeMeasurement(event) {
  if (!Number.isFinite(event.loss)) return;
  curves.heldout.push(event.step, event.loss);
  if (!now) return;
  const found = { step: event.step, loss: event.loss, figures: {} };
  now = { ...now, held_out: [...now.held_out, found], best: now.best && now.best.loss <= found.loss ? now.best : found };
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
  const made = [...element("div", {}, nodes).childNodes];
  const same = made.length === holder.childNodes.length && made.every((node, n) => node.isEqualNode(holder.childNodes[n]));
  if (!same) holder.replaceChildren(...made);
}

function showState() {
  const stage = run.state === "running" && run.stage ? _("in the stage {stage}", { stage: run.stage }) : null;
  const why = run.reason ? element("span", { lang: english }, run.reason) : null;
  fill(at("state"), badge(run.state), stage || why ? element("span", { class: "quiet" }, " · ", stage ?? why) : null);
  at("stop").hidden = run.state !== "running";
  at("resume").hidden = !RESUMABLE.includes(run.state) || !run.recipe;
  at("report").hidden = !run.has_report;
  at("report").href = of("report");
  at("play").hidden = !run.files?.some((file) => /^(adapter|model)(\/|$)/.test(file.name));
  at("play").href = `/playground?${new URLSearchParams({ run: name })}`;
}

function showVerdict() {
  const { verdict } = run;
  if (!verdict) {
    at("verdict").replaceChildren();
    return;
  }
  const said = element("p", { class: `sentence ${verdict.state}` }, verdict.sentence);
  const { misses = [], notes = [] } = run.scores?.verdict ?? {};
  const points = element("ul", { class: "remarks", lang: english }, misses.map((line) => element("li", {}, line)));
  const below = notes.map((line) => element("p", { class: "note", lang: english }, line));
  fill(at("verdict"), element("h2", { class: "hidden" }, _("Verdict")), stamp(verdict), said, misses.length ? points : null, below);
}

function showProblems() {
  const told = (run.problems ?? []).map((each) => {
    const where = each.where ? [element("code", {}, each.where), ": "] : null;
    return element("p", { class: "problem", lang: english }, where, element("strong", {}, each.what), each.fix ? ` → ${each.fix}` : null);
  });
  fill(at("problems"), told);
  const first = (each) => (each.training === "first" ? [" · ", _("first training")] : null);
  const watched = (view.warnings ?? []).map((each) => [element("span", { lang: english }, each.what), first(each)]);
  const warnings = [...watched, ...(run.warnings ?? []).map((each) => [each.text])];
  const list = element("ul", {}, warnings.map((each) => element("li", {}, each)));
  const title = element("h2", {}, _n("{n} warning", "{n} warnings", warnings.length));
  fill(at("warnings"), warnings.length ? element("div", { class: "cautions", role: "note" }, title, list) : null);
}

function showFigures() {
  const shown = [];
  const put = (title, value, format, ...below) => value != null && shown.push([title, format(value), below]);
  if (now) {
    const total = now.planned_steps;
    const last = now.held_out.at(-1);
    put(_("Step"), now.step, number, total ? steps(now.step, total) : null);
    put(_("Epoch"), now.epoch, (epoch) => number(epoch + 1));
    put(_("Loss"), now.loss, figure);
    put(_("Held-out loss"), last?.loss, figure, now.best && now.best.step !== last?.step ? lowest(now.best) : null);
    if (run.state === "running") put(_("Time left"), now.eta_seconds, duration);
    put(_("Tokens per second"), now.tokens_per_second, (value) => number(value, { maximumFractionDigits: 0 }));
    put(_("Tokens"), now.tokens || null, count);
    put(_("Memory"), now.peak_memory_bytes, bytes, usable());
    put(_("Learning rate"), now.learning_rate, figure);
    if (!now.done) put(_("Checkpoint"), now.checkpoint, number);
  }
  const currency = run.cost?.currency ?? view.currency ?? "US$";
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
const usable = () => (view.usable_bytes ? element("small", {}, _("of {usable} usable", { usable: bytes(view.usable_bytes) })) : null);

// ---- answers, log, folder

let answers = [];

// A text that a model or a person wrote; of a very long one its beginning, as in the report.
function block(title, text, kind = "") {
  if (text == null) return null;
  const rest = text.length - LONGEST_TEXT;
  const more = element("span", { class: "quiet" }, " … ", _n("{n} more character", "{n} more characters", rest));
  const shown = text ? [text.slice(0, LONGEST_TEXT), rest > 0 ? more : null] : element("span", { class: "quiet" }, _("(empty)"));
  return element("div", {}, element("p", { class: "side" }, title), element("div", { class: `text ${kind}`, dir: "auto" }, shown));
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
      block([_("After"), mark(sample.adapter_correct)], written(sample), "after"),
    ),
  );
}

const written = (sample) => sample.adapter ?? sample.written; // as a file of samples has it, as the stream has it

function showAnswers() {
  answers = run.samples ?? [];
  at("answers").hidden = !answers.length;
  at("answers-list").replaceChildren(...answers.map(answer));
  const all = run.samples_in_all ?? 0;
  const some = _("{n} of {total} answers; the report has them all", { n: number(answers.length), total: number(all) });
  at("answers-shown").textContent = all > answers.length ? some : "";
}

// The newest answer, unless it is there already.
function takeSample(sample) {
  if (answers.some((each) => each.prompt === sample.prompt && written(each) === written(sample))) return;
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
  at("files").querySelector(".scroll").replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, rows)));
}

// ---- the run

function showRun() {
  showState();
  showVerdict();
  showProblems();
  showFigures();
}

async function loadRun() {
  run = await getJSON(of());
  document.title = `${name}: ${stateWord(run.state)} · afina studio`;
  showRun();
  showAnswers();
  showFolder();
}

let looking = null;

// How the training stands, and again after a while; of a very long log that takes the server seconds.
async function loadView() {
  clearTimeout(looking);
  const began = performance.now();
  try {
    view = await getJSON(of("view"));
    now = view.trainings.at(-1) ?? null;
    showRun();
  } catch (error) {
    fail(error);
  }
  const wait = Math.max(VIEW_MS, 20 * (performance.now() - began));
  if (run.state === "running") looking = setTimeout(loadView, wait);
}

async function takeState(line) {
  const before = run.state;
  run = { ...run, ...line };
  showRun();
  if (run.state === before) return;
  say(_("{name}: {state}", { name, state: stateWord(run.state) }));
  await Promise.all([loadRun().catch(fail), loadView()]); // what a state brings with it: the verdict, the report, answers
}

async function ask(what, button) {
  button.disabled = true;
  at("failure").replaceChildren();
  try {
    await postJSON(of(what));
    say(what === "stop" ? _("It stops after this step, and a checkpoint is written.") : _("It goes on from its last checkpoint."));
  } catch (error) {
    fail(error);
  } finally {
    button.disabled = false;
  }
}

at("stop").addEventListener("click", () => ask("stop", at("stop")));
at("resume").addEventListener("click", () => ask("resume", at("resume")));

let close = () => {};
let lost = null;

// The curves as they are, and all that happens from there on.
async function connect() {
  close();
  at("log").replaceChildren();
  const again = () => Promise.all([connect().catch(fail), loadView()]);
  const offset = await loadCurves();
  close = follow(`${of("stream")}?offset=${offset}`, {
    metric: (events) => takeMetrics(events) || again(),
    log: takeLog,
    sample: takeSample,
    state: takeState,
    again,
    gone: ({ problems }) => {
      close();
      fail({ message: problems.map((each) => each.what).join("; ") });
    },
    open: () => {
      if (lost !== null) at("failure").replaceChildren();
      clearTimeout(lost);
      lost = null;
    },
    error: () => {
      const what = _("The studio does not answer; this page tries again by itself.");
      lost ??= setTimeout(() => at("failure").replaceChildren(element("p", { class: "problem" }, what)), PATIENCE_MS);
    },
  });
}

await Promise.all([loadRun().catch(fail), connect().catch(fail)]);
await loadView();
