// A server whose certificate no client trusts: every handshake ends with an alert.
const fs = require("node:fs");
const tls = require("node:tls");

let failed = 0;
const [certificate, key] = process.argv.slice(2, 4);
const server = tls.createServer({ cert: fs.readFileSync(certificate), key: fs.readFileSync(key) });
server.on("tlsClientError", () => {
  if (++failed === 10) console.log("ready");
});
server.listen(0, "127.0.0.1", () => console.log(`listening ${server.address().port}`));
