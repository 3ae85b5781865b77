// What a plan says, as nodes: for the pages "plan" and "start". Every number is the server's.
import { element, prose } from "./api.js";
import { stamp } from "./badges.js";
import { _, bytes, count, duration, money, number } from "./words.js";

const OWN_COLOURS = 5; // of the style sheet's six; the last stands for all smaller parts together
const FITS = {
  yes: ["good", _("It fits")],
  maybe: ["partly", _("It may fit")],
  no: ["bad", _("It does not fit")],
};

// answer: of POST /api/plan. use(settings, device): takes settings over. short: without the tables, for a page on which
// no device can be chosen.
export function planNodes(answer, { use, short = false } = {}) {
  return answer.plan.engine ? servingNodes(answer) : trainingNodes(answer, use, short);
}

// One sentence for those who do not see the page.
export function spoken({ plan }) {
  const usable = plan.memory.usable ?? plan.device.usable_bytes;
  return `${FITS[plan.fits][1]}: ${ofUsable(plan.memory, usable)}${plan.time ? `; ${duration(plan.time.point)}` : ""}`;
}

function trainingNodes(answer, use, short) {
  const { plan, names, refused, told } = answer;
  const { memory, time } = plan;
  return [
    verdict(plan),
    // What would fit stands below, with a button each.
    ...refused.map((each) => element("p", { class: "problem", lang: "en" }, each.what, each.fix && !plan.would_fit.length ? ` → ${each.fix}` : null)),
    bar(memory, names, memory.usable),
    figures([
      [_("Memory"), bytes(memory.point), range(memory, bytes)],
      [_("Time"), duration(time.point), range(time, duration)],
      plan.money && [_("Cost"), money(plan.money.point, plan.money.currency), range(plan.money, (x) => money(x, plan.money.currency))],
      [_("Steps"), number(plan.steps), _("{n} tokens an epoch", { n: count(plan.tokens.per_epoch) })],
      [_("Trained parameters"), count(plan.trained_parameters), _("of {n}", { n: count(plan.parameters) })],
    ]),
    advice(plan, use, short),
    short ? null : partsTable(_("Memory by part"), memory, names, bytes, true),
    short ? null : partsTable(_("Time by part"), time, names, duration, false),
    ...sentences(told.sure),
    notes(told.notes),
    command(answer),
  ].filter(Boolean);
}

function servingNodes({ plan, names, told }) {
  const usable = plan.device.usable_bytes;
  const longest = plan.max_model_len;
  const whole = (value) => number(value, { maximumFractionDigits: 0 });
  return [
    verdict(plan),
    bar(plan.memory, names, usable),
    figures([
      [_("Memory"), bytes(plan.memory.point), range(plan.memory, bytes)],
      [_("Longest context"), whole(longest.point), range(longest, whole)],
      [_("Keys and values of a token"), bytes(plan.kv_bytes_per_token), ""],
      plan.positions > 0 && [_("Positions of the model"), whole(plan.positions), ""],
    ]),
    partsTable(_("Memory by part"), plan.memory, names, bytes, true),
    plan.speeds.length
      ? scrolled(
          _("Speed of one answer"),
          [_("Engine"), _("Weights"), _("Tokens per second"), _("Interval")],
          plan.speeds.map((each) => [each.engine, each.weights, figure3(each.tokens_per_second.point), range(each.tokens_per_second, figure3)]),
        )
      : null,
    ...sentences(told.sure),
  ].filter(Boolean);
}

const figure3 = (value) => number(value, { maximumSignificantDigits: 3 });
const range = (interval, shown) => _("{low} to {high}", { low: shown(interval.low), high: shown(interval.high) });

function ofUsable(memory, usable) {
  return _("{size} of {usable}", { size: bytes(memory.point), usable: bytes(usable) });
}

function verdict(plan) {
  const [state, word] = FITS[plan.fits];
  const several = plan.devices > 1 ? `${plan.devices} × ` : "";
  return element(
    "div",
    {},
    stamp({ state, word }),
    element("p", { class: "note" }, `${several}${plan.device.name}`),
    plan.depends_on ? element("p", { class: "note", lang: "en" }, `depends on ${plan.depends_on}`) : null,
  );
}

// Parts, the largest first; those beyond the colours there are stand together.
function coloured(memory) {
  const parts = Object.entries(memory.parts).filter(([, part]) => part.point > 0).sort((a, b) => b[1].point - a[1].point);
  return parts.map(([name, part], place) => ({ name, part, colour: `p${Math.min(place, OWN_COLOURS)}` }));
}

