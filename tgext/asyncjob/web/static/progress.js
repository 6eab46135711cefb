// Keeps the <asyncjob-progress> elements of a page up to date by one request for all: often while
// something moves, seldom while nothing does, never while the page is hidden. The texts are those
// of job_state.py. No clock is compared with the server's.

const FIRST = 500; // milliseconds between two requests
const LONGEST = 5000; // while nothing moves
const LONGEST_AWAY = 30000; // while the server is away
const MOST_JOBS = 50; // in one request

const ENGLISH = {
  waiting: "Waiting",
  running: "Running",
  retrying: "Waiting to try again",
  cancelling: "Cancelling",
  done: "Done",
  failed: "Failed",
  cancelled: "Cancelled",
  unknown: "Not known any more",
  starts: "Starts in %(time)s",
  again: "Trying again in %(time)s",
  before: ["Waiting, %(number)s job before it", "Waiting, %(number)s jobs before it"],
  forms: "10".padEnd(100, "1"), // for 0 jobs, 1, 2 ...
  more: "Waiting, %(number)s or more jobs before it",
  attempt: "Running, attempt %(number)s",
  s: "%(number)s s",
  min: "%(number)s min",
  h: "%(number)s h",
  few: "a few seconds left",
  left: "about %(time)s left",
  away: "The server does not answer. Trying again.",
  kept: "It could not be cancelled. Try again.",
};
const FINAL = ["done", "failed", "cancelled", "unknown"];
const MOST_BEFORE = 100; // means that or more
const GONE = { state: "unknown", value: null, total: null, eta_seconds: null };

const put = (node, text) => node.textContent === text || (node.textContent = text);
const now = () => performance.now() / 1000;

class Texts {
  constructor(given) {
    Object.assign(this, ENGLISH, given && JSON.parse(given));
  }

  say(name, value) {
    return this[name].replace(/%\(\w+\)s/, () => value);
  }

  duration(seconds) {
    const whole = Math.max(1, Math.ceil(seconds));
    if (whole < 100) return this.say("s", whole);
    const minutes = Math.ceil(whole / 60);
    return minutes < 100 ? this.say("min", minutes) : this.say("h", Math.ceil(minutes / 60));
  }

  timeLeft(seconds) {
    if (seconds < 5) return this.few;
    const step = seconds < 60 ? 5 : seconds < 600 ? 30 : 300;
    return this.say("left", this.duration(Math.ceil(seconds / step) * step));
  }

  jobsBefore(number) {
    if (number >= MOST_BEFORE) return this.say("more", number);
    return this.before[this.forms[number]].replace("%(number)s", number);
  }
}

class Poller {
  elements = new Set();
  etags = new Map();
  pause = FIRST;

  constructor(url) {
    this.url = url;
    const wake = () => this.soon();
    document.addEventListener("visibilitychange", wake);
    addEventListener("online", wake);
  }

  soon() {
    this.pause = FIRST;
    clearTimeout(this.timer);
    this.timer = 0;
    this.schedule(0);
  }

  schedule(pause = this.pause) {
    if (!this.timer && !this.asking && this.elements.size && !document.hidden) {
      this.timer = setTimeout(() => this.ask(), pause);
    }
  }

  async ask() {
    this.timer = 0;
    if (document.hidden) return;
    this.asking = true;
    try {
      const uids = [...new Set([...this.elements].map((each) => each.dataset.uid))];
      let moved = 0;
      for (let at = 0; at < uids.length; at += MOST_JOBS) {
        moved = Math.max(moved, await this.askFor(uids.slice(at, at + MOST_JOBS)));
      }
      // Nothing: twice as long; a step: half as long; another state: as at first.
      const next = [2 * this.pause, this.pause / 2, FIRST][moved];
      this.pause = Math.min(Math.max(next, FIRST), LONGEST);
    } catch (error) {
      this.pause = Math.min(Math.max(2 * this.pause, 1000 * (error.after || 0)), LONGEST_AWAY);
      for (const each of this.elements) each.say(each.texts.away);
    }
    this.asking = false;
    this.schedule();
  }

  async askFor(uids) {
    const query = uids.map((uid) => `uid=${encodeURIComponent(uid)}`).join("&");
    const elements = [...this.elements];
    const etag = elements.every((each) => each.job) && this.etags.get(query);
    const answer = await fetch(`${this.url}/progress?${query}`, {
      cache: "no-store",
      headers: { Accept: "application/json", ...(etag && { "If-None-Match": etag }) },
      signal: AbortSignal.timeout(LONGEST_AWAY),
    });
    const { status, headers } = answer;
    if (status === 304) {
      for (const each of elements) each.show();
      return 0;
    }
    const isGone = status === 403 || status === 404;
    if (!answer.ok && !isGone) {
      throw { after: Number(headers.get("Retry-After")) };
    }
    const { jobs } = isGone ? { jobs: uids.map((uid) => ({ ...GONE, uid })) } : await answer.json();
    this.etags.set(query, headers.get("ETag"));
    const found = new Map(jobs.map((job) => [job.uid, job]));
    const moves = elements.map((each) => each.take(found.get(each.dataset.uid)));
    return Math.max(...moves);
  }
}

const pollers = {};

