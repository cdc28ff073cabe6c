//! How often one address may knock and one participant may send.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    net::IpAddr,
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use model::{Identity, SeatId, SessionSlug, UserId};

use crate::settings::EdgeSettings;

/// Seconds' worth of handshakes that may come at once: a page that reloads with all its tabs.
const HANDSHAKE_BURST_S: u32 = 4;

/// Seconds' worth of messages that may come at once: what a network held back.
const FRAME_BURST_S: u32 = 2;

/// Seconds' worth of messages of a tab that may come at once: every subscription of a page that opens, and more than a
/// connection may have, so that whoever asks for too many is told that rather than that it asks too fast.
const WORD_BURST_S: u32 = 6;

/// How often in a second a client may say that somebody writes. Others see it for some seconds each time.
const TYPING_PER_S: NonZeroU32 = NonZeroU32::new(2).expect("not zero");

/// Seconds' worth of it that may come at once.
const TYPING_BURST_S: u32 = 5;

/// Keys that one limiter remembers, about 40 bytes each. When it knows more, it refuses everybody until it has
/// forgotten those that are back at their full allowance.
const KEYS_MAX: usize = 200_000;

/// Messages above its rate that a client may send before it is sent away.
const FLOOD_MAX: u32 = 1_000;

/// Of how many of them each message within the rate makes up: who keeps to ten times its rate is never sent away, however
/// fast this machine is.
const FLOOD_FORGIVEN: u32 = 10;

/// How many of them are answered with an error, which bounds what a flood makes us say.
const FLOOD_ANSWERED: u32 = 20;

/// How often it forgets them.
pub(crate) const FORGET_INTERVAL: Duration = Duration::from_secs(5);

/// Refused for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooOften {
    /// When the same would be allowed.
    pub(crate) retry_after: Duration,
}

/// One rule for many keys. Keys are hashed with a secret of this process: they take 8 bytes each whatever a client
/// sends, and nobody can aim at another's.
struct Limiter {
    rate: DefaultKeyedRateLimiter<u64>,
    hasher: RandomState,
    clock: DefaultClock,
}

impl Limiter {
    fn new(per_second: NonZeroU32, burst_s: u32) -> Self {
        let burst = per_second.saturating_mul(NonZeroU32::new(burst_s).unwrap_or(NonZeroU32::MIN));
        let quota = Quota::per_second(per_second).allow_burst(burst);
        Self { rate: RateLimiter::keyed(quota), hasher: RandomState::new(), clock: DefaultClock::default() }
    }

    fn allow(&self, key: impl Hash) -> Result<(), TooOften> {
        if self.rate.len() > KEYS_MAX {
            return Err(TooOften { retry_after: FORGET_INTERVAL });
        }
        let key = self.hasher.hash_one(key);
        self.rate
            .check_key(&key)
            .map_err(|refused| TooOften { retry_after: refused.wait_time_from(self.clock.now()) })
    }

    fn forget(&self) {
        self.rate.retain_recent();
        self.rate.shrink_to_fit();
    }
}

/// How far a client is above the rate of its messages.
#[derive(Debug, Default)]
pub(crate) struct Flood {
    dropped: u32,
}

/// What becomes of a client whose message was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Above {
    /// It is told.
    Told,
    /// It was told often enough.
    Silent,
    /// It is sent away.
    Ended,
}

impl Flood {
    /// A message was within the rate.
    pub(crate) fn within(&mut self) {
        self.dropped = self.dropped.saturating_sub(FLOOD_FORGIVEN);
    }

    /// A message was dropped.
    pub(crate) fn above(&mut self) -> Above {
        self.dropped += 1;
        match self.dropped {
            1..=FLOOD_ANSWERED => Above::Told,
            ..=FLOOD_MAX => Above::Silent,
            _ => Above::Ended,
        }
    }
}

/// The edge's limits on how often.
pub(crate) struct Limits {
    addresses: Limiter,
    identities: Limiter,
    frames: Limiter,
    words: Limiter,
    typing: Limiter,
    tabs: AtomicU64,
}

