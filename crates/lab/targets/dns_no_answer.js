// A program that looks up a name. The only name server never answers.
const dns = require("node:dns").promises;

async function main() {
  for (;;) await dns.lookup("db.lab.test").catch(() => {});
}

main();
