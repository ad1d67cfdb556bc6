// Markdown blocks as elements. A streaming reply is rendered again and again: blocks that did not change keep their
// elements, so that a selection, a scrolled code block or a focused button in them stays.

import { copyButton, element } from "./dom.js";
import { parseBlocks, parseInline } from "./markdown.js";

const rendered = new WeakMap(); // container -> its blocks as last shown

/** Makes `container` show `text`. */
export function renderMarkdown(container, text) {
  const before = rendered.get(container) ?? [];
  const blocks = parseBlocks(text);
  let same = 0;
  while (same < blocks.length && blocks[same].raw === before[same]?.raw && blocks[same].type === before[same].type)
    same += 1;
  if (same === before.length - 1 && blocks[same]?.type === "code" && before[same].type === "code") {
    growCode(container.children[same], blocks[same]);
    same += 1;
  }
  while (container.children.length > same) container.lastElementChild.remove();
  container.append(...blocks.slice(same).map(blockElement));
  rendered.set(container, blocks);
}

function blockElement(block) {
  switch (block.type) {
    case "code":
      return codeElement(block);
    case "heading":
      return element(`h${Math.min(block.level + 2, 6)}`, {}, ...inline(block.text));
    case "list": {
      const items = block.items.map((blocks) => element("li", {}, ...itemContent(blocks)));
      return element(block.ordered ? "ol" : "ul", { start: block.ordered ? block.start : null }, ...items);
    }
    case "quote":
      return element("blockquote", {}, ...block.blocks.map(blockElement));
    case "rule":
      return element("hr");
    default:
      return element("p", {}, ...inline(block.text));
  }
}

/** A list item's first paragraph stands without a `p`, so that short lists are tight. */
function itemContent(blocks) {
  if (blocks[0]?.type !== "paragraph") return blocks.map(blockElement);
  return [element("span.lead", {}, ...inline(blocks[0].text)), ...blocks.slice(1).map(blockElement)];
}

function codeElement(block) {
  const code = element("code", {}, block.text);
  const head = element(
    "div.code-head",
    {},
    element("span.language", {}, block.language || "text"),
    copyButton("Copy code", () => code.textContent),
  );
  return element("div.code", {}, head, element("pre", { tabindex: "0" }, code));
}

function growCode(node, block) {
  node.querySelector(".language").textContent = block.language || "text";
  node.querySelector("code").textContent = block.text;
}

function inline(text) {
  return parseInline(text).map(spanElement);
}

function spanElement(span) {
  switch (span.type) {
    case "text":
      return document.createTextNode(span.text);
    case "code":
      return element("code", {}, span.text);
    case "link": {
      const attributes = { href: span.href, title: span.href, target: "_blank", rel: "noopener noreferrer nofollow" };
      return element("a", attributes, ...span.spans.map(spanElement));
    }
    default:
      return element(span.type, {}, ...span.spans.map(spanElement));
  }
}
