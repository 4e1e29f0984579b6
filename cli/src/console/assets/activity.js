// Shows every sample that the console takes, while the page is open. The server draws; the script takes over what changed.

import { morph } from "./morph.js";
import { silence } from "./silence.js";

const RETRY_MS = 5000;

export function streamActivity(element) {
  const pause = document.querySelector("[data-pause]");
  const note = document.querySelector("[data-stream-note]");
  const silent = silence(note);
  let source;
  let timer;
  const say = (text) => { note.textContent = text; };
  const close = () => {
    clearTimeout(timer);
    source?.close();
    source = undefined;
  };
  // A stream that the server refused. Asks for the page itself, because an event source does not tell the status.
  const refused = async () => {
    const answer = await fetch(location.href).catch(() => null);
    if (answer?.status === 401) location.reload();
    else silent.begin(Boolean(answer));
    if (!isPaused()) timer = setTimeout(open, RETRY_MS);
  };
  const open = () => {
    close();
    source = new EventSource(element.dataset.stream);
    source.addEventListener("sample", ({ data }) => {
      const fresh = element.cloneNode(false);
      fresh.innerHTML = data;
      fresh.classList.remove("stale");
      morph(element, fresh);
      silent.end();
      say("");
    });
    // The session has too many live pages. This one goes on when it is looked at again.
    source.addEventListener("replaced", () => {
      close();
      silent.end();
      element.classList.add("stale");
      say("Stopped, because other pages of this console are live.");
    });
    source.onerror = () => {
      element.classList.add("stale");
      silent.begin(false);
      if (source?.readyState === EventSource.CLOSED) {
        close();
        refused();
      }
    };
  };
  const isPaused = () => pause?.getAttribute("aria-pressed") === "true";
  pause?.addEventListener("click", () => {
    pause.setAttribute("aria-pressed", String(!isPaused()));
    if (isPaused()) {
      close();
      silent.end();
      say("Paused.");
    } else open();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible" && !source && !isPaused()) open();
  });
  // A page in the memory of the browser's history has no stream.
  addEventListener("pagehide", close);
  addEventListener("pageshow", ({ persisted }) => { if (persisted && !isPaused()) open(); });
  if (pause) pause.hidden = false;
  open();
}
