// The page "start": a recipe as a form and as text, which are one. The text is the truth; the server writes into it what
// the form changes, says what the text gives for each key and what is wrong with it, and keeps comments and order.
import { StudioError, address, element, getJSON, postJSON, problemNodes, prose } from "./api.js";
import { planNodes } from "./plan_view.js";
import { _, _n } from "./words.js";

const CHECK_MS = 250;
const PLAN_MS = 300;
const at = (id) => document.getElementById(id);
const area = at("yaml");
const told = await getJSON("/api/recipe/schema");
const byKey = new Map(told.fields.map((each) => [each.key, each]));

let folder = null; // that relative paths count from
let given = {};
let problems = [];
let changes = []; // of the form, that the text does not have yet
let opened = 0; // counts recipes that were opened
let waiting = null;
let planning = null;
let asking = null; // ends the request for a plan
let failures = 0; // that were shown
let known = 0; // of them, those that stood there when the text changed last, or "start" was pressed: a check ends them
let drawn = ""; // which lists and optional parts the form shows

// ---- keys: `sources[].path` is a field of the form's description, `sources.0.path` one on the page

const general = (key) => key.replace(/\.\d+(?=\.|$)/g, "[]");
const parentOf = (key) => key.split(".").slice(0, -1).join(".");
const nameOf = (key) => key.split(".").at(-1);
const within = (parent) => told.fields.filter((each) => parentOf(each.key) === parent);

// What a search looks in.
const words = (field) => `${field.key} ${field.help} ${field.values}`.toLowerCase();

// ---- the form

// Which lists and optional parts are there: where this changes, the form is made anew.
function structure() {
  return JSON.stringify(told.fields.filter((each) => ["parts", "optional"].includes(each.control)).map((each) => [each.key, Object.entries(given).filter(([key]) => general(key) === each.key)]));
}

function draw() {
  drawn = structure();
  at("fields").replaceChildren(...within("").map((field) => drawField(field, field.key)));
}

// key: the field's, with numbers in place of [].
function drawField(field, key) {
  if (field.control === "part") return group(field, key, within(field.key).map((each) => drawField(each, `${key}.${nameOf(each.key)}`)));
  if (field.control === "optional") return optional(field, key);
  if (field.control === "parts") return list(field, key);
  if (field.control === "choices") return several(field, key);
  return single(field, key);
}

function group(field, key, children, ...more) {
  return element(
    "fieldset",
    { class: "group", "data-group": key },
    element("legend", {}, element("code", {}, key)),
    hint(field, key),
    messages(key),
    ...children,
    ...more,
  );
}

function optional(field, key) {
  const there = key in given;
  const box = element("input", { type: "checkbox", checked: there, id: `f-${key}`, onchange: () => change(there ? { key } : { key, yaml: "{}" }) });
  const children = there ? within(field.key).map((each) => drawField(each, `${key}.${nameOf(each.key)}`)) : [];
  return group(field, key, [element("label", { class: "check", "data-field": key }, box, _("Use it")), ...children]);
}

function list(field, key) {
  const count = Number(given[key] ?? 0);
  const items = Array.from({ length: count }, (_each, place) => {
    const own = `${key}.${place}`;
    return element(
      "fieldset",
      { class: "group", "data-group": own },
      element("legend", {}, element("code", {}, own)),
      messages(own),
      ...within(`${field.key}[]`).map((each) => drawField(each, `${own}.${nameOf(each.key)}`)),
      element("button", { type: "button", "data-field": own, onclick: () => change({ key: own }) }, _("Remove {name}", { name: own })),
    );
  });
  const add = element("button", { type: "button", "data-field": key, id: `f-${key}`, onclick: () => change({ key: `${key}.${count}`, yaml: "{}" }) }, _("Add to {name}", { name: key }));
  return group(field, key, items, add);
}

// One of a fieldset of boxes changes: the whole list is said again.
function several(field, key) {
  const node = element("fieldset", { class: "choices", "data-field": key }, element("legend", {}, nameOf(key)));
  const say = () => {
    const chosen = [...node.querySelectorAll("input:checked")].map((each) => each.value);
    change(chosen.length ? { key, yaml: `[${chosen.join(", ")}]` } : { key });
  };
  for (const value of field.options) {
    node.append(element("label", {}, element("input", { type: "checkbox", value, "data-key": key, onchange: say }), value));
  }
  node.append(hint(field, key), messages(key));
  return node;
}