// A picture of the table below it: the parts side by side, the interval of their sum, and what the device has.
function bar(memory, names, usable) {
  const whole = Math.max(memory.high, usable) * 1.02;
  const percent = (value) => `${(100 * value) / whole}%`;
  const line = element("div", { class: "bar" });
  for (const { name, part, colour } of coloured(memory)) {
    const node = element("div", { class: `part ${colour}`, title: `${names[name] ?? name}: ${bytes(part.point)}` });
    node.style.width = percent(part.point);
    line.append(node);
  }
  const reach = element("div", { class: "reach" });
  reach.style.left = percent(memory.low);
  reach.style.width = percent(memory.high - memory.low);
  const limit = element("div", { class: "limit" });
  limit.style.left = percent(usable);
  line.append(reach, limit);
  return element(
    "div",
    { "aria-hidden": "true" },
    element("div", { class: "bars" }, line),
    element(
      "p",
      { class: "bar-scale" },
      element("span", {}, `${bytes(memory.point)} (${range(memory, bytes)})`),
      element("span", {}, _("dashed: {size} usable on the device", { size: bytes(usable) })),
    ),
  );
}

function figures(rows) {
  return element(
    "dl",
    { class: "figures" },
    rows.filter(Boolean).map(([title, value, more]) => element("div", {}, element("dt", {}, title), element("dd", {}, value, more ? element("small", {}, more) : null))),
  );
}

function partsTable(title, whole, names, shown, swatches) {
  const rows = swatches
    ? coloured(whole)
    : Object.entries(whole.parts).filter(([, part]) => part.point > 0).map(([name, part]) => ({ name, part }));
  const cells = rows.map(({ name, part, colour }) => [
    [colour ? element("span", { class: `swatch ${colour}`, "aria-hidden": "true" }) : null, names[name] ?? name],
    shown(part.point),
    range(part, shown),
  ]);
  cells.push([element("strong", {}, _("together")), shown(whole.point), range(whole, shown)]);
  return scrolled(title, [_("Part"), _("Predicted"), _("Interval")], cells);
}

function scrolled(title, heads, rows) {
  return element(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": title },
    element(
      "table",
      { class: "full" },
      element("caption", {}, title),
      element("thead", {}, element("tr", {}, heads.map((head, place) => element("th", { scope: "col", class: place ? "num" : null }, head)))),
      element(
        "tbody",
        {},
        rows.map(([first, ...rest]) =>
          element("tr", {}, element("th", { scope: "row" }, first), rest.map((cell) => element("td", { class: "num" }, cell))),
        ),
      ),
    ),
  );
}

// What would fit, each with a button that takes it over.
function advice(plan, use, short) {
  const offer = (said, more, settings, device) =>
    element(
      "li",
      {},
      element("span", {}, said),
      more ? element("small", {}, more) : null,
      use && !(device && short)
        ? element("button", { type: "button", onclick: () => use(settings, device) }, _("Use this"), element("span", { class: "hidden" }, ` ${said}`))
        : null,
    );
  const made = plan.would_fit.map((each) =>
    offer(
      Object.entries(each.settings).map(([key, value]) => `${key}: ${value}`).join(", "),
      [bytes(each.memory.point), duration(each.time.point), each.money && money(each.money.point, plan.money.currency)].filter(Boolean).join(", "),
      each.settings,
    ),
  );
  const more = [];
  const cheapest = plan.cheapest_device;
  if (cheapest && cheapest.name !== plan.device.name) {
    more.push(offer(_("Cheapest device with a price: {name}", { name: cheapest.name }), money(cheapest.point, cheapest.currency), {}, cheapest.name));
  }
  if (plan.largest_context) {
    const settings = { "train.max_length": plan.largest_context, "train.batch_tokens": plan.largest_context };
    more.push(offer(_("Longest example that fits alone: {n} tokens", { n: number(plan.largest_context) }), "", settings));
  }
  if (plan.largest_model) {
    const { name, parameters } = plan.largest_model;
    more.push(offer(_("Largest known base that fits: {name}", { name }), count(parameters), { base: name }));
  }
  return element(
    "section",
    {},
    plan.fits === "yes"
      ? null
      : element("h2", {}, made.length ? _("With these settings it is sure to fit") : _("No settings are sure to fit")),
    made.length ? element("ul", { class: "advice" }, made) : null,
    more.length ? element(plan.fits === "yes" ? "h2" : "h3", {}, _("What this device and this recipe could do")) : null,
    more.length ? element("ul", { class: "advice" }, more) : null,
  );
}

function notes(told) {
  if (!told.length) return null;
  return element("details", {}, element("summary", {}, _("Notes")), element("ul", { class: "remarks" }, told.map(({ text, lang }) => element("li", { lang }, prose(text)))));
}

const sentences = (told) => told.map(({ text, lang }) => element("p", { class: "note", lang }, prose(text)));

function command(answer) {
  if (!answer.command) return null;
  return element("details", {}, element("summary", {}, _("The same in a terminal")), element("pre", { class: "command", tabindex: "0" }, answer.command));
}
