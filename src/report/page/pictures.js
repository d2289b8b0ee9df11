// What the charts have in common: marks, colours, error bars, and points that are reached by keyboard.

import { h } from "./elements.js";

export const KINDS = [
  {
    id: "output",
    name: "Output",
    mark: "circle",
    colour: "--blue",
    what: "of the network's output with this layer alone in int8",
  },
  {
    id: "accumulated",
    name: "Accumulated",
    mark: "triangle",
    colour: "--orange",
    what: "of the layer's output with every layer in int8",
  },
  {
    id: "local",
    name: "Local",
    mark: "rect",
    colour: "--green",
    what: "of the layer's output when it is fed the fp32 input",
  },
  { id: "weight", name: "Weight", mark: "cross", colour: "--gray", what: "of the layer's weight" },
];
export const ROLES = [
  { id: "chosen", name: "chosen", mark: "rectRot", colour: "--orange", radius: 9 },
  {
    id: "front",
    name: "on the front: no other trial is both better and faster",
    mark: "circle",
    colour: "--blue",
    radius: 6,
  },
  { id: "fp32", name: "fp32", mark: "triangle", colour: "--ink", radius: 7 },
  { id: "dominated", name: "beaten by another trial", mark: "crossRot", colour: "--gray", radius: 5 },
];

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
export const faded = (hex, alpha) =>
  hex +
  Math.round(alpha * 255)
    .toString(16)
    .padStart(2, "0");

/** A mark as in the charts. */
export function glyph({ mark, colour: name }) {
  const paths = {
    circle: "M13 8A5 5 0 1 1 3 8a5 5 0 1 1 10 0z",
    rectRot: "M8 0l8 8-8 8-8-8z",
    triangle: "M8 2l6 11H2z",
    rect: "M4 4h8v8H4z",
    cross: "M8 3v10M3 8h10",
    crossRot: "M4 4l8 8M12 4l-8 8",
    line: "M0 12h5V8h5V4h6",
    hollow: "M1 5h14v6H1z",
    dash: "M0 8h4M6 8h4M12 8h4",
  };
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const path = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "path"));
  path.setAttribute("d", paths[mark]);
  const open = ["cross", "crossRot", "line", "dash", "hollow"].includes(mark);
  path.setAttribute("fill", open ? "none" : `var(${name})`);
  path.setAttribute("stroke", open ? `var(${name})` : "none");
  path.setAttribute("stroke-width", "2.4");
  return svg;
}
export const legend = (entries) =>
  h(
    "ul",
    { className: "legend" },
    entries.map((entry) => h("li", {}, glyph(entry), entry.name)),
  );

/** Intervals and quartiles behind the points of a scatter chart. */
export const errorBars = {
  id: "errorBars",
  beforeDatasetsDraw({ ctx, data, scales: { x, y } }) {
    ctx.save();
    for (const { data: all, borderColor } of data.datasets) {
      for (const { bars, faint } of all) {
        if (!bars) continue;
        ctx.strokeStyle = faded(borderColor, faint ? 0.28 : 0.7);
        ctx.lineWidth = faint ? 1 : 1.5;
        ctx.beginPath();
        const [left, right, low, high] = [
          x.getPixelForValue(bars.x[0]),
          x.getPixelForValue(bars.x[1]),
          y.getPixelForValue(bars.y[0]),
          y.getPixelForValue(bars.y[1]),
        ];
        const [cx, cy] = [x.getPixelForValue(bars.at[0]), y.getPixelForValue(bars.at[1])];
        const cap = faint ? 0 : 3;
        (ctx.moveTo(left, cy), ctx.lineTo(right, cy), ctx.moveTo(cx, low), ctx.lineTo(cx, high));
        (ctx.moveTo(cx - cap, low), ctx.lineTo(cx + cap, low), ctx.moveTo(cx - cap, high), ctx.lineTo(cx + cap, high));
        (ctx.moveTo(left, cy - cap),
          ctx.lineTo(left, cy + cap),
          ctx.moveTo(right, cy - cap),
          ctx.lineTo(right, cy + cap));
        ctx.stroke();
      }
    }
    ctx.restore();
  },
};

