// The `openai` client for Node, unmodified, against Penstock's server over an engine that says prompts back.
// Run by test_npm_client.py, which starts the servers and names them in the environment.

import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI from "openai";

const { OPEN_URL, KEYED_URL, HELD_URL, FALTERING_URL, CONTROL_URL } = process.env;
const MODEL = "Echo-1B";
const MESSAGES = [{ role: "user", content: "hello" }];
const SAID = "user\nhello\nassistant\n"; // the prompt without its control tokens

const client = (url, options = {}) =>
  new OpenAI({ baseURL: `${url}/v1`, apiKey: "unused", timeout: 20_000, maxRetries: 0, ...options });
const open = client(OPEN_URL);

/** What the engines know, and changes to them: see `_control` in test_npm_client.py. */
async function control(action, value = "") {
  const response = await fetch(`${CONTROL_URL}/${action}/${value}`, { method: "POST" });
  assert.equal(response.status, 200);
  return response.json();
}

async function eventually(condition, what) {
  const deadline = Date.now() + 10_000;
  while (!(await condition())) {
    assert.ok(Date.now() < deadline, `not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

test("chat: one answer with its usage and its request id", async () => {
  const answer = await open.chat.completions.create({ model: MODEL, messages: MESSAGES, temperature: 0 });
  assert.equal(answer.object, "chat.completion");
  assert.equal(answer.choices.length, 1);
  assert.deepEqual([answer.choices[0].message.role, answer.choices[0].message.content], ["assistant", SAID]);
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  assert.equal(answer.usage.prompt_tokens_details.cached_tokens, 0);
  assert.equal(answer._request_id, answer.id);
});

test("chat: several choices, a limit and a stop string", async () => {
  const answer = await open.chat.completions.create({
    model: MODEL, messages: MESSAGES, temperature: 0, n: 2, max_completion_tokens: 3,
  });
  assert.deepEqual(answer.choices.map((choice) => [choice.index, choice.finish_reason]), [[0, "length"], [1, "length"]]);
  const stopped = await open.chat.completions.create({ model: MODEL, messages: MESSAGES, temperature: 0, stop: ["llo"] });
  assert.equal(stopped.choices[0].message.content, "user\nhe");
  assert.equal(stopped.choices[0].finish_reason, "stop");
});

test("chat: a stream of deltas that end with the reason and the usage", async () => {
  const stream = await open.chat.completions.create({
    model: MODEL, messages: MESSAGES, temperature: 0, stream: true, stream_options: { include_usage: true },
  });
  let text = "";
  const reasons = [];
  const usages = [];
  for await (const chunk of stream) {
    assert.equal(chunk.object, "chat.completion.chunk");
    text += chunk.choices[0]?.delta.content ?? "";
    if (chunk.choices[0]?.finish_reason) reasons.push(chunk.choices[0].finish_reason);
    if (chunk.usage) usages.push(chunk.usage);
  }
  assert.equal(text, SAID);
  assert.deepEqual(reasons, ["stop"]);
  assert.equal(usages.length, 1);
  assert.ok(usages[0].completion_tokens >= SAID.length);
});

test("chat: the client's own stream helper puts the whole answer together", async () => {
  const runner = open.chat.completions.stream({ model: MODEL, messages: MESSAGES, temperature: 0 });
  const pieces = [];
  runner.on("content", (delta) => pieces.push(delta));
  const final = await runner.finalChatCompletion();
  assert.equal(final.choices[0].message.content, SAID);
  assert.equal(pieces.join(""), SAID);
});

test("chat: a character of several tokens is never split between chunks", async () => {
  const stream = await open.chat.completions.create({
    model: MODEL, messages: [{ role: "user", content: "日本 😀 ß" }], temperature: 0, stream: true,
  });
  const pieces = [];
  for await (const chunk of stream) pieces.push(chunk.choices[0]?.delta.content ?? "");
  assert.ok(pieces.every((piece) => !piece.includes("\ufffd")), JSON.stringify(pieces));
  assert.equal(pieces.join(""), "user\n日本 😀 ß\nassistant\n");
});

test("completions: text, logprobs, and a stream", async () => {
  const answer = await open.completions.create({ model: MODEL, prompt: "abc", temperature: 0, max_tokens: 3, logprobs: 2 });
  assert.equal(answer.object, "text_completion");
  assert.equal(answer.choices[0].text, "abc");
  assert.equal(answer.choices[0].logprobs.token_logprobs.length, 3);
  const stream = await open.completions.create({ model: MODEL, prompt: "abc", temperature: 0, max_tokens: 3, stream: true });
  let text = "";
  for await (const chunk of stream) text += chunk.choices[0]?.text ?? "";
  assert.equal(text, "abc");
});

test("models: listed, and shown one by one", async () => {
  const names = [];
  for await (const model of open.models.list()) names.push(model.id);
  assert.deepEqual(names, [MODEL, "gpt-3.5-turbo"]);
  assert.equal((await open.models.retrieve(MODEL)).id, MODEL);
  const aliased = await open.chat.completions.create({ model: "gpt-3.5-turbo", messages: MESSAGES, temperature: 0 });
  assert.equal(aliased.choices[0].message.content, SAID);
});

test("errors: 401 without the right key, and none with it", async () => {
  const ask = (apiKey) =>
    client(KEYED_URL, { apiKey }).chat.completions.create({ model: MODEL, messages: MESSAGES, temperature: 0 });
  await assert.rejects(ask("wrong"), (error) => {
    assert.ok(error instanceof OpenAI.AuthenticationError);
    assert.deepEqual([error.status, error.type, error.code], [401, "authentication_error", "invalid_api_key"]);
    return true;
  });
  assert.equal((await ask("right")).choices[0].message.content, SAID);
});

test("errors: 400 names the field", async () => {
  await assert.rejects(open.chat.completions.create({ model: MODEL, messages: MESSAGES, temperature: -1 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.deepEqual([error.status, error.type, error.param], [400, "invalid_request_error", "temperature"]);
    assert.match(error.message, /temperature/);
    return true;
  });
});

test("errors: 400 over the context names both lengths", async () => {
  const messages = [{ role: "user", content: "x".repeat(600) }];
  await assert.rejects(open.chat.completions.create({ model: MODEL, messages, stream: true }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.code, "context_length_exceeded");
    assert.match(error.message, /6\d\d.*512/);
    return true;
  });
});

test("errors: 404 for a model that is not served", async () => {
  await assert.rejects(open.chat.completions.create({ model: "gpt-99", messages: MESSAGES }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.match(error.message, /gpt-99/);
    return true;
  });
});

test("errors: one in mid-stream is raised, not taken for the end", async () => {
  await control("fail-after-first-token", "true");
  try {
    const stream = await client(FALTERING_URL).chat.completions.create({ model: MODEL, messages: MESSAGES, stream: true });
    await assert.rejects(
      async () => {
        for await (const chunk of stream) assert.ok(chunk.choices);
      },
      (error) => error instanceof OpenAI.APIError && /gone wrong/.test(error.message),
    );
  } finally {
    await control("fail-after-first-token", "");
  }
});

for (const status of ["429", "503"]) {
  test(`retries: a ${status} is tried again until it passes`, async () => {
    await control("falter", status);
    const patient = client(FALTERING_URL, { maxRetries: 2 });
    const answer = await patient.chat.completions.create({ model: MODEL, messages: MESSAGES, temperature: 0 });
    assert.equal(answer.choices[0].message.content, SAID);
    assert.equal((await control("faults-left")).value, 0);
  });

  test(`retries: without any, a ${status} is raised with when to come again`, async () => {
    await control("falter", status);
    await assert.rejects(
      client(FALTERING_URL).chat.completions.create({ model: MODEL, messages: MESSAGES }),
      (error) => error.status === Number(status) && error.headers.get("retry-after") === "1",
    );
    assert.equal((await control("faults-left")).value, 0);
  });
}

test("cancellation: aborting a stream frees its request in the engine", async () => {
  const held = client(HELD_URL);
  const before = (await control("aborted")).value;
  const stop = new AbortController();
  await control("release", "1");
  const stream = await held.chat.completions.create({ model: MODEL, messages: MESSAGES, stream: true }, { signal: stop.signal });
  const chunks = stream[Symbol.asyncIterator]();
  await chunks.next();
  assert.equal((await control("running")).value, 1);
  stop.abort();
  await assert.doesNotReject(chunks.return?.() ?? Promise.resolve());
  await eventually(async () => (await control("aborted")).value === before + 1, "the engine told to abort");
  assert.equal((await control("running")).value, 0);
});

test("cancellation: leaving the loop over a stream frees its request too", async () => {
  const before = (await control("aborted")).value;
  const stream = await client(HELD_URL).chat.completions.create({ model: MODEL, messages: MESSAGES, stream: true });
  await control("release", "20");
  for await (const chunk of stream) if (chunk.choices[0]?.delta.content) break;
  await eventually(async () => (await control("aborted")).value === before + 1, "the engine told to abort");
});

test("cancellation: so does giving up on an answer that is not streamed", async () => {
  const before = (await control("aborted")).value;
  const stop = new AbortController();
  const asked = client(HELD_URL).chat.completions.create({ model: MODEL, messages: MESSAGES }, { signal: stop.signal });
  await eventually(async () => (await control("running")).value === 1, "the request in the engine");
  stop.abort();
  await assert.rejects(asked, OpenAI.APIUserAbortError);
  await eventually(async () => (await control("aborted")).value === before + 1, "the engine told to abort");
});

test("cancellation: a client's time-out is an abort for the server", async () => {
  const before = (await control("aborted")).value;
  const hasty = client(HELD_URL, { timeout: 300 });
  await assert.rejects(hasty.chat.completions.create({ model: MODEL, messages: MESSAGES }), OpenAI.APIConnectionTimeoutError);
  await eventually(async () => (await control("aborted")).value === before + 1, "the engine told to abort");
});

test("responses: whole, streamed, gone on from, deleted", async () => {
  const first = await open.responses.create({ model: MODEL, input: "hello", temperature: 0 });
  assert.deepEqual([first.status, first.output_text], ["completed", SAID]);
  const stream = open.responses.stream({ model: MODEL, input: "hello", temperature: 0 });
  let text = "";
  stream.on("response.output_text.delta", (event) => (text += event.delta));
  const final = await stream.finalResponse();
  assert.deepEqual([text, final.output[0].content[0].text], [SAID, SAID]);
  const second = await open.responses.create({ model: MODEL, input: "more", previous_response_id: first.id });
  assert.equal(second.previous_response_id, first.id);
  await open.responses.delete(first.id);
  await assert.rejects(open.responses.retrieve(first.id), OpenAI.NotFoundError);
});

test("files and batches: from an upload to its answers", async () => {
  const body = { messages: MESSAGES, temperature: 0 };
  const line = JSON.stringify({ custom_id: "a", method: "POST", url: "/v1/chat/completions", body });
  const file = await open.files.create({ file: new File([line], "in.jsonl"), purpose: "batch" });
  const asked = { input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h" };
  let batch = await open.batches.create(asked);
  await eventually(async () => (batch = await open.batches.retrieve(batch.id)).status === "completed", "the batch");
  const output = await (await open.files.content(batch.output_file_id)).text();
  assert.equal(JSON.parse(output).response.body.choices[0].message.content, SAID);
});
