// Plots of one thing, one at a time; then what starts all there is on the page.

function makeViews(box) {
  const tabs = [...box.querySelectorAll(":scope > .tabs > button")];
  const views = [...box.querySelectorAll(":scope > .view")];
  tabs.forEach((tab, chosen) => {
    tab.addEventListener("click", () => {
      tabs.forEach((other, at) => other.setAttribute("aria-pressed", String(at === chosen)));
      views.forEach((view, at) => {
        view.hidden = at !== chosen;
      });
    });
  });
}

/** Enter in a site's search field leads to the search page. */
function makeSearchField(field) {
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !field.value.trim()) return;
    const target = `${field.dataset.page}#q=${encodeURIComponent(field.value.trim())}`;
    if (document.querySelector("#found")) location.hash = target.slice(target.indexOf("#"));
    else location.href = target;
  });
}

function start() {
  const plots = [...document.querySelectorAll("[data-plot]")].map((place) => {
    const data = JSON.parse(document.getElementById(place.dataset.plot).textContent);
    return new Plot(place, data);
  });
  document.querySelectorAll("table.sortable").forEach(makeSortable);
  document.querySelectorAll(".views").forEach(makeViews);
  document.querySelectorAll("input[data-page]").forEach(makeSearchField);
  if (typeof startSearch === "function") startSearch();
  document.documentElement.dataset.drawn = String(plots.length);
}
