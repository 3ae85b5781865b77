// The page "compare": runs side by side, by the values of `afina compare --json` and the runs' own curves.
import { address, element, getJSON, problemNodes } from "./api.js";
import { badge, stamp } from "./badges.js";
import { Chart } from "./chart.js";
import { _, bytes, count, duration, figure, language, money, number, percent } from "./words.js";

const POINTS = 800;
const COLOURS = 6;
const DASHES = [undefined, [7, 4], [2, 3]];
const ROADS = { "from nothing": _("from nothing"), adapter: _("adapter"), "every weight": _("every weight") };
const english = language === "en" ? null : "en";
const at = (id) => document.getElementById(id);

function table(label, head, rows, best = []) {
  const heads = head.map((name) => (name ? element("th", { scope: "col" }, name) : element("td")));
  const cells = (row, n) => row.slice(1).map((cell, m) => element("td", { class: best[n] === m ? "best" : null }, cell));
  const body = rows.map((row, n) => element("tr", {}, element("th", { scope: "row" }, row[0]), cells(row, n)));
  const made = element("table", {}, element("thead", {}, element("tr", {}, heads)), element("tbody", {}, body));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, made);
}

function section(title, ...content) {
  return element("section", {}, element("h2", {}, title), content);
}

const quiet = (text) => element("p", { class: "empty" }, text);

function verdicts(lines, labels) {
  const rows = lines.map((run, n) => [
    element("a", { href: address("run", run.name) }, labels[n]),
    run.verdict ? [stamp(run.verdict), element("small", {}, run.verdict.sentence)] : null,
    badge(run.state),
  ]);
  return section(_("Verdicts"), table(_("Verdicts"), [_("Run"), _("Verdict"), _("State")], rows));
}

function notes({ notes: told }) {
  if (!told.length) return null;
  const list = element("ul", { lang: english }, told.map((note) => element("li", {}, note)));
  return element("div", { class: "cautions", role: "note" }, element("h2", {}, _("What does not compare")), list);
}

function recipes({ recipe }, labels) {
  const title = _("Recipe keys that differ");
  if (recipe === null) return section(title, quiet(_("The recipes cannot be compared.")));
  const rows = Object.entries(recipe).map(([key, values]) => [element("code", {}, key), ...values.map(setting)]);
  return section(title, rows.length ? table(title, ["", ...labels], rows) : quiet(_("The recipes do not differ.")));
}

function setting(value) {
  if (value === "absent") return element("span", { class: "quiet" }, _("absent"));
  if (typeof value === "number") return figure(value);
  return element("code", {}, typeof value === "string" ? value : JSON.stringify(value));
}

// A value by its unit: a share, nats, bytes, seconds, a currency, or a plain number or word.
function written(value, unit) {
  if (value === null) return element("span", { class: "quiet" }, _("not measured"));
  if (typeof value === "boolean") return value ? _("yes") : _("no");
  if (typeof value === "string") return value;
  const known = { share: percent, bytes, seconds: duration, nats: figure, "": figure }[unit];
  return known ? known(value) : money(value, unit);
}

function figures({ metrics }, labels) {
  const cell = (metric, n) => {
    const ends = metric.intervals[n]?.map((end) => written(end, metric.unit));
    const star = metric.best === n ? " *" : "";
    return [written(metric.values[n], metric.unit), ends ? ` [${ends.join("; ")}]` : null, star];
  };
  const rows = metrics.map((metric) => [metric.name, ...labels.map((_label, n) => cell(metric, n))]);
  const star = element("p", { class: "note" }, _("* better than every other; where intervals are known, beyond them"));
  const shown = table(_("Every figure"), ["", ...labels], rows, metrics.map((metric) => metric.best));
  for (const head of shown.querySelectorAll("tbody th")) head.lang = english ?? "en";
  return section(_("Every figure"), star, shown);
}

