// Charts by uPlot, which ships with the studio: colours of the style sheet, a key, what is under the pointer in words,
// and the same values as a table for those who see no picture.
import uPlot from "./vendor/uPlot.esm.js";
import { element } from "./api.js";
import { _, figure, number } from "./words.js";

const MOST = 6000;
const ROWS = 40;
const COLOURS = ["--ink", "--quiet", "--line", "--paper"];
const dark = matchMedia("(prefers-color-scheme: dark)");

// The points of a line as they come, at most MOST of them: then of each stretch only the lowest and the highest stay.
export class Curve {
  constructor([xs, ys] = [[], []]) {
    this.xs = [...xs];
    this.ys = [...ys];
  }

  get last() {
    return this.ys.at(-1);
  }

  // A step that was done before is done again: the earlier one and all after it count no more.
  push(x, y) {
    this.cut(x);
    this.xs.push(x);
    this.ys.push(y);
    if (this.xs.length > MOST) this.thin(MOST / 2);
  }

  cut(x) {
    while (this.xs.length && this.xs.at(-1) >= x) {
      this.xs.pop();
      this.ys.pop();
    }
  }

  thin(most) {
    const size = Math.ceil((2 * this.xs.length) / most);
    const xs = [];
    const ys = [];
    for (let start = 0; start < this.xs.length; start += size) {
      const end = Math.min(start + size, this.xs.length);
      let low = start;
      let high = start;
      for (let n = start + 1; n < end; n++) {
        if (this.ys[n] === null) continue;
        if (this.ys[low] === null || this.ys[n] < this.ys[low]) low = n;
        if (this.ys[high] === null || this.ys[n] > this.ys[high]) high = n;
      }
      for (const n of low === high ? [low] : [Math.min(low, high), Math.max(low, high)]) {
        xs.push(this.xs[n]);
        ys.push(this.ys[n]);
      }
    }
    this.xs = xs;
    this.ys = ys;
  }

  get points() {
    return [this.xs, this.ys];
  }
}

