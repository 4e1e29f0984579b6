// Draws the picture beside the form for a server again while the person types: sends the form to a path that answers with the
// picture alone. Nothing is stored by that.

const PAUSE_MS = 250;

// Writes what a field holds into an example in the text of its help.
export function showInExample(example) {
  const field = document.getElementById(example.dataset.shows);
  const proposal = example.textContent;
  field?.addEventListener("input", () => { example.textContent = field.value.trim() || proposal; });
}

export function keepPicture(form) {
  let timer;
  let running;
  const stop = () => {
    clearTimeout(timer);
    running?.abort();
  };
  const draw = async () => {
    const body = new URLSearchParams(new FormData(form));
    running = new AbortController();
    try {
      const answer = await fetch(form.dataset.picture, { method: "POST", body, signal: running.signal });
      if (!answer.ok) return;
      const part = new DOMParser().parseFromString(await answer.text(), "text/html");
      const picture = part.getElementById("picture");
      if (picture) document.getElementById("picture")?.replaceWith(picture);
    } catch {
      // A newer text or the form itself replaced the request, or the console has stopped. The picture stays as it is.
    }
  };
  form.addEventListener("input", () => {
    stop();
    timer = setTimeout(draw, PAUSE_MS);
  });
  form.addEventListener("submit", stop);
}
