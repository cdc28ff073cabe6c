use std::time::Duration;

use model::Topic;
use redis::{Cmd, Pipeline, PushInfo, Value, aio::MultiplexedConnection, aio::SendError};
use telemetry::SpanKind;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use uuid::Uuid;

use crate::{
    BusError, Event, PUBLISH_LIMIT,
    channels::Channels,
    connection::{Server, unavailable},
    envelope, others,
};

/// Counts published events by `kind`.
pub const PUBLISHED_TOTAL: &str = "event_bus_published_total";

/// Counts events that Redis did not take, by `kind`.
pub const PUBLISH_FAILED_TOTAL: &str = "event_bus_publish_failed_total";

/// After a failed attempt to connect, others fail at once for so long instead of queueing up behind new attempts.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);

pub(crate) fn describe_metrics() {
    metrics::describe_counter!(PUBLISHED_TOTAL, "Events given to Redis, by kind");
    metrics::describe_counter!(PUBLISH_FAILED_TOTAL, "Events that Redis did not take, by kind");
    for kind in envelope::KINDS {
        metrics::counter!(PUBLISHED_TOTAL, "kind" => kind).absolute(0);
        metrics::counter!(PUBLISH_FAILED_TOTAL, "kind" => kind).absolute(0);
    }
}

/// One connection, shared, and made anew when it breaks. The crate's own `ConnectionManager` would do but for one
/// thing: an error that is not one of input and output while it connects (a wrong password, say) stays for ever.
pub(crate) struct Publisher {
    server: Server,
    origin: Uuid,
    link: Mutex<Link>,
}

#[derive(Default)]
struct Link {
    connection: Option<MultiplexedConnection>,
    /// Tells the connection that broke from one that has replaced it since.
    generation: u64,
    failed: Option<(Instant, BusError)>,
}

impl Publisher {
    pub(crate) fn new(server: Server) -> Self {
        Self { server, origin: Uuid::new_v4(), link: Mutex::default() }
    }

    /// What this process is called in what it writes.
    pub(crate) fn origin(&self) -> Uuid {
        self.origin
    }

    pub(crate) async fn publish(
        &self,
        channels: &Channels,
        topic: &Topic,
        event: &Event,
    ) -> Result<(), BusError> {
        let kind = envelope::kind(event);
        let mut span = telemetry::span("publish", SpanKind::Producer);
        span.set("messaging.system", "redis");
        span.set("messaging.operation.type", "send");
        span.set("messaging.operation.name", "PUBLISH");
        span.set("parley.event.kind", kind);
        let sent = span.within(self.publish_now(channels, topic, event, kind)).await;
        if sent.is_err() {
            span.failed("redis");
        }
        sent
    }

    async fn publish_now(
        &self,
        channels: &Channels,
        topic: &Topic,
        event: &Event,
        kind: &'static str,
    ) -> Result<(), BusError> {
        let message = envelope::encode(self.origin, topic, event)?;
        let mut commands = vec![Cmd::publish(channels.of(topic), message)];
        if let Some((key, messages)) = others::encode(self.origin, topic, event)
            && let Some(channel) = channels.of_others(&key)
        {
            commands.extend(messages.into_iter().map(|message| Cmd::publish(&channel, message)));
        }
        let outcome = self.send(commands).await;
        let counter = if outcome.is_ok() { PUBLISHED_TOTAL } else { PUBLISH_FAILED_TOTAL };
        metrics::counter!(counter, "kind" => kind).increment(1);
        outcome.map(drop)
    }

    pub(crate) async fn ping(&self) -> Result<(), BusError> {
        self.send(vec![redis::cmd("PING")]).await.map(drop)
    }

    /// Sends commands in one go and waits for the answer to each.
    pub(crate) async fn send(&self, commands: Vec<Cmd>) -> Result<Vec<Value>, BusError> {
        let count = commands.len();
        let mut pipeline = Pipeline::with_capacity(count);
        for command in commands {
            pipeline.add_command(command);
        }
        timeout(PUBLISH_LIMIT, async {
            let (mut connection, generation) = self.connection().await?;
            match connection.send_packed_commands(&pipeline, 0, count).await {
                Ok(answers) => {
                    let answers =
                        answers.into_iter().map(|answer| answer.extract_error().map_err(unavailable));
                    answers.collect()
                }
                Err(error) => {
                    // After a broken pipe as after a missing answer: nothing on this connection can be trusted.
                    let mut link = self.link.lock().await;
                    if link.generation == generation {
                        link.connection = None;
                    }
                    Err(unavailable(error))
                }
            }
        })
        .await
        .unwrap_or_else(|_| Err(BusError::Unavailable("no answer in time".to_owned())))
    }

    async fn connection(&self) -> Result<(MultiplexedConnection, u64), BusError> {
        let mut link = self.link.lock().await;
        if let Some(connection) = &link.connection {
            return Ok((connection.clone(), link.generation));
        }
        if let Some((at, error)) = &link.failed
            && at.elapsed() < CONNECT_PAUSE
        {
            return Err(error.clone());
        }
        let ignored = |_: PushInfo| Ok::<(), SendError>(());
        match self.server.open(ignored).await {
            Ok(connection) => {
                link.connection = Some(connection.clone());
                link.generation += 1;
                link.failed = None;
                Ok((connection, link.generation))
            }
            Err(error) => {
                link.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }
}
