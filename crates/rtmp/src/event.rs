use std::fmt;

use bytes::Bytes;

/// What a publisher said when it connected.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    /// Application: the first part of the path, `live` as a rule, without slashes around it and without its query.
    pub app: String,
    /// Query of the application, `token=…` of `live?token=…`; may be secret.
    pub query: String,
    /// Whole address as the publisher knows it; may hold secrets.
    pub tc_url: String,
    /// Name and version of the encoder, as it claims.
    pub flash_ver: String,
    /// It speaks Enhanced RTMP.
    pub enhanced: bool,
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The addresses can hold keys.
        f.debug_struct("Connect")
            .field("app", &self.app)
            .field("enhanced", &self.enhanced)
            .finish_non_exhaustive()
    }
}

/// What a publisher wants to publish.
#[derive(Clone, PartialEq, Eq)]
pub struct Publish {
    /// Application, as in [`Connect`].
    pub app: String,
    /// Stream key: the name without its query. Secret.
    pub key: String,
    /// Query behind the name, or else of the application, or else of the address; empty without one. Secret.
    pub query: String,
    /// `live`, `record` or `append`, or whatever else was said.
    pub kind: String,
}

impl fmt::Debug for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish").finish_non_exhaustive()
    }
}

/// What a publisher did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It is connected to an application; nothing is published yet.
    Connected(Connect),
    /// It asks to publish. Nothing more is read until [`crate::ServerSession::accept`] or [`crate::ServerSession::refuse`].
    PublishRequested(Publish),
    /// One audio tag, see [`crate::AudioPackets`].
    Audio {
        /// Milliseconds modulo 2^32, see [`crate::Timeline`].
        timestamp: u32,
        /// The tag.
        data: Bytes,
    },
    /// One video tag, when video is kept.
    Video {
        /// Milliseconds modulo 2^32.
        timestamp: u32,
        /// The tag.
        data: Bytes,
    },
    /// AMF0 values, the first of which is a name: `@setDataFrame`, `onMetaData`, …
    Data {
        /// Milliseconds modulo 2^32.
        timestamp: u32,
        /// The values, see [`crate::amf0::Reader`].
        data: Bytes,
    },
    /// It has ended its publication and may begin another on the same connection.
    Unpublished,
    /// It answered [`crate::ServerSession::ping`].
    Pong(u32),
}

/// Why a publish is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The key is in use: `NetStream.Publish.BadName`.
    KeyInUse,
    /// The key is not one that may publish: `NetStream.Publish.Denied`.
    Denied,
    /// No room, or a service behind us is away; trying again later may help: `NetStream.Publish.Failed`.
    Unavailable,
}

impl Refusal {
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::KeyInUse => "NetStream.Publish.BadName",
            Self::Denied => "NetStream.Publish.Denied",
            Self::Unavailable => "NetStream.Publish.Failed",
        }
    }
}
