// The list of trajectories. Only the rows in sight exist, so five thousand cost what thirty do.
import { el, fill, number, shown } from "./dom.js";
import { link, state } from "./state.js";

const HEIGHT = 52;
const SPARE = 8; // rows beyond the edges

const FIELDS = [
  { name: "return", label: "return", column: "reward" },
  { name: "turns", label: "turns", column: "turns" },
  { name: "tokens", label: "tokens", column: "tokens" },
  { name: "errors", label: "errors", column: "errors" },
  // what these two measure depends on the records, which say it
  { name: "kl", label: "KL", column: "kl", bar: true },
  { name: "uncertainty", label: "uncertainty", column: "uncertainty", bar: true },
  { name: "version", label: "policy", column: "version" },
];

/** A number of the list: of one column as many decimals as its others. */
function written(field, value) {
  if (value === null) return "–";
  if (field.bar && Math.abs(value) >= 1000) return number(value);
  if (field.bar) return value !== 0 && Math.abs(value) < 0.0005 ? "<0.001" : value.toFixed(3).replace("-", "−");
  if (field.name === "errors" && value === 0) return "·";
  return number(value);
}

/** The list; `open(row)` is called for a row that is chosen. */
export class List {
  constructor(index, open, sort) {
    Object.assign(this, { index, open, sort, rows: [], chosen: -1, cursor: -1 });
    this.several = { in: index.sources.length > 1, env: new Set(index.columns.env).size > 1, family: new Set(index.columns.family).size > 1 };
    this.fields = FIELDS.filter((field) => index.columns[field.column].some((value) => value !== null)).map((field) => ({ ...field, ...index.measures[field.name] }));
    this.most = Object.fromEntries(this.fields.filter((field) => field.bar).map((field) => [field.name, this.scale(field)]));
    this.head = el("div", { class: "row head", role: "row" });
    this.space = el("div", { class: "space" });
    this.scroller = el("div", { class: "rows", tabindex: "0", role: "listbox", "aria-label": "trajectories" }, this.space);
    this.root = el("div", { class: "list" }, this.head, this.scroller);
    this.root.style.setProperty("--fields", this.fields.map((field) => (field.bar ? "8rem" : "4.4rem")).join(" "));
    this.held = new Map();
    this.scroller.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(this.scroller);
  }

  scale(field) {
    const known = this.index.columns[field.column].filter((value) => value !== null).map(Math.abs).sort((a, b) => a - b);
    return known[Math.floor(0.98 * (known.length - 1))] || 1;
  }

  /** Shows rows, in their order. */
  show(rows) {
    this.rows = rows;
    this.held.clear();
    this.space.replaceChildren();
    this.space.style.setProperty("height", `${rows.length * HEIGHT}px`);
    this.drawHead();
    if (!rows.length) this.space.append(el("p", { class: "empty", text: this.index.count ? "No trajectory fits these filters." : "These records hold no trajectory." }));
    this.cursor = Math.min(this.cursor, rows.length - 1);
    this.draw();
  }

  drawHead() {
    const sort = state().sort || "";
    const one = (name, label, classes, about) => {
      const on = sort === name || sort === `-${name}`;
      const mark = on ? (sort.startsWith("-") ? " ↓" : " ↑") : "";
      return el("button", { type: "button", class: classes, "aria-sort": on ? (mark === " ↓" ? "descending" : "ascending") : null, title: about, text: label + mark, on: { click: () => this.sort(name) } });
    };
    fill(this.head, el("span"), one("key", "trajectory", "name"), this.fields.map((field) => one(field.name, field.label, `number f-${field.name}`, field.about)));
  }

  draw() {
    const first = Math.max(0, Math.floor(this.scroller.scrollTop / HEIGHT) - SPARE);
    const last = Math.min(this.rows.length, Math.ceil((this.scroller.scrollTop + this.scroller.clientHeight) / HEIGHT) + SPARE);
    for (const [at, element] of this.held) {
      if (at < first || at >= last) {
        element.remove();
        this.held.delete(at);
      }
    }
    for (let at = first; at < last; at++) {
      if (this.held.has(at)) continue;
      const element = this.made(at);
      this.held.set(at, element);
      this.space.append(element);
    }
  }

  made(at) {
    const { columns } = this.index;
    const row = this.rows[at];
    const failed = columns.outcome[row];
    const sub = [this.several.env && columns.env[row], this.several.family && columns.family[row], columns.error[row].split(" ").join(", ").replaceAll("_", " ")].filter(Boolean);
    const cells = this.fields.map((field) => this.cell(field, columns[field.column][row]));
    const place = this.several.in ? { in: columns.from[row] } : {};
    const element = el(
      "a",
      { class: "row", role: "option", href: link({ key: columns.key[row], ...place, turn: "" }), tabindex: "-1", data: { row }, on: { click: (event) => this.click(event, row) } },
      el("span", { class: `dot ${failed.replace(" ", "-")}`, title: failed }),
      el("span", { class: "name" }, el("span", { class: "title", dir: "auto" }, shown(columns.title[row] || columns.key[row])), el("span", { class: "sub" }, el("code", {}, shown(columns.key[row])), el("span", {}, shown(sub.join(" · "))), this.several.in ? el("em", {}, shown(columns.from[row])) : null)),
      cells,
    );
    element.style.setProperty("top", `${at * HEIGHT}px`);
    this.dress(element, row, at);
    return element;
  }

  cell(field, value) {
    const cell = el("span", { class: `number f-${field.name}${field.name === "errors" && value ? " bad" : ""}` });
    if (field.bar) {
      const bar = el("span", { class: "bar" });
      bar.style.setProperty("--p", value === null ? "0" : Math.min(Math.abs(value) / this.most[field.name], 1).toFixed(3));
      cell.append(bar);
    }
    cell.append(el("span", { class: "value", text: written(field, value) }));
    return cell;
  }

  dress(element, row, at) {
    element.classList.toggle("chosen", row === this.chosen);
    element.classList.toggle("cursor", at === this.cursor);
    element.setAttribute("aria-selected", String(row === this.chosen));
  }

  click(event, row) {
    if (event.ctrlKey || event.metaKey || event.button > 0) return; // a new tab is the browser's
    event.preventDefault();
    this.open(row);
  }

  /** Marks the row that is open, and brings it into sight. */
  choose(row) {
    this.chosen = row;
    const at = this.rows.indexOf(row);
    if (at >= 0) this.move(at);
    else this.redress();
  }

  redress() {
    for (const [at, element] of this.held) this.dress(element, this.rows[at], at);
  }

  /** Puts the cursor at a place of the list. */
  move(at) {
    this.cursor = Math.min(Math.max(at, 0), this.rows.length - 1);
    const top = this.cursor * HEIGHT;
    const { scrollTop, clientHeight } = this.scroller;
    if (top < scrollTop) this.scroller.scrollTop = top;
    else if (top + HEIGHT > scrollTop + clientHeight) this.scroller.scrollTop = top + HEIGHT - clientHeight;
    this.draw();
    this.redress();
  }

  /** The row under the cursor; undefined where there is none. */
  get current() {
    return this.rows[this.cursor];
  }
}
