// Elements made by hand. What comes from records goes through `shown` or `textContent`, never through a parser.

/** An element. `properties` are attributes, except `text` (textContent), `on` (listeners) and `data` (dataset). */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") made.textContent = value;
    else if (name === "on") for (const [event, call] of Object.entries(value)) made.addEventListener(event, call);
    else if (name === "data") Object.assign(made.dataset, value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** Replaces what an element holds. */
export function fill(parent, ...children) {
  parent.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return parent;
}

// marks that turn or hide text, and controls: they are named instead of obeyed
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g;

/** Text as nodes: marks that would turn or hide it stand as their code points, the rest stays as it is. */
export function shown(text) {
  const parts = document.createDocumentFragment();
  let done = 0;
  for (const found of text.matchAll(HIDDEN)) {
    if (found.index > done) parts.append(text.slice(done, found.index));
    const code = found[0].charCodeAt(0).toString(16).toUpperCase().padStart(4, "0");
    parts.append(el("span", { class: "mark", text: `U+${code}` }));
    done = found.index + found[0].length;
  }
  if (done < text.length) parts.append(text.slice(done));
  return parts;
}

const ENDLESS = 1e30; // stands for infinity in the data, where JSON has none

/** A number for people: three significant digits. */
export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (Math.abs(value) >= ENDLESS) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  const text = size !== 0 && (size < 0.001 || size >= 1e6) ? value.toExponential(1) : String(Number(value.toPrecision(3)));
  return text.replaceAll("-", "−");
}

/** A probability from its logarithm. */
export function share(logarithm) {
  const value = 100 * Math.exp(logarithm);
  if (value > 0 && value < 0.1) return "<0.1%";
  if (value === 0 || value === 100) return `${value}%`;
  if (value > 99.9 && value < 100) return ">99.9%";
  return `${value >= 1 ? value.toFixed(1) : value.toPrecision(1)}%`;
}

/** `1 turn`, `3 turns`. */
export function count(n, one, many = `${one}s`) {
  return `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
}