function single(field, key) {
  const id = `f-${key}`;
  const attributes = { id, "data-key": key, "aria-describedby": `h-${key} p-${key}`, "aria-required": field.required ? "true" : null };
  const fallback = field.default === "null" ? _("none") : field.default;
  let control;
  if (field.control === "choice" || field.control === "boolean") {
    const options = field.control === "boolean" ? ["true", "false"] : field.options;
    control = element("select", attributes, element("option", { value: "" }, _("default: {value}", { value: fallback })), options.map((each) => element("option", { value: each }, each)));
    control.addEventListener("change", () => say(field, key, control.value));
  } else {
    const long = field.control === "text" && (nameOf(key) === "system" || nameOf(key) === "prompt");
    control = element(long ? "textarea" : "input", {
      ...attributes,
      type: long ? null : "text",
      inputmode: field.control === "number" ? "decimal" : null,
      placeholder: field.required ? null : fallback,
      spellcheck: "false",
      list: key === "base" ? "bases" : null,
      class: field.control === "yaml" ? "code" : null,
    });
    control.addEventListener("input", () => say(field, key, control.value));
  }
  return element("div", { class: "field", "data-field": key }, element("label", { for: id }, nameOf(key)), control, hint(field, key), messages(key));
}

// The first sentence; the rest where one is in the field.
function hint(field, key) {
  const rest = field.help.startsWith(field.brief) ? field.help.slice(field.brief.length) : ` ${field.help}`;
  return element("p", { class: "hint", id: `h-${key}`, lang: "en" }, prose(field.brief), rest.trim() ? element("span", { class: "rest" }, prose(rest)) : null);
}

const sayProblem = ({ what, fix }) => [...prose(what), ...(fix ? prose(` → ${fix}`) : [])];

const messages = (key) => element("div", { id: `p-${key}`, "data-problems": key });

// An empty field is the default.
function say(field, key, value) {
  if (value === "") change({ key });
  else change(field.control === "text" ? { key, text: value } : { key, yaml: value });
}

// What the text gives goes into the fields, but for the one that somebody writes in.
function fill() {
  for (const control of at("fields").querySelectorAll("[data-key]")) {
    const { key } = control.dataset;
    if (control.type === "checkbox") control.checked = (given[key] ?? "").replace(/[[\]\s]/g, "").split(",").includes(control.value);
    else if (control !== document.activeElement) setValue(control, given[key] ?? "");
  }
}

// A list of choices shows a value that it does not have too: the problem beside it says what is wrong.
function setValue(control, value) {
  if (control.tagName === "SELECT") {
    control.querySelector("[data-unknown]")?.remove();
    if (![...control.options].some((each) => each.value === value)) control.append(element("option", { value, "data-unknown": "" }, value));
  }
  control.value = value;
}

// Which fields are seen: the basic ones, those that the text gives, those with a problem; or what is looked for.
function sift() {
  const asked = at("search").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const plain = new Set(told.kinds[at("kind").value].basic);
  const wrong = new Set(problems.map((each) => each.key));
  let matching = 0;
  for (const node of at("fields").querySelectorAll("[data-field]")) {
    const { field: key } = node.dataset;
    const field = byKey.get(general(key)) ?? byKey.get(general(parentOf(key)));
    const found = asked.length > 0 && asked.every((each) => words(field).includes(each));
    const there = key in given || (/\.\d+$/.test(key) && parentOf(key) in given); // the second: one of a list
    const usual = at("every").checked || plain.has(general(key)) || there || field.required;
    node.hidden = !(found || (usual && !asked.length) || wrong.has(key));
    node.classList.toggle("whole", found);
    if (found && node.tagName !== "BUTTON") matching += 1;
  }
  for (const node of [...at("fields").querySelectorAll("[data-group]")].reverse()) {
    node.hidden = !node.querySelector("[data-field]:not([hidden])") && !wrong.has(node.dataset.group);
  }
  at("found").textContent = asked.length ? _n("{n} key found", "{n} keys found", matching) : "";
}

// ---- what is wrong

function showProblems() {
  for (const holder of at("fields").querySelectorAll("[data-problems]")) holder.replaceChildren();
  at("fields").querySelectorAll("[aria-invalid]").forEach((each) => each.removeAttribute("aria-invalid"));
  const placed = problems.map((each) => ({ ...each, holder: holderOf(each.key) }));
  for (const { holder, key, ...said } of placed.filter((each) => each.holder)) {
    holder.append(element("p", { class: "problem", lang: "en" }, holder.dataset.problems === key ? null : [element("code", {}, key), ": "], sayProblem(said)));
    const control = at(`f-${key}`);
    if (control?.dataset.key) control.setAttribute("aria-invalid", "true");
  }
  at("problems").replaceChildren(problems.length ? summary(placed) : "");
  const lined = problems.some((each) => each.line && !each.key);
  area[lined ? "setAttribute" : "removeAttribute"]("aria-invalid", "true");
}

