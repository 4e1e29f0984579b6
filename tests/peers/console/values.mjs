// A planted value is in one request, and after that nowhere: in no page, answer, address, storage, history or field.
import assert from "node:assert/strict";
import { origin, scenario, shows, signIn } from "./browser.mjs";

const PARTS = ["planted", "9f27c1"];
const VALUE = PARTS.join("-");

const has = (text) => PARTS.some((part) => text.includes(part) || text.includes(Buffer.from(part).toString("base64").slice(0, 8)));

async function put(page, path, button, name) {
  await page.goto(origin + path);
  if (name) await page.getByLabel("Name", { exact: true }).fill(name);
  await page.getByLabel("Value", { exact: true }).fill(VALUE);
  await page.getByRole("button", { name: button, exact: true }).click();
}

// Everything of a page that a later program or person could read.
const remains = (page) =>
  page.evaluate(async () => {
    const fields = [...document.querySelectorAll("input, textarea")].map((field) => field.value);
    const stores = await indexedDB.databases();
    const caches = await window.caches?.keys();
    const { href } = location;
    const parts = [document.documentElement.outerHTML, { ...localStorage }, { ...sessionStorage }, document.cookie];
    return JSON.stringify([...parts, fields, stores, caches, history.state, href, document.title]);
  });

async function history(context, page) {
  const session = await context.newCDPSession(page);
  const { entries } = await session.send("Page.getNavigationHistory");
  return JSON.stringify(entries);
}

await scenario(async (browser) => {
  const { context, page, watch } = await signIn(browser);
  const check = async (where) => {
    assert.ok(!has(await remains(page)), `the page holds the value: ${where}`);
    assert.ok(!has(await history(context, page)), `the history holds the value: ${where}`);
  };
  await put(page, "/w/shop/secrets/new", "Add secret", "PLANTED_ONE");
  await page.waitForURL("**/PLANTED_ONE");
  await check("after a put");
  await page.goBack();
  await check("back at the form");
  await page.reload();
  await check("at the form, loaded again");
  await put(page, "/w/shop/secrets/PLANTED_ONE/replace", "Replace value");
  await shows(page, "version 2");
  await check("after a replacement");
  // A form with a mistake comes back without the value, and a reload may send it again, so the page must not keep it.
  await put(page, "/w/shop/secrets/new", "Add secret", "A=B");
  await page.locator("#name[aria-invalid=true]").waitFor();
  await check("after a mistake");
  await page.getByRole("link", { name: "Cancel" }).click();
  await page.goBack();
  await check("back at the form with a mistake");
  for (const path of ["/", "/w/shop/secrets", "/w/shop/secrets/PLANTED_ONE", "/w/shop/map", "/w/shop/settings", "/status"]) {
    await page.goto(origin + path);
    await check(path);
  }

  // A long text is hidden without discs, also when it is selected, until the person shows it.
  await page.goto(`${origin}/w/shop/secrets/new`);
  const field = page.getByLabel("Value", { exact: true });
  const look = (pseudo) =>
    field.evaluate((field, pseudo) => {
      const { webkitTextSecurity, webkitTextFillColor } = getComputedStyle(field, pseudo);
      return [webkitTextSecurity, webkitTextFillColor];
    }, pseudo);
  await field.fill("short");
  assert.equal((await look())[0], "disc");
  await field.fill("x".repeat(20_000));
  assert.deepEqual(await look(), ["none", "rgba(0, 0, 0, 0)"]);
  assert.equal((await look("::selection"))[1], "rgba(0, 0, 0, 0)");
  await shows(page, "20,000 characters, hidden.");
  await page.getByLabel("Show what I type").check();
  assert.notEqual((await look())[1], "rgba(0, 0, 0, 0)");
  await field.fill("");

  const carried = watch.requests.filter((request) => has(request.postData() ?? ""));
  assert.ok(carried.every((request) => request.method() === "POST"));
  assert.ok(carried.length >= 3, "the value was put");
  assert.deepEqual(watch.requests.filter((request) => has(request.url())), [], "an address holds the value");
  const answers = await watch.answers();
  const read = answers.filter(({ isRead }) => isRead).length;
  assert.ok(read > 20, `${read} answers were read`);
  // Chromium forgets the bodies of some files, and of pages that are left at once. Those that follow a value are kept.
  const unread = answers.filter(({ request, isRead }) => !isRead && has(request.postData() ?? ""));
  assert.deepEqual(unread.map(({ url }) => url), [], "an answer to a value was not read");
  assert.deepEqual(answers.filter(({ text }) => has(text)).map(({ url }) => url), [], "an answer holds the value");
  watch.check();
});
