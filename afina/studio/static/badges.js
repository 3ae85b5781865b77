// How a run's state and its verdict are shown: always in a word, never by a colour alone.
import { element } from "./api.js";
import { _ } from "./words.js";

// What a run may be, the most urgent first: its word and its class of the style sheet.
export const STATES = {
  running: [_("running"), "live"],
  damaged: [_("damaged"), "bad"],
  dead: [_("died"), "bad"],
  failed: [_("failed"), "bad"],
  stopped: [_("stopped"), "warn"],
  new: [_("not trained yet"), "open"],
  finished: [_("finished"), "done"],
};

const PICTURES = {
  good: "M3 8.5l3.2 3.2L13 5",
  partly: "M8 2.5v7M8 12.2v.6",
  bad: "M4 4l8 8M12 4l-8 8",
  open: "M3.5 8h9",
};

export const stateWord = (state) => STATES[state]?.[0] ?? state;

export const badge = (state) => element("span", { class: `badge ${STATES[state]?.[1] ?? "open"}` }, stateWord(state));

// A verdict's word behind its picture.
export function stamp(verdict) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  for (const [name, value] of [["viewBox", "0 0 16 16"], ["class", "icon"], ["aria-hidden", "true"]]) svg.setAttribute(name, value);
  path.setAttribute("d", PICTURES[verdict.state] ?? PICTURES.open);
  svg.append(path);
  return element("span", { class: `stamp ${verdict.state}` }, svg, verdict.word);
}
