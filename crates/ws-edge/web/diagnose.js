// What a browser can tell about the way to this server, one check after the other, and a report for a ticket.
import { Captions, Notifications, Session, VERSION, claims, closeReason } from '/parley.js';
import { $, copy, devTokens, explain, h, isDev, t, tokens } from '/pages/page.js';

const LIMIT_MS = 20000;
const results = new Map();

const within = (promise, ms = LIMIT_MS) => Promise.race([promise,
  new Promise((_, reject) => { setTimeout(() => reject(Object.assign(new Error(`no answer within ${ms / 1000} s`), { code: 'late' })), ms); })]);

/** Each returns what it found, `[state, text, text of the report?]`, or throws what is wrong. Ids are the same in every language. */
const CHECKS = {
  secure: () => (isSecureContext ? ['good', t('secure_good')] : ['bad', t('secure_bad')]),
  browser: () => {
    const missing = Object.entries({ WebSocket: globalThis.WebSocket, AudioWorklet: globalThis.AudioWorklet, BroadcastChannel: globalThis.BroadcastChannel,
      locks: navigator.locks, mediaDevices: navigator.mediaDevices }).filter(([, has]) => !has).map(([name]) => name);
    return missing.length ? ['warn', t('browser_warn', missing.join(', '))] : ['good', t('browser_good')];
  },
  server: async () => {
    const began = performance.now();
    const answer = await within(fetch('/health', { cache: 'no-store' }));
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    // A page's own GET says nothing of where it comes from; this does.
    const allowed = (await within(fetch('/health', { method: 'OPTIONS' }))).headers.get('access-control-allow-origin');
    results.set('cors', allowed ? ['good', t('cors_good', allowed)] : ['warn', t('cors_warn', location.origin)]);
    return ['good', t('server_good', Math.round(performance.now() - began))];
  },
  cors: () => results.get('cors') ?? ['warn', t('not_known')],
  token: () => {
    if (!tokens.session) return ['warn', t('token_none')];
    const { sessionSlug, identity, sub, scope, exp } = claims(tokens.session);
    if (!sessionSlug) return ['bad', t('token_strange')];
    const left = Math.round(exp - Date.now() / 1000);
    const says = (slug, who) => t(left > 0 ? 'token_good' : 'token_over', slug, who, scope ?? 'all', Math.abs(Math.round(left / 60)));
    return [left > 0 ? 'good' : 'bad', says(sessionSlug, identity ?? sub), says('…', '…')];
  },
  upgrade: async () => {
    if (!tokens.session) return ['warn', t('token_none')];
    const began = performance.now();
    const session = new Session({ token: tokens.session });
    try {
      const greeting = new Promise((resolve) => { session.on('connected', resolve); });
      await within(session.open());
      const { ts } = await greeting;
      const open = Math.round(performance.now() - began);
      const trips = [];
      for (let i = 0; i < 7; i++) {
        const asked = performance.now();
        await within(new Promise((resolve) => {
          const off = session.on('message', ({ type }) => type === 'pong' && (off(), resolve()));
          session.say({ type: 'ping' });
        }));
        trips.push(performance.now() - asked);
      }
      trips.sort((a, b) => a - b);
      results.set('latency', [trips[3] < 200 ? 'good' : 'warn', t('latency_good', trips[3].toFixed(1), trips[6].toFixed(1))]);
      const skew = Math.abs(Date.now() - (performance.now() - began) + open - ts);
      results.set('clock', skew < 5000 ? ['good', t('clock_good')] : ['warn', t('clock_warn', Math.round(skew / 1000))]);
      return ['good', t('upgrade_good', open)];
    } catch (error) {
      throw error.closeCode ? new Error(`${error.closeCode}: ${t(`close_${closeReason(error.closeCode)}`)} (${error.message})`) : error;
    } finally {
      session.close();
    }
  },
  latency: () => results.get('latency') ?? ['warn', t('not_known')],
  clock: () => results.get('clock') ?? ['warn', t('not_known')],
  notifications: async () => {
    if (!tokens.user) return ['warn', t('user_token_none')];
    const line = new Notifications({ token: tokens.user, share: false });
    try {
      const open = new Promise((resolve, reject) => {
        line.on('state', (state) => state === 'open' && resolve());
        line.on('error', reject);
      });
      await line.start();
      await within(open);
      const title = `diagnose ${crypto.randomUUID?.() ?? Math.random()}`;
      // It may come before the first list is made, and is then in that list and no event of its own.
      const came = new Promise((resolve) => {
        line.on('list', (rows) => {
          const row = rows.find((each) => each.title === title);
          if (row) resolve(row);
        });
      });
      const body = JSON.stringify({ userId: line.user, type: 'SYSTEM_ANNOUNCEMENT', title, message: t('hello_message') });
      const sent = performance.now();
      await line.request('/api/user/notifications', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body });
      const { id } = await within(came);
      const took = Math.round(performance.now() - sent);
      await line.request('/api/user/notifications', { method: 'DELETE', query: { id } });
      return ['good', t('notifications_good', took)];
    } finally {
      line.close();
    }
  },
  microphone: async () => {
    const permission = await navigator.permissions?.query({ name: 'microphone' }).catch(() => undefined);
    if (permission?.state === 'denied') return ['bad', t('error_denied')];
    if (permission?.state === 'granted') return hear();
    return ['warn', t('microphone_press')];
  },
};

