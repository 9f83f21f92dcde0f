// What a signal is called, how a value is coloured, and the scale that says so.
import { el, fill, number } from "./dom.js";

/** Gives each signal the measure of its means by turn: what the means of all episodes say. */
export function measureTurns(index) {
  for (const signal of index.signals) {
    const known = index.means[signal.name].filter((value) => value !== null).map(Math.abs).sort((a, b) => a - b);
    signal.turnScale = 1.5 * known[Math.floor(0.95 * (known.length - 1))] || signal.scale;
  }
}

/** The description of a signal by name; undefined for one that these records lack. */
export function described(index, name) {
  return index.signals.find((signal) => signal.name === name);
}

/** The signal that a state asks for, or the first. */
export function chosen(index, name) {
  return described(index, name) || index.signals[0];
}

/** A signal on one scale with `other`, where that is of its kind: then the colours of two panes mean the same. */
export function onOneScale(signal, other) {
  if (!signal || !other || signal === other || signal.kin !== other.kin) return signal;
  const kind = signal.kind === other.kind ? signal.kind : "signed";
  return { ...signal, kind, scale: Math.max(signal.scale, other.scale), turnScale: Math.max(signal.turnScale, other.turnScale) };
}

/** How strong a colour is, from 0 to 1, and which: cold for values below 0 of a signal that has both signs. */
export function tint(signal, value) {
  if (value === null || value === undefined) return { strength: 0, cold: false };
  const strength = Math.min(Math.abs(value) / signal.scale, 1);
  return { strength, cold: signal.kind === "signed" && value < 0 };
}

/** Colours an element by a value. */
export function colour(element, signal, value) {
  const { strength, cold } = tint(signal, value);
  element.style.setProperty("--d", strength.toFixed(3));
  element.classList.toggle("cold", cold);
  element.classList.toggle("none", value === null || value === undefined);
}

/** The mean of a signal over a turn's tokens; null where none has a value. */
export function mean(values, [start, stop]) {
  let sum = 0;
  let n = 0;
  for (let i = start; values && i < stop; i++) {
    if (values[i] !== null) {
      sum += values[i];
      n++;
    }
  }
  return n ? sum / n : null;
}

/** The scale of a signal: a gradient with its ends. */
export function legend(signal) {
  const ends = { positive: ["0", `≥ ${number(signal.scale)}`], negative: ["0", `≤ ${number(-signal.scale)}`] };
  const [low, high] = ends[signal.kind] || [`≤ ${number(-signal.scale)}`, `≥ ${number(signal.scale)}`];
  return el(
    "span",
    { class: "legend", role: "img", "aria-label": `from ${low} to ${high}` },
    el("span", { class: "end", text: low }),
    el("span", { class: signal.kind === "signed" ? "ramp both" : "ramp" }),
    el("span", { class: "end", text: high }),
  );
}

/** A menu of the signals, grouped. */
export function menu(index, name, change) {
  const select = el("select", { class: "signal", "aria-label": "what shades the tokens", on: { change: () => (select.blur(), change(select.value)) } }); // keys mean the page again
  const groups = new Map();
  for (const signal of index.signals) {
    if (!groups.has(signal.group)) groups.set(signal.group, []);
    groups.get(signal.group).push(el("option", { value: signal.name, text: signal.label }));
  }
  fill(select, [...groups].map(([label, options]) => el("optgroup", { label }, options)));
  if (index.signals.length) select.value = chosen(index, name).name;
  select.disabled = index.signals.length === 0;
  return select;
}
