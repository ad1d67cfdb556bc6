// Building elements without HTML strings: text stays text.

/** `element("a.link", { href, onclick }, "text", child)`; properties that are null are left out. */
export function element(selector, properties = {}, ...children) {
  const [tag, ...classes] = selector.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

/** One of the symbols in index.html. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** A small button with an icon and a label; `bare` hides the label from the eye only. */
export function action(name, label, onclick, { bare = false } = {}) {
  const text = element(bare ? "span.sr-only" : "span", {}, label);
  return element("button.action", { type: "button", onclick, title: bare ? label : null }, icon(name), text);
}

/** Makes a text field as high as its text, where the style sheet's `field-sizing` is not known. */
export function fitHeight(area) {
  if (CSS.supports("field-sizing", "content")) return;
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
}

/** A button that copies `text()` and says whether it worked. */
export function copyButton(label, text) {
  const button = action("copy", label, async () => {
    const isCopied = await copy(text());
    const caption = button.querySelector("span");
    button.querySelector("use").setAttribute("href", isCopied ? "#icon-check" : "#icon-copy");
    caption.textContent = isCopied ? "Copied" : "Copying was refused";
    clearTimeout(button.timer);
    button.timer = setTimeout(() => {
      button.querySelector("use").setAttribute("href", "#icon-copy");
      caption.textContent = label;
    }, 1600);
  });
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text); // no clipboard over plain http from another machine
  }
}

function copyBySelection(text) {
  const area = element("textarea.sr-only", { "aria-hidden": "true", tabindex: "-1" });
  const focused = document.activeElement;
  area.value = text;
  document.body.append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return isCopied;
}
