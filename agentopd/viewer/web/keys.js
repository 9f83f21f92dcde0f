// The keyboard, and the help that names it.
import { el } from "./dom.js";
import { NUMBERS, TEXTS } from "./query.js";

/** Keys, what the help says of them, and the action each is for. */
export const KEYS = [
  [["j"], "next trajectory", "next"],
  [["k"], "previous trajectory", "previous"],
  [["↓"], "down: in the list, or in what is open", "down"],
  [["↑"], "up", "up"],
  [["Enter"], "open the one under the cursor", "open"],
  [["n"], "next turn", "nextTurn"],
  [["p"], "previous turn", "previousTurn"],
  [["→"], "next token, with its numbers", "nextToken"],
  [["←"], "previous token", "previousToken"],
  [["s"], "shade by the next signal", "signal"],
  [["c"], "the same trajectory side by side, to compare signals or teachers", "compare"],
  [["/"], "search", "search"],
  [["f"], "filters", "filters"],
  [["t"], "light, dark, or as the system", "theme"],
  [["Esc"], "back", "back"],
  [["?"], "this help", "help"],
];

const ARROWS = { ArrowDown: "↓", ArrowUp: "↑", ArrowRight: "→", ArrowLeft: "←", Escape: "Esc" };
const ACTIONS = new Map(KEYS.flatMap(([keys, , action]) => keys.map((key) => [key, action])));

function typing(target) {
  return target.closest("input, select, textarea, dialog[open]") !== null;
}

/** Calls `actions[name]()` when its key is pressed; where that says `true` the browser has the key, too. */
export function listen(actions) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = ARROWS[event.key] || event.key;
    if (typing(event.target)) {
      if (key === "Esc") event.target.blur();
      if (key === "Enter" && event.target.id === "search") {
        event.target.blur();
        actions.open();
      }
      return;
    }
    const onLink = key === "Enter" && event.target.closest("a, button, summary");
    const name = ACTIONS.get(key);
    if (!name || onLink) return;
    if (actions[name]() !== true) event.preventDefault(); // true leaves the key to the browser
  });
}

/** The help as a dialog. */
export function help(index) {
  const keys = KEYS.map(([names, what]) => el("div", {}, el("dt", {}, names.map((name) => el("kbd", { text: name }))), el("dd", { text: what })));
  const signals = index.signals.map((signal) => el("div", {}, el("dt", {}, el("code", { text: signal.name })), el("dd", { text: signal.about })));
  const close = el("button", { type: "button", class: "quiet", text: "Close", on: { click: () => dialog.close() } });
  const dialog = el(
    "dialog",
    { id: "help", "aria-label": "help" },
    el("header", {}, el("h2", { text: "Keys" }), close),
    el("dl", {}, keys),
    el("h3", { text: "Search" }),
    el("p", {}, "Words must all occur in the task, key, environment, family, or errors. Fields: ", el("code", { text: "kl>0.5" }), ", ", el("code", { text: "turns<=3" }), ", ", el("code", { text: "error:malformed" }), ". Numbers: ", Object.keys(NUMBERS).join(", "), ", and every signal. Text: ", Object.keys(TEXTS).join(", "), "."),
    signals.length ? el("h3", { text: "Signals" }) : null,
    signals.length ? el("dl", { class: "signals" }, signals) : null,
  );
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  return dialog;
}
