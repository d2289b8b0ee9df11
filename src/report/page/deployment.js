// The certificate of the exported network: how it behaves where it is deployed.

import { h, milliseconds, or, plural, sortable } from "./elements.js";

/** Shows the certificate of the view's report, where there is one. */
export function drawDeployment(view) {
  const certificate = view.report.deployment;
  view.deployment.hidden = !certificate;
  if (!certificate) return;
  const { engine, reread, int8, fp32, problems, warnings, fingerprint, sha256 } = certificate;
  const percent = (value) => (value * 100).toFixed(2);
  const rows = [
    { name: "qtuned, fp32", accuracy: fp32, ns: null },
    { name: "qtuned, qconfig", accuracy: int8, ns: engine && engine.qtuned_ns },
    ...(engine ? [{ name: engine.name, accuracy: engine.accuracy, ns: engine.engine_ns }] : []),
  ];
  const same = engine
    ? `${engine.name} (${engine.build}) gives the same largest output on ${engine.agree.toLocaleString()} of ` +
      `${int8.total.toLocaleString()} samples (${percent(engine.agreement)} %); outputs differ by ` +
      `${engine.largest_difference.toPrecision(3)} at most.`
    : "No other engine ran it: qtuned verify --engine does that.";
  view.deployment.replaceChildren(
    h("h2", {}, "The exported network"),
    h(
      "p",
      { className: "soft" },
      `Trial ${certificate.trial} on the certify split, as qtuned verify found it. Read again, the file gives the same ` +
        `bits on ${reread.same.toLocaleString()} of ${reread.total.toLocaleString()} samples. ${same}`,
    ),
    h(
      "p",
      {},
      problems.length ? `It does NOT behave as it was measured: ${problems.join("; ")}.` : "It behaves as it was measured.",
      warnings.map((warning) => ` Warning: ${warning}.`),
    ),
    sortable(
      "The exported network in each engine",
      [
        { name: "Engine", text: true, show: ({ name }) => name },
        { name: "Top-1", show: ({ accuracy }) => `${percent(accuracy.top1)} %` },
        {
          name: "In the population",
          show: ({ accuracy }) => or(accuracy.interval, (ends) => ends.map(percent).join("–")),
        },
        { name: "Median, ms", show: ({ ns }) => or(ns, milliseconds) },
      ],
      rows,
    ),
    h(
      "p",
      { className: "soft" },
      `${fingerprint.cpu}, ${fingerprint.kernel} kernels, ${plural(fingerprint.threads, "thread")}; exported file SHA-256 ` +
        `${sha256.exported.slice(0, 12)}…; qtuned ${certificate.qtuned}.`,
    ),
  );
}
