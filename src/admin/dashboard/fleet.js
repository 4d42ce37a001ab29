// The fleet, where the gateway is in one: how its directory stands, who the members are, what to look at.

import { headers } from "/api.js";
import { put, span } from "/words.js";

/** What is wrong is told of so many; the command tells of all. */
const MOST = 10;

export class Fleet {
  constructor(find) {
    this.find = find;
  }

  /** Asks how the fleet stands; once, where there is none. */
  async look() {
    if (this.none) return;
    let status;
    try {
      const answer = await fetch("/api/fleet", { headers: headers(), cache: "no-store" });
      this.none = answer.status === 404;
      if (!answer.ok) return;
      status = await answer.json();
    } catch {
      // The link at the top says so.
      return;
    }
    this.find("fleet").hidden = false;
    put(this.find("fleet-text"), sentence(status));
    this.find("fleet-problems").replaceChildren(...problems(status).map(item));
    this.find("members").replaceChildren(...status.members.map(member));
  }
}

function sentence({ revision, age_seconds: age, routes, claims }) {
  const heard = age === null ? "not heard since the start" : age < 10 ? "answers" : `not heard for ${span(age * 1000)}`;
  const count = (number, word) => `${number.toLocaleString()} ${word}${number === 1 ? "" : "s"}`;
  return `The directory ${heard}. Revision ${revision}, ${count(routes, "route")}, ${count(claims, "name")}.`;
}

function problems({ shrink, unlisted, claimed_twice: twice, problems: keys, went_back: back }) {
  const all = [
    ...(shrink ? [`${shrink.routes} of ${shrink.of} routes are gone from the directory and stay in force: wakegate fleet accept`] : []),
    ...(unlisted ? [`${unlisted} of what this node has published are not in its host's list and stay until that is confirmed, or: wakegate fleet accept`] : []),
    ...(back ? [`The directory has gone back ${back} times: it was restored from a backup.`] : []),
    ...twice.map(({ name, hosts }) => `${name} is claimed by ${hosts.join(", ")}; the first has it`),
    ...Object.entries(keys).map(([key, text]) => `${key}: ${text}`),
  ];
  const more = all.length - MOST;
  return more > 0 ? [...all.slice(0, MOST), `${more} more: wakegate fleet check`] : all;
}

function item(text) {
  const li = document.createElement("li");
  li.className = "why";
  li.textContent = text;
  return li;
}

function member({ name, role, zone, alive, draining, endpoints }) {
  const tr = document.createElement("tr");
  const state = !alive ? "silent" : draining ? "draining" : "alive";
  for (const [label, text] of Object.entries({ member: name, role, zone: zone ?? "", state, "reached at": endpoints.join(", ") })) {
    const cell = tr.insertCell();
    cell.dataset.label = label;
    cell.textContent = text;
  }
  return tr;
}
