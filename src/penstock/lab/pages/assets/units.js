// Figures as people read them, in the same words as units.py.

const TIMES = [[1, "s"], [1e-3, "ms"], [1e-6, "µs"], [1e-9, "ns"]];
const LONG = [[3600, "h", 7200], [60, "min", 120]];
const BYTES = [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "B"]];

/** With so many significant digits, all digits before the point, and commas at the thousands. */
function shownNumber(value, digits = 3) {
  if (Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "-∞";
  if (value === 0) return "0";
  const magnitude = Math.floor(Math.log10(Math.abs(Number(value.toExponential(digits - 1)))) + 1e-12);
  if (magnitude < -5) return value.toExponential(digits - 1).replace(/e([+-])(\d)$/, "e$10$2");
  const decimals = Math.max(digits - 1 - magnitude, 0);
  let written = value.toFixed(Math.min(decimals, 100));
  if (Number.isInteger(value) && written.includes(".")) written = written.replace(/\.?0+$/, "");
  const [whole, rest] = written.split(".");
  const grouped = whole.replace(/\B(?=(\d{3})+$)/g, ",");
  return rest ? `${grouped}.${rest}` : grouped;
}

/** What to divide by, and the unit's name then, so that `largest` reads well. */
function unitScale(largest, unit) {
  if (unit === "s") {
    for (const [factor, name, least] of LONG) if (least <= largest && largest < Infinity) return [factor, name];
    return TIMES.find(([factor]) => largest >= factor * 0.9995) ?? TIMES[largest ? 3 : 0];
  }
  if (unit === "bytes") return BYTES.find(([factor]) => largest >= factor * 0.9995) ?? BYTES[4];
  if (unit === "share") return [0.01, "%"];
  return [1, unit === "1" ? "" : unit];
}

/** "12.3 ms"; a dash where there is no value. */
function shownFigure(value, unit, digits = 3) {
  if (value === null || Number.isNaN(value)) return "–";
  const [factor, name] = unitScale(Math.abs(value), unit);
  const shown = shownNumber(value / factor, digits);
  return name ? `${shown} ${name}` : shown;
}
