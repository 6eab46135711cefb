// Keep the page of a running job fresh: ask the server how far the job is and move
// the bar. When the job enters another state, load the page again: how the states
// look is written once, in the template, for readers with and without JavaScript.

(function () {
  "use strict";

  const PAUSE = 300; // milliseconds between two questions
  const LONGEST_PAUSE = 5000; // while the server does not answer

  const STATES = {
    READY: "waiting",
    RUNNING: "running",
    SUCCESSFUL: "done",
    FAILED: "failed",
    CANCELLED: "cancelled",
  };

  const job = document.getElementById("job");
  const bar = job.querySelector("[role=progressbar]");
  const fill = bar.querySelector(".fill");
  const silence = document.getElementById("silence");
  let pause = PAUSE;

  function showProgress(progress) {
    if (progress.total === null || progress.value < 0) {
      // It began anew: what an earlier attempt had reported says nothing of this one.
      bar.classList.add("unknown-length");
      bar.removeAttribute("aria-valuenow");
      document.getElementById("percent").textContent = "";
      document.getElementById("step").textContent = "Beginning";
      return;
    }
    const percent = Math.floor((100 * progress.value) / progress.total);
    bar.classList.remove("unknown-length");
    bar.setAttribute("aria-valuemax", progress.total);
    bar.setAttribute("aria-valuenow", progress.value);
    fill.style.width = percent + "%";
    document.getElementById("percent").textContent = percent + " %";
    document.getElementById("step").textContent =
      progress.data && progress.data.step
        ? progress.data.step
        : `${progress.value} of ${progress.total} done`;
  }

  // What the page showed last may be true no more; say since when nothing is known.
  function showSilence(sentence) {
    silence.textContent = sentence;
    silence.hidden = sentence === "";
  }

  async function look() {
    try {
      const answer = await fetch(job.dataset.statusUrl, { cache: "no-store" });
      if (answer.status === 404) {
        window.location.reload();
        return;
      }
      if (!answer.ok) {
        throw new Error(`status ${answer.status}`);
      }
      const status = await answer.json();
      showSilence("");
      if (STATES[status.status] !== job.dataset.state) {
        fill.style.width = status.status === "SUCCESSFUL" ? "100%" : fill.style.width;
        window.setTimeout(() => window.location.reload(), PAUSE);
        return;
      }
      if (job.dataset.state === "running") {
        showProgress(status.progress);
      }
      pause = PAUSE;
    } catch (error) {
      // The server is restarting, or the network is away: ask again, less often.
      showSilence("The server does not answer. This page asks again, and shows how the job is when it does.");
      pause = Math.min(2 * pause, LONGEST_PAUSE);
    }
    window.setTimeout(look, pause);
  }

  window.setTimeout(look, pause);
})();
