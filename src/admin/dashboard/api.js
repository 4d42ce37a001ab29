// Calls to the gateway's API, with the token where one is needed.

const memory = new Map();

/** What the browser keeps; only as long as the page lives where the browser keeps nothing. */
function kept(kind) {
  const storage = (use) => {
    try {
      return use(window[kind]);
    } catch {
      return undefined;
    }
  };
  return {
    get: (key) => storage((place) => place.getItem(key)) ?? memory.get(key),
    set: (key, value) => {
      memory.set(key, value);
      storage((place) => place.setItem(key, value));
    },
    remove: (key) => {
      memory.delete(key);
      storage((place) => place.removeItem(key));
    },
  };
}

export const preferences = kept("localStorage");
const session = kept("sessionStorage");
const TOKEN = "wakegate-token";

export const token = () => session.get(TOKEN);
export const signIn = (text) => session.set(TOKEN, text.trim());
export const signOut = () => session.remove(TOKEN);
export const headers = () => (token() ? { authorization: `Bearer ${token()}` } : {});

/** The detail of an answer's problem JSON. */
export async function problem(answer) {
  try {
    return (await answer.json()).detail ?? answer.statusText;
  } catch {
    return answer.statusText;
  }
}

/** The JSON of an answer, or an error with the detail of its problem. */
export async function call(method, path) {
  const answer = await fetch(path, { method, headers: headers(), cache: "no-store" });
  if (!answer.ok) throw new Error(await problem(answer));
  return answer.status === 204 ? undefined : answer.json();
}

/** The path of an instance, or of something that can be done with it. */
export function pathOf({ id, hypeman }, verb) {
  const path = ["/api/instances", encodeURIComponent(id), verb].filter(Boolean).join("/");
  return hypeman ? `${path}?hypeman=${encodeURIComponent(hypeman)}` : path;
}
