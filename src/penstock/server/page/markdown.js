// The Markdown that models write, as data. Nothing here touches the document, and nothing is HTML: a tag in the
// text stays text. Time is linear in the text, whatever the text.

const FENCE = /^( {0,3})(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])( +|$)(.*)$/;
const QUOTE = /^ {0,3}> ?/;
const MAX_DEPTH = 6; // of lists, quotes and emphasis in each other; deeper text is shown plainly
const MAX_TRIES = 50; // runs of marks looked at to close an emphasis: `*a *a *a …` must not take quadratic time

/**
 * Splits text into blocks: {type: "paragraph" | "heading" | "code" | "list" | "quote" | "rule", raw, …}, where `raw`
 * is the source of the block, so that a caller can tell which blocks a longer text leaves unchanged.
 */
export function parseBlocks(text, depth = 0) {
  const lines = text.replaceAll("\r\n", "\n").replaceAll("\t", "    ").split("\n");
  const blocks = [];
  for (let at = 0; at < lines.length; ) {
    if (lines[at].trim() === "") {
      at += 1;
      continue;
    }
    const [block, end] = readBlock(lines, at, depth);
    block.raw = lines.slice(at, end).join("\n");
    blocks.push(block);
    at = end;
  }
  return blocks;
}

function readBlock(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return readCode(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) return [{ type: "heading", level: heading[1].length, text: heading[2] }, at + 1];
  if (RULE.test(line)) return [{ type: "rule" }, at + 1];
  if (depth < MAX_DEPTH) {
    if (QUOTE.test(line)) return readQuote(lines, at, depth);
    if (ITEM.test(line)) return readList(lines, at, depth);
  }
  let end = at + 1;
  while (end < lines.length && !startsBlock(lines[end])) end += 1;
  const paragraph = lines.slice(at, end).map((each) => each.trim());
  return [{ type: "paragraph", text: paragraph.join("\n") }, end];
}

const startsBlock = (line) =>
  line.trim() === "" || [FENCE, HEADING, RULE, QUOTE, ITEM].some((pattern) => pattern.test(line));

/** A fence that is still open runs to the end: while a reply streams in, its code already looks like code. */
function readCode(lines, at, [, indent, marks, info]) {
  const closing = new RegExp(`^ {0,3}${marks[0]}{${marks.length},}\\s*$`);
  let end = at + 1;
  while (end < lines.length && !closing.test(lines[end])) end += 1;
  const unindent = new RegExp(`^ {0,${indent.length}}`);
  const code = lines.slice(at + 1, end).map((line) => line.replace(unindent, ""));
  return [{ type: "code", language: info.trim().split(/\s/)[0], text: code.join("\n") }, Math.min(end + 1, lines.length)];
}

function readQuote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return [{ type: "quote", blocks: parseBlocks(inner.join("\n"), depth + 1) }, end];
}

function readList(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  const ordered = /\d/.test(first[2]);
  const items = [];
  let end = at;
  while (end < lines.length) {
    const match = ITEM.exec(lines[end]);
    if (!match || RULE.test(lines[end]) || /\d/.test(match[2]) !== ordered) break;
    const width = match[1].length + match[2].length + Math.max(1, Math.min(match[3].length, 4));
    const [item, next] = readItem(lines, end + 1, [match[4]], width);
    items.push(parseBlocks(item.join("\n"), depth + 1));
    end = next;
  }
  return [{ type: "list", ordered, start: ordered ? parseInt(first[2], 10) : 1, items }, end];
}

/** An item goes on over indented lines, over blank ones before those, and over plain lines right below its text. */
function readItem(lines, at, item, width) {
  let end = at;
  for (;;) {
    let next = end;
    while (next < lines.length && lines[next].trim() === "") next += 1;
    if (next === lines.length) return [item, end];
    const indent = lines[next].search(/\S/);
    const isBelow = next > end;
    // Two spaces are enough for a list in a list, whatever the marker's width: models indent loosely.
    const isInside = indent >= width || (indent >= 2 && (ITEM.test(lines[next]) || indent >= 4));
    if (!isInside && (isBelow || startsBlock(lines[next]))) {
      const isNextItem = isBelow && ITEM.test(lines[next]);
      return [item, isNextItem ? next : end];
    }
    for (; end < next; end += 1) item.push("");
    item.push(lines[next].slice(Math.min(indent, width)));
    end = next + 1;
  }
}

