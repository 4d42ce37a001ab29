// One instance: what is known of it, what can be done with it, and its last wakes.

import { call, pathOf } from "/api.js";
import { ago, duration, put, reason, span } from "/words.js";

const MOST = 20;
const HEADS = ["ended", "outcome", "took", "phases", "route", "client", "why"];

export class Details {
  /** `act` has `wake`, `standby` and `reset`, which take an instance and say what was in the way. */
  constructor(dialog, act) {
    this.dialog = dialog;
    this.find = (name) => dialog.querySelector(`#details-${name}`);
    for (const name of ["wake", "standby", "reset"]) {
      this.find(name).addEventListener("click", async () => {
        const one = this.one;
        const refusal = await act[name](one);
        if (this.one === one) this.refusal = refusal;
        await this.load(one);
      });
    }
  }

  async open(one) {
    this.one = one;
    this.told = this.refusal = undefined;
    put(this.find("title"), one.name || one.id);
    for (const name of ["failure", "problem", "none"]) put(this.find(name), "");
    for (const name of ["facts", "rows"]) this.find(name).replaceChildren();
    for (const name of ["wake", "standby", "reset"]) this.find(name).hidden = true;
    if (!this.dialog.open) this.dialog.showModal();
    await this.load(one);
  }

  /** Something has happened to the instance with this id. */
  hear(id) {
    if (!this.dialog.open || this.one.id !== id || this.planned) return;
    this.planned = setTimeout(() => {
      this.planned = undefined;
      this.load(this.one);
    }, 200);
  }

  /** Some time has passed. */
  look() {
    if (this.dialog.open) this.hear(this.one.id);
  }

  async load(one) {
    let detail;
    let trouble = "";
    try {
      detail = await call("GET", pathOf(one));
    } catch (error) {
      trouble = error.message;
    }
    // A person may have opened another meanwhile.
    if (this.one !== one) return;
    put(this.find("problem"), trouble || this.refusal || "");
    if (detail) this.fill(detail);
  }

  fill(detail) {
    put(this.find("title"), detail.name || detail.id);
    const { last_failure: failure, breaker, state } = detail;
    put(this.find("failure"), failure ? `The last wake failed ${ago(failure.ago_ms)}: ${reason(failure)}` : "");
    const facts = Object.entries(factsOf(detail)).filter(([, text]) => text);
    this.find("facts").replaceChildren(...facts.map(([name, text]) => {
      const fact = document.createElement("div");
      fact.append(element("dt", name), element("dd", text));
      return fact;
    }));
    this.find("wake").hidden = state === "awake" || state === "waking";
    this.find("standby").hidden = state !== "awake";
    this.find("reset").hidden = !breaker;
    const wakes = detail.wakes.filter((wake) => wake.outcome !== "renewed").slice(0, MOST);
    put(this.find("none"), wakes.length ? "" : "The gateway remembers no wake of it.");
    this.find("table").hidden = !wakes.length;
    // The same is not made anew: somebody may be marking it.
    const told = JSON.stringify(wakes);
    if (told !== this.told) this.find("rows").replaceChildren(...wakes.map(row));
    this.told = told;
  }
}

function factsOf({ state, wake, id, hypeman, observed, lease, held, inflight, usual_wake_ms: usual, breaker, holds }) {
  const sleeps = lease?.idle_timeout ? `sleeps when idle for ${lease.idle_timeout}` : "never sleeps by itself";
  return {
    state: wake ? `${state}: ${wake.stage} for ${duration(wake.since_ms)}` : state,
    "control plane": `${hypeman}${observed ? `, which says ${observed}` : ""}`,
    lease: lease && `${lease.in_force ? "in force" : "ended"}, ${lease.address}, ${sleeps}`,
    requests: `${held} held, ${inflight} in flight`,
    "kept awake by": holds.map(({ task, left_ms: left }) => `${task} for ${span(left)}`).join(", "),
    "usual wake": usual && duration(usual),
    "next try": breaker && `in ${span(breaker.retry_after_ms)}, after ${breaker.failures} failures in a row`,
    id,
  };
}

function element(tag, text) {
  const it = document.createElement(tag);
  it.textContent = text;
  return it;
}

function row(wake) {
  const tr = document.createElement("tr");
  const ended = new Date(wake.time);
  const today = ended.toDateString() === new Date().toDateString();
  const cells = [
    today ? ended.toLocaleTimeString() : ended.toLocaleString(),
    wake.outcome.replace("_", " "), duration(wake.took_ms), "", wake.route, wake.client, reason(wake),
  ];
  cells.forEach((text, index) => {
    const cell = tr.insertCell();
    cell.dataset.label = HEADS[index];
    cell.textContent = text;
  });
  tr.cells[0].title = wake.time;
  tr.cells[5].title = wake.user_agent ?? "";
  tr.cells[3].append(...phases(wake.phases_ms));
  tr.dataset.outcome = wake.outcome;
  return tr;
}

/** A bar with a part for each phase, and the same in words. */
function phases(times) {
  const all = Object.entries(times);
  const bar = document.createElement("span");
  bar.className = "phases";
  bar.setAttribute("aria-hidden", "true");
  for (const [phase, ms] of all) {
    const part = document.createElement("span");
    part.dataset.phase = phase;
    part.style.flexGrow = String(Math.max(ms, 0.001));
    part.title = `${phase} ${duration(ms)}`;
    bar.append(part);
  }
  return [bar, element("span", all.map(([phase, ms]) => `${phase} ${duration(ms)}`).join(", "))];
}
