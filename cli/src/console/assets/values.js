// Empties the field for the value of a secret, and the choice of a file, once the form was sent, and when the browser shows the
// page again (its history may keep pages in memory).

export function forgetValues(form) {
  const forget = () => {
    form.querySelectorAll("textarea.value, input[type=file]").forEach((field) => { field.value = ""; });
    form.querySelectorAll("input.reveal").forEach((box) => { box.checked = false; });
  };
  // The browser reads the fields right after this event.
  form.addEventListener("submit", () => setTimeout(forget));
  addEventListener("pageshow", (event) => { if (event.persisted) forget(); });
  addEventListener("pagehide", forget);
}
