// A person who uses the mouse does everything that the console offers.
import assert from "node:assert/strict";
import { scenario, shows, showsNot, signIn } from "./browser.mjs";

const field = (page, label) => page.getByLabel(label, { exact: true });
const click = (page, role, name) => page.getByRole(role, { name, exact: true }).click();

async function makeWorkspace(page) {
  await click(page, "link", "New workspace");
  await field(page, "Name").fill("shop");
  await page.getByRole("radio", { name: "starter" }).check();
  await click(page, "button", "Create workspace");
  await shows(page, "was created");
  await shows(page, "Add the first secret");
}

async function addSecret(page) {
  await click(page, "link", "Add secret");
  await field(page, "Name").pressSequentially("github-token");
  await shows(page, "Creates");
  await field(page, "Value").fill("value-of-the-first-version");
  await field(page, "Send only to").fill("https://api.github.com");
  await field(page, "Expires").selectOption({ label: "in 30 days" });
  await field(page, "Labels").fill("team=payments");
  await click(page, "button", "Add secret");
  await page.waitForURL("**/secrets/GITHUB_TOKEN");
  await shows(page, "was created");
  await shows(page, new Date(Date.now() + 30 * 86_400_000).toISOString().slice(0, 10));
  await shows(page, "team=payments");
}

// Only what is being typed can be shown, and the mask works without JavaScript.
async function maskValue(page) {
  await click(page, "link", "Replace value");
  const masked = () => field(page, "Value").evaluate((area) => getComputedStyle(area).webkitTextSecurity);
  assert.equal(await masked(), "disc");
  await page.getByText("Show what I type").click();
  assert.equal(await masked(), "none");
}

async function replaceAndRestore(page) {
  await maskValue(page);
  await field(page, "Value").fill("value-of-the-second-version");
  await click(page, "button", "Replace value");
  await shows(page, "has a new value: version 2");
  await click(page, "link", "Restore version 1");
  await click(page, "button", "Restore");
  await shows(page, "as version 3");
}

// A form with a mistake is shown again with all fields but the value.
async function makeMistakes(page) {
  await page.getByRole("link", { name: "shop", exact: true }).click();
  await click(page, "link", "Add secret");
  await field(page, "Name").fill("GitHub.Token");
  await shows(page, "exists already, with version 3");
  await field(page, "Value").fill("value-of-a-mistake");
  await field(page, "Labels").fill("team=web");
  await click(page, "button", "Add secret");
  await page.locator("#name-help").getByText("GITHUB_TOKEN exists already.").waitFor();
  assert.equal(await field(page, "Name").inputValue(), "GitHub.Token");
  assert.equal(await field(page, "Labels").inputValue(), "team=web");
  assert.equal(await field(page, "Value").inputValue(), "");
  await field(page, "Name").fill("SLACK_TOKEN");
  await field(page, "Value").fill("value-of-slack");
  await click(page, "button", "Add secret");
  await page.waitForURL("**/secrets/SLACK_TOKEN");
}

async function filter(page) {
  await page.getByRole("link", { name: "shop", exact: true }).click();
  await page.getByRole("searchbox").pressSequentially("payments");
  await showsLink(page, "SLACK_TOKEN", false);
  await showsLink(page, "GITHUB_TOKEN", true);
  await page.waitForURL("**/secrets?q=payments");
  await page.getByRole("searchbox").fill("no such name");
  await shows(page, "No secret matches");
  await click(page, "link", "Show all");
  await showsLink(page, "SLACK_TOKEN", true);
}

const showsLink = (page, name, expected) =>
  page.getByRole("link", { name, exact: true }).waitFor({ state: expected ? "visible" : "detached" });

async function deleteSecret(page) {
  await page.getByRole("link", { name: "SLACK_TOKEN", exact: true }).click();
  await click(page, "link", "Delete");
  await shows(page, "No server gets it.");
  await click(page, "button", "Delete secret");
  await shows(page, "was deleted");
  await showsLink(page, "SLACK_TOKEN", false);
}

async function changeSettings(page) {
  await click(page, "link", "Settings");
  await page.getByRole("radio", { name: /^pro/ }).check();
  await field(page, "Versions kept of each secret").fill("5");
  await click(page, "button", "Save");
  await shows(page, "has the plan pro and keeps 5 versions of each secret now");
}

async function deleteWorkspace(page) {
  await field(page, "Name of the workspace").fill("sho");
  await click(page, "button", "Delete workspace");
  await page.locator("#confirm-help").getByText("Type the name of the workspace").waitFor();
  await field(page, "Name of the workspace").fill("shop");
  await click(page, "button", "Delete workspace");
  await shows(page, "was deleted, with its secrets and its keys");
  await shows(page, "Make the first workspace");
}

async function seeStatusAndSignOut(page) {
  await click(page, "link", "Status");
  await shows(page, "Everything is in order.");
  await click(page, "button", "Sign out");
  await shows(page, "You are signed out");
  await page.goBack();
  await showsNot(page, "Everything is in order.");
}

await scenario(async (browser) => {
  const { page, watch } = await signIn(browser);
  await shows(page, "Make the first workspace");
  for (const step of [
    makeWorkspace,
    addSecret,
    replaceAndRestore,
    makeMistakes,
    filter,
    deleteSecret,
    changeSettings,
    deleteWorkspace,
    seeStatusAndSignOut,
  ]) {
    await step(page).catch((error) => {
      throw new Error(`${step.name} on ${page.url()}`, { cause: error });
    });
  }
  watch.check();
});
