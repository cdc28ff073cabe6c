//! System A: sessions, who was in them, and what was said.

use model::{OutsideId, SessionSlug, Speaker};
use storage::{
    OLD_PARTICIPANTS, OLD_SEGMENTS, OLD_SESSIONS, OldRow, PastKind, PastParticipant, PastSegment,
    PastSession, Storage,
};

use super::{
    Import,
    row::{LeftOut, Taken, flag, id, moment, needed, optional, parsed},
};
use crate::failure::Failure;

/// Longest text of a segment, in bytes: what the routes take from back ends.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// Longest tag of a language, in bytes (RFC 5646, section 4.4.1).
const LANGUAGE_BYTES_MAX: usize = 35;

pub(super) async fn import(import: &mut Import) -> Result<(), Failure> {
    import
        .take(&OLD_SESSIONS, PastKind::Session, session, async |storage: &Storage, origin, (), rows| {
            storage.import_sessions(origin, rows).await
        })
        .await?;
    import
        .take(
            &OLD_PARTICIPANTS,
            PastKind::Participant,
            participant,
            async |storage: &Storage, origin, (), rows| storage.import_participants(origin, rows).await,
        )
        .await?;
    import
        .take(
            &OLD_SEGMENTS,
            PastKind::Segment,
            segment,
            async |storage: &Storage, origin, session: &SessionSlug, rows| {
                storage.import_segments(origin, session, rows).await
            },
        )
        .await
}

/// Whatever its state is there, here nobody speaks in it: its next use opens it again.
fn session(row: &OldRow) -> Result<Taken<(), PastSession>, LeftOut> {
    let (created_at, started_at) = (moment(row, "createdAt")?, moment(row, "startedAt")?);
    let (ended_at, active_at) = (moment(row, "endedAt")?, moment(row, "lastActivityAt")?);
    let times = [created_at, started_at, active_at, ended_at];
    let first = times.iter().flatten().min().copied();
    let Some(created_at) = created_at.or(first) else {
        return Err(LeftOut::Unfit("it has no date".to_owned()));
    };
    let ended_at = ended_at.or(active_at).or(started_at).unwrap_or(created_at);
    let id = id(row)?;
    let past = PastSession { id: id.clone(), slug: parsed(row, "slug")?, created_at, started_at, ended_at };
    Ok(Taken { id, place: (), row: past })
}

fn participant(row: &OldRow) -> Result<Taken<(), PastParticipant>, LeftOut> {
    let identity = needed(row, "identity")?;
    // It wrote the identity over the name at the first final.
    let name = optional(row, "name")?.filter(|name| *name != identity);
    let Some(joined_at) = moment(row, "joinedAt")?.or(moment(row, "leftAt")?) else {
        return Err(LeftOut::Unfit("it has no joinedAt".to_owned()));
    };
    let past = PastParticipant {
        id: id(row)?,
        session: parsed(row, "session")?,
        identity: parsed(row, "identity")?,
        name: name.filter(|name| model::room::is_name(name)).map(str::to_owned),
        user: optional(row, "userId")?.and_then(|user| user.parse().ok()),
        joined_at,
        left_at: moment(row, "leftAt")?.unwrap_or(joined_at),
    };
    Ok(Taken { id: past.id.clone(), place: (), row: past })
}

fn segment(row: &OldRow) -> Result<Taken<SessionSlug, PastSegment>, LeftOut> {
    if !flag(row, "isFinal", true)? {
        return Err(LeftOut::OnPurpose("partial, which are not kept"));
    }
    let id = id(row)?;
    let text = needed(row, "text")?.trim();
    if text.is_empty() {
        return Err(LeftOut::Unfit("its text is empty".to_owned()));
    }
    if text.len() > TEXT_BYTES_MAX {
        return Err(LeftOut::Unfit(format!("its text has more than {TEXT_BYTES_MAX} bytes")));
    }
    let stored_at = moment(row, "createdAt")?;
    let Some(began_at) = moment(row, "startedAt")?.or(stored_at) else {
        return Err(LeftOut::Unfit("it has no startedAt".to_owned()));
    };
    let utterance: OutsideId = match optional(row, "utteranceId")? {
        Some(_) => parsed(row, "utteranceId")?,
        None => parsed(row, "id")?,
    };
    let identity = optional(row, "identity")?.unwrap_or(Speaker::ROOM);
    let name = optional(row, "name")?.filter(|name| *name != identity && model::room::is_name(name));
    let identity = identity.parse().map_err(|why| LeftOut::unfit("identity")(&why))?;
    let language = optional(row, "language")?.map(str::trim);
    let place = parsed(row, "session")?;
    let past = PastSegment {
        id: id.clone(),
        utterance,
        speaker: Speaker { identity, name: name.map(str::to_owned) },
        text: text.to_owned(),
        language: language
            .filter(|tag| !tag.is_empty() && tag.len() <= LANGUAGE_BYTES_MAX)
            .map(str::to_owned),
        said: (began_at, moment(row, "endedAt")?.unwrap_or(began_at).max(began_at)),
        stored_at: stored_at.unwrap_or(began_at),
    };
    Ok(Taken { id, place, row: past })
}