/** Opens the microphone for a moment and says how loud it was; nothing is sent anywhere. */
async function hear() {
  const captions = new Captions({ token: () => new Promise(() => { /* It stays unconnected. */ }) });
  let loudest = 0;
  try {
    await new Promise((resolve, reject) => {
      let over;
      captions.on('level', ({ peak }) => {
        loudest = Math.max(loudest, peak);
        // From when the person has allowed it.
        over ??= setTimeout(resolve, 2500);
      });
      captions.start().catch(reject);
    });
  } finally {
    captions.close();
  }
  return loudest > 0.012 ? ['good', t('microphone_good', Math.round(20 * Math.log10(loudest)))] : ['warn', t('hear_nothing')];
}

const MARKS = { good: '✓', bad: '✕', warn: '!', none: '·' };
function show(id, state, text) {
  const row = document.querySelector(`[data-check=${id}]`);
  row.dataset.state = state;
  row.querySelector('.mark').textContent = MARKS[state] ?? '·';
  row.querySelector('.word').textContent = t(`word_${state}`);
  row.querySelector('p').textContent = text;
}

const report = new Map();
async function check(id, act = CHECKS[id]) {
  show(id, 'none', t('checking'));
  let [state, text, reported] = [];
  try {
    [state, text, reported] = await act();
  } catch (error) {
    [state, text] = ['bad', explain(error)];
  }
  show(id, state, text);
  report.set(id, `${state.padEnd(5)} ${id.padEnd(14)} ${reported ?? text}`);
  // Tokens are not in it, and neither is who they are of.
  $('#report').value = [`Parley diagnosis ${new Date().toISOString()}`, `page ${location.origin}${location.pathname}`, `parley.js ${VERSION}`,
    `browser ${navigator.userAgent}`, `online ${navigator.onLine}`, '', ...report.values()].join('\n');
  return state;
}

async function run() {
  $('#run').disabled = true;
  const states = [];
  for (const id of Object.keys(CHECKS)) states.push(await check(id));
  const bad = states.filter((state) => state === 'bad').length;
  $('#hint').textContent = bad ? t('checks_bad', bad) : t('checks_good');
  $('#hint').dataset.kind = bad ? 'bad' : '';
  $('#run').disabled = false;
  document.documentElement.dataset.done = '';
}

$('#checks').append(...Object.keys(CHECKS).map((id) => h('li', { 'data-check': id, 'data-state': 'none' },
  h('span', { className: 'mark', 'aria-hidden': 'true' }, '·'),
  h('h3', {}, t(`check_${id}`), h('span', { className: 'unseen' }, ': '), h('span', { className: 'word unseen' })), h('p', {}))));
$('#tokens').addEventListener('submit', (event) => {
  event.preventDefault();
  tokens.keep({ session: $('#token').value.trim() || tokens.session, user: $('#user-token').value.trim() || tokens.user });
  run();
});
$('#hear').addEventListener('click', () => check('microphone', hear));
$('#copy').addEventListener('click', ({ target }) => copy($('#report').value, target));

if (!tokens.session && await isDev()) {
  const { token, userToken } = await devTokens('diagnose').catch(() => ({}));
  tokens.session = token;
  tokens.user ??= userToken ?? undefined;
}
document.documentElement.dataset.ready = '';
run();
