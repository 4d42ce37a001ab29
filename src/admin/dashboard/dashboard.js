// The page: what the gateway tells becomes rows, totals and a histogram; what a person does goes back.

import { call, headers, pathOf, preferences, signIn, signOut, token } from "/api.js";
import { Details } from "/details.js";
import { Fleet } from "/fleet.js";
import { Grid } from "/grid.js";
import { draw, sentence } from "/histogram.js";
import { Overview } from "/overview.js";
import { follow } from "/stream.js";
import { ago, duration, put, reason } from "/words.js";

const find = (id) => document.getElementById(id);
const instances = new Map();
let wakes = [];
let windowMs = 15 * 60_000;
let ticks = 0;

// --- who asks ---

/** Asks a person for the token; whether it was right, the next call tells. */
function login() {
  const dialog = find("login");
  put(find("login-why"), token() ? "This token is not valid. Is all of it there?" : "");
  signOut();
  if (!dialog.open) dialog.showModal();
  find("token").focus();
  return new Promise((go) => {
    find("login-form").onsubmit = () => {
      signIn(find("token").value);
      find("token").value = "";
    };
    // Whoever goes away without it is asked again.
    dialog.onclose = go;
  });
}

// --- what a person does ---

/** Says it to those who do not see the page. */
function say(text) {
  find("news").textContent = text;
}

let forgetting;
/** Says to everybody what came of an action. */
function tell(text, failed = false) {
  say(text);
  const notice = find("notice");
  notice.textContent = text;
  notice.dataset.failed = String(failed);
  notice.hidden = false;
  clearTimeout(forgetting);
  forgetting = setTimeout(() => { notice.hidden = true; }, failed ? 20_000 : 6000);
}

/** Does something with an instance; what was in the way, or nothing. */
async function perform(one, verb, doing, done) {
  tell(doing);
  try {
    tell(done(await call("POST", pathOf(one, verb))));
  } catch (error) {
    tell(`${one.name}: ${error.message}`, true);
    return error.message;
  }
  return undefined;
}

const act = {
  wake: (one) => perform(one, "wake", `waking ${one.name}`, ({ took_ms: ms }) => `${one.name} is awake after ${duration(ms)}`),
  standby(one) {
    const { held, inside } = instances.get(one.id) ?? one;
    const busy = held + inside;
    const question = `${one.name} has ${busy} ${busy === 1 ? "request" : "requests"}, which may break. Put it to sleep?`;
    if (busy && !confirm(question)) return undefined;
    return perform(one, "standby", `putting ${one.name} to sleep`, () => `${one.name} is asleep`);
  },
  reset: (one) => perform(one, "reset-breaker", `forgetting that ${one.name} failed`, () => `the next request may wake ${one.name}`),
  details: (one) => details.open(one),
};
const details = new Details(find("details"), act);
const grid = new Grid(find("view"), find("rows"), act);
const overview = new Overview(find, instances, act.details);
const fleet = new Fleet(find);

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
    overview.isCut = all.is_cut;
    grid.skew = all.now - Date.now();
    for (const track of all.instances) {
      const one = place(track);
      one.changes = track.changes;
      judge(one);
    }
    wakes = all.wakes.map((wake) => ({ id: wake.instance, at: Date.parse(wake.time), ms: wake.took_ms, outcome: wake.outcome, code: wake.code, phase: wake.phase, control_plane: wake.control_plane, reason: wake.reason }));
    for (const wake of wakes.toReversed()) note(wake);
    ticks = 0;
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
    details.hear(news.id);
    soon();
  },
  tick(tick) {
    grid.skew = tick.now - Date.now();
    put(find("rps"), tick.rps < 10 ? tick.rps.toFixed(1) : Math.round(tick.rps).toLocaleString());
    put(find("held"), tick.held.toLocaleString());
    put(find("inflight"), tick.inflight.toLocaleString());
    if (tick.draining) link("lost", "draining");
    const [busy, failing] = [new Map(tick.busy.map(([id, ...counts]) => [id, counts])), new Set(tick.failing)];
    for (const one of instances.values()) {
      [one.held, one.inside] = busy.get(one.id) ?? [0, 0];
      one.failing = failing.has(one.id);
      judge(one);
    }
    if (ticks % 2 === 0) details.look();
    // Control planes and routes change seldom.
    if (ticks % 5 === 0) {
      overview.status();
      fleet.look();
    }
    if (ticks % 15 === 0) overview.routes();
    else overview.show();
    ticks += 1;
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

function link(state, text) {
  find("link").dataset.state = state;
  put(find("link"), text);
}

// --- how it looks ---

let planned = false;
/** Once a frame is often enough. */
function soon() {
  if (planned) return;
  planned = true;
  requestAnimationFrame(refresh);
}

const { compare } = new Intl.Collator(undefined, { numeric: true });

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
  shown.sort((a, b) => compare(a.name, b.name));
  for (const name of ["awake", "waking", "asleep"]) put(find(`n-${name}`), counts[name].toLocaleString());
  put(find("n-other"), (counts.failing + counts.stopped).toLocaleString());
  find("empty").hidden = shown.length > 0;
  put(find("empty"), instances.size ? "no instance fits" : "The gateway knows of no instance yet.");
  grid.show(shown);
  wakes = wakes.filter((wake) => wake.at >= start);
  put(find("wakes-text"), sentence(wakes));
  draw(find("histogram"), wakes);
  const newest = wakes.reduce((last, wake) => (wake.code && !(last?.at > wake.at) ? wake : last), undefined);
  put(find("wakes-failure"), newest
    ? `${instances.get(newest.id)?.name ?? newest.id}, ${ago(Date.now() + grid.skew - newest.at)}: ${reason(newest)}`
    : "");
}

// --- links ---

/** Whoever signed in has a token that a plain link would not send. */
for (const anchor of document.querySelectorAll("a[data-json]")) {
  anchor.addEventListener("click", async (event) => {
    if (!token()) return;
    event.preventDefault();
    try {
      find("text-body").textContent = JSON.stringify(await call("GET", anchor.getAttribute("href")), undefined, 2);
    } catch (error) {
      find("text-body").textContent = error.message;
    }
    put(find("text-title"), anchor.textContent);
    find("text").showModal();
  });
}
find("sign-out").addEventListener("click", () => {
  signOut();
  location.reload();
});

// --- themes and keys ---

const THEMES = ["system", "light", "dark"];

function theme(name) {
  document.documentElement.dataset.theme = name;
  put(find("theme"), `theme: ${name}`);
  preferences.set("wakegate-theme", name);
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
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (target === find("filter")) {
    if (key === "ArrowDown" || key === "Enter") grid.choose(0);
    else if (key === "Escape" && target.value) {
      target.value = "";
      refresh();
    } else return;
    event.preventDefault();
  } else if (/^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName)) {
    return;
  } else if (key === "/") {
    find("filter").focus();
    event.preventDefault();
  } else {
    grid.key(event);
  }
});

theme(preferences.get("wakegate-theme") ?? "system");
follow("/api/events", headers, {
  event: (name, data) => told[name]?.(data),
  state: (state, why) => {
    link(state, state === "live" ? "live" : `connection lost${why ? ` (${why})` : ""}, trying again`);
    find("sign-out").hidden = !token();
  },
  refused: (status, why) => {
    link("lost", status === 401 ? "signed out" : why);
    // 403: no token would help.
    return status === 401 ? login() : new Promise((go) => setTimeout(go, 5000));
  },
});
