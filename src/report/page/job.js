// Draws one job: pictures, tables, and what two qconfigs differ in. The report and the web page share it.
//
// Everything that comes from a model or a job is set as text, never as markup.

import { NONE, bytes, download, drop, duration, h, milliseconds, or, plural, points, score, time } from "./elements.js";
import { drawGroups, drawDifference } from "./groups.js";
import { KINDS, Picture, legend } from "./pictures.js";
import { drawDeployment } from "./deployment.js";
import { inFp32, drawTrials, drawTrialTable } from "./trials.js";

/** The name of each metric, what its scores are multiplied by in pictures, and the unit that they have then. */
const METRICS = {
  top1: ["Top-1", 100, "%"],
  top5: ["Top-5", 100, "%"],
  agreement: ["Agreement with fp32", 100, "%"],
  sqnr: ["SQNR of the output", 1, "dB"],
  score: ["Score", 1, ""],
};
const FINISHES = {
  within_budget: "ended: a trial is within the budget",
  exhausted: "ended: every layer is back in fp32",
  max_trials: "ended: max_trials was reached",
  max_time: "ended: max_time was reached",
};
/** The drop that a budget allows. */
const allowed = ({ metric, max_drop: most, drop: kind }) =>
  kind === "relative" ? `${Number((most * 100).toPrecision(6))} % of fp32's score` : drop(metric, most);

/** The view of one job. `update` may be called again and again; switches stay as they are. */
export class JobView {
  /** `downloads` lists what can be saved of a report; `qconfig` saves that of a trial, where that can be had. */
  constructor(root, { downloads, qconfig } = {}) {
    this.downloads = downloads ?? ((report) => [{ name: "report.json", save: () => saveJson(report) }]);
    this.qconfig = qconfig;
    this.kind = null;
    this.all = false;
    this.shown = { dominated: true, unmeasured: true, intervals: true };
    this.order = "worst";
    this.head = h("header");
    this.tiles = h("dl", { className: "tiles" });
    this.trialPicture = new Picture("points", "Accuracy against latency");
    this.groupPicture = new Picture("rows", "SQNR by layer");
    this.trialLegend = h("div");
    this.groupTable = h("div");
    this.trialTable = h("div");
    this.difference = h("div");
    this.deployment = h("section", { hidden: true });
    this.facts = h("dl", { className: "facts" });
    this.links = h("div", { className: "links" });
    this.more = h("button", {
      type: "button",
      onclick: () => {
        this.all = !this.all;
        drawGroups(this);
      },
    });
    const toggle = (name, text) =>
      h(
        "label",
        {},
        h("input", {
          type: "checkbox",
          checked: this.shown[name],
          onchange: (event) => {
            this.shown[name] = event.target.checked;
            drawTrials(this);
          },
        }),
        text,
      );
    this.unmeasured = toggle("unmeasured", "trials without a latency");
    this.kinds = h(
      "fieldset",
      {},
      h("legend", {}, "Which ratio"),
      KINDS.map((kind) =>
        h(
          "label",
          { title: kind.what },
          h("input", {
            type: "radio",
            name: "kind",
            value: kind.id,
            onchange: () => {
              this.kind = kind.id;
              drawGroups(this);
            },
          }),
          kind.name,
        ),
      ),
    );
    const order = h(
      "select",
      {
        "aria-label": "Order of the layers",
        onchange: (event) => {
          this.order = event.target.value;
          drawGroups(this);
        },
      },
      h("option", { value: "worst" }, "the worst first"),
      h("option", { value: "best" }, "the best first"),
      h("option", { value: "network" }, "as in the network"),
      h("option", { value: "macs" }, "the most work first"),
    );
    this.selects = [h("select", { "aria-label": "First qconfig" }), h("select", { "aria-label": "Second qconfig" })];
    this.selects.forEach((select) =>
      select.addEventListener("change", () => {
        this.picked = true;
        drawDifference(this);
      }),
    );
    const section = (title, text, ...content) =>
      h("section", {}, h("h2", {}, title), text && h("p", { className: "soft" }, text), ...content);
    // Empty charts would be drawn before there is anything in them.
    this.body = h(
      "div",
      { hidden: true },
      this.tiles,
      section(
        "Accuracy against latency",
        "Each mark is one trial, measured in full. Further up and further left is better.",
        h(
          "div",
          { className: "tools" },
          toggle("intervals", "intervals and quartiles"),
          toggle("dominated", "beaten trials"),
          this.unmeasured,
        ),
        this.trialPicture.box,
        this.trialPicture.said,
        this.trialLegend,
      ),
      section(
        "What each layer loses in int8",
        "Signal to quantization noise in dB; further right is better. The bar is the ratio chosen here.",
        h("div", { className: "tools" }, this.kinds, h("label", {}, "order ", order)),
        legend([...KINDS, { mark: "hollow", colour: "--orange", name: "hollow bar: in fp32 in the chosen qconfig" }]),
        this.groupPicture.box,
        this.groupPicture.said,
        this.more,
        h("details", {}, h("summary", {}, "The same as a table"), this.groupTable),
      ),
      section("Trials", "Below a score its interval, below a median its quartiles.", this.trialTable),
      section(
        "Difference of two qconfigs",
        null,
        h("div", { className: "tools" }, this.selects[0], "against", this.selects[1]),
        this.difference,
      ),
      this.deployment,
      section("About this job", null, this.facts, this.links),
    );
    root.replaceChildren(this.head, this.body);
    // Names are shorter where there is less room.
    matchMedia("(max-width: 639px)").addEventListener("change", () => {
      if (!this.report) return;
      drawTrials(this);
      drawGroups(this);
    });
  }

