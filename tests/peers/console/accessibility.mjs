// Looks at every page, in light and dark, narrow and wide: axe-core finds nothing serious, nothing is cut off at the side, and Tab
// reaches every control.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { newWindow, origin, require, scenario, signIn } from "./browser.mjs";
import { unreachable } from "./keys.mjs";
import { PAGES, statusOf } from "./pages.mjs";

const AXE = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const WIDTHS = [320, 360, 412, 1280, 2560];
// At the other widths axe-core would find the same again.
const WIDTHS_FOR_AXE = [360, 1280];
const HEIGHT = 900;

// The rules of WCAG 2.0 to 2.2, levels A and AA, and those that axe-core calls best practice. Only what is serious or critical counts.
async function findings(page) {
  const { violations } = await page.evaluate(() => window.axe.run(document, { preload: false, resultTypes: ["violations"] }));
  return violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => `${id} ${target}: ${failureSummary}`));
}

// Returns the elements that make the page wider than the window. A box that scrolls may have wider content.
const tooWide = (page) =>
  page.evaluate(() => {
    const { scrollWidth, clientWidth } = document.documentElement;
    if (scrollWidth <= clientWidth) return [];
    const wide = [...document.body.querySelectorAll("*")].filter((part) => part.getBoundingClientRect().right > clientWidth);
    return wide.map((part) => part.outerHTML.slice(0, 120));
  });

// Returns the links of the navigation whose text has more than one line: their labels are short, and would be broken inside a word.
const broken = (page) =>
  page.evaluate(() => {
    const lines = (link) => {
      const range = document.createRange();
      range.selectNodeContents(link);
      return new Set([...range.getClientRects()].map(({ top }) => Math.round(top))).size;
    };
    return [...document.querySelectorAll(".tabs a, .top nav a")].filter((link) => lines(link) > 1).map((link) => `${link.textContent} is broken`);
  });

async function look(page, path, scheme, status) {
  const answer = await page.goto(origin + path);
  await page.evaluate(AXE);
  // An error would be accessible, too.
  const found = answer.status() === status ? [] : [`${path}: answered with ${answer.status()}`];
  for (const width of WIDTHS) {
    await page.setViewportSize({ width, height: HEIGHT });
    const add = (problems) => found.push(...problems.map((problem) => `${path} ${scheme} ${width} px: ${problem}`));
    if (WIDTHS_FOR_AXE.includes(width)) add(await findings(page));
    add(await tooWide(page));
    add(await broken(page));
  }
  const missed = scheme === "light" ? await unreachable(page) : [];
  return [...found, ...missed.map((control) => `${path}: Tab does not reach ${control}`)];
}

async function lookAtAll(browser, colorScheme, paths, statusOf, storageState) {
  const { context, page, watch } = await newWindow(browser, { colorScheme, storageState });
  const found = [];
  for (const path of paths) found.push(...(await look(page, path, colorScheme, statusOf(path))));
  watch.check();
  await context.close();
  return found;
}

await scenario(async (browser) => {
  const schemes = ["light", "dark"];
  // The page of a person who has not signed in is one of them.
  const before = schemes.map((scheme) => lookAtAll(browser, scheme, ["/"], () => 401));
  assert.deepEqual((await Promise.all(before)).flat(), []);
  const { context } = await signIn(browser);
  const state = await context.storageState();
  const after = schemes.map((scheme) => lookAtAll(browser, scheme, PAGES, statusOf, state));
  assert.deepEqual((await Promise.all(after)).flat(), []);
  console.log(`${PAGES.length} pages`);
});
