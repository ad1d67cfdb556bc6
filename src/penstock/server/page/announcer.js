// Reads a streaming reply to screen readers sentence by sentence: token by token nobody could follow it.

const SENTENCES = /^.*(?:[.!?…:][)"”’]*\s|[。！？]|\n)/s; // up to the end of the last whole sentence

export class Announcer {
  #region;
  #reply = null;
  #said = 0;

  /** `region`: an element with aria-live="polite" that only screen readers see. */
  constructor(region) {
    this.#region = region;
  }

  follow(reply) {
    if (reply !== this.#reply) {
      this.#region.replaceChildren();
      this.#reply = reply;
      this.#said = 0;
    }
    const ready = SENTENCES.exec(reply.content.slice(this.#said));
    if (ready) this.#say(ready[0]);
  }

  finish(reply) {
    this.follow(reply);
    this.#say(reply.content.slice(this.#said));
    if (reply.state === "stopped") this.say("Stopped.");
  }

  say(text) {
    this.#region.append(Object.assign(document.createElement("p"), { textContent: text }));
  }

  #say(text) {
    this.#said += text.length;
    if (text.trim()) this.say(text.trim());
  }
}
