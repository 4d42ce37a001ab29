// How long the wakes of the last quarter of an hour took.

import { duration, quantile } from "/words.js";

const LIMITS = [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, Infinity];
const LABELS = ["≤ 5 ms", "10", "25", "50", "100", "250", "500", "≤ 1 s", "2.5", "5", "10", "more"];

/** The same in one sentence. */
export function sentence(wakes) {
  const woken = times(wakes);
  const failed = wakes.length - woken.length;
  if (!woken.length) return failed ? `${failed} failed` : "none yet";
  const at = (share) => duration(quantile(woken, share));
  const text = `${woken.length} woken: half within ${at(0.5)}, 95 % within ${at(0.95)}, the slowest ${at(1)}`;
  return failed ? `${text}; ${failed} failed` : text;
}

/** Draws the bars into an SVG. */
export function draw(svg, wakes) {
  const counts = LIMITS.map(() => 0);
  for (const ms of times(wakes)) counts[LIMITS.findIndex((limit) => ms <= limit)] += 1;
  const most = Math.max(...counts, 1);
  const width = 600 / LIMITS.length;
  const bars = counts.flatMap((count, index) => {
    const [tall, x] = [(count / most) * 78, index * width];
    return [
      shape("rect", { x: x + 3, y: 98 - tall, width: width - 6, height: tall }),
      shape("text", { x: x + width / 2, y: 92 - tall }, count || ""),
      shape("text", { x: x + width / 2, y: 115 }, LABELS[index]),
    ];
  });
  svg.replaceChildren(shape("line", { x1: 0, x2: 600, y1: 98.5, y2: 98.5 }), ...bars);
}

function times(wakes) {
  return wakes.filter((wake) => wake.outcome === "woken").map((wake) => wake.ms).sort((a, b) => a - b);
}

function shape(name, fields, text) {
  const it = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(fields)) it.setAttribute(key, value);
  if (text !== undefined) it.textContent = text;
  return it;
}