/** The budget as a line with the part below it shaded, and the numbers of the trials that matter. */
export const annotations = {
  id: "annotations",
  beforeDatasetsDraw({ ctx, chartArea: area, scales: { y } }, _, { budget, budgetText }) {
    if (budget === undefined) return;
    const at = y.getPixelForValue(budget);
    if (at < area.top || at > area.bottom) return;
    ctx.save();
    ctx.fillStyle = faded(colour("--orange"), 0.07);
    ctx.fillRect(area.left, at, area.width, area.bottom - at);
    ctx.strokeStyle = ctx.fillStyle = colour("--orange");
    ctx.lineWidth = 1.5;
    ctx.setLineDash([6, 5]);
    (ctx.beginPath(), ctx.moveTo(area.left, at), ctx.lineTo(area.right, at), ctx.stroke());
    ctx.font = `13px ${Chart.defaults.font.family}`;
    ctx.textAlign = "right";
    ctx.fillText(budgetText, area.right - 6, at + 17);
    ctx.restore();
  },
  afterDatasetsDraw({ ctx, data, scales: { x, y } }) {
    ctx.save();
    ctx.font = `600 12px ${Chart.defaults.font.family}`;
    ctx.fillStyle = colour("--ink");
    for (const { data: all } of data.datasets) {
      for (const { label, x: px, y: py } of all) {
        if (label !== undefined) ctx.fillText(label, x.getPixelForValue(px) + 9, y.getPixelForValue(py) - 8);
      }
    }
    ctx.restore();
  },
};

/** Marks bars that end at the edge because their value is infinite. */
export const infinities = {
  id: "infinities",
  afterDatasetsDraw(chart) {
    const { ctx, chartArea: area } = chart;
    const [{ infinite }] = chart.data.datasets;
    ctx.save();
    ctx.font = `600 15px ${Chart.defaults.font.family}`;
    ctx.fillStyle = colour("--ink");
    ctx.textAlign = "right";
    ctx.textBaseline = "middle";
    chart.getDatasetMeta(0).data.forEach(({ y }, index) => infinite[index] && ctx.fillText("∞", area.right - 5, y));
    ctx.restore();
  },
};

/** A chart that is redrawn when the colours of the page change, and whose points can be reached by keyboard. */
export class Picture {
  constructor(className, label) {
    this.canvas = h("canvas", { tabindex: "0", role: "img", "aria-label": label });
    this.box = h("div", { className: `chart ${className}` }, this.canvas);
    this.said = h("output", { className: "said", "aria-live": "polite" }, "");
    this.canvas.addEventListener("keydown", (event) => this.step(event));
    this.canvas.addEventListener("blur", () => this.activate([]));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.make && this.draw(this.make));
  }

  /** Draws what `make` returns, a configuration of Chart.js. */
  draw(make) {
    this.make = make;
    Chart.defaults.color = colour("--soft");
    Chart.defaults.borderColor = colour("--line");
    Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
    this.chart?.destroy();
    this.chart = new Chart(this.canvas, make());
  }

  step(event) {
    const direction = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!direction || !this.chart) return;
    event.preventDefault();
    const all = this.chart.data.datasets.flatMap((set, datasetIndex) =>
      set.steps
        ? set.data.map((_, index) => ({ datasetIndex, index })).filter(({ index }) => set.data[index] !== null)
        : [],
    );
    if (!all.length) return;
    const place = ({ datasetIndex, index }) => {
      const { x, y } = this.chart.getDatasetMeta(datasetIndex).data[index];
      return this.chart.options.indexAxis === "y" ? y : x;
    };
    all.sort((a, b) => place(a) - place(b));
    const active = this.chart.getActiveElements()[0];
    const now = all.findIndex(
      (one) => active && one.datasetIndex === active.datasetIndex && one.index === active.index,
    );
    this.activate([all[(now + direction + all.length) % all.length]]);
  }

  activate(elements) {
    if (!this.chart) return;
    this.chart.setActiveElements(elements);
    this.chart.tooltip.setActiveElements(elements, { x: 0, y: 0 });
    this.chart.update("none");
    this.said.textContent = elements.length
      ? [this.chart.tooltip.title, this.chart.tooltip.body.map((part) => part.lines)].flat(3).join(" · ")
      : "";
  }
}
