// The page "plan": controls that ask POST /api/plan as they move. What a recipe holds fills them; only what differs from
// it is asked for, as KEY=VALUE would be in a terminal.
import { element, getJSON, postJSON, problemNodes } from "./api.js";
import { planNodes, spoken } from "./plan_view.js";
import { _, _n, number } from "./words.js";

const WAIT_MS = 120;
const at = (id) => document.getElementById(id);
const form = at("question");
const controls = [...form.querySelectorAll("[data-key]")];
const choices = await getJSON("/api/plan/choices");

// Sliders: from, to. Their steps are 1 and 1.5 times the powers of two, so that each is about as far from the next.
const SLIDERS = {
  tokens: [1000, 2 ** 33],
  rank: [1, 512],
  "hidden-size": [32, 8192],
  layers: [1, 128],
  heads: [1, 128],
  vocab: [300, 262144],
  "max-length": [16, 131072],
  "batch-tokens": [16, 262144],
  accumulate: [1, 128],
  context: [256, 262144],
  users: [1, 512],
};
const START = { tokens: 1000000, context: 4096, users: 1 };

let own = {}; // what the recipe holds by the keys of the page
let asking = null;
let waiting = null;
let taking = false; // a recipe is on its way

// ---- controls

function stops([from, to]) {
  const found = [from];
  for (let power = 1; power <= to; power *= 2) found.push(power, power * 1.5);
  return [...new Set(found.filter((each) => Number.isInteger(each) && each >= from && each <= to))].sort((a, b) => a - b);
}

function setUpSlider(name) {
  const [box, bar, places] = [at(name), at(`${name}-range`), stops(SLIDERS[name])];
  box.min = choices.keys[box.dataset.key]?.least ?? 1;
  bar.min = 0;
  bar.max = places.length - 1;
  bar.step = 1;
  const follow = () => {
    const value = Number(box.value) || places[0];
    const distance = (place) => Math.abs(Math.log(places[place] / value));
    bar.value = places.reduce((best, _each, place) => (distance(place) < distance(best) ? place : best), 0);
    bar.setAttribute("aria-valuetext", number(value));
  };
  bar.addEventListener("input", () => {
    box.value = places[bar.value];
    bar.setAttribute("aria-valuetext", number(places[bar.value]));
  });
  box.addEventListener("input", follow);
  box.followed = follow;
  if (name in START) set(box, START[name]);
}

function set(control, value) {
  if (control.type === "checkbox") control.checked = Boolean(value);
  else control.value = value ?? "";
  control.followed?.();
}

function valueOf(control) {
  if (control.type === "checkbox") return control.checked;
  if (control.type === "number") return control.value === "" ? null : Number(control.value);
  return control.value.trim();
}

function fill(select, options, first = null) {
  select.replaceChildren(...(first === null ? [] : [element("option", { value: "" }, first)]), ...options.map((each) => element("option", { value: each }, each)));
}

function setUp() {
  Object.keys(SLIDERS).forEach(setUpSlider);
  at("bases").replaceChildren(...choices.bases.map((each) => element("option", { value: each })));
  fill(at("device"), choices.devices, _("This machine"));
  fill(at("engine"), choices.engines);
  fill(at("weights"), choices.weights);
  at("weights").value = "16bit";
  for (const control of controls) {
    const { options, default: value } = choices.keys[control.dataset.key];
    if (control.tagName === "SELECT") fill(control, options);
    set(control, value);
  }
  const groups = { recipe: _("Recipes"), run: _("Runs") };
  const left = choices.recipes_left_out;
  at("recipe").replaceChildren(
    element("option", { value: "" }, _("none: only what is said here")),
    ...Object.entries(groups)
      .map(([kind, title]) => [title, choices.recipes.filter((each) => each.kind === kind)])
      .filter(([, found]) => found.length)
      .map(([title, found]) => element("optgroup", { label: title }, found.map((each) => element("option", { value: each.path }, each.name)))),
    left ? element("option", { disabled: true }, _n("{n} more is not listed", "{n} more are not listed", left)) : "",
  );
}

// ---- the question

const serves = () => form.elements.what.value === "serve";

