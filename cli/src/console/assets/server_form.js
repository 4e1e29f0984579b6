// Draws the picture beside the form for a server again while the person types: sends the form as its button `Draw again` does,
// and takes over the picture of the answer. Nothing is stored by that.

const PAUSE_MS = 250;

export function keepPicture(form) {
  let timer;
  let running;
  const draw = async () => {
    const fields = new URLSearchParams(new FormData(form));
    fields.set("step", "picture");
    running?.abort();
    running = new AbortController();
    try {
      const answer = await fetch(form.action, { method: "POST", body: fields, signal: running.signal });
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const picture = page.getElementById("picture");
      if (picture) document.getElementById("picture")?.replaceWith(picture);
    } catch {
      // A newer text replaced the request, or the console has stopped. The picture stays as it is.
    }
  };
  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(draw, PAUSE_MS);
  });
}
