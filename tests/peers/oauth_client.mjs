// A client of MCP that authenticates itself by OAuth, with the official SDK. Usage: node oauth_client.mjs SERVER_URL
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// The packages are where PEERS_NODE_MODULES says, not beside this file.
const require = createRequire(`${process.env.PEERS_NODE_MODULES}/`);
const load = (path) => import(pathToFileURL(require.resolve(`@modelcontextprotocol/sdk/client/${path}`)));
const { Client } = await load("index.js");
const { StreamableHTTPClientTransport } = await load("streamableHttp.js");
const { UnauthorizedError } = await load("auth.js");

// A user who says yes to everything.
class Provider {
  redirectUrl = "http://localhost:3000/callback";
  clientMetadata = {
    client_name: "peer",
    redirect_uris: [this.redirectUrl],
    grant_types: ["authorization_code", "refresh_token"],
    response_types: ["code"],
  };
  clientInformation = () => this.information;
  saveClientInformation = (information) => void (this.information = information);
  tokens = () => this.saved;
  saveTokens = (tokens) => void (this.saved = tokens);
  codeVerifier = () => this.verifier;
  saveCodeVerifier = (verifier) => void (this.verifier = verifier);

  async redirectToAuthorization(url) {
    const answer = await fetch(url, { redirect: "manual" });
    this.code = new URL(answer.headers.get("location")).searchParams.get("code");
  }
}

const server = new URL(process.argv.at(-1));
const authProvider = new Provider();
for (let attempts = 0; attempts < 5; attempts += 1) {
  const transport = new StreamableHTTPClientTransport(server, { authProvider });
  const client = new Client({ name: "peer", version: "1.0.0" });
  try {
    await client.connect(transport);
    await client.listTools();
    await client.callTool({ name: "test-tool", arguments: {} });
    await client.close();
    process.exit(0);
  } catch (error) {
    if (!(error instanceof UnauthorizedError)) throw error;
    await transport.finishAuth(authProvider.code);
  }
}
throw new Error("the server still demands a credential");
