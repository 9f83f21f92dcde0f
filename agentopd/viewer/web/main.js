// Puts the page together: the list, one or two panes, and what moves between them.
import { count, el, fill } from "./dom.js";
import { Filters } from "./filters.js";
import { help, listen } from "./keys.js";
import { List } from "./list.js";
import { selected } from "./query.js";
import { chosen, measureTurns } from "./signals.js";
import { change, link, state, watch } from "./state.js";
import { loadIndex } from "./store.js";
import { theme } from "./theme.js";
import { Pane } from "./trajectory.js";

const LEFT = { key: "key", in: "in", signal: "signal", turn: "turn" };
const RIGHT = { key: "with", in: "within", signal: "wsignal", turn: "wturn" };

/** A turn of the address as its place; -1 where it is no number that counts turns. */
function placeOf(turn) {
  return /^\d{1,7}$/.test(turn ?? "") ? Number(turn) - 1 : -1;
}

class Viewer {
  constructor(index) {
    this.index = index;
    index.count = index.columns.key.length;
    this.prepare();
    this.filters = new Filters(index);
    this.list = new List(index, (row) => this.open(row), (name) => this.sort(name));
    this.left = new Pane(index, LEFT, (changes) => this.go(changes), (pane) => this.actions(pane));
    this.right = new Pane(index, RIGHT, (changes) => this.go(changes), (pane) => this.actions(pane));
    this.help = help(index);
    this.picking = false;
    this.layout();
    watch(() => this.update());
    listen(this.keys());
    this.update();
  }

  /** What the search looks through, and where each key stands. */
  prepare() {
    const { columns, count: n } = this.index;
    const text = ["key", "title", "env", "family", "error", "stop", "tag"];
    this.index.haystack = Array.from({ length: n }, (_, row) => text.map((name) => columns[name][row]).join("\n").toLowerCase());
    this.places = new Map();
    for (let row = n - 1; row >= 0; row--) {
      this.places.set(columns.key[row], row); // the first of several records wins
      this.places.set(`${columns.key[row]}\n${columns.from[row]}`, row);
    }
    measureTurns(this.index);
    this.counts = {};
    for (const outcome of columns.outcome) this.counts[outcome] = (this.counts[outcome] || 0) + 1;
  }

  layout() {
    const { index } = this;
    const rate = index.count ? `${Math.round((100 * (this.counts.success || 0)) / index.count)}% success` : "";
    const steps = new Set(index.columns.step).size;
    const facts = [count(index.count, "trajectory", "trajectories"), count(steps, "step"), rate].filter(Boolean).join(" · ");
    const tools = el(
      "div",
      { class: "tools-of-page" },
      el("button", { type: "button", class: "quiet", id: "theme", on: { click: () => theme.next() } }),
      el("button", { type: "button", class: "quiet", text: "Help", title: "keys and fields (?)", on: { click: () => this.help.showModal() } }),
    );
    this.empty = el("div", { class: "hint" });
    const bar = el("header", { class: "masthead" }, el("a", { class: "home", href: "#", on: { click: (event) => this.home(event) } }, el("h1", { text: index.title })), el("p", { class: "of", text: facts }), tools);
    const notes = index.notes.map((note) => el("p", { class: "note", text: note }));
    this.pick = el("p", { class: "pick", hidden: true }, "Choose the trajectory to set beside it. ", el("kbd", { text: "Esc" }), " lets it be.");
    fill(document.getElementById("app"), bar, el("main", {}, el("aside", {}, this.filters.root, this.pick, notes, this.list.root), el("div", { class: "panes" }, this.left.root, this.right.root)), this.help);
    theme.start(document.getElementById("theme"));
  }

  row(names) {
    const now = state();
    const key = now[names.key];
    if (!key) return -1;
    return this.places.get(now[names.in] ? `${key}\n${now[names.in]}` : key) ?? -2;
  }

  /** Shows what the state says. */
  update() {
    const now = state();
    const filters = JSON.stringify(Object.entries(now).filter(([name]) => !["key", "in", "turn", "signal", "with", "within", "wturn", "wsignal"].includes(name)));
    if (filters !== this.shown) {
      this.shown = filters;
      const { rows, problem } = selected(this.index, now);
      this.list.show(rows);
      this.filters.sync(rows.length, problem, this.counts);
    }
    const [row, other] = [this.row(LEFT), this.row(RIGHT)];
    document.body.classList.toggle("open", row !== -1);
    document.body.classList.toggle("two", row !== -1 && other !== -1);
    this.pick.hidden = !this.picking;
    const two = row >= 0 && other >= 0;
    this.show(this.left, LEFT, row, two ? (now.wsignal ?? "") : null);
    this.show(this.right, RIGHT, row === -1 ? -1 : other, two ? (now.signal ?? "") : null);
    this.list.draw();
    this.list.choose(row);
    document.title = row >= 0 ? `${now.key} · ${this.index.title}` : this.index.title;
  }

  show(pane, names, row, beside) {
    const now = state();
    pane.root.hidden = row === -1;
    if (row >= 0) pane.show(row, now[names.signal], placeOf(now[names.turn]), beside);
    if (row !== -2) return;
    pane.row = -2;
    pane.clear("These records hold no trajectory ", el("code", { text: now[names.key] }), this.index.where ? `, or --where left it out: ${this.index.where}.` : ".");
  }

  /** Changes what a pane shows; of one trajectory shown twice both panes go to a turn. */
  go(changes) {
    const turn = changes.turn ?? changes.wturn;
    const both = turn !== undefined && this.left.row === this.right.row && state().with;
    change(both ? { turn, wturn: turn } : changes);
  }