// The field of a key, or the nearest group that holds it.
function holderOf(key) {
  for (let each = key; each; each = parentOf(each)) {
    const found = document.getElementById(`p-${each}`);
    if (found) return found;
  }
  return null;
}

function summary(placed) {
  return element(
    "section",
    { "aria-labelledby": "problems-title" },
    element("h3", { id: "problems-title" }, _n("{n} problem", "{n} problems", placed.length)),
    element(
      "ul",
      { class: "problems" },
      placed.map(({ key, line, holder, ...said }) =>
        element(
          "li",
          { class: "problem" },
          holder ? element("button", { type: "button", class: "plain", onclick: () => show(key) }, key) : null,
          line ? element("button", { type: "button", class: "plain", onclick: () => showLine(line) }, _("line {n}", { n: line })) : null,
          element("span", { lang: "en" }, sayProblem(said)),
        ),
      ),
    ),
  );
}

function show(key) {
  const holder = holderOf(key);
  const target = document.getElementById(`f-${key}`) ?? holder.parentElement.querySelector("input:not([hidden]), select, button");
  holder.scrollIntoView({ block: "center" });
  target?.focus({ preventScroll: true });
}

function showLine(line) {
  const lines = area.value.split("\n");
  const begin = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
  area.focus();
  area.setSelectionRange(begin, begin + (lines[line - 1] ?? "").length);
  area.scrollTop = (area.scrollHeight / lines.length) * Math.max(0, line - 4);
}

// ---- the text, and what the server says of it

function change(...made) {
  changes = onTop(changes, made);
  soon();
}

function soon() {
  known = failures;
  clearTimeout(waiting);
  outdate();
  waiting = setTimeout(check, CHECK_MS);
}

// No plan is asked of a text that was not looked at, and none is shown that comes for an earlier one.
function outdate() {
  clearTimeout(planning);
  asking?.abort();
  at("answer").setAttribute("aria-busy", "true");
}

// One check at a time, which the next one waits for. True: the server has seen all that is written.
let checked = Promise.resolve(true);

function check() {
  checked = checked.then(checkNow, checkNow);
  return checked;
}

// What is written into the text meanwhile is kept, and the form's changes are said again on top, unless they were another
// recipe's; so they are where the studio did not answer.
async function checkNow() {
  let sent = [];
  let recipe = opened;
  try {
    for (let again = true; again; ) {
      const before = area.value;
      recipe = opened;
      [sent, changes] = [changes, []];
      const found = await postJSON("/api/recipe/check", { text: before, folder, changes: sent });
      if (recipe !== opened) continue;
      if (area.value !== before) {
        changes = onTop(sent, changes);
        continue;
      }
      if (sent.length && found.text !== before) write(found.text);
      sent = [];
      ({ problems } = found);
      if (found.given) ({ given } = found);
      again = changes.length > 0;
    }
    if (known === failures) at("failure").replaceChildren();
  } catch (error) {
    if (recipe !== opened) return false; // the other recipe's own check is due
    fail(error);
    at("answer").replaceChildren(); // of what is written now nobody knows a plan
    at("answer").setAttribute("aria-busy", "false");
    if (error instanceof StudioError) fill(); // refused, as it would be again
    else changes = onTop(sent, changes);
    return false;
  }
  if (structure() !== drawn) redraw();
  fill();
  showProblems();
  sift();
  keep();
  at("said").textContent = problems.length ? _n("{n} problem", "{n} problems", problems.length) : _("The recipe is valid");
  clearTimeout(planning);
  planning = setTimeout(plan, PLAN_MS);
  return true;
}

// Changes with later ones of the same keys in the earlier ones' place.
function onTop(earlier, later) {
  const keys = new Set(later.map((each) => each.key));
  return [...earlier.filter((each) => !keys.has(each.key)), ...later];
}

