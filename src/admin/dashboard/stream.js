// Server-sent events over fetch, since EventSource cannot send a token.

import { problem } from "/api.js";

/** The gateway says something every second: a stream that is silent for so long is broken. */
const SILENCE = 10_000;

/** Reads `url` for ever; calls `on.event(name, data)`, and `on.state(word, why)` when the link changes. */
export async function follow(url, headers, on, silence = SILENCE) {
  for (let wait = 500; ; wait = Math.min(wait * 2, 10_000)) {
    const cut = new AbortController();
    let why;
    try {
      const answer = await alive(cut, silence, fetch(url, { headers: headers(), cache: "no-store", signal: cut.signal }));
      if (answer.status === 401 || answer.status === 403) {
        await on.refused(answer.status, await problem(answer));
        continue;
      }
      if (answer.ok) {
        on.state("live");
        wait = 500;
        await read(answer.body, cut, silence, on.event);
      } else {
        why = await problem(answer);
      }
    } catch {
      // What broke is told by the state below; the next try says more.
    }
    cut.abort();
    on.state("lost", why);
    await new Promise((go) => setTimeout(go, wait));
  }
}

/** What is waited for, or a cut stream after a long silence. */
async function alive(cut, silence, promise) {
  const timer = setTimeout(() => cut.abort(), silence);
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
  }
}

async function read(body, cut, silence, tell) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await alive(cut, silence, reader.read());
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const field = (name) =>
        event.split("\n").filter((line) => line.startsWith(`${name}: `)).map((line) => line.slice(name.length + 2));
      const data = field("data").join("\n");
      if (data) tell(field("event")[0] ?? "message", JSON.parse(data));
    }
  }
}
