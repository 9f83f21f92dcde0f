// A strip of a signal's mean by turn: where in the episode something happens.
import { el, fill, number } from "./dom.js";
import { colour, mean, tint } from "./signals.js";

/** Fills `root` with a bar for each turn; `go(turn)` is called by a click. */
export function strip(root, signal, trajectory, go) {
  const values = trajectory.turns.map((turn) => (signal ? mean(trajectory.signals[signal.name], turn.tokens) : null));
  const bars = trajectory.turns.map((turn, at) => {
    const bar = el("span", { class: "fill" });
    bar.style.setProperty("--h", signal ? Math.max(tint(signal, values[at]).strength, 0.04).toFixed(3) : "0.04");
    if (signal) colour(bar, signal, values[at]);
    const wrong = turn.errors.length > 0;
    const told = `turn ${at + 1}${signal ? `: mean ${signal.label} ${number(values[at])}` : ""}${wrong ? `, ${turn.errors.join(", ")}` : ""}`;
    return el(
      "button",
      { type: "button", class: wrong ? "turn wrong" : "turn", title: told, "aria-label": told, data: { turn: at }, on: { click: () => go(at) } },
      bar,
      el("span", { class: "n", text: String(at + 1) }),
    );
  });
  root.classList.toggle("many", bars.length > 40);
  fill(root, bars);
}
