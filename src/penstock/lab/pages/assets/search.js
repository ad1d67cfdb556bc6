// A site's search page: every page's title and text is in the block `search-index`; nothing is asked of a server.

const MOST_FOUND = 50;
const AROUND = 90; // characters of text shown before and after what was found

function startSearch() {
  const block = document.getElementById("search-index");
  const place = document.getElementById("found");
  const field = document.getElementById("search");
  if (!block || !place || !field) return;
  const pages = JSON.parse(block.textContent).map((page) => ({ ...page, plain: folded(`${page.title}\n${page.text}`) }));
  const show = () => place.replaceChildren(...answers(pages, field.value));
  const fromAddress = () => {
    field.value = new URLSearchParams(location.hash.slice(1)).get("q") ?? "";
    show();
  };
  field.addEventListener("input", show);
  addEventListener("hashchange", fromAddress);
  fromAddress();
  field.focus();
}

/** Without case and accents, and exactly as long in words. */
function folded(text) {
  return text.normalize("NFKD").replace(/\p{Mark}/gu, "").toLowerCase();
}

/** Pages that hold every word; those that hold them in the title, and more often, first. */
function answers(pages, asked) {
  const words = folded(asked).split(/\s+/).filter(Boolean);
  if (!words.length) return [element("p", {}, "Type words that a page must hold.")];
  const found = pages.filter((page) => words.every((word) => page.plain.includes(word)));
  found.sort((a, b) => score(b, words) - score(a, words));
  if (!found.length) return [element("p", {}, `No page holds ${words.join(" and ")}.`)];
  const count = found.length === 1 ? "1 page" : `${found.length} pages`;
  return [element("p.soft", {}, count), ...found.slice(0, MOST_FOUND).map((page) => answer(page, words))];
}

function score(page, words) {
  const title = folded(page.title);
  return words.reduce((sum, word) => sum + (title.includes(word) ? 100 : 0) + page.plain.split(word).length - 1, 0);
}

function answer(page, words) {
  const link = element("a", { href: page.href }, page.title);
  return element("div.answer", {}, element("p", {}, link), element("p.soft", {}, ...excerpt(page.text, words)));
}

/** The text around the first word, with that word marked. */
function excerpt(text, words) {
  const lower = text.toLowerCase();
  const hits = words.map((word) => [lower.indexOf(word), word.length]).filter(([at]) => at >= 0);
  if (!hits.length) return [text.slice(0, 2 * AROUND)];
  const [at, length] = hits.reduce((a, b) => (b[0] < a[0] ? b : a));
  const from = Math.max(at - AROUND, 0);
  return [
    from ? "… " : "",
    text.slice(from, at),
    element("mark", {}, text.slice(at, at + length)),
    text.slice(at + length, at + length + AROUND),
    at + length + AROUND < text.length ? " …" : "",
  ];
}
