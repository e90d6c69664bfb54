// What the page computes before anything is drawn: pure, so that it can be tried without a browser.

/// A duration as everywhere in Overdue: 85us, 1.5ms, 250ms, 1.5s, 2m05s. Three digits that count at most.
export const duration = (us) => {
  if (us < 1000) return `${Math.round(us)}us`;
  if (us < 999_500) return `${digits(us / 1000)}ms`;
  if (us < 59_950_000) return `${digits(us / 1_000_000)}s`;
  const [seconds, two] = [Math.round(us / 1_000_000), (number) => String(number).padStart(2, '0')];
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m${two(seconds % 60)}s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 1440) return `${Math.floor(minutes / 60)}h${two(minutes % 60)}m`;
  const hours = Math.round(minutes / 60);
  return `${Math.floor(hours / 24)}d${two(hours % 24)}h`;
};

const digits = (number) => String(Number(number.toPrecision(3)));

/// A number of things, with its thousands apart.
export const count = (number) => String(Math.round(number)).replace(/\B(?=(\d{3})+$)/g, ',');

/// One that may be below 1.
export const rate = (number) => (number > 0 && number < 10 ? digits(Number(number.toPrecision(2))) : count(number));

export const bytes = (number) => {
  if (number < 1024) return `${number} B`;
  const power = Math.min(4, Math.floor(Math.log2(number) / 10));
  return `${digits(number / 1024 ** power)} ${['B', 'KiB', 'MiB', 'GiB', 'TiB'][power]}`;
};

/// A part of all, so that little is not taken for nothing.
export const share = (part, all) => {
  if (!all || !part) return '0%';
  const percent = (100 * part) / all;
  if (percent < 0.01) return 'under 0.01%';
  return percent > 99.9 && percent < 100 ? 'over 99.9%' : `${digits(percent)}%`;
};

export const sum = (numbers) => numbers.reduce((all, number) => all + number, 0);

/// The mean of the last so many.
export const lately = (numbers, last) => sum(numbers.slice(-last)) / Math.max(1, Math.min(last, numbers.length));

/// What is drawn of numbers over time, as the path of an area 100 high. What is there can be seen, however little.
export const area = (numbers) => {
  const most = Math.max(...numbers, 1);
  let path = '';
  numbers.forEach((number, at) => {
    if (number > 0) {
      const height = Math.max(6, (100 * number) / most);
      path += `M${at} 100V${Number((100 - height).toFixed(1))}h1V100z`;
    }
  });
  return path;
};

/// The text of a bucket: what was longer than the bound before, and not longer than its own.
export const bucket = (bounds, at) => {
  if (at === 0) return `up to ${duration(bounds[0])}`;
  if (at >= bounds.length) return `over ${duration(bounds[bounds.length - 1])}`;
  return `${duration(bounds[at - 1])} to ${duration(bounds[at])}`;
};

/// Shades of the heat map.
export const SHADES = 5;

/// The smallest count of each shade, for a heat map whose fullest cell has so many: each a like factor above the last.
export const shades = (most) => {
  const least = [1];
  for (let shade = 1; shade < SHADES; shade += 1) {
    const next = Math.round(most ** (shade / SHADES));
    if (next > least[least.length - 1] && next <= most) least.push(next);
  }
  return least;
};

export const shade = (least, number) => least.filter((bound) => number >= bound).length;

/// The rows that a heat map has: all that are used, one more on either side, and no fewer than eight.
export const rows = (columns, buckets) => {
  let [low, high] = [buckets, -1];
  for (const column of columns) {
    for (const [at] of column) {
      low = Math.min(low, at);
      high = Math.max(high, at);
    }
  }
  if (high < 0) return null;
  [low, high] = [Math.max(0, low - 1), Math.min(buckets - 1, high + 1)];
  while (high - low < 7) {
    if (low > 0) low -= 1;
    if (high - low < 7 && high < buckets - 1) high += 1;
  }
  return { low, high };
};

/// Bounds that are written beside the heat map.
export const labelled = (us) => us === 60_000_000 || /^[13]0*$/.test(String(us));

/// A stage beside its limit, in parts of the whole: where its bar is, and where its limit would be, if that is within.
export const bar = (span, elapsed) => {
  const whole = Math.max(1, elapsed);
  const clip = (part) => Math.min(1, Math.max(0, part));
  const start = clip(span.start_us / whole);
  const end = clip((span.start_us + span.duration_us) / whole);
  const limit = span.limit ? (span.start_us + span.limit.value_us) / whole : null;
  return { start, width: end - start, limit: limit !== null && limit <= 1 ? limit : null };
};

/// What is shown, as it stands in the address of the page.
export const state = (fragment) => {
  const given = new URLSearchParams(fragment.replace(/^#/, ''));
  return { route: given.get('route') ?? '', stage: given.get('stage') ?? 'total', paused: given.has('paused') };
};

export const fragment = ({ route, stage, paused }) => {
  const given = new URLSearchParams();
  if (route) given.set('route', route);
  if (stage !== 'total') given.set('stage', stage);
  const text = given.toString() + (paused ? `${given.size ? '&' : ''}paused` : '');
  return text ? `#${text}` : '';
};

/// How long to wait for the next look, in ms: in vain so many times, hidden or not, after one that took so long.
export const pause = (failures, hidden, took) => {
  if (hidden) return 15_000;
  if (failures > 0) return Math.min(5000, 500 * 2 ** failures);
  return Math.max(200, 1000 - took);
};

/// Whether another process answers than before.
export const isAnother = (before, now) =>
  before !== null && (before.pid !== now.pid || before.uptime_us > now.uptime_us);
