// A server of Node's ws, which does what tests/peers.py says of all servers.
"use strict";
const { WebSocketServer } = require("ws");

const tell = (...event) => process.stdout.write(JSON.stringify(event) + "\n");

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: 0,
  perMessageDeflate: true,
  handleProtocols: (offered) => (offered.has("b") ? "b" : false),
  verifyClient: (info, done) => done(info.req.url !== "/refused", 403, "Forbidden"),
});
// The answer and the first message go out together.
server.on("headers", (_headers, request) => request.socket.cork());
server.on("connection", (socket, request) => {
  tell("open", socket.extensions);
  if (request.url === "/welcome") socket.send("welcome");
  request.socket.uncork();
  socket.on("close", (code, reason) => tell("close", code, reason.toString()));
  socket.on("pong", (data) => socket.send("pong " + data));
  socket.on("message", (data, binary) => {
    const text = binary ? "" : data.toString();
    if (text === "please ping") socket.ping("there?");
    else if (text === "please close") socket.close(4002, "done");
    else socket.send(data, { binary });
  });
});
server.on("listening", () => tell("listening", server.address().port));
process.stdin.on("end", () => process.exit()).resume();
