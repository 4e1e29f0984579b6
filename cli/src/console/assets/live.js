// Parts of a page that change by themselves.

import { morph } from "./morph.js";
import { silence } from "./silence.js";

const INTERVAL_MS = 5000;

async function load(url) {
  try {
    return await fetch(url, { headers: { accept: "text/html" } });
  } catch {
    return null;
  }
}

// Takes over what changed, such as the value of a progress bar. Elements that are alike stay, because screen readers announce a
// live region that is inserted again.
function update(element, page) {
  const fresh = element.cloneNode(false);
  fresh.append(...page.body.childNodes);
  morph(element, fresh);
}

// Loads the content of an element again and again while the page is visible. Content with `data-next` is the last: the page goes on
// to that path.
export function keepLive(element) {
  const note = document.createElement("p");
  note.className = "stale-note";
  note.setAttribute("role", "status");
  element.before(note);
  const silent = silence(note);
  const interval = Number(element.dataset.interval) || INTERVAL_MS;
  const refresh = async () => {
    if (document.visibilityState === "visible") {
      const answer = await load(element.dataset.live);
      if (answer?.status === 401) location.reload();
      element.classList.toggle("stale", !answer?.ok);
      if (!answer?.ok) silent.begin(Boolean(answer));
      else {
        silent.end();
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const next = page.querySelector("[data-next]");
        if (next) return location.replace(next.dataset.next);
        update(element, page);
      }
    }
    setTimeout(refresh, interval);
  };
  setTimeout(refresh, interval);
}

// Loads a page that reported a service as down until the service answers. Answers to forms are not loaded again.
export function retry() {
  const attempt = async () => {
    const answer = await load(location.href);
    if (answer && answer.status !== 503) location.replace(location.href);
    else setTimeout(attempt, INTERVAL_MS);
  };
  setTimeout(attempt, INTERVAL_MS);
}
