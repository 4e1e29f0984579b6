// A person adds a server with the mouse, tries a call to it, and sees that the upstream received the secret, which the call did not
// contain. The upstream is the demo's: it answers with what it received, and with fingerprints instead of values.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { config, scenario, shows, showsNot, signIn } from "./browser.mjs";

const VALUE = "value-of-the-ledger";

const field = (page, label) => page.getByLabel(label, { exact: true });
const click = (page, role, name) => page.getByRole(role, { name, exact: true }).click();

async function makeWorkspaceWithSecret(page) {
  await click(page, "link", "New workspace");
  await field(page, "Name").fill("shop");
  await click(page, "button", "Create workspace");
  await click(page, "link", "Add secret");
  await field(page, "Name").fill("LEDGER_TOKEN");
  await field(page, "Value").fill(VALUE);
  await field(page, "Send only to").fill(config.upstream);
  await click(page, "button", "Add secret");
  await shows(page, "was created");
}

async function addServer(page) {
  await page.getByRole("link", { name: "shop", exact: true }).click();
  await page.getByRole("navigation", { name: "Workspace" }).getByRole("link", { name: "Servers" }).click();
  await shows(page, "Add the first server");
  await page.locator("main").getByRole("link", { name: "Add server" }).first().click();
  await page.getByRole("link", { name: /^By its URL/ }).click();
  await field(page, "Name").first().fill("ledger");
  await field(page, "URL").fill(config.upstream);
  await page.getByRole("radio", { name: /^Bearer token/ }).check();
  await field(page, "Name of the secret that holds the token").fill("LEDGER_TOKEN");
  // The picture beside the form shows the request before it is sent.
  await page.getByRole("complementary").getByText("LEDGER_TOKEN").first().waitFor();
  await click(page, "button", "Add server");
  await page.waitForURL("**/servers/ledger");
  await shows(page, "was added");
}

async function call(page) {
  await click(page, "link", "Try a call");
  await field(page, "Method and path").fill("/accounts");
  await field(page, "Headers").fill("authorization: Bearer forged");
  await click(page, "button", "Send");
  await shows(page, "What the server received");
  const received = page.locator("section.columns pre.request").first();
  const shown = await received.innerText();
  assert.match(shown, /^GET \/accounts\n/);
  assert.match(shown, /authorization: .*sha256:[0-9a-f]+.* from LEDGER_TOKEN/);
  const fingerprint = /sha256:([0-9a-f]+)/.exec(shown)[1];
  const of = (text) => createHash("sha256").update(text).digest("hex").startsWith(fingerprint);
  assert.ok(of(`Bearer ${VALUE}`) || of(VALUE), `the fingerprint is not that of the secret: ${shown}`);
  await shows(page, "Your call did not contain it.");
  await showsNot(page, VALUE);
}

async function removeServer(page) {
  await click(page, "link", "Back to the server");
  await click(page, "link", "Delete");
  await click(page, "button", "Delete server");
  await shows(page, "was deleted");
  await shows(page, "Add the first server");
}

await scenario(async (browser) => {
  const { page, watch } = await signIn(browser);
  for (const step of [makeWorkspaceWithSecret, addServer, call, removeServer]) {
    await step(page).catch((error) => {
      throw new Error(`${step.name} on ${page.url()}`, { cause: error });
    });
  }
  watch.check();
});
