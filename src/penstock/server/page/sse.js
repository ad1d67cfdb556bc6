// Server-sent events read from a fetch body (https://html.spec.whatwg.org/multipage/server-sent-events.html).
// EventSource can't be used: it only sends GET.

/** Yields the `data` of each event of a byte stream. Comments and other fields are skipped. */
export async function* eventData(stream) {
  const decoder = new TextDecoder();
  const reader = stream.getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const { lines, tail } = splitLines(rest);
      rest = tail;
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        }
      }
      if (done) return; // an event without its closing empty line is incomplete and dropped, as the standard says
    }
  } finally {
    await reader.cancel().catch(() => {}); // a stream that already failed has nothing left to cancel
  }
}

/** Whole lines (ended by LF, CRLF or CR) and what is left; a CR at the very end may still get its LF. */
function splitLines(text) {
  const end = text.endsWith("\r") ? text.length - 1 : text.length;
  const lines = text.slice(0, end).split(/\r\n|\n|\r/);
  return { tail: lines.pop() + text.slice(end), lines };
}
