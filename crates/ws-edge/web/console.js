// Everything that Parley does, to be tried on one page.
import { Captions, Notifications, Session, closeReason } from '/parley.js';
import { $, asked, clock, copy, devTokens, downloadTranscript, explain, guest, h, isDev, language, t, tokens } from '/pages/page.js';
import { CaptionView } from '/pages/captions.js';

const LOG_MAX = 200;
const QUIET_MS = 3000;

const view = new CaptionView($('#log'), $('#live'), { idle: () => (speaker ? t('listening') : t('press_start')) });
const names = new Intl.DisplayNames([language], { type: 'language' });
let dev = false;
let follower;
let speaker;
let notifications;

// ---- who ----

/** The token of the session: what was given, or `make run`'s for whoever sits here, anew when it is asked for anew. */
const given = { ...tokens };
async function sessionToken(reason) {
  if (given.session || !dev) return tokens.session;
  if (!tokens.session || reason === 'expired' || reason === 'refresh') {
    const { token, userToken } = await devTokens($('#session').value || 'demo');
    // Not kept: another session, or tomorrow, has others.
    Object.assign(tokens, { session: token, user: tokens.user ?? userToken ?? undefined });
  }
  return tokens.session;
}

async function signIn() {
  await sessionToken('connect');
  if (!tokens.session) {
    askForToken();
    return false;
  }
  follow();
  notify();
  return true;
}

function askForToken() {
  $('#sign-in').hidden = false;
  $('#token').focus();
}

$('#sign-in').addEventListener('submit', (event) => {
  event.preventDefault();
  for (const line of [follower, notifications]) line?.close();
  follower = notifications = undefined;
  tokens.keep({ session: $('#token').value.trim(), user: $('#user-token').value.trim() || tokens.user });
  $('#sign-in').hidden = true;
  signIn();
});

$('#session').addEventListener('change', async () => {
  await stop();
  follower?.close();
  tokens.session = follower = undefined;
  view.clear();
  messages.clear();
  $('#chat').replaceChildren();
  delays.length = 0;
  drawDelays();
  signIn().catch(trouble);
});

// ---- reading ----

function follow() {
  if (follower) return;
  follower = new Session({ token: sessionToken, since: 0, chat: true });
  watch(follower, t('reading'));
  // What was said before is not read aloud.
  $('#log').setAttribute('aria-live', 'off');
  follower.on('open', () => setTimeout(() => $('#log').setAttribute('aria-live', 'polite'), 1000));
  follower.on('disconnected', () => view.silence());
  follower.on('error', () => { follower = undefined; });
  follower.on('partial', (caption) => view.partial(caption));
  follower.on('final', (caption) => {
    $('#log-empty').hidden = true;
    view.final(caption);
  });
  follower.on('translation', (told) => view.translation(told));
  follower.on('chat', chat);
  follower.on('warning', ({ message, code }) => log(t('reading'), message ?? code));
  follower.open().catch(() => { /* It is in the log. */ });
}

// ---- speaking ----

async function source(kind) {
  if (kind === 'tab') {
    const shared = await navigator.mediaDevices.getDisplayMedia({ video: true, audio: true });
    if (shared.getAudioTracks().length) return { source: new MediaStream(shared.getAudioTracks()), release: () => shared.getTracks().forEach((track) => track.stop()) };
    shared.getTracks().forEach((track) => track.stop());
    throw Object.assign(new Error('no sound'), { code: 'no_tab_sound' });
  }
  if (kind === 'file') {
    const [file] = $('#file').files;
    if (!file) {
      $('#file').hidden = false;
      $('#file').click();
      throw Object.assign(new Error('no file'), { code: 'no_file' });
    }
    const context = new AudioContext();
    const buffer = await context.decodeAudioData(await file.arrayBuffer());
    const [node, out] = [context.createBufferSource(), context.createMediaStreamDestination()];
    node.buffer = buffer;
    node.connect(out);
    node.connect(context.destination);
    node.onended = () => stop();
    return { source: out.stream, play: () => node.start(), release: () => context.close() };
  }
  const device = $('#device').value;
  return { audio: device ? { deviceId: { exact: device } } : undefined };
}

