// Keeps a page of the dashboard up to date: asks for the same page again, and puts in place the
// parts of it that have changed, but none that the reader is using. Never while the page is hidden
// or updates are paused. And the keys: / j k x r ?

const PAUSE = 5000; // milliseconds between two requests
const LONGEST = 30000; // the same while the server does not answer

const find = (selector) => document.querySelector(selector);
const texts = JSON.parse(find("main").dataset.texts); // in the language of the page
const parts = (page) =>
  new Map([...page.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part]));

// A browser may forbid storage; then a choice lasts as long as the page.
function stored(name, value) {
  try {
    if (value === undefined) return sessionStorage.getItem(`asyncjob-${name}`) === "yes";
    sessionStorage.setItem(`asyncjob-${name}`, value ? "yes" : "no");
  } catch {}
  return value ?? false;
}

class Live {
  etag = null;
  latest = new Map(); // the parts as the server has sent them last
  shown = new Map([...parts(document)].map(([name, part]) => [name, part.outerHTML]));
  pause = PAUSE;
  isPaused = stored("paused");
  said = find("[data-said]");
  button = find("[data-pause]");
  isOver = !find("[data-live]"); // a page that says what is wrong

  start() {
    if (this.isOver) return;
    this.button.hidden = false;
    this.button.addEventListener("click", () => {
      this.isPaused = stored("paused", !this.isPaused);
      this.label();
      this.schedule(0);
    });
    document.addEventListener("visibilitychange", () => this.schedule(0));
    this.label();
    this.schedule();
  }

  label() {
    this.button.textContent = this.isPaused ? texts.resume : texts.pause;
    this.say(this.isPaused ? texts.paused : "");
  }

  say(text) {
    if (this.said.textContent !== text) this.said.textContent = text;
  }

  schedule(pause = this.pause) {
    clearTimeout(this.timer);
    if (document.hidden || this.isPaused || this.asking || this.isOver) return;
    this.timer = setTimeout(() => this.ask(), pause);
  }

  async ask() {
    if (this.asking) return;
    if (this.isOver) return location.reload();
    this.asking = true;
    clearTimeout(this.timer);
    try {
      const answer = await fetch(location.href, {
        cache: "no-store",
        headers: { Accept: "text/html", ...(this.etag && { "If-None-Match": this.etag }) },
        signal: AbortSignal.timeout(LONGEST),
      });
      if (answer.status !== 304) await this.take(answer);
      this.swap();
      this.pause = PAUSE;
      this.say(this.isPaused ? texts.paused : this.isOver ? texts.over : "");
    } catch {
      this.pause = Math.min(2 * this.pause, LONGEST);
      this.say(texts.away);
    }
    this.asking = false;
    this.schedule();
  }

  async take(answer) {
    // A login page, a job that is gone, or a permission that is.
    this.isOver = answer.redirected || (answer.status >= 400 && answer.status < 500);
    if (this.isOver) return;
    if (!answer.ok) throw answer;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    this.latest = parts(page);
    this.etag = answer.headers.get("ETag");
  }

  swap() {
    for (const [name, old] of parts(document)) {
      const found = this.latest.get(name);
      if (!found || found.outerHTML === this.shown.get(name) || isUsed(old)) continue;
      this.shown.set(name, found.outerHTML);
      old.replaceWith(document.importNode(found, true));
      showAll();
    }
  }
}

// Whether a part has the focus, something selected or chosen, or something opened.
function isUsed(part) {
  const selection = getSelection();
  const isSelected = selection && !selection.isCollapsed && selection.containsNode(part, true);
  const isOpen = part.querySelector("details[open], [name=job]:checked");
  return isSelected || part.contains(document.activeElement) || isOpen;
}

class Keys {
  isOff = stored("keys-off");
  help = find("#keys");
  button = find("[data-keys]");
  off = find("[data-off]");

  constructor(live) {
    this.live = live;
    this.button.hidden = false;
    this.button.addEventListener("click", () => this.toggle());
    this.off.addEventListener("click", () => {
      this.isOff = stored("keys-off", !this.isOff);
      this.label();
    });
    this.label();
    document.addEventListener("keydown", (event) => this.press(event));
  }

  label() {
    this.off.textContent = this.isOff ? texts.keysOn : texts.keysOff;
  }

  toggle() {
    this.help.hidden = !this.help.hidden;
    this.button.ariaExpanded = String(!this.help.hidden);
  }

  press(event) {
    const { key, target } = event;
    const isTyping = target.closest("input, select, textarea, [contenteditable]");
    if (key === "Escape" && target.closest(".filters")) return target.blur();
    if (this.isOff || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    const acts = {
      "/": () => this.search(),
      j: () => this.move(1),
      k: () => this.move(-1),
      x: () => target.closest("tr")?.querySelector("[name=job]")?.click(),
      r: () => this.live.ask(),
      "?": () => this.toggle(),
    };
    if (!Object.hasOwn(acts, key)) return;
    event.preventDefault();
    acts[key]();
  }

  search() {
    const field = find("[data-search]");
    if (field) field.focus();
    else location.assign(this.button.dataset.keys);
  }

  move(step) {
    const rows = [...document.querySelectorAll("[data-row]")];
    const at = rows.indexOf(document.activeElement);
    const next = at < 0 ? (step > 0 ? 0 : rows.length - 1) : at + step;
    rows[Math.min(Math.max(next, 0), rows.length - 1)]?.focus();
  }
}

// The box that chooses all rows; it comes anew with its part.
const showAll = () => find("[data-all]")?.removeAttribute("hidden");

function choose({ target }) {
  if (!target.matches("[data-all]")) return;
  for (const box of target.closest("form").querySelectorAll("[name=job]")) {
    box.checked = target.checked;
  }
}

const live = new Live();
live.start();
document.addEventListener("change", choose);
showAll();
new Keys(live);
if (location.hash === "#find") find("[data-search]")?.focus();