// Settings that the page shows, where they are not what the recipe holds.
function settings() {
  const scratch = at("method").value === "scratch";
  const left = (key) => key.startsWith(scratch ? "adapter." : "scratch.") || (key === "adapter.rank" && at("kind").value === "none");
  const found = {};
  for (const control of controls) {
    const { key } = control.dataset;
    const value = key === "base" && scratch ? null : valueOf(control);
    if (left(key) || value === own[key] || (serves() && key !== "base")) continue;
    if (value === null && key !== "base") continue; // an empty box: as the recipe has it
    found[key] = value;
  }
  return found;
}

function question(changed = settings()) {
  const recipe = at("recipe").value || null;
  const asked = { recipe, settings: changed, device: at("device").value || null, gpus: Number(at("gpus").value) || 1 };
  if (serves()) {
    asked.serve = {
      engine: at("engine").value,
      context: valueOf(at("context")) ?? START.context,
      users: valueOf(at("users")) ?? START.users,
      weights: at("weights").value,
      lora_slots: at("engine").value === "vllm" ? (valueOf(at("slots")) ?? 0) : 0,
    };
  } else if (asked.gpus > 1) {
    asked.parallel = at("parallel").value;
  }
  if (!recipe) asked.tokens = String(valueOf(at("tokens")) ?? START.tokens);
  return asked;
}

function showControls() {
  const scratch = at("method").value === "scratch";
  at("training").hidden = serves();
  at("serving").hidden = !serves();
  at("slots-field").hidden = at("engine").value !== "vllm";
  at("parallel-field").hidden = serves() || !(Number(at("gpus").value) > 1);
  at("tokens").closest(".field").hidden = Boolean(at("recipe").value);
  at("scratch").hidden = !scratch;
  form.querySelector('[data-field="base"]').hidden = scratch;
  form.querySelector('[data-field="adapter.kind"]').hidden = scratch;
  form.querySelector('[data-field="adapter.rank"]').hidden = scratch || at("kind").value === "none";
}

function soon() {
  showControls();
  if (taking) return; // the recipe that is on its way fills the controls, and is asked about then
  outdate();
  waiting = setTimeout(ask, WAIT_MS);
}

// What is shown, or asked for, is no answer to what the controls say now.
function outdate() {
  at("answer").setAttribute("aria-busy", "true");
  clearTimeout(waiting);
  asking?.abort();
}

async function ask() {
  asking = new AbortController();
  const { signal } = asking;
  try {
    show(await postJSON("/api/plan", question(), { signal }));
  } catch (error) {
    if (signal.aborted) return;
    fail(error);
  }
}

function show(answer) {
  unmark();
  at("failure").replaceChildren();
  at("answer").replaceChildren(...planNodes(answer, { use }), ...(serves() ? [] : [onward()]));
  at("answer").setAttribute("aria-busy", "false");
  at("said").textContent = spoken(answer);
}

function fail(error) {
  unmark();
  at("failure").replaceChildren(...problemNodes(error));
  at("answer").replaceChildren();
  at("answer").setAttribute("aria-busy", "false");
  at("said").textContent = "";
  for (const problem of error.problems ?? []) {
    controls.find((each) => each.dataset.key === problem.key)?.setAttribute("aria-invalid", "true");
  }
}

function unmark() {
  controls.forEach((each) => each.removeAttribute("aria-invalid"));
}

// Take over what would fit.
function use(changed, device) {
  for (const [key, value] of Object.entries(changed)) {
    const control = controls.find((each) => each.dataset.key === key);
    if (control) set(control, value);
  }
  if (device) at("device").value = device;
  at("answer").focus({ preventScroll: true }); // the button that was pressed goes
  soon();
}

function onward() {
  const carried = { recipe: at("recipe").value || null, settings: settings() };
  return element("p", { class: "actions" }, element("a", { class: "button primary", href: `/start#${encodeURIComponent(JSON.stringify(carried))}` }, _("Make a recipe of this")));
}

// A recipe is chosen: its values fill the controls.
async function take() {
  own = {};
  showControls();
  outdate();
  const { signal } = (asking = new AbortController());
  taking = true;
  try {
    const answer = await postJSON("/api/plan", { ...question({}), serve: null }, { signal });
    own = answer.settings;
    controls.forEach((each) => set(each, own[each.dataset.key]));
    taking = false;
    soon();
  } catch (error) {
    if (signal.aborted) return; // by another recipe
    taking = false;
    if (serves()) soon(); // what cannot be trained may be served
    else fail(error);
  }
}

setUp();
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", (event) => event.target.id !== "recipe" && soon());
at("recipe").addEventListener("change", take);
document.body.dataset.ready = "yes";
await take();
