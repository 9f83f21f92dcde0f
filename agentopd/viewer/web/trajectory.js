// One trajectory as a conversation: a pane, of which two can stand side by side.
import { better, call, margin, message, outcomes, result, seconds, tools } from "./cards.js";
import { count, el, fill, number, shown } from "./dom.js";
import { chosen, legend, mean, menu, onOneScale } from "./signals.js";
import { loadTrajectory } from "./store.js";
import { strip } from "./strip.js";
import { hide, shade, spans, tell } from "./tokens.js";

const OUTCOMES = { success: "good", failed: "bad", "no success": "bad" };

/** A pane. `names` are the words of the state that it reads: `signal` and `turn`; `go(changes)` changes them. */
export class Pane {
  constructor(index, names, go, actions) {
    Object.assign(this, { index, names, go, actions, row: -1, loaded: -1, trajectory: null, turn: -1 });
    this.head = el("header", { class: "about" });
    this.bar = el("div", { class: "signalbar" });
    this.strip = el("nav", { class: "strip", "aria-label": "turns" });
    this.body = el("div", { class: "conversation" });
    this.root = el("section", { class: "pane", tabindex: "-1", "aria-label": "trajectory" }, this.head, el("div", { class: "sticky" }, this.bar, this.strip), this.body);
    this.body.addEventListener("mouseover", (event) => this.point(event.target));
    this.body.addEventListener("mouseleave", hide);
    this.body.addEventListener("focusin", (event) => this.point(event.target));
    this.body.addEventListener("focusout", hide);
    this.root.addEventListener("scroll", hide, { passive: true });
  }

  point(target) {
    const token = target.closest?.(".t");
    if (token) tell(token, this.index, this.trajectory, this.signal);
    else hide();
  }

  /** Shows a row of the list by a signal, at a turn; `beside` is the signal of the other pane, where there is one. */
  async show(row, signal, turn, beside) {
    Object.assign(this, { signal, beside, wanted: turn });
    if (row !== this.row) await this.load(row);
    if (row !== this.row || this.row !== this.loaded) return; // another was asked for meanwhile, or this one is still coming
    if (this.shaded !== `${signal} ${beside}`) this.recolour();
    if (this.wanted !== this.turn) this.jump(this.wanted);
  }

  async load(row) {
    Object.assign(this, { row, loaded: -1 });
    hide();
    this.root.classList.add("loading");
    try {
      const found = await loadTrajectory(this.index, row);
      if (row !== this.row) return;
      Object.assign(this, { trajectory: found, loaded: row, turn: -1, shaded: null });
      this.draw();
      this.root.scrollTop = 0;
    } catch (error) {
      if (row === this.row) this.clear("It cannot be shown: ", error.message);
    } finally {
      if (row === this.row) this.root.classList.remove("loading");
    }
  }

  /** Shows nothing but why. */
  clear(...why) {
    Object.assign(this, { trajectory: null, loaded: -1 });
    this.root.classList.remove("loading");
    fill(this.head, el("p", { class: "problem" }, ...why));
    for (const part of [this.bar, this.strip, this.body]) fill(part);
  }

  draw() {
    const one = this.trajectory;
    this.drawHead();
    const parts = [...one.opening.map(message), tools(one.tools)];
    this.turns = one.turns.map((turn, at) => this.drawTurn(turn, at));
    parts.push(...this.turns);
    if (one.failure) {
      const { boundary, kind, message: why } = one.failure;
      parts.push(el("article", { class: "card failure" }, el("h4", {}, shown(`${boundary} failed · ${kind}`)), el("div", { class: "prose" }, shown(why))));
    }
    if (!one.turns.length) parts.push(el("p", { class: "empty", text: "It ended before anybody acted." }));
    fill(this.body, parts);
  }

