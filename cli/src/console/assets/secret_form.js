// Finds the mistakes of a form for secrets before it is sent, because the answer to a form never contains the value again.

// The rule of `OriginPattern::parse` in proto/src/origin.rs, as far as a text shows it. The vault decides.
const ORIGIN = /^https?:\/\/(?!\*\.[^.]*$)(\*\.)?([^\s\/?#@\\*:[\]]+|\[[0-9a-f:.]+\])(:\d{1,5})?\/?$/i;

// Returns the first entry that is no origin.
export function wrongOrigin(text) {
  const entries = text.split(/[\n,]/).map((entry) => entry.trim()).filter(Boolean);
  return entries.find((entry) => !ORIGIN.test(entry));
}

export function checkOrigins(field) {
  const check = () => {
    const wrong = wrongOrigin(field.value);
    field.setCustomValidity(
      wrong === undefined ? "" : `“${wrong}” is no origin: write https:// and a host, such as https://api.github.com, without a path`,
    );
  };
  field.addEventListener("input", check);
  check();
}

// A person who chooses a day wants the value to expire on it.
export function chooseDate(day) {
  day.addEventListener("input", () => {
    const choice = day.form?.elements.namedItem("expiry");
    if (day.value && choice) choice.value = "date";
  });
}