  /** Shows this report; nothing happens when it is the one that is shown. */
  update(report) {
    const text = JSON.stringify(report);
    if (text === this.text) return;
    this.text = text;
    this.report = report;
    this.body.hidden = false;
    this.kind ??= report.rank_by;
    this.kinds.querySelectorAll("input").forEach((input) => {
      input.checked = input.value === this.kind;
    });
    [this.metric, this.scale, this.unit] = METRICS[report.budget.metric];
    this.drawHead();
    drawTrials(this);
    drawGroups(this);
    drawTrialTable(this);
    this.fillSelects();
    drawDifference(this);
    drawDeployment(this);
    this.drawFacts();
  }

  drawHead() {
    const { job, trials, budget } = this.report;
    const [fp32] = trials;
    const chosen = trials.find((trial) => trial.chosen);
    const lead = () => {
      if (!chosen)
        return job.state === "queued"
          ? "The job waits for a worker."
          : job.state === "running"
            ? trials.length
              ? "The search is running; the figures are those of its latest trial."
              : "The search is running."
            : "";
      if (chosen.number === 0) return "No quantized qconfig is within the budget: fp32 is chosen.";
      const faster =
        chosen.speed_up === null
          ? "without a latency"
          : chosen.speed_up > 1
            ? `${chosen.speed_up.toFixed(2)} times as fast as fp32`
            : `not faster than fp32 (${chosen.speed_up.toFixed(2)} times as fast)`;
      return `Trial ${chosen.number} is chosen: ${inFp32(chosen)}, ${faster}.`;
    };
    this.head.replaceChildren(
      h(
        "div",
        { className: "title" },
        h("h1", {}, job.name),
        h("span", { className: `badge ${job.state}` }, job.state),
      ),
      h("p", { className: "lead" }, lead()),
      ...(job.error ? [h("p", { className: "error", role: "alert" }, job.error)] : []),
    );
    const tile = (name, value, note) =>
      h(
        "div",
        { className: "tile" },
        h("dt", {}, name),
        h("dd", {}, h("span", { className: "value" }, value), h("span", { className: "note" }, note)),
      );
    const best = chosen ?? trials.at(-1);
    this.tiles.replaceChildren(
      ...(best
        ? [
            tile(
              "Speed-up",
              or(best.speed_up, (value) => `${value.toFixed(2)} ×`),
              or(best.median_ns, (ns) => `${milliseconds(ns)} ms, fp32 ${milliseconds(best.fp32_median_ns)} ms`),
            ),
            tile(
              this.metric,
              score(budget.metric, best.score),
              best.score_drop === null
                ? `at least ${score(budget.metric, budget.least_score)}`
                : `drop ${drop(budget.metric, best.score_drop)}, at most ${allowed(budget)}`,
            ),
            ...this.report.finalists
              .filter((finalist) => finalist.trial === best.number && finalist.bound !== null)
              .map((finalist) =>
                tile(
                  finalist.holds ? "Certified drop" : "Not certified",
                  `≤ ${points(finalist.bound)}`,
                  `at ${budget.confidence * 100} %: ${finalist.lost} lost, ${finalist.won} won of ${finalist.total.toLocaleString()}`,
                ),
              ),
            ...this.report.finalists
              .filter((finalist) => finalist.trial === best.number && finalist.score !== null)
              .map((finalist) =>
                tile(
                  "On the certify split",
                  score(budget.metric, finalist.score),
                  `fp32 ${score(budget.metric, finalist.fp32_score)}, drop ${drop(budget.metric, finalist.drop)}; of one number no bound follows`,
                ),
              ),
            tile("Weights", bytes(best.weight_bytes), `fp32 ${bytes(fp32.weight_bytes)}`),
            tile("Layers in fp32", String(best.fp32_groups.length), `of ${fp32.fp32_groups.length}`),
            tile("Trials", String(trials.length), chosen ? (FINISHES[job.finish] ?? "") : "so far"),
          ]
        : []),
    );
  }

