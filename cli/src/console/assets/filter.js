// Filters a table while the person types: loads the same page with the text of the filter, and takes over its results.

const PAUSE_MS = 120;

export function watchFilter(form) {
  const input = form.querySelector("input[type=search]");
  let timer;
  let running;
  // Takes over the results of a page. The element with the number of results stays: screen readers announce its changes.
  const show = (page) => {
    const id = form.dataset.filter;
    const [results, count] = [id, `${id}-count`].map((part) => page.getElementById(part));
    if (!results || !count) return location.reload();
    document.getElementById(id)?.replaceWith(results);
    const shown = document.getElementById(`${id}-count`);
    if (shown && shown.textContent !== count.textContent) shown.textContent = count.textContent;
  };
  const load = async () => {
    const url = new URL(form.action);
    if (input.value) url.searchParams.set("q", input.value);
    running?.abort();
    running = new AbortController();
    try {
      const answer = await fetch(url, { signal: running.signal });
      if (answer.status === 401) return location.reload();
      if (!answer.ok) return;
      show(new DOMParser().parseFromString(await answer.text(), "text/html"));
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
  // A person may have typed before this script was loaded.
  if (input.value !== (new URL(location.href).searchParams.get("q") ?? "")) load();
  document.addEventListener("keydown", (event) => {
    const isFree = !document.activeElement?.matches("input, textarea, select");
    if (event.key === "/" && isFree && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      input.focus();
    }
  });
}
