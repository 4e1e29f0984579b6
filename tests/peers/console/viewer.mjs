// A person who may only look: no page offers a change, and a change that is made all the same is refused in words.
import assert from "node:assert/strict";
import { origin, scenario, shows, signIn } from "./browser.mjs";
import { REFUSED_TO_VIEWERS, VIEWER_PAGES } from "./pages.mjs";

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
  for (const path of REFUSED_TO_VIEWERS) {
    const answer = await page.goto(origin + path);
    assert.equal(answer.status(), 403, path);
    await shows(page, "You may not do this");
    assert.equal(await page.locator("main form").count(), 0, path);
  }

  // The button for signing out has the token of the session.
  const csrf = await page.locator("input[name=csrf]").first().getAttribute("value");
  assert.ok(csrf);
  const put = { path: "/w/shop/secrets", fields: { name: "STOLEN", value: "value-of-a-viewer" } };
  const add = { path: "/w/shop/add-server/form", fields: { name: "stolen", url: "https://a.example", auth: "nothing" } };
  for (const { path, fields } of [put, add]) {
    const form = { csrf, ...fields };
    const refused = await page.context().request.post(origin + path, { form, headers: { origin } });
    assert.equal(refused.status(), 403, path);
  }
  watch.check();
});
