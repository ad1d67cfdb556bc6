// The part of the Prometheus text format (https://prometheus.io/docs/instrumenting/exposition_formats/) that gauges
// need. What can't be read is skipped: a figure is then missing, and the chat goes on.

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{.*\})?\s+(\S+)(?:\s+-?\d+)?$/;

/** Sums each metric over its labels: a Map from name to value. */
export function parseMetrics(text) {
  const totals = new Map();
  for (const line of text.split("\n")) {
    const match = SAMPLE.exec(line.trim());
    const value = match ? Number(match[2]) : NaN;
    if (Number.isFinite(value)) totals.set(match[1], (totals.get(match[1]) ?? 0) + value);
  }
  return totals;
}
