//! One client of Socket.IO in the namespace `/`: who it is, what it says, what it is told, and how it ends. One task each.

use std::{future::poll_fn, pin::pin, sync::Arc, time::Duration};

use fanout::Taken;
use futures_util::stream::StreamExt as _;
use model::{FaultKind, RoomId, Sequence, SessionSlug, UserId};
use settings::Secret;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    chatter::{Chatter, refusal},
    protocol::{self, Done, InRoom, Problem, Request, Telling},
    said::Said,
    seat::{Out, Seat, Work},
};
use crate::{
    Edge, answers,
    close::Close,
    ending::{self, End, end_with, go_on},
    gate::Gate,
    limits::{Above, Flood, TooOften},
    metrics::Refused,
    orders::{Order, Orders, orders},
    pulse::{Pulse, Rhythm, reconnect_after},
    socket::Unsent,
    socketio::{Asked, Denied, Event, Heard, Reply, Visitor},
};

/// Events in a row that cannot be read before the client is sent away.
const BAD_EVENTS_MAX: u32 = 20;

/// What a guest may show so that it is the same guest next time, in bytes.
const GUEST_KEY_BYTES: std::ops::RangeInclusive<usize> = 16..=128;

/// Letters of a connection's id in the name of whoever has none yet, as system B has it.
const NAMELESS_LETTERS: usize = 6;

/// Who comes in.
pub(crate) struct Entrant {
    chatter: Chatter,
    user: UserId,
    /// The name that it comes with.
    name: Option<String>,
    home: RoomId,
    since: Option<Sequence>,
}

/// Who asks to come in, by `auth`, query or headers: `token`, `username`, `room` or `sessionSlug`, `since`, `guestKey`.
///
/// # Errors
/// Why not.
pub(crate) fn admit(edge: &Edge, asked: &Asked<'_>) -> Result<Entrant, Denied> {
    let denied = |fault: FaultKind, text: &str| Denied { fault, text: text.to_owned() };
    let wrong = |text| denied(FaultKind::Caller, text);
    if !answers::is_allowed(&edge.settings.origins, asked.headers.get(http::header::ORIGIN)) {
        return Err(denied(FaultKind::Forbidden, "Pages of this origin may not connect"));
    }
    let given = |name| asked.value(name).filter(|value| !value.trim().is_empty());
    let chatter =
        Chatter::of(edge, asked.token().as_deref()).map_err(|fault| denied(fault, refusal(fault)))?;
    let room = match (given("room"), given("sessionSlug")) {
        (Some(room), _) => Some(room.parse().map_err(|_| wrong("room must be 1 to 128 bytes"))?),
        (None, Some(slug)) => {
            let slug: SessionSlug = slug.parse().map_err(|_| wrong("sessionSlug must be 1 to 128 bytes"))?;
            Some(RoomId::of_session(&slug))
        }
        (None, None) => None,
    };
    let home = room.unwrap_or_else(|| chatter.home());
    if !chatter.may_read(&home) {
        return Err(denied(FaultKind::Forbidden, &Problem::Forbidden.text()));
    }
    let name = given("username").map(|name| {
        protocol::name(&name).ok_or(wrong("username must be 1 to 128 bytes without control characters"))
    });
    let since = given("since").map(|since| {
        since.trim().parse().map(Sequence).map_err(|_| wrong("since must be a whole number, not negative"))
    });
    let user = match chatter.user() {
        Some(user) => user,
        None => guest_id(given("guestKey").as_deref()).ok_or(wrong("guestKey must be 16 to 128 bytes"))?,
    };
    chatter.knocks(edge).map_err(|TooOften { retry_after }| {
        let text = format!("too many connections, try again in {} ms", retry_after.as_millis());
        denied(FaultKind::Overloaded, &text)
    })?;
    let name = name.transpose()?;
    // A participant has a name by its token.
    let named = matches!(chatter, Chatter::Participant(_)).then(|| chatter.name()).flatten();
    Ok(Entrant { name: name.or(named), user, home, since: since.transpose()?, chatter })
}

/// The id of whoever has proved nothing: the same for the same key. `None` when it is no key.
fn guest_id(key: Option<&str>) -> Option<UserId> {
    let uuid = match key {
        None => Uuid::new_v4(),
        Some(key) if GUEST_KEY_BYTES.contains(&key.len()) => {
            let hash = Sha256::digest(key.as_bytes());
            uuid::Builder::from_random_bytes(*hash.first_chunk()?).into_uuid()
        }
        Some(_) => return None,
    };
    uuid.to_string().parse().ok()
}

type Flow = ending::Flow<Telling>;
/// Serves a client until it ends.
pub(crate) async fn serve(mut guest: Box<Guest>) {
    let edge = guest.edge.clone();
    let _open = (edge.tally.connection(), edge.tally.guest());
    let began = Instant::now();
    let outcome = guest.run().await;
    let Guest { mut visitor, received, delivered, seat, .. } = *guest;
    let rooms = seat.rooms();
    drop(seat);
    let code = outcome.code();
    if let End::Close(close, last) = outcome {
        edge.tally.closed(close);
        if let Some(last) = last {
            let _ = tell(&mut visitor, &last).await;
        }
        Box::pin(visitor.leave(close)).await;
    }
    let seconds = began.elapsed().as_secs();
    tracing::info!(code, seconds, received, delivered, rooms, "guest ended");
}

