// The page: what the gateway tells becomes rows, totals and a histogram; what a person does goes back.

import { Grid, duration, reason } from "/grid.js";
import { follow, problem } from "/stream.js";

const find = (id) => document.getElementById(id);
const instances = new Map();
let wakes = [];
let windowMs = 15 * 60_000;

// --- who asks ---

const token = () => sessionStorage.getItem("wakegate-token");
const headers = () => (token() ? { authorization: `Bearer ${token()}` } : {});

/** Asks a person for the token. */
function login(why) {
  const dialog = find("login");
  find("login-why").textContent = why;
  if (!dialog.open) dialog.showModal();
  return new Promise((go) => {
    find("login-form").onsubmit = () => {
      sessionStorage.setItem("wakegate-token", find("token").value);
      find("token").value = "";
      go();
    };
  });
}

async function call(method, path) {
  const answer = await fetch(path, { method, headers: headers() });
  if (!answer.ok) throw new Error(await problem(answer));
  return answer.status === 204 ? undefined : answer.json();
}

function say(text) {
  find("news").textContent = text;
}

// --- what a person does ---

async function wake(one) {
  say(`waking ${one.name}`);
  try {
    const done = await call("POST", `/api/instances/${encodeURIComponent(one.id)}/wake`);
    say(`${one.name} is awake after ${duration(done.took_ms)}`);
  } catch (error) {
    say(`${one.name}: ${error.message}`);
    find("link").textContent = `${one.name}: ${error.message}`;
  }
}

async function details(one) {
  const dialog = find("details");
  find("details-title").textContent = one.name;
  let last = [];
  let failure;
  try {
    const detail = await call("GET", `/api/instances/${encodeURIComponent(one.id)}`);
    [last, failure] = [detail.wakes, detail.last_failure];
  } catch (error) {
    find("details-title").textContent = `${one.name}: ${error.message}`;
  }
  const row = (wake) => {
    const tr = document.createElement("tr");
    const phases = Object.entries(wake.phases_ms).map(([phase, ms]) => `${phase} ${duration(ms)}`);
    const cells = [new Date(wake.time).toLocaleTimeString(), wake.outcome, duration(wake.took_ms), phases.join(", "), wake.route, wake.client, reason(wake)];
    for (const text of cells) tr.insertCell().textContent = text;
    return tr;
  };
  find("details-failure").textContent = failure ? `The last wake failed ${ago(failure.ago_ms)}: ${reason(failure)}` : "";
  find("details-rows").replaceChildren(...last.slice(0, 20).map(row));
  dialog.showModal();
}

const grid = new Grid(find("view"), find("rows"), { wake, details });

// --- what the gateway tells ---

function place({ id, name, hypeman }) {
  const known = instances.get(id) ?? { id, changes: [], held: 0, inside: 0, failing: false };
  Object.assign(known, { name, hypeman });
  instances.set(id, known);
  return known;
}

function judge(one) {
  const last = one.changes.at(-1)?.[1] ?? "asleep";
  one.state = one.failing ? "failing" : last;
}

const told = {
  snapshot(all) {
    instances.clear();
    windowMs = grid.windowMs = all.window_ms;
    grid.skew = all.now - Date.now();
    for (const track of all.instances) {
      const one = place(track);
      one.changes = track.changes;
      judge(one);
    }
    wakes = all.wakes.map((wake) => ({ id: wake.instance, at: Date.parse(wake.time), ms: wake.took_ms, outcome: wake.outcome, code: wake.code, phase: wake.phase, control_plane: wake.control_plane }));
    for (const wake of wakes.toReversed()) note(wake);
    refresh();
  },
  news(news) {
    if (news.kind === "gone") instances.delete(news.id);
    if (news.kind === "change") {
      const one = place(news);
      if (one.changes.at(-1)?.[1] !== news.state) one.changes.push([news.at, news.state]);
      if (news.state === "awake") one.failure = undefined;
      judge(one);
      if (news.state === "waking") say(`${one.name} is waking`);
    }
    if (news.kind === "wake") {
      wakes.push(news);
      note(news);
      if (news.code) say(`${instances.get(news.id)?.name ?? news.id} was not woken: ${reason(news)}`);
    }
    soon();
  },
  tick(tick) {
    grid.skew = tick.now - Date.now();
    find("rps").textContent = tick.rps < 10 ? tick.rps.toFixed(1) : Math.round(tick.rps).toLocaleString();
    find("held").textContent = tick.held.toLocaleString();
    find("inflight").textContent = tick.inflight.toLocaleString();
    if (tick.draining) link("lost", "draining");
    const [busy, failing] = [new Map(tick.busy.map(([id, ...counts]) => [id, counts])), new Set(tick.failing)];
    for (const one of instances.values()) {
      [one.held, one.inside] = busy.get(one.id) ?? [0, 0];
      one.failing = failing.has(one.id);
      judge(one);
    }
    refresh();
  },
};