impl Limits {
    pub(crate) fn new(settings: &EdgeSettings) -> Self {
        Self {
            addresses: Limiter::new(settings.address_handshakes, HANDSHAKE_BURST_S),
            identities: Limiter::new(settings.identity_handshakes, HANDSHAKE_BURST_S),
            frames: Limiter::new(settings.frames, FRAME_BURST_S),
            words: Limiter::new(settings.tab_messages, WORD_BURST_S),
            typing: Limiter::new(TYPING_PER_S, TYPING_BURST_S),
            tabs: AtomicU64::new(0),
        }
    }

    /// A new socket from an address.
    pub(crate) fn address_handshake(&self, address: IpAddr) -> Result<(), TooOften> {
        self.addresses.allow(household(address))
    }

    /// A new socket of a participant.
    pub(crate) fn identity_handshake(
        &self,
        session: &SessionSlug,
        identity: &Identity,
    ) -> Result<(), TooOften> {
        self.identities.allow((session, identity))
    }

    /// A new socket of a user.
    pub(crate) fn user_handshake(&self, user: &UserId) -> Result<(), TooOften> {
        self.identities.allow(user)
    }

    /// Names a new `/ws`, or client of chat, for [`Limits::word`].
    pub(crate) fn next_tab(&self) -> u64 {
        self.tabs.fetch_add(1, Ordering::Relaxed)
    }

    /// A message on one `/ws`, or of one client of chat.
    pub(crate) fn word(&self, tab: u64) -> Result<(), TooOften> {
        self.words.allow(tab)
    }

    /// A chat message over HTTP, of a user or, when nobody has proved to be one, from an address.
    pub(crate) fn post(&self, user: Option<&UserId>, address: IpAddr) -> Result<(), TooOften> {
        match user {
            Some(user) => self.words.allow(user),
            None => self.words.allow(("address", household(address))),
        }
    }

    /// Somebody writes.
    pub(crate) fn typing(&self, seat: SeatId) -> Result<(), TooOften> {
        self.typing.allow(seat)
    }

    /// A message of a participant, all sockets counted.
    pub(crate) fn frame(&self, session: &SessionSlug, identity: &Identity) -> Result<(), TooOften> {
        self.frames.allow((session, identity))
    }

    /// Lets go of keys that nobody used for a while.
    pub(crate) fn forget(&self) {
        for limiter in [&self.addresses, &self.identities, &self.frames, &self.words, &self.typing] {
            limiter.forget();
        }
    }
}

/// Whoever has one IPv6 address has its /64.
fn household(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64 | 1 << 63,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_and_then_refused_with_a_hint() {
        let limiter = Limiter::new(NonZeroU32::new(1).unwrap(), 3);
        for _ in 0..3 {
            assert_eq!(limiter.allow("a"), Ok(()));
        }
        let refused = limiter.allow("a").unwrap_err();
        assert!(refused.retry_after <= Duration::from_secs(1), "{refused:?}");
        assert_eq!(limiter.allow("b"), Ok(()), "others are not concerned");
    }

    #[test]
    fn a_flood_ends_however_slowly_it_is_read() {
        let mut flood = Flood::default();
        let told = (0..20).map(|_| flood.above()).collect::<Vec<_>>();
        assert_eq!(told, [Above::Told; 20]);
        // Eleven times the rate comes to its end, ten times never does.
        let end = (0..).find(|_| {
            flood.within();
            (0..11).any(|_| flood.above() == Above::Ended)
        });
        assert!((900..1_000).contains(&end.unwrap()), "{end:?}");
        let mut patient = Flood::default();
        assert!((0..10_000).all(|_| {
            patient.within();
            (0..10).all(|_| patient.above() == Above::Told)
        }));
    }

    #[test]
    fn addresses_of_one_household_count_together() {
        let of = |text: &str| household(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("10.0.0.1"), of("::ffff:10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
