//! The handshake, simple and signed (RTMP 1.0 section 5.2).

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The version that C0 and S0 name: plain RTMP (RTMP 1.0 section 5.2.2). 6 and up were encrypted variants.
pub const VERSION: u8 = 3;

/// Length of C1, S1, C2 and S2 (RTMP 1.0 section 5.2.3).
pub const PACKET_BYTES: usize = 1536;

const DIGEST_BYTES: usize = 32;
/// Time and zero, or time and version, at the beginning of C1 and S1.
const HEAD_BYTES: usize = 8;

/// Keys of the handshake that Flash Player 9 brought; public since librtmp. The first part signs C1 and S1, the
/// whole signs S2.
const PLAYER_KEY: &[u8; 30] = b"Genuine Adobe Flash Player 001";
const SERVER_KEY: &[u8; 36] = b"Genuine Adobe Flash Media Server 001";
const KEY_END: [u8; 32] = [
    0xF0, 0xEE, 0xC2, 0x4A, 0x80, 0x68, 0xBE, 0xE8, 0x2E, 0x00, 0xD0, 0xD1, 0x02, 0x9E, 0x7E, 0x57, 0x6E,
    0xEC, 0x5D, 0x2D, 0x29, 0x80, 0x6F, 0xAB, 0x93, 0xB8, 0xE6, 0x36, 0xCF, 0xEB, 0x31, 0xAE,
];

/// What S1 says we are when the client signs its C1: clients ask for 3 or more before they look for a digest.
const SERVER_VERSION: [u8; 4] = [4, 5, 0, 1];

/// Why a connection is no RTMP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The first byte is not [`VERSION`]: HTTP, TLS, encrypted RTMP, or noise.
    #[error("the first byte is not the version of RTMP")]
    Version,
}

impl HandshakeError {
    /// Metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Version => "handshake_version",
        }
    }
}

/// One packet of 1536 bytes that comes in pieces. It grows with what arrives.
#[derive(Debug, Default)]
struct Packet(Vec<u8>);

impl Packet {
    /// Takes what belongs to it; whole when true.
    fn fill(&mut self, input: &mut &[u8]) -> bool {
        let missing = PACKET_BYTES.saturating_sub(self.0.len());
        let (taken, rest) = input.split_at(missing.min(input.len()));
        self.0.extend_from_slice(taken);
        *input = rest;
        self.0.len() == PACKET_BYTES
    }
}

/// Skips up to `left` bytes; true when none are left.
fn skip(left: &mut usize, input: &mut &[u8]) -> bool {
    let (skipped, rest) = input.split_at((*left).min(input.len()));
    *left -= skipped.len();
    *input = rest;
    *left == 0
}

fn version(input: &mut &[u8]) -> Result<bool, HandshakeError> {
    match input.split_first() {
        None => Ok(false),
        Some((&VERSION, rest)) => {
            *input = rest;
            Ok(true)
        }
        Some(_) => Err(HandshakeError::Version),
    }
}

/// The server's side: C0, C1, C2 in; S0, S1, S2 out (RTMP 1.0 section 5.2), signed when the client signs.
///
/// C2 is counted and not compared: many encoders send something else than the echo that the specification asks for.
#[derive(Debug)]
pub struct ServerHandshake {
    seed: u64,
    state: ServerState,
}

#[derive(Debug)]
enum ServerState {
    Version,
    C1(Packet),
    C2 { left: usize },
}

impl ServerHandshake {
    /// `seed` varies the random bytes of S1 and S2; nothing secret depends on them.
    pub const fn new(seed: u64) -> Self {
        Self { seed, state: ServerState::Version }
    }

    /// Takes what belongs to the handshake from `input` and appends answers to `output`; true when it is done and the
    /// rest of `input` is chunks.
    pub fn receive(&mut self, input: &mut &[u8], output: &mut Vec<u8>) -> Result<bool, HandshakeError> {
        loop {
            match &mut self.state {
                ServerState::Version => {
                    if !version(input)? {
                        return Ok(false);
                    }
                    self.state = ServerState::C1(Packet::default());
                }
                ServerState::C1(c1) => {
                    if !c1.fill(input) {
                        return Ok(false);
                    }
                    answer(&c1.0, self.seed, output);
                    self.state = ServerState::C2 { left: PACKET_BYTES };
                }
                ServerState::C2 { left } => return Ok(skip(left, input)),
            }
        }
    }
}

