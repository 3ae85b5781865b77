// The words of the studio's language. English stands in the modules: _("Runs"), _("{n} of {total}", {n: 1, total: 2}).
import { getJSON } from "./api.js";

const told = await getJSON("/api/words");
export const language = told.language;
const plural = new Intl.PluralRules(language);
const numbers = new Intl.NumberFormat(language);

const filled = (text, values) => text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));

export function _(text, values = {}) {
  return filled(told.words[text] ?? text, values);
}

// A text with a plural; {n} is the number.
export function _n(one, many, n, values = {}) {
  const forms = told.words[one] ?? [one, many];
  return filled(forms[plural.select(n) === "one" ? 0 : 1], { n: numbers.format(n), ...values });
}

// A number as the language writes it; `options` are those of Intl.NumberFormat.
export function number(value, options = {}) {
  return value === null || value === undefined ? "–" : new Intl.NumberFormat(language, options).format(value);
}

// Unix seconds as date and time.
export function moment(seconds) {
  return new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" }).format(seconds * 1000);
}
