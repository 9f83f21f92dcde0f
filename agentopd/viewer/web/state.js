// What is shown is the part of the address behind `#`: every view has a link, and going back works.

const listeners = [];
let current = read();

function read() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

function written(state) {
  const known = Object.entries(state).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const text = new URLSearchParams(known).toString();
  return text.replaceAll("%2F", "/").replaceAll("%3A", ":");
}

/** The state now: texts by name. */
export function state() {
  return current;
}

/** Changes the state. `push` makes a step that the browser's back button undoes. */
export function change(changes, push = false) {
  const before = current;
  current = { ...before, ...changes };
  for (const [name, value] of Object.entries(current)) if (value === "" || value === null || value === undefined) delete current[name];
  if (written(current) === written(before)) return;
  history[push ? "pushState" : "replaceState"](null, "", `#${written(current)}`);
  for (const call of listeners) call(current, before);
}

/** Calls `call(now, before)` whenever the state changes. */
export function watch(call) {
  listeners.push(call);
}

/** The address of a state. */
export function link(changes) {
  return `#${written({ ...current, ...changes })}`;
}

function moved() {
  const before = current;
  current = read();
  if (written(current) !== written(before)) for (const call of listeners) call(current, before);
}

addEventListener("popstate", moved);
addEventListener("hashchange", moved);
