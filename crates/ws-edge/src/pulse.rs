//! What a connection does by itself: it pings, notices that nobody answers, ends with its token, and leaves an edge
//! that drains.

use std::{pin::Pin, time::Duration};

use model::{Clock, Timestamp};
use tokio::time::{Instant, Sleep, sleep_until};
use uuid::Uuid;

/// Tokens may be made for a thousand years; nobody waits for those.
const TOKEN_LOOK_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// When a client that was sent away comes back: after this and up to as much again.
const RECONNECT_AFTER: Duration = Duration::from_millis(500);

/// How far a connection is in leaving a draining edge.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaving {
    No,
    /// Its audio is being finished.
    Draining,
    /// It is sent away at this moment.
    At(Instant),
}

/// How a connection keeps itself alive.
#[derive(Clone, Copy)]
pub(crate) struct Rhythm {
    /// Between pings.
    pub(crate) interval: Duration,
    /// Pings that may go unanswered.
    pub(crate) unanswered_max: u32,
}

/// What is due when a ping is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// Send it.
    Ping,
    /// Too many of them were not answered.
    Dead,
}

/// The pulse of one connection.
pub(crate) struct Pulse {
    rhythm: Rhythm,
    /// Whether anything came from the peer since the last ping.
    heard: bool,
    unanswered: u32,
    ping_at: Instant,
    expires_at: Timestamp,
    token_ends_at: Instant,
    pub(crate) leaving: Leaving,
    /// Kept from one wait to the next: setting it anew for every message would cost as much as the message.
    alarm: Pin<Box<Sleep>>,
}

impl Pulse {
    pub(crate) fn new(rhythm: Rhythm, expires_at: Timestamp, clock: &Clock) -> Self {
        let ping_at = Instant::now() + rhythm.interval;
        Self {
            rhythm,
            heard: true,
            unanswered: 0,
            ping_at,
            expires_at,
            token_ends_at: ends_at(expires_at, clock),
            leaving: Leaving::No,
            alarm: Box::pin(sleep_until(ping_at)),
        }
    }

    /// Something came from the peer.
    pub(crate) fn heard(&mut self) {
        self.heard = true;
    }

    /// There is a new token.
    pub(crate) fn renew(&mut self, expires_at: Timestamp, clock: &Clock) {
        self.expires_at = expires_at;
        self.token_ends_at = ends_at(expires_at, clock);
    }

    /// Waits for the next ping, the end of the token, the time to leave or `also`, whichever is first. Cancel-safe.
    pub(crate) async fn wait(&mut self, also: Option<Instant>) {
        let mut next = self.ping_at.min(self.token_ends_at);
        if let Leaving::At(moment) = self.leaving {
            next = next.min(moment);
        }
        let next = also.map_or(next, |also| also.min(next));
        if self.alarm.deadline() != next {
            self.alarm.as_mut().reset(next);
        }
        self.alarm.as_mut().await;
    }

    /// Whether the token is over. The wall clock may have been set since it was looked at last.
    pub(crate) fn has_expired(&mut self, clock: &Clock) -> bool {
        self.token_ends_at = ends_at(self.expires_at, clock);
        self.expires_at <= clock.now()
    }

    /// The edge sends its clients away, each at a moment of its own within `spread`.
    pub(crate) fn leave_within(&mut self, spread: Duration) {
        self.leaving = Leaving::At(Instant::now() + jittered(spread));
    }

    /// Whether that moment has come.
    pub(crate) fn leaves(&self) -> bool {
        matches!(self.leaving, Leaving::At(moment) if moment <= Instant::now())
    }

    /// What is due, if anything. A peer is `excused` whose pong may wait behind what we do not read.
    pub(crate) fn beat(&mut self, excused: bool) -> Option<Beat> {
        if self.ping_at > Instant::now() {
            return None;
        }
        self.ping_at = Instant::now() + self.rhythm.interval;
        self.unanswered = if self.heard || excused { 0 } else { self.unanswered + 1 };
        if self.unanswered >= self.rhythm.unanswered_max {
            return Some(Beat::Dead);
        }
        self.heard = false;
        Some(Beat::Ping)
    }
}

/// When a client that is sent away should come back.
pub(crate) fn reconnect_after() -> Duration {
    RECONNECT_AFTER + jittered(RECONNECT_AFTER)
}

/// When a token ends, by the clock that does not jump.
fn ends_at(expires_at: Timestamp, clock: &Clock) -> Instant {
    Instant::now() + expires_at.since(clock.now()).min(TOKEN_LOOK_MAX)
}

/// A random part of a span.
fn jittered(span: Duration) -> Duration {
    let random = Uuid::new_v4().as_u128() as u32;
    span.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pulse(interval: Duration, clock: &Clock) -> Pulse {
        Pulse::new(Rhythm { interval, unanswered_max: 2 }, Timestamp(10_000), clock)
    }

    #[tokio::test]
    async fn a_silent_peer_is_noticed() {
        let clock = Clock::manual(Timestamp(0));
        assert_eq!(pulse(Duration::from_secs(30), &clock).beat(false), None);
        let mut pulse = pulse(Duration::ZERO, &clock);
        for (heard, excused, beat) in [
            (true, false, Beat::Ping),
            (false, false, Beat::Ping),
            (true, false, Beat::Ping),
            (false, false, Beat::Ping),
            (false, true, Beat::Ping),
            (false, false, Beat::Ping),
            (false, false, Beat::Dead),
        ] {
            if heard {
                pulse.heard();
            }
            pulse.wait(None).await;
            assert_eq!(pulse.beat(excused), Some(beat));
        }
    }

    #[tokio::test]
    async fn a_token_ends_and_may_be_renewed() {
        let clock = Clock::manual(Timestamp(0));
        let mut pulse = pulse(Duration::from_secs(30), &clock);
        assert!(!pulse.has_expired(&clock));
        clock.advance(Duration::from_secs(10));
        assert!(pulse.has_expired(&clock));
        pulse.renew(Timestamp(20_000), &clock);
        assert!(!pulse.has_expired(&clock));
    }
}