function redraw() {
  const focused = document.activeElement?.id;
  draw();
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

function write(text) {
  const { selectionStart, selectionEnd, scrollTop } = area;
  area.value = text;
  area.setSelectionRange(selectionStart, selectionEnd);
  area.scrollTop = scrollTop;
}

async function plan() {
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  const holder = at("answer");
  // A name that is taken says nothing of the job.
  if (problems.some((each) => each.key !== "name")) {
    holder.replaceChildren(element("p", { class: "empty" }, _("The plan appears once the recipe is valid.")));
    holder.setAttribute("aria-busy", "false");
    return;
  }
  holder.setAttribute("aria-busy", "true");
  try {
    const answer = await postJSON("/api/plan", { text: area.value, folder }, { signal });
    const use = (settings) => change(...Object.entries(settings).map(([key, value]) => ({ key, yaml: JSON.stringify(value) })));
    holder.replaceChildren(...planNodes(answer, { use, short: true }));
  } catch (error) {
    if (signal.aborted) return;
    holder.replaceChildren(...problemNodes(error));
  }
  holder.setAttribute("aria-busy", "false");
}

// ---- begin, open, keep, start

let sought = 0; // counts recipes that were asked for: one that comes behind a later one is not placed

const begin = (unless) => bring(`/api/recipe/starter?kind=${encodeURIComponent(at("kind").value)}`, unless);
const open = (path) => bring(`/api/recipe/load?path=${encodeURIComponent(path)}`);

// Place a recipe when it has come; whether it is placed. unless: said when it has come.
async function bring(from, unless = () => false) {
  const mine = ++sought;
  const stands = () => mine === sought && !unless();
  try {
    const found = await getJSON(from);
    if (!stands()) return false;
    place(found);
    return true;
  } catch (error) {
    if (!stands()) return false;
    throw error;
  }
}

function place(found) {
  opened += 1;
  ({ folder } = found);
  area.value = found.text;
  changes = [];
  given = {};
  soon();
}

function fail(error) {
  failures += 1;
  at("failure").replaceChildren(...problemNodes(error));
}

async function attempt(work) {
  at("failure").replaceChildren();
  await work().catch(fail);
}

// What is written survives a closed tab's reload.
const KEPT = "afina-studio-start";
const keep = () => sessionStorage.setItem(KEPT, JSON.stringify({ text: area.value, folder, kind: at("kind").value }));

let pressed = false; // what is written is being looked at, and starts then

async function run() {
  if (pressed) return; // a second one would be refused: the name is taken
  pressed = true;
  try {
    await start();
  } finally {
    pressed = false;
  }
}

async function start() {
  known = failures;
  clearTimeout(waiting);
  if (!(await check())) return; // what is written would not be what is started
  if (problems.length) {
    const [{ key, line }] = problems;
    if (holderOf(key)) show(key);
    else showLine(line ?? 1);
    return;
  }
  const button = at("run");
  button.disabled = true;
  try {
    const started = await postJSON("/api/start", { text: area.value, folder });
    at("said").textContent = _("Started");
    sessionStorage.removeItem(KEPT);
    location.assign(address("run", started.name));
  } catch (error) {
    fail(error);
    button.disabled = false;
  }
}

function setUp() {
  at("kind").replaceChildren(...Object.entries(told.kinds).map(([kind, { title }]) => element("option", { value: kind }, `${kind}: ${title}`)));
  at("recipes").replaceChildren(...told.recipes.map((each) => element("option", { value: each.path }, each.name)));
  document.body.append(element("datalist", { id: "bases" }, told.bases.map((each) => element("option", { value: each }))));
  at("fields").addEventListener("submit", (event) => event.preventDefault());
  at("begin").addEventListener("click", () => attempt(() => begin()));
  at("kind").addEventListener("change", sift);
  at("open").addEventListener("click", () => attempt(() => open(at("recipe").value)));
  at("search").addEventListener("input", sift);
  at("every").addEventListener("change", sift);
  area.addEventListener("input", soon);
  at("run").addEventListener("click", run);
}

async function first() {
  const carried = location.hash.length > 1 ? JSON.parse(decodeURIComponent(location.hash.slice(1))) : null;
  const kept = carried ? null : JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
  let there = true; // not so where another recipe was asked for meanwhile
  if (kept) {
    at("kind").value = kept.kind;
    place(kept);
  } else there = await (carried?.recipe ? open(carried.recipe) : begin(() => area.value !== "")); // somebody writes already
  if (!carried) return;
  if (there) change(...Object.entries(carried.settings).map(([key, value]) => ({ key, yaml: JSON.stringify(value) })));
  history.replaceState(null, "", location.pathname);
}

setUp();
document.body.dataset.ready = "yes";
await attempt(first);
