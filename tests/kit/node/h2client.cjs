// A client of Node's http2: opens so many streams of the token "echo", closes the session while they are open, and
// then talks on them; tells what happens. {mode: "stays"} closes no session, and asks for a page beside them;
// {mode: "declined"} asks for a token that nobody knows.
"use strict";
const http2 = require("http2");
const fs = require("fs");
const { url, mode, count, authority } = JSON.parse(process.argv[2]);

const told = {};
const session = http2.connect(url, { ca: fs.readFileSync(authority) });
session.on("error", (error) => (told.error = String(error)));
session.on("close", () => {
  told.closed = true;
  process.stdout.write(JSON.stringify(told));
});

const collect = (stream) =>
  new Promise((resolve, reject) => {
    let data = "";
    stream.setEncoding("utf8");
    stream.on("data", (piece) => (data += piece));
    stream.on("end", () => resolve(data));
    stream.on("error", reject);
  });
const opened = (token) =>
  new Promise((resolve, reject) => {
    const stream = session.request(
      { ":method": "CONNECT", ":protocol": token, ":path": "/echo", ":scheme": "https" },
      { endStream: false }
    );
    stream.on("response", (fields) => resolve([stream, fields[":status"]]));
    stream.on("error", reject);
  });

session.on("remoteSettings", async (settings) => {
  told.enabled = settings.enableConnectProtocol;
  if (mode === "declined") {
    const [stream, status] = await opened("other");
    told.status = status;
    stream.on("close", () => {
      told.code = stream.rstCode;
      session.close();
    });
    stream.resume();
    return;
  }
  const streams = await Promise.all([...Array(count).keys()].map(() => opened("echo")));
  told.statuses = [...new Set(streams.map(([, status]) => status))];
  if (mode === "closes") session.close();
  else told.page = await collect(session.request({ ":path": "/page" }).end());
  const heard = streams.map(([stream]) => collect(stream));
  streams.forEach(([stream], i) => {
    stream.write(`hello ${i} `);
    setImmediate(() => stream.end("end"));
  });
  const answers = await Promise.all(heard);
  told.right = answers.filter((answer, i) => answer === `hello ${i} end`).length;
  if (mode !== "closes") session.close();
});
