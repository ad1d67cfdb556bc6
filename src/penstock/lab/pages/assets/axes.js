// What stands around and across a plot: axes, names, marks.

function drawAxes(plot) {
  const { data } = plot;
  const { plane, x, y, right } = plot.scales;
  const group = drawn("g.axes");
  for (const tick of y.ticks) {
    const at = fixed(y.at(tick.value));
    group.append(drawn("path.grid-line", { d: `M${fixed(plane.left)} ${at}H${fixed(plane.right)}` }), drawn("text", { x: plane.left - 8, y: at, dy: "0.32em", "text-anchor": "end" }, tick.text));
  }
  group.append(drawn("path.axis", { d: `M${fixed(plane.left)} ${plane.bottom}H${fixed(plane.right)}` }));
  for (const tick of x.ticks) {
    const at = fixed(x.at(tick.value));
    group.append(drawn("path.axis", { d: `M${at} ${plane.bottom}v5` }), drawn("text", { x: at, y: plane.bottom + 19, "text-anchor": "middle" }, tick.text));
  }
  if (data.x.categories.length) drawCategories(plot, group);
  else group.append(drawn("text.name", { x: (plane.left + plane.right) / 2, y: plot.height - 6, "text-anchor": "middle" }, named(data.x, x.ticks)));
  const middle = (plane.top + plane.bottom) / 2;
  group.append(drawn("text.name", { transform: `translate(13 ${middle}) rotate(-90)`, "text-anchor": "middle" }, named(data.y, y.ticks)));
  if (right) {
    for (const tick of right.ticks) group.append(drawn("text", { x: plane.right + 8, y: fixed(right.at(tick.value)), dy: "0.32em" }, tick.text));
    group.append(drawn("text.name", { transform: `translate(${plot.width - 8} ${middle}) rotate(-90)`, "text-anchor": "middle" }, named(data.right, right.ticks)));
  }
  return group;
}

function drawCategories(plot, group) {
  const { plane, x } = plot.scales;
  const room = Math.max(4, Math.floor((x.at(1) - x.at(0)) / 6.6));
  plot.data.x.categories.forEach((name, i) => {
    const label = drawn("text", { x: fixed(x.at(i)), y: plane.bottom + 19, "text-anchor": "middle" });
    for (const [row, line] of wrapped(name, room, 2).entries()) label.append(drawn("tspan", { x: fixed(x.at(i)), dy: row ? "1.15em" : 0 }, line));
    label.append(drawn("title", {}, name));
    group.append(label);
  });
}

function drawMarks(plot) {
  const { plane, x, y } = plot.scales;
  const group = drawn("g");
  for (const mark of plot.data.marks) {
    const scale = mark.across === "x" ? x : y;
    const at = scale.at(mark.at);
    const end = mark.until === null ? at : scale.at(mark.until);
    if (!isPlace(at) || !isPlace(end)) continue;
    if (mark.until !== null) {
      const box = mark.across === "x" ? { x: Math.min(at, end), y: plane.top, width: Math.abs(end - at), height: plane.bottom - plane.top } : { x: plane.left, y: Math.min(at, end), width: plane.right - plane.left, height: Math.abs(end - at) };
      group.append(drawn(`rect.band.${mark.tone}`, box));
    } else {
      const d = mark.across === "x" ? `M${fixed(at)} ${plane.top}V${plane.bottom}` : `M${plane.left} ${fixed(at)}H${plane.right}`;
      group.append(drawn(`path.mark.${mark.tone}`, { d }));
    }
  }
  return group;
}

function drawMarkLabels(plot) {
  const { plane, x, y } = plot.scales;
  const group = drawn("g.mark-labels");
  for (const mark of plot.data.marks.filter((each) => each.until === null)) {
    const at = (mark.across === "x" ? x : y).at(mark.at);
    if (mark.across === "x" && at >= plane.left && at <= plane.right) {
      const isLeft = at > plane.right - 90;
      group.append(drawn("text", { x: at + (isLeft ? -5 : 5), y: plane.top + 8, "text-anchor": isLeft ? "end" : "start" }, mark.label));
    } else if (mark.across === "y" && at >= plane.top && at <= plane.bottom) {
      group.append(drawn("text", { x: plane.right - 4, y: at - 5, "text-anchor": "end" }, mark.label));
    }
  }
  return group;
}

function named(axis, ticks) {
  const unit = ticks.length ? (ticks[0].unit ?? "") : "";
  return [axis.label, unit].filter(Boolean).join(", ");
}

function wrapped(text, room, rows) {
  const lines = [""];
  for (const word of text.split(/\s+/)) {
    const last = lines.at(-1);
    if (!last || last.length + word.length < room) lines[lines.length - 1] = last ? `${last} ${word}` : word;
    else lines.push(word);
  }
  const kept = lines.slice(0, rows).map((line) => (line.length > room ? `${line.slice(0, room - 1)}…` : line));
  if (lines.length > rows) kept[rows - 1] = `${kept[rows - 1].slice(0, room - 1).replace(/…$/, "")}…`;
  return kept;
}
