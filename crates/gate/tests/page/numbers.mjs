// What the live page computes, tried without a browser.
import assert from 'node:assert/strict';

import * as numbers from '../../src/live/numbers.mjs';

const is = (value, expected) => assert.deepEqual(value, expected);

// Durations have their unit, and three digits at most.
for (const [us, expected] of [[0, '0us'], [999, '999us'], [1000, '1ms'], [1500, '1.5ms'], [12_345, '12.3ms'], [250_000, '250ms'],
  [999_499, '999ms'], [999_500, '1s'], [1_500_000, '1.5s'], [59_949_999, '59.9s'], [59_950_000, '1m00s'], [125_000_000, '2m05s'],
  [3_599_600_000, '1h00m'], [86_400_000_000, '1d00h'], [86_399_000_000, '1d00h']]) is(numbers.duration(us), expected);

is([0, 999, 1000, 1_234_567].map(numbers.count), ['0', '999', '1,000', '1,234,567']);
is([0, 0.04, 1.26, 9.99, 12.6].map(numbers.rate), ['0', '0.04', '1.3', '10', '13']);
is([0, 1023, 1024, 1_572_864].map(numbers.bytes), ['0 B', '1023 B', '1 KiB', '1.5 MiB']);
// A few of many are not none of them.
is([[0, 5], [1, 0], [1, 3], [1, 1e6], [999_999, 1e6], [5, 5]].map(([part, all]) => numbers.share(part, all)),
  ['0%', '0%', '33.3%', 'under 0.01%', 'over 99.9%', '100%']);

is(numbers.lately([9, 9, 1, 3], 2), 2);
is(numbers.lately([], 10), 0);

// What is there can be seen beside what is a thousand times more, and what is not there is not.
is(numbers.area([0, 1000, 1]), 'M1 100V0h1V100zM2 100V94h1V100z');
is(numbers.area([0, 0]), '');

const bounds = [10, 15, 20];
is([0, 1, 3].map((at) => numbers.bucket(bounds, at)), ['up to 10us', '10us to 15us', 'over 20us']);

// Shades rise with the numbers, and the fullest cell has the last of them.
for (const most of [1, 2, 3, 5, 17, 1000, 1e6]) {
  const least = numbers.shades(most);
  is(least, [...new Set(least)].sort((one, other) => one - other));
  is([least[0], numbers.shade(least, 0), numbers.shade(least, 1), numbers.shade(least, most)], [1, 0, 1, least.length]);
  assert(least.length <= numbers.SHADES && least.at(-1) <= most);
}

// At least eight rows, all that are used among them, none that is not there.
is(numbers.rows([[], []], 42), null);
for (const used of [0, 1, 20, 41]) {
  const { low, high } = numbers.rows([[[used, 1]], []], 42);
  assert(low >= 0 && high <= 41 && low <= used && used <= high && high - low >= 7, `${low} ${used} ${high}`);
}
is(numbers.rows([[[3, 1], [30, 1]]], 42), { low: 2, high: 31 });
is([10, 30, 50, 1000, 1500, 60_000_000].map(numbers.labelled), [true, true, false, true, false, true]);

// A limit that lies beyond the end is told, not drawn.
is(numbers.bar({ start_us: 25, duration_us: 50, limit: { value_us: 50 } }, 100), { start: 0.25, width: 0.5, limit: 0.75 });
is(numbers.bar({ start_us: 25, duration_us: 500, limit: { value_us: 500 } }, 100), { start: 0.25, width: 0.75, limit: null });
is(numbers.bar({ start_us: 0, duration_us: 0, limit: null }, 0), { start: 0, width: 0, limit: null });

// What is shown goes into the address and comes back, whatever a route is called.
for (const shown of [{ route: '', stage: 'total', paused: false }, { route: 'a&b=c#d é', stage: 'wait', paused: true },
  { route: '', stage: 'total', paused: true }]) is(numbers.state(numbers.fragment(shown)), shown);
is(numbers.fragment({ route: '', stage: 'total', paused: false }), '');

// Each second; more rarely in vain, and when nobody looks.
is(numbers.pause(0, false, 300), 700);
is([numbers.pause(0, false, 5000), numbers.pause(1, false, 0), numbers.pause(9, false, 0)], [200, 1000, 5000]);
is(numbers.pause(0, true, 0), 15_000);

const seen = { pid: 7, uptime_us: 100 };
is([[null, seen], [seen, { pid: 7, uptime_us: 200 }], [seen, { pid: 7, uptime_us: 5 }], [seen, { pid: 8, uptime_us: 200 }]]
  .map(([before, now]) => numbers.isAnother(before, now)), [false, false, true, true]);
