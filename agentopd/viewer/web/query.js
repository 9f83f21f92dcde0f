// Which trajectories are meant, and in which order. Pure functions of the index and the state.

/** Fields with a number each, by the names that may be typed. */
export const NUMBERS = {
  return: "reward",
  reward: "reward",
  turns: "turns",
  tokens: "tokens",
  errors: "errors",
  kl: "kl",
  divergence: "kl",
  uncertainty: "uncertainty",
  version: "version",
  step: "step",
};

/** Fields with text. */
export const TEXTS = {
  env: "env",
  family: "family",
  stop: "stop",
  error: "error",
  source: "source",
  split: "split",
  tag: "tag",
  actor: "actor",
  task: "task",
  key: "key",
  outcome: "outcome",
  from: "from",
};

/** The ranges that the filters of the page have. */
export const RANGES = ["return", "turns", "errors", "kl", "uncertainty", "version"];

const OPERATION = /^([^\s<>=!:]+?)(>=|<=|!=|>|<|=|:)(.*)$/;

/** Words, where quotes hold blanks together. */
function words(text) {
  return [...text.matchAll(/(?:[^\s"]|"[^"]*")+/g)].map((found) => found[0].replaceAll('"', ""));
}

/** What a table says under a name; names are typed, so one that every object has is none. */
function entry(table, name) {
  return Object.hasOwn(table, name) ? table[name] : undefined;
}

/** The numbers of a field of all trajectories; undefined where there is no such field. */
export function numbers(index, name) {
  const column = entry(NUMBERS, name);
  return column ? index.columns[column] : entry(index.means, name);
}

/** The texts of a field of all trajectories; undefined where there is no such field. */
function texts(index, name) {
  const column = entry(TEXTS, name);
  return column && index.columns[column];
}

/** The name of a field as these records have it, however it was typed. */
function meant(index, typed) {
  const small = typed.toLowerCase();
  if (numbers(index, typed) || texts(index, typed)) return typed;
  return Object.keys(index.means).find((name) => name.toLowerCase() === small) || small;
}

function compared(operation, value, wanted) {
  if (value === null) return false;
  if (operation === ">") return value > wanted;
  if (operation === ">=") return value >= wanted;
  if (operation === "<") return value < wanted;
  if (operation === "<=") return value <= wanted;
  return operation === "!=" ? value !== wanted : value === wanted;
}

function condition(index, name, operation, wanted) {
  const column = numbers(index, name);
  if (column) {
    const least = Number(wanted);
    if (wanted === "" || Number.isNaN(least)) return { problem: `${name} is a number, such as ${name}>1` };
    return { holds: (row) => compared(operation, column[row], least) };
  }
  const text = texts(index, name);
  if (!text) return null;
  const part = wanted.toLowerCase();
  const wants = operation !== "!=";
  if (!["=", ":", "!="].includes(operation)) return { problem: `${name} is text: write ${name}:${wanted || "…"}` };
  return { holds: (row) => text[row].toLowerCase().includes(part) === wants };
}

/** What was typed, as conditions; `problem` says what cannot be understood. */
export function parsed(index, text) {
  const conditions = [];
  let problem = "";
  for (const word of words(text)) {
    const found = OPERATION.exec(word);
    const made = found && condition(index, meant(index, found[1]), found[2], found[3]);
    if (made && made.problem) problem = made.problem;
    else if (made) conditions.push(made.holds);
    else if (found && found[2] !== ":" && found[2] !== "=") {
      problem = `there is no field ${found[1]}; ? lists them`;
    } else {
      const part = word.toLowerCase();
      conditions.push((row) => index.haystack[row].includes(part));
    }
  }
  return { conditions, problem };
}

/** `least..most` as two numbers; an end that is not given is open. */
export function range(text) {
  const [least, most] = (text || "").split("..");
  const bound = (end, open) => (end === undefined || end.trim() === "" || Number.isNaN(Number(end)) ? open : Number(end));
  return [bound(least, -Infinity), bound(most, Infinity)];
}

/** The rows that fit a state, in its order, and what was wrong with what was typed. */
export function selected(index, state) {
  const { conditions, problem } = parsed(index, state.q || "");
  for (const name of ["outcome", "env", "family", "from"]) {
    if (state[name]) conditions.push((row) => texts(index, name)[row] === state[name]);
  }
  for (const name of RANGES) {
    if (!state[name]) continue;
    const [least, most] = range(state[name]);
    const column = numbers(index, name);
    conditions.push((row) => column[row] !== null && column[row] >= least && column[row] <= most);
  }
  const rows = [];
  for (let row = 0; row < index.count; row++) if (conditions.every((holds) => holds(row))) rows.push(row);
  return { rows: sorted(index, rows, state.sort || ""), problem };
}

/** Rows by one column; what has no value comes last either way. */
export function sorted(index, rows, sort) {
  if (!sort) return rows;
  const down = sort.startsWith("-");
  const name = down ? sort.slice(1) : sort;
  const column = numbers(index, name) || texts(index, name);
  if (!column) return rows;
  const order = (a, b) => {
    const one = column[a];
    const other = column[b];
    if (one === null || other === null) return (one === null) - (other === null) || a - b;
    if (one === other) return a - b;
    return (one < other ? -1 : 1) * (down ? -1 : 1);
  };
  return rows.slice().sort(order);
}
