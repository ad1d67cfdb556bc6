// The conversation on the page: one article a message, updated at most once a frame while a reply streams in.

import { action, copyButton, element, fitHeight, icon } from "./dom.js";
import { describeReply } from "./figures.js";
import { renderMarkdown } from "./rendering.js";

export class Transcript {
  #list;
  #chat;
  #views = new Map(); // message -> { article, update }
  #pending = new Set();
  #frame = null;

  constructor(list, chat) {
    this.#list = list;
    this.#chat = chat;
    chat.addEventListener("change", ({ detail }) => (detail ? this.#schedule(detail) : this.#sync()));
    chat.addEventListener("spoken", () => this.#sync());
    this.#sync();
  }

  /** Opens the last user message for editing. */
  editLast() {
    this.#list.querySelector("button[data-edit]")?.click();
  }

  /** Makes the articles those of the messages: kept ones stay the same elements. */
  #sync() {
    const messages = this.#chat.messages;
    for (const [message, view] of this.#views) {
      if (messages.includes(message)) continue;
      view.article.remove();
      this.#views.delete(message);
    }
    for (const message of messages) {
      if (this.#views.has(message)) continue;
      const view = message.role === "user" ? userView(message, this.#chat) : replyView(message, this.#chat);
      this.#views.set(message, view);
      this.#list.append(view.article);
    }
    this.#markLast();
    for (const message of messages) this.#views.get(message).update();
  }

  #markLast() {
    const { messages, isBusy } = this.#chat;
    const lastUser = messages.findLast((m) => m.role === "user");
    for (const [message, { article }] of this.#views) {
      article.classList.toggle("is-last", message === messages.at(-1));
      article.classList.toggle("is-editable", message === lastUser && !isBusy);
      article.classList.toggle("is-settled", !isBusy);
    }
  }

  #schedule(message) {
    this.#pending.add(message);
    // A hidden page gets no frames; nobody sees it, and the reply's end updates everything.
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      for (const each of this.#pending) this.#views.get(each)?.update();
      this.#pending.clear();
    });
  }
}

function userView(message, chat) {
  const text = element("div.text.said", {}, message.content);
  const edit = action("edit", "Edit", () => openEditor(article, message, chat));
  edit.dataset.edit = "";
  const actions = element(
    "div.actions",
    {},
    copyButton("Copy", () => message.content),
    edit,
  );
  const article = element("article.message.user", { "aria-label": "You" }, text, actions);
  return { article, update() {} };
}

/** Puts an editor in the message's place; what comes after it is only dropped when the new text is sent. */
function openEditor(article, message, chat) {
  const area = element("textarea.editor", { "aria-label": "Edit your message", rows: "1", enterkeyhint: "send" });
  area.value = message.content;
  const close = () => {
    form.remove();
    article.classList.remove("is-editing");
    article.querySelector("[data-edit]").focus();
  };
  const form = element(
    "form.edit",
    {
      onsubmit: (event) => {
        event.preventDefault();
        if (area.value.trim()) chat.edit(message, area.value);
      },
    },
    area,
    element("button.plain", { type: "button", onclick: close }, "Cancel"),
    element("button.primary", { type: "submit" }, "Send"),
  );
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      close();
    } else if (isSendKey(event)) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  area.addEventListener("input", () => fitHeight(area));
  article.classList.add("is-editing");
  article.append(form);
  fitHeight(area);
  area.focus();
}

/** Enter, unless it is a new line or the choice of an input method. */
export const isSendKey = (event) =>
  event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;

function replyView(message, chat) {
  const thoughts = element("div.thoughts");
  const thinking = element("details.thinking", { hidden: "" }, element("summary", {}, "Thinking"), thoughts);
  const text = element("div.text");
  const note = element("div.note", { hidden: "" });
  const figures = element("p.figures", { hidden: "" });
  const again = action("again", "Regenerate", () => chat.regenerate());
  again.classList.add("regenerate");
  const copying = copyButton("Copy", () => message.content);
  const actions = element("div.actions", {}, copying, again, figures);
  const article = element("article.message.reply", { "aria-label": "Reply" }, thinking, text, note, actions);
  let shown = null; // state of the note, which is only rebuilt when it changes
  const update = () => {
    renderMarkdown(text, message.content);
    thinking.hidden = !message.thought;
    if (message.thought) thoughts.textContent = message.thought;
    article.dataset.state = message.state ?? "done";
    article.setAttribute("aria-busy", String(["waiting", "streaming"].includes(message.state)));
    copying.hidden = !message.content;
    const about = describeReply(message.figures ?? {});
    figures.textContent = about.text;
    figures.title = about.explanation;
    figures.hidden = !about.text;
    const state = `${message.state} ${message.finish} ${message.error?.message}`;
    if (state !== shown) note.replaceChildren(...noteOf(message, chat));
    note.hidden = !note.childNodes.length;
    shown = state;
  };
  return { article, update };
}

/** What there is to say about a reply beside its text. */
function noteOf(message, chat) {
  if (message.state === "failed") {
    const retry = element("button.primary.retry", { type: "button", onclick: () => chat.regenerate() }, "Retry");
    const status = message.error?.status ? element("span.status-code", {}, String(message.error.status)) : null;
    const words = element("p", {}, message.error?.message ?? "The reply failed.", " ", status);
    return [element("div.alert", { role: "alert" }, icon("alert"), words, retry)];
  }
  if (message.state === "stopped") return [element("p.remark", {}, "Stopped.")];
  if (message.finish === "length")
    return [element("p.remark", {}, "Cut off at the token limit. Raise “Max tokens” in the settings for longer replies.")];
  if (message.state === "done" && !message.content) return [element("p.remark", {}, "The model said nothing.")];
  return [];
}
