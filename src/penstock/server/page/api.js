// The server's HTTP surface, as this page uses it.

import { parseMetrics } from "./prometheus.js";
import { eventData } from "./sse.js";
import { loadKey } from "./storage.js";

/** Something a person is meant to read. `status` is 0 when no answer came at all. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

// Relative to the page, so that it works behind a proxy that adds a path.
const address = (path) => new URL(path, document.baseURI);

async function send(path, { body, signal } = {}) {
  const headers = { Accept: "*/*" };
  const key = loadKey();
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    const payload = body ? JSON.stringify(body) : undefined;
    response = await fetch(address(path), {
      method: body ? "POST" : "GET",
      headers,
      body: payload,
      signal,
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server can’t be reached.");
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

/** The server's own words if it sent any. */
async function errorOf(response) {
  const status = response.status;
  const text = await response.text().catch(() => "");
  try {
    const { error } = JSON.parse(text);
    if (typeof error.message === "string") return new ApiError(error.message, { status, code: error.code });
  } catch {
    // not OpenAI's shape, perhaps a proxy's page: its status says enough
  }
  return new ApiError(`The server answered ${status} ${response.statusText}`.trim() + ".", { status });
}

/** Streams a chat completion: yields its chunks; throws ApiError, or AbortError when `signal` fires. */
export async function* streamChat(body, signal) {
  const response = await send("v1/chat/completions", { body, signal });
  const events = eventData(response.body);
  try {
    for await (const data of events) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message ?? "The reply failed.", { code: chunk.error.code });
      yield chunk;
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
    if (error instanceof SyntaxError) throw new ApiError("The server sent something that is not JSON.");
    throw new ApiError("The connection broke before the reply was complete.");
  }
  throw new ApiError("The connection closed before the reply was complete.");
}

/** Resolves when the server can answer requests now; else throws ApiError with its reason. */
export const checkReady = (signal) => send("ready", { signal });

/** The served models: [{ id, max_model_len? }]. */
export async function listModels() {
  const { data } = await (await send("v1/models")).json();
  return data;
}

export const version = async () => (await send("version")).json();

/** A Map of metric sums. */
export const metrics = async (signal) => parseMetrics(await (await send("metrics", { signal })).text());