const ESCAPABLE = /[\\`*_{}[\]()#+\-.!>~|]/;
const PLAIN = /([*_`])\1*|[^]([^\\*_`[hH])*/y; // one character whatever it is, and all that can't begin a span
const URL_START = /^https?:\/\/[^\s<>"`]+/i;

/**
 * Splits a line of text into spans: {type: "text" | "code", text}, {type: "strong" | "em", spans},
 * {type: "link", href, spans}. Links other than http and https stay text.
 */
export function parseInline(text, depth = 0) {
  const spans = [];
  let plain = "";
  const flush = () => {
    if (plain) spans.push({ type: "text", text: plain });
    plain = "";
  };
  for (let at = 0; at < text.length; ) {
    const found = readSpan(text, at, depth);
    if (found) {
      flush();
      spans.push(found.span);
      at = found.end;
    } else if (text[at] === "\\" && ESCAPABLE.test(text[at + 1] ?? "")) {
      plain += text[at + 1];
      at += 2;
    } else {
      // A run of marks that opens nothing is taken whole, so that `****…` is not searched again from each star.
      PLAIN.lastIndex = at;
      const taken = PLAIN.exec(text)[0];
      plain += taken;
      at += taken.length;
    }
  }
  flush();
  return spans;
}

function readSpan(text, at, depth) {
  const mark = text[at];
  if (mark === "`") return readCodeSpan(text, at);
  if ((mark === "h" || mark === "H") && !/\w/.test(text[at - 1] ?? "")) return readBareLink(text, at);
  if (depth >= MAX_DEPTH) return null;
  if (mark === "[") return readLink(text, at, depth);
  if (mark === "*" || mark === "_") return readEmphasis(text, at, depth);
  return null;
}

function readCodeSpan(text, at) {
  const marks = /^`+/.exec(text.slice(at))[0];
  for (let from = at + marks.length; ; ) {
    const end = text.indexOf(marks, from);
    if (end < 0) return null;
    const run = /^`+/.exec(text.slice(end))[0];
    if (run.length === marks.length) {
      const inner = text.slice(at + marks.length, end);
      const isPadded = /^ .*[^ ].* $|^ [^ ] $/s.test(inner);
      return { span: { type: "code", text: isPadded ? inner.slice(1, -1) : inner }, end: end + marks.length };
    }
    from = end + run.length;
  }
}

function readBareLink(text, at) {
  const match = URL_START.exec(text.slice(at, at + 2048));
  if (!match) return null;
  let address = match[0].replace(/[.,;:!?'*_\]]+$/, "");
  if (address.endsWith(")") && !address.includes("(")) address = address.slice(0, -1);
  const href = webAddress(address);
  return href && { span: { type: "link", href, spans: [{ type: "text", text: address }] }, end: at + address.length };
}

function readLink(text, at, depth) {
  const match = /^\[([^[\]]{1,1000})\]\(\s*<?([^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)*)>?(?:\s+"[^"]*")?\s*\)/.exec(
    text.slice(at, at + 4096),
  );
  const href = match && webAddress(match[2]);
  if (!href) return null;
  return { span: { type: "link", href, spans: parseInline(match[1], depth + 1) }, end: at + match[0].length };
}

function readEmphasis(text, at, depth) {
  const mark = text[at];
  const length = runLength(text, at);
  const start = at + length;
  if (length > 3 || !/\S/.test(text[start] ?? "")) return null;
  if (mark === "_" && /\w/.test(text[at - 1] ?? "")) return null; // snake_case is a name
  const end = closingMarks(text, start, mark, length);
  if (end < 0) return null;
  let spans = parseInline(text.slice(start, end), depth + 1);
  if (length === 3) spans = [{ type: "em", spans }];
  return { span: { type: length === 1 ? "em" : "strong", spans }, end: end + length };
}

/** Where the marks stand that close an emphasis of `length` marks; -1 if none of the next few runs does. */
function closingMarks(text, start, mark, length) {
  let from = start + 1;
  for (let tries = 0; tries < MAX_TRIES; tries += 1) {
    const at = text.indexOf(mark.repeat(length), from);
    if (at < 0) return -1;
    const run = runLength(text, at);
    from = at + run;
    const isOther = length === 1 ? run === 2 : run < length; // `*a **b** c*`: the inner marks are not the outer's
    const isInName = mark === "_" && /\w/.test(text[from] ?? "");
    if (!isOther && !isInName && /\S/.test(text[at - 1])) return from - length;
  }
  return -1;
}

function runLength(text, at) {
  let end = at + 1;
  while (text[end] === text[at]) end += 1;
  return end - at;
}

/** The address in full if it is of the web, else null. */
function webAddress(text) {
  if (!/^https?:\/\//i.test(text)) return null;
  try {
    return new URL(text).href;
  } catch {
    return null; // not an address after all
  }
}
