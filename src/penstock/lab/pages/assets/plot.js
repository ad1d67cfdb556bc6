// A plot that answers: values under the pointer or the arrow keys, series to hide, a stretch to zoom into, log axes.

const MARGIN = { top: 24, right: 18, bottom: 46, sign: 6.5, name: 34 }; // px; of a sign of a tick's words, and beside them
const NEAR = 26; // px from a point of a scatter at which it is meant
const DRAG = 6; // px from which a press is a stretch

class Plot {
  constructor(place, data) {
    this.place = place;
    this.data = data;
    this.log = { x: data.x.log, y: data.y.log, right: Boolean(data.right?.log) };
    this.zoom = null; // [low, high] in x
    this.cursor = null; // an x, in data
    let next = 0;
    this.series = data.series.map((series, i) => {
      const colour = series.tone ? i : (series.colour ?? next++);
      const shade = colour % 8;
      return {
        ...series,
        index: i,
        isShown: series.shown,
        colour: series.tone ? `var(--${series.tone})` : `var(--series-${shade})`,
        dash: series.dashed ? "3 4" : series.right ? "8 3 2 3" : colour < 8 ? "" : DASHES[Math.floor(colour / 8) % DASHES.length],
        shape: colour % SHAPES.length,
        x: series.x.map(number),
        y: series.y.map(number),
        low: series.low.map(number),
        high: series.high.map(number),
        xEnd: series.xEnd.map(number),
      };
    });
    this.svg = drawn("svg", { role: "img", tabindex: 0, "aria-label": this.spoken() });
    this.tip = element("div.tip", { hidden: true });
    this.live = element("div.sr-only", { "aria-live": "polite" });
    this.resetButton = element("button", { type: "button", hidden: true, onclick: () => this.setZoom(null) }, "Reset zoom");
    this.canvas = element("div.canvas", {}, this.svg, this.tip);
    place.before(element("div.head", {}, place.parentElement.querySelector("h3"), this.makeTools()));
    place.append(...this.makeLegend(), this.canvas, this.live);
    this.listen();
    new ResizeObserver(() => this.resize()).observe(place);
    this.resize();
  }

  spoken() {
    const names = this.data.series.map((series) => series.name).join(", ");
    return `${this.data.title}. Series: ${names}. Arrow keys read values; the table has them all.`;
  }

  get visible() {
    return this.series.filter((series) => series.isShown);
  }

  // What stands above the drawing

  makeLegend() {
    if (this.series.length < 2) return [];
    const legend = element("div.legend", { role: "group", "aria-label": "Series" });
    for (const series of this.series) {
      const title = "Click: hide or show. Double click: this one alone.";
      const button = element("button", { type: "button", "aria-pressed": String(series.isShown), title }, drawSwatch(series), element("span", {}, series.name));
      button.addEventListener("click", (event) => {
        if (event.detail > 1) this.showAlone(series);
        else series.isShown = !series.isShown;
        this.changed();
      });
      series.button = button;
      legend.append(button);
    }
    return [legend];
  }

  makeTools() {
    const tools = element("div.tools", { role: "group", "aria-label": "View" }, this.resetButton);
    const left = this.series.filter((series) => !series.right);
    if (!this.data.x.categories.length && !this.data.x.fromZero && this.canLog(this.series.flatMap((series) => series.x))) tools.append(this.logButton("x"));
    if (this.canLog(left.flatMap((series) => series.y))) tools.append(this.logButton("y"));
    const table = element("button", { type: "button", "aria-expanded": "false" }, "Table");
    table.addEventListener("click", () => toggleTable(this, table));
    tools.append(table, element("button", { type: "button", onclick: () => saveSvg(this) }, "SVG"));
    return tools;
  }

  /** Whether a logarithmic axis would show most of it. */
  canLog(values) {
    const finite = values.filter(Number.isFinite);
    const positive = finite.filter((value) => value > 0);
    if (positive.length < 2 || positive.length * 2 < finite.length) return false;
    return positive.reduce((a, b) => Math.max(a, b)) > 3 * positive.reduce((a, b) => Math.min(a, b));
  }

  logButton(axis) {
    const button = element("button", { type: "button", "aria-pressed": String(this.log[axis]) }, `log ${axis}`);
    button.addEventListener("click", () => {
      this.log[axis] = !this.log[axis];
      button.setAttribute("aria-pressed", String(this.log[axis]));
      this.changed();
    });
    return button;
  }

  showAlone(wanted) {
    const wasAlone = this.visible.length === 1 && wanted.isShown;
    for (const series of this.series) series.isShown = wasAlone || series === wanted;
  }