  fillSelects() {
    const { trials } = this.report;
    const kept = this.selects.map((select) => select.value);
    const chosen = trials.findIndex((trial) => trial.chosen);
    const second = chosen >= 0 ? chosen : trials.length - 1;
    const preset = [second > 1 ? 1 : 0, second];
    this.selects.forEach((select, place) => {
      select.replaceChildren(
        ...trials.map((trial) =>
          h(
            "option",
            { value: trial.number },
            `Trial ${trial.number}: ${inFp32(trial)}${trial.chosen ? ", chosen" : ""}`,
          ),
        ),
      );
      select.value = this.picked ? kept[place] : String(preset[place]);
    });
  }

  drawFacts() {
    const { job, model, budget, trials, qtuned, ranking, rank_by: rankBy } = this.report;
    const fact = (name, text) => h("div", {}, h("dt", {}, name), h("dd", {}, text));
    const machines = [
      ...new Map(
        trials.filter((trial) => trial.fingerprint).map(({ fingerprint: f }) => [JSON.stringify(f), f]),
      ).values(),
    ];
    const limit =
      budget.metric === "sqnr"
        ? `at least ${budget.min_db} dB`
        : `a drop of at most ${allowed(budget)}`;
    this.facts.replaceChildren(
      fact("Model", `${model}, SHA-256 ${job.model_sha256.slice(0, 12)}…`),
      fact("Budget", `${this.metric}: ${limit}`),
      fact(
        "Samples searched on",
        or(trials[0]?.total, (total) => total.toLocaleString()),
      ),
      fact("Layers ranked by", `${KINDS.find(({ id }) => id === rankBy)?.name ?? rankBy} SQNR`),
      fact(
        "The ranking told what layers won",
        or(ranking, ({ correlation, pairs }) => `rank correlation ${correlation.toFixed(2)} over ${plural(pairs, "pair")}`),
      ),
      fact(
        "Latency taken on",
        machines.length
          ? machines
              .map(
                (f) =>
                  `${f.cpu}, ${f.kernel} kernels, ${plural(f.threads, "thread")}, batch ${f.batch}${f.quota_milli_cpus === null ? "" : `, quota of ${f.quota_milli_cpus / 1000} CPUs`}`,
              )
              .join("; ")
          : NONE,
      ),
      fact("Started", or(job.started_ms, time)),
      fact("Took", job.started_ms && job.finished_ms ? duration(job.finished_ms - job.started_ms) : NONE),
      fact("Made by", `qtuned ${qtuned}, job ${job.id}`),
    );
    this.links.replaceChildren(
      ...this.downloads(this.report).map(({ name, save }) => h("button", { type: "button", onclick: save }, name)),
    );
  }
}

function saveJson(report) {
  const blob = new Blob([JSON.stringify(report, null, 2)], { type: "application/json" });
  download(`${report.job.name}-report.json`, blob);
}
