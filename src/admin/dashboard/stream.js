// Server-sent events over fetch, since EventSource cannot send a token.

/** Reads `url` for ever; calls `on.event(name, data)`, and `on.state(word)` when the link changes. */
export async function follow(url, headers, on) {
  for (let wait = 500; ; wait = Math.min(wait * 2, 10_000)) {
    try {
      const answer = await fetch(url, { headers: headers(), cache: "no-store" });
      if (answer.status === 401 || answer.status === 403) {
        await on.refused(answer.status, await problem(answer));
        continue;
      }
      if (answer.ok) {
        on.state("live");
        wait = 500;
        await read(answer.body, on.event);
      }
    } catch {
      // What broke is told by the state below; the next try says more.
    }
    on.state("lost");
    await new Promise((go) => setTimeout(go, wait));
  }
}

/** The detail of an answer's problem JSON. */
export async function problem(answer) {
  try {
    return (await answer.json()).detail ?? answer.statusText;
  } catch {
    return answer.statusText;
  }
}

async function read(body, tell) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
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
