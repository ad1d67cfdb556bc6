// Numbers as people read them, and the strip of live figures below the composer.

const decimal = new Intl.NumberFormat("en", { maximumFractionDigits: 1, minimumFractionDigits: 1 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const formatRate = (rate) => (rate >= 100 ? whole : decimal).format(rate);

/** 0.1834 -> "183 ms"; 2.417 -> "2.4 s". */
export const formatSeconds = (seconds) =>
  seconds < 0.9995 ? `${whole.format(seconds * 1000)} ms` : `${decimal.format(seconds)} s`;

/** 0.004 -> "0.4 %", 0.42 -> "42 %". */
export function formatShare(share) {
  const percent = share * 100;
  if (percent > 0 && percent < 0.1) return "< 0.1 %";
  return `${(percent > 0 && percent < 10 ? decimal : whole).format(percent)} %`;
}

/** The line under a finished reply: what it took, in tokens and time. */
export function describeReply({ rate, ttft, promptTokens, completionTokens, cachedTokens }) {
  if (completionTokens === undefined) return { text: "", explanation: "" };
  const parts = [
    `${whole.format(promptTokens)} in` + (cachedTokens ? ` (${whole.format(cachedTokens)} cached)` : ""),
    `${whole.format(completionTokens)} out`,
    ttft === undefined ? null : `first ${formatSeconds(ttft)}`,
    rate ? `${formatRate(rate)} tok/s` : null,
  ];
  const cached = cachedTokens ? `, ${whole.format(cachedTokens)} of them from the prefix cache` : "";
  const explanation =
    `${whole.format(promptTokens)} prompt tokens${cached}; ${whole.format(completionTokens)} generated. ` +
    (ttft === undefined ? "" : `First token after ${formatSeconds(ttft)}`) +
    (rate ? `, then ${formatRate(rate)} tokens a second.` : "");
  return { text: parts.filter(Boolean).join(" · "), explanation };
}

/** Shows the reply's rate and first token while it runs, and the server's load; "–" where nothing is known. */
export class LiveFigures {
  #at;
  #shownAt = 0;

  constructor(root) {
    this.#at = (name) => root.querySelector(`[data-figure="${name}"]`);
  }

  reply({ rate, ttft }, { final }) {
    const now = performance.now();
    if (!final && now - this.#shownAt < 250) return; // a number that changes faster can't be read
    this.#shownAt = now;
    if (rate) this.#at("rate").textContent = formatRate(rate);
    if (ttft !== undefined) this.#at("ttft").textContent = formatSeconds(ttft);
  }

  forgetReply() {
    this.#at("rate").textContent = "–";
    this.#at("ttft").textContent = "–";
  }

  /** `load`: { kvUse (0..1), running, waiting }, each undefined where unknown. */
  server({ kvUse, running, waiting }) {
    const meter = this.#at("kv-meter");
    this.#at("kv").textContent = kvUse === undefined ? "–" : formatShare(kvUse);
    meter.value = kvUse ?? 0;
    this.#at("running").textContent = running === undefined ? "–" : whole.format(running);
    const queue = waiting ? ` +${whole.format(waiting)} waiting` : "";
    this.#at("waiting").textContent = queue;
  }
}
