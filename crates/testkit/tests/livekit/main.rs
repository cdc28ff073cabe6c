//! LiveKit's stand-in, seen through the client that services use and through the wires that they serve.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod api;
mod composite;
mod news;
mod news_sink;
mod track;
mod track_sink;

use livekit::{LiveKit, LiveKitSettings};
use testkit::LiveKitServer;

fn settings_of(server: &LiveKitServer) -> LiveKitSettings {
    let pairs = [
        ("LIVEKIT_WS_URL", server.url()),
        ("LIVEKIT_API_KEY", server.key()),
        ("LIVEKIT_API_SECRET", server.secret().expose().to_owned()),
    ];
    LiveKitSettings::read(&mut settings::of(pairs)).unwrap()
}

fn client(server: &LiveKitServer) -> LiveKit {
    LiveKit::new(&settings_of(server)).unwrap()
}
