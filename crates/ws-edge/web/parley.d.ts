/** Types of parley.js. */

// What is not exported here is a type alone.
export {};

export const VERSION: string;

/** Anything that goes wrong. */
export class ParleyError extends Error {
  /** The server's (docs/protocol.md), or ours: lost, late, closed, token, started, denied, missing, busy, insecure. */
  readonly code: string;
  /** Of the socket, when one was closed. */
  readonly closeCode?: number;
  readonly retryAfterMs?: number;
}
/** The token is missing, wrong, over, or for something else. */
export class TokenError extends ParleyError { readonly status?: number }
/** Refused for another reason than the token: a limit, or the stream goes on elsewhere. */
export class PolicyError extends ParleyError {}
/** The server cannot be reached, or does not answer. */
export class ConnectionError extends ParleyError {}
/** The microphone cannot be used. */
export class MicrophoneError extends ParleyError { readonly code: 'denied' | 'missing' | 'busy' | 'insecure' }
/** A REST route said no. */
export class RequestError extends ParleyError { readonly status: number }

export type CloseReason = 'done' | 'restarting' | 'lost' | 'bad_data' | 'refused' | 'too_big' | 'fault' | 'busy'
  | 'expired' | 'silent' | 'slow' | 'unknown';
/** What a close code means. */
export function closeReason(code: number): CloseReason;

export interface Place {
  /** Where the server is; the page's own place when absent. See `address`. */
  host?: string;
  /** The same word for word: `http://10.0.0.5:8080`. */
  origin?: string;
}
/** The URL of a path of the server. */
export function address(place?: Place & { page?: Pick<Location, 'protocol' | 'host' | 'port'> }, path?: string,
  query?: Record<string, unknown>, scheme?: 'ws' | 'http'): string;
/** What a token says, unverified. */
export function claims(token: string): Record<string, unknown>;

export class Backoff {
  failures: number;
  /** Counts a failure; milliseconds to wait. */
  next(askedMs?: number, chance?: number): number;
  reset(): void;
}

/** A token, or what gets one: at each connection, before an open one ends (`refresh`), and when one has ended. */
export type Token = string | ((reason: 'connect' | 'refresh' | 'expired' | 'request') => string | Promise<string>);

export type State = 'idle' | 'connecting' | 'open' | 'waiting' | 'fallback' | 'closed';

export interface LineEvents {
  state: State;
  /** A socket was lost or refused. */
  disconnected: { code: number; reason: string; error: ParleyError };
  /** It is made again after so long. */
  retry: { waitMs: number; failures: number; error: ParleyError };
  /** It stopped for good. */
  error: ParleyError;
  /** Every message of the server as it came. */
  message: Record<string, unknown> & { type: string };
}

declare class Line<Events extends LineEvents> extends EventTarget {
  readonly state: State;
  /** Why it has stopped. */
  readonly error?: ParleyError;
  /** Listens; returns what ends that. */
  on<Name extends keyof Events & string>(name: Name, listener: (detail: Events[Name], event: CustomEvent<Events[Name]>) => void): () => void;
  /** A REST request with the token. */
  request(path: string, init?: RequestInit & { query?: Record<string, unknown> }): Promise<Response>;
  /** Sends a message; false when there is no open socket. */
  say(message: object): boolean;
  /** Ends it for good, at once; a microphone that it took is free. */
  close(): void;
}

export interface Word { text: string; start: number; end: number }
export interface Caption {
  type: 'transcript_partial' | 'transcript_final';
  sessionSlug: string;
  utteranceId: string;
  text: string;
  isFinal: boolean;
  speaker?: string;
  speakerId?: string;
  userId?: string;
  /** Milliseconds since 1970. */
  ts: number;
  sequence?: number;
  /** There when an outside source has corrected the final. */
  revision?: number;
  /** Seconds in the stream. */
  start?: number;
  end?: number;
  /** Leading characters (code points) that will hardly change. */
  stable: number;
  words?: Word[];
  language?: string;
  translations?: Record<string, string>;
  stream?: string;
  /** Of one's own speech: milliseconds from its last sound until it was here. */
  latencyMs?: number;
  /** It was understood over HTTP while no socket could be opened, and is not stored. */
  fallback?: true;
}
/** A final as it is stored. */
export interface Segment extends Pick<Caption, 'utteranceId' | 'text' | 'isFinal' | 'speaker' | 'speakerId' | 'language' | 'translations' | 'stream' | 'start' | 'end' | 'words' | 'ts'> {
  sequence: number;
  revision: number;
  /** RFC 3339. */
  startedAt: string;
  endedAt: string;
}
export interface Translation {
  type: 'translation';
  utteranceId: string;
  language: string;
  text?: string;
  error?: 'too_late' | 'unavailable' | 'refused' | 'unserved';
  sequence: number;
  ts: number;
}

