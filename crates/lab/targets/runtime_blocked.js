// A server whose handler calls what blocks: the event loop stands for 400 ms with each request.
const http = require("node:http");

let handled = 0;
const nobody = new Int32Array(new SharedArrayBuffer(4));

function loadProfileSync() {
  Atomics.wait(nobody, 0, 0, 400);
}

const server = http.createServer((request, response) => {
  loadProfileSync();
  response.end("hello\n");
  if (++handled === 3) console.log("ready");
});
server.listen(0, "127.0.0.1", () => console.log(`listening ${server.address().port}`));
