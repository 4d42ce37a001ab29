// The gateway as a whole: its version, its control planes and its routes, with their states.

import { call } from "/api.js";
import { put, span } from "/words.js";

/** Routes that are shown at once; the filter finds the others. */
const MOST = 100;

export class Overview {
  /** `known` has the instances by id; `open` shows one of them. */
  constructor(find, known, open) {
    [this.find, this.known, this.open] = [find, known, open];
    find("route-filter").addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.routes(), 200);
    });
  }

  /** Asks for the gateway's status. */
  async status() {
    try {
      this.take(await call("GET", "/api/status"));
    } catch {
      // The link at the top says so.
    }
  }

  take(status) {
    const { version, uptime_seconds: uptime, listeners, hypeman: planes, routes, instances } = status;
    put(this.find("about"), `wakegate ${version}, up for ${span(uptime * 1000)}, listens on ${listeners.join(", ") || "nothing"}`);
    this.count = routes;
    this.replace("planes", planes, plane);
    const total = Object.values(instances).reduce((sum, count) => sum + count, 0);
    const more = total - this.known.size;
    // The timelines' memory is bounded. What begins between two calls is no reason for a word.
    const isCut = this.isCut ?? more > Math.max(total / 100, 5);
    put(this.find("more"), isCut && more > 0 ? `${more.toLocaleString()} more are not shown here; /api/instances has all of them.` : "");
  }

  /** Asks for the routes that fit the filter. */
  async routes() {
    const filter = this.find("route-filter").value.trim().toLowerCase();
    let list;
    try {
      list = await call("GET", `/api/routes?limit=${MOST}&filter=${encodeURIComponent(filter)}`);
    } catch {
      return;
    }
    // A person may have typed more meanwhile.
    if (filter !== this.find("route-filter").value.trim().toLowerCase()) return;
    this.list = list;
    this.show();
    const cut = list.length === MOST ? `The first ${MOST}${filter ? "" : ` of ${(this.count ?? MOST).toLocaleString()}`}. The filter finds the others.` : "";
    put(this.find("routes-text"), list.length ? cut : filter ? "no route fits" : "There is no route: every request is answered with 404.");
  }

  /** Shows the routes with the present states of their instances. */
  show() {
    if (!this.list) return;
    const byName = new Map();
    for (const one of this.known.values()) {
      byName.set(`${one.hypeman} ${one.name}`, one);
      byName.set(`${one.hypeman} ${one.id}`, one);
    }
    const rows = this.list.map((route) => {
      const named = !route.instance.includes("{");
      const one = named ? byName.get(`${route.hypeman} ${route.instance}`) : undefined;
      return { ...route, state: one?.state ?? (named ? "unknown" : "by host"), id: one?.id };
    });
    this.replace("routes", rows, (route) => this.route(route));
  }

  route({ host, path, listen_port: listen, instance, port, protocol, hypeman, state, id, wake_timeout: timeout, source }) {
    const tr = document.createElement("tr");
    const cells = {
      route: `${host}${listen ? `:${listen}` : ""}${path === "/" ? "" : path}`, instance: "", state,
      "control plane": hypeman, "held for": `at most ${timeout}`, "declared by": source,
    };
    for (const [label, text] of Object.entries(cells)) {
      const cell = tr.insertCell();
      cell.dataset.label = label;
      cell.textContent = text;
    }
    tr.cells[2].dataset.state = state;
    const target = `${instance}:${port}${protocol === "h2c" ? " (h2c)" : ""}`;
    const button = document.createElement(id ? "button" : "span");
    button.textContent = target;
    if (id) {
      button.type = "button";
      button.className = "plain";
      button.addEventListener("click", () => this.known.has(id) && this.open(this.known.get(id)));
    }
    tr.cells[1].append(button);
    return tr;
  }

  /** Makes the elements anew only when something is different: the focus stays. */
  replace(id, list, make) {
    const text = JSON.stringify(list);
    const place = this.find(id);
    if (place.told === text) return;
    place.told = text;
    place.replaceChildren(...list.map(make));
  }
}

function plane({ name, url, up, error }) {
  const item = document.createElement("li");
  item.dataset.up = String(up);
  const part = (className, text) => {
    const it = document.createElement("span");
    it.className = className;
    it.textContent = text;
    item.append(it, " ");
  };
  part("name", name);
  part("answer", up === undefined ? "not asked yet" : up ? "answers" : "does not answer");
  part("dim", url);
  if (error) part("why", error);
  return item;
}