async function start() {
  $('#start').disabled = true;
  hint('');
  let mine;
  try {
    if (!await signIn()) return;
    const chosen = await source(document.querySelector('[name=source]:checked').value);
    const translateTo = $('#translate-to').value;
    mine = speaker = new Captions({ token: sessionToken, source: chosen.source, audio: chosen.audio,
      language: $('#spoken').value || undefined, translateTo: translateTo ? [translateTo] : undefined });
    speaker.chosen = chosen;
    watch(speaker, t('speaking'));
    speaker.on('level', level);
    speaker.on('partial', (caption) => delay(caption, false));
    speaker.on('final', (caption) => {
      delay(caption, true);
      // What came over HTTP is not told to the session.
      if (caption.fallback) view.final({ ...caption, speaker: guest(), speakerId: guest() });
    });
    speaker.on('warning', ({ message, code }) => log(t('speaking'), message ?? code));
    speaker.on('ended', () => stop());
    speaker.on('error', (error) => { trouble(error); stop(); });
    quietSince = performance.now();
    // Whoever waits for a server, or is asked for the microphone, may think better of it.
    $('#start').disabled = false;
    showButton();
    await mine.start();
    chosen.play?.();
    listDevices();
    view.schedule();
  } catch (error) {
    mine?.chosen.release?.();
    if (mine?.stopping) return;
    speaker = undefined;
    trouble(error);
  } finally {
    if (!mine?.stopping) $('#start').disabled = false;
    showButton();
  }
}

async function stop() {
  const ending = speaker;
  if (!ending || ending.stopping) return;
  ending.stopping = true;
  $('#start').disabled = true;
  try {
    await ending.stop();
  } catch (error) {
    trouble(error);
  }
  ending.chosen.release?.();
  if (speaker === ending) speaker = undefined;
  level({ rms: 0, peak: 0 });
  $('#start').disabled = false;
  showButton();
  view.schedule();
  state();
}

function showButton() {
  const button = $('#start');
  button.textContent = t(speaker ? 'stop' : 'start');
  button.classList.toggle('stop', Boolean(speaker));
  button.classList.toggle('main', !speaker);
}

$('#start').addEventListener('click', () => (speaker ? stop() : start()));
$('#file').addEventListener('change', () => { if (!speaker) start(); });
for (const radio of document.querySelectorAll('[name=source]')) {
  radio.addEventListener('change', () => {
    $('#file').hidden = radio.value !== 'file';
    $('#device-label').hidden = radio.value !== 'microphone';
  });
}

let quietSince = 0;
let told = 0;
function level({ rms, peak, ahead = 0 }) {
  const now = performance.now();
  // From -54 dB to 0.
  const part = Math.max(0, Math.min(1, 1 + Math.log10(Math.max(rms, 1e-4)) / 2.7));
  $('#meter i').style.clipPath = `inset(0 ${Math.round(100 - part * 100)}% 0 0)`;
  if (now - told > 500) {
    told = now;
    $('#meter').setAttribute('aria-valuenow', Math.round(part * 100));
  }
  if (peak > 0.012) quietSince = now;
  if (!speaker || speaker.stopping) return hint('');
  if (now - quietSince > QUIET_MS) hint(t('hear_nothing'), 'warn');
  else if (ahead > 3 && speaker.state !== 'open') hint(t('keeping', Math.ceil(ahead / 10) * 10), 'warn');
  else hint(t('hear_you'));
}

function hint(text, kind = '') {
  const node = $('#hint');
  if (node.textContent === text) return;
  node.textContent = text;
  node.dataset.kind = kind;
}

function trouble(error) {
  if (error.code !== 'no_file') log(t('connection'), explain(error));
  setTimeout(() => hint(explain(error), 'bad'), 0);
}

async function listDevices() {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.() ?? []).filter(({ kind, deviceId }) => kind === 'audioinput' && deviceId);
  const chosen = $('#device').value;
  $('#device').replaceChildren(h('option', { value: '' }, t('usual')),
    ...devices.filter(({ deviceId }) => deviceId !== 'default').map(({ deviceId, label }, index) =>
      h('option', { value: deviceId, selected: deviceId === chosen }, label || t('microphone_number', index + 1))));
}

