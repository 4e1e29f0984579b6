// A user signs in with a client certificate, over TLS. Nobody gets in without one.
import assert from "node:assert/strict";
import { config, newWindow, origin, scenario, shows } from "./browser.mjs";

await scenario(async (browser) => {
  const { certPath, keyPath, user } = config;
  const identity = { ignoreHTTPSErrors: true, clientCertificates: [{ origin, certPath, keyPath }] };
  const { context, page, watch } = await newWindow(browser, identity);
  await page.goto(origin);
  await shows(page, user);
  await page.getByRole("link", { name: "New workspace" }).click();
  await page.getByLabel("Name", { exact: true }).fill("made-over-tls");
  await page.getByRole("button", { name: "Create workspace" }).click();
  await shows(page, "was created");
  const [cookie] = await context.cookies();
  const { name, secure, httpOnly, sameSite } = cookie;
  assert.ok(name.startsWith("__Host-"), name);
  assert.deepEqual({ secure, httpOnly, sameSite }, { secure: true, httpOnly: true, sameSite: "Strict" });
  watch.check();

  const stranger = await newWindow(browser, { ignoreHTTPSErrors: true });
  await assert.rejects(stranger.page.goto(origin), /net::ERR_/);
});
