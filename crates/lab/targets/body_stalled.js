// A client in the middle of a body, with a limit of a minute for each gap in it.
const http = require("node:http");

function download() {
  const request = http.get({ host: "127.0.0.1", port: process.argv[2], timeout: 60_000 }, (response) => {
    response.on("data", () => {});
    response.on("end", download);
    response.on("error", download);
  });
  request.on("timeout", () => request.destroy());
}

download();
