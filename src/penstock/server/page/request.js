// What is asked of the server, from the conversation and the settings.

const USUAL_LENGTH = 1024; // tokens of a reply, at most, if nobody says otherwise: small models may never end by themselves
const MARGIN = 256; // tokens that the chat template may add

/**
 * The body of a chat completion. Only what is set is sent: the rest is the server's choice.
 * `context` is the model's, in tokens, if known.
 */
export function requestBody(messages, { settings, context }) {
  const said = messages
    .filter((m) => m.role === "user" || m.content)
    .map(({ role, content }) => ({ role, content }));
  const system = settings.system.trim() ? [{ role: "system", content: settings.system }] : [];
  const body = {
    messages: [...system, ...said],
    stream: true,
    // With every chunk: several tokens may come in one, and a stopped reply would else end without its figures.
    stream_options: { include_usage: true, continuous_usage_stats: true },
  };
  if (settings.model) body.model = settings.model;
  for (const name of ["temperature", "top_p", "seed"]) if (settings[name] !== null) body[name] = settings[name];
  const limit = settings.max_tokens ?? usualLimit(messages, settings, context);
  if (limit !== null) body.max_tokens = limit;
  const stop = stopStrings(settings.stop);
  if (stop.length) body.stop = stop;
  return body;
}

/** A quarter of the context, but not too much; null near its end, where the server gives what is left. */
function usualLimit(messages, settings, context) {
  if (!context) return null;
  const limit = Math.min(USUAL_LENGTH, Math.floor(context / 4));
  return promptTokens(messages, settings) + limit <= context ? limit : null;
}

/** At least as many as the prompt has: what the last reply took, and a token for each byte since. */
function promptTokens(messages, settings) {
  const at = messages.findLastIndex((m) => m.figures?.completionTokens !== undefined);
  const { promptTokens = bytes(settings.system), completionTokens = 0 } = messages[at]?.figures ?? {};
  const since = messages.slice(at + 1).reduce((sum, m) => sum + bytes(m.content), 0);
  return promptTokens + completionTokens + since + MARGIN;
}

const bytes = (text) => new TextEncoder().encode(text).length;

/** One string a line; `\n` and `\t` in it mean what they mean in C. */
function stopStrings(text) {
  const meanings = { n: "\n", t: "\t", "\\": "\\" };
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => line.replace(/\\([nt\\])/g, (_, mark) => meanings[mark]));
}
