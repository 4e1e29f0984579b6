// A person without a mouse does everything that the console offers.
import assert from "node:assert/strict";
import { scenario, shows, signIn } from "./browser.mjs";
import { activate, enter, tabTo } from "./keys.mjs";

const loaded = (page, path) => page.waitForURL(`**${path}`);

async function makeWorkspace(page) {
  await activate(page, "New workspace");
  await loaded(page, "/workspaces/new");
  // The field for the name has the focus.
  await page.keyboard.type("shop");
  await tabTo(page, "The vault's default\nthe operator's setting --default-plan");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowDown");
  await activate(page, "Create workspace");
  await loaded(page, "/w/shop/secrets");
}

async function addSecret(page) {
  await activate(page, "Add secret");
  await loaded(page, "/w/shop/secrets/new");
  await page.keyboard.type("github-token");
  await enter(page, "Value", "value-by-keyboard-1");
  await activate(page, "Show what I type", "Space");
  await enter(page, "Send only to", "https://api.github.com");
  await tabTo(page, "Expires");
  await page.keyboard.press("ArrowDown");
  await enter(page, "Labels", "team=payments");
  await activate(page, "Add secret", "Enter", "button");
  await loaded(page, "/w/shop/secrets/GITHUB_TOKEN");
  await shows(page, /in [67] days/);
}

async function replaceAndRestore(page) {
  await activate(page, "Replace value");
  await loaded(page, "/replace");
  await page.keyboard.type("value-by-keyboard-2");
  await activate(page, "Replace value", "Enter", "button");
  await shows(page, "has a new value: version 2");
  await activate(page, "Restore version 1");
  await loaded(page, "/restore?version=1&present=2");
  await activate(page, "Restore", "Enter", "button");
  await shows(page, "as version 3");
}

async function seeAMistake(page) {
  await page.goto(new URL("/w/shop/secrets/new", page.url()).href);
  await page.keyboard.type("A=B");
  await enter(page, "Value", "value-by-keyboard-3");
  await activate(page, "Add secret", "Enter", "button");
  await page.locator("#name[aria-invalid=true]").waitFor();
  // The name has the focus, and its description has the mistake.
  const { id, text } = await page.evaluate(() => {
    const described = document.activeElement.getAttribute("aria-describedby").split(" ");
    const text = described.map((name) => document.getElementById(name).textContent).join(" ");
    return { id: document.activeElement.id, text };
  });
  assert.equal(id, "name");
  assert.match(text, /must not contain/);
}

async function filter(page) {
  await activate(page, "shop");
  // The refused form before had the same path.
  await page.getByRole("link", { name: "GITHUB_TOKEN", exact: true }).waitFor();
  // The key is the script's.
  await page.waitForLoadState("load");
  await page.keyboard.press("/");
  await page.keyboard.type("nothing");
  await shows(page, "No secret matches");
  await activate(page, "Show all");
  await page.getByRole("link", { name: "GITHUB_TOKEN", exact: true }).waitFor();
}

async function deleteSecret(page) {
  await activate(page, "GITHUB_TOKEN");
  await loaded(page, "/GITHUB_TOKEN");
  await activate(page, "Delete");
  await loaded(page, "/delete");
  await activate(page, "Delete secret");
  await shows(page, "was deleted");
}

async function changeSettingsAndDelete(page) {
  await activate(page, "Settings");
  await loaded(page, "/settings");
  await tabTo(page, "Versions kept of each secret");
  await page.keyboard.press("ArrowUp");
  await activate(page, "Save");
  await shows(page, "keeps 4 versions of each secret now");
  await enter(page, "Name of the workspace", "shop");
  await activate(page, "Delete workspace", "Enter", "button");
  await shows(page, "was deleted, with its secrets and its keys");
}

// The first stop of a page leads past the bar at its top.
async function skipToContent(page) {
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.localName), "main");
}

async function signOut(page) {
  await page.goto(new URL("/", page.url()).href);
  await activate(page, "Status");
  await loaded(page, "/status");
  await activate(page, "Sign out");
  await shows(page, "You are signed out");
}

await scenario(async (browser) => {
  const { page, watch } = await signIn(browser);
  for (const step of [
    skipToContent,
    makeWorkspace,
    addSecret,
    replaceAndRestore,
    seeAMistake,
    filter,
    deleteSecret,
    changeSettingsAndDelete,
    signOut,
  ]) {
    await step(page).catch((error) => {
      throw new Error(`${step.name} on ${page.url()}`, { cause: error });
    });
  }
  watch.check();
});
