/**
 * Parley's client: captions, following, notifications. One ES module without dependencies, for every page.
 * Types are in parley.d.ts, examples in docs/javascript.md, the messages in docs/protocol.md.
 * @license MIT OR Apache-2.0
 */

export const VERSION = '0.1.0';

/** The clock of the protocol, in samples a second: positions count these, whatever rate is sent. */
const CLOCK_HZ = 16000;
/** Sound in one message, in seconds; a resumed stream sends what is missing in pieces of this. */
const PIECE_S = 1;
/** How much may be on its way without an acknowledgement, in seconds: below the server's 30. */
const WINDOW_S = 25;
/** How much is kept for a server that is away, in seconds; beyond that the oldest goes, with a warning. */
const KEPT_S = 600;
/** How much goes then, in seconds. */
const GAP_S = 10;
/** Failed tries in a row after which sound goes over plain HTTP until a socket opens again. */
const TRIES = 3;
/** Whoever is lost sooner than this has not been back. */
const CALM_MS = 10000;
/** Twenty seconds of sound are understood by then, or by nobody. */
const REQUEST_MS = 60000;
/** Without a word for this long a socket is asked for a sign of life, and given up after as long again. */
const SILENCE_MS = 15000;

// ---- Errors ----

/** Anything that goes wrong; what each kind means is in parley.d.ts. */
export class ParleyError extends Error {
  constructor(message, code, more) {
    super(message);
    this.name = new.target.name;
    this.code = code;
    Object.assign(this, more);
  }
}
export class TokenError extends ParleyError {}
export class PolicyError extends ParleyError {}
export class ConnectionError extends ParleyError {}
export class MicrophoneError extends ParleyError {}
export class RequestError extends ParleyError {}

/** What a close code means, as a word to translate: docs/protocol.md, "How it ends". */
export const closeReason = (code) => ({
  1000: 'done', 1001: 'restarting', 1005: 'lost', 1006: 'lost', 1007: 'bad_data', 1008: 'refused', 1009: 'too_big',
  1011: 'fault', 1013: 'busy', 4003: 'expired', 4008: 'silent', 4013: 'slow',
})[code] ?? 'unknown';

// ---- Where the server is ----

/**
 * The URL of a path. Without a host: where the page comes from. With one: its scheme and slashes are cut off;
 * `localhost`, `127.0.0.1…` and `192.168.…` are local and have the page's scheme and port, or 3001 (a port in the
 * host wins); everything else is wss, without a port. An `origin` such as `http://10.0.0.5:8080` is taken as it is.
 */
