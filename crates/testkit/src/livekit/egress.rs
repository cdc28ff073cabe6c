//! Egresses: one track to a WebSocket, or a whole room over RTMP.

use std::{process::Stdio, sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use livekit_protocol::{EgressStatus, stream_info};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    process::{Child, Command},
    sync::watch,
    time::{Instant, interval_at, sleep, sleep_until, timeout},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tungstenite::{Message, client::IntoClientRequest, protocol::frame::coding::CloseCode};

use super::{
    sound::{FRAME, FRAME_SAMPLES, Frame, Upsampler},
    world::{EgressState, Order, TrackState, World, nanoseconds},
};

/// How often a WebSocket is pinged.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long an ordered end may take.
const END_LIMIT: Duration = Duration::from_secs(5);

/// How often a dropped RTMP sink is dialled again, and the pause before.
const RETRIES_MAX: u32 = 60;
const RETRY_PAUSE: Duration = Duration::from_millis(500);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Why nothing more is sent.
enum End {
    /// As it should be.
    Complete,
    /// Because of this.
    Failed(&'static str),
}

impl End {
    fn status(&self) -> (EgressStatus, &'static str) {
        match self {
            Self::Complete => (EgressStatus::EgressComplete, ""),
            Self::Failed(why) => (EgressStatus::EgressFailed, why),
        }
    }
}

/// Sends one track to a WebSocket until either is gone, or somebody wants it no more. Never dials twice.
pub(super) async fn send_track(world: Arc<World>, egress: Arc<EgressState>, track: Option<Arc<TrackState>>) {
    let end = match track {
        Some(track) => dial_and_send(&world, &egress, &track).await,
        None => End::Failed("track not found"),
    };
    let (status, error) = end.status();
    world.egress_is(&egress, status, error);
}

async fn dial_and_send(world: &World, egress: &EgressState, track: &TrackState) -> End {
    let mut order = egress.order.subscribe();
    let dialled = tokio::select! {
        dialled = dial(&egress.url) => dialled,
        _ = ordered(&mut order) => return End::Complete,
    };
    let Some(mut socket) = dialled else { return End::Failed("could not connect to the websocket") };
    world.egress_is(egress, EgressStatus::EgressActive, "");
    let end = tokio::select! {
        biased;
        order = ordered(&mut order) => match order {
            Order::Die => return End::Failed("the egress was killed"),
            Order::Go | Order::Stop => End::Complete,
        },
        end = pump(&mut socket, track) => end,
    };
    if matches!(end, End::Complete) {
        let _best_effort = timeout(END_LIMIT, socket.close(None)).await;
    }
    end
}

async fn dial(url: &str) -> Option<Socket> {
    let mut request = url.into_client_request().ok()?;
    request.headers_mut().insert("content-type", http::HeaderValue::from_static("audio/x-raw"));
    Some(connect_async(request).await.ok()?.0)
}

/// Until there is another order than to go on.
async fn ordered(order: &mut watch::Receiver<Order>) -> Order {
    order.wait_for(|order| *order != Order::Go).await.map_or(Order::Stop, |order| *order)
}

async fn pump(socket: &mut Socket, track: &TrackState) -> End {
    let start = Instant::now();
    let mut next = start;
    let mut pings = interval_at(start + PING_INTERVAL, PING_INTERVAL);
    let mut upsampler = Upsampler::default();
    let mut life = track.life.subscribe();
    let mut muted = life.borrow_and_update().muted;
    loop {
        let message = tokio::select! {
            biased;
            changed = life.changed() => {
                let now = *life.borrow_and_update();
                if changed.is_err() || !now.published {
                    return End::Complete;
                }
                if now.muted == muted {
                    continue;
                }
                muted = now.muted;
                Message::text(format!(r#"{{"muted":{muted}}}"#))
            }
            heard = socket.next() => match heard {
                Some(Ok(Message::Close(Some(close)))) if close.code != CloseCode::Normal => {
                    return End::Failed("the websocket was closed with a fault");
                }
                Some(Ok(Message::Close(_))) => return End::Complete,
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return End::Failed("the websocket is gone"),
            },
            _ = pings.tick() => Message::Ping("ping".into()),
            // A frame is sent when it is over: whatever is said in it is known then.
            () = sleep_until(next + FRAME) => {
                let begins = next;
                next += FRAME;
                if muted {
                    continue;
                }
                let frame = track.sound.lock().expect("a sound").frame(begins);
                Message::binary(upsampler.bytes(&frame))
            }
        };
        if socket.send(message).await.is_err() {
            return End::Failed("a write to the websocket failed");
        }
    }
}

/// Pushes the mixed sound of a room as AAC in FLV over RTMP until it ends. Dials again when the sink is dropped.
pub(super) async fn push_room(world: Arc<World>, egress: Arc<EgressState>, room: String) {
    let mut order = egress.order.subscribe();
    let mut end = End::Failed("the sink does not come back");
    for _ in 0..=RETRIES_MAX {
        let pushing = async {
            let mut ffmpeg = encoder(&egress.url);
            world.egress_is(&egress, EgressStatus::EgressActive, "");
            feed(&mut ffmpeg, &world, &room, &mut order).await
        };
        if let Some(ordered) = pushing.await {
            end = match ordered {
                Order::Die => End::Failed("the egress was killed"),
                Order::Go | Order::Stop => End::Complete,
            };
            break;
        }
        {
            let mut info = egress.info.lock().expect("an egress");
            for stream in &mut info.stream_results {
                stream.retries += 1;
                stream.last_retry_at = nanoseconds();
            }
        }
        sleep(RETRY_PAUSE).await;
    }
    let (status, error) = end.status();
    for stream in &mut egress.info.lock().expect("an egress").stream_results {
        let finished = matches!(end, End::Complete);
        stream.status =
            i32::from(if finished { stream_info::Status::Finished } else { stream_info::Status::Failed });
    }
    world.egress_is(&egress, status, error);
}

fn encoder(url: &str) -> Child {
    let input =
        ["-v", "quiet", "-probesize", "32", "-f", "s16le", "-ar", "48000", "-ac", "2", "-i", "pipe:0"];
    let output =
        ["-c:a", "aac", "-b:a", "128k", "-ar", "44100", "-ac", "2", "-flush_packets", "1", "-f", "flv"];
    Command::new("ffmpeg")
        .args(input)
        .args(output)
        .arg(url)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("ffmpeg to be installed")
}

/// Feeds the encoder by the wall clock until there is an order; `None` when the encoder is gone first.
async fn feed(
    ffmpeg: &mut Child,
    world: &World,
    room: &str,
    order: &mut watch::Receiver<Order>,
) -> Option<Order> {
    let mut input = ffmpeg.stdin.take()?;
    let mut next = Instant::now();
    let feeding = async {
        let mut upsampler = Upsampler::default();
        loop {
            sleep_until(next + FRAME).await;
            let bytes = upsampler.bytes(&mixed(world, room, next));
            next += FRAME;
            if input.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    let ordered = tokio::select! {
        biased;
        order = ordered(order) => Some(order),
        _ = ffmpeg.wait() => None,
        () = feeding => None,
    };
    if ordered == Some(Order::Stop) {
        // Its end is told by the end of its input: what it still holds goes out.
        drop(input);
        let _best_effort = timeout(END_LIMIT, ffmpeg.wait()).await;
    }
    let _gone = ffmpeg.kill().await;
    ordered
}

fn mixed(world: &World, room: &str, begins: Instant) -> Frame {
    let state = world.state();
    let tracks = state.rooms.get(room).into_iter().flat_map(|room| room.tracks());
    let mut mix = [0_i16; FRAME_SAMPLES];
    for track in tracks.filter(|track| !track.life.borrow().muted) {
        let frame = track.sound.lock().expect("a sound").frame(begins);
        for (sample, heard) in mix.iter_mut().zip(frame) {
            *sample = sample.saturating_add(heard);
        }
    }
    mix
}
