// The live page: asks for the numbers each second, and draws them. Whatever comes from elsewhere becomes text, and
// nothing else; the policy of the page forbids the rest.
import {
  area, bar, bucket, bytes, count, duration, fragment, isAnother, labelled, lately, pause, rate, rows, shade,
  shades, share, state, sum,
} from './live-numbers.mjs';

/// A look that takes longer is given up, in ms.
const PATIENCE = 5000;

const the = (id) => document.getElementById(id);
const SVG = 'http://www.w3.org/2000/svg';

const text = (words) => document.createTextNode(String(words));
const element = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
const drawn = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);
const fill = (node, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.map((child) => (child instanceof Node ? child : text(child))));
  return node;
};
/// Changed only where it differs, so that nothing is read out twice and no selection is lost.
const say = (node, words) => {
  if (node.textContent !== words) node.textContent = words;
};
const show = (node, shown) => {
  if (node.hidden === shown) node.hidden = !shown;
};

/// Children by key: those that stay are kept as they are, with their focus, and what is unfolded stays so.
const keyed = (parent, all, key, make, update = () => {}) => {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const one of all) {
    let child = known.get(key(one));
    known.delete(key(one));
    if (!child) {
      child = make(one);
      child.dataset.key = key(one);
    }
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    update(child, one);
  }
  for (const child of known.values()) child.remove();
};

const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });
const size = (heat) => heat.bounds_us.length + 1;

let shown = state(location.hash);
let last = null;
let failures = 0;
let since = Date.now();
let restarted = null;
let timer = null;
let looking = null;
let cursor = null;

// ---- what is shown

const setShown = (change) => {
  shown = { ...shown, ...change };
  history.replaceState(null, '', location.pathname + fragment(shown));
  settle();
};

const settle = () => {
  the('pause').setAttribute('aria-pressed', String(shown.paused));
  say(the('pause'), shown.paused ? 'go on' : 'pause');
  routes();
  look();
};

const routes = () => {
  const known = last?.routes ?? [];
  const all = shown.route && !known.includes(shown.route) ? [...known, shown.route] : known;
  keyed(the('route'), ['', ...all], (name) => `=${name}`, (name) => element('option', { value: name }, name || 'all'));
  the('route').value = shown.route;
};

// ---- asking

const look = async () => {
  clearTimeout(timer);
  looking?.abort();
  if (shown.paused && last) return;
  const own = new AbortController();
  looking = own;
  const began = performance.now();
  const patience = setTimeout(() => own.abort(), PATIENCE);
  const asked = new URLSearchParams({ route: shown.route, stage: shown.stage });
  try {
    const answer = await fetch(`/live?${asked}`, { cache: 'no-store', signal: own.signal });
    if (!answer.ok) throw new Error(`it answers ${answer.status}, ${(await answer.text()).trim().slice(0, 200)}`);
    const picture = await answer.json();
    if (looking !== own) return;
    failures = 0;
    since = Date.now();
    if (isAnother(last, picture)) restarted = Date.now() - picture.uptime_us / 1000;
    last = picture;
    found();
    draw(picture);
  } catch (error) {
    // Another look has taken the place of this one.
    if (looking !== own) return;
    failures += 1;
    // What a browser says of it depends on the browser.
    const why = error instanceof TypeError ? 'it cannot be reached' : error.message;
    lost(own.signal.aborted ? `no answer within ${PATIENCE / 1000}s` : why);
  } finally {
    clearTimeout(patience);
  }
  if (looking === own && !shown.paused) {
    timer = setTimeout(look, pause(failures, document.hidden, performance.now() - began));
  }
};

const lost = (why) => {
  // Said once, and not again with each attempt.
  if (failures === 1) {
    const from = last ? 'What is below is from then.' : 'Nothing is known yet.';
    say(the('lost'), `Lost contact since ${clock(since)}: ${why}. Trying again. ${from}`);
  }
  show(the('lost'), true);
  the('main').classList.add('stale');
};

const found = () => {
  show(the('lost'), false);
  say(the('lost'), '');
  the('main').classList.remove('stale');
};

// ---- drawing

