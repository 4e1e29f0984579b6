// Shows the normalized name of a secret while it is typed, and whether a secret of this name exists.

const PAUSE_MS = 200;

// The rule of `SecretName::parse` in proto/src/secret_name.rs. Returns null for a text that is no name.
export function normalize(text) {
  const scalars = [...text.trim()];
  const name = scalars.map((scalar) => (/^[A-Za-z0-9_]$/.test(scalar) ? scalar.toUpperCase() : "_")).join("");
  return name.length <= 128 && !text.includes("=") && /[A-Z0-9]/.test(name) ? name : null;
}

export function previewName(input) {
  const preview = document.querySelector("[data-name-preview]");
  const rest = [...preview.childNodes];
  // The page shows the error of a name that was refused, beside the preview.
  const refused = input.getAttribute("aria-invalid") === "true" ? input.value : undefined;
  let timer;
  const code = (text) => Object.assign(document.createElement("code"), { textContent: text });
  const lookUp = async () => {
    const text = input.value;
    const url = new URL(input.dataset.lookup, location.href);
    url.searchParams.set("name", text);
    const answer = await fetch(url).catch(() => null);
    if (!answer?.ok) return;
    const { name, problem, version } = await answer.json();
    // The answer to an older text is ignored.
    if (input.value !== text) return;
    if (name === null) preview.replaceChildren(...(text === refused ? rest : [problem]));
    else if (version === null) preview.replaceChildren("Creates ", code(name), ".");
    else {
      const link = Object.assign(document.createElement("a"), {
        // The page has the path of the list when it answers a form, so the link is relative to the path of the look-up.
        href: new URL(`${name}/replace`, url).pathname,
        textContent: "Replace its value",
      });
      preview.replaceChildren(code(name), ` exists already, with version ${version}. `, link);
    }
  };
  const show = () => {
    clearTimeout(timer);
    const name = normalize(input.value);
    if (name) preview.replaceChildren("Becomes ", code(name), ".");
    else preview.replaceChildren(...rest);
    if (input.value.trim()) timer = setTimeout(lookUp, PAUSE_MS);
  };
  input.addEventListener("input", show);
  if (input.value) show();
}