function sameItems({ same_items: items }, labels) {
  if (!items.length) return null;
  const gain = (found) => {
    if (!found) return _("no common items");
    const [value, low, high] = [found.value, found.low, found.high].map((each) =>
      number(each, { minimumFractionDigits: 3, maximumFractionDigits: 3, signDisplay: "always" }),
    );
    return `${value} [${low}; ${high}], n ${number(found.n)}${found.low > 0 || found.high < 0 ? " *" : ""}`;
  };
  const title = _("The same questions, one by one");
  const told = _("Better than {name} by (95 % interval, paired; * beyond chance)", { name: labels[0] });
  const rows = items.map((item) => [item.name, ...item.differences.slice(1).map(gain)]);
  return section(title, element("p", { class: "note" }, told), table(title, ["", ...labels.slice(1)], rows));
}

function costs({ costs: found }) {
  const tasks = [...new Set(found.flatMap((cost) => cost.scores.map((score) => `${score.task}, ${score.metric}`)))];
  const known = (value, format) => (value === null ? "–" : format(value));
  const scored = (cost, task) =>
    cost.scores
      .filter((score) => `${score.task}, ${score.metric}` === task)
      .map((score) => (score.before === null ? figure(score.after) : `${figure(score.before)} → ${figure(score.after)}`))
      .join("; ") || "–";
  const rows = found.map((cost) => [
    cost.name,
    ROADS[cost.road] ?? cost.road,
    cost.device ?? "–",
    known(cost.parameters, count),
    known(cost.trained_parameters, count),
    known(cost.tokens, count),
    known(cost.hours, (hours) => duration(3600 * hours)),
    known(cost.money, (amount) => money(amount, cost.currency)),
    known(cost.bits_per_byte, figure),
    ...tasks.map((task) => scored(cost, task)),
  ]);
  const head = ["", _("Road"), _("Device"), _("Parameters"), _("Trained"), _("Tokens"), _("Time"), _("Cost"), _("Bits per byte"), ...tasks];
  return section(_("Cost and result"), table(_("Cost and result"), head, rows));
}

// The held-out losses, and the losses of the steps; a run that has none is left out.
function drawCurves(holder, lines, curves, labels) {
  for (const [key, title, dots] of [["heldout", _("Held-out loss"), true], ["loss", _("Loss"), false]]) {
    const there = lines.map((run, n) => ({ n, points: curves[run.name].series[key] })).filter(({ points }) => points[0].length);
    if (!there.length) continue;
    const drawn = there.map(({ n }) => ({
      name: labels[n],
      colour: `--p${n % COLOURS}`,
      swatch: `p${n % COLOURS}`,
      dash: DASHES[Math.floor(n / COLOURS) % DASHES.length],
      width: dots ? 2 : 1.2,
      dots,
    }));
    const box = element("div", { class: "chart" });
    holder.append(box);
    new Chart(box, { title, lines: drawn, sync: "compare" }).set(there.map(({ points }) => points));
  }
  holder.hidden = holder.children.length < 2;
}

async function show() {
  const names = new URLSearchParams(location.search).get("runs") ?? "";
  if (!names.includes(",")) {
    const back = element("a", { href: "/" }, _("Choose two runs or more in the list of runs."));
    at("compare").replaceChildren(element("p", { class: "empty" }, back));
    return;
  }
  const { comparison, problems, curves, lines } = await getJSON(`/api/compare?${new URLSearchParams({ runs: names, points: POINTS })}`);
  at("failure").replaceChildren(...problems.map((each) => problemNodes({ message: `${each.where}: ${each.what}` })).flat());
  const labels = comparison ? comparison.runs.map((run) => run.name) : lines.map((run) => run.name);
  const drawings = section(_("Curves"));
  const told = comparison ? [costs(comparison), sameItems(comparison, labels), figures(comparison, labels)] : [];
  const above = comparison ? [notes(comparison), verdicts(lines, labels), recipes(comparison, labels)] : [verdicts(lines, labels)];
  at("compare").replaceChildren(...[...above, drawings, ...told].filter(Boolean));
  drawCurves(drawings, lines, curves, labels);
}

try {
  await show();
} catch (error) {
  at("failure").replaceChildren(...problemNodes(error));
} finally {
  at("compare").removeAttribute("aria-busy");
}
