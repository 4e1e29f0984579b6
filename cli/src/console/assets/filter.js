// Filters a table while the person types: loads the same page with the text of the filter, and takes over its results.

const PAUSE_MS = 120;

export function watchFilter(form) {
  const input = form.querySelector("input[type=search]");
  let timer;
  let running;
  const load = async () => {
    const url = new URL(form.action);
    if (input.value) url.searchParams.set("q", input.value);
    running?.abort();
    running = new AbortController();
    try {
      const answer = await fetch(url, { signal: running.signal });
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      document.getElementById(form.dataset.filter)?.replaceWith(page.getElementById(form.dataset.filter));
      history.replaceState(null, "", url);
    } catch {
      // A newer text replaced the request, or the console has stopped. The table stays as it is.
    }
  };
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(load, PAUSE_MS);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    load();
  });
  document.addEventListener("keydown", (event) => {
    const isFree = !document.activeElement?.matches("input, textarea, select");
    if (event.key === "/" && isFree && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      input.focus();
    }
  });
}
