// From values to places and back, and where the ticks of an axis stand.

/** `low` to `high` of the data onto `start` to `end` in pixels. */
function makeScale(low, high, start, end, log) {
  const [a, b] = log ? [Math.log(low), Math.log(high)] : [low, high];
  const span = b - a || 1;
  return {
    low, high, start, end, log,
    at: (value) => start + ((end - start) * ((log ? Math.log(value) : value) - a)) / span,
    value: (place) => {
      const inner = a + (span * (place - start)) / (end - start);
      return log ? Math.exp(inner) : inner;
    },
  };
}

function linearTicks(low, high, most) {
  const rough = (high - low) / Math.max(most, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((digit) => digit * power).find((each) => each >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: Math.max(count, 0) }, (_, at) => (first + at) * step);
}

function logTicks(low, high, most) {
  const from = Math.floor(Math.log10(low));
  const to = Math.ceil(Math.log10(high));
  for (const digits of [[1, 2, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let power = from; power <= to; power += 1) {
      for (const digit of digits) {
        const tick = Number(`${digit}e${power}`);
        if (tick >= low * 0.999999 && tick <= high * 1.000001) ticks.push(tick);
      }
    }
    if (ticks.length <= most) return ticks.length > 1 ? ticks : linearTicks(low, high, most).filter((tick) => tick > 0);
    if (digits.length === 1) {
      const every = Math.ceil(ticks.length / Math.max(most, 1));
      return ticks.filter((_, at) => at % every === 0);
    }
  }
  return [];
}

/** Values and words of an axis's ticks, in one unit if the axis is linear. */
function makeTicks(scale, unit, most) {
  const values = scale.log ? logTicks(scale.low, scale.high, most) : linearTicks(scale.low, scale.high, most);
  if (scale.log && (unit === "s" || unit === "bytes")) {
    return values.map((value) => ({ value, text: shownFigure(value, unit) }));
  }
  const [factor, name] = unitScale(Math.max(Math.abs(scale.low), Math.abs(scale.high)), unit);
  const step = values.length > 1 ? Math.min(...values.slice(1).map((value, at) => value - values[at])) / factor : 1;
  let decimals = 0;
  while (decimals < 12 && Math.abs(step * 10 ** decimals - Math.round(step * 10 ** decimals)) > 1e-6 * step * 10 ** decimals) decimals += 1;
  return values.map((value) => ({
    value,
    unit: name,
    text: scale.log ? shownNumber(value / factor) : withCommas((value / factor).toFixed(decimals)),
  }));
}

function withCommas(text) {
  const [whole, rest] = text.split(".");
  const grouped = whole.replace(/\B(?=(\d{3})+$)/g, ",");
  return rest ? `${grouped}.${rest}` : grouped;
}

/** The place in ascending `values` whose entry is nearest to `value`. */
function nearest(values, value) {
  let [low, high] = [0, values.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (values[middle] <= value) low = middle;
    else high = middle;
  }
  return Math.abs(values[low] - value) <= Math.abs(values[high] - value) ? low : high;
}