async fn tell(visitor: &mut Visitor, telling: &Telling) -> Result<(), Unsent> {
    let body: &serde_json::value::RawValue = &telling.body;
    match &telling.room {
        None => visitor.emit(telling.name, body).await,
        Some(room_id) => visitor.emit(telling.name, &(body, InRoom { room_id })).await,
    }
}

/// A client in the namespace, and what is known of it. There are many and most of them wait: seldom state is boxed.
pub(crate) struct Guest {
    edge: Arc<Edge>,
    visitor: Visitor,
    /// Names this connection to the limits.
    id: u64,
    seat: Seat<Option<Reply>>,
    /// The name that it came with.
    name: Option<String>,
    pulse: Pulse,
    /// The ends that the edge orders.
    orders: Orders,
    gate: Gate,
    bad: u32,
    flood: Flood,
    received: u64,
    delivered: u64,
}

/// What a guest wakes for.
enum Wake {
    Heard(Heard),
    Said(Taken<Said>),
    Work(Work),
    Time,
    Order(Order),
}

impl Guest {
    pub(crate) fn new(edge: &Arc<Edge>, visitor: Visitor, entrant: Entrant) -> Box<Self> {
        let Entrant { chatter, user, name, home, since } = entrant;
        // Socket.IO sees to its pings by itself; this is when a session is told that it is in use.
        let rhythm = Rhythm { interval: edge.settings.ping_interval, unanswered_max: u32::MAX };
        let pulse = Pulse::new(rhythm, chatter.expires_at(), &edge.clock);
        Box::new(Self {
            id: edge.limits.next_tab(),
            seat: Seat::new(edge, chatter, user, home, since),
            name,
            pulse,
            orders: orders(edge),
            gate: Gate::new(),
            bad: 0,
            flood: Flood::default(),
            received: 0,
            delivered: 0,
            edge: edge.clone(),
            visitor,
        })
    }

    async fn run(&mut self) -> End<Telling> {
        self.note_present();
        self.come_in();
        if let Flow::Break(end) = self.pass_on().await {
            return end;
        }
        loop {
            let wake = self.wake().await;
            let flow = self.handle(wake).await;
            if let Flow::Break(end) = flow {
                return end;
            }
            if let Flow::Break(end) = self.pass_on().await {
                return end;
            }
        }
    }

    /// Says who it is; whoever has proved nothing is called by its connection until it says a name, as in system B.
    fn come_in(&mut self) {
        let name = self.name.take();
        if !matches!(self.seat.chatter(), Chatter::Anonymous) {
            self.seat.start(name);
            return;
        }
        let id = self.visitor.id();
        let letters: String = id.chars().take(NAMELESS_LETTERS).collect();
        self.seat.put(Out::Tell(protocol::connected(&id, &format!("User-{letters}"))));
        if let Some(name) = name {
            self.seat.start(Some(name));
        }
    }

    fn note_present(&self) {
        if let Chatter::Participant(principal) = self.seat.chatter() {
            self.edge.sessions.present(principal);
        }
    }

    /// Waits for whatever comes first. What is said in its rooms is looked for at every turn, everything else when it has
    /// called.
    async fn wake(&mut self) -> Wake {
        let Self { visitor, seat, pulse, orders, gate, .. } = self;
        poll_fn(|context| {
            let other = gate.poll(context, |context| {
                let hears = !seat.is_full();
                let other = async {
                    tokio::select! {
                        heard = visitor.next(), if hears => Wake::Heard(heard),
                        work = seat.work() => Wake::Work(work),
                        () = pulse.wait(None) => Wake::Time,
                        Some(order) = orders.next() => Wake::Order(order),
                    }
                };
                pin!(other).poll(context)
            });
            if other.is_ready() {
                // There may be more, and what it is about to change.
                gate.open();
                return other;
            }
            seat.poll_said(context).map(Wake::Said)
        })
        .await
    }

    async fn handle(&mut self, wake: Wake) -> Flow {
        match wake {
            Wake::Heard(heard) => self.hear(heard),
            Wake::Said(taken) => {
                if self.seat.take_in(taken) {
                    return go_on();
                }
                self.pass_on().await?;
                end_with(Close::SlowFollower, protocol::error(Problem::TooSlow))
            }
            Wake::Work(work) => {
                self.seat.worked(work);
                go_on()
            }
            Wake::Time => self.time(),
            Wake::Order(Order::Farewell) => {
                self.pulse.leave_within(self.edge.settings.drain_spread);
                go_on()
            }
            Wake::Order(Order::Stop) => leave(),
        }
    }

