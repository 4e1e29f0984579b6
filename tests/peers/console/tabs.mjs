// Two tabs of one browser: neither undoes unseen what the other did, and a sign-out holds for both.
import { origin, scenario, shows, showsNot, signIn } from "./browser.mjs";

const secret = `${origin}/w/shop/secrets/GITHUB_TOKEN`;

async function replace(page, value) {
  await page.getByLabel("Value", { exact: true }).fill(value);
  await page.getByRole("button", { name: "Replace value" }).click();
}

await scenario(async (browser) => {
  const { context, page: first, watch } = await signIn(browser);
  const second = await context.newPage();
  for (const tab of [first, second]) await tab.goto(`${secret}/replace`);
  await replace(first, "value-of-the-first-tab");
  await shows(first, "has a new value: version 2");
  await replace(second, "value-of-the-second-tab");
  await second.getByRole("alert").getByText("the secret was changed meanwhile", { exact: false }).waitFor();
  await replace(second, "value-of-the-second-tab");
  await shows(second, "has a new value: version 3");

  // A page that shows an older version restores and deletes nothing.
  await first.getByRole("link", { name: "Restore version 1" }).click();
  await first.getByRole("alert").waitFor();
  await first.goto(`${secret}/delete`);
  await second.goto(`${secret}/replace`);
  await replace(second, "value-of-the-second-tab");
  await shows(second, "has a new value: version 4");
  await first.getByRole("button", { name: "Delete secret" }).click();
  await first.getByRole("alert").waitFor();
  // The notice was for the tab that made the change, once.
  for (const tab of [first, second]) {
    await tab.goto(secret);
    await shows(tab, "Replace value");
    await showsNot(tab, "has a new value");
  }

  // The second save of a server keeps what was entered, and names the change of the other tab.
  const server = `${origin}/w/shop/servers/github`;
  for (const tab of [first, second]) await tab.goto(`${server}/edit`);
  await first.getByLabel("Description", { exact: true }).fill("of the first tab");
  await first.getByRole("button", { name: "Save changes" }).click();
  await shows(first, "was changed: description");
  await second.getByLabel("Description", { exact: true }).fill("of the second tab");
  await second.getByRole("button", { name: "Save changes" }).click();
  await second.getByRole("alert").getByText("description (now of the first tab)", { exact: false }).waitFor();
  if ((await second.getByLabel("Description", { exact: true }).inputValue()) !== "of the second tab") throw new Error("an entry was lost");
  await second.getByRole("link", { name: "Discard your entries" }).click();
  await second.getByRole("alert").waitFor({ state: "detached" });
  if ((await second.getByLabel("Description", { exact: true }).inputValue()) !== "of the first tab") throw new Error("an entry was kept");

  await second.getByRole("button", { name: "Sign out" }).click();
  await shows(second, "You are signed out");
  await first.goto(secret);
  await shows(first, "Sign in first");
  watch.check();
});
