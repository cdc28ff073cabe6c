use livekit_api::access_token::VideoGrants;
use livekit_protocol::{
    EgressInfo, ListEgressRequest, ListEgressResponse, ListParticipantsRequest, ListParticipantsResponse,
    RoomCompositeEgressRequest, StopEgressRequest, StreamOutput, StreamProtocol, TrackEgressRequest,
    track_egress_request,
};

use crate::{AudioTrack, Egress, LiveKitError, LiveKitSettings, track::audio_tracks, twirp::Twirp};

/// Pages of a list that are read at most.
const PAGES_MAX: usize = 64;

/// A LiveKit server. Cheap to clone. Each call takes 10 s at most.
#[derive(Clone)]
pub struct LiveKit {
    twirp: Twirp,
}

impl LiveKit {
    /// Connects at the first call, so LiveKit need not be up.
    ///
    /// # Errors
    /// [`LiveKitError::Client`].
    pub fn new(settings: &LiveKitSettings) -> Result<Self, LiveKitError> {
        Ok(Self { twirp: Twirp::new(settings)? })
    }

    /// What can be heard in a room; nothing when there is no such room.
    ///
    /// # Errors
    /// What LiveKit did not do.
    pub async fn audio_tracks(&self, room: &str) -> Result<Vec<AudioTrack>, LiveKitError> {
        let rights = VideoGrants { room_admin: true, room: room.to_owned(), ..VideoGrants::default() };
        let question = ListParticipantsRequest { room: room.to_owned() };
        match self.twirp.call("RoomService/ListParticipants", rights, &question).await {
            Ok(ListParticipantsResponse { participants }) => Ok(audio_tracks(participants)),
            Err(LiveKitError::NotFound(_)) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The egresses of a room, or of all, that have not ended.
    ///
    /// # Errors
    /// What LiveKit did not do.
    pub async fn egresses(&self, room: Option<&str>) -> Result<Vec<Egress>, LiveKitError> {
        let mut question = ListEgressRequest {
            room_name: room.unwrap_or_default().to_owned(),
            active: true,
            ..ListEgressRequest::default()
        };
        let mut found = Vec::new();
        for _ in 0..PAGES_MAX {
            let page: ListEgressResponse = self.twirp.call("Egress/ListEgress", record(), &question).await?;
            found.extend(page.items.into_iter().map(Egress::from));
            question.page_token = page.next_page_token.filter(|next| !next.token.is_empty());
            if question.page_token.is_none() {
                return Ok(found);
            }
        }
        Err(LiveKitError::Unavailable(format!("a list above {PAGES_MAX} pages")))
    }

    /// Has one track sent to a WebSocket of ours.
    ///
    /// # Errors
    /// What LiveKit did not do. After [`LiveKitError::Unavailable`] the egress may run nevertheless: see
    /// [`LiveKit::egresses`].
    pub async fn start_track_egress(
        &self,
        room: &str,
        track_id: &str,
        websocket_url: &str,
    ) -> Result<Egress, LiveKitError> {
        let question = TrackEgressRequest {
            room_name: room.to_owned(),
            track_id: track_id.to_owned(),
            output: Some(track_egress_request::Output::WebsocketUrl(websocket_url.to_owned())),
            ..TrackEgressRequest::default()
        };
        let started: EgressInfo = self.twirp.call("Egress/StartTrackEgress", record(), &question).await?;
        Ok(started.into())
    }

    /// Has the sound of a whole room sent over RTMP.
    ///
    /// # Errors
    /// As [`LiveKit::start_track_egress`].
    pub async fn start_composite_egress(&self, room: &str, rtmp_url: &str) -> Result<Egress, LiveKitError> {
        let stream =
            StreamOutput { protocol: i32::from(StreamProtocol::Rtmp), urls: vec![rtmp_url.to_owned()] };
        let question = RoomCompositeEgressRequest {
            room_name: room.to_owned(),
            audio_only: true,
            stream_outputs: vec![stream],
            ..RoomCompositeEgressRequest::default()
        };
        let started: EgressInfo =
            self.twirp.call("Egress/StartRoomCompositeEgress", record(), &question).await?;
        Ok(started.into())
    }

    /// Stops an egress. One that has ended, or that LiveKit does not know, is stopped.
    ///
    /// # Errors
    /// What LiveKit did not do.
    pub async fn stop_egress(&self, id: &str) -> Result<(), LiveKitError> {
        let question = StopEgressRequest { egress_id: id.to_owned() };
        match self.twirp.call::<EgressInfo>("Egress/StopEgress", record(), &question).await {
            // It is refused only for what cannot be stopped any more.
            Ok(_) | Err(LiveKitError::NotFound(_) | LiveKitError::Refused(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The right to do anything with egresses.
fn record() -> VideoGrants {
    VideoGrants { room_record: true, ..VideoGrants::default() }
}
