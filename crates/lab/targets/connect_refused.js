// A client that tries again ten times a second. Nobody listens.
const net = require("node:net");

let refused = 0;

function tryToConnect() {
  const connection = net.connect(Number(process.argv[2]), "127.0.0.1");
  connection.on("error", (error) => {
    if (error.code === "ECONNREFUSED" && ++refused === 3) console.log("ready");
    setTimeout(tryToConnect, 100);
  });
}

tryToConnect();
