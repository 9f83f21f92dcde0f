// The tokens of a turn, shaded, and what is told of the one that is pointed at.
import { count, el, fill, number, share, shown } from "./dom.js";
import { chosen, colour } from "./signals.js";

const [TRAINED, CONTEXT, UNTRAINED] = [0, 1, 2];
const WHY = { [CONTEXT]: "context: no policy drew it", [UNTRAINED]: "not trained on" };

/** What a token is called where it stands alone. */
function named(trajectory, id) {
  const text = trajectory.vocabulary[id];
  return text === undefined ? null : text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣");
}

const FOLDED = 4000; // tokens of a turn that are drawn at once

/** The tokens of a turn as spans, each with its place. Of a very long turn the rest is drawn when it is asked for; `drawn(line)` is called then. */
export function spans(trajectory, turn, drawn) {
  const [start, stop] = turn.tokens;
  const line = el("div", { class: trajectory.tokens.text ? "tokens" : "tokens ids", dir: "ltr" });
  const first = stop - start > 1.5 * FOLDED ? start + FOLDED : stop;
  for (let i = start; i < first; i++) line.append(token(trajectory, i));
  if (first === stop) return line;
  const rest = () => {
    more.remove();
    for (let i = first; i < stop; i++) line.append(token(trajectory, i));
    drawn(line);
  };
  const more = el("button", { class: "more", type: "button", text: `Show all ${count(stop - start, "token")}`, on: { click: rest } });
  line.append(more);
  return line;
}

function token(trajectory, i) {
  const { id, text, flag } = trajectory.tokens;
  const classes = flag[i] === TRAINED ? "t" : "t masked";
  const span = el("span", { class: classes, tabindex: "-1", data: { i } });
  if (!text) span.append(String(id[i]));
  else if (text[i] === "") span.append(el("span", { class: "mark", text: "·" }));
  else if (/^\s*\n\s*$/.test(text[i])) span.append(el("span", { class: "newline", text: "↵" }), shown(text[i]));
  else span.append(shown(text[i]));
  return span;
}

/** Colours all tokens below `root` by a signal. */
export function shade(root, signal, trajectory) {
  if (!signal) return;
  const values = trajectory.signals[signal.name] || [];
  for (const span of root.querySelectorAll(".t")) colour(span, signal, values[span.dataset.i] ?? null);
}

function bars(trajectory, top, at, taken) {
  const start = at * top.k;
  const rows = [];
  for (let j = start; j < start + top.k; j++) {
    const id = top.ids[j];
    if (id < 0) continue;
    const text = named(trajectory, id);
    const bar = el("span", { class: "bar" });
    bar.style.setProperty("--p", Math.exp(top.logprobs[j]).toFixed(4));
    rows.push(
      el(
        "li",
        { class: id === taken ? "taken" : null },
        bar,
        el("span", { class: "what" }, text === null ? `#${id}` : shown(text)),
        el("span", { class: "p", text: share(top.logprobs[j]) }),
      ),
    );
  }
  if (top.tails[at] !== null) {
    const rest = el("li", { class: "rest" }, el("span", { class: "what", text: "all others" }), el("span", { class: "p", text: share(top.tails[at]) }));
    rows.push(rest);
  }
  return el("ol", {}, rows);
}

function tops(trajectory, i) {
  const shownTops = [];
  for (const top of trajectory.tops) {
    const at = top.rows.indexOf(i);
    if (at < 0) continue;
    shownTops.push(el("section", {}, el("h5", { text: top.title }), bars(trajectory, top, at, trajectory.tokens.id[i])));
  }
  return shownTops.length ? el("div", { class: "tops" }, shownTops) : null;
}

function facts(index, trajectory, i, name) {
  const rows = index.signals
    .filter((signal) => (trajectory.signals[signal.name] || [])[i] !== undefined && trajectory.signals[signal.name][i] !== null)
    .map((signal) => {
      const value = trajectory.signals[signal.name][i];
      const chance = signal.name.includes("logprob") ? el("span", { class: "chance", text: share(value) }) : null;
      const cells = [el("th", { scope: "row", text: signal.label }), el("td", {}, chance, number(value))];
      return el("tr", { class: signal.name === name ? "chosen" : null }, cells);
    });
  return el("table", {}, el("tbody", {}, rows));
}

const pop = el("div", { id: "pop", role: "tooltip", hidden: true });

/** Hides what is told of a token. */
export function hide() {
  pop.hidden = true;
}

/** Tells of one token, beside it. */
export function tell(span, index, trajectory, name) {
  if (!pop.isConnected) document.body.append(pop);
  const i = Number(span.dataset.i);
  const { id, text, flag } = trajectory.tokens;
  const title = text && text[i] !== "" ? el("b", {}, shown(text[i].replaceAll("\n", "↵").replaceAll(" ", "␣"))) : null;
  const why = WHY[flag[i]] ? el("span", { class: "why", text: WHY[flag[i]] }) : null;
  fill(
    pop,
    el("header", {}, title, el("span", { class: "id", text: `token ${id[i]}` }), why),
    tops(trajectory, i),
    facts(index, trajectory, i, chosen(index, name)?.name),
  );
  pop.hidden = false;
  place(span);
}

function place(span) {
  const beside = span.getClientRects()[0] || span.getBoundingClientRect();
  const { width, height } = pop.getBoundingClientRect();
  const below = beside.bottom + 8 + height < innerHeight;
  const top = below ? beside.bottom + 8 : Math.max(8, beside.top - 8 - height);
  const left = Math.min(Math.max(8, beside.left - 16), innerWidth - width - 8);
  pop.style.setProperty("top", `${top}px`);
  pop.style.setProperty("left", `${left}px`);
}