function note(wake) {
  const one = instances.get(wake.id);
  if (!one) return;
  if (wake.outcome === "woken") one.lastWake = wake.ms;
  // Whoever was seen awake since then needs no reason.
  const awake = one.changes.findLast(([, state]) => state === "awake")?.[0] ?? 0;
  one.failure = wake.code && wake.at >= awake ? wake : undefined;
}

function ago(ms) {
  const seconds = Math.max(Math.round(ms / 1000), 0);
  if (seconds < 90) return `${seconds} s ago`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min ago` : `${Math.round(seconds / 3600)} h ago`;
}

function link(state, text) {
  find("link").dataset.state = state;
  find("link").textContent = text;
}

// --- how it looks ---

let planned = false;
/** Once a frame is often enough. */
function soon() {
  if (planned) return;
  planned = true;
  requestAnimationFrame(refresh);
}

function refresh() {
  planned = false;
  const [text, state] = [find("filter").value.trim().toLowerCase(), find("state").value];
  const counts = { awake: 0, waking: 0, asleep: 0, stopped: 0, failing: 0 };
  const start = Date.now() + grid.skew - windowMs;
  const shown = [];
  for (const one of instances.values()) {
    counts[one.state] += 1;
    while (one.changes.length > 1 && one.changes[1][0] <= start) one.changes.shift();
    const fits = !text || one.name.toLowerCase().includes(text) || one.id.startsWith(text);
    if (fits && (!state || one.state === state)) shown.push(one);
  }
  shown.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
  for (const name of ["awake", "waking", "asleep"]) find(`n-${name}`).textContent = counts[name].toLocaleString();
  find("n-other").textContent = (counts.failing + counts.stopped).toLocaleString();
  find("empty").hidden = shown.length > 0;
  grid.show(shown);
  wakes = wakes.filter((wake) => wake.at >= start);
  histogram(wakes);
}

const LIMITS = [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, Infinity];
const LABELS = ["≤ 5 ms", "10", "25", "50", "100", "250", "500", "≤ 1 s", "2.5", "5", "10", "more"];

function histogram(all) {
  const woken = all.filter((wake) => wake.outcome === "woken").map((wake) => wake.ms).sort((a, b) => a - b);
  const failed = all.length - woken.length;
  const at = (share) => duration(woken[Math.min(Math.floor(woken.length * share), woken.length - 1)]);
  find("wakes-text").textContent = woken.length
    ? `${woken.length} woken: half within ${at(0.5)}, 95 % within ${at(0.95)}, the slowest ${at(1)}` + (failed ? `; ${failed} failed` : "")
    : failed ? `${failed} failed` : "none yet";
  const newest = all.reduce((last, wake) => (wake.code && !(last?.at > wake.at) ? wake : last), undefined);
  const why = newest
    ? `${instances.get(newest.id)?.name ?? newest.id}, ${ago(Date.now() + grid.skew - newest.at)}: ${reason(newest)}`
    : "";
  if (find("wakes-failure").textContent !== why) find("wakes-failure").textContent = why;
  const counts = LIMITS.map(() => 0);
  for (const ms of woken) counts[LIMITS.findIndex((limit) => ms <= limit)] += 1;
  const most = Math.max(...counts, 1);
  const width = 600 / LIMITS.length;
  const shape = (name, fields, text) => {
    const it = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(fields)) it.setAttribute(key, value);
    if (text !== undefined) it.textContent = text;
    return it;
  };
  const bars = counts.flatMap((count, index) => {
    const [tall, x] = [(count / most) * 78, index * width];
    return [
      shape("rect", { x: x + 3, y: 98 - tall, width: width - 6, height: tall }),
      shape("text", { x: x + width / 2, y: 92 - tall }, count || ""),
      shape("text", { x: x + width / 2, y: 114 }, LABELS[index]),
    ];
  });
  find("histogram").replaceChildren(shape("line", { x1: 0, x2: 600, y1: 98.5, y2: 98.5 }), ...bars);
}

// --- themes and keys ---

const THEMES = ["system", "light", "dark"];

function theme(name) {
  document.documentElement.dataset.theme = name;
  find("theme").textContent = `theme: ${name}`;
  localStorage.setItem("wakegate-theme", name);
  grid.recolour();
}

find("theme").addEventListener("click", () => {
  const now = THEMES.indexOf(document.documentElement.dataset.theme);
  theme(THEMES[(now + 1) % THEMES.length]);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => grid.recolour());
find("filter").addEventListener("input", refresh);
find("state").addEventListener("change", refresh);
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
    find("filter").focus();
    event.preventDefault();
  }
  if (event.target === find("filter") && (event.key === "ArrowDown" || event.key === "Enter")) grid.choose(0);
});

theme(localStorage.getItem("wakegate-theme") ?? "system");
follow("/api/events", headers, {
  event: (name, data) => told[name]?.(data),
  state: (state) => link(state, state === "live" ? "live" : "connection lost, trying again"),
  refused: (status, why) => {
    link("lost", why);
    // 403: no token would help.
    return status === 401 ? login(why) : new Promise((go) => setTimeout(go, 5000));
  },
});
