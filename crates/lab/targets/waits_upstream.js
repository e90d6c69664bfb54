// Four workers call one upstream, which takes three seconds for an answer.
const http = require("node:http");

const agent = new http.Agent({ keepAlive: true });
let answered = 0;

function work() {
  const request = http.get({ host: "127.0.0.1", port: process.argv[2], agent, timeout: 30_000 }, (response) => {
    response.on("data", () => {});
    response.on("end", () => {
      if (++answered === 1) console.log("ready");
      work();
    });
  });
  request.on("timeout", () => request.destroy());
}

for (let worker = 0; worker < 4; worker++) work();
