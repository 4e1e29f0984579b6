// The pages of the console for an installation with the workspace `shop`, which has secrets and servers. The tests of accessibility
// and layout look at each of them: a new page needs one line.
export const PAGES = [
  "/",
  "/workspaces/new",
  "/w/shop/secrets",
  "/w/shop/secrets?q=nothing+has+this+name",
  "/w/shop/secrets/new",
  "/w/shop/secrets/GITHUB_TOKEN",
  "/w/shop/secrets/GITHUB_TOKEN/replace",
  "/w/shop/secrets/GITHUB_TOKEN/delete",
  "/w/shop/settings",
  "/w/empty/secrets",
  "/status",
  "/nowhere",
];

// Pages that a viewer may open. They offer no changes to a viewer.
export const VIEWER_PAGES = ["/", "/w/shop/secrets", "/w/shop/secrets/GITHUB_TOKEN", "/status"];