// lines: {name, colour ("--after"), swatch (class of its sign in the key), width, dash, dots (each point is a measurement)}.
// format: a value as text. zero: the y axis begins at 0. binary: values are bytes. sync: charts of one name share a pointer.
// named: a line that is alone stands in the key too.
export class Chart {
  constructor(holder, { title, lines, xName = _("Step"), format = figure, zero = false, binary = false, sync = null, named = false }) {
    Object.assign(this, { holder, title, lines, xName, format, zero, binary });
    this.points = lines.map(() => [[], []]);
    this.marks = [];
    this.zoomed = false;
    this.plotBox = element("div", { class: "plot", role: "img" });
    this.readout = element("p", { class: "readout", "aria-hidden": "true" });
    this.whole = element("button", { class: "plain", type: "button", hidden: true, onclick: () => this.showAll() }, _("Show all"));
    this.table = element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title });
    this.values = element("details", { ontoggle: () => this.fillTable() }, element("summary", {}, _("Values")), this.table);
    holder.replaceChildren(
      element("div", { class: "chart-head" }, element("h3", {}, title), named || lines.length > 1 ? this.key() : null, this.whole),
      this.plotBox,
      this.readout,
      this.values,
    );
    this.plot = new uPlot(this.options(sync), [[], ...lines.map(() => [])], this.plotBox);
    this.repaint();
    this.sized = new ResizeObserver(() => this.plot.setSize(this.size()));
    this.sized.observe(this.plotBox);
    this.onScheme = () => this.repaint();
    dark.addEventListener("change", this.onScheme);
  }

  destroy() {
    dark.removeEventListener("change", this.onScheme);
    this.sized.disconnect();
    this.plot.destroy();
    this.holder.replaceChildren();
  }

  // points: [xs, ys] of each line, xs growing; a null is a value that is not known. marks: [x, word] of upright lines.
  set(points, marks = this.marks) {
    this.points = points;
    this.marks = marks;
    this.plot.setData(uPlot.join(points.map(([xs, ys]) => [xs.slice(), ys.slice()])), !this.zoomed);
    if (this.zoomed) this.plot.redraw();
    this.plotBox.setAttribute("aria-label", this.inWords());
    if (this.values.open) this.fillTable();
  }

  showAll() {
    this.zoomed = false;
    this.whole.hidden = true;
    this.plot.setData(this.plot.data, true);
  }

  key() {
    const signs = this.lines.map((line) => element("li", {}, element("span", { class: `swatch ${line.swatch}` }), line.name));
    return element("ul", { class: "key" }, signs);
  }

  // The colours are asked of the style sheet where light-dark() has been decided, which a variable's text has not.
  repaint() {
    const probe = element("span");
    this.holder.append(probe);
    this.colours = {};
    for (const name of new Set([...COLOURS, ...this.lines.map((line) => line.colour)])) {
      probe.style.color = `var(${name})`;
      this.colours[name] = getComputedStyle(probe).color;
    }
    probe.remove();
    this.plot.redraw(false);
  }

  size() {
    return { width: Math.max(120, this.plotBox.clientWidth), height: Math.max(90, this.plotBox.clientHeight) };
  }

  options(sync) {
    const colour = (name) => () => this.colours?.[name];
    const axis = { stroke: colour("--quiet"), font: "12px system-ui, sans-serif", ticks: { show: false } };
    const grid = { stroke: colour("--line"), width: 1 };
    const wide = (values) => 14 + 7 * Math.max(2, ...(values ?? []).map((value) => value.length));
    const range = (_plot, min, max) => {
      if (min === null) return [0, 1]; // without a range an axis that has values later is not laid out
      return this.zero ? [Math.min(0, min), max > 0 ? 1.08 * max : 1] : uPlot.rangeNum(min, max, 0.1, true);
    };
    return {
      ...this.size(),
      legend: { show: false },
      padding: [8, 12, 0, 0],
      scales: {
        x: { time: false },
        y: { range },
      },
      axes: [
        { ...axis, grid: { show: false }, size: 26, incrs: steps(), values: (_plot, splits) => splits.map((x) => number(x)) },
        {
          ...axis,
          grid,
          size: (_plot, values) => wide(values),
          values: (_plot, splits) => splits.map((y) => this.format(y)),
          ...(this.binary ? { incrs: powers() } : {}),
        },
      ],
      series: [
        {},
        ...this.lines.map((line) => ({
          label: line.name,
          stroke: colour(line.colour),
          width: line.width ?? 2,
          dash: line.dash,
          points: { show: Boolean(line.dots), size: 6, fill: colour(line.colour), stroke: colour("--paper") },
        })),
      ],
      cursor: {
        y: false,
        points: { size: 7, fill: (_plot, n) => this.colours[this.lines[n - 1].colour], stroke: () => this.colours["--paper"] },
        ...(sync ? { sync: { key: sync, scales: ["x", null] } } : {}),
      },
      hooks: {
        setCursor: [(plot) => this.tell(plot)],
        draw: [(plot) => this.drawMarks(plot)],
        setScale: [(plot, key) => key === "x" && this.noteZoom(plot)],
      },
    };
  }

  noteZoom(plot) {
    const xs = plot.data[0];
    const { min, max } = plot.scales.x;
    this.zoomed = xs.length > 1 && (min > xs[0] || max < xs.at(-1));
    this.whole.hidden = !this.zoomed;
  }

  // What is under the pointer: a line that has no value there says at which step its nearest one was measured.
  tell(plot) {
    const { idx, idxs } = plot.cursor;
    if (idx === null || idx === undefined) {
      this.readout.textContent = "";
      return;
    }
    const at = plot.data[0][idx];
    const parts = this.lines.map((line, n) => {
      const found = idxs[n + 1];
      const value = found === null || found === undefined ? null : plot.data[n + 1][found];
      if (value === null || value === undefined) return null;
      const x = plot.data[0][found];
      return `${line.name} ${this.format(value)}${x === at ? "" : ` (${number(x)})`}`;
    });
    this.readout.textContent = [`${this.xName} ${number(at)}`, ...parts.filter(Boolean)].join(" · ");
  }

  drawMarks(plot) {
    const { ctx, bbox } = plot;
    const scale = devicePixelRatio;
    ctx.save();
    ctx.fillStyle = this.colours["--quiet"];
    ctx.font = `${11 * scale}px system-ui, sans-serif`;
    ctx.textBaseline = "top";
    ctx.textAlign = "left";
    let free = -Infinity;
    for (const [x, word] of this.marks) {
      const left = plot.valToPos(x, "x", true);
      if (!(left >= bbox.left && left <= bbox.left + bbox.width)) continue;
      ctx.strokeStyle = this.colours["--quiet"];
      ctx.lineWidth = scale;
      ctx.setLineDash([4 * scale, 3 * scale]);
      ctx.beginPath();
      ctx.moveTo(left, bbox.top);
      ctx.lineTo(left, bbox.top + bbox.height);
      ctx.stroke();
      const wide = ctx.measureText(word).width;
      const start = left + 4 * scale + wide > bbox.left + bbox.width ? left - 4 * scale - wide : left + 4 * scale;
      if (start < free) continue; // its line stands there; its word would lie over another
      ctx.setLineDash([]);
      ctx.strokeStyle = this.colours["--paper"];
      ctx.lineWidth = 3 * scale;
      ctx.strokeText(word, start, bbox.top + 2 * scale);
      ctx.fillText(word, start, bbox.top + 2 * scale);
      free = start + wide + 8 * scale;
    }
    ctx.restore();
  }

  inWords() {
    const told = this.lines.map((line, n) => {
      const known = this.points[n][1].filter((y) => y !== null);
      if (!known.length) return _("{name}: no value", { name: line.name });
      const [first, last] = [known[0], known.at(-1)].map(this.format);
      return _("{name}: from {first} to {last}", { name: line.name, first, last });
    });
    return `${this.title}. ${told.join("; ")}`;
  }

  // Some ROWS of all steps and the last one, and every measurement of the lines that have few.
  fillTable() {
    if (!this.values.open) return;
    const data = uPlot.join(this.points.map(([xs, ys]) => [xs, ys]));
    const last = data[0].length - 1;
    const wanted = new Set();
    for (let n = 0; n <= ROWS && last >= 0; n++) wanted.add(Math.round((n * last) / ROWS));
    this.points.forEach(([xs], line) => {
      if (xs.length > ROWS) return;
      data[line + 1].forEach((value, n) => value !== undefined && wanted.add(n));
    });
    const head = [this.xName, ...this.lines.map((line) => line.name)].map((name) => element("th", { scope: "col", class: "num" }, name));
    const rows = [...wanted].sort((a, b) => a - b).map((n) =>
      element(
        "tr",
        {},
        element("th", { scope: "row", class: "num" }, number(data[0][n])),
        this.lines.map((_line, m) => element("td", { class: "num" }, data[m + 1][n] == null ? "" : this.format(data[m + 1][n]))),
      ),
    );
    const table = element("table", {}, element("thead", {}, element("tr", {}, head)), element("tbody", {}, rows));
    this.table.replaceChildren(table);
  }
}

// Distances of ticks: whole steps; powers of two for bytes.
function steps() {
  return Array.from({ length: 12 }, (_zero, power) => [1, 2, 5].map((first) => first * 10 ** power)).flat();
}

function powers() {
  return Array.from({ length: 46 }, (_zero, power) => 2 ** power);
}
