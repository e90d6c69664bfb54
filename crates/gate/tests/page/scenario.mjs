// The live page in a browser. It is told where the page is, and says when the gateway is to end and to begin anew.
import assert from 'node:assert/strict';
import { createInterface } from 'node:readline';

import { browse } from './chromium.mjs';

const [program, folder, url] = process.argv.slice(2);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
/// Has the test do something, and waits until it is done.
const have = async (what) => {
  console.log(what);
  assert.equal((await lines.next()).value, `${what} done`);
};

const texts = (page, selector) => page.value(`[...document.querySelectorAll('${selector}')].map((one) => one.textContent)`);
/// By Tab, as somebody without a mouse.
const tabTo = async (page, selector) => {
  for (let steps = 0; steps < 80; steps += 1) {
    if (await page.value(`document.activeElement?.matches('${selector}')`)) return;
    await page.press('Tab');
  }
  assert.fail(`Tab does not lead to ${selector}`);
};
/// Contrast of texts with what they stand on, as of WCAG.
const contrasts = `(() => {
  const part = (value) => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = (color) => { const [r, g, b] = color.match(/[\\d.]+/g).map(Number); return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b); };
  const ground = (node) => { const color = getComputedStyle(node).backgroundColor; return color === 'rgba(0, 0, 0, 0)' ? ground(node.parentElement) : color; };
  return [...document.querySelectorAll('h1, h2, small, p, dt, b, td, th, .name, .value, .what, time, button, select')]
    .filter((node) => node.getClientRects().length && node.textContent.trim())
    .map((node) => { const [one, other] = [light(getComputedStyle(node).color), light(ground(node))].sort((a, b) => b - a); return [(one + 0.05) / (other + 0.05), node.textContent]; })
    .filter(([contrast]) => contrast < 4.5);
})()`;

await browse(program, folder, async (browser) => {
  const page = await browser.page();
  await page.go(url);
  await page.until("document.querySelectorAll('#failed details').length >= 3");
  assert.equal(await page.value("document.querySelector('#lost').hidden"), true);

  // Texts from elsewhere are texts.
  assert.equal(await page.value("document.querySelectorAll('img, iframe, body script, svg script').length"), 0);
  const asked = (await texts(page, '.asked')).join('\n');
  assert(asked.includes('/<img/src=x/onerror=alert(1)>'), asked);
  assert(!(await page.value('document.documentElement.outerHTML')).includes('secret'));
  assert((await texts(page, '#causes .name')).includes('server-slow'));
  assert((await texts(page, '#flight td')).some((text) => text.includes('/waits') && text.includes('HTTP/1.1')), 'in flight');

  // By keyboard: a story unfolds, with its stages and what was found, and stays so while numbers come.
  await page.value("document.querySelector('#failed').closest('section').querySelector('h2').scrollIntoView()");
  await page.value("[...document.querySelectorAll('#failed summary')].find((one) => one.textContent.includes('server-slow')).setAttribute('id', 'slow')");
  await tabTo(page, '#slow');
  await page.press('Enter');
  await page.until("document.querySelectorAll('#slow ~ .waterfall li').length >= 4");
  const story = await page.value("document.querySelector('#slow').parentElement.innerText");
  for (const part of ['wait', 'passed', 'evidence', 'fix', 'gate.toml:']) assert(story.includes(part), `${part}: ${story}`);
  const up = await page.value("document.querySelector('#about').textContent");
  await page.until(`document.querySelector('#about').textContent !== ${JSON.stringify(up)}`);
  assert(await page.value("document.querySelector('#slow').parentElement.open && document.activeElement.id === 'slow'"));

  // The heat map tells its cells.
  await page.value("document.querySelector('#pause').focus()");
  await tabTo(page, '#heat');
  await page.press('ArrowLeft');
  assert.match(await page.value("document.querySelector('#heat-cell').textContent"), /about .*: \d+ requests?$/);
  const here = await page.value("document.querySelector('#heat-cell').textContent");
  await page.press('ArrowUp');
  assert.notEqual(await page.value("document.querySelector('#heat-cell').textContent"), here);

  // One route, which the address of the page tells; and a pause.
  await page.value("(() => { const route = document.querySelector('#route'); route.value = 'slow'; route.dispatchEvent(new Event('change', { bubbles: true })); })()");
  await page.until("[...document.querySelectorAll('#causes .name')].map((one) => one.textContent).join() === 'server-slow'");
  assert.equal(await page.value('location.hash'), '#route=slow');
  await page.value("document.querySelector('#pause').focus()");
  await page.press(' ', 'Space');
  assert.equal(await page.value("document.querySelector('#pause').getAttribute('aria-pressed') + location.hash"), 'true#route=slow&paused');
  await page.press(' ', 'Space');
  assert.equal(await page.value("document.querySelector('#pause').getAttribute('aria-pressed') + location.hash"), 'false#route=slow');
  await page.value("location.hash = ''");
  await page.until("document.querySelectorAll('#causes .name').length > 1");

  // Light, dark, narrow: all can be read, nothing is wider than the window.
  assert.deepEqual(browser.complaints(), []);
  for (const [width, scheme] of [[1200, 'light'], [1200, 'dark'], [360, 'light'], [360, 'dark']]) {
    const other = await browser.page({ width, scheme });
    await other.go(url);
    await other.until("document.querySelectorAll('#failed details').length >= 3");
    await other.value("document.querySelectorAll('details').forEach((one) => { one.open = true; })");
    await other.until("document.querySelectorAll('.waterfall').length >= 3");
    assert((await other.value('document.documentElement.scrollWidth - document.documentElement.clientWidth')) <= 0, `${width} ${scheme} is too wide`);
    assert.deepEqual(await other.value(contrasts), [], scheme);
    assert.deepEqual(browser.complaints(), []);
    await other.ask('Page.close');
  }

  // The gateway ends: that is said once, and what was seen stays.
  await have('end');
  await page.until("!document.querySelector('#lost').hidden");
  const lost = await page.value("document.querySelector('#lost').textContent");
  assert.match(lost, /^Lost contact since \d/);
  assert.equal(await page.value("document.querySelector('main').className"), 'stale');
  assert.equal((await texts(page, '#tiles b')).length, 5);
  await have('begin');
  await page.until("document.querySelector('#lost').hidden");
  const notes = await texts(page, '#notes li');
  assert(notes.some((note) => note.includes('started anew')), `${notes}`);
  // Nothing has happened there yet, and that is said.
  assert.equal(await page.value("document.querySelector('#failed-empty').hidden || document.querySelector('#heat-empty').hidden"), false);
});
// Nothing more is asked, and nobody waits for a word.
process.stdin.destroy();
