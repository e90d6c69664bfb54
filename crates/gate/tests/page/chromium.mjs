// A browser, driven through its pipe: what the tests of the live page need of it, and nothing more.
import { spawn } from 'node:child_process';

/// Whatever is waited for has come by then, in ms, or never comes.
const PATIENCE = 30_000;

/// What it writes goes into this folder, which is removed by whoever made it.
export const browse = async (program, folder, work, more = []) => {
  const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--remote-debugging-pipe', `--user-data-dir=${folder}`, ...more];
  const child = spawn(program, flags, { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] });
  const ended = new Promise((done) => child.once('exit', done));
  try {
    return await work(new Browser(child));
  } finally {
    child.kill('SIGKILL');
    await ended;
  }
};

class Browser {
  #pipe;
  #number = 0;
  #asked = new Map();
  #events = [];

  constructor(child) {
    this.#pipe = child.stdio[3];
    let rest = '';
    child.stdio[4].setEncoding('utf8').on('data', (piece) => {
      const messages = (rest + piece).split('\0');
      rest = messages.pop();
      messages.map((message) => JSON.parse(message)).forEach((message) => this.#take(message));
    });
  }

  #take(message) {
    const asked = this.#asked.get(message.id);
    if (!asked) return void this.#events.push(message);
    this.#asked.delete(message.id);
    if (message.error) asked.fail(new Error(message.error.message));
    else asked.done(message.result);
  }

  ask(method, params = {}, sessionId = undefined) {
    this.#number += 1;
    const id = this.#number;
    return within(`an answer to ${method}`, new Promise((done, fail) => {
      this.#asked.set(id, { done, fail });
      this.#pipe.write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    }));
  }

  /// What the browser had to say since it was last asked: errors of scripts, and what its policy forbade.
  complaints() {
    const all = this.#events.splice(0);
    const text = ({ method, params }) => {
      if (method === 'Runtime.exceptionThrown') return params.exceptionDetails.exception?.description ?? params.exceptionDetails.text;
      if (method === 'Log.entryAdded' && params.entry.level === 'error') return `${params.entry.source}: ${params.entry.text} ${params.entry.url ?? ''}`;
      return null;
    };
    return all.map(text).filter(Boolean);
  }

  async page({ width = 1200, height = 1000, scheme = 'light' } = {}) {
    const { targetId } = await this.ask('Target.createTarget', { url: 'about:blank' });
    const { sessionId } = await this.ask('Target.attachToTarget', { targetId, flatten: true });
    const page = new Page(this, sessionId);
    for (const domain of ['Page', 'Runtime', 'Log']) await page.ask(`${domain}.enable`);
    await page.ask('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: false });
    await page.ask('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: scheme }] });
    return page;
  }
}

class Page {
  #browser;
  #session;

  constructor(browser, session) {
    this.#browser = browser;
    this.#session = session;
  }

  ask(method, params) {
    return this.#browser.ask(method, params, this.#session);
  }

  go(url) {
    return this.ask('Page.navigate', { url });
  }

  async value(expression) {
    const { result, exceptionDetails: broke } = await this.ask('Runtime.evaluate', { expression, returnByValue: true, awaitPromise: true });
    if (broke) throw new Error(`${expression}: ${broke.exception?.description ?? broke.text}`);
    return result.value;
  }

  /// Until this is true in the page.
  async until(expression) {
    const until = Date.now() + PATIENCE;
    for (;;) {
      // A page that is being left answers nothing.
      const value = await this.value(expression).catch(() => false);
      if (value) return value;
      if (Date.now() > until) throw new Error(`never: ${expression}\n${await this.value('document.body.innerText')}`);
      await new Promise((done) => setTimeout(done, 50));
    }
  }

  async press(key, code = key) {
    const text = { Enter: '\r', ' ': ' ' }[key];
    const virtual = { Enter: 13, ' ': 32, Tab: 9, Escape: 27, ArrowLeft: 37, ArrowUp: 38, ArrowRight: 39, ArrowDown: 40 }[key];
    const event = { key, code, windowsVirtualKeyCode: virtual };
    await this.ask('Input.dispatchKeyEvent', { type: text ? 'keyDown' : 'rawKeyDown', text, ...event });
    await this.ask('Input.dispatchKeyEvent', { type: 'keyUp', ...event });
  }

  async picture() {
    const { cssContentSize: { width, height } } = await this.ask('Page.getLayoutMetrics');
    const clip = { x: 0, y: 0, width, height: Math.min(height, 8000), scale: 1 };
    const { data } = await this.ask('Page.captureScreenshot', { clip, captureBeyondViewport: true });
    return Buffer.from(data, 'base64');
  }
}

const within = async (what, promise) => {
  let timer;
  const late = new Promise((_, fail) => {
    timer = setTimeout(() => fail(new Error(`${what} took longer than ${PATIENCE / 1000}s`)), PATIENCE);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
};
