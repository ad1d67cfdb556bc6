// The conversation and the one reply that may be under way. Knows nothing of the document: it fires "change" with the
// message that changed (detail: null when the list itself did), and "spoken" when a reply has ended.

import { ApiError, streamChat } from "./api.js";
import { requestBody } from "./request.js";
import { loadConversation, saveConversation } from "./storage.js";

/*
 * A message: { role: "user", content } or
 * { role: "assistant", content, state: "waiting" | "streaming" | "done" | "stopped" | "failed", error?, finish?, figures? }
 * error: { message, status }; figures: { ttft, rate, promptTokens, completionTokens, cachedTokens } in s and tokens/s.
 */

const SAVE_EVERY = 1000; // ms, while a reply streams in
const LEAVING = 100; // ms
const SHORTEST_SPAN = 0.05; // s; a rate over less says more about the network's packets than about the model

export class Chat extends EventTarget {
  #situation;
  #abort = null;
  #savedAt = 0;

  /** `situation()` gives { settings, context } of the moment; see `requestBody`. */
  constructor(situation) {
    super();
    this.#situation = situation;
    this.messages = loadConversation().map(settled);
    this.isStored = true;
  }

  get isBusy() {
    return this.#abort !== null;
  }

  get last() {
    return this.messages.at(-1) ?? null;
  }

  /** Adds what the user says and streams the answer to it. */
  send(text) {
    if (this.isBusy) return;
    this.messages.push({ role: "user", content: text });
    this.#answer();
  }

  /** Answers the last user message again; what was answered before is dropped. */
  regenerate() {
    if (this.isBusy || !this.messages.length) return;
    if (this.last.role === "assistant") this.messages.pop();
    this.#answer();
  }

  /** Replaces a user message, drops what followed it, and answers it. */
  edit(message, text) {
    const at = this.messages.indexOf(message);
    if (this.isBusy || at < 0) return;
    this.messages.splice(at, Infinity, { role: "user", content: text });
    this.#answer();
  }

  stop() {
    this.#abort?.abort();
  }

  /** Empties the conversation and returns what it was, for `restore`. */
  clear() {
    this.stop();
    const old = this.messages;
    this.messages = [];
    this.#changed(null);
    return old;
  }

  restore(messages) {
    this.stop();
    this.messages = messages;
    this.#changed(null);
  }

  save() {
    this.#savedAt = performance.now();
    this.isStored = saveConversation(this.messages);
  }

  async #answer() {
    const reply = { role: "assistant", content: "", state: "waiting", figures: {} };
    const body = requestBody(this.messages, this.#situation());
    this.messages.push(reply);
    this.#abort = new AbortController();
    this.#changed(null);
    try {
      await this.#stream(reply, body, this.#abort.signal);
      reply.state = "done";
    } catch (error) {
      if (error.name === "AbortError") {
        reply.state = "stopped";
      } else {
        // A page that is being left loses its connections first: by now it is gone, and its reply was only stopped.
        await new Promise((resolve) => setTimeout(resolve, LEAVING));
        reply.state = "failed";
        reply.error = { message: error.message, status: error.status ?? null };
        if (!(error instanceof ApiError)) throw error; // a mistake of this page's own: the console should have it
      }
    } finally {
      this.#abort = null;
      this.#changed(reply);
      this.dispatchEvent(new CustomEvent("spoken", { detail: reply }));
    }
  }

  async #stream(reply, body, signal) {
    const clock = new Clock();
    for await (const chunk of streamChat(body, signal)) {
      const choice = chunk.choices?.[0];
      const content = choice?.delta?.content ?? "";
      const thought = choice?.delta?.reasoning_content ?? "";
      if (content || thought) {
        reply.content += content;
        if (thought) reply.thought = (reply.thought ?? "") + thought;
        reply.state = "streaming";
        clock.tick();
      }
      if (choice?.finish_reason) reply.finish = choice.finish_reason;
      if (chunk.usage) clock.settle(chunk.usage);
      reply.figures = clock.figures;
      this.dispatchEvent(new CustomEvent("change", { detail: reply }));
      if (performance.now() - this.#savedAt > SAVE_EVERY) this.save();
    }
  }

  #changed(message) {
    this.save();
    this.dispatchEvent(new CustomEvent("change", { detail: message }));
  }
}

/** A stored reply whose page went away in the middle is a stopped one. */
function settled(message) {
  const isOpen = message.state === "waiting" || message.state === "streaming";
  return isOpen ? { ...message, state: "stopped" } : message;
}

/** Times one reply: first token from the request's start, rate between its first and its last token. */
class Clock {
  #start = performance.now();
  #first = null;
  #last = null;
  #pieces = 0;
  #usage = null;

  tick() {
    this.#last = performance.now();
    this.#first ??= this.#last;
    this.#pieces += 1;
  }

  settle(usage) {
    this.#usage = usage;
  }

  get figures() {
    if (this.#first === null) return { ...this.#tokens };
    const seconds = (this.#last - this.#first) / 1000;
    const tokens = this.#usage?.completion_tokens ?? this.#pieces;
    const rate = seconds >= SHORTEST_SPAN && tokens > 1 ? (tokens - 1) / seconds : null;
    return { ttft: (this.#first - this.#start) / 1000, rate, ...this.#tokens };
  }

  get #tokens() {
    if (!this.#usage) return {};
    return {
      promptTokens: this.#usage.prompt_tokens,
      completionTokens: this.#usage.completion_tokens,
      cachedTokens: this.#usage.prompt_tokens_details?.cached_tokens ?? 0,
    };
  }
}
