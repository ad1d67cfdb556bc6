// Tables that sort by the column one asks for.

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, at) => {
    const button = element("button", { type: "button", title: "Sort by this column" }, head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const isUp = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", isUp ? "ascending" : "descending");
      const body = table.tBodies[0];
      const rows = [...body.rows].map((row) => [sortKey(row.cells[at]), row]);
      rows.sort(([a], [b]) => compareKeys(a, b) * (isUp || a === "" || b === "" ? 1 : -1));
      body.append(...rows.map(([, row]) => row));
    });
  });
}

function sortKey(cell) {
  const key = cell.dataset.sort ?? cell.textContent.trim();
  return key !== "" && Number.isFinite(Number(key)) ? Number(key) : key;
}

/** Numbers before words, nothing last. */
function compareKeys(a, b) {
  if (a === "" || b === "") return (a === "") - (b === "");
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a === "number" || typeof b === "number") return typeof a === "number" ? -1 : 1;
  return a.localeCompare(b);
}
