// Messages, tool calls and their results, and the notes in the margin.
import { count, cut, el, fill, number, shown } from "./dom.js";

const LONG = { system: 400, other: 2400 };

/**
 * Text as a block. What is long is folded, so that a megabyte costs nothing until it is asked for. All of it then goes in as one node:
 * a browser looks for the direction of a block that is in the page anew with each node that it is given, of which marks make thousands.
 */
export function prose(text, limit = LONG.other) {
  const block = el("div", { class: "prose", dir: "auto" });
  if (text.length <= limit * 1.2) return fill(block, shown(text));
  const all = el("button", {
    class: "more",
    type: "button",
    text: `Show all ${text.length.toLocaleString("en")} characters`,
    on: { click: () => fill(block, el("span", {}, shown(text))).classList.add("whole") },
  });
  return fill(block, shown(cut(text, limit)), el("span", { class: "cut", text: "…" }), all);
}

/** A message that no policy of these records wrote. */
export function message(said) {
  if (said.role === "tool") return result(said);
  const content = String(said.content ?? "");
  const name = said.name ? el("span", { class: "of" }, shown(said.name)) : null;
  const thought = said.reasoning_content ? el("div", { class: "of" }, prose(said.reasoning_content)) : null;
  const text = content ? prose(content, said.role === "system" ? LONG.system : LONG.other) : null;
  const nothing = thought || text || said.calls.length ? null : el("div", { class: "prose empty", text: "empty" });
  return el("article", { class: `message ${/^\w+$/.test(said.role) ? said.role : "other"}` }, el("h4", {}, said.role, name), thought, text, nothing, said.calls.map((made) => call(made)));
}

/** A call of a tool: its name, its arguments, and what became of it. */
export function call(made, outcome) {
  const items = made.arguments.map(([name, given]) => [el("dt", {}, shown(name)), el("dd", { dir: "auto" }, prose(given, 800))]);
  const fine = !outcome || outcome.outcome === "ok";
  const told = outcome
    ? el("span", { class: fine ? "outcome good" : "outcome bad" }, fine ? "ok" : shown(outcome.outcome.replaceAll("_", " ")), ` · ${seconds(outcome.seconds)}`)
    : null;
  const short = outcome && outcome.cut ? el("span", { class: "outcome", text: "answer cut" }) : null;
  return el(
    "article",
    { class: fine ? "card call" : "card call wrong" },
    el("h4", {}, el("span", { class: "name" }, shown(made.name)), told, short),
    items.length ? el("dl", {}, items.flat()) : el("p", { class: "empty", text: "no arguments" }),
  );
}

/** What became of each call of a turn, by name and order; one that was not run has nothing. */
export function outcomes(turn) {
  let next = 0;
  return turn.calls.map((made) => {
    const at = turn.outcomes.findIndex((one, i) => i >= next && one.name === made.name);
    if (at >= 0) next = at + 1;
    return turn.outcomes[at];
  });
}

/** What a tool answered; `after` is the call that it stands under, whose name it need not repeat. */
export function result(said, after = null) {
  const name = said.name && said.name !== after ? el("h4", {}, shown(String(said.name))) : null;
  return el("article", { class: "card result" }, name, el("span", { class: "arrow", "aria-label": "answer", text: "↳" }), prose(String(said.content ?? "")));
}

/** The schemas of the tools, folded. */
export function tools(schemas) {
  if (!schemas.length) return null;
  const one = (schema) => {
    const known = schema.function || schema;
    const body = el("pre", {}, shown(JSON.stringify(known.parameters ?? {}, null, 2)));
    return el("details", { class: "schema" }, el("summary", {}, el("code", {}, shown(String(known.name ?? "?"))), " ", shown(String(known.description ?? ""))), body);
  };
  const all = el("details", { class: "tools" }, el("summary", {}, count(schemas.length, "tool"), el("span", { class: "of" }, shown(schemas.map((schema) => String((schema.function || schema).name ?? "?")).join(", ")))));
  all.addEventListener("toggle", () => all.childElementCount === 1 && all.append(...schemas.map(one)), { once: true });
  return all;
}

/** A duration in a unit that fits. */
export function seconds(time) {
  if (time === null) return "–";
  if (time >= 1 || time === 0) return `${number(time)} s`;
  return time >= 0.001 ? `${number(1000 * time)} ms` : `${Math.round(1e6 * time)} µs`;
}

function signed(reward) {
  return `${reward > 0 ? "+" : ""}${number(reward)}`;
}

/** What stands in the margin of a turn: rewards, errors, what teachers said of it as a whole. */
export function margin(turn) {
  const notes = [];
  const note = (kind, ...parts) => notes.push(el("li", { class: kind }, ...parts));
  if (turn.reward || turn.terminated) note(turn.reward > 0 ? "good" : turn.reward < 0 ? "bad" : "", el("b", { text: signed(turn.reward) }), " reward");
  for (const error of turn.errors) note("bad", shown(error.replaceAll("_", " ")));
  if (turn.finish === "length") note("bad", "cut at the limit");
  for (const [name, said] of Object.entries(turn.teachers)) {
    if (said.reward !== null) note(said.reward < 0 ? "bad" : "good", el("b", { text: signed(said.reward) }), " ", shown(name));
    if (said.skip) note("quiet", shown(name), " skips it");
    if (said.corrected !== null) note("hint", shown(name), " corrects it");
  }
  if (turn.drift === "forked" || turn.drift === "realigned") note("quiet", `context ${turn.drift}`);
  if (turn.terminated || turn.truncated) note("quiet", turn.terminated ? "the end" : "truncated");
  note("quiet time", `${seconds(turn.seconds[0])} model · ${seconds(turn.seconds[1])} env`);
  return el("ul", { class: "margin" }, notes);
}

/** Better actions that teachers, or the environment's own expert, gave for a turn. */
export function better(turn) {
  const given = Object.entries(turn.teachers).filter(([, said]) => said.corrected !== null).map(([name, said]) => [name, said.corrected]);
  if (turn.advice !== null) given.push(["the environment's expert", turn.advice]);
  return given.map(([name, text]) =>
    el("article", { class: "card better" }, el("h4", {}, shown(name), text === turn.action ? " would do the same" : " would do"), text === turn.action ? null : prose(text)),
  );
}