class AsyncjobProgress extends HTMLElement {
  connectedCallback() {
    const find = (part) => this.querySelector(part);
    this.bar = find("progress");
    this.sentence = find(".asyncjob-state");
    this.details = find(".asyncjob-details");
    this.spoken = find(".asyncjob-spoken");
    this.reload = find(".asyncjob-reload");
    this.button = find(".asyncjob-cancel");
    this.texts = new Texts(this.dataset.texts);
    this.state = this.dataset.state; // data-state may be ahead of it
    if (FINAL.includes(this.state)) return;
    this.reload.hidden = true;
    this.button?.addEventListener("submit", (event) => this.cancel(event));
    const { url } = this.dataset;
    this.poller = pollers[url] ??= new Poller(url);
    this.poller.elements.add(this);
    this.poller.schedule();
  }

  disconnectedCallback() {
    this.poller?.elements.delete(this);
  }

  // Returns 2 for another state, 1 for a step, 0 if nothing has changed.
  take(job) {
    if (!job) return 0;
    const before = this.job;
    const isAnother = job.state !== this.state || job.attempt !== (before ?? job).attempt;
    const isNew = isAnother || !before || job.value === null;
    if (isNew) this.shown = "";
    const value = isNew ? job.value : Math.max(before.value, job.value);
    const isStep = value !== null && (isNew || value !== before.value);
    this.job = { ...job, value, at: now() };
    this.state = job.state;
    this.isAsked &&= job.state === "running";
    this.show();
    this.speak(isAnother || !before);
    if (FINAL.includes(job.state)) this.end();
    return isAnother ? 2 : Number(!!before && (isStep || job.text !== before.text));
  }

  show() {
    const job = this.job;
    if (!job) return;
    const state = (this.dataset.state = this.isAsked ? "cancelling" : job.state);
    const isActive = state === "running" || state === "cancelling";
    const isMeasured = job.value !== null && job.total !== null;
    if (isActive && !isMeasured) {
      this.bar.removeAttribute("value");
    } else {
      const isDone = state === "done";
      this.bar.max = isMeasured && !isDone ? job.total : 1;
      this.bar.value = isDone ? 1 : isMeasured ? job.value : 0;
    }
    this.say(this.words(state), isActive ? this.numbers(isMeasured) : "");
  }

  words(state) {
    const { due_in: dueIn, at, attempt, error, queue_position: before } = this.job;
    const due = dueIn && dueIn - (now() - at);
    const { texts } = this;
    if (due > 0) return texts.say(state === "waiting" ? "starts" : "again", texts.duration(due));
    if (state === "waiting" && before) return texts.jobsBefore(before);
    if (state === "running" && attempt > 1) return texts.say("attempt", attempt);
    if (state !== "failed" || !error) return texts[state];
    const name = error.class.slice(error.class.lastIndexOf(".") + 1);
    return [texts[state], name, error.message].filter(Boolean).join(": ");
  }

  numbers(isMeasured) {
    const { total, text, value } = this.job;
    const percent = isMeasured && `${Math.min(Math.floor((100 * value) / total), 100)} %`;
    return [percent, text, this.isAsked ? "" : this.left()].filter(Boolean).join(", ");
  }

  // The server's estimate, less what has passed since. It does not grow by less than a tenth.
  left() {
    const { eta_seconds: eta, at } = this.job;
    if (eta === null) return (this.shown = "");
    const left = Math.max(0, eta - (now() - at));
    if (!this.shown || left < this.least || left > 1.1 * this.least) {
      this.least = left;
      this.shown = this.texts.timeLeft(left);
    }
    return this.shown;
  }

  say(sentence, details = "") {
    put(this.sentence, sentence);
    put(this.details, details);
    this.bar.ariaValueText = details ? `${sentence}, ${details}` : sentence;
  }

  // For a screen reader: at the start, at each quarter, at another state and the end.
  speak(isAnother) {
    const quarter = Math.floor((this.job.percent ?? 0) / 25);
    if (!isAnother && quarter === this.quarter) return;
    this.quarter = quarter;
    this.spoken.textContent = `${this.bar.ariaLabel}: ${this.bar.ariaValueText}`;
  }

  async cancel(event) {
    event.preventDefault();
    if (this.isAsked) return;
    const form = event.target;
    this.isAsked = true;
    this.dataset.state = "cancelling";
    this.say(this.texts.cancelling);
    try {
      const answer = await fetch(form.action, {
        method: "POST",
        body: new URLSearchParams(new FormData(form)),
        headers: { Accept: "application/json" },
      });
      if (!answer.ok) throw answer;
    } catch {
      this.isAsked = false;
      this.show();
      this.spoken.textContent = this.details.textContent = this.texts.kept;
    }
    this.poller.soon();
  }

  end() {
    this.poller.elements.delete(this);
    if (this.contains(document.activeElement)) this.focus(); // its button goes
    this.button?.remove();
    const fields = new URLSearchParams(new FormData(this.reload));
    if (this.state === "done" && fields.has("then")) {
      location.replace(`${this.reload.action}?${fields}`);
    }
  }
}

const NAME = "asyncjob-progress";
customElements.get(NAME) || customElements.define(NAME, AsyncjobProgress);