// ---- delay ----

const delays = [];
let drawn = 0;
function delay({ latencyMs }, isFinal) {
  if (latencyMs === undefined) return;
  delays.push({ ms: Math.max(0, latencyMs), isFinal });
  if (delays.length > 80) delays.shift();
  drawn ||= setTimeout(drawDelays, 250);
}

function drawDelays() {
  drawn = 0;
  const [width, height, foot] = [340, 116, 18];
  const top = Math.max(1000, ...delays.map(({ ms }) => Math.ceil(ms / 500) * 500));
  const x = (index) => 38 + (index + 0.5) * (width - 42) / 80;
  const y = (ms) => height - foot - (ms / top) * (height - foot - 8);
  const s = (name, attributes, text) => {
    const node = document.createElementNS('http://www.w3.org/2000/svg', name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text) node.textContent = text;
    return node;
  };
  const nodes = [0, top / 2, top].flatMap((ms) => [
    s('line', { x1: 38, x2: width, y1: y(ms), y2: y(ms), stroke: 'var(--line)' }),
    s('text', { x: 33, y: y(ms) + 4, 'text-anchor': 'end', 'font-size': 11, fill: 'var(--muted)', direction: 'ltr' }, `${ms / 1000} s`),
  ]);
  delays.forEach(({ ms, isFinal }, index) => nodes.push(isFinal
    ? s('rect', { x: x(index) - 3.5, y: y(ms) - 3.5, width: 7, height: 7, rx: 1.5, fill: 'var(--accent)' })
    : s('circle', { cx: x(index), cy: y(ms), r: 2.2, fill: 'var(--edge)' })));
  $('#graph').replaceChildren(...nodes);
  const middle = (list) => list.sort((a, b) => a - b)[Math.floor(list.length / 2)];
  const of = (isFinal) => middle(delays.filter((one) => one.isFinal === isFinal).map(({ ms }) => ms));
  const said = (ms) => (ms === undefined ? '–' : `${Math.round(ms)} ${t('ms')}`);
  $('#delay-text').textContent = t('delay_text', said(of(false)), said(of(true)));
}

// ---- notifications ----

async function notify() {
  const box = $('#notifications');
  if (notifications) return;
  if (!tokens.user) {
    box.replaceChildren(h('li', { className: 'empty' }, t('no_user_token')));
    $('#notify').disabled = $('#read').disabled = true;
    return;
  }
  $('#notify').disabled = $('#read').disabled = false;
  notifications = new Notifications({ token: async (reason) => {
    if (dev && !given.user && reason === 'expired') tokens.user = (await devTokens($('#session').value || 'demo')).userToken;
    return tokens.user;
  } });
  watch(notifications, t('notifications'));
  notifications.on('error', () => { notifications = undefined; });
  notifications.on('count', (count) => { $('#unread').textContent = count; });
  notifications.on('list', (items) => box.replaceChildren(...(items.length ? items.slice(0, 30).map((item) =>
    h('li', { 'data-unread': !item.isRead && '' },
      h('b', { dir: 'auto' }, item.title), ' ', h('time', {}, clock(item.createdAt)), h('div', { className: 'small muted', dir: 'auto' }, item.message)))
    : [h('li', { className: 'empty' }, t('nothing_new'))])));
  notifications.emit('list', []);
  await notifications.start().catch(trouble);
}

$('#notify').addEventListener('click', async () => {
  const body = JSON.stringify({ userId: notifications.user, type: 'SYSTEM_ANNOUNCEMENT', title: t('hello_title'), message: t('hello_message') });
  const headers = { 'Content-Type': 'application/json' };
  await notifications.request('/api/user/notifications', { method: 'POST', headers, body }).catch(trouble);
});
$('#read').addEventListener('click', () => notifications.markRead().catch(trouble));

// ---- chat ----