/// S0, S1 and S2 for a C1.
fn answer(c1: &[u8], seed: u64, output: &mut Vec<u8>) {
    let mut random = Random(seed);
    output.push(VERSION);
    let signed = Scheme::ALL.into_iter().find_map(|scheme| {
        let digest = scheme.digest(c1)?;
        (hmac_without(PLAYER_KEY, c1, scheme.offset(c1)?).as_slice() == digest).then_some((scheme, digest))
    });
    let Some((scheme, digest)) = signed else {
        let mut s1 = vec![0; HEAD_BYTES];
        random.fill(&mut s1, PACKET_BYTES);
        output.extend_from_slice(&s1);
        // S2 is the echo of C1; clients compare it as a whole.
        output.extend_from_slice(c1);
        return;
    };
    let mut s1 = vec![0; 4];
    s1.extend_from_slice(&SERVER_VERSION);
    random.fill(&mut s1, PACKET_BYTES);
    scheme.sign(&mut s1, SERVER_KEY);
    output.extend_from_slice(&s1);

    let key = hmac(&[SERVER_KEY.as_slice(), &KEY_END].concat(), &[digest]);
    let mut s2 = Vec::with_capacity(PACKET_BYTES);
    random.fill(&mut s2, PACKET_BYTES - DIGEST_BYTES);
    let signature = hmac(&key, &[&s2]);
    output.extend_from_slice(&s2);
    output.extend_from_slice(&signature);
}

/// Where in C1 and S1 the digest lies: four bytes say it, and these lie at two places by scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    DigestFirst,
    KeyFirst,
}

impl Scheme {
    const ALL: [Self; 2] = [Self::DigestFirst, Self::KeyFirst];

    /// Where the digest begins.
    fn offset(self, packet: &[u8]) -> Option<usize> {
        let base = match self {
            Self::DigestFirst => HEAD_BYTES,
            Self::KeyFirst => HEAD_BYTES + (PACKET_BYTES - HEAD_BYTES) / 2,
        };
        let sum: usize = packet.get(base..base + 4)?.iter().map(|byte| usize::from(*byte)).sum();
        // Half of the packet without its head is 764: four bytes of offset, 32 of digest, and 728 to choose from.
        Some(base + 4 + sum % 728)
    }

    fn digest(self, packet: &[u8]) -> Option<&[u8]> {
        packet.get(self.offset(packet)?..)?.get(..DIGEST_BYTES)
    }

    fn sign(self, packet: &mut [u8], key: &[u8]) {
        let Some(offset) = self.offset(packet) else { return };
        let digest = hmac_without(key, packet, offset);
        if let Some(place) = packet.get_mut(offset..offset + DIGEST_BYTES) {
            place.copy_from_slice(&digest);
        }
    }
}

/// The digest of a packet is over all of it but the digest.
fn hmac_without(key: &[u8], packet: &[u8], offset: usize) -> [u8; DIGEST_BYTES] {
    let before = packet.get(..offset).unwrap_or_default();
    let after = packet.get(offset + DIGEST_BYTES..).unwrap_or_default();
    hmac(key, &[before, after])
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; DIGEST_BYTES] {
    // HMAC takes keys of any length; the error of the trait is for other algorithms.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; DIGEST_BYTES] };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Bytes that differ from connection to connection (SplitMix64); the handshake asks for no more.
struct Random(u64);

impl Random {
    fn fill(&mut self, bytes: &mut Vec<u8>, length: usize) {
        while bytes.len() < length {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut mixed = self.0;
            mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
            mixed ^= mixed >> 31;
            let missing = length - bytes.len();
            bytes.extend(mixed.to_le_bytes().into_iter().take(missing));
        }
    }
}

/// The client's side, unsigned: C0 and C1 at once, C2 as the echo of S1 (RTMP 1.0 section 5.2). S2 is counted and not
/// compared.
#[derive(Debug)]
pub struct ClientHandshake {
    state: ClientState,
}

#[derive(Debug)]
enum ClientState {
    Version,
    S1(Packet),
    S2 { left: usize },
}

impl ClientHandshake {
    /// Appends C0 and C1 to `output`; `seed` varies their random bytes.
    pub fn new(seed: u64, output: &mut Vec<u8>) -> Self {
        output.push(VERSION);
        let mut c1 = vec![0; HEAD_BYTES];
        Random(seed).fill(&mut c1, PACKET_BYTES);
        output.extend_from_slice(&c1);
        Self { state: ClientState::Version }
    }

    /// Takes what belongs to the handshake from `input` and appends C2 to `output`; true when it is done and the rest of
    /// `input` is chunks.
    pub fn receive(&mut self, input: &mut &[u8], output: &mut Vec<u8>) -> Result<bool, HandshakeError> {
        loop {
            match &mut self.state {
                ClientState::Version => {
                    if !version(input)? {
                        return Ok(false);
                    }
                    self.state = ClientState::S1(Packet::default());
                }
                ClientState::S1(s1) => {
                    if !s1.fill(input) {
                        return Ok(false);
                    }
                    output.extend_from_slice(&s1.0);
                    self.state = ClientState::S2 { left: PACKET_BYTES };
                }
                ClientState::S2 { left } => return Ok(skip(left, input)),
            }
        }
    }
}
