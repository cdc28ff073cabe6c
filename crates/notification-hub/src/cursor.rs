//! Where the next page of a list begins: a sequence, and a digest of whose list it is. The digest keeps no secret; it
//! tells a cursor that went astray from one that was given here.

use model::{Refusal, Sequence, UserId};
use sha2::{Digest, Sha256};
use storage::InboxFilter;

/// The cursor of the page after the row with this sequence.
pub(crate) fn after(sequence: Sequence, user: &UserId, filter: &InboxFilter) -> String {
    format!("{:x}-{:016x}", sequence.0, digest(user, filter))
}

/// The sequence that a cursor of this list names.
pub(crate) fn read(cursor: &str, user: &UserId, filter: &InboxFilter) -> Result<Sequence, Refusal> {
    let parts = cursor.split_once('-').and_then(|(sequence, of)| {
        Some((u64::from_str_radix(sequence, 16).ok()?, u64::from_str_radix(of, 16).ok()?))
    });
    match parts {
        Some((sequence, of)) if of == digest(user, filter) => Ok(Sequence(sequence)),
        _ => Err(Refusal::CursorInvalid),
    }
}

fn digest(user: &UserId, filter: &InboxFilter) -> u64 {
    let mut hash = Sha256::new();
    hash.update(user.as_str());
    hash.update([0, u8::from(filter.unread_only), u8::from(filter.archived)]);
    for kind in &filter.types {
        hash.update(kind.as_str());
        hash.update([0]);
    }
    let mut first = [0; 8];
    first.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_good_for_its_own_list_alone() {
        let (alice, bob): (UserId, UserId) = ("alice".parse().unwrap(), "bob".parse().unwrap());
        let all = InboxFilter::default();
        let unread = InboxFilter { unread_only: true, ..InboxFilter::default() };
        let cursor = after(Sequence(77), &alice, &all);
        assert_eq!(read(&cursor, &alice, &all), Ok(Sequence(77)));
        for (user, filter) in [(&bob, &all), (&alice, &unread)] {
            assert_eq!(read(&cursor, user, filter), Err(Refusal::CursorInvalid));
        }
        for bad in ["", "4d", "-", "4d-", "x-0", &format!("{cursor}0"), "ffffffffffffffffff-0"] {
            assert_eq!(read(bad, &alice, &all), Err(Refusal::CursorInvalid), "{bad}");
        }
    }
}
