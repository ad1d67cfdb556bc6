// One series as SVG shapes. `at` gives pixels: at.x(value), at.y(value); NaN where a value has no place.

const DASHES = ["", "7 4", "2 3", "9 3 2 3", "12 4", "4 2", "1 3", "6 2 2 2"];
const SHAPES = [
  (r) => `m${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`,
  (r) => `m${-r} ${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  (r) => `m0 ${-1.2 * r}l${1.2 * r} ${2.2 * r}h${-2.4 * r}z`,
  (r) => `m0 ${-1.4 * r}l${1.4 * r} ${1.4 * r}l${-1.4 * r} ${1.4 * r}l${-1.4 * r} ${-1.4 * r}z`,
  (r) => `m${-1.2 * r} ${-r}h${2.4 * r}l${-1.2 * r} ${2.2 * r}z`,
];

const isPlace = Number.isFinite;
const fixed = (value) => value.toFixed(1);

function linePath(series, at) {
  let path = "";
  let isBroken = true;
  series.x.forEach((x, i) => {
    const [px, py] = [at.x(x), at.y(series.y[i])];
    if (!isPlace(px) || !isPlace(py)) {
      isBroken = true;
      return;
    }
    if (isBroken) path += `M${fixed(px)} ${fixed(py)}`;
    else if (series.kind === "step") path += `H${fixed(px)}V${fixed(py)}`;
    else path += `L${fixed(px)} ${fixed(py)}`;
    isBroken = false;
  });
  return path;
}

function bandPath(series, at) {
  const places = series.x
    .map((x, i) => [at.x(x), at.y(series.high[i]), at.y(series.low[i])])
    .filter((place) => place.every(isPlace));
  if (places.length < 2) return "";
  const above = places.map(([x, high]) => `${fixed(x)} ${fixed(high)}`);
  const below = places.map(([x, , low]) => `${fixed(x)} ${fixed(low)}`).reverse();
  return `M${above.join("L")}L${below.join("L")}Z`;
}

function whiskerPath(series, at, place) {
  let path = "";
  series.x.forEach((x, i) => {
    const [px, low, high] = [place(x, i), at.y(series.low[i]), at.y(series.high[i])];
    if ([px, low, high].every(isPlace)) {
      path += `M${fixed(px)} ${fixed(low)}V${fixed(high)}M${fixed(px - 3.5)} ${fixed(low)}h7M${fixed(px - 3.5)} ${fixed(high)}h7`;
    }
  });
  return path;
}

function markerPath(series, at, shape) {
  const radius = series.x.length > 400 ? 1.6 : series.x.length > 60 ? 2.4 : 3.6;
  let path = "";
  series.x.forEach((x, i) => {
    const [px, py] = [at.x(x), at.y(series.y[i])];
    if (isPlace(px) && isPlace(py)) path += `M${fixed(px)} ${fixed(py)}${SHAPES[shape](radius)}`;
  });
  return path;
}

/** Left and right of a bar: its own edges, or its share of a category's place. */
function barEdges(series, i, at, bars) {
  if (series.xEnd.length) return [at.x(series.x[i]), at.x(series.xEnd[i])];
  const wide = at.category * 0.72;
  const left = at.x(series.x[i]) - wide / 2 + (wide * bars.indexOf(series)) / bars.length;
  return [left, left + wide / bars.length];
}

function barPath(series, at, bars) {
  let path = "";
  series.x.forEach((_, i) => {
    const [left, right] = barEdges(series, i, at, bars);
    const [top, bottom] = [at.y(series.y[i]), at.ground];
    if ([left, right, top].every(isPlace)) {
      const gap = right - left > 3 ? 0.5 : 0;
      path += `M${fixed(left + gap)} ${fixed(bottom)}V${fixed(top)}H${fixed(right - gap)}V${fixed(bottom)}Z`;
    }
  });
  return path;
}

/** All shapes of a series. `bars` are the visible series of bars, which share the places of categories. */
function drawSeries(series, at, bars) {
  const { colour, dash, shape } = series;
  const group = drawn("g", { "data-series": series.name });
  const stroke = { fill: "none", stroke: colour, "stroke-width": 2, "stroke-linejoin": "round", "stroke-linecap": "round" };
  if (series.kind === "bars") {
    group.append(drawn("path.bar", { d: barPath(series, at, bars), fill: colour, "fill-opacity": 0.75 }));
    const middle = (_, i) => barEdges(series, i, at, bars).reduce((a, b) => a + b) / 2;
    if (series.low.length) group.append(drawn("path", { ...stroke, stroke: "var(--ink)", "stroke-width": 1.5, d: whiskerPath(series, at, middle) }));
    return group;
  }
  if (series.kind === "points") {
    if (series.low.length) group.append(drawn("path", { ...stroke, "stroke-width": 1.5, d: whiskerPath(series, at, at.x) }));
    const isCrowded = series.x.length > 400;
    group.append(drawn("path.marker", { d: markerPath(series, at, shape), fill: colour, "fill-opacity": isCrowded ? 0.45 : 0.9 }));
    return group;
  }
  if (series.low.length) {
    group.append(drawn("path", { d: bandPath(series, at), fill: colour, "fill-opacity": 0.16 }));
    if (series.marked) group.append(drawn("path", { ...stroke, "stroke-width": 1.2, d: whiskerPath(series, at, at.x) }));
  }
  group.append(drawn("path.line", { ...stroke, d: linePath(series, at), "stroke-dasharray": dash }));
  if (series.marked) group.append(drawn("path.marker", { d: markerPath(series, at, shape), fill: colour }));
  return group;
}

/** A sample of a series, for its legend. */
function drawSwatch(series) {
  const svg = drawn("svg.swatch", { viewBox: "0 0 26 12", width: 26, height: 12, "aria-hidden": "true" });
  if (series.kind === "bars") {
    svg.append(drawn("rect", { x: 7, y: 1, width: 12, height: 10, fill: series.colour, "fill-opacity": 0.75 }));
    return svg;
  }
  if (series.kind !== "points") {
    svg.append(drawn("path", { d: "M1 6H25", fill: "none", stroke: series.colour, "stroke-width": 2.2, "stroke-dasharray": series.dash }));
  }
  if (series.kind === "points" || series.marked) {
    svg.append(drawn("path", { d: `M13 6${SHAPES[series.shape](3.6)}`, fill: series.colour }));
  }
  return svg;
}
