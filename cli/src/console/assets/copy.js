// A button that copies the text before it.

const SHOWN_MS = 2000;

export function offerCopy(button) {
  // Browsers have a clipboard only on a site that they trust, such as one on a loopback address.
  if (!navigator.clipboard) return;
  const label = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    const text = button.previousElementSibling?.textContent ?? "";
    const done = await navigator.clipboard.writeText(text).then(() => true, () => false);
    button.textContent = done ? "Copied" : "Not copied";
    setTimeout(() => { button.textContent = label; }, SHOWN_MS);
  });
}
