// Numbers, times and reasons, for people.

/** Milliseconds. */
export function duration(ms) {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** How long ago something was. */
export function ago(ms) {
  return `${span(ms)} ago`;
}

/** Milliseconds of which only the largest unit matters. */
export function span(ms) {
  const seconds = Math.max(Math.round(ms / 1000), 0);
  if (seconds < 90) return `${seconds} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  const hours = Math.round(seconds / 3600);
  return hours < 48 ? `${hours} h` : `${Math.round(hours / 24)} days`;
}

/** The smallest of sorted values that at least this share of them does not exceed. */
export function quantile(sorted, share) {
  return sorted[Math.max(Math.ceil(sorted.length * share) - 1, 0)];
}

/** Why a wake failed: the code, the phase and the control plane's words; as text, never as HTML. */
export function reason({ code, phase, control_plane: said, reason: own }) {
  if (!code) return own ?? "";
  if (own) return `${code} in phase ${phase}; ${own}`;
  if (!said) return `${code} in phase ${phase}`;
  const status = said.status ? ` answered ${[said.status, said.code].filter(Boolean).join(" ")}` : "";
  return `${code} in phase ${phase}; ${said.operation}${status}: ${said.message}`;
}

/** Changes a text only where it is another: whoever listens to it hears it once. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
