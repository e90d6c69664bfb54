// Forty callers look up names. Node does that on the threads of libuv, of which there are four; no more than half of them
// take work that is known to be slow, as this is. Each lookup takes half a second.
const dns = require("node:dns").promises;

let done = 0;

async function call(number) {
  for (;;) {
    await dns.lookup(`shard-${number}.lab.test`);
    if (++done === 8) console.log("ready");
  }
}

for (let number = 0; number < 40; number++) call(number);
