// The layers of a job: what each loses in int8, and what two qconfigs differ in.

import {
  NONE,
  bytes,
  count,
  decibel,
  h,
  milliseconds,
  number,
  or,
  plural,
  score,
  shortened,
  sortable,
} from "./elements.js";
import { KINDS, colour, faded, infinities } from "./pictures.js";

// Layers that are drawn before all of them are asked for.
const FEW = 24;

/** Draws the SQNR of every layer and fills their table. */
export function drawGroups(view) {
  const { groups } = view.report;
  const value = (group, kind) => number(group[`${kind}_db`]);
  const known = groups.filter((group) => group.output_db !== null);
  const rank = (group) => value(group, view.kind) ?? Infinity;
  const orders = {
    worst: (a, b) => rank(a) - rank(b) || 0,
    best: (a, b) => rank(b) - rank(a) || 0,
    macs: (a, b) => b.macs - a.macs,
    network: () => 0,
  };
  const sorted = [...known].sort(orders[view.order]);
  const rows = view.all ? sorted : sorted.slice(0, FEW);
  view.more.hidden = sorted.length <= FEW;
  view.more.textContent = view.all ? `Show ${FEW}` : `Show all ${sorted.length} layers`;
  view.groupPicture.box.style.height = `${Math.max(rows.length, 1) * 24 + 50}px`;
  const finite = known.flatMap((group) => KINDS.map(({ id }) => value(group, id))).filter(Number.isFinite);
  const top = Math.max(...finite, 1) * 1.06;
  const place = (db) => (db === Infinity ? top : Number.isFinite(db) ? db : null);
  const few = innerWidth < 640;
  const name = (group) =>
    `${group.chosen !== "fp32" ? "" : few ? "▲ " : "▲ fp32  "}${shortened(group.id, few ? 18 : 34)}`;
  const chosenKind = KINDS.find(({ id }) => id === view.kind);
  view.groupPicture.canvas.setAttribute(
    "aria-label",
    `SQNR of ${plural(rows.length, "layer")}, ${chosenKind.what}; the table below has the same numbers. Arrow keys go from layer to layer.`,
  );
  view.groupPicture.draw(() => ({
    type: "bar",
    data: {
      labels: rows.map(name),
      datasets: [
        {
          type: "bar",
          label: "bar",
          infinite: rows.map((group) => value(group, view.kind) === Infinity),
          steps: true,
          data: rows.map((group) => place(value(group, view.kind))),
          barThickness: 12,
          borderRadius: 3,
          order: 9,
          borderWidth: 1.5,
          borderSkipped: "start",
          backgroundColor: rows.map((group) =>
            group.chosen === "fp32" ? "transparent" : faded(colour(chosenKind.colour), 0.28),
          ),
          borderColor: rows.map((group) => (group.chosen === "fp32" ? colour(chosenKind.colour) : "transparent")),
        },
        ...KINDS.map(({ id, name: text, mark, colour: ink }) => ({
          type: "line",
          label: text,
          showLine: false,
          clip: false,
          data: rows.map((group) => (Number.isFinite(value(group, id)) ? value(group, id) : null)),
          pointStyle: mark,
          pointRadius: id === view.kind ? 6 : 4,
          pointHoverRadius: 7,
          borderColor: colour(ink),
          backgroundColor: colour(ink),
          borderWidth: id === "weight" ? 2 : 0,
          order: id === view.kind ? 0 : 1,
        })),
      ],
    },
    options: {
      indexAxis: "y",
      maintainAspectRatio: false,
      animation: false,
      interaction: { mode: "index", axis: "y", intersect: false },
      scales: {
        x: {
          min: Math.min(0, ...finite),
          max: top,
          title: { display: true, text: "SQNR, dB" },
          ticks: { includeBounds: false },
        },
        y: {
          grid: { display: false },
          ticks: {
            autoSkip: false,
            color: ({ index }) => colour(rows[index]?.chosen === "fp32" ? "--orange" : "--ink"),
            font: ({ index }) => ({ weight: rows[index]?.chosen === "fp32" ? 600 : 400 }),
          },
        },
      },
      plugins: {
        legend: { display: false },
        tooltip: {
          filter: ({ dataset }) => dataset.label === "bar",
          displayColors: false,
          callbacks: {
            title: ([item]) => (item ? rows[item.dataIndex].id : ""),
            label: ({ dataIndex }) => {
              const group = rows[dataIndex];
              return [
                ...KINDS.map(({ id, name: text }) => `${text}: ${or(group[`${id}_db`], (db) => `${decibel(db)} dB`)}`),
                `${group.object_type}, ${count(group.macs)} MACs`,
                ...(group.chosen ? [`in ${group.chosen} in the chosen qconfig`] : []),
              ];
            },
          },
        },
      },
    },
    plugins: [infinities],
  }));
  const column = (name, key, show) => ({
    name,
    down: key === "macs" || key === "parameters",
    value: (group) => number(group[key]),
    show: (group) => or(group[key], show),
  });
  view.groupTable.replaceChildren(
    sortable(
      "SQNR of every layer",
      [
        {
          name: "Layer",
          text: true,
          value: (group) => group.id,
          show: (group) =>
            h("span", {}, group.id, group.chosen === "fp32" && h("span", { className: "pill fp32" }, "▲ fp32")),
        },
        { name: "Type", text: true, value: (group) => group.object_type, show: (group) => group.object_type },
        column("MACs", "macs", count),
        column("Parameters", "parameters", count),
        ...KINDS.map(({ id, name: text }) => column(`${text}, dB`, `${id}_db`, decibel)),
      ],
      groups,
      { sort: `${KINDS.find(({ id }) => id === view.kind).name}, dB` },
    ),
  );
}

/** Shows what two qconfigs differ in. */
export function drawDifference(view) {
  const { trials, groups } = view.report;
  const [a, b] = view.selects.map((select) => trials[select.selectedIndex]);
  if (!a || !b) return view.difference.replaceChildren(h("p", { className: "empty" }, "There are no trials yet."));
  const [inA, inB] = [new Set(a.fp32_groups), new Set(b.fp32_groups)];
  const rows = groups.filter(({ id }) => inA.has(id) !== inB.has(id));
  const change = (from, to, show) => (from === null || to === null ? NONE : `${show(from)} → ${show(to)}`);
  const fact = (name, text) => h("div", {}, h("dt", {}, name), h("dd", {}, text));
  view.difference.replaceChildren(
    h(
      "dl",
      { className: "facts" },
      fact(
        view.metric,
        change(a.score, b.score, (value) => score(a.metric, value)),
      ),
      fact(
        "Median latency",
        change(a.median_ns, b.median_ns, (ns) => `${milliseconds(ns)} ms`),
      ),
      fact("Weights", change(a.weight_bytes, b.weight_bytes, bytes)),
    ),
    rows.length
      ? sortable(
          "Layers that differ",
          [
            { name: "Layer", text: true, value: ({ id }) => id, show: ({ id }) => id },
            { name: "Type", text: true, value: (group) => group.object_type, show: (group) => group.object_type },
            { name: `Trial ${a.number}`, show: ({ id }) => (inA.has(id) ? "▲ fp32" : "int8") },
            { name: `Trial ${b.number} `, show: ({ id }) => (inB.has(id) ? "▲ fp32" : "int8") },
            { name: "MACs", down: true, value: (group) => group.macs, show: (group) => count(group.macs) },
            {
              name: "Output, dB",
              value: (group) => number(group.output_db),
              show: (group) => or(group.output_db, decibel),
            },
          ],
          rows,
          {},
        )
      : h("p", { className: "empty" }, "The two qconfigs are the same."),
  );
}
