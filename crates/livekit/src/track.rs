use livekit_protocol::{ParticipantInfo, TrackType, participant_info::Kind};
use model::Identity;

/// Sound that somebody in a room publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudioTrack {
    /// LiveKit's id of the track, `TR_…`.
    pub id: String,
    /// Who publishes it.
    pub identity: Identity,
    /// The name to show, if there is one.
    pub name: Option<String>,
    /// Whether nothing is heard of it now.
    pub muted: bool,
}

/// What people say in a room: not agents, not recorders, not those whom nobody sees. An identity that cannot be one of
/// ours is left out and logged.
pub(crate) fn audio_tracks(participants: Vec<ParticipantInfo>) -> Vec<AudioTrack> {
    participants.into_iter().filter(speaks).flat_map(of_participant).collect()
}

fn speaks(participant: &ParticipantInfo) -> bool {
    #[expect(deprecated, reason = "older servers mark recorders and agents only so")]
    let unseen = participant
        .permission
        .as_ref()
        .is_some_and(|permission| permission.hidden || permission.recorder || permission.agent);
    !unseen && !matches!(participant.kind(), Kind::Egress | Kind::Agent)
}

fn of_participant(participant: ParticipantInfo) -> Vec<AudioTrack> {
    let Ok(identity) = participant.identity.parse::<Identity>() else {
        tracing::warn!(
            participant = participant.sid,
            "a participant of LiveKit has an identity that cannot be used"
        );
        return Vec::new();
    };
    let name = Some(participant.name).filter(|name| !name.is_empty());
    let sounds = participant.tracks.into_iter().filter(|track| track.r#type() == TrackType::Audio);
    sounds
        .map(|track| AudioTrack {
            id: track.sid,
            identity: identity.clone(),
            name: name.clone(),
            muted: track.muted,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use livekit_protocol::{ParticipantPermission, TrackInfo};

    use super::*;

    fn participant(identity: &str, kind: Kind, tracks: &[(&str, TrackType)]) -> ParticipantInfo {
        let track = |(sid, of): &(&str, TrackType)| TrackInfo {
            sid: (*sid).to_owned(),
            r#type: i32::from(*of),
            ..TrackInfo::default()
        };
        ParticipantInfo {
            identity: identity.to_owned(),
            kind: i32::from(kind),
            tracks: tracks.iter().map(track).collect(),
            ..ParticipantInfo::default()
        }
    }

    #[test]
    fn only_what_people_say_is_heard() {
        let hidden = ParticipantPermission { hidden: true, ..ParticipantPermission::default() };
        let audio = TrackType::Audio;
        let mut alice = participant("alice", Kind::Standard, &[("TR_a", audio), ("TR_v", TrackType::Video)]);
        alice.name = "Alice".to_owned();
        let participants = vec![
            alice,
            participant("stream", Kind::Ingress, &[("TR_i", audio)]),
            participant("phone", Kind::Sip, &[("TR_s", audio), ("TR_t", audio)]),
            participant("robot", Kind::Agent, &[("TR_r", audio)]),
            participant("EG_1", Kind::Egress, &[("TR_e", audio)]),
            participant("", Kind::Standard, &[("TR_n", audio)]),
            ParticipantInfo {
                permission: Some(hidden),
                ..participant("ghost", Kind::Standard, &[("TR_g", audio)])
            },
            participant("listener", Kind::Standard, &[]),
        ];
        let heard = audio_tracks(participants);
        let ids: Vec<_> = heard.iter().map(|track| track.id.as_str()).collect();
        assert_eq!(ids, ["TR_a", "TR_i", "TR_s", "TR_t"]);
        assert_eq!(heard[0].name.as_deref(), Some("Alice"));
        assert_eq!(heard[1].name, None);
    }
}
