// The settings panel: a form whose valid values are kept at once.

import { DEFAULT_SETTINGS, loadKey, loadSettings, saveKey, saveSettings } from "./storage.js";

const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];
const TEXTS = ["system", "stop"];

/** Fires "change" when a setting changed and "key" when the API key did. */
export class Settings extends EventTarget {
  #dialog;
  #form;
  #values = loadSettings();

  constructor(dialog) {
    super();
    this.#dialog = dialog;
    this.#form = dialog.querySelector("form");
    this.#fill();
    this.#form.addEventListener("input", (event) => this.#take(event.target));
    this.#form.addEventListener("change", (event) => this.#takeKey(event.target));
    this.#form.addEventListener("reset", (event) => this.#reset(event));
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // the backdrop
  }

  get values() {
    return this.#values;
  }

  /** Opens the panel, at the field named `focus` if there is one. */
  open(focus = null) {
    this.#fill(); // a wrong value that was left behind is not in force, so it is not shown
    this.#dialog.showModal();
    if (focus) this.#form.elements[focus].focus();
  }

  set(name, value) {
    this.#values = { ...this.#values, [name]: value };
    saveSettings(this.#values);
    this.dispatchEvent(new Event("change"));
  }

  #fill() {
    const fields = this.#form.elements;
    for (const name of [...NUMBERS, ...TEXTS]) fields[name].value = this.#values[name] ?? "";
    for (const name of NUMBERS) this.#follow(name);
    fields.key.value = loadKey();
    for (const field of fields) if (field.name) this.#judge(field);
  }

  /** A slider and its number show the same value; an empty number leaves the slider where it is. */
  #follow(name) {
    const slider = this.#form.elements[`${name}_slider`];
    if (slider && this.#values[name] !== null) slider.value = this.#values[name];
  }

  #take(field) {
    const name = field.name.replace(/_slider$/, "");
    if (name !== field.name) this.#form.elements[name].value = field.value;
    const input = this.#form.elements[name];
    if (!this.#judge(input)) return;
    if (TEXTS.includes(name)) this.set(name, input.value);
    if (NUMBERS.includes(name)) {
      this.set(name, input.value === "" ? null : input.valueAsNumber);
      this.#follow(name);
    }
  }

  /** Says what is wrong below the field; a wrong value is not kept. */
  #judge(field) {
    const isValid = field.checkValidity();
    const complaint = this.#form.querySelector(`#${field.name}-complaint`);
    if (complaint) complaint.textContent = isValid ? "" : field.validationMessage;
    field.setAttribute("aria-invalid", String(!isValid));
    return isValid;
  }

  #takeKey(field) {
    if (field.name !== "key") return;
    saveKey(field.value.trim());
    this.dispatchEvent(new Event("key"));
  }

  #reset(event) {
    event.preventDefault(); // the standard values are this page's, not the markup's
    this.#values = { ...DEFAULT_SETTINGS, model: this.#values.model };
    saveSettings(this.#values);
    this.#fill();
    this.dispatchEvent(new Event("change"));
  }
}
