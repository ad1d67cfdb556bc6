// Whether the server can answer, and how loaded it is. Asks about every two seconds while the page is visible, so
// that a server that starts, restarts or comes back is noticed without a reload.

import { checkReady, listModels, metrics, version } from "./api.js";

const EVERY = 2000; // ms
const PATIENCE = 8000; // ms without an answer until the server counts as gone

/** Fires "change" when `state` or `reason` or `models` change, and "load" with each reading of the metrics. */
export class ServerStatus extends EventTarget {
  state = "connecting"; // "ready" | "loading" | "locked" | "refused" | "offline"
  reason = "";
  models = [];
  version = null;
  #timer = null;
  #checking = null;

  start() {
    document.addEventListener("visibilitychange", () => this.#schedule(0));
    this.#schedule(0);
  }

  /** The context of a served model in tokens, if the server tells. */
  contextOf(name) {
    return this.models.find((model) => model.id === name)?.max_model_len ?? null;
  }

  /** Looks now, as if for the first time: another key, or one that no longer fits, shows itself at the models. */
  async recheck() {
    await this.#checking;
    this.#become("connecting", "");
    return this.check();
  }

  /** Looks now; resolves to whether the server is ready. */
  check() {
    this.#checking ??= this.#look().finally(() => {
      this.#checking = null;
      this.#schedule(EVERY);
    });
    return this.#checking;
  }

  #schedule(delay) {
    clearTimeout(this.#timer);
    if (document.visibilityState === "visible") this.#timer = setTimeout(() => this.check(), delay);
  }

  async #look() {
    const signal = AbortSignal.timeout(PATIENCE);
    try {
      await checkReady(signal);
      if (this.state !== "ready") await this.#introduce();
      this.#become("ready", "");
    } catch (error) {
      this.#become(...stateAfter(error));
    }
    if (this.state === "ready") this.#emit("load", await readLoad(signal));
    return this.state === "ready";
  }

  /** The models, and the version, which a server may keep to itself. */
  async #introduce() {
    this.models = await listModels();
    this.version = await version().catch(() => null);
  }

  #become(state, reason) {
    if (state === this.state && reason === this.reason) return;
    this.state = state;
    this.reason = reason;
    this.#emit("change");
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

function stateAfter(error) {
  if (error.status === 401) return ["locked", error.message];
  if (error.status === 403) return ["refused", error.message];
  if (error.status) return ["loading", error.message];
  return ["offline", error.message];
}

const share = (part, whole) => (part >= 0 && whole > 0 ? part / whole : undefined);

/** { kvUse, running, waiting } as far as the server tells; metrics may be off or behind another key. */
async function readLoad(signal) {
  const values = await metrics(signal).catch(() => new Map());
  return {
    kvUse: share(values.get("penstock_kv_blocks_used"), values.get("penstock_kv_blocks")),
    running: values.get("penstock_requests_running"),
    waiting: values.get("penstock_requests_waiting"),
  };
}
