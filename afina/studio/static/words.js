// The words of the studio's language. English stands in the modules: _("Runs"), _("{n} of {total}", {n: 1, total: 2}).
// Figures are written as afina/units.py and afina/report/labels.py write them.
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

const fixed = (value, digits) => number(value, { minimumFractionDigits: digits, maximumFractionDigits: digits });

// A measured number: whole ones in groups of three, others with four significant digits, tiny ones as 2e-5.
export function figure(value) {
  if (value === null || value === undefined || Number.isInteger(value)) return number(value);
  if (Math.abs(value) >= 1000) return fixed(value, 1);
  if (Math.abs(value) >= 1e-3) return number(value, { maximumSignificantDigits: 4 });
  const [mantissa, exponent] = value.toExponential(2).split("e");
  return `${number(Number(mantissa))}e${Number(exponent)}`;
}

// Bytes in powers of 1024: 24.0 GiB.
export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let step = 0;
  for (; Math.abs(value) >= 1024 && step < units.length - 1; step++) value /= 1024;
  return `${fixed(value, step ? 1 : 0)} ${units[step]}`;
}

// A duration with two significant parts: 2 min 15 s.
export function duration(seconds) {
  if (seconds < 1) return `${fixed(seconds, 2)} s`;
  if (seconds < 60) return `${fixed(seconds, 1)} s`;
  const whole = Math.round(seconds);
  const two = (part) => String(part).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (whole < 172800) return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

// A count that keeps three digits: 972, 13.4 M.
export function count(value) {
  for (const [limit, letter, unit] of [[1e12, "T", 1e12], [1e9, "G", 1e9], [1e6, "M", 1e6], [1e4, "k", 1e3]]) {
    if (Math.abs(value) < limit) continue;
    const scaled = value / unit;
    return `${fixed(scaled, scaled < 10 ? 2 : scaled < 100 ? 1 : 0)} ${letter}`;
  }
  return fixed(value, 0);
}

// An amount, always with its currency: US$ 0.71.
export function money(amount, currency) {
  return `${currency} ${fixed(amount, amount === 0 || amount >= 0.01 ? 2 : 3)}`;
}

// A share of one: 92.5 %.
export function percent(share) {
  return `${number(100 * share, { maximumFractionDigits: 1 })} %`;
}

// Unix seconds as date and time; in English as 2026-11-29 13:42, which cannot be read in two ways.
export function moment(seconds) {
  const locale = language === "en" ? "sv-SE" : language;
  return new Intl.DateTimeFormat(locale, { dateStyle: "short", timeStyle: "short" }).format(seconds * 1000);
}
