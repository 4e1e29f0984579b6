// An MCP server with the official SDK that answers 401 to requests without its key. Usage: node mcp_key_server.mjs
// The environment variable KEY is the key, and PLACE is `header` (x-api-key) or `query` (apiKey). Prints its port.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// The packages are where PEERS_NODE_MODULES says, not beside this file.
const require = createRequire(`${process.env.PEERS_NODE_MODULES}/`);
const load = (path) => import(pathToFileURL(require.resolve(`@modelcontextprotocol/sdk/server/${path}`)));
const { McpServer } = await load("mcp.js");
const { StreamableHTTPServerTransport } = await load("streamableHttp.js");
const { KEY, PLACE } = process.env;

const given = (request) =>
  PLACE === "header"
    ? request.headers["x-api-key"]
    : new URL(request.url, "http://localhost").searchParams.getAll("apiKey").join(" and ");

const http = createServer(async (request, response) => {
  if (given(request) !== KEY) {
    response.writeHead(401, { "content-type": "application/json" }).end('{"error":"invalid_key"}');
    return;
  }
  const server = new McpServer({ name: "peer", version: "1.0.0" });
  server.registerTool("greet", {}, () => ({ content: [{ type: "text", text: "hello" }] }));
  const transport = new StreamableHTTPServerTransport({ sessionIdGenerator: undefined });
  response.on("close", () => void transport.close());
  await server.connect(transport);
  await transport.handleRequest(request, response);
});
http.listen(0, "127.0.0.1", () => console.log(http.address().port));
