// The note of a page whose figures are old, because the console does not answer or has no new ones.

const time = (date) => `${date.toISOString().slice(11, 16)} UTC`;

// `note` is a live region, so screen readers announce its text.
export function silence(note) {
  let since;
  return {
    // Says what is missing, from the first time on.
    begin(answers) {
      since ??= new Date();
      const what = answers ? "There have been no new figures" : "The console has not answered";
      note.textContent = `${what} since ${time(since)}. The page shows old figures.`;
    },
    end() {
      if (since) note.textContent = "";
      since = undefined;
    },
  };
}
