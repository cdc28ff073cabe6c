use std::time::Duration;

use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, RedisError, aio::AsyncPushSender,
    aio::MultiplexedConnection,
};
use settings::Secret;

use crate::BusError;

/// Longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// Longest wait for the answer to one command. Redis answers in microseconds; a second is a stall.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

pub(crate) fn client(url: &Secret) -> Result<Client, BusError> {
    let info = url.expose().into_connection_info().map_err(|_| BusError::Address)?;
    // RESP3 lets a subscribed connection answer PING, and tells events from answers.
    let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Client::open(info.set_redis_settings(redis)).map_err(|_| BusError::Address)
}

pub(crate) async fn open(
    client: &Client,
    pushes: impl AsyncPushSender,
) -> Result<MultiplexedConnection, BusError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_LIMIT))
        .set_response_timeout(Some(ANSWER_LIMIT))
        .set_push_sender(pushes);
    client.get_multiplexed_async_connection_with_config(&config).await.map_err(unavailable)
}

/// Redis' own texts name commands, users and hosts; never what was published.
pub(crate) fn unavailable(error: RedisError) -> BusError {
    BusError::Unavailable(error.to_string())
}
