// The training rows behind an answer of the playground, as `afina why` tells them in a process of its own.
import { element, getJSON, postJSON, problemNodes, StudioError } from "./api.js";
import { _, _n, duration, number } from "./words.js";

const POLL = 500; // ms between two looks at an explanation
const score = (value) => number(value, { signDisplay: "exceptZero", minimumFractionDigits: 3, maximumFractionDigits: 3 });
const loss = (value) => number(value, { minimumFractionDigits: 3, maximumFractionDigits: 3 });
const place = (row) => `${row.path}:${row.line}`;

function rowsOf(title, none, rows) {
  if (!rows.length) return element("p", { class: "empty" }, none);
  const head = element("tr", {}, [_("Score"), _("Row"), _("Text")].map((text, n) => element("th", { scope: "col", class: n ? null : "num" }, text)));
  const lines = rows.map((row) =>
    element("tr", {}, element("td", { class: "num" }, score(row.score)), element("td", {}, element("code", {}, place(row))),
      element("td", { class: "said" }, row.text)),
  );
  const table = element("table", { class: "full" }, element("caption", {}, title), element("thead", {}, head), element("tbody", {}, lines));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, table);
}

function shown(why) {
  const { asked, rows } = why;
  const losses = { before: loss(asked.before), after: loss(asked.after) };
  const left = _n("{n} row of preferences or ratings is not looked at.", "{n} rows of preferences or ratings are not looked at.", rows.left_out);
  return [
    rowsOf(_("Rows that speak for this answer"), _("No row speaks for this answer."), why.for),
    rowsOf(_("Rows that speak against it"), _("No row speaks against this answer."), why.against),
    element("p", { class: "note" }, _("By {method} over the adapter, from {n} rows. At 1, a row changes the model as this answer would; at 0, it has nothing to do with it; below 0, it makes the answer less likely. The first rows are worth reading; the order further down is only a hint.", { method: why.method, n: number(rows.indexed) })),
    element("p", { class: "note" }, _("Loss of this answer in nats a token: {before} before the training, {after} after.", losses)),
    rows.left_out ? element("p", { class: "note" }, left) : null,
  ].filter(Boolean);
}

// The button that asks why, and the place for what it finds: two nodes, as rows need the page's width and a button stands
// with its answer. `asked`: {run, base, question, answer}, as they were when it was answered.
export function whyOf(asked, tell) {
  let job = null; // of the explanation that goes on
  let mine = 0; // counts what was begun: an answer to what was stopped is not shown
  let going = Promise.resolve(); // until what was begun before has ended: the same again would go on with it, and end with it
  const button = element("button", { type: "button", "aria-expanded": "false" }, _("Why this answer?"));
  const stop = element("button", { type: "button", hidden: true }, _("Stop looking"));
  const said = element("p", { class: "note", hidden: true });
  const failure = element("div", { role: "alert" });
  const found = element("div", { hidden: true });

  // It was stopped, or its answer is on the page no more.
  const left = (begun) => begun !== mine || !button.isConnected;

  function working(on) {
    button.disabled = on;
    stop.hidden = !on;
    said.hidden = !on;
    said.textContent = on ? _("Looking for the training rows behind this answer.") : "";
  }

  function open(on) {
    found.hidden = !on;
    button.setAttribute("aria-expanded", String(on));
    button.textContent = on ? _("Hide these rows") : _("Why this answer?");
  }

  async function look(begun) {
    if (left(begun)) return null;
    let state = await postJSON("/api/play/why", asked);
    for (; state.state === "waiting" || state.state === "running"; state = await getJSON(`/api/play/why/${state.job}`)) {
      if (left(begun)) {
        await postJSON(`/api/play/why/${state.job}/end`, {}); // its name may not have been known before
        return null;
      }
      job = state.job;
      const now = state.state === "waiting" ? _("Another answer is being explained first.") : state.said;
      said.replaceChildren(_("{time} so far", { time: duration(state.seconds) }), now ? " · " : "", element("span", { lang: state.state === "waiting" ? null : "en" }, now));
      await new Promise((done) => setTimeout(done, POLL));
      if (begun !== mine) return null;
    }
    if (state.state === "failed") throw new StudioError(state.problems, 200);
    return state.why;
  }

  async function ask() {
    const begun = ++mine;
    failure.replaceChildren();
    working(true);
    tell(said.textContent);
    stop.focus();
    try {
      const looked = going.then(() => look(begun));
      going = looked.catch(() => {});
      const why = await looked;
      if (why === null || left(begun)) return;
      found.replaceChildren(...shown(why));
      working(false);
      open(true);
      tell(_("The rows behind this answer are shown."));
    } catch (error) {
      if (left(begun)) return;
      working(false);
      failure.replaceChildren(...problemNodes(error));
      tell("");
    }
    button.focus();
  }

  async function end() {
    mine++;
    working(false);
    button.focus();
    tell(_("The search for the rows was stopped."));
    const ending = job;
    job = null;
    if (ending === null) return;
    const ended = postJSON(`/api/play/why/${ending}/end`, {});
    going = Promise.allSettled([going, ended]);
    await ended;
  }

  button.addEventListener("click", () => (found.hasChildNodes() ? open(found.hidden) : ask()));
  stop.addEventListener("click", () => end().catch((error) => failure.replaceChildren(...problemNodes(error))));
  return [element("div", { class: "why-ask actions" }, button, stop), element("div", { class: "why-rows" }, said, failure, found)];
}