const messages = new Map();
function chat({ event, data }) {
  if (event === 'messageHistory') for (const message of [...data].reverse()) messages.set(message.id, message);
  else if (event === 'message' || event === 'messageEdited') messages.set(data.id, data);
  else if (event === 'messageDeleted') messages.delete(data.id);
  else if (event === 'error') return log(t('chat'), data.error ?? data.code);
  else return;
  while (messages.size > 100) messages.delete(messages.keys().next().value);
  $('#chat').replaceChildren(...[...messages.values()].map(({ username, content, timestamp }) =>
    h('li', {}, h('b', { dir: 'auto' }, username), ' ', h('time', {}, clock(timestamp)), h('div', { dir: 'auto' }, content))));
  $('#chat-feed').scrollTop = $('#chat-feed').scrollHeight;
}

$('#say').addEventListener('submit', async (event) => {
  event.preventDefault();
  const content = $('#content').value.trim();
  if (!content || !await signIn().catch(trouble)) return;
  if (follower.chat(content)) $('#content').value = '';
});

// ---- connection ----

const lines = [];
function log(who, text) {
  const at = Date.now();
  lines.push(`${new Date(at).toISOString()} ${who}: ${text}`);
  if (lines.length > LOG_MAX) lines.shift();
  const box = $('#connection');
  box.prepend(h('li', {}, h('time', {}, clock(at)), ' ', h('b', {}, who), ' ', h('span', { dir: 'auto' }, text)));
  while (box.childElementCount > LOG_MAX) box.lastElementChild.remove();
}

function watch(line, who) {
  line.on('state', (now) => {
    log(who, t(`state_${now}`));
    // That it failed says more than that it is closed.
    if (!line.error) state();
  });
  line.on('disconnected', ({ code, reason }) => log(who, `${code}: ${t(`close_${closeReason(code)}`)}${reason ? ` (${reason})` : ''}`));
  line.on('retry', ({ waitMs }) => log(who, t('retry', (waitMs / 1000).toFixed(1))));
  line.on('status', ({ status, engine, reason }) => log(who, [t(`engine_${status}`), engine, reason].filter(Boolean).join(' · ')));
  line.on('error', (error) => {
    log(who, explain(error));
    state('failed');
    if (error.name === 'TokenError') askForToken();
  });
}

function state(now = (speaker ?? follower)?.state ?? 'idle') {
  $('#state').dataset.state = now;
  $('#state').textContent = t(now === 'open' ? (speaker ? 'state_live' : 'state_open') : `state_${now}`);
}

// ---- the rest of the page ----

$('#search').addEventListener('input', ({ target }) => view.search(target.value));
$('#copy').addEventListener('click', ({ target }) => copy(view.text(), target));
$('#copy-log').addEventListener('click', ({ target }) => copy(lines.join('\n'), target));
$('#download').addEventListener('click', () => {
  if (follower) downloadTranscript(follower, $('#session').value || 'session').catch(trouble);
});

const tags = ['en', 'ru', 'ar', 'de', 'es', 'fr', 'hi', 'it', 'ja', 'ko', 'pl', 'pt', 'tr', 'uk', 'zh'];
const options = tags.map((tag) => [tag, names.of(tag)]).sort(([, a], [, b]) => a.localeCompare(b, language));
$('#spoken').append(h('option', { value: '' }, t('usual')), h('option', { value: 'auto' }, t('detect')), ...options.map(([tag, name]) => h('option', { value: tag }, name)));
$('#translate-to').append(h('option', { value: '' }, t('none')), ...options.map(([tag, name]) => h('option', { value: tag }, name)));

dev = await isDev();
$('#session').value = asked('session') ?? 'demo';
$('#session-label').hidden = !dev || Boolean(given.session);
showButton();
state();
drawDelays();
view.draw();
notifications || $('#notifications').replaceChildren(h('li', { className: 'empty' }, t('nothing_new')));
hint(dev || given.session ? '' : t('sign_in_help'));
listDevices();
if (dev || given.session) signIn().catch(trouble);
else $('#sign-in').hidden = false;
document.documentElement.dataset.ready = '';
