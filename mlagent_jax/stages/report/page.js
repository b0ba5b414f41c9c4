'use strict';
// What agents wrote is shown with textContent only; nothing here parses HTML.
const SVG = 'http://www.w3.org/2000/svg';
const ROW = 52;
const KIND_COLOURS = {
  edited: '--good', looked: '--idle', executed: '--idle', copied: '--idle',
  undone: '--idle', final_answer: '--idle', time_limit: '--limit',
  memory_limit: '--limit', script_failed: '--fail', missing_submission: '--fail',
  stale_submission: '--fail', refused_submission: '--fail', unparsed: '--bad',
  unknown_action: '--bad', bad_arguments: '--bad', edit_failed: '--bad',
};
const $ = (id) => document.getElementById(id);
const colour = (name) => `var(${name})`;
const kindColour = (kind) => colour(KIND_COLOURS[kind] || '--idle');
const words = (text) => text.replaceAll('_', ' ');

function el(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(options)) {
    if (key === 'text') node.textContent = value;
    else if (key === 'class') node.className = value;
    else if (key === 'colour') node.style.background = value;
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

function svg(parent, tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === 'fill' || key === 'stroke') node.style[key] = value;
    else node.setAttribute(key, value);
  }
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

function number(value) {
  if (value === null || value === undefined) return '–';
  const size = Math.abs(value);
  if (size >= 1000) return value.toLocaleString('en', {maximumFractionDigits: 0});
  return size >= 10 ? value.toFixed(1) : String(+value.toFixed(4));
}

