// A WebSocket of a browser that has an HTTP/2 connection to its server already, and takes that.
import assert from 'node:assert/strict';

import { browse } from './chromium.mjs';

const [program, folder, port] = process.argv.slice(2);
const flags = ['--ignore-certificate-errors', '--host-resolver-rules=MAP a.test 127.0.0.1'];

await browse(program, folder, async (browser) => {
  const page = await browser.page();
  await page.go(`https://a.test:${port}/`);
  await page.until("document.title === 'here'");
  assert.equal(await page.value("performance.getEntriesByType('navigation')[0].nextHopProtocol"), 'h2');
  const talk = `new Promise((done, fail) => {
    const socket = new WebSocket('wss://a.test:${port}/chat', ['talk']);
    const heard = [];
    socket.onopen = () => socket.send('hello');
    socket.onmessage = ({ data }) => {
      heard.push(data);
      if (heard.length === 1) socket.send('x'.repeat(70_000));
      else socket.close(1000);
    };
    socket.onerror = () => fail(new Error('it failed'));
    socket.onclose = ({ code, wasClean }) => done([socket.protocol, heard[0], heard[1]?.length, code, wasClean]);
  })`;
  assert.deepEqual(await page.value(talk), ['talk', 'hello', 70_000, 1000, true]);
}, flags);