export function address({ host, origin, page = globalThis.location } = {}, path = '/', query = {}, scheme = 'ws') {
  let secure = page?.protocol === 'https:';
  let place = page?.host;
  if (origin) {
    const parts = /^(?:http|ws)(s?):\/\/([^/?#]+)/i.exec(origin);
    if (!parts) throw new TypeError('origin must be such as https://captions.example');
    [secure, place] = [parts[1] !== '', parts[2]];
  } else if (host) {
    const [, name, port] = /^([^/?#:]*)(?::(\d+))?/.exec(host.trim().replace(/^[a-z]+:\/\//i, '').replace(/^\/+/, ''));
    if (!name) throw new TypeError('host must be a name');
    const local = name === 'localhost' || name.startsWith('127.0.0.1') || name.startsWith('192.168.');
    place = local ? `${name}:${port ?? (page?.port || 3001)}` : name;
    secure ||= !local;
  }
  if (!place) throw new TypeError('say where the server is: host or origin');
  const words = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
  const tail = words.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join('&');
  return `${scheme}${secure ? 's' : ''}://${place}${path}${tail && '?'}${tail}`;
}

/** What a token says, unverified: only the server knows whether it is true. `{}` when it says nothing. */
export function claims(token) {
  try {
    const bytes = Uint8Array.from(atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/')), (c) => c.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes)) ?? {};
  } catch {
    return {};
  }
}

// ---- When to try again ----

/** Waits that double from half a second to 15 s. Half is chance, so that clients do not come back all together. */
export class Backoff {
  failures = 0;
  /** Counts a failure; milliseconds to wait, never less than the server asked for (up to five minutes). */
  next(asked = 0, chance = Math.random()) {
    const own = Math.min(15000, 500 * 2 ** Math.min(this.failures++, 10)) * (0.5 + 0.5 * chance);
    return Math.max(own, Math.min(asked || 0, 300000));
  }
  reset() { this.failures = 0; }
}

// ---- A socket that comes back ----

class Emitter extends (globalThis.EventTarget ?? Object) {
  /** Listens; returns what ends that. */
  on(type, listener) {
    const heard = (event) => listener(event.detail, event);
    this.addEventListener(type, heard);
    return () => this.removeEventListener(type, heard);
  }
  emit(type, detail) { this.dispatchEvent(new CustomEvent(type, { detail })); }
}

class Line extends Emitter {
  constructor(path, options) {
    super();
    this.options = { ...options };
    this.path = path;
    this.state = 'idle';
    this.backoff = new Backoff();
    this.wake = () => this.socket ? this.probe() : this.timer && this.connect();
    this.suspect = () => this.probe();
  }

  async token(reason) {
    const { token } = this.options;
    try {
      const text = typeof token === 'function' ? await token(reason) : token;
      if (!text) throw new TokenError('there is no token', 'unauthenticated');
      return text;
    } catch (error) {
      throw error instanceof ParleyError ? error : new ConnectionError(`no token: ${error.message}`, 'token', { cause: error });
    }
  }

  begin() {
    if (this.state !== 'idle' && this.state !== 'closed') return;
    this.error = undefined;
    globalThis.addEventListener?.('online', this.wake);
    globalThis.addEventListener?.('offline', this.suspect);
    this.connect('connect');
  }

  enter(state) {
    if (this.state === state) return;
    this.state = state;
    this.emit('state', state);
  }

  async connect(reason = 'connect') {
    clearTimeout(this.timer);
    this.timer = undefined;
    const turn = (this.turn = {});
    if (this.state !== 'fallback') this.enter('connecting');
    if (claims(this.shown).exp * 1000 <= Date.now()) reason = 'expired';
    let socket;
    try {
      const token = await this.token(reason);
      if (turn !== this.turn) return;
      this.shown = token;
      socket = new WebSocket(address(this.options, this.path, { token, ...this.query() }));
    } catch (error) {
      if (turn === this.turn) error instanceof ConnectionError ? this.again(error, reason) : this.fail(error);
      return;
    }
    this.socket = socket;
    socket.binaryType = 'arraybuffer';
    this.asked = this.fault = undefined;
    const alive = () => {
      clearTimeout(this.watch);
      this.watch = setTimeout(() => this.probe(), SILENCE_MS);
    };
    alive();
    socket.onopen = () => { alive(); this.opened(); };
    socket.onmessage = ({ data }) => {
      alive();
      let message;
      try { message = JSON.parse(data); } catch { return; }
      if (message.type === 'reconnect') this.asked = message.retryAfterMs;
      if (message.type === 'error') {
        // Captions say it flat, notifications in `data`.
        const { message: text, code, retryAfterMs } = message.data ?? message;
        this.fault = { message: text, code, retryAfterMs, at: performance.now() };
      }
      this.emit('message', message);
      this.heard(message);
    };
    socket.onclose = ({ code, reason: text }) => this.lost(code, text);
  }

  /** Asks for a sign of life; without one the socket is given up, whatever the browser still believes. */
  probe() {
    const { socket } = this;
    if (!socket) return;
    if (socket.readyState === 1) this.say({ type: 'ping' });
    clearTimeout(this.watch);
    this.watch = setTimeout(() => this.socket === socket && this.lost(4008, 'no answer'), SILENCE_MS / 2);
  }

  lost(code, text) {
    this.drop();
    // What was refused long ago is not why it ends.
    const fault = performance.now() - this.fault?.at < 5000 ? this.fault : undefined;
    const say = fault?.message || text || closeReason(code);
    const more = { closeCode: code, retryAfterMs: this.asked ?? fault?.retryAfterMs };
    const token = ['unauthenticated', 'expired', 'forbidden'].includes(fault?.code) || code === 4003;
    const error = new (code === 1008 ? (token ? TokenError : PolicyError) : code === 4003 ? TokenError : ConnectionError)(
      say, fault?.code ?? closeReason(code), more);
    this.emit('disconnected', { code, reason: text, error });
    // A stop is a stop; a token that ended is asked for anew; everything else passes.
    if (code === 1008) return this.fail(error);
    if (code === 4003) {
      if (typeof this.options.token !== 'function') return this.fail(error);
      return this.again(error, 'expired');
    }
    this.again(error);
  }

  drop() {
    const { socket } = this;
    clearTimeout(this.watch);
    clearTimeout(this.renewal);
    clearTimeout(this.calm);
    this.socket = undefined;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    try { socket.close(1000); } catch { /* It is closed. */ }
  }

  async again(error, reason = 'connect') {
    const turn = (this.turn = {});
    if (this.state !== 'fallback') this.enter('waiting');
    await this.away(error);
    if (turn !== this.turn) return;
    const waitMs = Math.round(this.backoff.next(error.retryAfterMs));
    this.emit('retry', { waitMs, failures: this.backoff.failures, error });
    this.timer = setTimeout(() => this.connect(reason), waitMs);
  }

  /** Works. What is lost next is the first loss again, unless it is lost at once. */
  up() {
    this.calm = setTimeout(() => this.backoff.reset(), CALM_MS);
    this.enter('open');
    this.renew();
  }

  /** Shows a new token to the open socket a minute before the old one ends. */
  renew() {
    clearTimeout(this.renewal);
    const { exp, iat } = claims(this.shown);
    if (!exp || typeof this.options.token !== 'function') return;
    const life = (exp - (iat ?? Date.now() / 1000)) * 1000;
    const wait = Math.max(1000, exp * 1000 - Date.now() - Math.min(60000, life / 4));
    if (wait > 2 ** 31 - 1) return;
    this.renewal = setTimeout(async () => {
      try {
        const next = await this.token('refresh');
        // One that ends no later helps nobody; 4003 asks for another.
        if (claims(next).exp <= exp) return;
        this.shown = next;
        if (this.say({ type: 'refresh', token: next })) this.renew();
      } catch { /* The server will say 4003, and it is asked for again. */ }
    }, wait);
  }

  /** Sends a message; whether there was a socket to send it by. */
  say(message) {
    if (this.socket?.readyState !== 1) return false;
    this.socket.send(JSON.stringify(message));
    return true;
  }

  fail(error) {
    this.error = error;
    this.emit('error', error);
    this.close();
  }

  /** Ends it for good; it may be begun again. */
  close() {
    this.turn = {};
    clearTimeout(this.timer);
    this.timer = undefined;
    this.drop();
    globalThis.removeEventListener?.('online', this.wake);
    globalThis.removeEventListener?.('offline', this.suspect);
    if (this.state !== 'idle') this.enter('closed');
  }

  query() { return {}; }
  opened() {}
  away() {}

  /** A REST request with the token; the answer, once it is a good one. */
  async request(path, { query, ...init } = {}) {
    const headers = { Authorization: `Bearer ${await this.token('request')}`, ...init.headers };
    let answer;
    try {
      answer = await fetch(address(this.options, path, query, 'http'), { ...init, headers });
    } catch (error) {
      throw new ConnectionError('the server cannot be reached', 'lost', { cause: error });
    }
    if (answer.ok) return answer;
    const said = await answer.json().catch(() => ({}));
    const text = said.error?.message ?? said.error ?? `HTTP ${answer.status}`;
    const Kind = [401, 403].includes(answer.status) ? TokenError : RequestError;
    throw new Kind(text, said.code ?? `http_${answer.status}`, { status: answer.status });
  }
}

// ---- Following a session ----

/**
 * The captions of a session as they come. `since: 0` replays from the beginning, `since: N` what came after the
 * sequence N, without it only what is new. A lost socket is made again, and no final is missed or told twice.
 */
export class Session extends Line {
  constructor(options) {
    super('/api/realtime/transcribe', options);
    this.sequence = options.since;
  }

  /** Connects; done when the server has greeted. */
  open() {
    return new Promise((resolve, reject) => {
      if (this.state === 'open') return resolve(this);
      const done = (act) => (value) => { off.forEach((end) => end()); act(value); };
      const off = [this.on('open', done(() => resolve(this))), this.on('error', done(reject)),
        this.on('state', (state) => state === 'closed' && done(reject)(this.error ?? new ConnectionError('closed', 'closed')))];
      this.begin();
    });
  }

  query() {
    const { chat, partials } = this.options;
    this.passes = this.sequence === undefined && this.born;
    // Who has seen no final yet asks for all, and passes over those from before.
    const since = this.sequence ?? (this.born ? 0 : undefined);
    return { since, messages: 'split', chat: chat || undefined, chatSince: chat ? this.chatSequence : undefined,
      partials: partials === false ? false : undefined };
  }

  heard(message) {
    const { type, sequence } = message;
    switch (type) {
      case 'connected':
        this.born ??= message.ts;
        this.emit('connected', message);
        return this.greeted();
      case 'transcript_partial':
        return this.emit('partial', message);
      case 'transcript_final': case 'translation': {
        if (sequence !== undefined) {
          const old = sequence <= (this.sequence ?? -1) || (this.sequence === undefined && message.ts < this.passes);
          if (old) return;
          this.sequence = sequence;
        }
        return this.emit(type === 'translation' ? type : 'final', message);
      }
      case 'stt_status':
        return this.emit('status', message);
      case 'chat':
        if (message.data?.sequence > (this.chatSequence ?? -1)) this.chatSequence = message.data.sequence;
        return this.emit('chat', message);
      case 'warning': case 'transcription_error':
        return this.emit('warning', message);
      case 'error':
        return this.emit('warning', { ...message, refused: true });
    }
  }

  greeted() { this.up(); this.emit('open', {}); }

  /** Says something in the chat of the session (with `chat: true`). */
  chat(content) { return this.say({ type: 'chat', content, clientMessageId: crypto.randomUUID?.() }); }

  /** Who speaks now, for the sound of a whole room; the server's clock counts. */
  activeSpeaker(identity, name, isActive = true) {
    return this.say({ type: 'active_speaker', identity, name, isActive });
  }

  /** The stored transcript: an object, or text for `txt`, `srt` and `vtt`. Options as in docs/transcripts.md. */
  async transcript({ format = 'json', ...query } = {}) {
    const slug = this.options.session ?? claims(await this.token('request')).sessionSlug;
    const path = `/api/sessions/${encodeURIComponent(slug)}/transcript`;
    const answer = await this.request(path, { query: { format, ...query } });
    return format === 'json' ? answer.json() : answer.text();
  }
}

// ---- Sound ----

/** Samples that were heard and are not yet acknowledged. Positions are samples of the source since it began. */
class Uplink {
  constructor(rate) {
    Object.assign(this, { rate, kept: [], base: 0, began: 0, sent: 0, end: 0, known: 0 });
  }
  push(samples) {
    this.kept.push(samples);
    this.end += samples.length;
    if (this.end - this.base <= KEPT_S * this.rate) return false;
    this.forget(this.base + GAP_S * this.rate);
    return true;
  }
  /** A position of the stream in samples of the source, rounded down so that nothing is missed. */
  at(position) { return this.began + Math.floor(position * this.rate / CLOCK_HZ); }
  get acked() { return this.known; }
  get unsent() { return this.end - this.sent; }
  get waiting() { return (this.end - this.base) / this.rate; }
  hasRoom() { return this.sent - this.base < WINDOW_S * this.rate; }
  acknowledge(position) {
    this.known = Math.max(this.known, position);
    this.forget(Math.min(this.at(position), this.sent));
  }
  resume(position) { this.sent = Math.min(Math.max(this.at(position), this.base), this.end); }
  restart() { this.began = this.sent = this.base; this.known = 0; }
  take(seconds = PIECE_S) {
    const piece = this.slice(this.sent, Math.min(this.end, this.sent + seconds * this.rate));
    this.sent += piece.length;
    return piece;
  }
  slice(from, to) {
    const piece = new Int16Array(Math.max(0, to - from));
    let at = this.base;
    for (const part of this.kept) {
      const [first, last] = [Math.max(from, at), Math.min(to, at + part.length)];
      if (first < last) piece.set(part.subarray(first - at, last - at), first - from);
      at += part.length;
    }
    return piece;
  }
  forget(to) {
    while (this.kept.length && this.base < to) {
      const part = this.kept[0];
      const step = Math.min(part.length, to - this.base);
      if (step === part.length) this.kept.shift();
      else this.kept[0] = part.subarray(step);
      this.base += step;
    }
    this.sent = Math.max(this.sent, this.base);
  }
}

/** Where in the last two seconds it is quietest: a cut there goes through no word. */
function quietest(samples, rate) {
  const width = 2 * Math.floor(rate / 20);
  let [best, at] = [Infinity, samples.length];
  for (let from = samples.length - 2 * rate; from + width <= samples.length; from += width / 2) {
    let sum = 0;
    for (let i = 0; i < width; i++) sum += Math.abs(samples[from + i]);
    if (sum <= best) [best, at] = [sum, from + width / 2];
  }
  return at;
}

function wav(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + samples.length * 2));
  [0x52494646, 36 + samples.length * 2, 0x57415645, 0x666d7420, 16, 0x10001, rate, rate * 2, 0x100002, 0x64617461,
    samples.length * 2].forEach((word, index) => view.setUint32(index * 4, word, ![0, 2, 3, 9].includes(index)));
  samples.forEach((sample, index) => view.setInt16(44 + index * 2, sample, true));
  return new Blob([view], { type: 'audio/wav' });
}

/** In the worklet this module is loaded as well: tenths of a second as 16 bit samples, and the rest when asked. */
const WORKLET = 'parley-pieces';
const worklet = () => {
  registerProcessor('parley-pieces', class extends AudioWorkletProcessor {
    constructor() {
      super();
      this.piece = new Int16Array(sampleRate / 10);
      this.length = 0;
      this.port.onmessage = () => { this.send(); this.port.postMessage('end'); this.ended = true; };
    }
    send() {
      if (this.length) this.port.postMessage(this.piece.slice(0, this.length));
      this.length = 0;
    }
    process([channels]) {
      for (let i = 0; i < (channels[0]?.length ?? 0); i++) {
        let sum = 0;
        for (const channel of channels) sum += channel[i];
        this.piece[this.length++] = Math.max(-1, Math.min(1, sum / channels.length)) * 32767;
        if (this.length === this.piece.length) this.send();
      }
      return !this.ended;
    }
  });
};
if (typeof registerProcessor === 'function') worklet();

async function microphone(wanted) {
  if (!globalThis.navigator?.mediaDevices?.getUserMedia) {
    throw new MicrophoneError('a microphone needs https, or localhost', 'insecure');
  }
  // What browsers suppress as noise takes short words with it; who recognizes speech is used to noise.
  const audio = { channelCount: 1, echoCancellation: true, noiseSuppression: false, autoGainControl: true, ...wanted };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    const code = { NotAllowedError: 'denied', SecurityError: 'denied', NotFoundError: 'missing',
      OverconstrainedError: 'missing' }[error.name] ?? 'busy';
    throw new MicrophoneError(error.message, code, { cause: error });
  }
}

const silence = (media) => { for (const track of media.getTracks()) track.stop(); };

/** Samples of a stream, by an AudioWorklet. */
async function samplesOf(stream, heard) {
  let context;
  let source;
  try {
    context = new AudioContext({ sampleRate: CLOCK_HZ });
    source = context.createMediaStreamSource(stream);
  } catch {
    // Some browsers do not change the rate between a stream and a context.
    context?.close();
    context = new AudioContext();
    source = context.createMediaStreamSource(stream);
  }
  try {
    // Served as it is, this module is the worklet, too, so that a strict Content-Security-Policy lets it in.
    if (/\/parley\.js$/.test(new URL(import.meta.url).pathname)) await context.audioWorklet.addModule(import.meta.url);
    else await context.audioWorklet.addModule(URL.createObjectURL(new Blob([`(${worklet})()`], { type: 'text/javascript' })));
    const node = new AudioWorkletNode(context, WORKLET, { numberOfOutputs: 0 });
    let ended;
    node.port.onmessage = ({ data }) => (data === 'end' ? ended?.() : heard(data));
    source.connect(node);
    await context.resume();
    return {
      rate: context.sampleRate,
      async stop() {
        const last = new Promise((resolve) => { ended = resolve; setTimeout(resolve, 300); });
        node.port.postMessage('end');
        await last;
        source.disconnect();
        await context.close();
      },
    };
  } catch (error) {
    context.close();
    throw error;
  }
}

/**
 * Speaks into a session and hears its captions by one socket. Sound is kept until the server has acknowledged it and
 * the stream is resumed, so a lost socket loses nothing; after three tries in vain it goes over HTTP meanwhile.
 */
export class Captions extends Session {
  constructor(options) {
    super(options);
    /** What is spoken now; another `start()` is another, whatever the one before still waits for. */
    this.sending = undefined;
  }

  /** Takes the microphone (or `source`, a MediaStream) and speaks; done when the server listens. */
  async start() {
    if (this.sending) throw new ParleyError('it speaks already', 'started');
    const speech = (this.sending = {});
    const { source, audio } = this.options;
    // People take their time to allow a microphone, and may have gone meanwhile.
    const kept = (got, away) => {
      if (speech === this.sending) return got;
      away(got);
      throw new ConnectionError('closed', 'closed');
    };
    this.ended = false;
    this.stream = this.pieces = this.head = undefined;
    this.openUtterances = new Set();
    try {
      this.media = source ?? kept(await microphone(audio), silence);
      this.uplink = new Uplink(CLOCK_HZ);
      try {
        this.capture = kept(await samplesOf(this.media, (samples) => speech === this.sending && this.take(samples)), (capture) => capture.stop());
        this.uplink.rate = this.capture.rate;
      } catch (error) {
        if (!globalThis.MediaRecorder || speech !== this.sending) throw error;
        this.pieces = [];
        this.record();
      }
      for (const track of this.media.getAudioTracks()) track.addEventListener('ended', () => this.emit('ended', {}));
      await this.open();
    } catch (error) {
      if (speech === this.sending) this.close();
      throw error;
    }
  }

  /** Ends it for good, at once, and lets go of the microphone. `stop()` waits for what was said last. */
  close() {
    super.close();
    // After `stop()` the microphone is free already.
    if (!this.sending || this.ended) return;
    this.sending = undefined;
    this.release().catch(() => { /* It was not open yet. */ });
  }

  take(samples) {
    if (!this.sending || this.ended) return;
    if (this.uplink.push(samples)) {
      this.emit('warning', { type: 'warning', code: 'gap', message: `${GAP_S} s of sound were not kept` });
      // Positions do not fit any more: what is left is another stream.
      this.stream = undefined;
      if (this.listening) this.lost(4008, 'nothing is acknowledged');
    }
    this.zero = performance.now() - this.uplink.end / this.uplink.rate * 1000;
    let [sum, peak] = [0, 0];
    for (const sample of samples) {
      sum += sample * sample;
      peak = Math.max(peak, Math.abs(sample));
    }
    this.emit('level', { rms: Math.sqrt(sum / samples.length) / 32768, peak: peak / 32768, ahead: this.uplink.waiting });
    this.pump();
  }

  /** The other way, where there is no AudioWorklet: WebM pieces, each container of its own. */
  record() {
    const recorder = new MediaRecorder(this.media, { mimeType: 'audio/webm;codecs=opus', audioBitsPerSecond: 32000 });
    const pieces = this.pieces;
    recorder.ondataavailable = ({ data }) => {
      if (data.size) pieces.push(data);
      // Four a second; a container cannot lose its beginning, so all of it goes.
      if (pieces === this.pieces && pieces.length > KEPT_S * 4) {
        this.emit('warning', { type: 'warning', code: 'gap', message: `${KEPT_S} s of sound were not kept` });
        this.rerecord();
      }
      this.pump();
    };
    recorder.start(250);
    this.capture = {
      stop: () => new Promise((resolve) => {
        recorder.onstop = resolve;
        if (recorder.state === 'inactive') resolve();
        else recorder.stop();
      }),
    };
  }

  rerecord() {
    this.pieces = [];
    if (this.ended) return;
    this.capture.stop();
    this.record();
  }

  greeted() {
    if (!this.sending) return super.greeted();
    const { language, translateTo, partials, endpointingMs } = this.options;
    const format = this.pieces ? { encoding: 'webm' } : { encoding: 'pcm_s16le', sampleRate: this.uplink.rate, channels: 1 };
    const resume = this.stream ? { stream: this.stream, acked: this.uplink.acked } : undefined;
    this.listening = false;
    this.say({ type: 'init', ...format, language, translateTo, partials, endpointingMs, resume });
  }

  heard(message) {
    const { type, stream } = message;
    if (type === 'initialized' && this.sending) {
      const same = stream === this.stream;
      if (!same) this.uplink.restart();
      this.stream = stream;
      this.uplink.acknowledge(message.acked);
      if (same) this.uplink.resume(message.acked);
      this.listening = true;
      this.up();
      this.emit('open', message);
      return this.pump();
    }
    if (type === 'ack' && stream === this.stream) {
      this.uplink.acknowledge(message.samples);
      this.emit('ack', message);
      return this.pump();
    }
    if (type === 'stopped' && this.ended) {
      this.uplink.acknowledge(message.samples);
      return this.emit('stopped', message);
    }
    if (type === 'error' && this.sending && !this.listening) {
      // Somebody else's stream is not resumed; another refusal of `init` is the end, unless it is one of the moment.
      if (message.code === 'forbidden' && this.stream) {
        this.stream = undefined;
        return this.greeted();
      }
      if (!['overloaded', 'rate_limited'].includes(message.code)) {
        return this.fail(new (message.code === 'forbidden' ? TokenError : PolicyError)(message.message, message.code));
      }
    }
    // How long after its last sound a caption is here.
    if (stream && stream === this.stream && message.end !== undefined) {
      const { began, rate } = this.uplink;
      message.latencyMs = performance.now() - this.zero - (began / rate + message.end) * 1000;
    }
    super.heard(message);
    if (stream === undefined || stream !== this.stream) return;
    if (type === 'transcript_partial' && message.text) this.openUtterances.add(message.utteranceId);
    else if (type !== 'translation') this.openUtterances.delete(message.utteranceId);
    if (this.ended) this.emit('settled', {});
  }

  pump() {
    clearTimeout(this.pumping);
    if (!this.listening || this.socket?.readyState !== 1) return;
    const { socket, uplink, pieces } = this;
    if (pieces) while (pieces.length && socket.bufferedAmount < 262144) socket.send(pieces.shift());
    else while (uplink.unsent && uplink.hasRoom() && socket.bufferedAmount < 262144) socket.send(uplink.take());
    if (pieces?.length || (!pieces && uplink.unsent && uplink.hasRoom())) this.pumping = setTimeout(() => this.pump(), 50);
    else if (this.ended && !pieces?.length && !uplink.unsent && !this.stopSaid) this.stopSaid = this.say({ type: 'stop' });
  }

  drop() {
    const was = this.listening;
    this.listening = this.stopSaid = false;
    clearTimeout(this.pumping);
    super.drop();
    // A container cannot go on in its middle: what is heard from here on begins another.
    if (was && this.pieces) this.rerecord();
  }

  async away() {
    if (!this.sending || this.pieces || this.options.fallback === false || this.backoff.failures < TRIES - 1) return;
    const { uplink, turn } = this;
    while (uplink.waiting >= 4 || (this.ended && uplink.waiting > 0)) {
      const from = uplink.base;
      let samples = uplink.slice(from, Math.min(uplink.end, from + 20 * uplink.rate));
      if (!this.ended) samples = samples.subarray(0, quietest(samples, uplink.rate));
      const form = new FormData();
      form.append('file', wav(samples, uplink.rate), 'speech.wav');
      form.append('model', 'parley');
      const { language } = this.options;
      if (language && language !== 'auto') form.append('language', language);
      let text;
      try {
        const signal = AbortSignal.timeout(REQUEST_MS);
        ({ text } = await (await this.request('/v1/audio/transcriptions', { method: 'POST', body: form, signal })).json());
      } catch {
        return turn === this.turn && this.enter('waiting');
      }
      if (turn !== this.turn) return;
      // What was understood this way is no part of the stream; the next one begins after it.
      this.stream = undefined;
      uplink.forget(from + samples.length);
      this.enter('fallback');
      const { sessionSlug } = claims(this.shown);
      const told = { type: 'transcript_final', sessionSlug, utteranceId: `http-${from}`, text, stable: [...text ?? ''].length, isFinal: true };
      if (text) this.emit('final', { ...told, ts: Date.now(), fallback: true });
    }
    if (this.ended && uplink.waiting === 0) this.emit('stopped', {});
  }

  /** Another language is spoken from here on; `auto` finds it out. */
  language(language) {
    this.options.language = language;
    return this.say({ type: 'language', language });
  }

  /** Ends the open utterance now. */
  finalize() { return this.say({ type: 'finalize' }); }

  async release() {
    const { capture, media } = this;
    this.capture = this.media = undefined;
    await capture?.stop();
    if (media && media !== this.options.source) silence(media);
  }

  /** Hands in what was said last and waits, up to `limitMs`, until everything is understood and stored. */
  async stop({ limitMs = 30000 } = {}) {
    // Nothing is heard yet: a person is asked for the microphone.
    if (!this.sending || !(this.capture || this.ended)) return this.close();
    await this.release();
    this.ended = true;
    try {
      await new Promise((resolve, reject) => {
        const late = setTimeout(() => reject(new ConnectionError('the server did not confirm the end in time', 'late')), limitMs);
        const isOver = () => this.state === 'closed' && done(reject, this.error ?? new ConnectionError('closed', 'closed'));
        const off = [this.on('stopped', () => done(resolve)), this.on('state', isOver)];
        const done = (act, value) => { clearTimeout(late); off.forEach((end) => end()); act(value); };
        isOver();
        this.pump();
      });
      // Finals take another road than `stopped`.
      if (this.openUtterances.size) {
        await new Promise((resolve) => {
          const off = this.on('settled', () => !this.openUtterances.size && done());
          const done = () => { clearTimeout(late); off(); resolve(); };
          const late = setTimeout(done, 5000);
        });
      }
    } finally {
      this.sending = undefined;
      this.close();
    }
  }
}

/** Tells Parley who speaks in a LiveKit room (livekit-client's `Room`); returns what ends that. */
export function followActiveSpeakers(room, session) {
  let last;
  const told = (speakers) => {
    const [now] = speakers;
    if (now?.identity === last) return;
    if (now) session.activeSpeaker(now.identity, now.name || undefined);
    else session.activeSpeaker(last, undefined, false);
    last = now?.identity;
  };
  room.on('activeSpeakersChanged', told);
  return () => room.off('activeSpeakersChanged', told);
}

// ---- Notifications ----

/**
 * A user's notifications. Tabs of one user and server share one connection: whoever holds the lock has the socket and
 * tells the others; when that tab goes, the next one goes on where it was.
 */
export class Notifications extends Line {
  constructor(options) {
    super('/ws', options);
    this.count = 0;
    this.version = -1;
    this.items = [];
  }

  /** Connects, or joins a tab that is connected. */
  async start() {
    const turn = (this.turn = {});
    const said = claims(await this.token('connect'));
    if (turn !== this.turn) return;
    this.user = this.options.user ?? said.userId ?? said.sub;
    const name = `parley:${address(this.options, '/ws')}:${this.user}`;
    this.leads = true;
    if (this.options.share === false || !globalThis.BroadcastChannel || !globalThis.navigator?.locks) return this.begin();
    this.leads = false;
    this.channel = new BroadcastChannel(name);
    this.channel.onmessage = ({ data }) => {
      if (data.hello && this.leads) this.tell({ state: this.state, count: this.count, version: this.version, sequence: this.sequence, items: this.items });
      else if (data.message && !this.leads) this.learn(data.message);
      else if (data.version !== undefined && !this.leads) this.adopt(data);
    };
    this.quit = new AbortController();
    const held = new Promise((resolve) => { this.letGo = resolve; });
    navigator.locks.request(name, { signal: this.quit.signal }, () => {
      this.leads = true;
      // Until now it was as the other tab said.
      this.state = 'idle';
      this.emit('leading', {});
      this.begin();
      return held;
    }).catch(() => { /* Closed before it was its turn. */ });
    this.tell({ hello: true });
  }

  tell(what) { this.channel?.postMessage(what); }

  adopt({ state, count, version, sequence, items }) {
    if (version > this.version) {
      Object.assign(this, { count, version, items });
      this.emit('count', count);
      this.emit('list', items);
    }
    if (sequence > (this.sequence ?? -1)) this.sequence = sequence;
    this.enter(state);
  }

  enter(state) {
    super.enter(state);
    if (this.leads) this.tell({ state, count: this.count, version: this.version, sequence: this.sequence, items: this.items });
  }

  opened() {
    this.say({ type: 'subscribe', channel: { type: 'notifications', userId: this.user }, since: this.sequence });
  }

  heard(message) {
    if (message.type === 'subscribed') this.up();
    if (message.type === 'error') this.emit('warning', message.data ?? message);
    this.tell({ message });
    this.learn(message);
    // More was missed than the server replays: the list is read anew.
    if (message.type === 'resync') this.opened();
  }

  learn(message) {
    const { type, sequence } = message;
    if (type === 'resync') Object.assign(this, { sequence: undefined, version: -1, items: [] });
    else if (sequence !== undefined) {
      if (sequence <= (this.sequence ?? -1)) return;
      this.sequence = sequence;
    }
    const counted = type === 'unread_notifications' ? message.data : message;
    if (counted.version !== undefined && counted.version >= this.version) {
      this.version = counted.version;
      if (counted.count !== this.count) this.emit('count', (this.count = counted.count));
      // A list says how far it goes, and so does the count of none.
      if (counted.notifications && counted.version > (this.sequence ?? -1)) this.sequence = counted.version;
      this.sequence ??= counted.version;
    }
    const one = (change) => { this.items = this.items.map((item) => (item.id === message.notificationId ? { ...item, ...change } : item)); };
    if (type === 'unread_notifications') this.items = counted.notifications;
    else if (type === 'notification') {
      const { notification: row } = message;
      this.items = [row, ...this.items.filter(({ id }) => id !== row.id && id !== row.replaces)].slice(0, 100);
      this.emit('notification', row);
    } else if (type === 'notification_read') one({ isRead: true });
    else if (type === 'notification_unread') one({ isRead: false });
    else if (type === 'notifications_read') this.items = this.items.map((item) => ({ ...item, isRead: true }));
    else if (type === 'notifications_cleared') this.items = this.items.filter((item) => !item.isRead);
    else if (/^notification_(archived|deleted|expired)$/.test(type)) this.items = this.items.filter(({ id }) => id !== message.notificationId);
    else if (type !== 'resync') return;
    this.emit('list', this.items);
  }

  /** The stored list, newest first; see docs/notifications.md for what may be asked. */
  async list(query = {}) { return (await this.request('/api/user/notifications', { query })).json(); }

  /** Marks some as read, by their ids, or all; every tab hears of it. */
  async markRead(ids) {
    const body = JSON.stringify(ids ? { notificationIds: [ids].flat() } : { markAllAsRead: true });
    const headers = { 'Content-Type': 'application/json' };
    return (await this.request('/api/user/notifications', { method: 'PUT', headers, body })).json();
  }

  close() {
    super.close();
    this.quit?.abort();
    this.letGo?.();
    this.channel?.close();
    this.channel = undefined;
  }
}
