// Where the user writes: Enter sends, Shift+Enter begins a line, the button sends or stops.

import { fitHeight } from "./dom.js";
import { loadDraft, saveDraft } from "./storage.js";
import { isSendKey } from "./transcript.js";

export class Composer {
  #form;
  #area;
  #button;

  /** `onsend(text)` returns a promise of whether the text was taken; `onstop()` ends the reply. */
  constructor(form, { onsend, onstop }) {
    this.#form = form;
    this.#area = form.querySelector("textarea");
    this.#button = form.querySelector("button");
    this.#area.value = loadDraft();
    this.#area.addEventListener("input", () => this.#changed());
    this.#area.addEventListener("keydown", (event) => {
      if (!isSendKey(event)) return;
      event.preventDefault();
      if (!this.isBusy) form.requestSubmit();
    });
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (this.isBusy) return onstop();
      const text = this.#area.value;
      if (!text.trim() || !(await onsend(text))) return;
      if (this.#area.value === text) this.write("");
    });
    this.setBusy(false);
  }

  get isBusy() {
    return this.#form.dataset.busy === "true";
  }

  setBusy(isBusy) {
    this.#form.dataset.busy = String(isBusy);
    const label = isBusy ? "Stop" : "Send";
    this.#button.querySelector("span").textContent = label;
    this.#button.title = isBusy ? "Stop (Esc)" : "Send (Enter)";
    this.#button.querySelector("use").setAttribute("href", isBusy ? "#icon-stop" : "#icon-send");
    this.#changed();
  }

  write(text) {
    this.#area.value = text;
    this.#changed();
  }

  /** Puts the cursor here, but not where that would bring up a keyboard on the screen. */
  focus() {
    if (!matchMedia("(pointer: coarse)").matches) this.#area.focus({ preventScroll: true });
  }

  #changed() {
    this.#button.disabled = !this.isBusy && !this.#area.value.trim();
    saveDraft(this.#area.value);
    fitHeight(this.#area);
  }
}
