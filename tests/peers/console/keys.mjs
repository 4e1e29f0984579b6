// Moves through a page with the keyboard alone.
import assert from "node:assert/strict";

// More than the number of controls on any page.
const MOST_STOPS = 300;

// The control that has the focus: what a screen reader calls it, and whether a person can see that it has the focus.
const focused = (page) =>
  page.evaluate(() => {
    const element = document.activeElement;
    if (!element || element === document.body) return null;
    const label = element.getAttribute("aria-label") ?? element.labels?.[0]?.innerText ?? element.innerText ?? "";
    const { outlineStyle, boxShadow, borderTopColor } = getComputedStyle(element);
    const isVisible = outlineStyle !== "none" || boxShadow !== "none" || element.matches("main, .notice");
    const box = element.getBoundingClientRect();
    return { name: label.trim(), tag: element.localName, type: element.type ?? "", isVisible, borderTopColor, width: box.width };
  });

// Presses Tab until the control with this name has the focus.
export async function tabTo(page, name, tag = "") {
  const seen = [];
  for (let stops = 0; stops < MOST_STOPS; stops += 1) {
    await page.keyboard.press("Tab");
    const found = await focused(page);
    if (!found) continue;
    assert.ok(found.isVisible, `nobody sees that ${found.tag} ${found.name} has the focus`);
    seen.push(`${found.tag} ${found.name}`);
    if (found.name === name && (!tag || found.tag === tag)) return;
  }
  assert.fail(`Tab does not reach ${tag} ${name} on ${page.url()}: ${seen.slice(0, 60).join(", ")}`);
}

// Goes to a control with Tab, and activates it.
export async function activate(page, name, key = "Enter", tag = "") {
  await tabTo(page, name, tag);
  await page.keyboard.press(key);
}

// Goes to a field with Tab, and types.
export async function enter(page, name, text) {
  await tabTo(page, name);
  await page.keyboard.type(text);
}

// Goes once around a page with Tab. Returns the number of controls that are visible and had no focus.
export async function unreachable(page) {
  await page.evaluate(() => {
    document.activeElement?.blur();
    const controls = document.querySelectorAll("a[href], button, input, select, textarea, summary");
    window.unreached = new Set([...controls].filter((control) => control.checkVisibility() && !control.disabled));
    // The button that Enter in a field presses is the first of its form, and is hidden from people.
    for (const hidden of document.querySelectorAll("[aria-hidden=true][tabindex='-1']")) window.unreached.delete(hidden);
    // Arrow keys, not Tab, go from one radio button to the next one of its group.
    for (const radio of document.querySelectorAll("input[type=radio]")) {
      const group = document.querySelectorAll(`input[name="${radio.name}"]`);
      const stop = [...group].find((other) => other.checked) ?? group[0];
      if (radio !== stop) window.unreached.delete(radio);
    }
    document.addEventListener("focusin", (event) => window.unreached.delete(event.target));
  });
  for (let stops = 0; stops < MOST_STOPS; stops += 1) {
    await page.keyboard.press("Tab");
    if (await page.evaluate(() => window.unreached.size === 0)) return [];
  }
  return page.evaluate(() => [...window.unreached].map((control) => control.outerHTML));
}
