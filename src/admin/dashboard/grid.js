// The instances as rows with their timelines. Only the rows in sight exist, so a thousand cost what
// thirty do.

import { duration, put, reason } from "/words.js";

const BEYOND = 4;

/** What each state looks like besides its colour: how much of the row's height it fills. */
const SHAPES = { asleep: 0.12, stopped: 0.12, waking: 0.6, awake: 0.85, failing: 1 };

export class Grid {
  constructor(view, rows, act) {
    this.view = view;
    this.rows = rows;
    this.head = view.querySelector(".head");
    this.act = act;
    this.list = [];
    this.chosen = 0;
    this.pool = new Map();
    this.windowMs = 15 * 60_000;
    this.skew = 0;
    this.measure();
    view.addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => {
      this.measure();
      this.draw();
    }).observe(view);
  }

  /** The style sheet says how tall a row is: on a narrow screen it has several lines. */
  measure() {
    this.height = parseFloat(getComputedStyle(this.rows).getPropertyValue("--row")) || 34;
    this.rows.style.height = `${this.list.length * this.height}px`;
  }

  /** Shows these instances, in this order. */
  show(list) {
    const kept = this.list[this.chosen]?.id;
    this.list = list;
    const at = list.findIndex((one) => one.id === kept);
    this.chosen = at >= 0 ? at : Math.min(this.chosen, Math.max(list.length - 1, 0));
    this.rows.style.height = `${list.length * this.height}px`;
    this.view.parentElement.setAttribute("aria-rowcount", list.length + 1);
    this.draw();
  }

  draw() {
    const first = Math.max(Math.floor(this.view.scrollTop / this.height) - BEYOND, 0);
    const last = Math.min(Math.ceil((this.view.scrollTop + this.view.clientHeight) / this.height) + BEYOND, this.list.length);
    const seen = new Set();
    for (let index = first; index < last; index++) {
      const one = this.list[index];
      seen.add(one.id);
      const row = this.pool.get(one.id) ?? this.make(one.id);
      this.fill(row, one, index);
    }
    for (const [id, row] of this.pool) {
      // The row that has the focus stays until the focus has moved.
      if (!seen.has(id) && !row.contains(document.activeElement)) {
        row.remove();
        this.pool.delete(id);
      }
    }
  }

  make(id) {
    const row = document.createElement("div");
    row.className = "row";
    row.setAttribute("role", "row");
    const cell = (name, tag = "span") => {
      const it = document.createElement(tag);
      it.className = name;
      const holder = tag === "span" ? it : document.createElement("span");
      if (holder !== it) holder.append(it);
      holder.setAttribute("role", "gridcell");
      row.append(holder);
      return it;
    };
    row.parts = {
      name: cell("name"), state: cell("condition"), canvas: cell("line", "canvas"), held: cell("number"),
      inside: cell("number"), took: cell("number"), actions: cell("actions"),
    };
    const { held, inside, took, canvas, actions } = row.parts;
    canvas.parentElement.className = "time";
    // A narrow screen has no titles above the numbers.
    for (const [part, label] of [[held, "held"], [inside, "in flight"], [took, "took"]]) part.dataset.label = label;
    for (const verb of ["wake", "standby"]) {
      const button = document.createElement("button");
      button.textContent = button.className = verb;
      button.type = "button";
      button.addEventListener("click", () => this.act[verb](row.one));
      actions.append(button);
      row.parts[verb] = button;
    }
    row.addEventListener("focusin", () => { this.chosen = Number(row.dataset.index); });
    row.addEventListener("click", (event) => {
      // Who marks a name to copy it wants nothing else.
      if (!event.target.closest("button") && getSelection().isCollapsed) this.act.details(row.one);
    });
    this.rows.append(row);
    this.pool.set(id, row);
    return row;
  }

  fill(row, one, index) {
    const { name, state, canvas, held, inside, took, wake, standby } = row.parts;
    row.one = one;
    for (const [key, value] of Object.entries({ id: one.id, name: one.name, state: one.state, index: String(index) })) {
      if (row.dataset[key] !== value) row.dataset[key] = value;
    }
    row.style.top = `${index * this.height}px`;
    for (const part of [row, wake, standby]) part.tabIndex = index === this.chosen ? 0 : -1;
    row.setAttribute("aria-rowindex", index + 2);
    put(name, one.name);
    name.title = `${one.id} on ${one.hypeman}`;
    put(state, one.failure ? `${one.state}: ${one.failure.code}` : one.state);
    const why = one.failure ? reason(one.failure) : "";
    if (state.title !== why) state.title = why;
    put(held, one.held ? String(one.held) : "");
    put(inside, one.inside ? String(one.inside) : "");
    const last = one.lastWake === undefined ? "" : duration(one.lastWake);
    put(took, one.failure ? "failed" : last);
    if (took.title !== why) took.title = why;
    wake.disabled = one.state === "awake" || one.state === "waking";
    standby.disabled = one.state !== "awake";
    wake.setAttribute("aria-label", `wake ${one.name}`);
    standby.setAttribute("aria-label", `put ${one.name} into standby`);
    row.setAttribute("aria-label", `${one.name}: ${one.state}${why ? `, the last wake failed: ${why}` : ""}`);
    this.paint(canvas, one.changes);
  }

  paint(canvas, changes) {
    const scale = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((size) => Math.round(size * scale));
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, width, height);
    const end = Date.now() + this.skew;
    const start = end - this.windowMs;
    const bar = ([at, state], index, least) => {
      const until = changes[index + 1]?.[0] ?? end;
      if (until < start) return;
      const from = Math.max(at, start);
      const tall = SHAPES[state] * height;
      pen.fillStyle = this.colours[state];
      const long = Math.max(((until - from) / this.windowMs) * width, least);
      pen.fillRect(((from - start) / this.windowMs) * width, height - tall, long, tall);
    };
    changes.forEach((change, index) => bar(change, index, 1));
    // A wake of ten milliseconds is seen, too, in front of what came after it.
    changes.forEach((change, index) => change[1] === "waking" && bar(change, index, 3 * scale));
  }

  /** Takes the colours from the style sheet, again when the theme has changed. */
  recolour() {
    const style = getComputedStyle(document.documentElement);
    const probe = document.createElement("span");
    document.body.append(probe);
    const resolved = (name) => {
      probe.style.color = style.getPropertyValue(`--${name}`);
      return getComputedStyle(probe).color;
    };
    this.colours = Object.fromEntries(["awake", "waking", "asleep", "failing"].map((name) => [name, resolved(name)]));
    this.colours.stopped = this.colours.failing;
    probe.remove();
    this.draw();
  }

  /** Arrows work from wherever the focus is; what acts on a row, only in the row. */
  key(event) {
    const page = Math.max(Math.floor(this.view.clientHeight / this.height) - 1, 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -this.list.length, End: this.list.length };
    const one = this.list[this.chosen];
    if (!one) return;
    const isHere = this.rows.contains(event.target);
    const isButton = /^(BUTTON|A)$/.test(event.target.tagName);
    if (isHere && event.key in steps) this.choose(this.chosen + steps[event.key]);
    else if (/^Arrow(Up|Down)$/.test(event.key)) this.choose(this.chosen);
    else if (event.repeat) return;
    else if (isHere && event.key === "w") this.act.wake(one);
    else if (isHere && event.key === "s") this.act.standby(one);
    else if (isHere && event.key === "Enter" && !isButton) this.act.details(one);
    else return;
    event.preventDefault();
  }

  choose(index) {
    this.chosen = Math.max(0, Math.min(index, this.list.length - 1));
    const top = this.chosen * this.height;
    if (top < this.view.scrollTop) this.view.scrollTop = top;
    else {
      // The titles stay where they are, above the rows.
      const room = this.view.clientHeight - this.head.offsetHeight;
      if (top + this.height > this.view.scrollTop + room) this.view.scrollTop = top + this.height - room;
    }
    this.draw();
    this.pool.get(this.list[this.chosen]?.id)?.focus({ preventScroll: true });
    this.draw();
  }
}
