// The search box and the filters above the list.
import { el, fill } from "./dom.js";
import { RANGES } from "./query.js";
import { change, state } from "./state.js";

const OUTCOMES = ["success", "no success", "failed"];
const LABELS = { errors: "bad actions", version: "policy version" };
const COLUMNS = { return: "reward" };

function distinct(column) {
  return [...new Set(column)].filter(Boolean).sort();
}

function debounced(call, wait) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...given), wait);
  };
}

/** The controls; they write the state, and `sync` reads it. */
export class Filters {
  constructor(index) {
    this.index = index;
    this.search = el("input", { type: "search", id: "search", placeholder: "Search, or kl>0.5 turns>=4 error:malformed", spellcheck: "false", autocomplete: "off", "aria-label": "search" });
    this.search.addEventListener("input", debounced(() => change({ q: this.search.value }), 80));
    this.problem = el("span", { class: "problem", role: "status" });
    this.found = el("span", { class: "found", role: "status" });
    this.outcomes = el("div", { class: "segmented", role: "group", "aria-label": "outcome" });
    this.more = el("button", { type: "button", class: "quiet", "aria-expanded": "false", text: "Filters", on: { click: () => this.toggle() } });
    this.reset = el("button", { type: "button", class: "quiet", text: "Clear", on: { click: () => this.clear() } });
    this.panel = el("div", { class: "panel", hidden: true });
    this.selects = ["env", "family", "from"].filter((name) => distinct(index.columns[name]).length > 1).map((name) => this.select(name));
    this.ranges = RANGES.filter((name) => index.columns[COLUMNS[name] || name].some((value) => value !== null)).map((name) => this.range(name));
    fill(this.panel, this.selects.map(({ label }) => label), this.ranges.map(({ label }) => label));
    this.root = el("div", { class: "filters" }, el("div", { class: "line" }, this.search), el("div", { class: "line" }, this.outcomes, this.more, this.reset, this.found), this.problem, this.panel);
  }

  toggle(open = this.panel.hidden) {
    this.panel.hidden = !open;
    this.more.setAttribute("aria-expanded", String(open));
  }

  clear() {
    const nothing = Object.fromEntries(["q", "outcome", "env", "family", "from", ...RANGES].map((name) => [name, ""]));
    change(nothing);
  }

  select(name) {
    const input = el("select", { on: { change: () => change({ [name]: input.value }) } });
    const options = distinct(this.index.columns[name]).map((value) => el("option", { value, text: value }));
    fill(input, el("option", { value: "", text: "all" }), options);
    return { name, input, label: el("label", {}, el("span", { text: { env: "environment", from: "records" }[name] || name }), input) };
  }

  range(name) {
    const write = debounced(() => change({ [name]: least.value || most.value ? `${least.value}..${most.value}` : "" }), 150);
    const measure = this.index.measures[name];
    const [label, about] = measure ? [`mean ${measure.label}`, measure.about] : [LABELS[name] || name, null];
    const end = (what) => el("input", { type: "number", step: "any", placeholder: what, "aria-label": `${what === "min" ? "least" : "most"} ${label}`, data: { range: name, end: what }, on: { input: write } });
    const [least, most] = [end("min"), end("max")];
    return { name, least, most, label: el("div", { class: "range" }, el("span", { text: label, title: about }), least, most) };
  }

  drawOutcomes(counts) {
    const now = state().outcome || "";
    const one = (value, label, n) => el("button", { type: "button", "aria-pressed": String(now === value), on: { click: () => change({ outcome: value }) } }, el("span", { class: `dot ${value.replace(" ", "-")}` }), label, el("small", { text: n.toLocaleString("en") }));
    const known = OUTCOMES.filter((value) => counts[value]);
    fill(this.outcomes, one("", "all", this.index.count), known.map((value) => one(value, value, counts[value])));
  }

  /** Shows what the state says, and how many trajectories fit. */
  sync(found, problem, counts) {
    const now = state();
    if (document.activeElement !== this.search) this.search.value = now.q || "";
    for (const { name, input } of this.selects) input.value = now[name] || "";
    for (const { name, least, most } of this.ranges) {
      const [from, to] = (now[name] || "").split("..");
      if (document.activeElement !== least) least.value = from || "";
      if (document.activeElement !== most) most.value = to || "";
    }
    const on = ["env", "family", "from", ...RANGES].filter((name) => now[name]).length;
    this.more.textContent = on ? `Filters · ${on}` : "Filters";
    this.reset.hidden = !on && !now.q && !now.outcome;
    this.problem.textContent = problem;
    this.found.textContent = found === this.index.count ? "" : `${found.toLocaleString("en")} of ${this.index.count.toLocaleString("en")}`;
    this.drawOutcomes(counts);
  }
}
