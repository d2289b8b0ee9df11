// The trials of a job: accuracy against latency, and their table.

import { bytes, drop, h, milliseconds, number, or, plural, score, sortable } from "./elements.js";
import { ROLES, annotations, colour, errorBars, legend } from "./pictures.js";

const role = (trial) =>
  trial.chosen ? "chosen" : trial.number === 0 ? "fp32" : trial.on_front ? "front" : "dominated";
const repaired = (trial) => (trial.repairs.length === 0 ? "" : `, repaired by ${trial.repairs.join(" and ")}`);
/** What a trial leaves in fp32, in words. */
export const inFp32 = (trial) =>
  trial.int8_groups === 0
    ? "everything in fp32"
    : trial.fp32_groups.length === 0
      ? `everything in int8${repaired(trial)}`
      : `${plural(trial.fp32_groups.length, "layer")} in fp32${repaired(trial)}`;

/** Draws every trial with its interval and quartiles, the front and the budget. */
export function drawTrials(view) {
  const { trials, budget } = view.report;
  const measured = trials.filter((trial) => trial.median_ns !== null && Number.isFinite(number(trial.score)));
  const without = trials.filter((trial) => trial.median_ns === null && Number.isFinite(number(trial.score)));
  const visible = measured.filter((trial) => view.shown.dominated || role(trial) !== "dominated");
  const point = (trial) => {
    const [x, y] = [trial.median_ns / 1e6, trial.score * view.scale];
    const faint = role(trial) === "dominated";
    const [low, high] = (trial.interval ?? [trial.score, trial.score]).map((end) => end * view.scale);
    return {
      x,
      y,
      trial,
      faint,
      label: faint ? undefined : String(trial.number),
      bars: view.shown.intervals && { at: [x, y], x: [trial.q1_ns / 1e6, trial.q3_ns / 1e6], y: [low, high] },
    };
  };
  const front = visible.filter((trial) => trial.on_front).sort((a, b) => a.median_ns - b.median_ns);
  const stairs = front.map((trial) => ({ x: trial.median_ns / 1e6, y: trial.score * view.scale }));
  const ends = (values, share) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const room = Math.max((high - low) * share, Math.abs(high) * 1e-3);
    return { min: low - room, max: high + room };
  };
  const shown = visible.map(point);
  const rug = view.shown.unmeasured ? without : [];
  view.unmeasured.hidden = !without.length;
  const least =
    budget.least_score === null || !Number.isFinite(number(budget.least_score))
      ? undefined
      : number(budget.least_score) * view.scale;
  const xs = ends(
    shown.flatMap(({ x, bars }) => (bars ? [x, ...bars.x] : [x])),
    0.07,
  );
  const ys = ends(
    [
      ...shown.flatMap(({ y, bars }) => (bars ? [y, ...bars.y] : [y])),
      ...rug.map((trial) => trial.score * view.scale),
      ...(least === undefined ? [] : [least]),
    ],
    0.06,
  );
  const say = (trial) => [
    `${score(trial.metric, trial.score)}${trial.interval ? ` (${trial.interval.map((end) => (end * 100).toFixed(2)).join("–")})` : ""}`,
    trial.median_ns === null
      ? "without a latency"
      : `${milliseconds(trial.median_ns)} ms (${milliseconds(trial.q1_ns)}–${milliseconds(trial.q3_ns)})`,
    `${inFp32(trial)}${trial.within_budget && trial.number ? ", within the budget" : ""}`,
  ];
  const few = innerWidth < 640;
  view.trialPicture.canvas.setAttribute(
    "aria-label",
    `${view.metric} against latency of ${plural(shown.length, "trial")}; the table of trials below has the same numbers. Arrow keys go from point to point.`,
  );
  view.trialPicture.draw(() => ({
    type: "scatter",
    data: {
      datasets: [
        ...ROLES.map(({ id, mark, colour: name, radius }) => ({
          label: id,
          steps: true,
          data: shown.filter(({ trial }) => role(trial) === id),
          pointStyle: mark,
          pointRadius: radius,
          pointHoverRadius: radius + 2,
          borderColor: colour(name),
          backgroundColor: id === "dominated" ? "transparent" : colour(name),
          borderWidth: id === "dominated" ? 2 : 0,
          order: ROLES.findIndex((one) => one.id === id),
        })),
        {
          label: "without",
          steps: true,
          data: rug.map((trial) => ({ x: xs.min, y: trial.score * view.scale, trial })),
          pointStyle: "line",
          pointRadius: 12,
          borderColor: colour("--gray"),
          borderWidth: 2,
          clip: false,
        },
        {
          label: "stairs",
          data: stairs,
          showLine: true,
          stepped: "before",
          pointRadius: 0,
          pointHitRadius: 0,
          borderColor: colour("--blue"),
          borderWidth: 2,
          order: 9,
        },
      ],
    },
    options: {
      maintainAspectRatio: false,
      animation: false,
      interaction: { mode: "nearest", intersect: true },
      onClick: (_, [hit]) =>
        hit && showRow(view, view.trialPicture.chart.data.datasets[hit.datasetIndex].data[hit.index].trial),
      scales: {
        x: {
          ...xs,
          title: { display: true, text: "median latency, ms" },
          ticks: { includeBounds: false, maxTicksLimit: few ? 5 : 9 },
        },
        y: { ...ys, title: { display: !few, text: [view.metric, view.unit].filter(Boolean).join(", ") }, ticks: { includeBounds: false } },
      },
      plugins: {
        legend: { display: false },
        annotations: {
          budget: least,
          budgetText: least === undefined ? "" : `budget: at least ${score(budget.metric, budget.least_score)}`,
        },
        tooltip: {
          filter: ({ raw }) => Boolean(raw.trial),
          displayColors: false,
          callbacks: {
            title: ([item]) =>
              item
                ? `trial ${item.raw.trial.number}${item.raw.trial.chosen ? ", chosen" : ""}${item.raw.trial.on_front ? ", on the front" : ""}`
                : "",
            label: ({ raw }) => say(raw.trial),
          },
        },
      },
    },
    plugins: [errorBars, annotations],
  }));
  const confidence = `${Math.round(budget.confidence * 1000) / 10} %`;
  const notes = [
    { mark: "line", colour: "--blue", name: "front" },
    { mark: "dash", colour: "--orange", name: "budget" },
  ];
  view.trialLegend.replaceChildren(
    legend([...ROLES, ...notes]),
    h(
      "p",
      { className: "soft said" },
      !measured.length
        ? "No trial has a latency yet."
        : view.shown.intervals && view.scale === 100
          ? `Upright: ${confidence} interval of the ${view.metric} in the population, each trial alone; the drop between two trials on the same samples is known more closely. Across: quartiles of the latency.`
          : "",
    ),
  );
}

