// An installation without anything says on each page what to do next.
import { origin, scenario, shows, signIn } from "./browser.mjs";

await scenario(async (browser) => {
  const { page, watch } = await signIn(browser);
  await shows(page, "Make the first workspace");
  await page.getByRole("link", { name: "New workspace" }).click();
  await page.getByLabel("Name", { exact: true }).fill("empty");
  await page.getByRole("button", { name: "Create workspace" }).click();
  await shows(page, "Add the first secret");
  await page.getByRole("link", { name: "Settings" }).click();
  await shows(page, "It holds no secrets.");
  await shows(page, "No server of the injector belongs to it.");
  await page.goto(`${origin}/w/empty/secrets/NOTHING`);
  await shows(page, "There is nothing here");
  await page.goto(`${origin}/status`);
  await shows(page, "Everything is in order.");
  watch.check();
});