const notes = (picture) => {
  const all = [];
  const { workers, workers_late: late, log_lines_dropped: dropped } = picture;
  if (late && picture.draining) all.push(`${late} of ${workers} workers have ended, or did not answer within 1s: their numbers are missing.`);
  else if (late) all.push(`${late} of ${workers} workers did not answer within 1s: their numbers are missing, and their requests are late.`);
  if (picture.draining) all.push('It is draining: no more connections are taken.');
  if (dropped) all.push(`${count(dropped)} lines of the log could not be written.`);
  if (picture.shared) all.push('This route has no numbers of its own, as there are too many routes: see all of them.');
  if (shown.route && !picture.routes.includes(shown.route)) all.push(`There is no route ${shown.route} any more.`);
  if (restarted) all.push(`It was started anew at ${clock(restarted)}: what came before is gone.`);
  keyed(the('notes'), all, (note) => note, (note) => element('li', { class: 'bar' }, note));
};

const tiles = (picture) => {
  const { classes } = picture.rates;
  const all = Object.values(classes);
  const seconds = all[0].map((_, at) => sum(all.map((one) => one[at])));
  const ended = sum(seconds);
  const total = (some) => sum(some.map((row) => sum(row.counts)));
  const failed = total(picture.causes.rows.filter((row) => row.cause));
  const refused = total(picture.causes.rows) - failed;
  const whole = picture.stages.find((stage) => stage.stage === 'total');
  const { count: flying, overdue } = picture.in_flight;
  const values = [
    ['requests', `${rate(lately(seconds, 10))}/s`, 'mean of 10s'],
    ['failed in 5 min', count(failed), `${share(failed, ended)} of ${count(ended)}${refused ? `; ${count(refused)} refused` : ''}`],
    ['in flight', count(flying), overdue ? `${count(overdue)} overdue` : 'none overdue'],
    ['half within', quantile(whole, 'p50_us'), whole.count ? `99% within ${quantile(whole, 'p99_us')}` : 'no request within a minute'],
    ['clients', count(picture.connections), 'connections'],
  ];
  keyed(the('tiles'), values, ([name]) => name, ([name]) =>
    element('div', {}, element('dt', {}, name), element('dd', {}, element('b'), element('small'))),
  (tile, [, value, note]) => {
    say(tile.querySelector('b'), value);
    say(tile.querySelector('small'), note);
  });
};

const quantile = (stage, name) => {
  if (!stage.count) return '–';
  return stage[name] === null ? 'over 1m' : duration(stage[name]);
};

/// A row of bars over time, with its numbers in words.
const barRow = (name) =>
  element('li', {}, element('span', { class: 'name' }, name),
    drawn('svg', { class: 'bars', preserveAspectRatio: 'none', 'aria-hidden': 'true' }, drawn('path')),
    element('span', { class: 'value' }));

const drawRow = (row, numbers, words) => {
  row.querySelector('svg').setAttribute('viewBox', `0 0 ${numbers.length} 100`);
  row.querySelector('path').setAttribute('d', area(numbers));
  say(row.querySelector('.value'), words);
};

const CLASSES = { none: 'no answer', '1xx': '1xx', '2xx': '2xx', '3xx': '3xx', '4xx': '4xx', '5xx': '5xx' };

const rates = ({ rates: { classes } }) => {
  const used = Object.entries(classes).filter(([name, numbers]) => name === '2xx' || sum(numbers) > 0);
  keyed(the('rates'), used, ([name]) => name, ([name]) => barRow(CLASSES[name]), (row, [, numbers]) => {
    const words = `${rate(lately(numbers, 10))}/s now, peak ${count(Math.max(...numbers))}/s, ${count(sum(numbers))} in all`;
    drawRow(row, numbers, words);
  });
};

const causes = ({ causes: { rows: all, step_s: step } }) => {
  const some = all.map((row) => ({ ...row, total: sum(row.counts) })).sort((one, other) => other.total - one.total);
  show(the('causes-ends'), some.length > 0);
  if (!some.length) {
    keyed(the('causes'), ['nothing'], (name) => `=${name}`, () => element('li', { class: 'empty' }, 'Nothing has failed within the last 5 minutes.'));
    return;
  }
  keyed(the('causes'), some, (row) => row.ending, (row) => barRow(row.ending), (row, { counts, total }) => {
    const ago = counts.length - 1 - counts.findLastIndex((number) => number > 0);
    drawRow(row, counts, `${count(total)}, the last ${ago ? `${duration(ago * step * 1_000_000)} ago` : 'just now'}`);
  });
};

