use livekit_protocol::{
    EgressInfo, EgressStatus as WireStatus, StartEgressRequest, StreamOutput, audio_route,
    egress_info::Request, output, room_composite_egress_request, start_egress_request::Source,
    track_egress_request,
};
use settings::Secret;

use crate::error::plain;

/// Sound on its way out of a room. `{:?}` shows no URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Egress {
    /// LiveKit's id, `EG_…`.
    pub id: String,
    /// The name of the room.
    pub room: String,
    /// What goes where.
    pub target: Target,
    /// How far it is.
    pub status: EgressStatus,
    /// Why it failed, in LiveKit's words, without URLs.
    pub error: Option<String>,
}

/// What an egress sends, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One track, to a WebSocket.
    Track {
        /// LiveKit's id of the track.
        track_id: String,
        /// The URL that it was started with.
        url: Secret,
    },
    /// The whole room, to streams.
    Composite {
        /// Where to. LiveKit hides stream keys: `rtmp://host/live/{abc...xyz}`.
        urls: Vec<Secret>,
    },
    /// Something that captions do not start.
    Other,
}

/// How far an egress is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EgressStatus {
    /// A worker takes it on.
    Starting,
    /// Sound flows.
    Active,
    /// It was stopped, or its source is gone.
    Ending,
    /// It ended as it should.
    Complete,
    /// It ended because it could not go on.
    Failed,
    /// It was stopped before it began.
    Aborted,
    /// It ended because it had run for as long as it may.
    LimitReached,
}

impl EgressStatus {
    /// Whether nothing more will come.
    pub fn ended(self) -> bool {
        !matches!(self, Self::Starting | Self::Active | Self::Ending)
    }
}

impl From<EgressInfo> for Egress {
    fn from(info: EgressInfo) -> Self {
        let status = match WireStatus::try_from(info.status) {
            Ok(WireStatus::EgressStarting) => EgressStatus::Starting,
            Ok(WireStatus::EgressEnding) => EgressStatus::Ending,
            Ok(WireStatus::EgressComplete) => EgressStatus::Complete,
            Ok(WireStatus::EgressFailed) => EgressStatus::Failed,
            Ok(WireStatus::EgressAborted) => EgressStatus::Aborted,
            Ok(WireStatus::EgressLimitReached) => EgressStatus::LimitReached,
            // What a newer server calls by another name may still be running.
            Ok(WireStatus::EgressActive) | Err(_) => EgressStatus::Active,
        };
        Self {
            id: info.egress_id,
            room: info.room_name,
            target: info.request.map_or(Target::Other, target),
            status,
            error: Some(plain(&info.error)).filter(|error| !error.is_empty()),
        }
    }
}

fn target(request: Request) -> Target {
    match request {
        Request::Track(track) => match track.output {
            Some(track_egress_request::Output::WebsocketUrl(url)) => {
                Target::Track { track_id: track.track_id, url: url.into() }
            }
            _ => Target::Other,
        },
        Request::RoomComposite(composite) => {
            #[expect(deprecated, reason = "what other programs start may still use it")]
            let old = match composite.output {
                Some(room_composite_egress_request::Output::Stream(stream)) => Some(stream),
                _ => None,
            };
            composite_to(composite.stream_outputs.into_iter().chain(old))
        }
        Request::Egress(unified) => of_unified(unified),
        _ => Target::Other,
    }
}

/// The request that newer servers tell of whatever was asked for.
fn of_unified(request: StartEgressRequest) -> Target {
    let streams = request.outputs.into_iter().filter_map(|output| match output.config {
        Some(output::Config::Stream(stream)) => Some(stream),
        _ => None,
    });
    match request.source {
        Some(Source::Template(_)) => composite_to(streams),
        Some(Source::Media(media)) => {
            let mut tracks = media.audio.into_iter().flat_map(|audio| audio.routes);
            let track = tracks.next().and_then(|route| match route.r#match {
                Some(audio_route::Match::TrackId(id)) => Some(id),
                _ => None,
            });
            match (track, streams.flat_map(|stream| stream.urls).next(), tracks.next()) {
                (Some(track_id), Some(url), None) => Target::Track { track_id, url: url.into() },
                _ => Target::Other,
            }
        }
        _ => Target::Other,
    }
}

fn composite_to(streams: impl Iterator<Item = StreamOutput>) -> Target {
    let urls: Vec<Secret> = streams.flat_map(|stream| stream.urls).map(Secret::from).collect();
    if urls.is_empty() { Target::Other } else { Target::Composite { urls } }
}

#[cfg(test)]
mod tests {
    use livekit_protocol::{
        AudioConfig, AudioRoute, MediaSource, Output, RoomCompositeEgressRequest, TrackEgressRequest,
    };

    use super::*;

    fn of(request: Request) -> Egress {
        EgressInfo { request: Some(request), ..EgressInfo::default() }.into()
    }

    #[test]
    fn targets_are_read_from_old_and_new_requests_and_hide_their_urls() {
        let url = "wss://edge/egress?sig=hush";
        let track = Target::Track { track_id: "TR_1".to_owned(), url: url.into() };
        let old = of(Request::Track(TrackEgressRequest {
            track_id: "TR_1".to_owned(),
            output: Some(track_egress_request::Output::WebsocketUrl(url.to_owned())),
            ..TrackEgressRequest::default()
        }));
        assert_eq!(old.target, track);
        let stream = StreamOutput { urls: vec![url.to_owned()], ..StreamOutput::default() };
        let route = AudioRoute {
            r#match: Some(audio_route::Match::TrackId("TR_1".to_owned())),
            ..AudioRoute::default()
        };
        let media = MediaSource {
            audio: Some(AudioConfig { routes: vec![route], ..AudioConfig::default() }),
            ..MediaSource::default()
        };
        let new = of(Request::Egress(StartEgressRequest {
            source: Some(Source::Media(media)),
            outputs: vec![Output {
                config: Some(output::Config::Stream(stream.clone())),
                ..Output::default()
            }],
            ..StartEgressRequest::default()
        }));
        assert_eq!(new.target, track);
        let composite = of(Request::RoomComposite(RoomCompositeEgressRequest {
            stream_outputs: vec![stream],
            ..RoomCompositeEgressRequest::default()
        }));
        assert_eq!(composite.target, Target::Composite { urls: vec![url.into()] });
        for egress in [old, new, composite] {
            assert!(!format!("{egress:?}").contains("hush"));
        }
        assert_eq!(of(Request::Track(TrackEgressRequest::default())).target, Target::Other);
    }

    #[test]
    fn what_ended_has_ended() {
        let status =
            |number: i32| Egress::from(EgressInfo { status: number, ..EgressInfo::default() }).status;
        let ended: Vec<_> = (0..=7).map(|number| status(number).ended()).collect();
        assert_eq!(ended, [false, false, false, true, true, true, true, false]);
    }
}