export interface SessionOptions extends Place {
  token: Token;
  /** Replay finals and translations after this sequence; 0 for all; absent for what is new. */
  since?: number;
  /** False: finals only. */
  partials?: boolean;
  /** The chat of the session as well. */
  chat?: boolean;
  /** The slug for `transcript()`, when the token does not say it. */
  session?: string;
}
export interface SessionEvents extends LineEvents {
  connected: { sessionSlug: string; userId: string; ts: number };
  open: Record<string, unknown>;
  partial: Caption;
  final: Caption;
  translation: Translation;
  status: { status: 'connecting' | 'ready' | 'stopped'; engine?: string; fallbackFrom?: string; reason?: string };
  chat: { event: string; data: any; id?: unknown };
  warning: { type: string; code?: string; message: string; refused?: true };
}
/** The captions of a session as they come; comes back by itself, and misses and repeats no final. */
export class Session<Events extends SessionEvents = SessionEvents> extends Line<Events> {
  constructor(options: SessionOptions);
  /** The newest sequence that was told. */
  sequence?: number;
  open(): Promise<this>;
  chat(content: string): boolean;
  activeSpeaker(identity?: string, name?: string, isActive?: boolean): boolean;
  transcript(query?: { format?: 'json'; language?: string; speaker?: string; from?: string; to?: string }): Promise<{ sessionSlug: string; segments: Segment[] }>;
  transcript(query: { format: 'txt' | 'srt' | 'vtt'; language?: string; speaker?: string; from?: string; to?: string }): Promise<string>;
}

export interface CaptionsOptions extends SessionOptions {
  /** What is heard; the microphone when absent. */
  source?: MediaStream;
  /** How the microphone is asked for. */
  audio?: MediaTrackConstraints;
  /** BCP 47, or `auto`. */
  language?: string;
  translateTo?: string[];
  /** Silence that ends an utterance, 100 to 5000 ms. */
  endpointingMs?: number;
  /** False: never over HTTP. */
  fallback?: boolean;
}
export interface CaptionsEvents extends SessionEvents {
  /** Ten times a second; 0 to 1, and how many seconds are not acknowledged. */
  level: { rms: number; peak: number; ahead: number };
  ack: { stream: string; samples: number };
  stopped: { stream?: string; samples?: number };
  /** The source has ended by itself. */
  ended: Record<string, never>;
}
/** Speaks into a session and hears its captions. */
export class Captions extends Session<CaptionsEvents> {
  constructor(options: CaptionsOptions);
  /** @throws {MicrophoneError | TokenError | PolicyError} */
  start(): Promise<void>;
  /** Waits until everything is understood and stored. */
  stop(options?: { limitMs?: number }): Promise<void>;
  language(language: string): boolean;
  finalize(): boolean;
}

/** Tells who speaks in a LiveKit room; returns what ends that. */
export function followActiveSpeakers(room: { on(event: 'activeSpeakersChanged', listener: (speakers: any[]) => void): unknown;
  off(event: 'activeSpeakersChanged', listener: (speakers: any[]) => void): unknown }, session: Session<any>): () => void;

export interface Notification {
  id: string;
  userId: string;
  type: string;
  title: string;
  message: string;
  isRead: boolean;
  metadata: unknown;
  createdAt: string;
  sequence: number;
  priority: 'low' | 'normal' | 'high' | 'urgent';
}
export interface NotificationsOptions extends Place {
  token: Token;
  /** The user, when the token does not say it. */
  user?: string;
  /** False: a connection of this tab's own. */
  share?: boolean;
}
export interface NotificationsEvents extends LineEvents {
  notification: Notification;
  /** How many are unread. */
  count: number;
  /** The newest, at most 100. */
  list: Notification[];
  /** Something was refused, and the connection goes on. */
  warning: { code?: string; message: string };
  /** This tab has the connection. */
  leading: Record<string, never>;
}
/** A user's notifications; the tabs of one user share one connection. */
export class Notifications extends Line<NotificationsEvents> {
  constructor(options: NotificationsOptions);
  readonly count: number;
  readonly items: Notification[];
  readonly leads: boolean;
  readonly user?: string;
  start(): Promise<void>;
  list(query?: { unreadOnly?: boolean; limit?: number; cursor?: string; types?: string; archived?: boolean }): Promise<{ notifications: Notification[]; unreadCount: number; version: number; nextCursor?: string }>;
  /** By ids, or all. */
  markRead(ids?: string | string[]): Promise<{ success: true; unreadCount: number; version: number }>;
}
