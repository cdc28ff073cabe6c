//! System A's test mode: everybody who follows a session is sent a made-up transcript now and then, so that a web app can
//! be tried without anybody speaking.

use std::{sync::Arc, time::Duration};

use model::JsonObject;
use serde_json::json;
use tokio::time::sleep;

use crate::{Edge, update::Update};

/// How often.
const INTERVAL: Duration = Duration::from_secs(5);

/// Largest message, in bytes; the longest slug leaves it far smaller.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Sends until the edge drains.
pub(crate) async fn run(edge: Arc<Edge>) {
    loop {
        tokio::select! {
            () = edge.life.draining().cancelled() => return,
            () = sleep(INTERVAL) => {}
        }
        for (session, followers) in edge.transcripts.followers() {
            let now = edge.clock.now();
            let message = json!({
                "type": "transcript",
                "sessionSlug": session,
                "userId": "test-user",
                "utteranceId": format!("test-{}", now.0),
                "text": "This is a test transcript",
                "isFinal": true,
                "ts": now,
            });
            if followers > 0
                && let Ok(message) = JsonObject::from_value(&message, MESSAGE_BYTES_MAX)
            {
                edge.transcripts.hub.offer(&session, &Update::verbatim(message));
            }
        }
    }
}
