// The vault dies while a person looks at the console, and comes back: pages recover without a reload by the person.
import { handOver, origin, scenario, shows, signIn } from "./browser.mjs";

await scenario(async (browser) => {
  const { context, page } = await signIn(browser);
  const status = await context.newPage();
  await status.goto(`${origin}/status`);
  await shows(status, "Everything is in order.");

  await handOver("stop the vault");
  await page.goto(`${origin}/w/shop/secrets`);
  await shows(page, "A service cannot be reached");
  await status.bringToFront();
  await shows(status, "Something needs attention.");
  await shows(status, "unreachable");

  await handOver("start the vault");
  await shows(status, "Everything is in order.");
  await page.bringToFront();
  await page.getByRole("link", { name: "GITHUB_TOKEN", exact: true }).waitFor();
});
