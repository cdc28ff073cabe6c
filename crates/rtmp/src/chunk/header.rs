/// A timestamp field with this value says that the timestamp stands in four bytes of its own.
pub(super) const EXTENDED: u32 = 0xFF_FFFF;

/// Longest header: three bytes of chunk stream, eleven of message, four of extended timestamp.
pub(super) const HEADER_BYTES_MAX: usize = 18;

/// A chunk's header (RTMP 1.0 sections 5.3.1.1 to 5.3.1.3).
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) chunk_stream: u32,
    pub(super) fields: Fields,
    /// The four bytes of an extended timestamp.
    pub(super) extended: Option<[u8; 4]>,
}

/// What the four types of header say.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fields {
    Full { timestamp: u32, length: u32, kind: u8, stream_id: u32 },
    SameStream { delta: u32, length: u32, kind: u8 },
    Time { delta: u32 },
    Continue,
}

impl Header {
    /// The header that `bytes` begin with; None while it is not whole.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (first, rest) = bytes.split_first()?;
        let (chunk_stream, rest) = match (first & 63, rest) {
            (0, [low, rest @ ..]) => (64 + u32::from(*low), rest),
            (1, [low, high, rest @ ..]) => (64 + u32::from(*low) + 256 * u32::from(*high), rest),
            (0 | 1, _) => return None,
            (id, rest) => (u32::from(id), rest),
        };
        let three = |a: u8, b: u8, c: u8| u32::from_be_bytes([0, a, b, c]);
        let (fields, rest) = match (first >> 6, rest) {
            (0, [a, b, c, d, e, f, kind, w, x, y, z, rest @ ..]) => (
                Fields::Full {
                    timestamp: three(*a, *b, *c),
                    length: three(*d, *e, *f),
                    kind: *kind,
                    stream_id: u32::from_le_bytes([*w, *x, *y, *z]),
                },
                rest,
            ),
            (1, [a, b, c, d, e, f, kind, rest @ ..]) => (
                Fields::SameStream { delta: three(*a, *b, *c), length: three(*d, *e, *f), kind: *kind },
                rest,
            ),
            (2, [a, b, c, rest @ ..]) => (Fields::Time { delta: three(*a, *b, *c) }, rest),
            (3, rest) => (Fields::Continue, rest),
            _ => return None,
        };
        let mut header = Self { chunk_stream, fields, extended: None };
        match &mut header.fields {
            Fields::Full { timestamp: time, .. }
            | Fields::SameStream { delta: time, .. }
            | Fields::Time { delta: time }
                if *time == EXTENDED =>
            {
                let field = rest.first_chunk()?;
                *time = u32::from_be_bytes(*field);
                header.extended = Some(*field);
            }
            _ => {}
        }
        Some(header)
    }
}
