// The web page: the list of jobs, and one job that is followed while it runs.

import { download, duration, h, time } from "./elements.js";
import { JobView } from "./job.js";

const page = document.getElementById("page");
const status = document.getElementById("status");
const TERMINAL = ["succeeded", "failed", "cancelled"];
const wait = (ms, signal) =>
  new Promise((done) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        done();
      },
      { once: true },
    );
  });

/** What the server refused, as a person reads it. */
class Refusal extends Error {
  constructor(response, problem) {
    const place = problem.line ? `line ${problem.line}, ` : "";
    const field = problem.field ? `${problem.field}: ` : "";
    super(`${place}${field}${problem.detail ?? problem.title ?? `the server answered ${response.status}`}`);
    this.status = response.status;
  }
}

async function ask(path, { signal, headers = {}, ...options } = {}) {
  const token = sessionStorage.getItem("token");
  const response = await fetch(path, {
    ...options,
    signal,
    headers: { ...headers, ...(token && { Authorization: `Bearer ${token}` }) },
  });
  if (!response.ok) throw new Refusal(response, await response.json().catch(() => ({})));
  return response;
}
const json = (path, options) => ask(path, options).then((response) => response.json());

/** The events of a job, beginning with those that were missed. An EventSource cannot send a token, so this reads the stream. */
async function* events(path, signal) {
  let last;
  while (!signal.aborted) {
    try {
      const headers = { Accept: "text/event-stream", ...(last !== undefined && { "Last-Event-ID": last }) };
      const reader = (await ask(path, { signal, headers })).body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += value.replaceAll("\r", "");
        const blocks = text.split("\n\n");
        text = blocks.pop();
        for (const block of blocks) {
          const event = { event: "message", data: [] };
          for (const line of block.split("\n")) {
            const [, field, content] = /^([^:]*):? ?(.*)$/.exec(line);
            if (field === "data") event.data.push(content);
            else if (field) event[field] = content;
          }
          last = event.id ?? last;
          if (event.data.length) yield { kind: event.event, data: event.data.join("\n") };
        }
      }
    } catch (error) {
      if (signal.aborted) return;
      // Too many streams are open: one may have ended by the next time.
      if (error instanceof Refusal && error.status !== 429) throw error;
    }
    await wait(2000, signal);
  }
}

/** Downloads what the server has at a path. A link could not show the token. */
async function save(path, name) {
  try {
    download(name, await (await ask(path)).blob());
  } catch (error) {
    status.textContent = `${name}: ${error.message}`;
  }
}

const badge = (state) => h("span", { className: `badge ${state}` }, state);

/** Where a job is typed, pasted or taken from a file. */
function submission() {
  const text = h("textarea", { id: "job", rows: "16", spellcheck: "false", required: true });
  const wrong = h("p", { className: "error", role: "alert", hidden: true });
  const button = h("button", { type: "submit" }, "Submit");
  const fill = async ({ target }) => {
    if (target.files[0]) text.value = await target.files[0].text();
  };
  const submit = async (event) => {
    event.preventDefault();
    wrong.hidden = button.disabled = true;
    status.textContent = "Reading the model and the data …";
    try {
      const headers = { "Content-Type": "application/yaml" };
      const job = await json("/v1/jobs", { method: "POST", headers, body: text.value });
      location.hash = `#/jobs/${job.id}`;
    } catch (error) {
      wrong.textContent = error.message;
      wrong.hidden = false;
    }
    status.textContent = "";
    button.disabled = false;
  };
  return h(
    "details",
    { className: "submission" },
    h("summary", {}, "Submit a job"),
    h(
      "form",
      { onsubmit: submit },
      h("label", { for: "job" }, "The job, in YAML. The files that it names are those of the server."),
      text,
      wrong,
      h(
        "div",
        { className: "tools" },
        button,
        h("label", {}, "or take it from ", h("input", { type: "file", accept: ".yaml,.yml", onchange: fill })),
      ),
    ),
  );
}