async function unpack(id) {
  const bytes = Uint8Array.from(atob($(id).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream();
  return new Response(stream.pipeThrough(new DecompressionStream('gzip'))).json();
}

// Charts.

function legend(parent, entries) {
  const box = el('div', {class: 'legend'});
  for (const [name, fill] of entries) {
    box.append(el('span', {}, el('i', {colour: fill}), name));
  }
  parent.append(box);
}

function chart(parent, title, hint) {
  const card = el('div', {class: 'card'}, el('h3', {text: title}),
    el('p', {class: 'hint', text: hint}));
  parent.append(card);
  return card;
}

function frame(card, x, y, log) {
  const [width, height, left, bottom, top] = [420, 210, 42, 24, 8];
  const root = svg(card, 'svg', {viewBox: `0 0 ${width} ${height}`, role: 'img'});
  const fy = log ? Math.log10 : (value) => value;
  const px = (value) => left + ((value - x[0]) / (x[1] - x[0] || 1)) * (width - left - 10);
  const py = (value) => height - bottom -
    ((fy(value) - fy(y[0])) / (fy(y[1]) - fy(y[0]) || 1)) * (height - bottom - top);
  for (let i = 0; i <= 4; i++) {
    const share = fy(y[0]) + ((fy(y[1]) - fy(y[0])) * i) / 4;
    const value = log ? 10 ** share : share;
    svg(root, 'line', {x1: left, x2: width - 10, y1: py(value), y2: py(value), class: 'axis'});
    svg(root, 'text', {x: left - 7, y: py(value) + 4, 'text-anchor': 'end'},
      Math.abs(value) >= 10 ? value.toFixed(0) : String(+value.toPrecision(2)));
  }
  for (const value of [x[0], Math.round((x[0] + x[1]) / 2), x[1]]) {
    svg(root, 'text', {x: px(value), y: height - 6, 'text-anchor': 'middle'}, String(value));
  }
  return {root, px, py};
}

function lines(parent, title, hint, series, options = {}) {
  const shown = series.filter(([, points]) => points && points.length);
  if (!shown.length) return;
  const card = chart(parent, title, hint);
  const all = shown.flatMap(([, points]) => points);
  const xs = all.map((p) => p[0]);
  const ys = all.map((p) => p[1]).filter((v) => !options.log || v > 0);
  const y = options.y || [Math.min(options.log ? Infinity : 0, ...ys), Math.max(...ys)];
  const {root, px, py} = frame(card, [Math.min(...xs), Math.max(...xs)], y, options.log);
  for (const [, points, name] of shown) {
    const path = points.filter((p) => !options.log || p[1] > 0)
      .map(([a, b], i) => `${i ? 'L' : 'M'}${px(a).toFixed(1)} ${py(b).toFixed(1)}`).join('');
    svg(root, 'path', {d: path, fill: 'none', stroke: colour(name), 'stroke-width': 1.8,
      'stroke-linejoin': 'round'});
  }
  legend(card, shown.map(([label, , name]) => [label, colour(name)]));
}

function shares(parent, rl, groups) {
  const names = ['--good', '--idle', '--limit', '--fail', '--bad'];
  const steps = (rl['share/edited'] || []).map((p) => p[0]);
  if (!steps.length) return;
  const card = chart(parent, 'What became of the actions', 'Shares of the actions of an RL step');
  const {root, px, py} = frame(card, [steps[0], steps.at(-1)], [0, 1]);
  let below = steps.map(() => 0);
  groups.forEach(([, kinds], index) => {
    const above = steps.map((_, i) => below[i] +
      kinds.reduce((sum, kind) => sum + (rl[`share/${kind}`]?.[i]?.[1] || 0), 0));
    const go = steps.map((s, i) => `${i ? 'L' : 'M'}${px(s)} ${py(above[i])}`).join('');
    const back = steps.map((s, i) => `L${px(s)} ${py(below[i])}`).reverse().join('');
    svg(root, 'path', {d: `${go}${back}Z`, fill: colour(names[index])});
    below = above;
  });
  legend(card, groups.map(([label], i) => [label, colour(names[i])]));
}

function forest(parent, rows) {
  const values = rows.flatMap((row) => [row[3], row[4], 0]);
  const low = Math.max(-3, Math.min(...values));
  const high = Math.max(...values, 0.1);
  const splits = [...new Set(rows.map((row) => row[1]))];
  const height = rows.length * 24 + splits.length * 28 + 24;
  const root = svg(parent, 'svg', {viewBox: `0 0 760 ${height}`, role: 'img'});
  const px = (v) => 190 + ((Math.max(low, v) - low) / (high - low)) * 480;
  svg(root, 'line', {x1: px(0), x2: px(0), y1: 0, y2: height - 20, class: 'zero'});
  let y = 4;
  for (const split of splits) {
    y += 18;
    svg(root, 'text', {x: 0, y}, {all: 'All tasks', held_in: 'Held-in', held_out: 'Held-out'}[split]);
    for (const [agent, , mean, from, to] of rows.filter((row) => row[1] === split)) {
      y += 24;
      svg(root, 'text', {x: 14, y: y + 4, class: 'name'}, agent);
      svg(root, 'line', {x1: px(from), x2: px(to), y1: y, y2: y, stroke: colour('--c1'),
        'stroke-width': 2, 'stroke-linecap': 'round'});
      svg(root, 'circle', {cx: px(mean), cy: y, r: 4.5, fill: colour('--c1')});
      svg(root, 'text', {x: 756, y: y + 4, 'text-anchor': 'end', class: 'name'},
        (mean >= 0 ? '+' : '') + mean.toFixed(3));
    }
    y += 10;
  }
  for (const v of [low, 0, high]) {
    svg(root, 'text', {x: px(v), y: height - 4, 'text-anchor': 'middle'}, v.toFixed(2));
  }
}

function rewards(parent, all) {
  // An evaluation has every agent on the same tasks; the rest is in the list.
  const evaluated = all.filter((row) => row.source === 'evaluation');
  const rows = evaluated.length ? evaluated : all;
  const names = ['--c1', '--c2', '--c3', '--c4', '--c5', '--c6'];
  const groups = [...new Set(rows.map((r) => `${r.agent}, ${r.source}`))];
  const tasks = [...new Set(rows.map((r) => r.task))];
  const height = tasks.length * 26 + 24;
  const root = svg(parent, 'svg', {viewBox: `0 0 760 ${height}`, role: 'img'});
  const px = (v) => 160 + v * 580;
  for (const v of [0, 0.25, 0.5, 0.75, 1]) {
    svg(root, 'line', {x1: px(v), x2: px(v), y1: 0, y2: height - 20, class: v === 0.5 ? 'zero' : 'axis'});
    svg(root, 'text', {x: px(v), y: height - 4, 'text-anchor': 'middle'}, String(v));
  }
  tasks.forEach((task, i) => {
    svg(root, 'text', {x: 0, y: i * 26 + 18, class: 'name'}, task);
    for (const r of rows.filter((row) => row.task === task)) {
      const dot = svg(root, 'circle', {cx: px(r.reward), cy: i * 26 + 14, r: 5,
        'fill-opacity': 0.85,
        fill: colour(names[groups.indexOf(`${r.agent}, ${r.source}`) % names.length])});
      svg(dot, 'title', {}, `${r.agent}, ${r.source}: ${r.reward.toFixed(3)}, ${r.steps} steps, ${r.edits} distinct edits`);
    }
  });
  legend(parent, groups.map((g, i) => [g, colour(names[i % names.length])]));
}

function timeline(parent, spans, seconds) {
  if (spans.length) {
    const card = chart(parent, 'Timeline', 'Who was busy when, in the last RL steps');
    const tracks = [...new Set(spans.map((s) => s[0]))];
    const start = Math.min(...spans.map((s) => s[2]));
    const end = Math.max(...spans.map((s) => s[2] + s[3]));
    const root = svg(card, 'svg', {viewBox: `0 0 420 ${tracks.length * 22 + 20}`, role: 'img'});
    const px = (t) => 80 + ((t - start) / (end - start || 1)) * 335;
    const fills = {sample: '--c1', update: '--c2', checkpoint: '--c4', wait: '--line'};
    tracks.forEach((track, i) => svg(root, 'text', {x: 0, y: i * 22 + 14}, track.slice(0, 12)));
    for (const [track, name, from, long] of spans) {
      const box = svg(root, 'rect', {x: px(from), y: tracks.indexOf(track) * 22 + 2, height: 16,
        width: Math.max(0.6, px(from + long) - px(from)), fill: colour(fills[name] || '--c3')});
      svg(box, 'title', {}, `${name}: ${long.toFixed(2)} s`);
    }
    svg(root, 'text', {x: 415, y: tracks.length * 22 + 14, 'text-anchor': 'end'}, `${(end - start).toFixed(0)} s`);
  }
  const stages = Object.entries(seconds);
  if (stages.length) {
    const card = chart(parent, 'Where the time went', 'Seconds of each stage');
    const most = Math.max(...stages.map((s) => s[1]));
    const root = svg(card, 'svg', {viewBox: `0 0 420 ${stages.length * 34 + 4}`, role: 'img'});
    stages.forEach(([name, value], i) => {
      svg(root, 'text', {x: 0, y: i * 34 + 20, class: 'name'}, name);
      svg(root, 'rect', {x: 76, y: i * 34 + 6, height: 20, rx: 4, width: (value / most) * 280, fill: colour('--c1')});
      svg(root, 'text', {x: 84 + (value / most) * 280, y: i * 34 + 20}, value.toFixed(0));
    });
  }
}

function drawCharts(data) {
  const grid = $('charts');
  if (grid) {
    const sft = data.metrics.sft || {};
    const rl = data.metrics.rl || {};
    lines(grid, 'Fine-tuning loss', 'Nats a token, logarithmic', [['loss', sft.loss, '--c1']], {log: true});
    lines(grid, 'Mean reward', 'Of an RL step, and of its edits that ran',
      [['all actions', rl.reward, '--c1'], ['edits that ran', rl.edit_reward, '--c2']], {y: [0, 1]});
    shares(grid, rl, data.shares);
    lines(grid, 'Distance and diversity', 'Nats',
      [['KL to SFT', rl.kl, '--c4'], ['entropy', rl.entropy, '--c3']]);
    lines(grid, 'Scripts', 'Run, and results reused, in an RL step',
      [['run', rl.executions, '--c1'], ['reused', rl.reused, '--c6']]);
    timeline(grid, data.timeline, data.seconds);
  }
  if ($('forest')) forest($('forest'), data.evaluation);
  if ($('rewards')) rewards($('rewards'), data.rewards);
}

// Code.

const TOKENS = /(#.*)|("""|'''|"(?:\\.|[^"\\])*"?|'(?:\\.|[^'\\])*'?)|\b(False|None|True|and|as|assert|async|await|break|class|continue|def|del|elif|else|except|finally|for|from|global|if|import|in|is|lambda|nonlocal|not|or|pass|raise|return|try|while|with|yield)\b|\b(\d[\w.]*)/g;

function code(line) {
  const parts = [];
  let end = 0;
  if (line.length > 2000) return [line];
  for (const match of line.matchAll(TOKENS)) {
    if (match.index > end) parts.push(line.slice(end, match.index));
    const kind = ['com', 'str', 'kw', 'num'][match.slice(1).findIndex((g) => g !== undefined)];
    parts.push(el('span', {class: kind, text: match[0]}));
    end = match.index + match[0].length;
  }
  parts.push(line.slice(end));
  return parts;
}

function codeLine(sign, no, text) {
  return el('span', {class: `ln${sign === '+' ? ' add' : sign === '-' ? ' del' : ''}`},
    el('span', {class: 'no', text: String(no)}), el('span', {class: 'sg', text: sign}), ...code(text));
}

// Longest common subsequence between what the two texts do not share at
// either end; beyond 400 changed lines the middle is replaced as a whole.
function diff(a, b) {
  let start = 0;
  let end = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  while (end < a.length - start && end < b.length - start && a.at(-1 - end) === b.at(-1 - end)) end++;
  const x = a.slice(start, a.length - end);
  const y = b.slice(start, b.length - end);
  const out = [];
  for (let i = 0; i < start; i++) out.push([' ', i + 1, a[i]]);
  if (x.length > 400 || y.length > 400) {
    x.forEach((line, i) => out.push(['-', start + i + 1, line]));
    y.forEach((line, i) => out.push(['+', start + i + 1, line]));
  } else {
    const table = Array.from({length: x.length + 1}, () => new Uint16Array(y.length + 1));
    for (let i = x.length - 1; i >= 0; i--) {
      for (let j = y.length - 1; j >= 0; j--) {
        table[i][j] = x[i] === y[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
      }
    }
    let [i, j] = [0, 0];
    while (i < x.length || j < y.length) {
      if (i < x.length && j < y.length && x[i] === y[j]) { out.push([' ', start + j + 1, y[j]]); i++; j++; }
      else if (i < x.length && (j === y.length || table[i + 1][j] >= table[i][j + 1])) { out.push(['-', start + i + 1, x[i]]); i++; }
      else { out.push(['+', start + j + 1, y[j]]); j++; }
    }
  }
  for (let i = end; i > 0; i--) out.push([' ', b.length - i + 1, b.at(-i)]);
  return out;
}

function showDiff(before, after) {
  const pre = el('pre');
  const rows = diff(before.split('\n'), after.split('\n'));
  const near = rows.map((_, i) => rows.slice(Math.max(0, i - 3), i + 4).some((r) => r[0] !== ' '));
  let skipped = 0;
  rows.forEach((row, i) => {
    if (!near[i]) { skipped++; return; }
    if (skipped) pre.append(el('span', {class: 'skip', text: `⋯ ${skipped} lines`}));
    skipped = 0;
    pre.append(codeLine(...row));
  });
  if (skipped) pre.append(el('span', {class: 'skip', text: `⋯ ${skipped} lines`}));
  return pre;
}

function showScript(text) {
  return el('pre', {}, ...text.replace(/\n$/, '').split('\n').map((line, i) => codeLine(' ', i + 1, line)));
}

// Viewer.

const view = {data: null, shown: [], at: 0};
const text = (index) => view.data.texts[index];
const T = {id: 0, source: 1, agent: 2, task: 3, ended: 4, ideas: 5, seconds: 6};
const S = {of: 0, place: 1, thought: 2, action: 3, input: 4, kind: 5, seen: 6, before: 7, after: 8,
  from: 9, score: 10, test: 11, reward: 12, seconds: 13, cached: 14};

function fill(id, all, values) {
  $(id).append(el('option', {value: '', text: all}));
  for (const value of [...new Set(values)].sort()) {
    $(id).append(el('option', {value, text: words(value)}));
  }
}

function filter() {
  const {steps, trajectories} = view.data;
  const [source, task, agent, kind] = ['source', 'task', 'agent', 'kind'].map((n) => $(`f-${n}`).value);
  const query = $('f-text').value.toLowerCase();
  const kept = view.shown[view.at];
  view.shown = [];
  steps.forEach((step, i) => {
    const t = trajectories[step[S.of]];
    if ((source && text(t[T.source]) !== source) || (task && text(t[T.task]) !== task) ||
        (agent && text(t[T.agent]) !== agent) || (kind && text(step[S.kind]) !== kind)) return;
    if (query && !(text(step[S.thought]) + '\n' + text(step[S.input])).toLowerCase().includes(query)) return;
    view.shown.push(i);
  });
  view.at = Math.max(0, view.shown.indexOf(kept));
  $('count').textContent = `${view.shown.length.toLocaleString('en')} of ${steps.length.toLocaleString('en')} steps`;
  $('spacer').style.height = `${view.shown.length * ROW}px`;
  select(view.at);
}

function rowOf(position) {
  const step = view.data.steps[view.shown[position]];
  const t = view.data.trajectories[step[S.of]];
  const row = el('div', {class: 'row', role: 'option', 'aria-selected': String(position === view.at)},
    el('span', {class: 'dot', colour: kindColour(text(step[S.kind]))}),
    el('span', {class: 'what', text: text(step[S.thought]).split('\n')[0] || text(step[S.action]) || '(empty reply)'}),
    el('span', {class: 'gain', text: step[S.reward] === null ? '' : step[S.reward].toFixed(2)}),
    el('span', {class: 'who', text: `${text(t[T.task])} · ${text(t[T.agent])} · step ${step[S.place] + 1} · ${words(text(step[S.kind]))}`}));
  row.addEventListener('click', () => select(position));
  return row;
}

function drawRows() {
  const list = $('list');
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
  const last = Math.min(view.shown.length, first + Math.ceil(list.clientHeight / ROW) + 12);
  const rows = $('rows');
  rows.style.transform = `translateY(${first * ROW}px)`;
  rows.replaceChildren(...Array.from({length: last - first}, (_, i) => rowOf(first + i)));
}

function select(position) {
  view.at = Math.min(Math.max(0, position), Math.max(0, view.shown.length - 1));
  const list = $('list');
  const top = view.at * ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
  drawRows();
  drawStep();
}

function fact(name, value) {
  return el('div', {}, el('b', {text: value}), name);
}

function drawStep() {
  const detail = $('detail');
  if (!view.shown.length) {
    detail.replaceChildren(el('p', {class: 'empty', text: 'No step matches these filters. Esc clears them.'}));
    return;
  }
  const index = view.shown[view.at];
  const step = view.data.steps[index];
  const t = view.data.trajectories[step[S.of]];
  const kind = text(step[S.kind]);
  const change = step[S.score] !== null && step[S.from] !== null;
  const out = [
    el('div', {class: 'crumb'},
      el('span', {class: 'chip'}, el('span', {class: 'dot', colour: kindColour(kind)}), words(kind)),
      el('span', {text: text(t[T.task])}), el('span', {text: text(t[T.agent])}),
      el('span', {text: text(t[T.source])}), el('span', {text: text(t[T.id])}),
      el('span', {text: `step ${step[S.place] + 1}`})),
    el('div', {class: 'facts'},
      fact('action', text(step[S.action]) || 'none'),
      fact(change ? `validation, before ${number(step[S.from])}` : 'validation', number(step[S.score])),
      fact('test', number(step[S.test])),
      fact('reward', step[S.reward] === null ? '–' : step[S.reward].toFixed(3)),
      fact(step[S.cached] ? 'seconds, reused' : 'seconds', step[S.seconds].toFixed(1))),
  ];
  if (text(t[T.ideas]) && step[S.place] === 0) {
    out.push(el('h4', {text: 'Ideas it was given'}), el('p', {class: 'thought', text: text(t[T.ideas])}));
  }
  out.push(el('h4', {text: 'Thought'}), el('p', {class: 'thought', text: text(step[S.thought]) || '–'}));
  if (step[S.before] !== step[S.after]) {
    out.push(el('h4', {text: 'Change of the script'}), showDiff(text(step[S.before]), text(step[S.after])));
  } else if (text(step[S.input])) {
    out.push(el('h4', {text: 'Input'}), el('pre', {class: 'plain', text: text(step[S.input])}));
  }
  out.push(el('h4', {text: 'What it saw'}), el('pre', {class: 'plain', text: text(step[S.seen])}));
  if (step[S.after]) {
    const whole = el('details', {}, el('summary', {text: 'The whole script after this step'}));
    whole.addEventListener('toggle', () => {
      if (whole.open && whole.childElementCount === 1) whole.append(showScript(text(step[S.after])));
    });
    out.push(el('h4', {text: 'Script'}), whole);
  }
  detail.replaceChildren(...out);
  detail.scrollTop = 0;
}

function jump(direction) {
  if (!view.shown.length) return;
  const of = (position) => view.data.steps[view.shown[position]][S.of];
  let position = view.at;
  while (position >= 0 && position < view.shown.length && of(position) === of(view.at)) position += direction;
  if (position < 0 || position >= view.shown.length) return;
  // Backwards, too, a trajectory is entered at its first step.
  while (position > 0 && of(position - 1) === of(position)) position--;
  select(position);
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches('input, select');
  if (event.key === 'Escape') {
    for (const name of ['source', 'task', 'agent', 'kind', 'text']) $(`f-${name}`).value = '';
    if (typing) event.target.blur();
    filter();
  } else if (typing) {
    return;
  } else if (event.key === 'j' || (event.key === 'ArrowDown' && event.target.id === 'list')) select(view.at + 1);
  else if (event.key === 'k' || (event.key === 'ArrowUp' && event.target.id === 'list')) select(view.at - 1);
  else if (event.key === 'l') jump(1);
  else if (event.key === 'h') jump(-1);
  else if (event.key === '/') $('f-text').focus();
  else return;
  event.preventDefault();
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
}

async function main() {
  const dark = matchMedia('(prefers-color-scheme: dark)');
  setTheme(dark.matches ? 'dark' : 'light');
  dark.addEventListener('change', () => setTheme(dark.matches ? 'dark' : 'light'));
  $('theme').addEventListener('click', () => {
    setTheme(document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark');
  });
  drawCharts(await unpack('data-charts'));
  if ($('list')) {
    view.data = await unpack('data-steps');
    const {steps, trajectories} = view.data;
    fill('f-source', 'All sources', trajectories.map((t) => text(t[T.source])));
    fill('f-task', 'All tasks', trajectories.map((t) => text(t[T.task])));
    fill('f-agent', 'All agents', trajectories.map((t) => text(t[T.agent])));
    fill('f-kind', 'All outcomes', steps.map((s) => text(s[S.kind])));
    for (const name of ['source', 'task', 'agent', 'kind']) $(`f-${name}`).addEventListener('change', filter);
    $('f-text').addEventListener('input', filter);
    $('list').addEventListener('scroll', drawRows, {passive: true});
    addEventListener('resize', drawRows);
    addEventListener('keydown', onKey);
    filter();
  }
  document.documentElement.dataset.ready = 'yes';
}

main();
