// Parts of a page that change by themselves.

const INTERVAL_MS = 5000;

async function load(url) {
  try {
    return await fetch(url, { headers: { accept: "text/html" } });
  } catch {
    return null;
  }
}

// Takes over the parts of a page that changed. The elements themselves stay, because screen readers announce a live region
// that is inserted again.
function update(element, page) {
  const [old, fresh] = [[...element.children], [...page.body.children]];
  if (old.length !== fresh.length) element.replaceChildren(...fresh);
  else fresh.forEach((part, index) => {
    if (!part.isEqualNode(old[index])) old[index].replaceChildren(...part.childNodes);
  });
}

// Loads the content of an element again and again while the page is visible.
export function keepLive(element) {
  const interval = Number(element.dataset.interval) || INTERVAL_MS;
  const refresh = async () => {
    if (document.visibilityState === "visible") {
      const answer = await load(element.dataset.live);
      if (answer?.status === 401) location.reload();
      element.classList.toggle("stale", !answer?.ok);
      if (answer?.ok) {
        update(element, new DOMParser().parseFromString(await answer.text(), "text/html"));
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
