// A person who may only look: no page offers a change, and a change that is made all the same is refused in words.
import assert from "node:assert/strict";
import { origin, scenario, shows, signIn } from "./browser.mjs";
import { VIEWER_PAGES } from "./pages.mjs";

const OFFERS = /^(New|Add|Replace|Restore|Delete|Save|Create|Remove|Rotate)\b/;

await scenario(async (browser) => {
  const { page, watch } = await signIn(browser);
  // The vault lists workspaces only for administrators.
  await page.getByLabel("Name of the workspace that you work in").fill("shop");
  await page.getByRole("button", { name: "Open" }).click();
  await shows(page, "GITHUB_TOKEN");
  await shows(page, "this identity is a viewer here");
  for (const path of VIEWER_PAGES) {
    const answer = await page.goto(origin + path);
    assert.equal(answer.status(), 200, path);
    const controls = await page.locator("main").locator("a, button").allInnerTexts();
    const labels = await page.locator("main").locator("[aria-label]").evaluateAll((all) => all.map((part) => part.ariaLabel));
    assert.deepEqual([...controls, ...labels].filter((text) => OFFERS.test(text.trim())), [], path);
  }
  await page.goto(`${origin}/w/shop/settings`);
  await shows(page, "You may not do this");

  const form = await page.context().request.get(`${origin}/w/shop/secrets/new`);
  const csrf = /name="csrf" value="([^"]+)"/.exec(await form.text())?.[1];
  if (csrf) {
    const fields = { csrf, name: "STOLEN", value: "value-of-a-viewer" };
    const refused = await page.context().request.post(`${origin}/w/shop/secrets`, { form: fields, headers: { origin } });
    assert.equal(refused.status(), 403);
  }
  watch.check();
});
