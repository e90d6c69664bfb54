'use strict';
// Without the two characters that XML takes for markup, so that a page is read by strict readers, too.
// Flame graphs: one frame in the full width, by click or Enter; the arrow keys go from frame to frame.
const zoomable = (graph) => {
  const frames = [...graph.children].map((element) => ({
    element,
    x: parseFloat(element.getAttribute('x')),
    width: parseFloat(element.getAttribute('width')),
    level: Number(element.getAttribute('aria-level')),
  }));
  const said = graph.parentElement.querySelector('.focused');
  const hint = said.textContent;
  const slack = 0.002;
  const within = (outer, inner) =>
    inner.x >= outer.x - slack ? outer.x + outer.width + slack >= inner.x + inner.width : false;

  const zoom = (to) => {
    for (const frame of frames) {
      const shown = frame.level > to.level ? within(to, frame) : within(frame, to);
      frame.element.classList.toggle('away', !shown);
      frame.element.classList.toggle('behind', to.level > frame.level);
      const x = to.level >= frame.level ? 0 : ((frame.x - to.x) * 100) / to.width;
      const width = to.level >= frame.level ? 100 : (frame.width * 100) / to.width;
      frame.element.setAttribute('x', x + '%');
      frame.element.setAttribute('width', width + '%');
    }
    said.textContent = to === frames[0] ? hint : to.element.getAttribute('aria-label');
  };
  const shown = (frame) => !frame.element.classList.contains('away');
  const focus = (frame) => {
    if (!frame) return;
    for (const other of frames) other.element.setAttribute('tabindex', '-1');
    frame.element.setAttribute('tabindex', '0');
    frame.element.focus();
    said.textContent = frame.element.getAttribute('aria-label');
  };
  const near = (frame, key) => {
    if (key === 'ArrowDown') return frames.find((f) => (f.level === frame.level + 1 ? within(frame, f) : false));
    if (key === 'ArrowUp') return frames.find((f) => (f.level === frame.level - 1 ? within(f, frame) : false));
    const row = frames.filter((f) => (f.level === frame.level ? shown(f) : false)).sort((a, b) => a.x - b.x);
    return row[row.indexOf(frame) + (key === 'ArrowRight' ? 1 : -1)];
  };
  const of = (event) => frames.find((frame) => frame.element.contains(event.target));

  graph.addEventListener('click', (event) => {
    const frame = of(event);
    if (frame) zoom(frame);
  });
  graph.addEventListener('keydown', (event) => {
    const frame = of(event);
    if (!frame) return;
    if (event.key === 'Enter' || event.key === ' ') zoom(frame);
    else if (event.key === 'Escape') zoom(frames[0]);
    else if (event.key.startsWith('Arrow')) focus(near(frame, event.key));
    else return;
    event.preventDefault();
  });
};

addEventListener('DOMContentLoaded', () => document.querySelectorAll('svg.flame').forEach(zoomable));

// What is folded is printed, too.
let folded = [];
addEventListener('beforeprint', () => {
  folded = [...document.querySelectorAll('details:not([open], .numbers)')];
  for (const details of folded) details.open = true;
});
addEventListener('afterprint', () => {
  for (const details of folded) details.open = false;
});
