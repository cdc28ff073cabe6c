//! One connection of an encoder: bytes to events, answers back, and its end within its deadline.

use std::{net::IpAddr, sync::Arc, time::Duration};

use model::SessionSlug;
use rtmp::{Event, Publish, Refusal, ServerSession, SessionError};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, Sleep, sleep_until, timeout, timeout_at},
};
use uuid::Uuid;

use crate::{
    Ingest,
    desk::{InUse, Leave, Seat},
    metrics::{self, Open, Reason},
    permit,
    relay::{Media, Relay},
    source,
};

/// Read at a time. It is what a connection holds while it says nothing.
const READ_BYTES: usize = 8 * 1024;

/// How long a connection that we end may go on sending.
const LISTEN_OUT: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    /// The peer closed it.
    #[error("closed by the peer")]
    Closed,
    /// We cut it.
    #[error("{}", .0.label())]
    Cut(Reason),
    /// It breaks the protocol.
    #[error("{0}")]
    Protocol(#[from] SessionError),
    /// The publish was refused; counted and logged there.
    #[error("publish refused")]
    Refused,
    /// The sound cannot be understood; the text is for people.
    #[error("{1}")]
    Undecodable(&'static str, String),
}

impl End {
    fn label(&self) -> Option<&'static str> {
        match self {
            Self::Closed | Self::Refused => None,
            Self::Cut(reason) => Some(reason.label()),
            Self::Protocol(error) => Some(error.label()),
            Self::Undecodable(label, _) => Some(label),
        }
    }
}

/// Serves a connection to its end. `deadline` is when it must publish.
pub(crate) async fn serve(
    ingest: &Arc<Ingest>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    address: IpAddr,
    deadline: Instant,
) {
    let seed = Uuid::new_v4().as_u64_pair().0;
    let session = ServerSession::new(seed, ingest.settings.forward.is_some());
    let mut connection =
        Connection { ingest, stream, address, session, deadline, seat: None, relay: None, publishing: None };
    let end = connection.run().await;
    if let Some(label) = end.label() {
        metrics::refused(label);
        tracing::info!(%address, reason = label, "connection ended: {end}");
    } else {
        tracing::debug!(%address, "connection ended: {end}");
    }
    // Whoever comes next need not wait until this one has read its goodbye.
    (connection.seat, connection.relay, connection.publishing) = (None, None, None);
    connection.say_goodbye(&end).await;
}