const heat = (picture) => {
  const { columns, bounds_us: bounds } = picture.heat;
  const span = rows(columns, size(picture.heat));
  show(the('heat-empty'), !span);
  show(the('heat-area'), Boolean(span));
  const names = picture.stages.map((stage) => stage.stage);
  keyed(the('stage'), names, (name) => name, (name) => element('option', { value: name }, name === 'total' ? 'total (all stages)' : name));
  the('stage').value = picture.stage;
  if (!span) return;
  const height = span.high - span.low + 1;
  const least = shades(Math.max(...columns.flat().map(([, number]) => number)));
  const cells = [];
  columns.forEach((column, x) => {
    for (const [at, number] of column) {
      cells.push(drawn('rect', { x, y: span.high - at, width: 1, height: 1, class: `s${shade(least, number)}` }));
    }
  });
  if (cursor) {
    cursor.at = Math.min(span.high, Math.max(span.low, cursor.at));
    cells.push(drawn('rect', { x: cursor.x, y: span.high - cursor.at, width: 1, height: 1, class: 'cursor' }));
  }
  the('heat-cells').setAttribute('viewBox', `0 0 ${columns.length} ${height}`);
  the('heat-cells').replaceChildren(...cells);
  the('heat').style.setProperty('--rows', height);
  the('heat').setAttribute('aria-label', `Heat map of ${picture.stage}: ${bucket(bounds, span.low)} at the bottom, ${bucket(bounds, span.high)} at the top`);
  const marks = bounds.map((us, at) => ({ us, at })).filter(({ us, at }) => labelled(us) && at >= span.low && at < span.high);
  keyed(the('heat-bounds'), marks, ({ us }) => String(us), ({ us }) => element('span', {}, duration(us)), (mark, { at }) => {
    mark.style.bottom = `${(100 * (at + 1 - span.low)) / height}%`;
  });
  keyed(the('heat-legend'), least, (bound) => `${bound}-${least[least.indexOf(bound) + 1]}`, (bound) => {
    const place = least.indexOf(bound);
    const next = least[place + 1];
    const to = next === undefined ? ' and more' : next - 1 > bound ? ` to ${count(next - 1)}` : '';
    const swatch = drawn('svg', { class: 'swatch', viewBox: '0 0 1 1', 'aria-hidden': 'true' }, drawn('rect', { width: 1, height: 1, class: `s${place + 1}` }));
    return element('span', {}, swatch, `${count(bound)}${to}`);
  });
  tellCell();
};

/// The cell under the cursor, in words.
const tellCell = () => {
  if (!cursor || !last) return say(the('heat-cell'), '');
  const { columns, bounds_us: bounds, step_s: step } = last.heat;
  const number = columns[cursor.x]?.find(([at]) => at === cursor.at)?.[1] ?? 0;
  const end = since - (columns.length - 1 - cursor.x) * step * 1000;
  say(the('heat-cell'), `about ${clock(end - (end % (step * 1000)))}, ${bucket(bounds, cursor.at)}: ${count(number)} ${number === 1 ? 'request' : 'requests'}`);
};

const stages = (picture) => {
  const cells = (stage) => [count(stage.count), ...['p50_us', 'p90_us', 'p99_us', 'p100_us'].map((name) => quantile(stage, name))];
  show(the('stages-area'), picture.stages.some((stage) => stage.count > 0));
  keyed(the('stages'), picture.stages, (stage) => stage.stage, (stage) =>
    element('tr', {}, element('th', { scope: 'row' }, stage.stage), ...cells(stage).map(() => element('td', { class: 'n' }))),
  (row, stage) => cells(stage).forEach((words, at) => say(row.cells[at + 1], words)));
};

const cell = (label, kind, ...children) => element('td', { 'data-label': label, class: kind }, ...children);
const small = (...words) => element('small', {}, ...words);
const address = (one) => `${one.host}${one.path}`;
const limited = (limit) => (limit ? [`${limit.name} ${duration(limit.value_us)}`, small(limit.origin)] : ['none']);