/** Fills the table of trials. */
export function drawTrialTable(view) {
  const { trials } = view.report;
  const by = (key) => (trial) => (trial[key] === undefined ? null : number(trial[key]));
  const pill = (word, mark) =>
    h("span", { className: `pill ${word}`, title: word }, mark, h("span", { className: "word" }, ` ${word}`));
  const both = (value, range) => h("span", {}, value, range && h("small", { className: "soft" }, range));
  view.trialTable.replaceChildren(
    sortable(
      "Trials",
      [
        { name: "Trial", value: by("number"), show: (trial) => String(trial.number) },
        {
          name: "Marks",
          text: true,
          show: (trial) =>
            h(
              "span",
              { className: "marks" },
              trial.chosen && pill("chosen", "◆"),
              trial.on_front && pill("front", "●"),
              trial.number > 0 && trial.within_budget && pill("in budget", "✓"),
            ),
        },
        {
          name: "In fp32",
          value: (trial) => trial.fp32_groups.length,
          show: (trial) =>
            trial.int8_groups === 0
              ? "all"
              : trial.fp32_groups.length === 0
                ? "none"
                : h(
                    "details",
                    {},
                    h("summary", {}, plural(trial.fp32_groups.length, "layer")),
                    h(
                      "ul",
                      {},
                      trial.fp32_groups.map((id) => h("li", {}, id)),
                    ),
                  ),
        },
        // A column of its own only where there is something to say.
        ...(trials.some((trial) => trial.repairs.length > 0)
          ? [
              {
                name: "Repairs",
                value: (trial) => trial.repairs.length,
                show: (trial) => trial.repairs.join(", ") || "none",
              },
            ]
          : []),
        {
          name: "Score",
          down: true,
          value: by("score"),
          show: (trial) =>
            both(
              score(trial.metric, trial.score),
              trial.interval && trial.interval.map((end) => (end * 100).toFixed(2)).join("–"),
            ),
        },
        {
          name: "Drop",
          value: by("score_drop"),
          // A trial that was stopped lost this at least.
          show: (trial) =>
            trial.complete
              ? or(trial.score_drop, (value) => drop(trial.metric, value))
              : or(trial.drop_low, (low) => `≥ ${drop(trial.metric, low)}`),
        },
        {
          name: "Median, ms",
          value: by("median_ns"),
          show: (trial) =>
            both(
              or(trial.median_ns, milliseconds),
              trial.q1_ns !== null && `${milliseconds(trial.q1_ns, 3)}–${milliseconds(trial.q3_ns, 3)}`,
            ),
        },
        {
          name: "Speed-up",
          down: true,
          value: by("speed_up"),
          show: (trial) => or(trial.speed_up, (value) => `${value.toFixed(2)} ×`),
        },
        { name: "Weights", value: by("weight_bytes"), show: (trial) => bytes(trial.weight_bytes) },
        ...(view.qconfig
          ? [
              {
                name: "Qconfig",
                show: (trial) =>
                  h(
                    "button",
                    {
                      type: "button",
                      "aria-label": `Save the qconfig of trial ${trial.number}`,
                      onclick: () => view.qconfig(trial),
                    },
                    "YAML",
                  ),
              },
            ]
          : []),
      ],
      trials,
      {
        sort: "Trial",
        rowClass: (trial) => (trial.chosen ? "chosen" : ""),
        rowId: (trial) => `trial-${trial.number}`,
      },
    ),
  );
}

/** Brings a trial's row into sight. */
export function showRow(view, { number: which }) {
  view.trialTable.querySelectorAll("tr.active").forEach((row) => row.classList.remove("active"));
  const row = view.trialTable.querySelector(`#trial-${which}`);
  row?.classList.add("active");
  row?.scrollIntoView({
    block: "center",
    behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth",
  });
}