  /** The buttons of a pane. */
  actions(pane) {
    const button = (text, title, click) => el("button", { type: "button", class: "quiet", text, title, on: { click } });
    if (pane === this.right) return [button("Close", "close the comparison (Esc)", () => this.single())];
    const copy = button("Copy link", "a link to what is shown", () => this.copy(copy));
    return [this.comparing(pane), copy, button("Close", "back to the list (Esc)", () => this.home())];
  }

  /** The menu of what can stand beside a trajectory. */
  comparing(pane) {
    const { columns } = this.index;
    const row = pane.row;
    const item = (text, call) => el("button", { type: "button", text, on: { click: () => ((menu.open = false), call()) } });
    const same = columns.task.findIndex((task, at) => at !== row && task === columns.task[row] && columns.key[at] !== columns.key[row]);
    const twin = columns.key.findIndex((key, at) => at !== row && key === columns.key[row]);
    const menu = el("details", { class: "menu" }, el("summary", { class: "quiet", text: "Compare" }));
    menu.append(
      el(
        "div",
        {},
        item("This one, by another signal or teacher", () => this.beside(row)),
        twin >= 0 ? item(`This one in ${columns.from[twin]}`, () => this.beside(twin)) : null,
        same >= 0 ? item("Another try at the same task", () => this.beside(same)) : null,
        item("Choose from the list …", () => this.pickFrom()),
      ),
    );
    return menu;
  }

  /** Another signal than the one on the left: of another teacher where there is one. */
  otherSignal() {
    const { signals } = this.index;
    const now = chosen(this.index, state().signal);
    if (!now) return "";
    const alike = signals.find((one) => one !== now && one.kin === now.kin);
    return (alike || signals[(signals.indexOf(now) + 1) % signals.length]).name;
  }

  beside(row) {
    const { columns, sources } = this.index;
    const signal = row === this.left.row ? this.otherSignal() : state().signal;
    this.picking = false;
    change({ with: columns.key[row], within: sources.length > 1 ? columns.from[row] : "", wsignal: signal, wturn: state().turn }, true);
  }

  pickFrom() {
    this.picking = true;
    this.update();
  }

  single() {
    change({ with: "", within: "", wsignal: "", wturn: "" }, true);
  }

  home(event) {
    event?.preventDefault();
    this.picking = false;
    change({ key: "", in: "", turn: "", with: "", within: "", wturn: "", wsignal: "" }, true);
  }

  copy(button) {
    const address = location.href.split("#")[0] + link({});
    (navigator.clipboard ? navigator.clipboard.writeText(address) : Promise.reject()).then(
      () => (button.textContent = "Copied"),
      () => (button.textContent = "It is in the address bar"),
    );
  }

  open(row, push = true) {
    if (row === undefined) return;
    if (this.picking) {
      this.beside(row);
      return;
    }
    const { columns, sources } = this.index;
    change({ key: columns.key[row], in: sources.length > 1 ? columns.from[row] : "", turn: "", with: "", within: "", wturn: "", wsignal: "" }, push);
    this.left.root.focus({ preventScroll: true }); // so that the keys that scroll mean the trajectory
  }

  sort(name) {
    const now = state().sort || "";
    // numbers first from above, then from below, then as recorded
    const order = name === "key" ? [name, `-${name}`, ""] : [`-${name}`, name, ""];
    change({ sort: order[(order.indexOf(now) + 1) % order.length] });
  }

  move(by) {
    const at = this.list.cursor;
    if (state().key && !this.picking) this.open(this.list.rows[Math.min(Math.max((at < 0 ? -1 : at) + by, 0), this.list.rows.length - 1)], false);
    else this.list.move(at + by);
  }

  turn(by) {
    const pane = this.left;
    if (!pane.trajectory || !state().key) return;
    const last = pane.trajectory.turns.length - 1;
    this.go({ turn: String(Math.min(Math.max(pane.turn + by, 0), last) + 1) });
  }

  signal() {
    const { signals } = this.index;
    if (signals.length) change({ signal: signals[(signals.indexOf(chosen(this.index, state().signal)) + 1) % signals.length].name });
  }

  back() {
    if (this.picking) {
      this.picking = false;
      this.update();
    } else if (state().with) this.single();
    else if (state().key) this.home();
  }

  /** Whether arrows up and down scroll a trajectory, rather than move in the list. */
  scrolls() {
    return Boolean(state().key) && !this.picking;
  }

  keys() {
    const token = (by) => {
      const pane = this.right.root.contains(document.activeElement) ? this.right : this.left;
      if (state().key && pane.trajectory) pane.step(by);
    };
    return {
      next: () => this.move(1),
      previous: () => this.move(-1),
      down: () => this.scrolls() || this.move(1),
      up: () => this.scrolls() || this.move(-1),
      open: () => this.open(this.list.current ?? this.list.rows[0]),
      nextTurn: () => this.turn(1),
      previousTurn: () => this.turn(-1),
      nextToken: () => token(1),
      previousToken: () => token(-1),
      signal: () => this.signal(),
      compare: () => (state().with ? this.single() : state().key && this.left.row >= 0 && this.beside(this.left.row)),
      search: () => this.filters.search.select(),
      filters: () => this.filters.toggle(),
      theme: () => theme.next(),
      back: () => this.back(),
      help: () => this.help.showModal(),
    };
  }
}

function fail(error) {
  fill(document.getElementById("app"), el("p", { class: "problem", text: `This page cannot be shown: ${error.message}` }));
}

if (typeof DecompressionStream === "undefined") fail(new Error("it needs a browser of 2023 or later"));
else
  loadIndex()
    .then((index) => {
      new Viewer(index);
      // a frame later it stands on the screen
      requestAnimationFrame(() =>
        setTimeout(() => {
          performance.mark("painted");
          document.body.dataset.ready = "";
        }),
      );
    })
    .catch(fail);
