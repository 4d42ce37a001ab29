// Counts its requests in memory.
const http = require("node:http");

let requests = 0;

const server = http.createServer((request, response) => {
  requests += 1;
  response.setHeader("content-type", "text/plain");
  response.end(`request ${requests}\n`);
});

server.listen(process.env.PORT);

process.on("SIGTERM", () => server.close());
