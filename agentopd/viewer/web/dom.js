// Elements made by hand. What comes from records goes through `shown`, never through a parser.

/** An element. `properties` are attributes, except `text` (what it holds, through `shown`), `on` (listeners) and `data` (dataset). */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") made.append(shown(String(value)));
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

// What turns or hides text, controls, and halves of characters are named instead of obeyed. Two kinds are let be where they only
// choose the look of an emoji: a variation selector behind one, and a joiner between two.
const HIDDEN = new RegExp(
  [
    String.raw`(?<!\p{Emoji})[\ufe0e\ufe0f]+|(?<=\p{Emoji}[\ufe0e\ufe0f])[\ufe0e\ufe0f]+`,
    String.raw`(?<!\p{Extended_Pictographic}\ufe0f?)\u200d|\u200d(?!\p{Extended_Pictographic})`,
    String.raw`(?![\t\n\u200d\ufe0e\ufe0f])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\u2800]`,
  ]
    .map((part) => `(?:${part})`)
    .join("|"),
  "gu",
);
const MANY = 4; // marks of one kind in a row that are written out one by one

/** Text as nodes: marks that would turn or hide it stand as their code points, the rest stays as it is. */
export function shown(text) {
  const parts = document.createDocumentFragment();
  const mark = (code, n) => parts.append(el("span", { class: "mark" }, n > 1 ? `${code} ×${n.toLocaleString("en")}` : code));
  let done = 0;
  let [run, length] = ["", 0]; // the mark that stands last, and how often in a row
  const put = () => {
    if (length > MANY) mark(run, length);
    else for (let i = 0; i < length; i++) mark(run, 1);
    length = 0;
  };
  for (const found of text.matchAll(HIDDEN)) {
    if (found.index > done) {
      put();
      parts.append(text.slice(done, found.index));
    }
    for (const letter of found[0]) {
      const code = `U+${letter.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
      if (code !== run) put();
      run = code;
      length++;
    }
    done = found.index + found[0].length;
  }
  put();
  if (done < text.length) parts.append(text.slice(done));
  return parts;
}

/** Text cut at a length, never inside a character. */
export function cut(text, length) {
  const half = text.charCodeAt(length - 1);
  return text.slice(0, half >= 0xd800 && half < 0xdc00 ? length - 1 : length);
}

const ENDLESS = 1e30; // stands for infinity in the data, where JSON has none

/** A number for people: whole ones as they are, others with three significant digits. */
export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (Math.abs(value) >= ENDLESS) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e12) return value.toLocaleString("en").replaceAll("-", "−");
  const exact = size >= 100 ? value.toFixed(1) : String(Number(value.toPrecision(3)));
  const text = size < 0.001 || size >= 1e6 ? value.toExponential(1) : exact;
  return text.replaceAll("-", "−");
}

/** A probability from its logarithm. */
export function share(logarithm) {
  const value = 100 * Math.exp(logarithm);
  if (value > 0 && value < 0.001) return "<0.001%";
  if (value === 0 || value === 100) return `${value}%`;
  if (value > 99.99 && value < 100) return ">99.99%";
  if (value > 99) return `${value.toFixed(2)}%`;
  return `${value >= 1 ? value.toFixed(1) : value.toPrecision(1)}%`;
}

/** `1 turn`, `3 turns`. */
export function count(n, one, many = `${one}s`) {
  return `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
}