async function showList(before, signal) {
  const table = h("div");
  const paused = h("p", { className: "error", role: "status", hidden: true });
  page.replaceChildren(h("h1", {}, "Jobs"), paused, h("section", { className: "jobs" }, table, submission()));
  let shown;
  while (!signal.aborted) {
    if (document.visibilityState === "visible") {
      const { jobs, next } = await json(`/v1/jobs${before ? `?before=${before}` : ""}`, { signal });
      const ready = await fetch("/readyz", { signal });
      paused.hidden = ready.ok;
      if (!ready.ok) paused.textContent = (await ready.json()).detail;
      const text = JSON.stringify(jobs);
      if (text !== shown) {
        shown = text;
        const heads = ["Job", "State", "Trials", "Chosen", "Result", "Started", "Took"];
        const row = (job) =>
          h(
            "tr",
            {},
            h(
              "td",
              { className: "text name" },
              h("a", { href: `#/jobs/${job.id}` }, job.name),
              h("span", { className: "soft" }, ` ${job.id}`),
            ),
            h("td", { className: "text" }, badge(job.state)),
            h("td", {}, String(job.trials), ...progress(job).slice(1)),
            h("td", {}, job.chosen === null ? "–" : `trial ${job.chosen}`),
            h(
              "td",
              { className: "text name" },
              job.error ??
                (job.within_budget === true
                  ? "within the budget"
                  : job.within_budget === false
                    ? "nothing quantized within the budget"
                    : "–"),
            ),
            h("td", {}, job.started_ms ? time(job.started_ms) : "–"),
            h("td", {}, job.finished_ms && job.started_ms ? duration(job.finished_ms - job.started_ms) : "–"),
          );
        table.replaceChildren(
          jobs.length
            ? h(
                "div",
                { className: "scroll", tabindex: "0", role: "region", "aria-label": "Jobs" },
                h(
                  "table",
                  {},
                  h(
                    "thead",
                    {},
                    h(
                      "tr",
                      {},
                      heads.map((name) =>
                        h(
                          "th",
                          { scope: "col", className: ["Job", "State", "Result"].includes(name) ? "text" : "" },
                          name,
                        ),
                      ),
                    ),
                  ),
                  h("tbody", {}, jobs.map(row)),
                ),
              )
            : h(
                "p",
                { className: "empty" },
                "No jobs yet. Submit one here, or with ",
                h("code", {}, "qtuned submit job.yaml"),
                ".",
              ),
          next ? h("p", {}, h("a", { href: `#/before/${next}` }, "Older jobs")) : "",
        );
      }
    }
    await wait(3000, signal);
  }
}

async function showJob(id, signal) {
  const holder = h("div");
  const live = h("div", { className: "live" });
  const base = `/v1/jobs/${encodeURIComponent(id)}`;
  const actions = new Actions(base);
  page.replaceChildren(h("div", { className: "doing" }, live, actions.box), holder, actions.log);
  const view = new JobView(holder, {
    downloads: ({ job }) =>
      ["report.html", "trials.csv", "groups.csv", "trials.svg", "groups.svg", "report.json"].map((file) => ({
        name: file,
        save: () => save(`${base}/files/${file}`, `${job.name}-${file}`),
      })),
    qconfig: ({ number }) => save(`${base}/trials/${number}/qconfig`, `job-${id}-trial-${number}.qconfig.yaml`),
  });
  const fetched = async () => {
    const report = await json(`${base}/report`, { signal });
    view.update(report);
    actions.update(report.job.state);
    document.title = `${report.job.name} · qtuned`;
    return report.job.state;
  };
  let state = await fetched();
  let stale = false;
  const ended = new AbortController();
  signal.addEventListener("abort", () => ended.abort(), { once: true });
  const listen = async () => {
    for await (const { kind, data } of events(`${base}/events`, ended.signal)) {
      if (kind === "end") break;
      if (kind === "job") live.replaceChildren(...progress(JSON.parse(data)));
      if (kind !== "job" || JSON.parse(data).state !== state) stale = true;
    }
  };
  // Events come faster than pictures are worth drawing.
  const redraw = async () => {
    while (!signal.aborted && !TERMINAL.includes(state)) {
      await wait(500, ended.signal);
      if (!stale || signal.aborted) continue;
      stale = false;
      state = await fetched();
    }
    ended.abort();
    live.replaceChildren();
  };
  if (!TERMINAL.includes(state)) await Promise.all([listen(), redraw()]);
}