struct Connection<'a, S> {
    ingest: &'a Arc<Ingest>,
    stream: S,
    address: IpAddr,
    session: ServerSession,
    deadline: Instant,
    seat: Option<Seat>,
    relay: Option<Relay>,
    publishing: Option<Open>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    async fn run(&mut self) -> End {
        let draining = self.ingest.life.draining().clone();
        let mut buffer = vec![0; READ_BYTES];
        let mut limit = Box::pin(sleep_until(self.deadline));
        loop {
            let read = tokio::select! {
                read = self.stream.read(&mut buffer) => read,
                leave = must_leave(&mut self.seat) => return left(leave),
                () = draining.cancelled() => return End::Cut(Reason::Draining),
                () = &mut limit => return self.too_late(),
            };
            let count = match read {
                Ok(0) | Err(_) => return End::Closed,
                Ok(count) => count,
            };
            let outcome = tokio::select! {
                outcome = self.take(buffer.get(..count).unwrap_or_default()) => outcome,
                () = draining.cancelled() => Err(End::Cut(Reason::Draining)),
            };
            if let Err(end) = outcome {
                return end;
            }
            self.set_limit(limit.as_mut());
        }
    }

    /// Until it publishes there is one deadline for all, and another from the end of a publication to the next; while it
    /// publishes each word puts the end off.
    fn set_limit(&self, limit: std::pin::Pin<&mut Sleep>) {
        if self.session.publishing() {
            limit.reset(Instant::now() + self.ingest.settings.idle_limit);
        } else if limit.deadline() != self.deadline {
            limit.reset(self.deadline);
        }
    }

    fn too_late(&self) -> End {
        End::Cut(if self.session.publishing() { Reason::Idle } else { Reason::TooLate })
    }

    async fn take(&mut self, mut input: &[u8]) -> Result<(), End> {
        let mut audio = 0;
        let bytes = input.len();
        loop {
            let event = self.session.receive(&mut input);
            // What the session wants to say about an error is said as well.
            self.write().await?;
            match event? {
                None => break,
                Some(Event::PublishRequested(publish)) => self.decide(publish).await?,
                Some(Event::Audio { timestamp, data }) => {
                    audio += data.len();
                    self.pass_on(|| Media::Audio(timestamp, data.clone()));
                    if let Some(seat) = &mut self.seat
                        && !seat.deliver(timestamp, data).await
                    {
                        return Err(left(seat.must_leave().await));
                    }
                }
                Some(Event::Unpublished) => {
                    if let Some(mut seat) = self.seat.take() {
                        seat.said = true;
                    }
                    (self.relay, self.publishing) = (None, None);
                    // It may begin another, and has as long for that as for the first.
                    self.deadline = Instant::now() + self.ingest.settings.publish_limit;
                    tracing::info!(address = %self.address, "unpublished");
                }
                Some(Event::Connected(connect)) => {
                    tracing::debug!(address = %self.address, enhanced = connect.enhanced, "connected");
                }
                Some(Event::Video { timestamp, data }) => {
                    self.pass_on(|| Media::Video(timestamp, data));
                }
                Some(Event::Data { timestamp, data }) => {
                    self.pass_on(|| Media::Data(timestamp, data));
                }
                Some(Event::Pong(_)) => {}
            }
        }
        metrics::received(bytes, audio);
        Ok(())
    }

    fn pass_on(&self, media: impl FnOnce() -> Media) {
        if let Some(relay) = &self.relay {
            relay.offer(media());
        }
    }

    /// Sends the stream on as well, where that is configured.
    fn relay(&self, key: &str, session: &SessionSlug) -> Option<Relay> {
        match self.ingest.settings.forward.as_ref()?.address(key, session) {
            Ok(address) => Some(Relay::start(&self.ingest.life, address)),
            Err(error) => {
                tracing::warn!(address = %self.address, "relay: this key makes no address: {error}");
                None
            }
        }
    }

    async fn write(&mut self) -> Result<(), End> {
        let output = self.session.take_output();
        if output.is_empty() {
            return Ok(());
        }
        match timeout(self.ingest.settings.write_limit, self.stream.write_all(&output)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Closed),
            Err(_) => Err(End::Cut(Reason::SlowReader)),
        }
    }

    async fn decide(&mut self, publish: Publish) -> Result<(), End> {
        let deciding = permit::decide(self.ingest, &publish, self.address);
        let permit = match timeout_at(self.deadline, deciding).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(denied)) => {
                metrics::refused(denied.label());
                tracing::info!(address = %self.address, reason = denied.label(), "publish refused");
                self.session.refuse(denied.refusal(), &denied.to_string());
                return Err(End::Refused);
            }
            Err(_) => {
                self.session.refuse(Refusal::Unavailable, "the stream key could not be checked in time");
                return Err(End::Cut(Reason::TooLate));
            }
        };
        // One connection publishes one stream at a time; the one before has ended.
        self.seat = None;
        let session = permit.session.clone();
        match self.ingest.desks.take(&permit, self.ingest.settings.takeover) {
            Ok((seat, new)) => {
                if let Some((desk, tags)) = new {
                    let task = source::run(self.ingest.clone(), permit, desk, tags);
                    self.ingest.life.spawn(task);
                }
                tracing::info!(address = %self.address, stream = %seat.stream(), begun = seat.begun.label(), "publishing");
                metrics::begun(seat.begun);
                (self.seat, self.relay) = (Some(seat), self.relay(&publish.key, &session));
                self.publishing = Some(Open::publisher());
                self.session.accept();
                self.write().await
            }
            Err(InUse) => {
                self.session.refuse(Refusal::KeyInUse, "this stream key is in use");
                Err(End::Cut(Reason::InUse))
            }
        }
    }

    /// Tells the encoder why, as far as it listens, and closes.
    async fn say_goodbye(&mut self, end: &End) {
        match end {
            End::Closed => return,
            End::Undecodable(_, text) => self.session.end(text),
            End::Cut(Reason::Draining) => {
                self.session.request_reconnect();
                self.session.end("the server goes away, connect again");
            }
            End::Cut(Reason::TakenOver) => self.session.end(Leave::TakenOver.text()),
            End::Cut(Reason::Failed) => self.session.end(Leave::Failed.text()),
            End::Cut(_) | End::Protocol(_) | End::Refused => {}
        }
        if self.write().await.is_err() {
            return;
        }
        // What the encoder still sends is read and dropped for a moment: closed at once, the kernel would take our last
        // words back.
        let _ = timeout(LISTEN_OUT, async {
            let mut dropped = [0; 4_096];
            if self.stream.shutdown().await.is_ok() {
                while self.stream.read(&mut dropped).await.is_ok_and(|count| count > 0) {}
            }
        })
        .await;
    }
}

/// Waits until the connection must go; for ever while it does not publish. Cancel-safe.
async fn must_leave(seat: &mut Option<Seat>) -> Leave {
    match seat {
        Some(seat) => seat.must_leave().await,
        None => std::future::pending().await,
    }
}

fn left(leave: Leave) -> End {
    match leave {
        Leave::TakenOver => End::Cut(Reason::TakenOver),
        Leave::Undecodable(label, text) => End::Undecodable(label, text),
        Leave::Failed => End::Cut(Reason::Failed),
    }
}
