// How the pages ask the studio. Text goes into a page by element(), which never reads it as HTML.

export class StudioError extends Error {
  /** @param {{what: string, where?: string, fix?: string}[]} problems */
  constructor(problems, status) {
    super(problems.map((each) => [each.where, each.what].filter(Boolean).join(": ")).join("\n"));
    this.problems = problems;
    this.status = status;
  }
}

async function checked(response) {
  if (response.ok) return response;
  let problems = [{ what: `${response.status} ${response.statusText}`, where: "", fix: "" }];
  try {
    const told = await response.json();
    problems = told.problems ?? [told.error];
  } catch {
    // An answer that is no JSON: its status says what there is to say.
  }
  throw new StudioError(problems, response.status);
}

export async function getJSON(path, { signal } = {}) {
  return (await checked(await fetch(path, { signal }))).json();
}

function post(path, body, signal) {
  return fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Afina-Studio": "1" },
    body: JSON.stringify(body ?? {}),
    signal,
  });
}

export async function postJSON(path, body, { signal } = {}) {
  return (await checked(await post(path, body, signal))).json();
}

// handlers: {event name: (data, id) => ...}, and optionally `open` and `error` of the connection. Data is JSON.
// The browser connects again by itself and sends the last id; `came` is told each id. Returns what stops it.
export function follow(path, handlers, came = () => {}) {
  const source = new EventSource(path);
  for (const [name, handler] of Object.entries(handlers)) {
    if (name === "open" || name === "error") {
      source.addEventListener(name, (event) => event instanceof MessageEvent || handler(source.readyState));
    } else {
      source.addEventListener(name, (event) => {
        if (event.lastEventId) came(event.lastEventId);
        handler(JSON.parse(event.data), event.lastEventId);
      });
    }
  }
  return () => source.close();
}

// The same of an answer to a POST, read to its end: for what is asked once, such as a model's answers.
export async function postStream(path, body, handlers, { signal } = {}) {
  const response = await checked(await post(path, body, signal));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    const parts = (rest + (value ?? "")).split("\n\n");
    rest = done ? "" : parts.pop();
    for (const part of parts) {
      const fields = { event: "message", data: [] };
      for (const line of part.split("\n")) {
        const [name, ...text] = line.split(": ");
        if (name === "data") fields.data.push(text.join(": "));
        else if (name === "event") fields.event = text.join(": ");
      }
      if (fields.data.length) handlers[fields.event]?.(JSON.parse(fields.data.join("\n")));
    }
    if (done) return;
  }
}

// element("a", {href: "/", class: "x", onclick: f}, "text", child, ...): children are nodes or text, null is nothing.
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") made[name] = value;
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    made.append(child instanceof Node ? child : String(child));
  }
  return made;
}

// A text of the server: what stands between backticks is code.
export const prose = (text) => text.split("`").map((each, place) => (place % 2 ? element("code", {}, each) : each));

// An address of ours: names of runs may hold what means something in one.
export const address = (...parts) => "/" + parts.map(encodeURIComponent).join("/");

// What went wrong, for a live region: one paragraph a problem, with the next step.
export function problemNodes(error) {
  const problems = error instanceof StudioError ? error.problems : [{ what: String(error.message ?? error) }];
  return problems.map((each) =>
    element(
      "p",
      { class: "problem", lang: "en" },
      each.where ? element("code", {}, each.where) : null,
      each.where ? ": " : null,
      prose(each.what),
      each.fix ? [" → ", prose(each.fix)] : null,
    ),
  );
}