const flight = (picture) => {
  const { count: all, overdue, requests } = picture.in_flight;
  show(the('flight-table'), all > 0);
  const more = all > requests.length ? ` Shown are the ${requests.length} that have the least time left.` : '';
  say(the('flight-say'), all ? `${count(all)} in flight, ${count(overdue)} past their deadline; those with the least time left come first.${more}` : 'No request is in flight.');
  the('flight').replaceChildren(...requests.map((one) => {
    const late = one.remaining_us !== null && one.remaining_us < 0;
    const remains = one.remaining_us === null ? 'no end' : late ? `overdue by ${duration(-one.remaining_us)}` : duration(one.remaining_us);
    return element('tr', { class: late ? 'late' : '' },
      cell('request', 'code', `${one.method} ${address(one)}`, small([one.client, one.protocol].filter(Boolean).join(', '))),
      cell('route', '', one.route, small(one.server ?? 'no server yet')),
      cell('stage', '', one.stage, small(`for ${duration(one.stage_us)}`)),
      cell('age', 'n', duration(one.age_us)),
      cell('remains', 'n', remains),
      cell('limit', '', ...limited(one.limit)));
  }));
};

const servers = (picture) => {
  the('servers').replaceChildren(...picture.servers.map((one) => {
    const shunned = one.workers_shunning;
    const state = shunned ? `left alone by ${shunned} of ${picture.workers} workers` : one.latency_us ? 'takes requests' : 'not heard of yet';
    return element('tr', { class: shunned ? 'late' : '' },
      cell('server', 'code', one.server, small(one.cluster)),
      cell('state', '', `${shunned ? '✕' : one.latency_us ? '✓' : '·'} ${state}`),
      cell('in flight', 'n', count(one.requests)),
      cell('connections', 'n', count(one.connections)),
      cell('idle of them', 'n', count(one.connections_idle)),
      cell('answers after', 'n', one.latency_us ? duration(one.latency_us) : 'unknown'));
  }));
};

const limitWords = (one, { stage, limit }) => {
  if (limit) return `limit ${limit.name === stage ? '' : `${limit.name} `}${duration(limit.value_us)}`;
  // Those of head and handshake are the listener's, and nothing without a route has others.
  return one.route && !['head', 'attempt'].includes(stage) ? 'no limit' : '';
};

/// Stages as bars on the scale of the whole, each with its limit.
const waterfall = (one) => {
  const ended = one.fault?.stage;
  const spans = [...one.timeline, { stage: 'total', start_us: 0, duration_us: one.elapsed_us, limit: one.total, whole: true }];
  const line = (span) => {
    const { start, width, limit } = bar(span, one.elapsed_us);
    const broke = !span.whole && span.stage === ended;
    const parts = [drawn('rect', { class: 'track', width: 1000, height: 10 })];
    parts.push(drawn('rect', { class: broke ? 'span broke' : 'span', x: 1000 * start, width: Math.max(3, 1000 * width), height: 10 }));
    if (limit !== null) parts.push(drawn('rect', { class: 'limit', x: Math.min(996, 1000 * limit), width: 4, height: 10 }));
    const fired = one.fault?.limit && (broke ? one.fault.limit.name !== 'total' : span.whole && one.fault.limit.name === 'total');
    const limits = limitWords(one, span);
    return element('li', { class: broke ? 'broke' : '' },
      element('span', { class: 'name' }, span.stage),
      drawn('svg', { viewBox: '0 0 1000 10', preserveAspectRatio: 'none', 'aria-hidden': 'true' }, ...parts),
      element('span', { class: 'value' }, duration(span.duration_us)),
      element('span', { class: 'of' }, limits, fired ? element('b', {}, ' passed') : broke ? element('b', {}, ' ended here') : ''));
  };
  return element('ul', { class: 'waterfall', 'aria-label': 'stages' }, ...spans.map(line));
};

const verdict = (fault) => {
  const parts = [element('h3', {}, fault.ending, fault.confidence ? small(` confidence ${fault.confidence}`) : '')];
  if (fault.summary) parts.push(element('p', {}, fault.summary));
  if (fault.limit) parts.push(element('p', {}, `The limit ${fault.limit.name}, ${duration(fault.limit.value_us)}, is set by: ${fault.limit.origin}.`));
  if (fault.evidence?.length) {
    const facts = fault.evidence.map((fact) => element('li', {}, fact.text, ' ', small(fact.source)));
    parts.push(element('h4', {}, 'evidence'), element('ul', {}, ...facts));
  }
  if (fault.fix) parts.push(element('h4', {}, 'fix'), element('p', {}, fault.fix));
  if (fault.rejected?.length) {
    const others = fault.rejected.map((other) => element('li', {}, element('b', {}, other.cause), `: ${other.why}`));
    parts.push(element('h4', {}, 'rather than'), element('ul', {}, ...others));
  }
  return element('div', { class: 'verdict' }, ...parts);
};

