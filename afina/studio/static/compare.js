// The page "compare": the runs of the address side by side. The server writes the figures, as the report has them; the
// curves are drawn of the runs' own series.
import { address, element, getJSON, problemNodes, prose } from "./api.js";
import { stamp } from "./badges.js";
import { Chart } from "./chart.js";
import { _ } from "./words.js";

const POINTS = 800;
const COLOURS = 6;
const DASHES = [undefined, [7, 4], [2, 3]];
const at = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.search);

const scrolling = (label, table) => element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, table);

function table(label, head, rows, { best = [] } = {}) {
  const cells = (row, n) =>
    row.slice(1).map((cell, m) => element("td", { class: best[n] === m ? "best" : null }, cell));
  return scrolling(
    label,
    element(
      "table",
      {},
      element("thead", {}, element("tr", {}, head.map((name) => (name ? element("th", { scope: "col" }, name) : element("td"))))),
      element("tbody", {}, rows.map((row, n) => element("tr", {}, element("th", { scope: "row" }, row[0]), cells(row, n)))),
    ),
  );
}

function section(title, ...content) {
  return element("section", {}, element("h2", {}, title), content);
}

function verdicts(found) {
  const rows = found.runs.map((run) => [
    element("a", { href: address("run", run.name) }, run.label),
    [stamp(run.verdict), element("small", {}, run.verdict.sentence)],
  ]);
  return section(_("Verdicts"), table(_("Verdicts"), [_("Run"), _("Verdict")], rows));
}

function notes(found) {
  if (!found.notes.length) return null;
  const list = element("ul", {}, found.notes.map((note) => element("li", { lang: note.lang }, prose(note.text))));
  return element("div", { class: "cautions", role: "note" }, element("h2", {}, _("What does not compare")), list);
}

function figures(found) {
  const names = found.runs.map((run) => run.label);
  const spent = ["", _("Road"), _("Device"), _("Parameters"), _("Trained"), _("Tokens"), _("FLOP"), _("Time"), _("Cost"), _("Bits per byte")];
  const parts = [section(_("Cost and result"), table(_("Cost and result"), [...spent, ...found.tasks], found.costs))];
  if (found.same_items.length) {
    const told = _("Better than {name} by (95 % interval, paired; * beyond chance)", { name: names[0] });
    const title = _("The same questions, one by one");
    parts.push(section(title, element("p", { class: "note" }, told), table(title, ["", ...names.slice(1)], found.same_items)));
  }
  const star = element("p", { class: "note" }, _("* better than every other; where intervals are known, beyond them"));
  const every = table(_("Every figure"), ["", ...names], found.figures.rows, { best: found.figures.best });
  return [...parts, section(_("Every figure"), star, every)];
}

function recipes(found) {
  const title = _("Recipe keys that differ");
  const none = (text) => section(title, element("p", { class: "empty" }, text));
  if (found.recipe === null) return none(_("The recipes cannot be compared."));
  if (!found.recipe.length) return none(_("The recipes do not differ."));
  return section(title, table(title, ["", ...found.runs.map((run) => run.label)], found.recipe));
}

// The held-out losses and the means of the training losses; of a run whose curves cannot be read it is said why.
async function curves(runs, holder) {
  const unread = (error) => {
    holder.append(...problemNodes(error));
    return null;
  };
  const found = await Promise.all(
    runs.map((run) => getJSON(`${address("api", "runs", run.name, "metrics")}?points=${POINTS}`).catch(unread)),
  );
  const drawn = [["heldout", _("Held-out loss"), true], ["loss_mean", _("Loss, mean of the steps around")]];
  for (const [key, title, dots] of drawn) {
    const there = runs.map((run, n) => ({ run, n, points: found[n]?.series[key] })).filter(({ points }) => points?.[0].length);
    if (!there.length) continue;
    const lines = there.map(({ run, n }) => ({
      name: run.label,
      colour: `--p${n % COLOURS}`,
      swatch: `p${n % COLOURS}`,
      dash: DASHES[Math.floor(n / COLOURS) % DASHES.length],
      dots,
    }));
    const box = element("div", { class: "chart" });
    holder.append(box);
    new Chart(box, { title, lines, sync: "compare", named: true }).set(there.map(({ points }) => points));
  }
}

async function show() {
  const names = asked.getAll("runs");
  if (names.length < 2) {
    const back = element("a", { href: "/" }, _("Choose two runs or more in the list of runs."));
    at("compare").replaceChildren(element("p", { class: "empty" }, back));
    return;
  }
  const found = await getJSON(`/api/compare?${new URLSearchParams(names.map((name) => ["runs", name]))}`);
  const drawings = section(_("Curves"));
  at("compare").replaceChildren(...[notes(found), verdicts(found), recipes(found), drawings, ...figures(found)].filter(Boolean));
  await curves(found.runs, drawings);
  drawings.hidden = drawings.children.length < 2;
}

try {
  await show();
} catch (error) {
  at("failure").replaceChildren(...problemNodes(error));
} finally {
  at("compare").removeAttribute("aria-busy");
}
document.body.dataset.ready = "yes";
