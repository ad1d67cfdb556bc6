// The numbers behind a plot, as a table and as CSV.

function plotColumns(plot) {
  const { data } = plot;
  const withEnd = plot.series.some((series) => series.xEnd.length);
  const withRange = plot.series.some((series) => series.low.length);
  const withLabels = plot.series.some((series) => series.labels.some(Boolean));
  const unit = (axis) => (["1", "share"].includes(axis.unit) ? "" : ` (${axis.unit})`);
  const names = ["series", `${data.x.label || "x"}${unit(data.x)}`];
  if (withEnd) names.push("to");
  names.push(`${data.y.label || "y"}${unit(data.y)}`);
  if (withRange) names.push("low", "high");
  if (withLabels) names.push("said");
  const rows = plot.series.flatMap((series) =>
    series.x.map((x, i) => {
      const category = data.x.categories[Math.round(x)];
      const row = [series.name, category ?? x];
      if (withEnd) row.push(series.xEnd[i] ?? "");
      row.push(Number.isFinite(series.y[i]) ? series.y[i] : "");
      if (withRange) row.push(series.low[i] ?? "", series.high[i] ?? "");
      if (withLabels) row.push(series.labels[i] ?? "");
      return row;
    }),
  );
  return [names, rows];
}

function asCsv(rows) {
  // A cell that begins like a formula would run in a spreadsheet.
  const cell = (value) => {
    const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\r\n");
}

function toggleTable(plot, button) {
  const isOpen = button.getAttribute("aria-expanded") === "true";
  button.setAttribute("aria-expanded", String(!isOpen));
  if (isOpen) {
    plot.table.remove();
    return;
  }
  const [names, rows] = plotColumns(plot);
  const save = () => download(fileName(plot.data.title, "csv"), "text/csv", asCsv([names, ...rows]));
  const head = element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)));
  const body = rows.map((row) =>
    element("tr", {}, ...row.map((value) => element(typeof value === "number" ? "td.number" : "td", {}, String(value)))),
  );
  plot.table = element(
    "div.behind",
    {},
    element("button", { type: "button", onclick: save }, `Save ${rows.length} rows as CSV`),
    element("div.scroll", { tabindex: 0 }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...body))),
  );
  plot.place.append(plot.table);
}

// The drawing as a file of its own, its colours written out

function saveSvg(plot) {
  const copy = plot.svg.cloneNode(true);
  const [from, to] = [plot.svg, copy].map((svg) => [svg, ...svg.querySelectorAll("*")]);
  from.forEach((node, i) => {
    const style = getComputedStyle(node);
    for (const name of ["fill", "stroke", "stroke-width", "stroke-dasharray", "fill-opacity", "font-size", "font-family", "font-weight"]) to[i].setAttribute(name, style.getPropertyValue(name));
  });
  copy.setAttribute("xmlns", SVG);
  copy.setAttribute("style", `background:${getComputedStyle(document.body).backgroundColor}`);
  download(fileName(plot.data.title, "svg"), "image/svg+xml", new XMLSerializer().serializeToString(copy));
}
