// A secret that a server names and the vault does not have.
const MISSING = "/w/shop/secrets/MISSING_A_SECRET_WITH_A_VERY_LONG_NAME_THAT_STILL_HAS_TO_FIT_ON_A_NARROW_SCREEN";

// The pages of the console for an installation with the workspace `shop`, which has secrets and servers. The tests of accessibility
// and layout look at each of them: a new page needs one line.
export const PAGES = [
  "/",
  "/workspaces/new",
  "/w/shop/secrets",
  "/w/shop/secrets?q=nothing+has+this+name",
  "/w/shop/secrets/new",
  "/w/shop/secrets/import",
  "/w/shop/secrets/GITHUB_TOKEN",
  "/w/shop/secrets/GITHUB_TOKEN/replace",
  "/w/shop/secrets/GITHUB_TOKEN/delete",
  "/w/shop/servers",
  "/w/shop/servers?q=nothing+has+this+name",
  "/w/shop/servers/github",
  "/w/shop/servers/github/edit",
  "/w/shop/servers/github/delete",
  "/w/shop/servers/github/call",
  "/w/shop/servers/long",
  "/w/shop/servers/long/call",
  MISSING,
  "/w/shop/add-server",
  "/w/shop/add-server/form",
  "/w/shop/map",
  "/w/shop/activity",
  "/w/shop/settings",
  "/w/empty/secrets",
  "/w/empty/servers",
  "/w/empty/map",
  "/keys",
  "/keys/root-key/rotate",
  "/keys/workspaces/shop/rotate",
  "/backup",
  "/status",
  "/nowhere",
];

// The status of the pages that are not answered with 200.
const STATUS = { "/nowhere": 404, [MISSING]: 404 };

export const statusOf = (path) => STATUS[path] ?? 200;

// Pages that a viewer may open. They offer no changes to a viewer.
export const VIEWER_PAGES = [
  "/",
  "/w/shop/secrets",
  "/w/shop/secrets/GITHUB_TOKEN",
  "/w/shop/servers",
  "/w/shop/servers/github",
  "/w/shop/servers/github/call",
  "/w/shop/map",
  "/w/shop/activity",
  "/status",
];

// Forms that a viewer finds only by their address. They are refused in words.
export const REFUSED_TO_VIEWERS = [
  "/w/shop/settings",
  "/w/shop/secrets/new",
  "/w/shop/secrets/import",
  "/w/shop/secrets/GITHUB_TOKEN/replace",
  "/w/shop/secrets/GITHUB_TOKEN/delete",
  "/w/shop/add-server",
  "/w/shop/add-server/form",
  "/w/shop/servers/github/edit",
  "/w/shop/servers/github/delete",
];
