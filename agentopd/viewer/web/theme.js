// Light, dark, or as the system has it.

const ORDER = ["auto", "light", "dark"];
const NAMES = { auto: "Auto", light: "Light", dark: "Dark" };
const PLACE = "agentopd-theme";

function kept() {
  try {
    return localStorage.getItem(PLACE) || "auto";
  } catch {
    return "auto"; // a browser may refuse storage to files
  }
}

let now = kept();
let button = null;

function apply() {
  if (now === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = now;
  if (button) {
    button.textContent = NAMES[now];
    button.title = `colours: ${now === "auto" ? "as the system" : now} (t)`;
  }
}

export const theme = {
  /** Shows the theme on a button. */
  start(shownOn) {
    button = shownOn;
    apply();
  },
  /** Goes on to the next. */
  next() {
    now = ORDER[(ORDER.indexOf(now) + 1) % ORDER.length];
    try {
      localStorage.setItem(PLACE, now);
    } catch {
      // it lasts as long as the page then
    }
    apply();
  },
};

apply();