/** What can be done to a job, and what it logged. */
class Actions {
  constructor(base) {
    this.base = base;
    const button = (text, what) => h("button", { type: "button", onclick: () => this.act(what) }, text);
    this.cancel = button("Cancel", "cancel");
    this.retry = button("Try again", "retry");
    this.lines = h("pre", { className: "log", tabindex: "0", "aria-label": "Log" });
    this.box = h("div", { className: "tools" }, this.cancel, this.retry);
    this.log = h(
      "section",
      {},
      h("details", { ontoggle: ({ target }) => target.open && this.read() }, h("summary", {}, "Log"), this.lines),
    );
  }

  update(state) {
    this.cancel.hidden = TERMINAL.includes(state);
    this.retry.hidden = !["failed", "cancelled", "interrupted"].includes(state);
    this.box.hidden = this.cancel.hidden && this.retry.hidden;
  }

  async act(what) {
    try {
      await ask(`${this.base}/${what}`, { method: "POST" });
      // A job that is tried again is followed again.
      if (what === "retry") show();
    } catch (error) {
      status.textContent = error.message;
    }
  }

  async read() {
    try {
      const lines = await json(`${this.base}/logs?limit=10000`);
      this.lines.textContent = lines
        .map(({ time_ms: ms, level, message }) => `${new Date(ms).toISOString()} ${level} ${message}`)
        .join("\n");
    } catch (error) {
      this.lines.textContent = error.message;
    }
  }
}

/** What a running job is doing, in words and as a bar. */
function progress({ state, progress: doing }) {
  if (state !== "running" || !doing) return [];
  const stages = {
    import: "reading model and data",
    calibrate: "calibrating",
    sensitivity: "measuring the SQNR of every layer",
    evaluate: "evaluating",
    latency: "taking latencies",
    rank: "ranking the other layers anew",
    screen: "looking which answers one layer more would change",
    times: "taking the times of layers",
    compare: "taking the latencies of trials within the budget in turn",
    certify: "certifying",
  };
  const trial =
    doing.trial === undefined ? "" : `Trial ${doing.trial}${doing.group ? ` (${doing.group} in fp32 as well)` : ""}: `;
  const amount = doing.total ? `, ${doing.done.toLocaleString()} of ${doing.total.toLocaleString()}` : "";
  const right = doing.correct && doing.done ? `, ${((doing.correct / doing.done) * 100).toFixed(2)} % right` : "";
  const seconds = doing.seconds_left;
  const left =
    seconds === undefined ? "" : seconds < 120 ? `; about ${seconds} s left` : `; about ${Math.round(seconds / 60)} min left`;
  const text = `${trial}${stages[doing.stage] ?? doing.stage}${amount}${right}${left}`;
  return [
    h("span", {}, text),
    h("progress", { "aria-label": text, ...(doing.total && { max: doing.total, value: doing.done }) }),
  ];
}

function askForToken() {
  const field = h("input", { type: "password", id: "token", autocomplete: "off", required: true });
  page.replaceChildren(
    h(
      "section",
      {},
      h("h1", {}, "Token"),
      h(
        "p",
        { className: "soft" },
        "This server answers only those who show a token. It is kept until this tab is closed.",
      ),
      h(
        "form",
        {
          className: "tools",
          onsubmit: (event) => {
            event.preventDefault();
            sessionStorage.setItem("token", field.value);
            show();
          },
        },
        h("label", { for: "token" }, "Token"),
        field,
        h("button", { type: "submit" }, "Continue"),
      ),
    ),
  );
  field.focus();
}

let current = new AbortController();

async function show() {
  current.abort();
  current = new AbortController();
  const { signal } = current;
  status.textContent = "";
  document.title = "qtuned";
  const job = /^#\/jobs\/([^/]+)$/.exec(location.hash);
  const before = /^#\/before\/(\d+)$/.exec(location.hash)?.[1];
  while (!signal.aborted) {
    try {
      return await (job ? showJob(decodeURIComponent(job[1]), signal) : showList(before, signal));
    } catch (error) {
      if (signal.aborted) return undefined;
      if (error.status === 401) return askForToken();
      if (error instanceof Refusal) {
        page.replaceChildren(
          h(
            "section",
            {},
            h("h1", {}, "This did not work"),
            h("p", { className: "error", role: "alert" }, error.message),
            h("p", {}, h("a", { href: "#/" }, "All jobs")),
          ),
        );
        return undefined;
      }
      status.textContent = "The server does not answer; trying again.";
    }
    await wait(3000, signal);
    status.textContent = "";
  }
  return undefined;
}

addEventListener("hashchange", () => {
  page.focus();
  show();
});
show();