  drawHead() {
    const { index, trajectory: one, row } = this;
    const outcome = index.columns.outcome[row];
    const version = index.columns.version[row];
    const facts = [
      ["return", number(one.outcome.reward)],
      ["turns", String(one.turns.length)],
      ["tokens", index.columns.tokens[row].toLocaleString("en")],
      ["ended", one.outcome.stop.replaceAll("_", " ")],
      ["policy", version === null ? "–" : String(version)],
      ["source", index.columns.source[row]],
      ["seed", String(one.task.seed)],
      ["took", seconds(one.turns.reduce((sum, turn) => sum + turn.seconds[0] + turn.seconds[1], 0))],
    ];
    const list = facts.filter(([, text]) => text).map(([name, text]) => el("div", {}, el("dt", { text: name }), el("dd", {}, shown(text))));
    const env = [one.task.env, one.family && one.family !== one.task.env ? one.family : ""].filter(Boolean).join(" · ");
    fill(
      this.head,
      el("div", { class: "top" }, el("span", { class: `badge ${OUTCOMES[outcome]}`, text: outcome }), el("span", { class: "env" }, shown(env)), el("span", { class: "tools-of-pane" }, this.actions(this))),
      el("h2", { dir: "auto" }, shown(index.columns.title[row] || one.key)),
      el("p", { class: "key" }, el("code", {}, shown(one.key)), index.sources.length > 1 ? el("span", { class: "of" }, shown(index.columns.from[row])) : null),
      el("dl", { class: "facts" }, list),
    );
  }

  drawTurn(turn, at) {
    const answers = turn.observations;
    const told = answers.filter((said) => said.role === "tool");
    const others = answers.filter((said) => said.role !== "tool");
    // a call and its answer stand together where there is one of each
    const paired = told.length === turn.calls.length;
    const ends = outcomes(turn);
    const cards = turn.calls.flatMap((made, i) => [call(made, ends[i]), paired ? result(told[i], made.name) : null]);
    if (!paired) cards.push(...told.map((answer) => result(answer)));
    const head = el("h4", {}, el("a", { class: "place", href: `#`, text: `${at + 1}`, title: "link to this turn", on: { click: (event) => this.link(event, at) } }), shown(turn.actor), el("span", { class: "of", text: count(turn.tokens[1] - turn.tokens[0], "token") }), el("span", { class: "of mean" }));
    const text = turn.tokens[1] > turn.tokens[0] ? spans(this.trajectory, turn, (line) => shade(line, this.asked, this.trajectory)) : el("div", { class: "prose" }, shown(turn.text));
    const said = el("article", { class: "message acted" }, head, text);
    return el("section", { class: "turn", data: { turn: at } }, el("div", { class: "main" }, said, cards, better(turn), others.map(message)), margin(turn));
  }

  link(event, at) {
    event.preventDefault();
    this.go({ [this.names.turn]: String(at + 1) });
  }

  /** Colours tokens, strip and legend by the signal. */
  recolour() {
    const { index, trajectory: one } = this;
    const asked = chosen(index, this.signal);
    const signal = this.beside === null ? asked : onOneScale(asked, chosen(index, this.beside));
    this.shaded = `${this.signal} ${this.beside}`;
    fill(this.bar, menu(index, this.signal, (name) => this.go({ [this.names.signal]: name })));
    if (signal) this.bar.append(legend(signal), el("span", { class: "about-signal", text: signal.about }));
    else this.bar.append(el("span", { class: "about-signal", text: "These records hold no signal to shade by." }));
    strip(this.strip, signal, one, (turn) => this.go({ [this.names.turn]: String(turn + 1) }));
    this.mark();
    this.asked = signal;
    shade(this.body, signal, one);
    one.turns.forEach((turn, at) => {
      const value = signal ? mean(one.signals[signal.name], turn.tokens) : null;
      this.turns[at].querySelector(".mean").textContent = value === null ? "" : `mean ${number(value)}`;
    });
  }

  mark() {
    for (const one of [...this.strip.children, ...this.turns]) one.classList.toggle("here", Number(one.dataset.turn) === this.turn);
  }

  /** Goes to a turn; -1 is none. */
  jump(turn) {
    this.turn = turn;
    this.mark();
    const there = this.turns[turn];
    if (!there) return;
    // what stands above is laid out as it comes near, so its height is only then known: look again
    const look = () => there.scrollIntoView({ block: "start" });
    look();
    requestAnimationFrame(look);
    this.strip.children[turn].scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  /** Moves the focus to a token before or behind the one that has it. */
  step(by) {
    const all = [...this.body.querySelectorAll(".t")];
    if (!all.length) return;
    const at = all.indexOf(document.activeElement);
    const first = Math.max(0, this.turn > 0 ? all.indexOf(this.turns[this.turn].querySelector(".t")) : 0);
    const next = all[at < 0 ? first : Math.min(Math.max(at + by, 0), all.length - 1)];
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
    this.point(next);
  }
}