  changed() {
    for (const series of this.series) series.button?.setAttribute("aria-pressed", String(series.isShown));
    this.hideTip();
    this.draw();
  }

  setZoom(range) {
    this.zoom = range;
    this.resetButton.hidden = range === null;
    this.changed();
  }

  // The drawing

  resize() {
    const width = this.place.clientWidth;
    if (!width || (width === this.width && this.svg.firstChild)) return;
    this.width = width;
    this.height = this.data.height;
    this.draw();
  }

  /** The least and greatest of what is to be seen along an axis. */
  range(axis, columns) {
    const isLog = this.log[axis];
    let [low, high] = [Infinity, -Infinity];
    for (const value of columns) {
      if (!Number.isFinite(value) || (isLog && value <= 0)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
    if (low > high) return isLog ? [1, 10] : [0, 1];
    if (this.data[axis].fromZero && !isLog) [low, high] = [Math.min(low, 0), Math.max(high, 0)];
    if (low === high) return isLog ? [low / 2, high * 2] : low === 0 ? [0, 1] : [low - Math.abs(low) / 2, high + Math.abs(high) / 2];
    return [low, high];
  }

  /** The range of values, and of the marks that are near enough not to press the values into a corner. */
  withMarks(axis, columns) {
    const [low, high] = this.range(axis, columns);
    const scale = makeScale(low, high, 0, 1, this.log[axis]);
    const near = this.data.marks
      .filter((mark) => mark.across === axis)
      .flatMap((mark) => [mark.at, mark.until ?? mark.at])
      .filter((value) => Math.abs(scale.at(value) - 0.5) < 2);
    return near.length ? this.range(axis, [...columns, ...near]) : [low, high];
  }

  widened(axis, [low, high]) {
    if (this.log[axis]) {
      const by = (high / low) ** 0.04;
      return [low / by, high * by];
    }
    const by = (high - low) * 0.05;
    return [low === 0 ? 0 : low - by, high === 0 ? 0 : high + by];
  }

  makeScales() {
    const seen = this.visible;
    const hasNames = this.data.x.categories.length > 0;
    const plane = { top: MARGIN.top, bottom: this.height - (hasNames ? MARGIN.bottom - 6 : MARGIN.bottom) };
    let along;
    if (hasNames) along = [-0.5, this.data.x.categories.length - 0.5];
    else if (this.zoom) along = this.zoom;
    else {
      along = this.withMarks("x", seen.flatMap((series) => [...series.x, ...series.xEnd]));
      if (seen.some((series) => series.kind === "points" || series.marked)) along = this.widened("x", along);
    }
    const scales = { plane };
    const most = Math.max(2, Math.floor((plane.bottom - plane.top) / 40));
    for (const side of this.data.right ? ["y", "right"] : ["y"]) {
      const mine = seen.filter((series) => series.right === (side === "right"));
      const columns = mine.flatMap((series) => this.inWindow(series, along));
      if (mine.some((series) => series.kind === "bars") && !this.log[side]) columns.push(0);
      const [low, high] = this.widened(side, this.withMarks(side, columns));
      const scale = makeScale(low, high, plane.bottom, plane.top, this.log[side]);
      scales[side] = { ...scale, ticks: makeTicks(scale, this.data[side].unit, most) };
    }
    const room = (side) => MARGIN.name + MARGIN.sign * Math.max(...scales[side].ticks.map((tick) => tick.text.length), 2);
    plane.left = room("y");
    plane.right = this.width - (this.data.right ? room("right") : MARGIN.right);
    const x = makeScale(...along, plane.left, plane.right, this.log.x && !hasNames);
    const across = Math.max(2, Math.floor((plane.right - plane.left) / 80));
    return { ...scales, x: { ...x, ticks: hasNames ? [] : makeTicks(x, this.data.x.unit, across) } };
  }

  /** y values, with their intervals, at the x in sight; of a line also those next to it. */
  inWindow(series, [low, high]) {
    const values = [];
    series.x.forEach((x, i) => {
      const isIn = (series.xEnd[i] ?? x) >= low && x <= high;
      const isBeside = series.kind === "step" && series.x[i + 1] >= low && x <= high;
      if (isIn || isBeside) values.push(series.y[i], ...(series.low.length ? [series.low[i], series.high[i]] : []));
    });
    return values;
  }

  draw() {
    if (!this.width) return;
    const { svg, width, height } = this;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    const scales = (this.scales = this.makeScales());
    const { plane } = scales;
    const clip = `clip-${this.place.dataset.plot}`;
    svg.replaceChildren(
      drawn("defs", {}, drawn("clipPath", { id: clip }, drawn("rect", { x: plane.left, y: plane.top - 4, width: Math.max(plane.right - plane.left, 0), height: plane.bottom - plane.top + 4 }))),
      drawAxes(this),
      drawn("g", { "clip-path": `url(#${clip})` }, drawMarks(this), ...this.drawAll()),
      drawMarkLabels(this),
      (this.over = drawn("g.over", { "pointer-events": "none" })),
    );
  }

  drawAll() {
    const bars = this.visible.filter((series) => series.kind === "bars");
    return this.visible.map((series) => drawSeries(series, this.placing(series), bars));
  }

  placing(series) {
    const y = series.right ? this.scales.right : this.scales.y;
    const inLog = (scale) => (value) => (scale.log && value <= 0 ? NaN : scale.at(value));
    const ground = !y.log && y.low <= 0 && y.high >= 0 ? y.at(0) : this.scales.plane.bottom;
    const category = this.data.x.categories.length ? this.scales.x.at(1) - this.scales.x.at(0) : 24;
    return { x: inLog(this.scales.x), y: inLog(y), ground, category };
  }

  // Values under the pointer and the keys

  listen() {
    const { svg } = this;
    svg.addEventListener("pointermove", (event) => this.moved(event));
    svg.addEventListener("pointerleave", () => this.hideTip());
    svg.addEventListener("pointerdown", (event) => this.pressed(event));
    svg.addEventListener("pointerup", (event) => this.released(event));
    svg.addEventListener("pointercancel", () => this.endPress());
    svg.addEventListener("dblclick", () => this.setZoom(null));
    svg.addEventListener("keydown", (event) => this.keyed(event));
    svg.addEventListener("blur", () => this.hideTip());
  }

  placeOf(event) {
    const box = this.svg.getBoundingClientRect();
    return [((event.clientX - box.left) * this.width) / box.width, ((event.clientY - box.top) * this.height) / box.height];
  }

  moved(event) {
    const [px, py] = this.placeOf(event);
    if (this.press && Math.abs(px - this.press.x) > DRAG) {
      this.hideTip();
      this.over.replaceChildren(this.stretch(this.press.x, px));
      return;
    }
    const { plane, x } = this.scales;
    if (px < plane.left - 4 || px > plane.right + 4 || py < plane.top - 8 || py > plane.bottom + 8) return this.hideTip();
    this.showAt(x.value(px), px, py);
  }

  pressed(event) {
    if (event.button !== 0 || this.data.x.categories.length) return;
    this.press = { x: this.placeOf(event)[0], id: event.pointerId };
    this.svg.setPointerCapture(event.pointerId);
  }

  released(event) {
    const press = this.press;
    this.endPress();
    if (!press) return;
    const { plane, x } = this.scales;
    const ends = [press.x, this.placeOf(event)[0]].map((at) => Math.min(Math.max(at, plane.left), plane.right)).sort((a, b) => a - b);
    if (ends[1] - ends[0] > DRAG) this.setZoom(ends.map(x.value));
  }

  endPress() {
    this.press = null;
    this.over.replaceChildren();
  }

  stretch(from, to) {
    const { plane } = this.scales;
    const [left, right] = [from, to].map((at) => Math.min(Math.max(at, plane.left), plane.right)).sort((a, b) => a - b);
    return drawn("rect.stretch", { x: left, y: plane.top, width: right - left, height: plane.bottom - plane.top });
  }

  keyed(event) {
    const xs = [...new Set(this.visible.flatMap((series) => series.x).filter(Number.isFinite))].sort((a, b) => a - b);
    const { x } = this.scales;
    const inSight = xs.filter((value) => value >= x.low && value <= x.high);
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 };
    if (event.key in steps && inSight.length) {
      const from = this.cursor === null ? (steps[event.key] > 0 ? -1 : inSight.length) : nearest(inSight, this.cursor);
      this.showAt(inSight[Math.min(Math.max(from + steps[event.key], 0), inSight.length - 1)], null, null);
    } else if (event.key === "Home" && inSight.length) this.showAt(inSight[0], null, null);
    else if (event.key === "End" && inSight.length) this.showAt(inSight.at(-1), null, null);
    else if (event.key === "Escape") this.hideTip();
    else if (event.key === "0") this.setZoom(null);
    else if ((event.key === "+" || event.key === "-") && !this.data.x.categories.length) this.zoomBy(event.key === "+" ? 0.5 : 2);
    else return;
    event.preventDefault();
  }

  zoomBy(factor) {
    const { x } = this.scales;
    const middle = x.at(this.cursor ?? x.value((x.start + x.end) / 2));
    const half = ((x.end - x.start) * factor) / 2;
    this.setZoom([x.value(middle - half), x.value(middle + half)]);
  }

  /** What each series has to say at an x: of steps the value that holds there, of all else the point nearest to it. */
  rowsAt(value, px, py) {
    const rows = [];
    for (const series of this.visible) {
      if (!series.x.length) continue;
      const at = this.placing(series);
      let i;
      if (series.kind === "points" && px !== null) i = this.nearPoint(series, at, px, py);
      else if (series.xEnd.length) i = series.x.findIndex((x, j) => value >= x && value < series.xEnd[j]);
      else {
        i = nearest(series.x, value);
        if (series.kind === "step" && series.x[i] > value) i -= 1;
        const away = i >= 0 ? Math.abs(at.x(series.x[i]) - at.x(value)) : Infinity;
        const far = this.data.x.categories.length ? at.category / 2 : 40;
        if (series.kind === "step" ? value > series.x.at(-1) && away > far : !(away <= (px === null ? 0.75 : far))) i = -1;
      }
      if (i !== null && i >= 0) rows.push({ series, i });
    }
    return rows;
  }

  nearPoint(series, at, px, py) {
    let [best, away] = [-1, NEAR * NEAR];
    series.x.forEach((x, i) => {
      const distance = (at.x(x) - px) ** 2 + (at.y(series.y[i]) - py) ** 2;
      if (distance < away) [best, away] = [i, distance];
    });
    return best;
  }

  showAt(value, px, py) {
    const rows = this.rowsAt(value, px, py);
    if (!rows.length) return this.hideTip();
    const lines = rows.filter(({ series }) => series.kind !== "points");
    const head = (lines.length ? lines : rows)[0];
    const isExact = head.series.kind !== "step";
    const shownX = isExact ? head.series.x[head.i] : value;
    this.cursor = shownX;
    const { plane, x } = this.scales;
    this.over.replaceChildren();
    if (lines.length) this.over.append(drawn("path.cursor", { d: `M${fixed(x.at(shownX))} ${plane.top}V${plane.bottom}` }));
    for (const { series, i } of rows) {
      if (series.kind === "bars") continue;
      const at = this.placing(series);
      const [cx, cy] = [series.kind === "step" ? x.at(Math.max(shownX, series.x[i])) : at.x(series.x[i]), at.y(series.y[i])];
      if (isPlace(cx) && isPlace(cy)) this.over.append(drawn("circle.at", { cx, cy, r: 4.5, stroke: series.colour }));
    }
    this.fillTip(head, shownX, rows);
    this.placeTip(px ?? x.at(shownX), py ?? plane.top + 20);
  }

  fillTip(head, shownX, rows) {
    const axis = this.data.x;
    const end = head.series.xEnd[head.i];
    let title = axis.categories.length ? (axis.categories[Math.round(shownX)] ?? "") : shownFigure(shownX, axis.unit, 4);
    if (end !== undefined) title += ` to ${shownFigure(end, axis.unit, 4)}`;
    if (!axis.categories.length && axis.label) title = `${axis.label}: ${title}`;
    const shown = rows.slice(0, 14).map(({ series, i }) => {
      const unit = (series.right ? this.data.right : this.data.y).unit;
      let words = shownFigure(series.y[i], unit, 4);
      if (series.low.length) words += ` [${shownFigure(series.low[i], unit)} to ${shownFigure(series.high[i], unit)}]`;
      const label = series.labels[i] ? element("span.label", {}, series.labels[i]) : null;
      return element("div.row", {}, drawSwatch(series), element("span", {}, series.name), element("b", {}, words), label);
    });
    this.tip.replaceChildren(element("div.title", {}, title), ...shown);
    this.live.textContent = [title, ...shown.map((row) => row.textContent)].join("; ");
  }

  placeTip(px, py) {
    this.tip.hidden = false;
    const [wide, high] = [this.tip.offsetWidth, this.tip.offsetHeight];
    const left = px + 16 + wide > this.width ? Math.max(px - wide - 16, 0) : px + 16;
    this.tip.style.left = `${left}px`;
    this.tip.style.top = `${Math.max(Math.min(py - high / 2, this.height - high), 0)}px`;
  }

  hideTip() {
    this.cursor = null;
    this.tip.hidden = true;
    this.over?.replaceChildren();
  }
}

function number(value) {
  return value === null ? NaN : value;
}
