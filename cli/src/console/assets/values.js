// Empties the field for the value of a secret, and the choice of a file, once the form was sent, and when the browser shows the
// page again (its history may keep pages in memory). Covers a long text.

// The style sheet masks shorter texts with discs.
const LONG = 16 * 1024;

export function coverLong(field) {
  const note = Object.assign(document.createElement("p"), { className: "help covered", hidden: true });
  note.setAttribute("role", "status");
  field.after(note);
  const cover = (length) => {
    field.classList.toggle("long", length > LONG);
    note.hidden = length <= LONG;
    note.textContent = note.hidden ? "" : `${length.toLocaleString("en")} characters, hidden.`;
  };
  // Before the browser draws a pasted text with discs.
  field.addEventListener("beforeinput", (event) => {
    const added = event.data ?? event.dataTransfer?.getData("text/plain") ?? "";
    if (added.length > LONG) cover(field.value.length + added.length);
  });
  field.addEventListener("input", () => cover(field.value.length));
  if (field.value) cover(field.value.length);
  return () => cover(field.value.length);
}

export function forgetValues(form) {
  const values = [...form.querySelectorAll("textarea.value")];
  const covers = values.map(coverLong);
  const forget = () => {
    form.querySelectorAll("textarea.value, input[type=file]").forEach((field) => { field.value = ""; });
    form.querySelectorAll("input.reveal").forEach((box) => { box.checked = false; });
    covers.forEach((cover) => cover());
  };
  // The browser reads the fields right after this event.
  form.addEventListener("submit", () => setTimeout(forget));
  addEventListener("pageshow", (event) => { if (event.persisted) forget(); });
  addEventListener("pagehide", forget);
}
