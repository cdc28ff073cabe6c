use model::FaultKind;

use crate::{chunk::ChunkError, handshake::HandshakeError, message::MessageError};

/// Why a connection cannot go on. The texts quote nothing that the peer sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Not RTMP at all.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// No chunks, or more than we take.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// A message that does not hold what its type promises.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// Any other command before `connect`.
    #[error("a command before connect")]
    NotConnected,
    /// `connect` again, without an application, or with a text above [`crate::NAME_BYTES_MAX`].
    #[error("connect twice, without an application, or with a text that is too long")]
    Connect,
    /// `publish` without a name, or with one above [`crate::NAME_BYTES_MAX`].
    #[error("publish without a name, or with one that is too long")]
    StreamName,
    /// Sound, video or data before a publish was accepted.
    #[error("media before publish")]
    NotPublishing,
    /// Answers wait that the peer does not read, above [`crate::OUTPUT_BYTES_MAX`].
    #[error("the peer does not read its answers")]
    OutputFull,
}

impl SessionError {
    /// Every label, for metrics that start at zero.
    pub const LABELS: [&str; 20] = [
        "handshake_version",
        "chunk_header_missing",
        "chunk_header_inside_message",
        "chunk_streams",
        "chunk_control",
        "message_too_large",
        "pending_too_large",
        "message_control",
        "message_command",
        "message_aggregate",
        "amf_truncated",
        "amf_marker",
        "amf_amf3",
        "amf_depth",
        "amf_elements",
        "not_connected",
        "connect",
        "stream_name",
        "not_publishing",
        "output_full",
    ];

    /// Metric label, one of [`SessionError::LABELS`].
    pub const fn label(self) -> &'static str {
        match self {
            Self::Handshake(error) => error.label(),
            Self::Chunk(error) => error.label(),
            Self::Message(error) => error.label(),
            Self::NotConnected => "not_connected",
            Self::Connect => "connect",
            Self::StreamName => "stream_name",
            Self::NotPublishing => "not_publishing",
            Self::OutputFull => "output_full",
        }
    }

    /// Who must act.
    pub const fn fault(self) -> FaultKind {
        match self {
            Self::Chunk(ChunkError::MessageTooLarge { .. } | ChunkError::PendingTooLarge) => {
                FaultKind::TooLarge
            }
            Self::Handshake(_) | Self::Chunk(_) | Self::Message(_) => FaultKind::BadData,
            Self::NotConnected | Self::Connect | Self::StreamName | Self::NotPublishing => FaultKind::Caller,
            Self::OutputFull => FaultKind::Overloaded,
        }
    }
}