    fn hear(&mut self, heard: Heard) -> Flow {
        match heard {
            Heard::Gone => Flow::Break(End::Gone),
            Heard::TooMany => end_with(Close::Busy, protocol::error(Problem::TooMany)),
            Heard::Unreadable => {
                self.count_received();
                self.refuse(Problem::Invalid("An event is a name and its arguments"), None)
            }
            Heard::Event(event) => {
                self.count_received();
                match self.edge.limits.word(self.id) {
                    Ok(()) => {
                        self.flood.within();
                        self.hear_event(event)
                    }
                    Err(TooOften { retry_after }) => self.drop_flood(retry_after, event.reply),
                }
            }
        }
    }

    fn count_received(&mut self) {
        self.received += 1;
        self.edge.tally.received();
    }

    /// An event above the rate is not followed; its sender is told, as long as it may still be listening.
    fn drop_flood(&mut self, retry_after: Duration, reply: Option<Reply>) -> Flow {
        self.edge.tally.refused(Refused::Rate);
        let problem = Problem::TooOften { retry_after };
        match self.flood.above() {
            Above::Told => self.seat.put(Out::Answer(reply, Err(problem))),
            Above::Silent => {}
            Above::Ended => return end_with(Close::Policy, protocol::error(problem)),
        }
        go_on()
    }

    fn hear_event(&mut self, event: Event) -> Flow {
        let data = event.args.into_iter().next().unwrap_or_default();
        match Request::read(&event.name, &data) {
            // From a newer client, or another kind of one.
            Err(Problem::Unknown) => {
                self.edge.tally.refused(Refused::Unknown);
                if event.reply.is_some() {
                    self.seat.put(Out::Answer(event.reply, Err(Problem::Unknown)));
                }
                go_on()
            }
            Err(problem) => self.refuse(problem, event.reply),
            Ok(Request::Refresh(token)) => {
                let outcome = self.refresh(&token);
                self.seat.put(Out::Answer(event.reply, outcome));
                go_on()
            }
            Ok(request) => {
                self.bad = 0;
                self.seat.ask(request, event.reply);
                go_on()
            }
        }
    }

    /// Says why an event is not followed; too many of them in a row end the connection.
    fn refuse(&mut self, problem: Problem, reply: Option<Reply>) -> Flow {
        self.edge.tally.refused(Refused::Invalid);
        self.bad += 1;
        if self.bad > BAD_EVENTS_MAX {
            return end_with(Close::Policy, protocol::error(problem));
        }
        self.seat.put(Out::Answer(reply, Err(problem)));
        go_on()
    }

    fn refresh(&mut self, token: &Secret) -> Result<Done, Problem> {
        let fresh = Chatter::of(&self.edge, Some(token.expose())).map_err(Problem::BadToken)?;
        if !fresh.is_same(self.seat.chatter()) {
            return Err(Problem::BadToken(FaultKind::Forbidden));
        }
        let expires_at = fresh.expires_at();
        self.pulse.renew(expires_at, &self.edge.clock);
        self.seat.refresh(fresh);
        self.bad = 0;
        Ok(Done::Refreshed(expires_at))
    }

    /// Passes on whatever the seat has for the client. Whoever wants to know what became of an event is told so; of the others,
    /// those whose event was not followed.
    async fn pass_on(&mut self) -> Flow {
        for out in self.seat.out() {
            let telling = match out {
                Out::Tell(telling) => telling,
                Out::Trouble(problem) | Out::Answer(None, Err(problem)) => protocol::error(problem),
                Out::Answer(None, Ok(_)) => continue,
                Out::Answer(Some(reply), outcome) => {
                    reply.send(&*protocol::ack(&outcome));
                    continue;
                }
            };
            self.delivered += 1;
            self.edge.tally.delivered(1);
            if let Err(unsent) = tell(&mut self.visitor, &telling).await {
                self.edge.tally.undelivered();
                return Flow::Break(unsent.into());
            }
        }
        go_on()
    }

    fn time(&mut self) -> Flow {
        if self.pulse.has_expired(&self.edge.clock) {
            return end_with(Close::Expired, protocol::error(Problem::Expired));
        }
        if self.pulse.leaves() {
            return leave();
        }
        if self.pulse.beat(true).is_some() {
            self.note_present();
        }
        go_on()
    }
}

fn leave() -> Flow {
    end_with(Close::GoingAway, protocol::reconnect(reconnect_after()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_with_a_key_is_the_same_one_next_time() {
        let key = "0123456789abcdef";
        let id = guest_id(Some(key)).unwrap();
        assert_eq!(guest_id(Some(key)), Some(id.clone()));
        assert!(!id.as_str().contains(key));
        let uuid: Uuid = id.as_str().parse().unwrap();
        assert_eq!(uuid.get_version_num(), 4, "as those of system B");
        assert_ne!(guest_id(Some("0123456789abcdeg")), Some(id));
        assert_ne!(guest_id(None), guest_id(None));
        for wrong in ["", "short", &"x".repeat(129)] {
            assert_eq!(guest_id(Some(wrong)), None, "{wrong}");
        }
    }
}