const story = (one) => {
  const ended = since - one.ago_us / 1000;
  const status = one.status ? String(one.status) : 'no answer';
  const what = one.fault ? `${one.fault.ending} in ${one.fault.stage}` : `${one.timeline.reduce((most, span) => (span.duration_us > most.duration_us ? span : most), { duration_us: -1, stage: '' }).stage} took longest`;
  const facts = [`client ${one.client}${one.protocol ? `, ${one.protocol}` : ''}`, one.server ? `server ${one.server}` : 'no server', one.route ? `route ${one.route}` : 'no route', `${bytes(one.bytes_in)} in, ${bytes(one.bytes_out)} out`, `haproxy ${one.termination}, envoy ${one.flags}`];
  const asked = one.method ? `${one.method} ${address(one)}` : 'its head was not read';
  const head = element('summary', {},
    element('time', {}, clock(ended)), element('b', { class: 'took' }, duration(one.elapsed_us)),
    element('span', { class: 'status' }, status), element('span', { class: 'asked' }, asked), element('span', { class: 'what' }, what));
  const details = element('details', {}, head);
  // Made when somebody wants to see it.
  details.addEventListener('toggle', () => {
    if (details.childElementCount > 1) return;
    details.append(waterfall(one), ...(one.fault ? [verdict(one.fault)] : []), element('p', { class: 'say' }, facts.join(' · ')));
  });
  return element('li', {}, details);
};

const stories = (name, picture) => {
  const all = picture[name];
  show(the(`${name}-empty`), !all.length);
  // After a restart the same number is another request.
  keyed(the(name), all, (one) => `${picture.pid} ${one.id}`, story);
};

const draw = (picture) => {
  const workers = `${picture.workers} ${picture.workers === 1 ? 'worker' : 'workers'}`;
  say(the('about'), `${picture.version}, pid ${picture.pid}, ${workers}, up for ${duration(Math.max(1, Math.floor(picture.uptime_us / 1e6)) * 1e6)}`);
  routes();
  notes(picture);
  tiles(picture);
  rates(picture);
  causes(picture);
  heat(picture);
  stages(picture);
  flight(picture);
  stories('failed', picture);
  stories('slowest', picture);
  servers(picture);
};

// ---- what is done

the('route').addEventListener('change', (event) => setShown({ route: event.target.value }));
the('stage').addEventListener('change', (event) => setShown({ stage: event.target.value }));
the('pause').addEventListener('click', () => setShown({ paused: !shown.paused }));
addEventListener('hashchange', () => {
  shown = state(location.hash);
  settle();
});
document.addEventListener('visibilitychange', () => {
  if (!document.hidden) look();
});

/// Of the last column in which there is something: where one begins to look.
const fullest = (columns) => {
  const x = columns.findLastIndex((column) => column.length > 0);
  return [x, columns[x].reduce((most, one) => (one[1] > most[1] ? one : most))[0]];
};
const moveTo = (x, at) => {
  cursor = { x, at };
  heat(last);
};
the('heat').addEventListener('keydown', (event) => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
  const span = last && rows(last.heat.columns, size(last.heat));
  if (!span) return;
  if (event.key === 'Escape') {
    cursor = null;
    heat(last);
  } else if (step) {
    const { columns } = last.heat;
    const clip = (value, least, most) => Math.min(most, Math.max(least, value));
    if (cursor) moveTo(clip(cursor.x + step[0], 0, columns.length - 1), clip(cursor.at + step[1], span.low, span.high));
    else moveTo(...fullest(columns));
    event.preventDefault();
  }
});
the('heat-cells').addEventListener('pointermove', (event) => {
  const span = last && rows(last.heat.columns, size(last.heat));
  if (!span) return;
  const box = the('heat-cells').getBoundingClientRect();
  const height = span.high - span.low + 1;
  const x = Math.floor(((event.clientX - box.left) / box.width) * last.heat.columns.length);
  const at = span.high - Math.floor(((event.clientY - box.top) / box.height) * height);
  if (x >= 0 && x < last.heat.columns.length && (cursor?.x !== x || cursor?.at !== at)) moveTo(x, at);
});
the('heat-cells').addEventListener('pointerleave', () => {
  cursor = null;
  if (last) heat(last);
});

settle();
